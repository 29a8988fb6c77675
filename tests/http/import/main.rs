//! `lb-agent import nginx`: nginx with a file of the corpus, and lb-agent with the translation, give the same answers to
//! the same requests, but for the differences that docs/guides/nginx.md states.
//!
//! | module | owns |
//! | --- | --- |
//! | `cases` | the files with their requests |
//! | `echo` | backends that answer with the request |

mod cases;
mod echo;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use cases::Case;
use lb_tests::agent::{self, Agent};
use lb_tests::exchange::{self, Reply};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::wait;

/// The directory of the corpus.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-import/tests/corpus");
/// Headers of responses that are compared.
const HEADERS: [&str; 8] = [
    "access-control-allow-origin",
    "cache-control",
    "content-security-policy",
    "content-type",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-powered-by",
];

/// What a client gets, as far as it is compared.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    location: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

#[test]
fn nginx_and_the_translation_answer_alike() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    cases::write_files(dir.path());
    echo::start(&hosts.balancer);
    let mut wrong = Vec::new();
    for case in cases::all() {
        let text = fs::read_to_string(format!("{CORPUS}/{}.nginx", case.file)).unwrap();
        let text = cases::located(&text, dir.path());
        let ask = || -> Vec<Answer> {
            let requests = case.requests.iter();
            requests
                .map(|request| answer(&hosts, &case, request))
                .collect()
        };
        let theirs = {
            let _nginx = nginx(&hosts.balancer, &text, case.port, dir.path());
            ask()
        };
        let file = dir.path().join(format!("{}.nginx", case.file));
        fs::write(&file, &text).unwrap();
        let imported = hosts
            .balancer
            .command(agent::program())
            .args(["import", "nginx", "--lossy"])
            .arg(&file)
            .output()
            .unwrap();
        let toml = String::from_utf8(imported.stdout).unwrap();
        assert!(imported.status.success(), "{:?}", imported.stderr);
        let _agent = Agent::start_on(&hosts.balancer, &toml, "userspace");
        let ours = ask();
        for ((request, theirs), ours) in case.requests.iter().zip(theirs).zip(ours) {
            if let Some(difference) = difference(theirs, ours) {
                wrong.push(format!("{} {request:?}: {difference}", case.file));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// nginx with the server blocks `text`, which ends when dropped.
fn nginx(host: &Host, text: &str, port: u16, dir: &Path) -> Process {
    let paths = "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; \
                 scgi_temp_path scgi; access_log off; \
                 types { text/html html htm; image/x-icon ico; text/css css; application/javascript js; text/plain txt; }";
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;\nevents {{}}\nhttp {{\n{paths}\n{text}\n}}\n"
    );
    let file = dir.join("whole.conf");
    fs::write(&file, config).unwrap();
    let mut command = host.command("nginx");
    command
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&file)
        .args(["-e", "error.log"]);
    let mut nginx = Process::start(command, &dir.join("nginx.out"));
    wait::until("nginx", || {
        let printed = nginx.printed();
        assert!(nginx.ended().is_none(), "nginx ended: {printed}");
        let to = SocketAddr::new(SERVICE_V4.ip(), port);
        host.run(|| std::net::TcpStream::connect(to).ok())
    });
    nginx
}

/// The answer to `request`: method and target, the host, and header lines.
fn answer(hosts: &Hosts, case: &Case, (what, host, lines): &(&str, &str, &[&str])) -> Answer {
    let to = SocketAddr::new(SERVICE_V4.ip(), case.port);
    let host = format!("Host: {host}");
    let mut all = vec![host.as_str()];
    all.extend(*lines);
    let reply = exchange::ask(&hosts.clients, client_v4(1), to, what, &all);
    let shown = |name: &&'static str| {
        let values = reply.headers.iter().filter(|(known, _)| known == name);
        let mut values: Vec<&str> = values.map(|(_, value)| plain(value)).collect();
        values.sort_unstable();
        // nginx has the type of an answer twice where `add_header` repeats it.
        values.dedup();
        (*name, values.join(", "))
    };
    Answer {
        status: reply.status,
        location: location(&reply, &host),
        headers: HEADERS
            .iter()
            .map(shown)
            .filter(|(_, value)| !value.is_empty())
            .collect(),
        body: reply.body,
    }
}

/// A value without its charset, and with one name for the type of scripts.
fn plain(value: &str) -> &str {
    let value = value.split("; charset=").next().unwrap_or_default();
    match value.trim_end_matches(", charset=\"UTF-8\"") {
        "application/javascript" => "text/javascript",
        value => value,
    }
}

/// `Location` without the host that was asked, which nginx writes before a path.
fn location(reply: &Reply, host: &str) -> String {
    let base = format!("http://{}", host.trim_start_matches("Host: "));
    let location = reply.header("location");
    location.strip_prefix(&base).unwrap_or(location).to_owned()
}

/// A difference that the documentation does not state.
fn difference(mut theirs: Answer, mut ours: Answer) -> Option<String> {
    for answer in [&mut theirs, &mut ours] {
        // The words of error pages are each program's own.
        if answer.status >= 300 {
            answer.body.clear();
            answer
                .headers
                .retain(|(name, _)| *name == "www-authenticate");
        }
    }
    if let (Some(by_nginx), Some(by_ours)) = (echo::seen(&theirs.body), echo::seen(&ours.body)) {
        // Backends of lb-agent get more headers, as X-Forwarded-For.
        let missing: Vec<_> = by_nginx
            .iter()
            .filter(|line| !by_ours.contains(line))
            .collect();
        if !missing.is_empty() {
            return Some(format!("the backend misses {missing:?} among {by_ours:?}"));
        }
        theirs.body.clear();
        ours.body.clear();
    }
    (theirs != ours).then(|| format!("nginx {theirs:?}, lb-agent {ours:?}"))
}
