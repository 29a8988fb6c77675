//! `files` of a route: an agent whose threads have no privileges sends them, and `check` and `reload` find roots that
//! those threads cannot read.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};

/// A service without a backend, with the files of `root`.
fn service(root: &Path) -> String {
    format!(
        "[[service]]\nname = 'site'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         [[service.route]]\npath = '/'\n[service.route.files]\nroot = '{}'\n\
         try = ['$path', '/index.html']\nprecompressed = ['gzip']\n",
        root.display()
    )
}

fn close(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn confined_agent_sends_files_of_a_service_without_a_backend() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("www");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", root.join("out")).unwrap();
    fs::write(root.join("index.html"), "page").unwrap();
    fs::write(root.join("app.js"), "script").unwrap();
    fs::write(root.join("app.js.gz"), "coded").unwrap();
    let large = "0123456789".repeat(200_000);
    fs::write(root.join("large.txt"), &large).unwrap();
    fs::write(root.join("closed.txt"), "closed").unwrap();
    close(&root.join("closed.txt"));
    // Its files are found by their names, although its entries may not be read.
    fs::set_permissions(&root, Permissions::from_mode(0o311)).unwrap();
    let agent = Agent::start(&hosts.balancer, &service(&root));
    let ask = |what: &str, lines: &[&str]| -> Reply {
        exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, what, lines)
    };
    assert_eq!(ask("GET /", &[]).body, "page");
    let page = ask("GET /users/7", &[]);
    assert_eq!((page.status, page.body.as_str()), (200, "page"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let script = ask("GET /app.js", &["Accept-Encoding: gzip"]);
    assert_eq!(
        (script.body.as_str(), script.header("content-encoding")),
        ("coded", "gzip")
    );
    let whole = ask("GET /large.txt", &[]);
    assert!(whole.body == large, "{} bytes", whole.body.len());
    let part = ask("GET /large.txt", &["Range: bytes=1000000-1000004"]);
    assert_eq!((part.status, part.body.as_str()), (206, "01234"));
    // Root itself may read every file, its threads that serve clients may not.
    assert_eq!(ask("GET /closed.txt", &[]).status, 403);
    assert_eq!(ask("GET /out", &[]).body, "page");
    assert_eq!(ask("GET /.git/config", &[]).status, 404);
    assert_eq!(ask("POST /app.js", &["Content-Length: 0"]).status, 405);

    // A root of which no use can be made changes nothing.
    let closed = dir.path().join("closed");
    fs::create_dir_all(closed.join("www")).unwrap();
    close(&closed);
    for (wrong, message) in [
        (dir.path().join("none"), "/none is not there"),
        (dir.path().join("secret"), "/secret is no directory"),
        (closed.join("www"), "/closed may not be entered"),
        (closed.clone(), "/closed may not be entered"),
    ] {
        agent.configure(&service(&wrong));
        let config = agent.config().display().to_string();
        for command in [&["check", "--config", &config][..], &["reload"]] {
            let outcome = agent.run(command);
            assert_ne!(outcome.code, 0, "{command:?}: {outcome:?}");
            assert!(outcome.stderr.contains(message), "{command:?}: {outcome:?}");
        }
        assert_eq!(ask("GET /app.js", &[]).body, "script", "{message}");
    }
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(other.join("app.js"), "other").unwrap();
    agent.configure(&service(&other));
    agent.ok(&["reload"]);
    assert_eq!(ask("GET /app.js", &[]).body, "other");
}
