//! A system of its own below a directory, with the kernel and the network of a test's host: for
//! packages and installers.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::topology::hosts::Host;

/// A copy of a system; removed with all that runs in it when dropped.
pub struct Root<'a> {
    host: &'a Host,
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl<'a> Root<'a> {
    /// A copy of the system in `template`.
    pub fn copy_of(template: &Path, host: &'a Host) -> Self {
        let parent = tempfile::tempdir_in(template.parent().unwrap()).unwrap();
        let dir = parent.path().join("root");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(template)
            .arg(&dir)
            .status();
        assert!(copied.unwrap().success());
        Self {
            host,
            dir,
            _parent: parent,
        }
    }

    /// Path on this machine of a path in the system.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// Whether the system has a file, or a link, whose target may be a path in it.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// A command in it, with this kernel's file systems; their mounts are gone with the command.
    pub fn command(&self, words: &[&str]) -> Command {
        const ENTER: &str = "for dir in proc sys dev; do mount --rbind /$dir \"$0/$dir\"; done; \
                             root=\"$0\"; exec chroot \"$root\" \"$@\"";
        let mut command = self.host.command("unshare");
        command.args(["--mount", "sh", "-ec", ENTER]);
        command.arg(&self.dir).args(words);
        command.env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs a command in the system; returns its output.
    pub fn run(&self, words: &[&str]) -> Output {
        // A service that it starts may keep its output open: a file does not wait for that.
        let file = tempfile::tempfile().unwrap();
        let mut command = self.command(words);
        command.stdin(std::process::Stdio::null());
        command.stdout(file.try_clone().unwrap());
        command.stderr(file.try_clone().unwrap());
        let status = command.status().unwrap();
        let (mut file, mut stdout) = (file, Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut stdout).unwrap();
        Output {
            status,
            stdout,
            stderr: Vec::new(),
        }
    }

    /// The same, which must succeed; returns its standard output.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{text}",
            output.status
        );
        text
    }

    /// Puts a file into `/tmp` of the system; its path there.
    pub fn take(&self, file: &Path) -> String {
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::copy(file, self.path("tmp").join(name)).unwrap();
        format!("/tmp/{name}")
    }

    /// Ids of the processes that run in it.
    pub fn processes(&self) -> Vec<u32> {
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        numbers
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let root = fs::read_link(format!("/proc/{pid}/root"));
                root.is_ok_and(|root| root == self.dir)
            })
            .collect()
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("var/log/lb-agent.log"));
            eprintln!("--- the agent's log\n{}", log.unwrap_or_default());
        }
        // One may start another, as a supervisor does.
        for _ in 0..3 {
            for pid in self.processes() {
                let _ = Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .status();
            }
        }
    }
}
