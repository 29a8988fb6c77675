//! The process at the other end of the control socket, as the kernel reports it, and its permissions.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::unistd::Group;

/// Members of this group may change things.
pub const GROUP: &str = "lb-agent";
/// More groups than this make a process look like a member of none.
const MOST_GROUPS: usize = 65_536;

/// Credentials of a client process at the time it connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
    gid: u32,
    /// 0 for one that cannot be seen from the agent's PID namespace.
    pid: i32,
    may_change: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, gid, pid, .. } = self;
        write!(f, "uid {uid}, gid {gid}, pid {pid}")
    }
}

impl Peer {
    /// Credentials of the process that connected to `stream`.
    pub fn of(stream: &tokio::net::UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        let (uid, gid) = (peer.uid(), peer.gid());
        let own = rustix::process::geteuid().as_raw();
        let may_change = uid == 0 || uid == own || {
            let group = group();
            group.is_some()
                && (group == Some(gid) || groups(stream)?.contains(&group.unwrap_or(gid)))
        };
        Ok(Self {
            uid,
            gid,
            pid: peer.pid().unwrap_or(0),
            may_change,
        })
    }

    /// User ID of the process.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// One of a user, for tests of limits.
    #[cfg(test)]
    pub(super) fn for_test(uid: u32, may_change: bool) -> Self {
        Self {
            uid,
            gid: uid,
            pid: 1,
            may_change,
        }
    }

    /// Whether it may change anything, or only read.
    pub fn may_change(&self) -> bool {
        self.may_change
    }
}

/// The number of [`GROUP`], if there is such a group.
pub fn group() -> Option<u32> {
    let group = Group::from_name(GROUP).ok().flatten()?;
    Some(group.gid.as_raw())
}

/// The supplementary groups of the peer.
fn groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that many, and
        // says in `length` how many there are.
        let done = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > MOST_GROUPS {
            return Err(error);
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getgroups;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn this_process_may_change_things_and_is_known_by_its_number() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert!(peer.may_change());
        assert_eq!(peer.pid as u32, std::process::id());
        assert!(
            peer.to_string()
                .contains(&format!("pid {}", std::process::id()))
        );
        let mut theirs = groups(&one).unwrap();
        let mut ours: Vec<u32> = getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(theirs, ours);
    }
}
