//! Conditional requests and ranges.

use super::{Site, body, field, set_modified, text};

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[test]
fn h13_2_2_conditions_by_tag_and_date() {
    let site = Site::new("");
    site.write("a.txt", "content");
    let (_, answer) = site.get("/a.txt", &[]);
    let tag = field(&answer, "etag").unwrap();
    let line = |name: &str, value: &str| format!("{name}: {value}");
    for (lines, status) in [
        (vec![line("If-None-Match", tag)], 304),
        (vec![line("If-None-Match", &format!("W/{tag}"))], 304),
        (vec![line("If-None-Match", "*")], 304),
        (vec![line("If-None-Match", "\"other\"")], 200),
        (
            vec![
                line("If-None-Match", "\"other\""),
                line("If-Modified-Since", THEN),
            ],
            200,
        ),
        (vec![line("If-Modified-Since", THEN)], 304),
        (
            vec![line("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")],
            200,
        ),
        (vec![line("If-Match", tag)], 200),
        (vec![line("If-Match", "\"other\"")], 412),
        (vec![line("If-Match", tag), line("If-None-Match", tag)], 304),
        (
            vec![line("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")],
            412,
        ),
        (vec![line("If-Unmodified-Since", THEN)], 200),
        (
            vec![line("If-None-Match", tag), line("Range", "bytes=0-0")],
            304,
        ),
        (
            vec![line("If-Match", "\"other\""), line("Range", "bytes=0-0")],
            412,
        ),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for method in ["GET", "HEAD"] {
            let head = site.ask(method, "/a.txt", &lines).head();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{method} {lines:?}: {head}"
            );
            if status == 304 {
                let got = field(&head, "etag").unwrap();
                assert_eq!(got.trim_start_matches("W/"), tag, "{lines:?}");
                assert_eq!(field(&head, "content-length"), None, "{lines:?}");
                assert_eq!(field(&head, "transfer-encoding"), None, "{lines:?}");
            }
        }
    }
}

#[test]
fn file_of_the_year_1970_has_a_tag_and_no_date() {
    let site = Site::new("");
    site.write("a.txt", "content");
    for seconds in [0, 1] {
        set_modified(&site.path("a.txt"), seconds);
        site.write("b.txt", "other");
        let (_, answer) = site.get("/a.txt", &[]);
        assert_eq!(field(&answer, "last-modified"), None);
        let tag = field(&answer, "etag").unwrap();
        let since = format!("If-Modified-Since: {THEN}");
        assert_eq!(site.get("/a.txt", &[&since]).0, 200);
        assert_eq!(
            site.get("/a.txt", &[&format!("If-None-Match: {tag}")]).0,
            304
        );
        std::thread::sleep(std::time::Duration::from_millis(1200));
    }
}

#[test]
fn h14_2_one_range_of_a_small_and_of_a_large_file() {
    let site = Site::new("");
    for length in [1000, 300_000] {
        let content = text(length);
        site.write("a.txt", &content);
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let last = length - 1;
        for (range, wanted) in [
            ("bytes=0-0", 0..1),
            ("bytes=10-99", 10..100),
            ("bytes=990-", 990..length),
            ("bytes=-7", length - 7..length),
            ("bytes=0-", 0..length),
            ("bytes=999-9999999999999999999999", 999..length),
        ] {
            let (status, answer) = site.get("/a.txt", &[&format!("Range: {range}")]);
            assert_eq!(status, 206, "{range}: {answer}");
            assert!(body(&answer) == &content[wanted.clone()], "{range}");
            let of = format!("bytes {}-{}/{length}", wanted.start, wanted.end - 1);
            assert_eq!(field(&answer, "content-range"), Some(&*of));
            assert!(field(&answer, "etag").is_some());
        }
        for range in ["bytes=2-1", "lines=1-2", "bytes=x", "bytes=0-,0-", "bytes="] {
            let (status, answer) = site.get("/a.txt", &[&format!("Range: {range}")]);
            assert_eq!((status, body(&answer).len()), (200, length), "{range}");
        }
        let beyond = format!("Range: bytes={length}-");
        let (status, answer) = site.get("/a.txt", &[&beyond]);
        assert_eq!(status, 416, "{answer}");
        assert_eq!(
            field(&answer, "content-range"),
            Some(&*format!("bytes */{length}"))
        );
        // Of a GET alone (section 14.2).
        let head = site.head("/a.txt", &[&beyond]);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(
            field(&head, "content-length"),
            Some(&*(last + 1).to_string())
        );
    }
}

#[test]
fn h14_6_several_ranges_are_one_body_in_parts() {
    let site = Site::new("");
    for length in [1000, 300_000] {
        let content = text(length);
        site.write("a.txt", &content);
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let (status, answer) = site.get("/a.txt", &["Range: bytes=5-9, -3 ,100-100"]);
        assert_eq!(status, 206, "{answer}");
        assert_eq!(
            field(answer.split("\r\n\r\n").next().unwrap(), "content-range"),
            None
        );
        let kind = field(answer.split("\r\n\r\n").next().unwrap(), "content-type").unwrap();
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let part = |from: usize, to: usize| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Range: bytes {from}-{to}/{length}\r\n\r\n{}",
                &content[from..=to]
            )
        };
        let wanted = part(5, 9) + &part(length - 3, length - 1) + &part(100, 100);
        assert_eq!(body(&answer), format!("{wanted}\r\n--{boundary}--\r\n"));
        let (_, one) = site.get("/a.txt", &["Range: bytes=5-9,999999-"]);
        assert_eq!(
            field(&one, "content-range"),
            Some(&*format!("bytes 5-9/{length}"))
        );
    }
    let many: Vec<String> = (0..17).map(|at| format!("{at}-{at}")).collect();
    let many = format!("Range: bytes={}", many.join(","));
    assert_eq!(site.get("/a.txt", &[&many]).0, 200);
}

#[test]
fn h13_1_5_range_of_another_version_gets_the_whole() {
    let site = Site::new("");
    site.write("a.txt", "content");
    // A change of the last moment might not be the last one.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let (_, answer) = site.get("/a.txt", &[]);
    let tag = field(&answer, "etag").unwrap();
    for (condition, status) in [
        (tag, 206),
        (&*format!("W/{tag}"), 200),
        ("\"other\"", 200),
        (THEN, 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200),
    ] {
        let condition = format!("If-Range: {condition}");
        let (got, answer) = site.get("/a.txt", &["Range: bytes=0-2", &condition]);
        assert_eq!(got, status, "{condition}: {answer}");
    }
}

#[test]
fn empty_file_is_sent_as_a_whole() {
    let site = Site::new("");
    site.write("empty.txt", "");
    for lines in [&[][..], &["Range: bytes=0-"], &["Range: bytes=-1"]] {
        let (status, answer) = site.get("/empty.txt", lines);
        assert_eq!(
            (status, field(&answer, "content-length")),
            (200, Some("0")),
            "{lines:?}"
        );
    }
}
