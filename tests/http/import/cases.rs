//! Files of the corpus, and requests for each.

use std::fs;
use std::path::Path;

/// A request: method and target, host, header lines.
pub(crate) type Request = (&'static str, &'static str, &'static [&'static str]);

/// A file of the corpus with the requests that it is tried by.
pub(crate) struct Case {
    pub(crate) file: &'static str,
    pub(crate) port: u16,
    pub(crate) requests: Vec<Request>,
}

/// A hash of the password `secret`.
const USERS: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Directories of the corpus, which the test has below one of its own.
const DIRECTORIES: [&str; 8] = [
    "/etc/nginx/.htpasswd",
    "/srv/app/dist",
    "/srv/downloads",
    "/srv/icons",
    "/srv/next",
    "/srv/site",
    "/srv/d;",
    "/var/www/static/html",
];

/// The files that the corpus speaks of, below `dir`.
pub(crate) fn write_files(dir: &Path) {
    for (name, text) in [
        ("/etc/nginx/.htpasswd", USERS),
        ("/srv/app/dist/index.html", "app"),
        ("/srv/app/dist/assets/app.js", "script"),
        ("/srv/app/dist/.env", "secret"),
        ("/srv/downloads/file.txt", "download"),
        ("/srv/icons/site.ico", "icon"),
        ("/srv/next/.next/static/chunk.js", "chunk"),
        ("/srv/next/public/logo.txt", "logo"),
        ("/srv/site/index.html", "home"),
        ("/srv/site/about.html", "about"),
        ("/srv/d/dump.sql", "dump"),
        ("/var/www/static/html/index.html", "static"),
        ("/var/www/static/html/sub/index.htm", "sub"),
        ("/var/www/static/html/404.html", "nothing here"),
    ] {
        let path = dir.join(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// The file with its directories below `dir`, and without a log.
pub(crate) fn located(text: &str, dir: &Path) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("access_log /"));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for directory in DIRECTORIES {
        text = text.replace(directory, &format!("{}{directory}", dir.display()));
    }
    text
}

/// The cases.
pub(crate) fn all() -> Vec<Case> {
    let case = |file, requests: &[Request]| Case {
        file,
        port: 80,
        requests: requests.to_vec(),
    };
    vec![
        case(
            "node_proxy",
            &[
                ("GET /a/b?c=d", "app.example.com", &["X-Own: 1"]),
                ("POST /form", "other.example", &["Content-Length: 2000000"]),
                ("HEAD /x", "app.example.com", &[]),
            ],
        ),
        case(
            "socketio_path",
            &[
                ("GET /", "a.example", &[]),
                ("GET /socket.io/?EIO=4", "a.example", &[]),
            ],
        ),
        case(
            "strapi",
            &[
                ("GET /api/articles?id=1", "cms.example.com", &[]),
                ("GET /dashboard/x", "cms.example.com", &[]),
                ("GET /", "cms.example.com", &[]),
                ("GET /about", "cms.example.com", &[]),
                ("GET /missing", "cms.example.com", &[]),
            ],
        ),
        case(
            "auth_request",
            &[
                ("GET /page", "intern.example.com", &["Cookie: in=1"]),
                ("GET /oauth2/start?rd=x", "intern.example.com", &[]),
            ],
        ),
        case("ghost", &[("GET /post/?p=1", "blog.example.com", &[])]),
        case(
            "nextjs",
            &[
                ("GET /_next/static/chunk.js", "next.example.com", &[]),
                ("GET /_next/static/none.js", "next.example.com", &[]),
                ("GET /public/logo.txt", "next.example.com", &[]),
                ("GET /page", "next.example.com", &[]),
            ],
        ),
        case(
            "rewrites",
            &[
                ("GET /old-page", "old.example.com", &[]),
                ("GET /old-page/x", "old.example.com", &[]),
                ("GET /shop/a?b=c", "old.example.com", &[]),
                ("GET /gone", "old.example.com", &[]),
                ("GET /healthz", "old.example.com", &[]),
                ("GET /rest", "old.example.com", &[]),
            ],
        ),
        case(
            "headers",
            &[
                ("GET /", "a.example", &["Authorization: Basic eDp5"]),
                ("GET /embed/x", "a.example", &["Authorization: Basic eDp5"]),
            ],
        ),
        Case {
            port: 8080,
            ..case(
                "spa_api",
                &[
                    ("GET /", "a.example", &[]),
                    ("GET /users/7", "a.example", &[]),
                    ("GET /assets/app.js", "a.example", &[]),
                    ("GET /index.html", "a.example", &[]),
                    ("GET /.env", "a.example", &[]),
                    ("GET /api/users?x=1", "a.example", &[]),
                ],
            )
        },
        case(
            "static_site",
            &[
                ("GET /", "static.example.com", &[]),
                ("GET /sub/", "static.example.com", &[]),
                ("GET /sub", "static.example.com", &[]),
                ("GET /none", "static.example.com", &[]),
                ("GET /downloads/file.txt", "static.example.com", &[]),
                ("GET /favicon.ico", "static.example.com", &[]),
                ("POST /", "static.example.com", &["Content-Length: 0"]),
            ],
        ),
        case(
            "limit",
            &[
                ("GET /login", "a.example", &[]),
                ("GET /login", "a.example", &[]),
                ("GET /login", "a.example", &[]),
                ("GET /login", "a.example", &[]),
                ("GET /open", "a.example", &[]),
                ("GET /", "a.example", &[]),
            ],
        ),
        case(
            "basic_auth",
            &[
                ("GET /", "a.example", &[]),
                (
                    "GET /",
                    "a.example",
                    &["Authorization: Basic YW5uOnNlY3JldA=="],
                ),
                ("GET /", "a.example", &["Authorization: Basic YW5uOndyb25n"]),
                ("GET /healthz", "a.example", &[]),
            ],
        ),
        case(
            "two_sites",
            &[
                ("GET /x", "a.example.com", &[]),
                ("GET /files/x", "a.example.com", &[]),
                ("GET /x", "b.example.com", &[]),
                ("GET /files/x", "www.b.example.com", &[]),
                ("GET /x?y=z", "www.a.example.com", &[]),
            ],
        ),
        case(
            "x_accel",
            &[
                ("GET /", "a.example", &[]),
                ("GET /nested/x", "a.example", &[]),
                ("GET /nested/deep/x", "a.example", &[]),
                ("GET /twice", "a.example", &[]),
                ("GET /twice/x", "a.example", &[]),
                ("GET /protected/x", "a.example", &[]),
            ],
        ),
        case(
            "same_backends",
            &[
                ("GET /", "c.example.com", &[]),
                ("GET /dump.sql", "d.example.com", &[]),
            ],
        ),
        case(
            "plain_redirect_only",
            &[
                ("GET /a?b", "a.example.com", &[]),
                ("GET /", "x.example", &[]),
            ],
        ),
        Case {
            port: 81,
            ..case(
                "plain_redirect_only",
                &[
                    ("GET /a?b", "b.example.com", &[]),
                    ("GET /a", "x.example", &[]),
                ],
            )
        },
    ]
}
