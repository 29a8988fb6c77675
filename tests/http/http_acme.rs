//! certbot and an ACME server: the first certificate of a service, and its renewal, by the recipe of
//! `docs/guides/tls.md`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::process::Process;
use lb_tests::skip::skip;
use lb_tests::tls::{Authority, Files, curl, is_same, shown};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};
use lb_tests::{node, wait};

const TLS: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 443);
const NAME: &str = "a.test";
/// The ACME server's address, one of the clients' host.
const SERVER: &str = "10.99.1.1";

fn services(files: &Files) -> String {
    format!(
        "[[service]]\nname = 'site'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.tls]\nlisten = ['0.0.0.0:443']\n\
         certificates = [{}]\nredirect_http = true\n[[service.route]]\n\
         path = '/.well-known/acme-challenge'\nbackends = ['127.0.0.1:8888']\n",
        files.toml()
    )
}

/// Pebble, and the DNS server that it asks, which gives every name the balancer's address.
struct Acme {
    dir: tempfile::TempDir,
    _programs: [Process; 2],
}

impl Acme {
    fn start(hosts: &Hosts) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = Authority::new(dir.path()).issue("api", &[SERVER]);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("{SERVER}:14000"),
            "managementListenAddress": format!("{SERVER}:15000"),
            "certificate": api.certificate, "privateKey": api.key,
            "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let file = dir.path().join("pebble.json");
        fs::write(&file, config.to_string()).unwrap();
        let dns = format!("{SERVER}:8053");
        let mut names = hosts.clients.command("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &dns, "-management", &format!("{SERVER}:8055")]);
        names.args(["-defaultIPv4", &SERVICE_V4.ip().to_string()]);
        names.args(["-defaultIPv6", ""]);
        let mut names = Process::start(names, &dir.path().join("names.log"));
        names.wait_for("management server on");
        let mut pebble = hosts.clients.command("pebble");
        pebble.arg("-config").arg(&file).args(["-dnsserver", &dns]);
        pebble.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")]);
        let mut pebble = Process::start(pebble, &dir.path().join("pebble.log"));
        pebble.wait_for("ACME directory available");
        Self {
            dir,
            _programs: [names, pebble],
        }
    }

    /// The files that certbot is going to write.
    fn files(&self) -> Files {
        let live = self.dir.path().join("etc/live").join(NAME);
        Files {
            certificate: live.join("fullchain.pem"),
            key: live.join("privkey.pem"),
        }
    }

    /// `certbot ARGUMENTS`, with directories of its own.
    #[track_caller]
    fn certbot(&self, hosts: &Hosts, arguments: &[&str]) -> Outcome {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = hosts.balancer.command("certbot");
        command.args(arguments).arg("--non-interactive");
        command.arg("--config-dir").arg(path("etc"));
        command.arg("--work-dir").arg(path("lib"));
        command.arg("--logs-dir").arg(path("log"));
        command.env("REQUESTS_CA_BUNDLE", path("authority.pem"));
        let outcome: Outcome = command.output().unwrap().into();
        assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
        outcome
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--help").output().is_ok()
}

/// Waits until clients are shown the certificate in `files`.
#[track_caller]
fn in_force(hosts: &Hosts, files: &Files) {
    wait::until("the certificate to be in force", || {
        let (pem, _) = shown(&hosts.clients, TLS, NAME, &[]);
        is_same(&pem, files).then_some(())
    });
}

fn checked(config: &Path) -> String {
    let path: PathBuf = fs::canonicalize(program()).unwrap();
    format!("{} check --config {}", path.display(), config.display())
}

#[test]
fn certbot_gets_the_first_certificate_and_renews_it_without_a_reload() {
    if !has("certbot") || !has("pebble") || !has("pebble-challtestsrv") {
        return skip("certbot or the ACME server Pebble is not installed");
    }
    let hosts = Hosts::new();
    let acme = Acme::start(&hosts);
    let files = acme.files();
    let agent = Agent::start(&hosts.balancer, &services(&files));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let server = format!("https://{SERVER}:14000/dir");
    let hook = checked(&agent.config());
    let issue = [
        "certonly",
        "--standalone",
        "--http-01-port",
        "8888",
        "-d",
        NAME,
    ];
    let account = [
        "--agree-tos",
        "--register-unsafely-without-email",
        "--server",
        &server,
    ];
    acme.certbot(
        &hosts,
        &[&issue[..], &account, &["--deploy-hook", &hook]].concat(),
    );
    in_force(&hosts, &files);
    let first = fs::read_to_string(&files.certificate).unwrap();
    let renewed = acme.certbot(
        &hosts,
        &["renew", "--force-renewal", "--no-random-sleep-on-renew"],
    );
    assert!(renewed.stdout.contains("configuration ok"), "{renewed:?}");
    assert_ne!(fs::read_to_string(&files.certificate).unwrap(), first);
    in_force(&hosts, &files);
    let url = format!("https://{NAME}/id");
    assert_eq!(curl(&hosts.clients, TLS, &["-k", &url]).code, 0);
    let url = format!("http://{NAME}/id");
    let plain = curl(&hosts.clients, SERVICE_V4, &["-w", "%{http_code}", &url]);
    assert!(plain.stdout.ends_with("308"), "{plain:?}");
}
