//! The privileges of a thread that serves clients, for looking at files as such a thread will.

use std::ffi::CString;
use std::io;

use nix::unistd::{Uid, User, getgrouplist};
use rustix::process::{Gid, Uid as ThreadUid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::keep;

/// The user that packages run the agent as.
const SERVICE: &str = "lb-agent";

/// The user whose files a worker can read: that of the service if this process may become it, else its own.
pub struct Worker {
    name: String,
    becomes: Option<User>,
}

impl Worker {
    /// Of an agent that is not running: `root` finds out for the user of the service.
    pub fn of_service() -> Self {
        let service = || User::from_name(SERVICE).ok().flatten();
        match Uid::effective().is_root().then(service).flatten() {
            Some(user) => Self {
                name: user.name.clone(),
                becomes: Some(user),
            },
            None => Self::of_this_process(),
        }
    }

    /// Of this process.
    pub fn of_this_process() -> Self {
        let uid = Uid::effective();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Self {
            name: name.unwrap_or_else(|| format!("user {uid}")),
            becomes: None,
        }
    }

    /// The name of the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the calling thread one that can read what a worker can, for good.
    ///
    /// # Errors
    /// The kernel's.
    pub fn confine(&self) -> io::Result<()> {
        if let Some(user) = &self.becomes {
            let name = CString::new(&*user.name)?;
            let groups = getgrouplist(&name, user.gid)?;
            let groups: Vec<Gid> = groups
                .iter()
                .map(|gid| Gid::from_raw(gid.as_raw()))
                .collect();
            let (gid, uid) = (
                Gid::from_raw(user.gid.as_raw()),
                ThreadUid::from_raw(user.uid.as_raw()),
            );
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        keep(&[]).map_err(io::Error::other)
    }
}
