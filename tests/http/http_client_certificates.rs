//! Certificates of clients: required, told to the backend, revoked while the agent runs; connections and session tickets
//! of one name or service are worth nothing to another.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use lb_tests::agent::{Agent, Outcome};
use lb_tests::tls::{Authority, Files, curl, s_client};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};
use lb_tests::{node, wait};
use serde_json::Value;

const TLS: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 443);
const OTHER: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 8443);

fn service(name: &str, port: u16, server: &Files, more: &str) -> String {
    format!(
        "[[service]]\nname = '{name}'\nmode = 'http'\nbackends = ['127.0.0.1:5000']\n[service.tls]\n\
         listen = ['0.0.0.0:{port}']\ncertificates = [{}]\n{more}\n",
        server.toml()
    )
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An authority for clients beside that of the servers, in a directory of its own.
fn clients_of(dir: &Path, name: &str) -> Authority {
    let dir = dir.join(name);
    fs::create_dir(&dir).unwrap();
    Authority::new(&dir)
}

/// Waits until so many handshakes with `service` have failed by the certificate, for this cause.
fn wait_for_handshakes(agent: &Agent<'_>, service: &str, cause: &str, count: u64) {
    wait::until(cause, || {
        (handshakes(agent, service, cause) == count).then_some(())
    });
}

fn handshakes(agent: &Agent<'_>, service: &str, cause: &str) -> u64 {
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let rows = stats["http"].as_array().unwrap();
    let row = rows.iter().find(|row| row["service"] == service).unwrap();
    let count = &row["handshakes"][format!("certificate_{cause}")];
    count.as_u64().unwrap()
}

struct Client<'a> {
    hosts: &'a Hosts,
    trust: String,
}

impl Client<'_> {
    /// A request, with a certificate or without.
    fn get(&self, certificate: Option<&Files>, arguments: &[&str]) -> Outcome {
        let mut all = vec!["--cacert", &self.trust];
        if let Some(files) = certificate {
            all.extend([
                "--cert",
                path(&files.certificate),
                "--key",
                path(&files.key),
            ]);
        }
        all.extend(arguments);
        curl(&self.hosts.clients, TLS, &all)
    }

    /// The fields that the backend gets of a request.
    fn fields(&self, certificate: Option<&Files>, arguments: &[&str]) -> Value {
        let url = ["https://a.test/request"];
        let answer = self.get(certificate, &[arguments, &url].concat());
        assert_eq!(answer.code, 0, "{answer:?}");
        let seen: Value = serde_json::from_str(&answer.stdout).unwrap();
        seen["headers"].clone()
    }
}

#[test]
fn backend_is_told_the_certificate_and_nothing_that_the_client_makes_up() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let servers = Authority::new(dir.path());
    let server = servers.issue("a", &["a.test"]);
    let ours = clients_of(dir.path(), "ours");
    let ann = ours.issue_numbered("ann", 10);
    let client_ca = ours.certificate();
    let log = dir.path().join("access.log");
    let more = format!(
        "client_ca = '{}'\nclient_certificates = 'optional'\n[service.http]\n\
         access_log = {{ file = '{}' }}\n\
         request_headers = [{{ set = 'X-Client-DN', value = '$client_cert_subject' }}]",
        client_ca.display(),
        log.display()
    );
    let agent = Agent::start(&hosts.balancer, &service("app", 443, &server, &more));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let client = Client {
        hosts: &hosts,
        trust: servers.certificate().display().to_string(),
    };
    let lies = [
        "SSL-Client-Verify: SUCCESS",
        "SSL.Client.Subject: CN=root",
        "X-SSL-Client-CN: root",
        "Client-Cert: :AAAA:",
        "X.Client.DN: CN=root",
        "X-Client+DN: CN=root",
    ];
    let lies: Vec<&str> = lies.iter().flat_map(|lie| ["-H", lie]).collect();
    for version in ["--http1.1", "--http2"] {
        let arguments = [&lies[..], &[version]].concat();
        let known = client.fields(Some(&ann), &arguments);
        assert_eq!(known["ssl-client-verify"], "SUCCESS", "{known:#}");
        assert_eq!(known["ssl-client-serial"], "0A", "{known:#}");
        let subject = known["ssl-client-subject"].as_str().unwrap();
        assert!(subject.contains("CN=ann"), "{subject}");
        assert_eq!(known["x-client-dn"], *subject, "{known:#}");
        let print = fingerprint(&ann);
        assert_eq!(known["ssl-client-fingerprint"], print, "{known:#}");
        let unknown = client.fields(None, &arguments);
        assert_eq!(unknown["ssl-client-verify"], "NONE", "{unknown:#}");
        for fields in [&known, &unknown] {
            let text = fields.to_string();
            assert!(!text.contains("root") && !text.contains("AAAA"), "{text}");
        }
        assert!(unknown.get("ssl-client-subject").is_none(), "{unknown:#}");
    }
    wait::until("the certificate in the access log", || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains("client_cert=\"CN=ann\"").then_some(())
    });
    let tls = agent.status()["services"][0]["tls"].clone();
    assert_eq!(tls["clients"]["policy"], "optional", "{tls:#}");
}

/// SHA-256 of a certificate by OpenSSL, as the agent writes it.
fn fingerprint(files: &Files) -> String {
    let mut command = std::process::Command::new("openssl");
    command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    let output = command.arg(&files.certificate).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, print) = text.trim().split_once('=').unwrap();
    print.replace(':', "").to_lowercase()
}

