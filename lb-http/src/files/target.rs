//! The name of a file from the path of a request. No name leads upwards, and none has a disguised slash or a NUL.

use lb_config::http::path;

/// The file or directory that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name below the root, without a slash at either end. Empty for the root itself.
    pub(crate) name: Vec<u8>,
    /// The path ends with a slash: only a directory can be meant.
    pub(crate) is_directory: bool,
    /// The path of the request in its plain form, for redirects.
    pub(crate) path: String,
}

/// Reads `path`, of which `prefix` is taken off. Names that begin with a dot are for `hidden` alone.
pub(super) fn target(path: &str, prefix: &str, hidden: bool) -> Option<Target> {
    let plain = path::normal(path);
    if !plain.starts_with('/') {
        return None;
    }
    let below = plain.strip_prefix(prefix)?;
    let name = match below.strip_prefix('/') {
        Some(name) => name,
        None if below.is_empty() => "",
        None => return None,
    };
    let name = decoded(name)?;
    let (name, is_directory) = match name.strip_suffix(b"/") {
        Some(name) => (name.to_vec(), true),
        None => (name, plain.ends_with('/')),
    };
    let mut segments = name.split(|byte| *byte == b'/');
    let is_good = |segment: &[u8]| match segment {
        b"." | b".." => false,
        b".well-known" => true,
        segment => hidden || !segment.starts_with(b"."),
    };
    (name.is_empty() || segments.all(is_good)).then(|| Target {
        name,
        is_directory,
        path: plain.into_owned(),
    })
}

/// `text` with every triplet decoded once; `None` if one is malformed, a slash or a NUL.
fn decoded(text: &str) -> Option<Vec<u8>> {
    if !text.contains('%') {
        return (!text.contains('\0')).then(|| text.as_bytes().to_vec());
    }
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                match u8::try_from(high * 16 + low).ok()? {
                    b'/' => return None,
                    byte => byte,
                }
            }
            byte => byte,
        };
        if byte == 0 {
            return None;
        }
        name.push(byte);
    }
    Some(name)
}

/// A name as it is written in a path: bytes that are no part of one as triplets (RFC 3986, section 3.3). A backslash
/// is one of them, as browsers take it for a slash.
pub(crate) fn encoded(name: &[u8]) -> String {
    triplets(name, false)
}

/// A path without bytes that are no part of one; its triplets stay.
pub(crate) fn sound(path: &str) -> String {
    triplets(path.as_bytes(), true)
}

fn triplets(name: &[u8], is_encoded: bool) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' if is_encoded => text.push('%'),
            b'/' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'(' | b')' | b'*' | b'+' | b','
            | b'=' | b'@' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Option<String> {
        let target = target(path, "", false)?;
        Some(String::from_utf8_lossy(&target.name).into_owned())
    }

    #[test]
    fn names_are_decoded_once_and_stay_below_the_root() {
        for (path, wanted) in [
            ("/", ""),
            ("/a/b.js", "a/b.js"),
            ("//a///b.js", "a/b.js"),
            ("/%61.js", "a.js"),
            ("/a%20b", "a b"),
            ("/a/../b", "b"),
            ("/%2e%2e/%2e%2e/etc/passwd", "etc/passwd"),
            ("/../../etc/passwd", "etc/passwd"),
            ("/..", ""),
            ("/.well-known/x", ".well-known/x"),
            ("/a..b", "a..b"),
            ("/%5c..%5cb", "\\..\\b"),
        ] {
            assert_eq!(name(path).as_deref(), Some(wanted), "{path}");
        }
        for path in [
            "/..%2fetc/passwd",
            "/..%2Fetc/passwd",
            "/a%00.js",
            "/%00",
            "/a\0b",
            "/%",
            "/%2",
            "/%zz",
            "/%252e%252e/x%2fy",
            "/.git/config",
            "/a/.env",
            "/%2egit",
            "/.well-known/.secret",
            "*",
        ] {
            assert_eq!(name(path), None, "{path}");
        }
        assert_eq!(name("/%252e%252e/x"), Some("%2e%2e/x".to_owned()));
    }

    #[test]
    fn slash_at_the_end_means_a_directory() {
        for (path, is_directory) in [("/", true), ("/a", false), ("/a/", true), ("/a/.", true)] {
            assert_eq!(
                target(path, "", false).unwrap().is_directory,
                is_directory,
                "{path}"
            );
        }
    }

    #[test]
    fn prefix_is_taken_off_in_whole_segments() {
        let name = |path: &str| target(path, "/assets", false).map(|target| target.name);
        assert_eq!(name("/assets/a.js"), Some(b"a.js".to_vec()));
        assert_eq!(name("/assets"), Some(Vec::new()));
        assert_eq!(name("/assetsx"), None);
    }

    #[test]
    fn hidden_names_are_served_if_they_are_to_be() {
        assert!(target("/.git/config", "", true).is_some());
        assert_eq!(target("/a/..%2f", "", true), None);
    }

    #[test]
    fn path_of_a_redirect_keeps_its_triplets_and_has_no_backslash() {
        assert_eq!(sound("/a%20b\\evil.test"), "/a%20b%5Cevil.test");
    }

    #[test]
    fn encoded_names_are_no_other_paths() {
        assert_eq!(
            encoded(b"a b\\c?d#e%f:g&\"<>'\xff"),
            "a%20b%5Cc%3Fd%23e%25f%3Ag%26%22%3C%3E%27%FF"
        );
    }
}
