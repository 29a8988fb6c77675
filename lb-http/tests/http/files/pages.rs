//! Directories, single-page applications, lists, `Cache-Control`.

use super::{Site, body, field};

/// A request for `path` is redirected to `to`.
#[track_caller]
fn leads_to(site: &Site, path: &str, to: &str) {
    let (status, answer) = site.get(path, &[]);
    assert_eq!(
        (status, field(&answer, "location")),
        (301, Some(to)),
        "{path}"
    );
}

#[test]
fn directory_has_its_index_file_and_lacks_no_slash() {
    let site = Site::with("", "/", "index = ['index.html', 'index.txt']");
    site.write("index.html", "home");
    site.write("sub/index.txt", "sub");
    site.write("a b/index.html", "blank");
    for (path, content) in [
        ("/", "home"),
        ("/sub/", "sub"),
        ("/a%20b/", "blank"),
        ("/index.html", "home"),
    ] {
        assert_eq!(body(&site.get(path, &[]).1), content, "{path}");
    }
    for (path, to) in [
        ("/sub", "/sub/"),
        ("/sub?a=b&c", "/sub/?a=b&c"),
        ("/a%20b?", "/a%20b/?"),
        ("//sub", "/sub/"),
        ("/x/..//sub", "/sub/"),
    ] {
        leads_to(&site, path, to);
    }
}

#[test]
fn redirect_names_no_other_host() {
    let site = Site::new("");
    site.write("\\evil.test/index.html", "x");
    site.write("evil.test/index.html", "x");
    for (path, to) in [
        ("/\\evil.test", "/%5Cevil.test/"),
        ("//evil.test", "/evil.test/"),
        ("///evil.test", "/evil.test/"),
    ] {
        leads_to(&site, path, to);
    }
}

#[test]
fn single_page_application_has_one_page_for_paths_without_a_file() {
    let site = Site::new(
        "try = ['$path', '$path.html', '/index.html']\ncache_control = [{ path = 'index.html', value = 'no-cache' }]",
    );
    site.write("index.html", "page");
    site.write("about.html", "about");
    site.write("app.js", "script");
    site.write("empty/x.txt", "x");
    for (path, content) in [
        ("/", "page"),
        ("/app.js", "script"),
        ("/about", "about"),
        ("/users/7", "page"),
        ("/users/7/", "page"),
        ("/empty/", "page"),
        ("/empty", "page"),
    ] {
        let (status, answer) = site.get(path, &[]);
        assert_eq!((status, body(&answer)), (200, content), "{path}");
        let wanted = (content == "page").then_some("no-cache");
        assert_eq!(field(&answer, "cache-control"), wanted, "{path}");
    }
    assert_eq!(site.get("/.git/config", &[]).0, 404);
    assert_eq!(site.get("/..%2fsecret", &[]).0, 404);
}

#[test]
fn cache_control_goes_by_the_first_pattern_that_fits() {
    let site = Site::new(
        "cache_control = [{ path = ['*.js', '*.css'], value = 'max-age=31536000, immutable' }, \
         { path = '/static/*', value = 'max-age=60' }]",
    );
    for name in ["a.js", "static/a.css", "static/a.png", "a.png"] {
        site.write(name, "content");
    }
    for (path, value) in [
        ("/a.js", Some("max-age=31536000, immutable")),
        ("/static/a.css", Some("max-age=31536000, immutable")),
        ("/static/a.png", Some("max-age=60")),
        ("/a.png", None),
    ] {
        let (_, answer) = site.get(path, &[]);
        assert_eq!(field(&answer, "cache-control"), value, "{path}");
        let tag = format!("If-None-Match: {}", field(&answer, "etag").unwrap());
        let (status, answer) = site.get(path, &[&tag]);
        assert_eq!(
            (status, field(&answer, "cache-control")),
            (304, value),
            "{path}"
        );
    }
}

#[test]
fn header_rules_hold_for_files_too() {
    let rules = "response_headers = [{ set = 'X-Frame-Options', value = 'DENY' }]";
    let site = Site::with(rules, "/", "");
    site.write("a.txt", "content");
    let (_, answer) = site.get("/a.txt", &[]);
    assert_eq!(field(&answer, "x-frame-options"), Some("DENY"));
}

#[test]
fn list_shows_names_that_are_no_markup_and_hides_what_is_hidden() {
    let site = Site::new("listing = true");
    site.write("sub/<b>&\".txt", "content");
    site.write("sub/.hidden", "hidden");
    site.write("sub/deep/x", "x");
    site.write("other/index.html", "index");
    let (status, answer) = site.get("/sub/", &[]);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        field(&answer, "content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        answer.contains("href=\"./%3Cb%3E%26%22.txt\">&lt;b&gt;&amp;&quot;.txt<"),
        "{answer}"
    );
    assert!(
        answer.contains("href=\"./deep/\"") && answer.contains("href=\"../\""),
        "{answer}"
    );
    assert!(
        !answer.contains("hidden") && !answer.contains("<b>"),
        "{answer}"
    );
    assert_eq!(body(&site.get("/sub/%3Cb%3E%26%22.txt", &[]).1), "content");
    assert_eq!(field(&site.get("/sub", &[]).1, "location"), Some("/sub/"));
    assert_eq!(body(&site.get("/other/", &[]).1), "index");
    let top = site.get("/", &[]).1;
    assert!(!top.contains("../") && !top.contains("secret"), "{top}");
    let without = Site::new("");
    without.write("sub/a", "a");
    assert_eq!(without.get("/sub/", &[]).0, 404);
}
