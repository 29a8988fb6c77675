//! The program as a user meets it where no agent is needed, or a made-up one will do: what is
//! printed, where, and with which exit code.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use lb_agent::control::message::{Command as Request, Refusal, RefusalKind, Reply};
use lb_agent::control::queue::{Call, queue};
use lb_agent::control::server;
use lb_agent::crowd::Phase;
use tokio::runtime::Runtime;
use tokio::sync::watch;

fn lb_agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-agent"));
    command
        .args(args)
        .env_remove("LB_AGENT_CONTROL")
        .env_remove("LB_AGENT_LOG");
    command
}

/// Exit code, standard output, standard error.
fn outcome(args: &[&str]) -> (i32, String, String) {
    told(lb_agent(args).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

const GOOD: &str = "[[service]]\nname = 'web'\nlisten = ['127.0.0.1:8080']\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Refuses everything that names port 9, and does the rest.
struct FakeAgent {
    _runtime: Runtime,
    _phase: watch::Sender<Phase>,
    dir: tempfile::TempDir,
}

impl FakeAgent {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let listener = {
            let _inside = runtime.enter();
            server::bind(&dir.path().join("control.sock"), None).unwrap()
        };
        let (calls, mut inbox) = queue();
        let (phase, serving) = watch::channel(Phase::Serving);
        runtime.spawn(server::serve(
            listener,
            calls,
            lb_agent::metrics::server::response,
            8,
            serving,
        ));
        runtime.spawn(async move {
            while let Some(Call { command, reply, .. }) = inbox.next().await {
                let _ = reply.send(Self::answer(&command));
            }
        });
        Self {
            _runtime: runtime,
            _phase: phase,
            dir,
        }
    }

    fn answer(command: &Request) -> Result<Reply, Refusal> {
        match command {
            Request::AddBackend { address, .. } if address.key().port() == 9 => Err(Refusal {
                kind: RefusalKind::Conflict,
                error: format!("{address} is there already"),
                hint: Some("see status".to_owned()),
            }),
            Request::Reload { .. } => Err(Refusal {
                kind: RefusalKind::BadRequest,
                error: "/etc/c:1: a: bad\n/etc/c:2: b: bad".to_owned(),
                hint: Some("nothing was changed".to_owned()),
            }),
            command => Ok(Reply::Changed {
                message: format!("{command:?}"),
            }),
        }
    }

    fn outcome(&self, args: &[&str]) -> (i32, String, String) {
        let socket = self.dir.path().join("control.sock");
        told(
            lb_agent(args)
                .env("LB_AGENT_CONTROL", socket)
                .output()
                .unwrap(),
        )
    }
}

#[test]
fn a_good_configuration_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), GOOD);
    let expected = "configuration ok: 1 service, 2 backends\n".to_owned();
    assert_eq!(
        outcome(&["check", "--config", &path]),
        (0, expected, String::new())
    );
}

#[test]
fn warnings_do_not_fail_a_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "[[service]]\nname = 'web'\nlisten = ['[::]:80']",
    );
    let (code, stdout, _) = outcome(&["check", "--config", &path]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("\nwarning: web has no backend in the configuration"),
        "{stdout}"
    );
}

#[test]
fn check_finds_what_files_users_and_limits_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("page"), "").unwrap();
    std::fs::write(dir.path().join("users"), "ann:$apr1$x$y\n").unwrap();
    let shown = dir.path().display();
    let service = |limit: &str, users: &str, root: &str| {
        format!(
            "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n\
             limit = [{limit}]\n[service.http]\nauth = {{ users = '{shown}/{users}' }}\n\
             [[service.route]]\npath = '/files'\nfiles = '{shown}/{root}'\n"
        )
    };
    for (config, problem) in [
        (
            service("{ rate = '1/1s', burst = 0 }", "none", "page"),
            "burst: ",
        ),
        (
            service("{ rate = '1/1s', burst = 0 }", "none", "page"),
            "/none: No such file",
        ),
        (
            service("{ rate = '0/1s' }", "users", "page"),
            "\"0\" is not a number of requests",
        ),
        (
            service("", "users", "page"),
            "users:1: the hash of ann is apr1",
        ),
        (service("", "users", "page"), "/page is no directory"),
    ] {
        let path = write(dir.path(), &config);
        let (code, stdout, stderr) = outcome(&["check", &path]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        let start = format!("lb-agent: {path}:");
        let mut lines = stderr.lines();
        assert!(
            lines.any(|line| line.starts_with(&start) && line.contains(problem)),
            "{problem}: {stderr}"
        );
    }
    std::fs::write(dir.path().join("users"), "").unwrap();
    let limits =
        "{ name = 'all', rate = '10/1m' }, { name = 'login', rate = '20/1m', path = '/login' }";
    let path = write(dir.path(), &service(limits, "users", ""));
    let (code, stdout, stderr) = outcome(&["check", &path]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains(
            "\nwarning: web: the limit login never refuses a request, as all goes before it"
        ),
        "{stdout}"
    );
}

