//! Files in codings: those that lie beside the originals, and those that are made on the way.

use std::io::Read as _;

use super::{Site, body, field, text};

#[test]
fn coded_file_beside_the_original_is_sent_to_those_who_take_it() {
    let site = Site::new("precompressed = ['zstd', 'br', 'gzip']");
    for (name, content) in [
        ("a.js", "plain"),
        ("a.js.zst", "zstd!"),
        ("a.js.gz", "gzip!"),
        ("b.js", "alone"),
    ] {
        site.write(name, content);
    }
    for (accept, coding, content) in [
        ("gzip, br, zstd", Some("zstd"), "zstd!"),
        ("gzip, br", Some("gzip"), "gzip!"),
        ("zstd;q=0.5, gzip", Some("gzip"), "gzip!"),
        ("br", None, "plain"),
        ("zstd;q=0", None, "plain"),
        ("identity", None, "plain"),
        ("*", Some("zstd"), "zstd!"),
    ] {
        let (status, answer) = site.get("/a.js", &[&format!("Accept-Encoding: {accept}")]);
        assert_eq!((status, body(&answer)), (200, content), "{accept}");
        assert_eq!(field(&answer, "content-encoding"), coding, "{accept}");
        assert_eq!(field(&answer, "vary"), Some("accept-encoding"), "{accept}");
        assert_eq!(
            field(&answer, "content-type"),
            Some("text/javascript; charset=utf-8")
        );
    }
    let (_, answer) = site.get("/b.js", &["Accept-Encoding: gzip"]);
    assert_eq!((body(&answer), field(&answer, "vary")), ("alone", None));
    assert_eq!(site.get("/c.js", &["Accept-Encoding: gzip"]).0, 404);
    let (_, answer) = site.get("/a.js.gz", &["Accept-Encoding: gzip"]);
    assert_eq!(field(&answer, "content-encoding"), None);
    assert_eq!(field(&answer, "content-type"), Some("application/gzip"));
}

#[test]
fn each_coding_has_its_own_tag_and_its_own_ranges() {
    let site = Site::new("precompressed = ['gzip']");
    site.write("a.js", "plain");
    site.write("a.js.gz", "gzip!");
    let (_, plain) = site.get("/a.js", &[]);
    let (_, coded) = site.get("/a.js", &["Accept-Encoding: gzip"]);
    let (plain, coded) = (
        field(&plain, "etag").unwrap(),
        field(&coded, "etag").unwrap(),
    );
    assert_ne!(plain, coded);
    let match_plain = format!("If-None-Match: {plain}");
    let match_coded = format!("If-None-Match: {coded}");
    assert_eq!(site.get("/a.js", &[&match_plain]).0, 304);
    assert_eq!(site.get("/a.js", &[&match_coded]).0, 200);
    let gzip = "Accept-Encoding: gzip";
    assert_eq!(site.get("/a.js", &[gzip, &match_plain]).0, 200);
    let (status, answer) = site.get("/a.js", &[gzip, &match_coded]);
    assert_eq!(
        (status, field(&answer, "vary")),
        (304, Some("accept-encoding"))
    );
    let (status, answer) = site.get("/a.js", &[gzip, "Range: bytes=1-2"]);
    assert_eq!(
        (status, body(&answer), field(&answer, "content-encoding")),
        (206, "zi", Some("gzip"))
    );
}

#[test]
fn file_without_one_is_compressed_on_its_way_with_a_weak_tag() {
    let site = Site::new("");
    for length in [20_000, 300_000] {
        let content = text(length);
        site.write("a.txt", &content);
        std::thread::sleep(std::time::Duration::from_millis(1200));
        for _ in 0..2 {
            let mut client = site.ask(
                "GET",
                "/a.txt",
                &["Accept-Encoding: gzip", "Connection: close"],
            );
            let head = client.head();
            assert_eq!(field(&head, "content-encoding"), Some("gzip"), "{head}");
            assert_eq!(field(&head, "accept-ranges"), None);
            assert_eq!(field(&head, "vary"), Some("accept-encoding"));
            let tag = field(&head, "etag").unwrap();
            assert!(tag.starts_with("W/\""), "{tag}");
            let condition = format!("If-None-Match: {tag}");
            let (status, answer) = site.get("/a.txt", &["Accept-Encoding: gzip", &condition]);
            assert_eq!((status, field(&answer, "etag")), (304, Some(tag)));
        }
        let plain = site.head("/a.txt", &[]);
        assert_eq!(field(&plain, "content-encoding"), None);
        let part = site.get("/a.txt", &["Accept-Encoding: gzip", "Range: bytes=0-9"]);
        assert_eq!((part.0, body(&part.1)), (206, &content[..10]));
        assert_eq!(field(&part.1, "content-encoding"), None);
        let head = site.head("/a.txt", &["Accept-Encoding: gzip"]);
        assert_eq!(field(&head, "content-encoding"), Some("gzip"));
    }
}

#[test]
fn compressed_file_comes_to_the_same_content() {
    let site = Site::new("");
    let content = text(2_000_000);
    site.write("a.txt", &content);
    let mut client = site.ask("GET", "/a.txt", &["Accept-Encoding: gzip"]);
    let head = client.head();
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    let mut coded = Vec::new();
    loop {
        let line = client.until(|bytes| Some(bytes.windows(2).position(|two| two == b"\r\n")? + 2));
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        coded.extend(client.bytes(length));
        client.exactly(2);
        if length == 0 {
            break;
        }
    }
    let mut decoded = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&coded[..]);
    decoder.read_to_string(&mut decoded).unwrap();
    assert!(decoded == content);
}

#[test]
fn pictures_are_not_compressed() {
    let site = Site::new("");
    site.write("a.png", text(20_000));
    let (_, answer) = site.get("/a.png", &["Accept-Encoding: gzip"]);
    assert_eq!(field(&answer, "content-encoding"), None);
    assert_eq!(field(&answer, "accept-ranges"), Some("bytes"));
}
