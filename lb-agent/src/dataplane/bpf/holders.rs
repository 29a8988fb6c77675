//! Finds the processes that have a socket open, by its inode in `/proc/PID/fd`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use rustix::process::Pid;

/// A process that has a socket open.
pub struct Holder {
    pub(super) pid: Pid,
    /// The lowest descriptor of the socket in that process.
    pub(super) fd: i32,
}

impl Holder {
    /// Name and id of the process, as in "nginx (pid 12)".
    pub fn name(&self) -> String {
        format!("{} (pid {})", self.program(), self.pid.as_raw_pid())
    }

    /// Name of the process; empty if it is gone.
    pub(super) fn program(&self) -> String {
        let pid = self.pid.as_raw_pid();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match name.trim() {
            // Recent releases of Node.js call their main thread so.
            "MainThread" => {
                let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let name = program.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            name => name.to_owned(),
        }
    }

    /// Id of the process.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }
}

/// The holders of the sockets with these inodes, each process once. Processes that the agent may not
/// inspect are left out.
///
/// # Errors
/// `/proc` cannot be read.
pub fn holders(inodes: &HashSet<u32>) -> io::Result<BTreeMap<u32, Vec<Holder>>> {
    let mut found = BTreeMap::<u32, Vec<Holder>>::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        for (inode, fd) in sockets(&process.path()) {
            if inodes.contains(&inode) {
                let holders = found.entry(inode).or_default();
                match holders.iter_mut().find(|holder| holder.pid == pid) {
                    Some(holder) => holder.fd = holder.fd.min(fd),
                    None => holders.push(Holder { pid, fd }),
                }
            }
        }
    }
    Ok(found)
}

/// Whether a process still has the socket with this inode under its descriptor.
pub(super) fn is_held(inode: u32, holder: &Holder) -> bool {
    let link = format!("/proc/{}/fd/{}", holder.pid.as_raw_pid(), holder.fd);
    fs::read_link(link).is_ok_and(|target| socket_inode(&target) == Some(inode))
}

/// One holder for each of the sockets with these inodes.
///
/// # Errors
/// As [`holders`].
pub(super) fn one_each(inodes: &HashSet<u32>) -> io::Result<BTreeMap<u32, Holder>> {
    let all = holders(inodes)?.into_iter();
    Ok(all
        .filter_map(|(inode, holders)| Some((inode, holders.into_iter().next()?)))
        .collect())
}

/// The open sockets of the process at `dir` of `/proc`, as pairs of inode and descriptor. The result is
/// empty if the process is gone or the agent may not inspect it.
pub(super) fn sockets(dir: &Path) -> impl Iterator<Item = (u32, i32)> {
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| {
        let inode = socket_inode(&fs::read_link(entry.path()).ok()?)?;
        Some((inode, entry.file_name().to_str()?.parse().ok()?))
    })
}

/// Parses a link of `/proc/PID/fd`: 12345 from `socket:[12345]`.
fn socket_inode(target: &Path) -> Option<u32> {
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_are_no_sockets_are_passed_over() {
        assert_eq!(socket_inode("socket:[12345]".as_ref()), Some(12345));
        for other in ["pipe:[12345]", "/dev/null", "socket:[x]", "socket:[1"] {
            assert_eq!(socket_inode(other.as_ref()), None);
        }
    }
}
