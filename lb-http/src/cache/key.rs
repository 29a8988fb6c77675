//! The parts of a request that tell stored answers apart, beside scheme and host: its path, the parameters of its query
//! that count, and the header fields and cookies that the configuration names.

use lb_config::http::CacheKey;

/// The first byte of the name of a cookie among names of fields, which have no such byte.
pub(super) const COOKIE: u8 = b'=';

/// Adds path and query to a key. Parameters that count come in the order of their names if not all do.
pub(crate) fn add_target(key: &mut Vec<u8>, target: &[u8], rules: &CacheKey) {
    let is_whole = rules.query.is_none() && rules.ignore.is_empty();
    let mark = || target.iter().position(|byte| *byte == b'?');
    let Some(mark) = (!is_whole).then(mark).flatten() else {
        return key.extend_from_slice(target);
    };
    let parameters = target[mark + 1..].split(|byte| *byte == b'&');
    let mut counting: Vec<&[u8]> = parameters
        .filter(|parameter| !parameter.is_empty() && counts(parameter, rules))
        .collect();
    counting.sort_by_key(|parameter| name(parameter));
    key.extend_from_slice(&target[..mark]);
    for (index, parameter) in counting.into_iter().enumerate() {
        key.push(if index == 0 { b'?' } else { b'&' });
        key.extend_from_slice(parameter);
    }
}

/// Whether a parameter counts. One that a backend may read under another name always does: else it could bring an answer
/// of its own under the key of requests without it.
fn counts(parameter: &[u8], rules: &CacheKey) -> bool {
    let name = name(parameter);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let may_be_another = parameter.contains(&b';') || !name.iter().all(is_plain);
    let is_ignored = |pattern: &String| match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin.as_bytes()) && !may_be_another,
        None => name == pattern.as_bytes() && !parameter.contains(&b';'),
    };
    match &rules.query {
        Some(counting) => {
            let is_this = |other: &String| name.eq_ignore_ascii_case(other.as_bytes());
            may_be_another || counting.iter().any(is_this)
        }
        None => !rules.ignore.iter().any(is_ignored),
    }
}

fn name(parameter: &[u8]) -> &[u8] {
    let end = parameter.iter().position(|byte| *byte == b'=');
    &parameter[..end.unwrap_or(parameter.len())]
}

/// The names of the fields, and of the cookies behind [`COOKIE`], that answers vary on by the configuration.
pub(crate) fn variants(rules: &CacheKey) -> Vec<Box<[u8]>> {
    let fields = rules.headers.iter().map(|name| name.as_str().as_bytes());
    let fields = fields.map(Box::from);
    let cookies = rules.cookies.iter();
    let cookies = cookies.map(|name| [&[COOKIE], name.as_bytes()].concat().into());
    fields.chain(cookies).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, rules: &CacheKey) -> String {
        let mut key = Vec::new();
        add_target(&mut key, target.as_bytes(), rules);
        String::from_utf8(key).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn whole_query_counts_as_it_is_written() {
        let rules = CacheKey::default();
        for target in ["/a", "/a?", "/a?b=2&a=1&&", "*"] {
            assert_eq!(of(target, &rules), target);
        }
    }

    #[test]
    fn named_parameters_count_in_any_order() {
        let rules = CacheKey {
            query: Some(names(&["page", "lang"])),
            ..CacheKey::default()
        };
        for (target, key) in [
            ("/a?page=2&x=1&lang=de", "/a?lang=de&page=2"),
            ("/a?lang=de&&page=2", "/a?lang=de&page=2"),
            ("/a?page=2&page=1", "/a?page=2&page=1"),
            ("/a?page", "/a?page"),
            ("/a?PAGE=2", "/a?PAGE=2"),
            ("/a?pages=2", "/a"),
            ("/a?", "/a"),
            ("/a", "/a"),
        ] {
            assert_eq!(of(target, &rules), key, "{target}");
        }
        let none = CacheKey {
            query: Some(vec![]),
            ..CacheKey::default()
        };
        assert_eq!(of("/a?page=2", &none), "/a");
    }

    #[test]
    fn ignored_parameters_do_not_count() {
        let rules = CacheKey {
            ignore: names(&["utm_*", "fbclid", "a.b"]),
            ..CacheKey::default()
        };
        for (target, key) in [
            ("/?utm_source=x&b=1&a=2&fbclid=y&a.b", "/?a=2&b=1"),
            ("/?utm_source=x", "/"),
            ("/?UTM_source=x", "/?UTM_source=x"),
            ("/?fbclid2=x", "/?fbclid2=x"),
        ] {
            assert_eq!(of(target, &rules), key, "{target}");
        }
    }

    #[test]
    fn parameter_that_a_backend_may_read_under_another_name_counts() {
        let named = CacheKey {
            query: Some(names(&["page"])),
            ..CacheKey::default()
        };
        let ignored = CacheKey {
            ignore: names(&["utm_*", "ref"]),
            ..CacheKey::default()
        };
        // Decoded, made an array, split at semicolons, or with dots made underscores (PHP).
        for parameter in ["p%61ge=2", "page[]=2", "x;page=2", "x=1;page=2", "pa.ge=2"] {
            let target = format!("/?{parameter}");
            assert_eq!(of(&target, &named), target);
        }
        for parameter in ["utm_%26page=2", "utm_x;page=2", "ref=1;page=2", "utm_[x]=1"] {
            let target = format!("/?{parameter}");
            assert_eq!(of(&target, &ignored), target);
        }
    }
}
