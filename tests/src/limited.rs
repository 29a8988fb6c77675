//! Processes that may have no more than so much memory.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::wait;

/// A cgroup with a limit on memory, in the version that this machine has; removed when dropped.
pub struct Limited(PathBuf);

impl Limited {
    /// A new group without processes, limited to that many bytes.
    pub fn new(bytes: u64) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut fields = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let v1 = fields
            .clone()
            .find(|f| f[2] == "cgroup" && f[3].split(',').any(|option| option == "memory"));
        let mut v2 = || fields.find(|f| f[2] == "cgroup2").expect("cgroup v2");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbt-{}-{count}-memory", std::process::id());
        let (dir, limit) = match v1 {
            Some(mount) => (format!("{}/{name}", mount[1]), "memory.limit_in_bytes"),
            None => {
                let root = v2()[1].to_owned();
                let _ = fs::write(format!("{root}/cgroup.subtree_control"), "+memory");
                (format!("{root}/{name}"), "memory.max")
            }
        };
        fs::create_dir(&dir).unwrap();
        let cgroup = Self(dir.into());
        fs::write(cgroup.0.join(limit), bytes.to_string()).unwrap();
        cgroup
    }

    /// File to which process ids are written to add them to the group.
    pub fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        wait::until("an empty cgroup", || fs::remove_dir(&self.0).ok());
    }
}
