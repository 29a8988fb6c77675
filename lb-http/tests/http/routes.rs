//! What a route does to the paths of its requests, and to those that are no file.

use super::{Backend, OK, Proxy};

/// The request line and the head of a request for `path` as the backend gets it.
fn seen(proxy: &Proxy, backend: &Backend, request: &str) -> String {
    let mut client = proxy.ask(request);
    let mut behind = backend.accept();
    let head = behind.head();
    behind.send(&OK.replacen("\r\n", "\r\nConnection: close\r\n", 1));
    assert_eq!(client.status(), 200, "{request}");
    head
}

fn get(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: /evil\r\nConnection: close\r\n\r\n"
    )
}

#[test]
fn backends_get_another_beginning_of_the_path() {
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        "[[service.route]]\npath = '/api'\nprefix_rewrite = '/'\n\
         [[service.route]]\npath = '/old'\nprefix_rewrite = '/new/app'\n",
    );
    for (asked, written) in [
        ("/api/users?id=1", "/users?id=1"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/api?x", "/?x"),
        ("/%61pi/x", "/x"),
        ("//api//x", "/x"),
        ("/api/../api/x", "/x"),
        ("/api/a%2Fb", "/a%2Fb"),
        ("/old", "/new/app"),
        ("/old/x/", "/new/app/x/"),
        ("/apis", "/apis"),
    ] {
        let head = seen(&proxy, &backend, &get(asked));
        assert!(
            head.starts_with(&format!("GET {written} HTTP/1.1\r\n")),
            "{asked}: {head}"
        );
        let prefix = ["/api", "/old"].into_iter().find(|_| written != asked);
        let lower = head.to_ascii_lowercase();
        let told = lower
            .lines()
            .filter(|line| line.starts_with("x-forwarded-prefix:"));
        let told: Vec<&str> = told.collect();
        match prefix {
            None => assert!(told.is_empty(), "{head}"),
            Some(_) => {
                assert_eq!(told.len(), 1, "{head}");
                assert!(!told[0].contains("evil"), "{head}");
            }
        }
    }
}

#[test]
fn rewritten_path_of_every_request_gets_a_beginning() {
    let backend = Backend::new();
    let settings = "[[service.route]]\nprefix_rewrite = '/app'\n";
    let proxy = Proxy::new(&[&backend], settings);
    for (asked, written) in [("/", "/app/"), ("/x?y", "/app/x?y")] {
        let head = seen(&proxy, &backend, &get(asked));
        assert!(
            head.starts_with(&format!("GET {written} HTTP/1.1\r\n")),
            "{head}"
        );
    }
    let options = "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let head = seen(&proxy, &backend, options);
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
}

#[test]
fn what_is_no_file_goes_to_the_backends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app.js"), "script").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        &format!(
            "[[service.route]]\nfiles = {{ root = '{}', missing = 'backends' }}\n",
            dir.path().display()
        ),
    );
    let (status, answer) = proxy.ask(&get("/app.js")).answer();
    assert_eq!(status, 200);
    assert!(answer.ends_with("script"), "{answer}");
    for path in [
        "/",
        "/empty",
        "/empty/",
        "/users",
        "/.env",
        "/../etc/passwd",
    ] {
        let head = seen(&proxy, &backend, &get(path));
        assert!(head.starts_with(&format!("GET {path} ")), "{head}");
    }
    let post =
        "POST /app.js HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    let head = seen(&proxy, &backend, post);
    assert!(head.starts_with("POST /app.js "), "{head}");
}

#[test]
fn rewritten_path_does_not_lead_out_of_its_beginning() {
    let backend = Backend::new();
    let settings = "[[service.route]]\npath = '/api/pub'\nprefix_rewrite = '/pub'\n";
    let proxy = Proxy::new(&[&backend], settings);
    for path in [
        "/api/pub/..%2fadmin/x",
        "/api/pub/..;/admin",
        "/api/pub/..\\admin",
        "/api/pub/%2e%2e%2fadmin",
    ] {
        assert_eq!(proxy.ask(&get(path)).status(), 400, "{path}");
    }
    backend.was_spared();
    let head = seen(&proxy, &backend, &get("/api/pub/a%2Fb;v=1"));
    assert!(
        head.starts_with("GET /pub/a%2Fb;v=1 HTTP/1.1\r\n"),
        "{head}"
    );
}
