//! Hop-by-hop fields (RFC 9110, section 7.6.1): read, heeded, and not passed on.

use crate::fields::Fields;
use crate::list;
use crate::name::Name;

/// The values of the hop-by-hop fields, before their removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// `Connection` named `upgrade`, and there was an `Upgrade`, which is left.
    pub upgrade: bool,
    /// There was an `Expect`.
    pub expects: bool,
    /// `TE: trailers`.
    pub trailers: bool,
    /// Names in `Connection` beside the usual, in lower case: they go from the trailers too.
    pub named: Vec<Vec<u8>>,
}

/// Names that `Connection` cannot remove: those for the target, the client's credentials and the framing.
const KEPT: [Name; 7] = [
    Name::Host,
    Name::Upgrade,
    Name::Te,
    Name::TransferEncoding,
    Name::ContentLength,
    Name::Authorization,
    Name::Cookie,
];

/// Removes the fields that are for one hop: those that `Connection` names, and the well-known ones.
/// `Transfer-Encoding` and `Content-Length` go too: the sender of the message frames it.
pub fn strip(fields: &mut Fields) -> Hop {
    let mut hop = Hop {
        expects: fields.has(Name::Expect),
        ..Hop::default()
    };
    if fields.has(Name::Connection) {
        let options = || list::members(fields.all(Name::Connection));
        hop.upgrade = fields.has(Name::Upgrade) && list::has(options(), "upgrade");
        let is_usual = |option: &&[u8]| {
            let usual: [&[u8]; 3] = [b"keep-alive", b"close", b"upgrade"];
            usual.iter().any(|usual| option.eq_ignore_ascii_case(usual))
        };
        hop.named = options()
            .filter(|option| !is_usual(option) && !KEPT.contains(&Name::of(option)))
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        for name in &hop.named {
            fields.remove_called(name);
        }
        fields.remove(Name::Connection);
    }
    if fields.has(Name::Te) {
        hop.trailers = list::has(fields.all(Name::Te), "trailers");
        fields.remove(Name::Te);
    }
    if !hop.upgrade {
        fields.remove(Name::Upgrade);
    }
    for name in [
        Name::TransferEncoding,
        Name::ContentLength,
        Name::KeepAlive,
        Name::ProxyConnection,
        Name::Http2Settings,
        Name::Expect,
    ] {
        fields.remove(name);
    }
    hop
}

/// The protocol among `allowed` that `Upgrade` names first.
pub fn upgrade_to<'a>(fields: &Fields, allowed: &'a [String]) -> Option<&'a str> {
    list::members(fields.all(Name::Upgrade)).find_map(|wanted| {
        let is = |protocol: &&String| wanted.eq_ignore_ascii_case(protocol.as_bytes());
        allowed.iter().find(is).map(String::as_str)
    })
}

/// Asks for another protocol, or grants it.
pub fn set_upgrade(fields: &mut Fields, protocol: &str) {
    fields.set(Name::Connection, b"upgrade");
    fields.set(Name::Upgrade, protocol.as_bytes());
}

/// Asks the next hop for trailers, which this one passes on.
pub fn ask_for_trailers(fields: &mut Fields) {
    fields.set(Name::Te, b"trailers");
    let options: &[u8] = match fields.has(Name::Connection) {
        true => b"upgrade, te",
        false => b"te",
    };
    fields.set(Name::Connection, options);
}

/// Trailers without forbidden fields: those for framing, routing, the client's credentials,
/// and hop-by-hop ones (RFC 9110, section 6.5.1), by what its head has `named` too.
pub fn cleaned_trailers(mut trailers: Fields, named: &[Vec<u8>]) -> Fields {
    strip(&mut trailers);
    let is_claim = |name: &[u8]| {
        const START: &[u8] = b"x-forwarded-";
        name.get(..START.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(START))
    };
    trailers.retain(|name, known| {
        let is_named = || named.iter().any(|named| named.eq_ignore_ascii_case(name));
        let is_of_head = matches!(
            known,
            Name::Host
                | Name::Authorization
                | Name::Cookie
                | Name::SetCookie
                | Name::Trailer
                | Name::ContentType
                | Name::ContentEncoding
                | Name::ContentRange
                | Name::Upgrade
                | Name::Forwarded
                | Name::XRealIp
        );
        !is_of_head && !is_claim(name) && !is_named()
    });
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append_called(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn names(fields: &Fields) -> Vec<String> {
        let name = |(name, _): (&[u8], _)| String::from_utf8_lossy(name).into_owned();
        fields.iter().map(name).collect()
    }

    #[test]
    fn h7_6_1_what_any_connection_line_names_goes() {
        let mut fields = section(&[
            ("connection", "x-a, close"),
            ("Connection", "X-B"),
            ("X-A", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
        ]);
        let hop = strip(&mut fields);
        assert_eq!(names(&fields), ["x-c"]);
        assert_eq!((hop.trailers, hop.upgrade), (true, false));
        assert_eq!(hop.named, [b"x-a", b"x-b"]);
    }

    #[test]
    fn h7_6_1_nobody_can_have_host_or_credentials_removed() {
        let mut fields = section(&[
            ("connection", "host, authorization, cookie, content-length"),
            ("host", "a"),
            ("authorization", "b"),
            ("cookie", "c"),
        ]);
        strip(&mut fields);
        assert_eq!(names(&fields), ["host", "authorization", "cookie"]);
    }

    #[test]
    fn h6_5_1_trailers_cannot_say_who_asks_or_how_long_the_message_is() {
        let trailers = section(&[
            ("content-length", "5"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("host", "a"),
            ("authorization", "b"),
            ("connection", "x-sum"),
            ("x-sum", "1"),
            ("x-secret", "1"),
            ("server-timing", "a"),
        ]);
        let trailers = cleaned_trailers(trailers, &[b"x-secret".to_vec()]);
        assert_eq!(names(&trailers), ["server-timing"]);
    }

    #[test]
    fn only_protocols_that_are_allowed_are_upgraded_to() {
        let allowed = ["websocket".to_owned()];
        let wanted = |value| upgrade_to(&section(&[("upgrade", value)]), &allowed);
        assert_eq!(wanted("WebSocket"), Some("websocket"));
        assert_eq!(wanted("h2c, websocket"), Some("websocket"));
        assert_eq!(wanted("h2c"), None);
    }
}