#[test]
fn plan_takes_its_file_by_position_and_status_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &GOOD.replace(":8080", ""));
    let named = outcome(&["plan", "--config", &path]);
    assert!(named.2.contains("listen"), "{named:?}");
    assert_eq!(outcome(&["plan", &path]), named);
    assert_eq!(outcome(&["plan", &path, "--config", &path]).0, 2);
    let (code, _, stderr) = outcome(&["status", "--interval", "1s"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("--watch"), "{stderr}");
    let agent = FakeAgent::start();
    let (_, _, stderr) = agent.outcome(&["status", "--watch", "--interval", "soon"]);
    assert!(stderr.contains("--interval"), "{stderr}");
}

#[test]
fn a_bad_configuration_ends_check_and_run_with_2_and_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        &GOOD.replace(":8080", "").replace("name", "nam"),
    );
    for command in ["check", "run"] {
        let (code, stdout, stderr) = outcome(&[command, "--config", &path]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{stderr}");
        let start = format!("lb-agent: {path}:");
        assert!(
            lines.iter().all(|line| line.starts_with(&start)),
            "{stderr}"
        );
    }
}

/// A certificate for `name` that ended an hour ago, or goes on for a day; and its key.
fn certificate(name: &str, expired: bool) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    params.not_before = (now - 24 * hour).into();
    params.not_after = if expired { now - hour } else { now + 24 * hour }.into();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn everything_wrong_with_an_http_service_is_told_at_once_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (expired, its_key) = certificate("a.test", true);
    let (good, _) = certificate("b.test", false);
    let (expired, its_key) = (file("a.pem", expired), file("a.key", its_key));
    let (good, page) = (file("b.pem", good), dir.path().join("none.html"));
    let text = format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         [service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [\n\
         {{ certificate = '{expired}', key = '{its_key}' }},\n\
         {{ certificate = '{good}', key = '{its_key}' }}]\n\
         [service.http]\n\
         request_headers = [{{ set = 'X-A', value = '$clientip' }}]\n\
         errors = {{ maintenance = '{}' }}\n\
         [[service.route]]\npath = '/a'\nredirect = '/b'\n\
         [[service.route]]\npath = '/%61'\nanswer = {{}}\n\
         [[service.route]]\npath = '/a'\nanswer = {{}}\n\
         [[service.route]]\npath = '/nowhere'\n",
        page.display()
    );
    let path = write(dir.path(), &text);
    let (code, stdout, stderr) = outcome(&["check", "--config", &path]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    let wanted = [
        (8, "service[0].tls.certificates[0]", "expired on"),
        (9, "service[0].tls.certificates[1]", "b.pem"),
        (
            11,
            "service[0].http.request_headers[0].value",
            "$client_ip?",
        ),
        (12, "service[0].http.errors", "none.html"),
        (17, "service[0].route[1].path", "write \"/a\""),
        (20, "service[0].route[2].path", "line 13"),
        (22, "service[0].route[3]", "leads nowhere"),
    ];
    for (line, key, text) in wanted {
        let place = format!("lb-agent: {path}:{line}: {key}");
        let found = |line: &str| line.starts_with(&place) && line.contains(text);
        assert!(stderr.lines().any(found), "{place}: {text}:\n{stderr}");
    }
    assert_eq!(stderr.lines().count(), wanted.len(), "{stderr}");
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let (code, _, stderr) = outcome(&["check", "--config", "/nonexistent/c.toml"]);
    let expected = "lb-agent: /nonexistent/c.toml: no such file (name another with --config)\n";
    assert_eq!((code, stderr.as_str()), (2, expected));
}

