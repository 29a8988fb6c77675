//! A Debian system with systemd as its first process, in namespaces of its own, on the network of
//! one of a test's hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::agent::Outcome;
use crate::process::Process;
use crate::topology::hosts::Host;
use crate::wait;

/// Makes the root directory `$0` a system's, and goes on as its first process. Its cgroup is made
/// beforehand, and nothing that it does there is seen outside of it.
const BOOT: &str = r#"
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p outside
pivot_root . outside
umount -l /outside
exec env -i container=lb-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
    --log-target=console --show-status=no
"#;

/// The system; ended, with all that runs in it, when dropped.
pub struct Systemd<'a> {
    host: &'a Host,
    init: u32,
    process: Option<Process>,
    cgroup: PathBuf,
}

impl<'a> Systemd<'a> {
    /// Boots the system in `root`; it is up when this returns.
    pub fn boot(host: &'a Host, root: &Path) -> Self {
        let cgroup = new_cgroup();
        let enter = format!("echo $$ > '{}/cgroup.procs'", cgroup.display());
        let mut command = host.command("sh");
        let unshare = "exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child \
                       sh -ec \"$1\" \"$0\"";
        command
            .args(["-ec", &format!("{enter}; {unshare}")])
            .arg(root)
            .arg(BOOT);
        let process = Process::start(command, &root.with_extension("boot.log"));
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let mut system = Self {
            host,
            init: 0,
            process: Some(process),
            cgroup,
        };
        system.init = wait::until("the first process", || {
            fs::read_to_string(&children).ok()?.trim().parse().ok()
        });
        // Until then its root is still this machine's.
        let name = format!("/proc/{}/comm", system.init);
        wait::until("systemd to be the first process", || {
            let name = fs::read_to_string(&name).unwrap_or_default();
            (name == "systemd\n").then_some(())
        });
        wait::until("systemd", || {
            let state = system.run(&["systemctl", "is-system-running"]).stdout;
            ["running\n", "degraded\n"]
                .contains(&state.as_str())
                .then_some(())
        });
        system
    }

    /// A command in the system.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command("nsenter");
        command.args(["--target", &self.init.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup"]);
        command.args(["--root", "--wd=/", "--"]).args(words);
        command.env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs a command in the system; returns its output.
    pub fn run(&self, words: &[&str]) -> Outcome {
        let output: Output = self.command(words).output().unwrap();
        output.into()
    }

    /// The same, which must succeed; returns its standard output.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let outcome = self.run(words);
        assert_eq!(
            outcome.code,
            0,
            "{words:?}: {outcome:?}\n{}",
            self.journal()
        );
        outcome.stdout
    }

    /// Log lines of the service.
    pub fn journal(&self) -> String {
        let all = ["journalctl", "--no-pager", "--unit", "lb-agent"];
        self.run(&all).stdout
    }

    /// The main process of the service as the system knows it; 0 for none.
    pub fn main_pid(&self) -> u32 {
        let show = [
            "systemctl",
            "show",
            "--property=MainPID",
            "--value",
            "lb-agent",
        ];
        self.ok(&show).trim().parse().unwrap()
    }

    /// A command of the test's own, on the host, in the cgroup of an application, so that this system's
    /// agent takes it for one.
    pub fn beside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command("sh");
        let enter = format!(
            "echo $$ > '{}/cgroup.procs'; exec \"$0\" \"$@\"",
            self.cgroup.display()
        );
        command.args(["-ec", &enter, program]).args(arguments);
        command
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the service's log\n{}", self.journal());
            let status = self.run(&["lb-agent", "status"]).stdout;
            eprintln!("--- its status\n{status}");
        }
        self.process = None;
        let empty = |dir: &Path| {
            let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
            !events.contains("populated 1")
        };
        wait::until("the end of the system", || {
            empty(&self.cgroup).then_some(())
        });
        remove(&self.cgroup);
    }
}

/// A cgroup below this process's.
fn new_cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut lines = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = lines.find(|words| words.get(2) == Some(&"cgroup2"));
    let mount = mount.expect("a mounted cgroup v2")[1].to_owned();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(&mount).join(own);
    let dir = dir.join(format!("lbt-{}-systemd-{count}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    dir
}

/// Removes a cgroup and all below it.
fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
