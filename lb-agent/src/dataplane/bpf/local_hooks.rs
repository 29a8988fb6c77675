//! The programs for clients on this host. They run at every connect(2) and datagram of the machine. They
//! are therefore attached with the first backend that needs them, one on the `nat` or `dsr` path.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::CgroupSockAddr;
use lb_common::abi::{Backend, path, state};

use super::link;
use super::open_error::OpenError;
use super::programs::{pin_program, program, refused};
use crate::errors::chain;

/// Names of the programs. Those that restore the addresses of replies precede those that redirect.
const NAMES: [&str; 8] = [
    "lb_getpeername4",
    "lb_getpeername6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_connect4",
    "lb_connect6",
];

/// The programs for local clients, attached or not.
pub(super) struct LocalHooks {
    /// The eBPF object with the programs.
    object: Ebpf,
    cgroup: PathBuf,
    pin_dir: PathBuf,
    /// Result of the attempt to attach them; `None` before it.
    attached: Option<Result<(), String>>,
}

impl LocalHooks {
    /// Opens the hooks. Programs of an earlier agent are replaced at once.
    pub(super) fn new(object: Ebpf, cgroup: PathBuf, pin_dir: &Path) -> Self {
        let mut hooks = Self {
            object,
            cgroup,
            pin_dir: pin_dir.to_owned(),
            attached: None,
        };
        if NAMES
            .iter()
            .any(|name| link::pin_of(pin_dir, name).exists())
        {
            hooks.attach();
        }
        hooks
    }

    /// The object with the programs.
    pub(super) fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// Attaches the programs if `backend` needs them, unless that was tried before.
    pub(super) fn serve(&mut self, backend: &Backend) {
        let rewritten = matches!(backend.path, path::NAT | path::DSR);
        if rewritten && backend.state != state::REMOVED && self.attached.is_none() {
            self.attach();
        }
    }

    fn attach(&mut self) {
        let attached = self.attach_all().map_err(|error| {
            let error = chain(&error);
            let note = "clients on this host reach `nat` and `dsr` backends through the agent";
            let note = format!("{note}: {error}");
            tracing::warn!("{note}");
            note
        });
        self.attached = Some(attached);
    }

    /// The error of a failed attempt to attach the programs.
    pub(super) fn refusal(&self) -> Option<String> {
        self.attached.as_ref()?.as_ref().err().cloned()
    }

    /// Attaches all programs, after the kernel has accepted every one of them.
    fn attach_all(&mut self) -> Result<(), OpenError> {
        for name in NAMES {
            let hook: &mut CgroupSockAddr = program(&mut self.object, name)?;
            hook.load().map_err(refused(name))?;
        }
        self.attach_loaded()
    }

    /// Puts the programs in force again that another agent has replaced, if they were attached.
    pub(super) fn put_back(&mut self) -> Result<(), OpenError> {
        match self.attached {
            Some(Ok(())) => self.attach_loaded(),
            _ => Ok(()),
        }
    }

    fn attach_loaded(&mut self) -> Result<(), OpenError> {
        for name in NAMES {
            let hook: &mut CgroupSockAddr = program(&mut self.object, name)?;
            let pin = link::pin_of(&self.pin_dir, name);
            link::at_system_call(name, hook, &self.cgroup, &pin)?;
            pin_program(&mut self.object, name, &self.pin_dir)?;
        }
        Ok(())
    }
}