#[test]
fn bad_values_end_with_2_and_one_line() {
    let cases: [(&[&str], &str); 6] = [
        (
            &["add-backend", "127.0.0.1"],
            "invalid value '127.0.0.1' for '<ADDR>': \"127.0.0.1\" has no port (write \"127.0.0.1:5000\")",
        ),
        (
            &["add-backend", "127.0.0.1:0"],
            "invalid value '127.0.0.1:0' for '<ADDR>': 127.0.0.1:0 has port 0 (use a port from 1 to 65535)",
        ),
        (
            &["add-backend", "127.0.0.1:1", "--weight", "0"],
            "invalid value '0' for '--weight <N>': 0 is not a weight (use 1 to 65535)",
        ),
        (
            &["add-backend", "127.0.0.1:1", "--weight", "-3"],
            "invalid value '-3' for '--weight <N>': -3 is not a weight (use 1 to 65535)",
        ),
        (
            &["drain-backend", "127.0.0.1:1", "--timeout", "30"],
            "invalid value '30' for '--timeout <DURATION>': \"30\" is not a duration (write it like \"3h\", \"90s\", \"1h30m\" or \"250ms\")",
        ),
        (
            &["lookup", "example.org"],
            "invalid value 'example.org' for '<CLIENT>': \"example.org\" is not an IP address (write it like 203.0.113.9 or 2001:db8::9)",
        ),
    ];
    for (args, expected) in cases {
        let (code, stdout, stderr) = outcome(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert_eq!(stderr, format!("lb-agent: {expected}\n"));
    }
}

#[test]
fn unknown_commands_and_missing_arguments_end_with_2_and_one_line() {
    let cases: [(&[&str], &str); 4] = [
        (
            &["lokup"],
            "unrecognized subcommand 'lokup', tip: a similar subcommand exists: 'lookup' (see \"lb-agent --help\")",
        ),
        (
            &["add-backend"],
            "the following required arguments were not provided: <ADDR> (see \"lb-agent --help\")",
        ),
        (
            &["status", "-x"],
            "unexpected argument '-x' found (see \"lb-agent --help\")",
        ),
        (
            &["run", "--log", "xml"],
            "invalid value 'xml' for '--log <FORM>', [possible values: human, json] (see \"lb-agent --help\")",
        ),
    ];
    for (args, expected) in cases {
        let (code, stdout, stderr) = outcome(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert_eq!(stderr, format!("lb-agent: {expected}\n"));
    }
    let (code, _, stderr) = outcome(&[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("Usage: lb-agent"), "{stderr}");
}

#[test]
fn help_and_version_are_no_mistakes_and_every_help_has_an_example() {
    let (code, stdout, _) = outcome(&["--version"]);
    assert_eq!((code, stdout.starts_with("lb-agent 0.")), (0, true));
    let commands = [
        "run",
        "check",
        "reload",
        "add-backend",
        "remove-backend",
        "drain-backend",
        "status",
        "lookup",
        "stop",
    ];
    for command in commands {
        let (code, stdout, _) = outcome(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(
            stdout.contains(&format!("Example: lb-agent {command}")),
            "{stdout}"
        );
    }
}

#[test]
fn without_an_agent_the_code_is_3_and_the_line_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    let expected = format!(
        "lb-agent: no agent answers at {socket}: no such file (start it with \"systemctl start \
         lb-agent\" or \"lb-agent run\", or name its socket with --control)\n"
    );
    let commands: [&[&str]; 7] = [
        &["status"],
        &["status", "--json"],
        &["lookup", "203.0.113.9"],
        &["add-backend", "127.0.0.1:1"],
        &["drain-backend", "127.0.0.1:1"],
        &["reload"],
        &["stop"],
    ];
    for args in commands {
        let args = [&["--control", socket], args].concat();
        assert_eq!(outcome(&args), (3, String::new(), expected.clone()));
    }
}

#[test]
fn a_change_is_told_in_one_line_and_a_refusal_ends_with_1() {
    let agent = FakeAgent::start();
    let (code, stdout, stderr) = agent.outcome(&["add-backend", "127.0.0.1:5000", "--weight", "3"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let expected =
        "AddBackend { address: 127.0.0.1:5000, service: None, weight: Some(3), ensure: false }\n";
    assert_eq!(stdout, expected);
    let (code, stdout, stderr) = agent.outcome(&["add-backend", "127.0.0.1:9"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let expected = "lb-agent: add-backend: 127.0.0.1:9 is there already (see status)\n";
    assert_eq!(stderr, expected);
}

#[test]
fn a_reload_of_a_bad_configuration_ends_with_2_and_every_problem() {
    let (code, _, stderr) = FakeAgent::start().outcome(&["reload"]);
    let expected = "lb-agent: /etc/c:1: a: bad\nlb-agent: /etc/c:2: b: bad\n\
                    lb-agent: reload: nothing was changed\n";
    assert_eq!((code, stderr.as_str()), (2, expected));
}

#[test]
fn somebody_else_on_the_socket_is_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let started = Instant::now();
    let mut status = lb_agent(&["status", "--control", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = other.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n").unwrap();
    drop(stream);
    let code = status.wait().unwrap().code();
    assert_eq!(code, Some(1));
    // It does not go on trying, as it does when no agent listens.
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[test]
fn a_log_filter_that_makes_no_sense_is_a_mistake_of_usage() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), GOOD);
    let output = lb_agent(&["run", "--config", &path])
        .env("LB_AGENT_LOG", "lb_agent=loud=er")
        .output()
        .unwrap();
    let (code, _, stderr) = told(output);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("lb-agent: LB_AGENT_LOG: "), "{stderr}");
}

#[test]
fn an_output_that_nobody_reads_is_no_reason_to_panic() {
    let agent = FakeAgent::start();
    let socket = agent.dir.path().join("control.sock");
    let mut child = lb_agent(&["add-backend", "127.0.0.1:5000"])
        .env("LB_AGENT_CONTROL", &socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let (code, _, stderr) = told(child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
}
