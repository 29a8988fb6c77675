//! Errors of opening the kernel's data plane.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use lb_common::abi::ABI_VERSION;

use super::address_claims::Claimed;
use super::canary::CanaryError;
use super::link::AttachError;

/// The reason for which the kernel's data plane cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The binary carries no eBPF programs.
    #[error("this binary was built without its eBPF programs (build it with `cargo xtask build`)")]
    NoObject,
    /// The directory of the pins is not in a bpf file system.
    #[error(
        "{} is not in a bpf file system (mount one: mount -t bpf bpf /sys/fs/bpf)", dir.display()
    )]
    NotBpffs {
        /// Directory of the pins.
        dir: PathBuf,
    },
    /// There is no cgroup v2 hierarchy.
    #[error("no cgroup v2 hierarchy is mounted (mount one: mount -t cgroup2 none /sys/fs/cgroup)")]
    NoCgroup,
    /// Another running agent uses the pins.
    #[error(
        "another lb-agent uses the pins in {} (stop it first, or give this one a state_dir, control \
         and pin_dir of its own)",
        dir.display()
    )]
    InUse {
        /// Directory of the pins.
        dir: PathBuf,
    },
    /// The pins belong to another network namespace.
    #[error(
        "the pins in {} serve another network namespace (give this agent a pin_dir of its own)",
        dir.display()
    )]
    OtherNamespace {
        /// Directory of the pins.
        dir: PathBuf,
    },
    /// The pins have another layout version.
    #[error(
        "the pins in {} have layout version {found}, this agent has {ABI_VERSION} (run \
         `lb-agent stop --purge` and start again: open connections stay, remembered clients are \
         forgotten)", dir.display()
    )]
    OtherAbi {
        /// Directory of the pins.
        dir: PathBuf,
        /// Layout version of the pins.
        found: u32,
    },
    /// A file could not be read or written.
    #[error("{what} {}", path.display())]
    Io {
        /// The failed action, for the message.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a map or a program.
    #[error("load the eBPF programs")]
    Load(#[from] EbpfError),
    /// The kernel refused a program of the agent.
    #[error("load the program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel refused a program of a [`super::trial::Trial`].
    #[error("load the program {name}")]
    Trial {
        /// Name of the program.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map is missing, has another type, or cannot be opened.
    #[error("open the maps")]
    Map(#[from] aya::maps::MapError),
    /// A program could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The new program failed the test against the running one.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// Another agent has claimed a listen address of this one.
    #[error(transparent)]
    Claimed(#[from] Claimed),
}

impl OpenError {
    /// Whether another data plane may serve instead. It may not if pins or claims of other agents exist,
    /// because two balancers would answer on the same addresses.
    pub fn may_fall_back(&self) -> bool {
        !matches!(
            self,
            Self::OtherNamespace { .. }
                | Self::OtherAbi { .. }
                | Self::Canary(_)
                | Self::InUse { .. }
                | Self::Claimed(_)
        )
    }
}

/// Makes an error from a failed action on a file.
pub(super) fn io_error<P: AsRef<Path>>(
    what: &'static str,
    path: P,
) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        what,
        path: path.as_ref().to_owned(),
        source,
    }
}
