//! Media types of files by the ends of their names.

/// A type for names that nothing is known of.
const UNKNOWN: &str = "application/octet-stream";

/// Types that differ from those of the table of `mime_guess`, or that it lacks. Texts are written in UTF-8.
const OWN: [(&str, &str); 10] = [
    // As the WHATWG and RFC 9239 have it; browsers take no module of another type.
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("cjs", "text/javascript; charset=utf-8"),
    // Source maps.
    ("map", "application/json"),
    // RFC 7763.
    ("md", "text/markdown; charset=utf-8"),
    // Segments of HLS (RFC 8216, section 4), with their lists.
    ("ts", "video/mp2t"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("webmanifest", "application/manifest+json"),
    // RFC 9512.
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

/// The type of the file called `name`, with its charset.
pub(super) fn kind_of(name: &[u8]) -> String {
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let end = last
        .iter()
        .rposition(|byte| *byte == b'.')
        .map(|at| &last[at + 1..]);
    let Some(end) = end.and_then(|end| std::str::from_utf8(end).ok()) else {
        return UNKNOWN.to_owned();
    };
    let own = OWN
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(end));
    if let Some((_, kind)) = own {
        return (*kind).to_owned();
    }
    match mime_guess::from_ext(end).first_raw() {
        Some(kind) if kind.starts_with("text/") => format!("{kind}; charset=utf-8"),
        Some(kind) => kind.to_owned(),
        None => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_by_the_last_end_in_any_case() {
        for (name, kind) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.CSS", "text/css; charset=utf-8"),
            ("app.min.js", "text/javascript; charset=utf-8"),
            ("app.js.map", "application/json"),
            ("data.json", "application/json"),
            ("x.svg", "image/svg+xml"),
            ("x.wasm", "application/wasm"),
            ("x.woff2", "font/woff2"),
            ("x.avif", "image/avif"),
            ("x.webmanifest", "application/manifest+json"),
            ("x.ico", "image/x-icon"),
            ("x.txt", "text/plain; charset=utf-8"),
            ("x.mp4", "video/mp4"),
            ("x.pdf", "application/pdf"),
            ("x.gz", "application/gzip"),
            ("x.br", UNKNOWN),
            ("a.b/README", UNKNOWN),
            ("x.", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(kind_of(name.as_bytes()), kind, "{name}");
        }
    }
}
