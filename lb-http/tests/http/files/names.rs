//! Which names have files: paths in all disguises, links, methods.

use std::os::unix::fs::symlink;

use super::super::log::Log;
use super::{Site, body, field, text};

#[test]
fn file_is_sent_with_what_is_known_of_it() {
    let site = Site::new("");
    site.write("a/b.txt", "content");
    let (status, answer) = site.get("/a/b.txt", &[]);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(body(&answer), "content");
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "7"),
        ("etag", "\"2ebc98a1.0-7\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(field(&answer, name), Some(value), "{name}");
    }
    assert_eq!(field(&answer, "cache-control"), None);
    let head = site.head("/a/b.txt", &[]);
    let lines = |text: &str| {
        let lines = text.lines().take_while(|line| !line.is_empty());
        let lines = lines.filter(|line| !line.starts_with("date: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&head), lines(&answer));
}

#[test]
fn paths_that_lead_out_or_hide_something_are_not_found() {
    let site = Site::new("");
    site.write("a.txt", "content");
    site.write(".env", "hidden");
    site.write("sub/.git/config", "hidden");
    site.write(".well-known/x.txt", "known");
    symlink("../secret", site.path("up")).unwrap();
    symlink(site.dir.path().join("secret"), site.path("absolute")).unwrap();
    symlink("../..", site.path("sub/out")).unwrap();
    symlink("a.txt", site.path("inside")).unwrap();
    for path in [
        "/../secret",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2E%2Fsecret",
        "/..%2fsecret",
        "/sub/../../secret",
        "/sub/%2e%2e/%2e%2e/secret",
        "/..%5csecret",
        "/..%c0%afsecret",
        "/%252e%252e/secret",
        "/..%00/secret",
        "/a.txt%00",
        "/a.txt%00.html",
        "/a.txt/",
        "/a.txt/x",
        "//../secret",
        "/./../secret",
        "/%",
        "/%zz",
        "/a.txt%",
        "/up",
        "/absolute",
        "/sub/out/secret",
        "/.env",
        "/%2eenv",
        "/sub/.git/config",
        "/sub",
        "/sub/",
        "/",
        "/none",
    ] {
        let (status, answer) = site.get(path, &[]);
        assert_eq!(status, 404, "{path}: {answer}");
        assert!(
            !answer.contains("secret") && !answer.contains("hidden"),
            "{path}"
        );
    }
    for path in [
        "/a.txt",
        "/inside",
        "/sub/../a.txt",
        "/%61.txt",
        "//a.txt",
        "/./a.txt",
        "/x/../../a.txt",
    ] {
        assert_eq!(body(&site.get(path, &[]).1), "content", "{path}");
    }
    assert_eq!(body(&site.get("/.well-known/x.txt", &[]).1), "known");
    let long = format!("/{}", "x".repeat(5000));
    assert_eq!(site.get(&long, &[]).0, 404);
}

#[test]
fn hidden_names_are_served_if_that_is_wanted() {
    let site = Site::new("hidden = true");
    site.write(".env", "hidden");
    assert_eq!(body(&site.get("/.env", &[]).1), "hidden");
    assert_eq!(site.get("/..%2fsecret", &[]).0, 404);
}

#[test]
fn route_is_part_of_the_name_unless_it_is_taken_off() {
    let site = Site::with("", "/assets", "");
    site.write("assets/a.txt", "content");
    assert_eq!(body(&site.get("/assets/a.txt", &[]).1), "content");
    let site = Site::with("", "/assets", "strip = true");
    site.write("a.txt", "content");
    site.write("assets/a.txt", "other");
    assert_eq!(body(&site.get("/assets/a.txt", &[]).1), "content");
    // A disguised way into or out of the route: the same path is another's in the eyes of others.
    assert_eq!(site.get("/assets/..%2fa.txt", &[]).0, 400);
}

#[test]
fn h9_3_other_methods_are_refused_and_options_tells_which_are_not() {
    let site = Site::new("");
    site.write("a.txt", "content");
    for method in ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"] {
        let (status, answer) = site.ask(method, "/a.txt", &["Content-Length: 0"]).answer();
        assert_eq!(status, 405, "{method}");
        assert_eq!(
            field(&answer, "allow"),
            Some("GET, HEAD, OPTIONS"),
            "{method}"
        );
    }
    let (status, answer) = site.ask("OPTIONS", "/a.txt", &[]).answer();
    assert_eq!(
        (status, field(&answer, "allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
}

#[test]
fn request_with_a_body_gets_its_file_and_the_connection_goes_on() {
    let site = Site::new("");
    site.write("a.txt", "content");
    site.write("big.txt", text(200_000));
    let mut client = site.proxy.connect();
    for (path, length) in [("/a.txt", 7), ("/big.txt", 200_000), ("/a.txt", 7)] {
        client.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
        ));
        let (status, answer) = client.answer();
        assert_eq!((status, body(&answer).len()), (200, length), "{path}");
    }
}

#[test]
fn access_log_says_that_it_was_a_file() {
    let log = Log::new();
    let site = Site::with(&log.settings(), "/", "");
    site.write("big.txt", text(200_000));
    site.get("/big.txt", &[]);
    site.get("/none", &[]);
    site.head("/big.txt", &[]);
    let lines = log.lines(3);
    for (line, (status, bytes)) in lines.iter().zip([(200, 200_000), (404, 14), (200, 0)]) {
        assert_eq!(line["status"], status);
        assert_eq!(line["bytes"], bytes);
        assert_eq!(line["why"], "files");
        assert_eq!(line["backend"], serde_json::Value::Null);
    }
}

#[test]
fn root_that_is_away_is_told_apart_from_a_file_that_is() {
    let site = Site::new("");
    std::fs::remove_dir(site.path("")).unwrap();
    assert_eq!(site.get("/a", &[]).0, 503);
    std::fs::create_dir(site.path("")).unwrap();
    assert_eq!(site.get("/a", &[]).0, 404);
}
