//! `[service.http.cache]`: the response cache of a service.

use std::time::Duration;

use ::http::HeaderName;

use super::value::{self, bad};
use crate::error::Problems;
use crate::lists::Texts;
use crate::reader::Table;
use crate::schema::kinds::{Flag, List, Maybe, sub, text, time};
use crate::schema::section;
use crate::value::{BadValue, quoted};

const LOCK: Texts<Duration> = time("\"5s\"", value::some_time);
const HEADER: Texts<HeaderName> = text("name of a header", "\"X-Country\"", value::header_name);
const COOKIE: Texts<String> = text("name of a cookie", "\"currency\"", value::token);
const PARAMETER: Texts<String> = text("name of a parameter", "\"page\"", value::token);
const PATTERN: Texts<String> = text("name of a parameter", "\"utm_*\"", pattern);

section! {
    Reload, "0.1";
    /// The response cache. With this table responses are stored that say that they may be.
    #[derive(Eq)]
    pub struct Cache {
        /// Whether a response without a lifetime of its own gets a tenth of the time since it was last changed.
        pub heuristic: bool = false, Flag;
        /// How long requests for one response that is not stored wait for the first of them.
        pub lock: Duration = Duration::from_secs(5), LOCK;
        /// What stored responses are told apart by.
        pub key: CacheKey = CacheKey::default(), sub("{ query = [\"page\"] }");
    }
}

section! {
    Reload, "0.1"; check = check;
    /// What stored responses are told apart by, beside scheme, host and path.
    #[derive(Eq)]
    pub struct CacheKey {
        /// Parameters of the query that count, in any order; `[]` is none. Without it the whole query counts.
        pub query: Option<Vec<String>> = None, Maybe(List("[\"page\"]", PARAMETER));
        /// Parameters of the query that do not count. `utm_*` is all with this beginning. Not with `query`.
        pub ignore: Vec<String> = Vec::new(), List("[\"utm_*\"]", PATTERN);
        /// Request headers whose values count, as if every response had them in `Vary`.
        pub headers: Vec<HeaderName> = Vec::new(), List("[\"X-Country\"]", HEADER);
        /// Cookies whose values count.
        pub cookies: Vec<String> = Vec::new(), List("[\"currency\"]", COOKIE);
    }
}

/// A name, with a `*` at its end for any that begin so.
fn pattern(text: &str) -> Result<String, BadValue> {
    let begin = text.strip_suffix('*').unwrap_or(text);
    match value::token(begin) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => bad(
            format!("{} is not a name of parameters", quoted(text)),
            "use letters, digits, \"_\", \"-\" and \".\", and \"*\" at the end for any that begin so",
        ),
    }
}

/// One says what counts, the other what does not.
fn check(key: &CacheKey, table: &mut Table<'_, '_>, problems: &mut Problems) {
    if key.query.is_some()
        && let Some(ignore) = table.peek("ignore")
    {
        let message = "what is not in query does not count anyway (leave one of the two out)";
        problems.add(&ignore.place, message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{errors, of};
    use super::*;

    #[test]
    fn key_of_the_cache_has_parameters_headers_and_cookies() {
        let text = |key: &str| {
            format!(
                "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
                 [service.http.cache]\nkey = {{ {key} }}"
            )
        };
        let key = |written: &str| {
            let config = of(&text(written));
            let http = config.services[0].http.as_deref().unwrap();
            http.settings.cache.as_ref().unwrap().key.clone()
        };
        assert_eq!(key(""), CacheKey::default());
        assert_eq!(key("query = []").query, Some(vec![]));
        let all = key("ignore = ['utm_*', 'fbclid'], headers = ['X-Country'], cookies = ['lang']");
        assert_eq!(all.ignore, ["utm_*", "fbclid"]);
        assert_eq!((all.headers.len(), all.cookies.len()), (1, 1));
        for (written, problem) in [
            ("query = ['a'], ignore = ['b']", "does not count anyway"),
            ("query = ['a&b']", "is not a name"),
            ("ignore = ['*a']", "at the end"),
            ("headers = ['a b']", "a b"),
            ("host = false", "unknown key"),
        ] {
            let refused = errors(&text(written));
            assert!(refused[0].contains(problem), "{refused:?}");
        }
    }
}
