//! The secondary key of an answer: the request fields that it varies on (RFC 9111, section 4.1), and the cookies.

use lb_http1::{Fields, Name, list};

use super::key::COOKIE;

/// Bytes between two fields, and between two members of one.
const FIELD: u8 = b'\n';
const MEMBER: u8 = b',';

/// The names in the `Vary` of an answer, in lower case, and `others`, in a fixed order.
pub(crate) fn names(answer: &Fields, others: &[Box<[u8]>]) -> Vec<Box<[u8]>> {
    let members = list::members(answer.all(Name::Vary));
    let members = members.map(|name| name.to_ascii_lowercase().into());
    let mut names: Vec<Box<[u8]>> = members.chain(others.iter().cloned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Adds the values that a request has for these names to `key`. Spaces around the members of a list, and how a list
/// is spread over lines, make no difference.
pub(crate) fn add(key: &mut Vec<u8>, names: &[Box<[u8]>], request: &Fields) {
    for name in names {
        key.push(FIELD);
        if let Some((&COOKIE, name)) = name.split_first() {
            add_cookie(key, name, request);
            continue;
        }
        let is_of_any_case = matches!(&**name, b"accept-encoding" | b"accept-language");
        let begin = key.len();
        for member in list::members(request.called(name)) {
            key.extend_from_slice(member);
            key.push(MEMBER);
        }
        if is_of_any_case {
            key[begin..].make_ascii_lowercase();
        }
    }
}

/// Adds all values of a cookie, as backends may take any of them (RFC 6265, section 4.2.1). Pairs whose names some backends
/// read as this one count as a whole: in another case, with triplets or brackets.
fn add_cookie(key: &mut Vec<u8>, name: &[u8], request: &Fields) {
    const BETWEEN: u8 = b';';
    let lines = request.all(Name::Cookie);
    for pair in lines.flat_map(|line| line.split(|byte| *byte == BETWEEN)) {
        let pair = pair.trim_ascii();
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let own = pair[..end].trim_ascii();
        let is_plain = own
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte));
        if own == name && end < pair.len() {
            key.extend_from_slice(pair[end + 1..].trim_ascii());
            key.push(BETWEEN);
        } else if !is_plain || own.eq_ignore_ascii_case(name) || pair.contains(&b',') {
            // No value has this byte.
            key.push(0);
            key.extend_from_slice(pair);
            key.push(BETWEEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(vary: &str, lines: &[(&str, &str)]) -> Vec<u8> {
        let mut answer = Fields::new();
        answer.append(Name::Vary, vary.as_bytes());
        let mut request = Fields::new();
        for (name, value) in lines {
            request.append_called(name.as_bytes(), value.as_bytes());
        }
        let mut key = Vec::new();
        add(&mut key, &names(&answer, &[]), &request);
        key
    }

    #[test]
    fn cookies_are_told_apart_by_all_their_values() {
        let key = |cookies: &str| {
            let mut request = Fields::new();
            request.append(Name::Cookie, cookies.as_bytes());
            let mut key = Vec::new();
            let names = names(&Fields::new(), &[b"=lang"[..].into()]);
            add(&mut key, &names, &request);
            key
        };
        let one = key("a=b; lang=de; c=d");
        assert_eq!(one, key("lang=de"));
        assert_eq!(one, key("lang =de"));
        for other in [
            "",
            "lang=en",
            "LANG=de",
            "xlang=de",
            "lang=de; lang=en",
            "lang=de,",
            "l%61ng=de",
            "lang[]=de",
        ] {
            assert_ne!(one, key(other), "{other}");
        }
    }

    #[test]
    fn c4_1_same_values_make_the_same_key() {
        let one = key("A, b", &[("a", "1, 2"), ("B", "x")]);
        assert_eq!(one, key("b,A,a", &[("b", "x"), ("A", "1"), ("a", " 2 ")]));
        assert_ne!(one, key("A, b", &[("a", "1, 2"), ("b", "X")]));
        assert_ne!(one, key("A, b", &[("a", "1, 2")]));
        assert_ne!(key("a, b", &[("a", "x")]), key("a, b", &[("b", "x")]));
        let gzip = key("accept-encoding", &[("accept-encoding", "GZIP")]);
        assert_eq!(gzip, key("accept-encoding", &[("accept-encoding", "gzip")]));
    }
}
