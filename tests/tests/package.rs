//! The Debian package, in a clean Debian root: installed, used, upgraded, removed and purged.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lb_tests::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::load::Load;
use lb_tests::process::Process;
use lb_tests::{http, node, wait};

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test e2e`)"))
        .into()
}

/// A Debian system with nothing in it.
struct Debian<'a> {
    hosts: &'a Hosts,
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl<'a> Debian<'a> {
    fn new(hosts: &'a Hosts) -> Self {
        let template = given("LB_TEST_DEBIAN_ROOT");
        let dir = tempfile::tempdir_in(template.parent().unwrap()).unwrap();
        let root = dir.path().join("root");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&template)
            .arg(&root)
            .status();
        assert!(copied.unwrap().success());
        Self {
            hosts,
            _dir: dir,
            root,
        }
    }

    /// A command in it, with this kernel's file systems; they are gone with the command.
    fn command(&self, words: &[&str]) -> Command {
        const ENTER: &str = "for dir in proc sys dev; do mount --rbind /$dir \"$0/$dir\"; done; \
                             root=\"$0\"; exec chroot \"$root\" \"$@\"";
        let mut command = self.hosts.balancer.command("unshare");
        command
            .args(["--mount", "sh", "-ec", ENTER])
            .arg(&self.root)
            .args(words);
        command.env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{text}",
            output.status
        );
        text
    }

    fn install(&self, package: &Path) {
        let name = package.file_name().unwrap();
        fs::copy(package, self.root.join("tmp").join(name)).unwrap();
        self.ok(&[
            "dpkg",
            "--force-confold",
            "-i",
            &format!("/tmp/{}", name.to_str().unwrap()),
        ]);
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The agent as the unit starts it.
    fn start(&self) -> Process {
        let unit = fs::read_to_string(self.root.join("lib/systemd/system/lb-agent.service"))
            .or_else(|_| {
                fs::read_to_string(self.root.join("usr/lib/systemd/system/lb-agent.service"))
            });
        let unit = unit.unwrap();
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let words: Vec<&str> = start.split(' ').collect();
        let mut process = Process::start(self.command(&words), &self.root.join("tmp/agent.log"));
        process.wait_for("ready");
        process
    }
}

/// The commands that `lb-agent --help` tells of.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let words = list.map_while(|line| line.split_whitespace().next());
    let all: Vec<String> = words
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect();
    assert!(all.len() > 10, "{help}");
    all
}

#[test]
fn the_package_is_installed_used_upgraded_removed_and_purged() {
    let hosts = Hosts::new();
    let debian = Debian::new(&hosts);
    debian.install(&given("LB_TEST_DEB"));
    for path in [
        "usr/bin/lb-agent",
        "usr/share/man/man1/lb-agent.1.gz",
        "usr/share/man/man1/lb-agent-add-backend.1.gz",
        "usr/share/bash-completion/completions/lb-agent",
        "usr/share/zsh/vendor-completions/_lb-agent",
        "usr/share/fish/vendor_completions.d/lb-agent.fish",
        "usr/share/doc/lb-agent/examples/grafana/lb-agent.json",
        "etc/lb-agent/config.toml",
    ] {
        assert!(debian.has(path), "{path}");
    }
    debian.ok(&[
        "bash",
        "-n",
        "/usr/share/bash-completion/completions/lb-agent",
    ]);
    for command in commands(&debian.ok(&["lb-agent", "--help"])) {
        let page = format!("usr/share/man/man1/lb-agent-{command}.1.gz");
        assert!(debian.has(&page), "{page}");
        for file in [
            "bash-completion/completions/lb-agent",
            "zsh/vendor-completions/_lb-agent",
            "fish/vendor_completions.d/lb-agent.fish",
        ] {
            let text = fs::read_to_string(debian.root.join("usr/share").join(file)).unwrap();
            assert!(text.contains(&command), "{command} is not in {file}");
        }
    }
    debian.ok(&["getent", "group", "lb-agent"]);
    let conffiles = debian.ok(&["cat", "/var/lib/dpkg/info/lb-agent.conffiles"]);
    assert!(
        conffiles
            .lines()
            .any(|line| line == "/etc/lb-agent/config.toml"),
        "{conffiles}"
    );
    assert!(
        debian
            .ok(&["lb-agent", "check"])
            .contains("configuration ok")
    );

    // An administrator's configuration, with pins of its own: this kernel is not the test's alone.
    let pins = format!("/sys/fs/bpf/lbt-{}-package", std::process::id());
    let config = debian.root.join("etc/lb-agent/config.toml");
    let own = format!(
        "[agent]\npin_dir = '{pins}'\nmax_clients = 4096\n[[service]]\nname = 'web'\n\
         listen = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n"
    );
    fs::write(&config, &own).unwrap();
    let doctor = debian.ok(&["lb-agent", "doctor"]);
    assert!(
        doctor.contains(" 0 failures") || doctor.contains("0 failures,"),
        "{doctor}"
    );
    let mut agent = debian.start();
    let dir = tempfile::tempdir().unwrap();
    let _app = node::copies(&hosts.balancer, [5000], dir.path());
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());

    // The new version is put in its place while the old one serves; then the agent is replaced.
    let clients: Vec<_> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 50);
    load.more(10);
    debian.install(&given("LB_TEST_NEWER_DEB"));
    load.more(10);
    agent.kill();
    let mut agent = debian.start();
    load.more(10);
    for visit in load.finish() {
        visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
    }
    assert_eq!(
        fs::read_to_string(&config).unwrap(),
        own,
        "it is the administrator's"
    );
    let version = debian.ok(&["dpkg-query", "-W", "-f", "${Version}", "lb-agent"]);
    assert!(version.starts_with("0.1.1"), "{version}");

    debian.ok(&["dpkg", "-r", "lb-agent"]);
    let ended = wait::until("the end of the agent", || agent.ended());
    assert_eq!((ended.code(), ended.signal()), (Some(4), None));
    assert!(
        !Path::new(&pins).exists(),
        "nothing nobody looks after is left in the kernel"
    );
    assert!(!debian.has("usr/bin/lb-agent") && debian.has("etc/lb-agent/config.toml"));
    assert!(
        debian.has("var/lib/lb-agent"),
        "what was changed at run time is kept"
    );
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap_err());

    debian.ok(&["dpkg", "-P", "lb-agent"]);
    for path in ["etc/lb-agent", "var/lib/lb-agent", "var/log/lb-agent"] {
        assert!(!debian.has(path), "{path}");
    }
    assert!(
        !debian
            .run(&["getent", "group", "lb-agent"])
            .status
            .success()
    );
}
