//! Forward authentication with a login in Node.js: curl logs in as a browser does, over HTTP/1.1 and HTTP/2.

use std::path::Path;

use lb_tests::agent::Agent;
use lb_tests::node;
use lb_tests::tls::{self, Authority};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};

/// Headers by which a client would be another user.
const CLAIMS: [&str; 4] = ["-H", "X-Auth-User: root", "-H", "X.Auth.User: root"];

fn services(files: &tls::Files) -> String {
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:5000']\n\
         [service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]\nredirect_http = false\n\
         [service.http]\nauth = {{ url = 'http://127.0.0.1:4180/auth', set = ['X-Auth-User'] }}\n\
         [[service.route]]\npath = '/login'\nauth = false\nbackends = ['127.0.0.1:4180']\n",
        files.toml()
    )
}

/// What curl shows for a URL: the heads and the bodies of all answers.
#[track_caller]
fn curl(hosts: &Hosts, authority: &Authority, url: &str, arguments: &[&str]) -> String {
    let certificate = authority.certificate();
    let mut to = SERVICE_V4;
    if url.starts_with("https:") {
        to.set_port(443);
    }
    let all = ["-i", "--cacert", certificate.to_str().unwrap(), url];
    let outcome = tls::curl(&hosts.clients, to, &[&all[..], arguments].concat());
    outcome.stdout.replace('\r', "")
}

fn jar(dir: &Path) -> String {
    dir.join("jar").display().to_string()
}

#[test]
fn login_leads_back_and_the_application_sees_the_user_until_the_login_is_gone() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let agent = Agent::start(
        &hosts.balancer,
        &services(&authority.issue("a", &["a.test"])),
    );
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let login = || {
        let listen = ([127, 0, 0, 1], 4180).into();
        node::serve(&hosts.balancer, "auth.js", listen, agent.dir())
    };
    let auth = login();
    let ask = |url: &str, arguments: &[&str]| curl(&hosts, &authority, url, arguments);
    let jar = jar(dir.path());
    let cookies = ["-b", &jar, "-c", &jar];

    // Nobody gets in without a session, by any door.
    let to_login = "/login?to=%2Frequest%3Fa&method=POST";
    let denied = ask("http://a.test/request?a", &["-d", "x", "-b", "session=1"]);
    assert!(denied.starts_with("HTTP/1.1 302 Found\n"), "{denied}");
    assert!(
        denied
            .to_lowercase()
            .contains(&format!("location: {to_login}\n").to_lowercase())
    );
    for path in ["ws", "socket.io/?EIO=4&transport=polling", "id"] {
        let websocket = ["-H", "Connection: upgrade", "-H", "Upgrade: websocket"];
        let denied = ask(&format!("http://a.test/{path}"), &websocket);
        assert!(
            denied.starts_with("HTTP/1.1 302 Found\n"),
            "{path}: {denied}"
        );
    }

    // The login, and the way back.
    for (scheme, version) in [("http", "--http1.1"), ("https", "--http2")] {
        let _ = std::fs::remove_file(&jar);
        let all = [&cookies[..], &[version]].concat();
        let page = ask(
            &format!("{scheme}://a.test/request"),
            &[&all[..], &["-L"]].concat(),
        );
        assert!(page.contains("<form"), "{page}");
        let url = format!("{scheme}://a.test/login?to=/request");
        let back = ask(
            &url,
            &[&all[..], &CLAIMS, &["-L", "-d", "user=ann"]].concat(),
        );
        assert!(back.contains(" 303"), "{back}");
        let body = back.rsplit("\n\n").next().unwrap();
        let seen: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["headers"]["x-auth-user"], "ann", "{seen:#}");
        assert_eq!(
            seen["headers"]["x.auth.user"],
            serde_json::Value::Null,
            "{seen:#}"
        );
        // Each answer has a new cookie, with which the next request gets in.
        let before = std::fs::read_to_string(&jar).unwrap();
        let again = ask(&format!("{scheme}://a.test/id"), &all);
        assert!(again.contains(" 200"), "{again}");
        assert_ne!(std::fs::read_to_string(&jar).unwrap(), before);
    }
    let websocket = [
        "-H",
        "Connection: upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "--http1.1",
        "--max-time",
        "2",
    ];
    let opened = ask("http://a.test/ws", &[&cookies[..], &websocket].concat());
    assert!(opened.starts_with("HTTP/1.1 101 "), "{opened}");

    // Without the login nobody gets in, and a new one is taken up.
    drop(auth);
    let alone = ask("http://a.test/request", &cookies);
    assert!(alone.starts_with("HTTP/1.1 502 "), "{alone}");
    let _auth = login();
    let known = ask("http://a.test/request", &cookies);
    assert!(known.starts_with("HTTP/1.1 302 "), "{known}");
}
