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

/// Other readings of `path` that a backend may have beside its plain form, if there can be any:
///
/// 1. `%2F`, `%5C` and backslashes are slashes, and a NUL ends the path.
/// 2. The same without the parameters of its segments.
/// 3. The first one with `..` as a name, as frameworks match it that take no dot segments out.
/// 4. The first one as paths of routes are written: visible ASCII as such, all else as triplets.
pub fn readings(path: &str) -> Option<[String; 4]> {
    let is_disguised = |at: usize| {
        let two = path.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        [&b"2f"[..], b"5c", b"00"]
            .iter()
            .any(|disguise| two.eq_ignore_ascii_case(disguise))
    };
    let mut percents = path.match_indices('%').map(|(at, _)| at);
    let is_plain = !path.contains(['\\', ';']) && !percents.any(is_disguised);
    let is_written = |byte: u8| byte != b'%' && (0x21..0x7f).contains(&byte);
    let has_one_spelling = path.bytes().all(is_written) || as_of_routes(path) == path;
    if is_plain && has_one_spelling && !path.split('/').any(is_up) {
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
    let kept = |segment: &str| if is_up(segment) { "..." } else { segment }.to_owned();
    let kept: Vec<String> = slashes.split('/').map(kept).collect();
    let written = as_of_routes(&slashes);
    Some([slashes, bare.join("/"), kept.join("/"), written])
}

/// Whether a segment leads to its parent, perhaps in disguise.
fn is_up(segment: &str) -> bool {
    segment.starts_with(['.', '%'])
        && segment.len() <= "%2e%2e".len()
        && segment.to_ascii_lowercase().replace("%2e", ".") == ".."
}

/// `path` with visible ASCII as such and all else as triplets (RFC 3986, section 2.1), as paths of routes are written.
/// What would mean something else stays a triplet: `%`, `?`, `#`, `*`, `/`, `\` and `;`.
pub(super) fn as_of_routes(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut written = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        let coded = (bytes[at] == b'%').then(|| decoded(bytes.get(at + 1..at + 3)?));
        let coded = coded.flatten();
        let byte = coded.unwrap_or(bytes[at]);
        let is_visible = (0x21..0x7f).contains(&byte);
        if is_visible && (coded.is_none() || !b"%?#*/\\;".contains(&byte)) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
        at += if coded.is_some() { 3 } else { 1 };
    }
    written
}

/// The byte of two hexadecimal digits.
fn decoded(digits: &[u8]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    match digits {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    }
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
            let [first, second, ..] = read(path).unwrap();
            assert_eq!((first.as_str(), second.as_str()), (slashes, bare), "{path}");
        }
        for path in [
            "/admin/x",
            "/a%20b",
            "/a%3Bb%25",
            "/100%",
            "/a%2",
            "/.a/..b",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn parent_may_be_a_name_and_triplets_what_they_stand_for() {
        for (path, kept) in [
            ("/admin/x/../../open", "/admin/x/.../.../open"),
            ("/admin/%2E%2e/open", "/admin/.../open"),
            ("/admin%2f..%2fopen", "/admin/.../open"),
        ] {
            assert_eq!(readings(path).unwrap()[2], kept, "{path}");
        }
        for (path, written) in [
            ("/%40team/x", "/@team/x"),
            ("/\u{fc}ber/x", "/%C3%BCber/x"),
            ("/%c3%bcber", "/%C3%BCber"),
        ] {
            assert_eq!(readings(path).unwrap()[3], written, "{path}");
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
