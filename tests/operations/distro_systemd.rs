//! Packages and installer under systemd on other distributions: the service is its own user, takes over
//! from a version that ran as root, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::node::apps_dir;
use lb_tests::process::Process;
use lb_tests::systemd::Systemd;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test distributions`)"))
        .into()
}

/// A way to install, with commands for a shell in the system. Files are in `/opt`.
struct Way {
    /// Variables of the files to install: the first version and a newer one.
    files: [&'static str; 2],
    install: &'static str,
    upgrade: &'static str,
    /// Removes the configuration and the state too, if the package manager can.
    purge: &'static str,
    /// Whether a purge removes the user.
    ends_user: bool,
}

const DEB: Way = Way {
    files: ["LB_TEST_DEB", "LB_TEST_NEWER_DEB"],
    install: "dpkg --force-confold -i /opt/first",
    upgrade: "dpkg --force-confold -i /opt/newer",
    purge: "dpkg -P lb-agent",
    ends_user: true,
};

/// Debian's rpm knows nothing of the packages that dpkg has installed. Names of users stay, as on every
/// distribution with RPM: files of theirs may be left.
const RPM: Way = Way {
    files: ["LB_TEST_RPM", "LB_TEST_NEWER_RPM"],
    install: "rpm --install --nodeps --noplugins /opt/first",
    upgrade: "rpm --upgrade --nodeps --noplugins /opt/newer",
    purge: "rpm --erase --noplugins lb-agent",
    ends_user: false,
};

const ARCHIVE: Way = Way {
    files: ["LB_TEST_ARCHIVE", "LB_TEST_ARCHIVE"],
    install: "mkdir /opt/lb-agent; tar xf /opt/first --strip-components=1 -C /opt/lb-agent; \
              sh /opt/lb-agent/install.sh",
    upgrade: "sh /opt/lb-agent/install.sh",
    purge: "sh /opt/lb-agent/install.sh --purge",
    ends_user: true,
};

/// Directories of the service's files; the last two exist while it runs.
const DIRECTORIES: &str = "/var/lib/lb-agent /var/log/lb-agent /run/lb-agent /sys/fs/bpf/lb-agent";

const CONFIG: &str = "[agent]\nmax_clients = 4096\nl7_workers = 1\n\
    [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n\
    [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:81']\n\
    backends = ['127.0.0.1:5000']\n\
    [service.http.access_log]\nfile = '/var/log/lb-agent/access.log'\n";

/// The unit of a version that ran as root, as far as it differs.
const AS_ROOT: &str = "[Service]\nUser=root\nGroup=root\nSupplementaryGroups=lb-agent\n\
    AmbientCapabilities=\nExecStartPre=\nExecStopPost=\n";

/// A booted system, with a backend outside of it.
struct Debian<'a> {
    hosts: &'a Hosts,
    system: Systemd<'a>,
    root: &'a Path,
}

impl Debian<'_> {
    fn sh(&self, script: &str) -> String {
        self.system.ok(&["sh", "-ec", script])
    }

    /// A backend, which has to begin to listen while the agent runs: it is not in the system's `/proc`.
    fn backend(&self) -> Process {
        let script = apps_dir().join("server.js");
        let arguments = [script.to_str().unwrap(), "127.0.0.1", "5000"];
        let command = self.system.beside("node", &arguments);
        let mut app = Process::start(command, &self.root.with_extension("app.log"));
        app.wait_for("listening");
        app
    }

    /// One request through the kernel and one through the agent's own sockets.
    #[track_caller]
    fn assert_serves(&self) {
        for port in [80, 81] {
            let to = std::net::SocketAddr::new(SERVICE_V4.ip(), port);
            let get = || http::get(client_v4(1), to).ok();
            let answer = wait::until("an answer", || self.hosts.clients.run(get));
            assert_eq!(answer.port, 5000);
        }
    }

    /// The service runs as this user, and all its files are of that user.
    #[track_caller]
    fn assert_all_is_of(&self, user: &str) {
        let pid = self.system.main_pid();
        let uids = self.sh(&format!("awk '/^Uid:/ {{print $2}}' /proc/{pid}/status"));
        assert_eq!(uids, self.sh(&format!("id -u {user}")));
        let others = self.sh(&format!("find {DIRECTORIES} ! -user {user}"));
        assert_eq!(others, "", "files of other users than {user}");
    }

    /// Everything as a version has left it that ran as root, with a backend added at run time.
    fn go_back_to_root(&self) {
        self.sh("systemctl stop lb-agent; lb-agent stop --purge");
        self.sh("rm -rf /var/lib/lb-agent /var/log/lb-agent");
        self.sh(&format!(
            "mkdir /etc/systemd/system/lb-agent.service.d
             printf '%s' '{AS_ROOT}' >/etc/systemd/system/lb-agent.service.d/older.conf
             systemctl daemon-reload; systemctl start lb-agent
             lb-agent add-backend 127.0.0.1:5001 --service app"
        ));
    }
}

fn is_served_by_its_own_user(template: &str, way: &Way) {
    let hosts = Hosts::new();
    let template = given(template);
    let dir = tempfile::tempdir_in(template.parent().unwrap()).unwrap();
    let root = dir.path().join("root");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&template, &root])
        .status();
    assert!(copied.unwrap().success());
    for (variable, name) in way.files.into_iter().zip(["first", "newer"]) {
        fs::copy(given(variable), root.join("opt").join(name)).unwrap();
    }
    fs::create_dir_all(root.join("etc/lb-agent")).unwrap();
    fs::write(root.join("etc/lb-agent/config.toml"), CONFIG).unwrap();
    let debian = Debian {
        hosts: &hosts,
        system: Systemd::boot(&hosts.balancer, &root),
        root: &root,
    };
    debian.sh(way.install);
    debian.sh("systemctl enable --now lb-agent");
    let app = debian.backend();
    debian.assert_serves();
    debian.assert_all_is_of("lb-agent");

    drop(app);
    debian.go_back_to_root();
    let app = debian.backend();
    debian.assert_serves();
    debian.assert_all_is_of("root");
    let before = debian.system.main_pid();
    debian.sh("rm -r /etc/systemd/system/lb-agent.service.d");
    debian.sh(way.upgrade);
    wait::until("the newer agent", || {
        let is_active = debian.system.run(&["systemctl", "is-active", "lb-agent"]);
        (is_active.code == 0 && ![0, before].contains(&debian.system.main_pid())).then_some(())
    });
    debian.assert_serves();
    debian.assert_all_is_of("lb-agent");
    let status = debian.sh("lb-agent status --json");
    assert!(status.contains("127.0.0.1:5001"), "{status}");
    let journal = debian.system.journal();
    for complaint in ["denied", "not permitted", "ERROR"] {
        assert!(!journal.contains(complaint), "{journal}");
    }

    debian.sh(way.purge);
    drop(app);
    debian.sh("test ! -e /sys/fs/bpf/lb-agent -a ! -e /run/lb-agent");
    let active = debian.system.run(&["systemctl", "is-active", "lb-agent"]);
    assert_ne!(active.code, 0, "{active:?}");
    let has_user = debian.system.run(&["id", "lb-agent"]).code == 0;
    assert_eq!(has_user, !way.ends_user);
    assert_eq!(debian.sh("find / -xdev -nouser -o -nogroup"), "");
}

#[test]
fn the_debian_package_is_served_by_its_own_user_on_trixie() {
    is_served_by_its_own_user("LB_TEST_ROOT_TRIXIE_SYSTEMD", &DEB);
}

#[test]
fn the_debian_package_is_served_by_its_own_user_on_sid() {
    is_served_by_its_own_user("LB_TEST_ROOT_SID_SYSTEMD", &DEB);
}

#[test]
fn the_rpm_is_served_by_its_own_user() {
    is_served_by_its_own_user("LB_TEST_ROOT_RPM", &RPM);
}

#[test]
fn the_archive_is_served_by_its_own_user() {
    is_served_by_its_own_user("LB_TEST_ROOT_TRIXIE_SYSTEMD", &ARCHIVE);
}
