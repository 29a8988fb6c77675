//! A disk that can be filled or made read-only, for a directory of an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::wait;

/// A small file system of its own; unmounted when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts it on a directory.
    pub fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        let disk = Self(path.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", "size=64k,mode=700", "lbt"]);
        disk
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(&self.0).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    }

    /// Takes all of its room.
    pub fn fill(&self) {
        let filler = self.0.join("filler");
        let mut content = vec![0; 1 << 20];
        while fs::write(&filler, &content).is_err() && !content.is_empty() {
            content.truncate(content.len() / 2);
        }
        // The rest, byte by byte, as far as a page has room.
        for n in 0..1000 {
            if fs::write(self.0.join(format!("filler-{n}")), [0; 4096]).is_err() {
                return;
            }
        }
    }

    /// Frees the filled space of the disk.
    pub fn free(&self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// Makes it read-only: by one laid over it, as the file system itself is in use (the agent has
    /// its lock open).
    pub fn forbid(&self) {
        self.run("mount", &["--bind", self.0.to_str().unwrap()]);
        self.run("mount", &["-o", "remount,bind,ro"]);
    }

    /// Makes the disk writable again, once no process has a file on it open.
    pub fn allow(&self) {
        let unmount = || Command::new("umount").arg(&self.0).status().unwrap();
        wait::until("an unmounted disk", || unmount().success().then_some(()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may have left one over the other.
        while Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {}
    }
}
