//! The archive's installer and its services on systems without systemd: OpenRC and sysvinit.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lb_tests::process::Process;
use lb_tests::root::Root;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test distributions`)"))
        .into()
}

/// A system with the unpacked archive in `/opt/lb-agent`, an administrator's configuration, and a
/// backend.
struct System<'a> {
    hosts: &'a Hosts,
    root: Root<'a>,
    pins: PathBuf,
    _app: [Process; 1],
}

impl<'a> System<'a> {
    fn new(hosts: &'a Hosts, name: &str) -> Self {
        let template = given(&format!("LB_TEST_ROOT_{}", name.to_uppercase()));
        let root = Root::copy_of(&template, &hosts.balancer);
        let to = root.path("opt/lb-agent");
        fs::create_dir_all(&to).unwrap();
        let unpack = Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(given("LB_TEST_ARCHIVE"))
            .arg("--directory")
            .arg(&to)
            .status();
        assert!(unpack.unwrap().success());
        let pins = format!("/sys/fs/bpf/lbt-{}-{name}", std::process::id());
        let config = format!(
            "[agent]\npin_dir = '{pins}'\nmax_clients = 4096\n[[service]]\nname = 'web'\n\
             listen = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n"
        );
        fs::create_dir_all(root.path("etc/lb-agent")).unwrap();
        fs::write(root.path("etc/lb-agent/config.toml"), config).unwrap();
        let app = node::copies(&hosts.balancer, [5000], &root.path("tmp"));
        Self {
            hosts,
            root,
            pins: pins.into(),
            _app: app,
        }
    }

    fn install(&self) -> String {
        self.root.ok(&["sh", "/opt/lb-agent/install.sh"])
    }

    #[track_caller]
    fn assert_serves(&self) {
        let get = || http::get(client_v4(1), SERVICE_V4).unwrap();
        assert_eq!(self.hosts.clients.run(get).port, 5000);
    }

    /// Process id of the agent.
    fn agent(&self) -> Option<u32> {
        let is_agent = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split('\0');
            words.next().is_some_and(|word| word.ends_with("/lb-agent"))
                && words.next() == Some("run")
        };
        self.root.processes().into_iter().find(is_agent)
    }

    fn kill(&self, pid: u32) {
        let status = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
        assert!(status.unwrap().success());
        wait::until("the agent's end", || {
            (self.agent() != Some(pid)).then_some(())
        });
    }

    #[track_caller]
    fn assert_removed(&self) {
        assert_eq!(self.agent(), None);
        assert!(!self.pins.exists(), "nothing is left in the kernel");
        assert!(!self.root.has("usr/local/bin/lb-agent"));
        assert!(!self.root.has("etc/init.d/lb-agent"));
        assert!(self.root.has("etc/lb-agent/config.toml"));
    }
}

#[test]
fn sysvinit_starts_reloads_restarts_and_stops_it() {
    let hosts = Hosts::new();
    let system = System::new(&hosts, "sysv");
    let said = system.install();
    assert!(said.contains("keeping /etc/lb-agent/config.toml"), "{said}");
    system.assert_serves();
    assert!(system.root.has("etc/rc2.d/S01lb-agent"), "started at boot");
    let service = |verb: &str| {
        system
            .root
            .run(&["/etc/init.d/lb-agent", verb])
            .status
            .code()
    };
    let first = system.agent();
    assert_eq!(service("status"), Some(0));
    assert_eq!(service("start"), Some(0));
    assert_eq!(system.agent(), first, "one agent is enough");
    assert_eq!(service("reload"), Some(0));
    assert_eq!(system.agent(), first);

    assert_eq!(service("restart"), Some(0));
    assert_ne!(system.agent(), first);
    system.assert_serves();
    assert_eq!(service("upgrade"), Some(0));
    assert_eq!(service("status"), Some(0), "its process id is known");
    system.assert_serves();

    let config = system.root.path("etc/lb-agent/config.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "nonsense").unwrap();
    assert_eq!(
        service("restart"),
        Some(6),
        "an error ends no agent that runs"
    );
    assert!(system.agent().is_some());
    fs::write(&config, good).unwrap();

    system.kill(system.agent().unwrap());
    assert_eq!(service("status"), Some(1));
    system.assert_serves();
    assert_eq!(service("start"), Some(0));
    assert_eq!(service("stop"), Some(0));
    assert_eq!(service("status"), Some(3));
    assert_eq!(service("stop"), Some(0));
    system.assert_serves();

    assert_eq!(service("start"), Some(0));
    system.install();
    system.assert_serves();
    system
        .root
        .ok(&["sh", "/opt/lb-agent/install.sh", "--uninstall"]);
    system.assert_removed();
    assert!(!system.root.has("etc/rc2.d/S01lb-agent"));
}

#[test]
fn openrc_starts_supervises_and_stops_it() {
    let hosts = Hosts::new();
    let system = System::new(&hosts, "openrc");
    // OpenRC did not boot this system, and is not to make cgroups on this machine.
    for directory in ["exclusive", "started", "starting", "stopping", "daemons"] {
        fs::create_dir_all(system.root.path("run/openrc").join(directory)).unwrap();
    }
    fs::write(system.root.path("run/openrc/softlevel"), "default").unwrap();
    fs::write(
        system.root.path("etc/rc.conf"),
        "rc_controller_cgroups=\"NO\"\nrc_cgroup_mode=\"none\"\n",
    )
    .unwrap();
    system.install();
    system.assert_serves();
    assert!(
        system.root.has("etc/runlevels/default/lb-agent"),
        "started at boot"
    );
    let service = |verb: &str| {
        system
            .root
            .run(&["rc-service", "lb-agent", verb])
            .status
            .code()
    };
    let first = system.agent().unwrap();
    assert_eq!(service("status"), Some(0));
    assert_eq!(service("reload"), Some(0));
    assert_eq!(service("reopen"), Some(0));
    assert_eq!(system.agent(), Some(first));

    system.kill(first);
    wait::until("another agent", || system.agent());
    system.assert_serves();
    let second = system.agent().unwrap();
    assert_eq!(service("restart"), Some(0));
    assert_ne!(system.agent(), Some(second));
    system.assert_serves();
    assert_eq!(service("stop"), Some(0));
    assert_ne!(service("status"), Some(0));
    assert_eq!(system.agent(), None);
    system.assert_serves();

    let config = system.root.path("etc/lb-agent/config.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "nonsense").unwrap();
    assert_ne!(service("start"), Some(0));
    fs::write(&config, good).unwrap();
    assert_eq!(service("start"), Some(0));
    system
        .root
        .ok(&["sh", "/opt/lb-agent/install.sh", "--uninstall"]);
    system.assert_removed();
    // The kept files go by a second command.
    system
        .root
        .ok(&["sh", "/opt/lb-agent/install.sh", "--purge"]);
    assert!(!system.root.has("etc/lb-agent") && !system.root.has("var/lib/lb-agent"));
}
