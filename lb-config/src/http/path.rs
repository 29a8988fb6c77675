//! The plain form of a path, in which routes are compared (RFC 3986, section 6.2.2). The request
//! itself is passed on unchanged.

use std::borrow::Cow;

/// `path` with `%XX` of unreserved characters decoded, dot segments taken out, and several
/// slashes as one. Nearly every path is in this form already, and is not copied then.
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/').skip(1) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_open || segments.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// Other readings of `path` that a backend may have beside its plain form, if there can be any. The
/// first takes `%2F`, `%5C` and backslashes as slashes, and ends at a NUL. The second also lacks
/// the parameters of its segments.
pub fn readings(path: &str) -> Option<[String; 2]> {
    let is_disguised = |at: usize| {
        let two = path.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        [&b"2f"[..], b"5c", b"00"]
            .iter()
            .any(|disguise| two.eq_ignore_ascii_case(disguise))
    };
    let mut percents = path.match_indices('%').map(|(at, _)| at);
    if !path.contains(['\\', ';']) && !percents.any(is_disguised) {
        return None;
    }
    let mut slashes = path.replace('\\', "/");
    for disguise in ["%2f", "%2F", "%5c", "%5C"] {
        slashes = slashes.replace(disguise, "/");
    }
    let end = slashes.find("%00").unwrap_or(slashes.len());
    slashes.truncate(end);
    let bare = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    let bare: Vec<String> = slashes.split('/').map(bare).collect();
    Some([slashes, bare.join("/")])
}

fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let fine = *byte != b'%' && !(before == b'/' && matches!(byte, b'/' | b'.'));
        before = *byte;
        fine
    })
}

/// Decodes triplets of unreserved characters (RFC 3986, section 2.3). Other triplets get upper case
/// digits.
fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let byte = rest
            .get(..2)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(byte as char);
                rest = &rest[2..];
            }
            Some(byte) => {
                decoded.push_str(&format!("%{byte:02X}"));
                rest = &rest[2..];
            }
            None => decoded.push('%'),
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn disguises_of_a_path_come_to_the_same() {
        let same = [
            "/admin/x",
            "/%61dmin/x",
            "//admin///x",
            "/./admin/x",
            "/y/../admin/x",
            "/%2e/admin/%78",
            "/y/%2E%2e/admin/x",
            "/../../admin/x",
        ];
        for path in same {
            assert_eq!(normal(path), "/admin/x", "{path}");
        }
    }

    #[test]
    fn what_means_something_else_stays() {
        let plain = |path: &str| normal(path).into_owned();
        assert_eq!(plain("/a%2fb"), "/a%2Fb");
        assert_eq!(plain("/a/"), "/a/");
        assert_eq!(plain("/a/.."), "/");
        assert_eq!(plain("/a/."), "/a/");
        assert_eq!(plain("/a/..."), "/a/...");
        assert_eq!(plain("/.well-known/x"), "/.well-known/x");
        assert_eq!(plain("/100%"), "/100%");
        assert_eq!(plain("/%zz%4"), "/%zz%4");
        assert_eq!(plain("/"), "/");
    }

    #[test]
    fn a_path_in_disguise_has_other_readings() {
        let read =
            |path| readings(path).map(|readings| readings.map(|path| normal(&path).into_owned()));
        for (path, slashes, bare) in [
            ("/admin%2Fx", "/admin/x", "/admin/x"),
            ("/x/..%2fadmin", "/admin", "/admin"),
            ("/x\\..\\admin", "/admin", "/admin"),
            ("/x%5c..%5Cadmin", "/admin", "/admin"),
            ("/admin%00.png", "/admin", "/admin"),
            ("/admin;a=b/x", "/admin;a=b/x", "/admin/x"),
            ("/x/..;/admin", "/x/..;/admin", "/admin"),
        ] {
            assert_eq!(
                read(path),
                Some([slashes.to_owned(), bare.to_owned()]),
                "{path}"
            );
        }
        for path in ["/admin/x", "/%61dmin", "/a%20b", "/100%", "/a%2"] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn a_plain_path_is_not_copied() {
        assert!(matches!(normal("/socket.io/x-y_z~"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn the_plain_form_is_its_own_plain_form(path in "/[a-c%/.2eEfF]{0,24}") {
            let once = normal(&path).into_owned();
            // A decoded percent sign cannot come about: `%25` is not of an unreserved character.
            prop_assert_eq!(normal(&once).into_owned(), once.clone());
            prop_assert!(once.starts_with('/'));
        }

        #[test]
        fn no_text_makes_it_panic(path in "/\\PC{0,40}") {
            normal(&path);
        }
    }
}
