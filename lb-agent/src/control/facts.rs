//! The parts of a request that `lookup` is asked about, beside its client's address.

use hyper::header::{HeaderName, HeaderValue};
use lb_config::value::BadValue;

/// The parts of a request that may decide about its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// Value of a Cookie header (RFC 6265, section 4.2), as in `a=1; b=2`.
    pub cookie: Option<String>,
    /// Name and value of a header.
    pub header: Option<(String, String)>,
    /// Query, without its question mark.
    pub query: Option<String>,
    /// Id of a Socket.IO session.
    pub sid: Option<String>,
}

impl RequestFacts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The headers of such a request.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let cookie = self.cookie.as_deref().map(|value| ("cookie", value));
        let header = self.header.as_ref();
        let header = header.map(|(name, value)| (name.as_str(), value.as_str()));
        cookie.into_iter().chain(header).collect()
    }

    /// The query of such a request: a session is named by that of a poll in protocol 4 of Engine.IO.
    pub fn full_query(&self) -> Option<String> {
        let Some(sid) = &self.sid else {
            return self.query.clone();
        };
        let mut query = form_urlencoded::Serializer::new(NEW_SESSION.to_owned());
        query.append_pair("sid", sid);
        let query = query.finish();
        Some(match &self.query {
            Some(own) => format!("{own}&{query}"),
            None => query,
        })
    }

    /// Names and values of the parameters that carry it.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let header = self.header.as_ref();
        let header = header.map(|(name, value)| format!("{name}: {value}"));
        let parts = [
            ("cookie", self.cookie.clone()),
            ("header", header),
            ("query", self.query.clone()),
            ("sid", self.sid.clone()),
        ];
        let given = |(name, value): (_, Option<String>)| Some((name, value?));
        parts.into_iter().filter_map(given).collect()
    }
}

/// The query of a request that begins a session of Engine.IO.
pub const NEW_SESSION: &str = "EIO=4&transport=polling";

/// Cookies, as in `lb=0f3a` or `a=1; b=2`.
pub fn cookie(text: &str) -> Result<String, BadValue> {
    if !text.contains('=') || HeaderValue::from_str(text).is_err() {
        return bad(format!("{text:?} is no cookie"), "write it like lb=0f3a");
    }
    Ok(text.to_owned())
}

/// A header, as in `X-User: ann`.
pub fn header(text: &str) -> Result<(String, String), BadValue> {
    let parts = text.split_once(':').and_then(|(name, value)| {
        let name = name.trim().parse::<HeaderName>().ok()?;
        let value = value.trim();
        HeaderValue::from_str(value).ok()?;
        Some((name.to_string(), value.to_owned()))
    });
    parts.map_or_else(
        || {
            bad(
                format!("{text:?} is no header"),
                "write it like \"X-User: ann\"",
            )
        },
        Ok,
    )
}

/// A query, as in `room=7` or `?room=7&page=2`.
pub fn query(text: &str) -> Result<String, BadValue> {
    let query = text.strip_prefix('?').unwrap_or(text);
    if !query.contains('=') || query.contains(|c: char| c.is_whitespace() || c == '#') {
        return bad(format!("{text:?} is no query"), "write it like room=7");
    }
    Ok(query.to_owned())
}

/// The id of a session.
pub fn sid(text: &str) -> Result<String, BadValue> {
    if text.is_empty() || text.contains(char::is_control) {
        let remedy = "take it from the query of one of its requests, behind sid=";
        return bad(format!("{text:?} is no id of a session"), remedy);
    }
    Ok(text.to_owned())
}

fn bad<T>(problem: String, remedy: &str) -> Result<T, BadValue> {
    Err(BadValue {
        problem,
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name_and_a_value() {
        let ann = ("x-user".to_owned(), "ann".to_owned());
        assert_eq!(header("X-User: ann").unwrap(), ann);
        assert_eq!(header("x-user:ann").unwrap(), ann);
        for text in ["", "X-User", ": ann", "X User: ann", "X-User: a\nb"] {
            assert!(header(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_cookie_a_query_and_a_session_have_their_characters() {
        assert_eq!(query("?room=7").unwrap(), "room=7");
        for text in ["", "room", "room=a b", "room=7#x"] {
            assert!(query(text).is_err(), "{text:?}");
        }
        assert_eq!(cookie("a=1; b=2").unwrap(), "a=1; b=2");
        assert!(cookie("lb").is_err() && cookie("a=\n").is_err());
        assert!(sid("").is_err() && sid("a\n").is_err() && sid("lv_VI97").is_ok());
    }

    #[test]
    fn a_session_is_named_by_a_poll() {
        let mut facts = RequestFacts {
            sid: Some("a b&c".to_owned()),
            ..RequestFacts::default()
        };
        let poll = "EIO=4&transport=polling&sid=a+b%26c";
        assert_eq!(facts.full_query().as_deref(), Some(poll));
        facts.query = Some("room=7".to_owned());
        let expected = format!("room=7&{poll}");
        assert_eq!(facts.full_query(), Some(expected));
    }
}