#[test]
fn required_certificate_is_checked_against_authority_time_and_revocation() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let servers = Authority::new(dir.path());
    let server = servers.issue("a", &["a.test"]);
    let [ours, theirs] = ["ours", "theirs"].map(|name| clients_of(dir.path(), name));
    let (ann, bob) = (
        ours.issue_numbered("ann", 10),
        ours.issue_numbered("bob", 11),
    );
    let stranger = theirs.issue_numbered("eve", 10);
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    let old = ours.issue_for("old", &[], now - 3 * day, now - day);
    let list = ours.revoke(&[10]);
    let more = format!(
        "redirect_http = true\nclient_ca = '{}'\ncrl = '{}'\n[service.http]\n\
         trusted_proxies = ['0.0.0.0/0']",
        ours.certificate().display(),
        list.display()
    );
    let text = service("app", 443, &server, &more);
    let text = text.replace("mode = 'http'", "mode = 'http'\nlisten = ['0.0.0.0:80']");
    let agent = Agent::start(&hosts.balancer, &text);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let client = Client {
        hosts: &hosts,
        trust: servers.certificate().display().to_string(),
    };
    let visit = |certificate| client.get(certificate, &["https://a.test/id"]).code;
    assert_eq!(visit(Some(&bob)), 0);
    for refused in [None, Some(&ann), Some(&stranger), Some(&old)] {
        assert_ne!(visit(refused), 0, "{refused:?}");
    }
    for cause in ["missing", "revoked", "unknown_authority", "expired"] {
        wait_for_handshakes(&agent, "app", cause, 1);
    }
    let plain = |arguments: &[&str]| {
        let usual = ["-o", "/dev/null", "-w", "%{http_code}", "http://a.test/id"];
        client.get(None, &[&usual, arguments].concat()).stdout
    };
    assert_eq!(plain(&[]), "308");
    assert_eq!(plain(&["-H", "X-Forwarded-Proto: https"]), "403");
    ours.revoke(&[11]);
    wait::until("the new list", || (visit(Some(&bob)) != 0).then_some(()));
    assert_eq!(visit(Some(&ann)), 0, "its certificate is good again");
}

#[test]
fn request_for_a_name_that_was_not_negotiated_is_misdirected() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let servers = Authority::new(dir.path());
    let names = ["www.test", "shop.test", "admin.test", "root.test"];
    let server = servers.issue("a", &names);
    let ours = clients_of(dir.path(), "ours");
    let ann = ours.issue_numbered("ann", 10);
    let more = format!(
        "client_ca = '{}'\nclient_hosts = ['admin.test', 'root.test']",
        ours.certificate().display()
    );
    let agent = Agent::start(&hosts.balancer, &service("app", 443, &server, &more));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let client = Client {
        hosts: &hosts,
        trust: servers.certificate().display().to_string(),
    };
    for version in ["--http1.1", "--http2"] {
        for (sni, host, status) in [
            ("www.test", "www.test", "200"),
            ("www.test", "shop.test", "200"),
            ("www.test", "admin.test", "421"),
            ("www.test", "ADMIN.test.:443", "421"),
            ("admin.test", "admin.test", "200"),
            ("admin.test", "root.test", "200"),
            ("admin.test", "www.test", "421"),
        ] {
            let certificate = (sni == "admin.test").then_some(&ann);
            let (host_field, url) = (format!("Host: {host}"), format!("https://{sni}/id"));
            let arguments = [
                version,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                &host_field,
                &url,
            ];
            let answer = client.get(certificate, &arguments);
            assert_eq!(answer.stdout, status, "{version} {sni} {host}: {answer:?}");
        }
    }
    let without = client.get(None, &["https://admin.test/id"]);
    assert_ne!(without.code, 0, "{without:?}");
}

#[test]
fn ticket_of_one_service_is_worth_nothing_to_another() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let servers = Authority::new(dir.path());
    let server = servers.issue("a", &["a.test"]);
    let [ours, theirs] = ["ours", "theirs"].map(|name| clients_of(dir.path(), name));
    let ann = ours.issue_numbered("ann", 10);
    let ca = |authority: &Authority| format!("client_ca = '{}'", authority.certificate().display());
    let services =
        service("one", 443, &server, &ca(&ours)) + &service("two", 8443, &server, &ca(&theirs));
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    for version in ["-tls1_2", "-tls1_3"] {
        let session = dir.path().join(format!("session{version}"));
        let connect = |to, file: [&str; 2]| {
            let mut command = s_client(&hosts.clients, to, "a.test");
            command.args([version, "-ign_eof", "-cert", path(&ann.certificate)]);
            command.args(["-key", path(&ann.key)]).args(file);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            // With TLS 1.3 tickets come after the handshake.
            let ask = b"GET /id HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            // The server may have refused the client before.
            let _ = child.stdin.take().unwrap().write_all(ask);
            let output = child.wait_with_output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let said = connect(TLS, ["-sess_out", path(&session)]);
        assert!(said.contains("HTTP/1.1 200 OK"), "{version}: {said}");
        let said = connect(TLS, ["-sess_in", path(&session)]);
        assert!(said.contains("\nReused, "), "{version}: {said}");
        assert!(said.contains("HTTP/1.1 200 OK"), "{version}: {said}");
        let said = connect(OTHER, ["-sess_in", path(&session)]);
        assert!(!said.contains("\nReused, "), "{version}: {said}");
        assert!(!said.contains("HTTP/1.1 200 OK"), "{version}: {said}");
    }
    wait_for_handshakes(&agent, "two", "unknown_authority", 2);
}
