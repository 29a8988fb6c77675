//! The secondary key of an answer: the request fields that it varies on (RFC 9111, section 4.1).

use lb_http1::{Fields, Name, list};

/// Bytes between two fields, and between two members of one.
const FIELD: u8 = b'\n';
const MEMBER: u8 = b',';

/// The names in the `Vary` of an answer, in lower case and in a fixed order.
pub(crate) fn names(answer: &Fields) -> Vec<Box<[u8]>> {
    let members = list::members(answer.all(Name::Vary));
    let mut names: Vec<Box<[u8]>> = members
        .map(|name| name.to_ascii_lowercase().into())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Adds the values that a request has for these names to `key`. Spaces around the members of a list, and how a list
/// is spread over lines, make no difference.
pub(crate) fn add(key: &mut Vec<u8>, names: &[Box<[u8]>], request: &Fields) {
    for name in names {
        key.push(FIELD);
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
        add(&mut key, &names(&answer), &request);
        key
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
