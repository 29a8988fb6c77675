//! Attaches programs by pinned links, and replaces a program through its link without a gap.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramFd, SkLookup, SockOps};

use super::sys;

/// The reason for which a program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct AttachError {
    what: String,
    #[source]
    source: BoxedError,
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl AttachError {
    fn new(what: impl Into<String>, source: impl Into<BoxedError>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// Attaches `lb_steer` to this network namespace, or replaces the program of the pinned link at `pin`.
pub(super) fn steer(program: &mut SkLookup, pin: &Path) -> Result<(), AttachError> {
    let attach = |program: &mut SkLookup| -> Result<FdLink, BoxedError> {
        let id = program.attach(File::open("/proc/thread-self/ns/net")?)?;
        Ok(program.take_link(id)?.into())
    };
    let failed = |source| AttachError::new("attach lb_steer to the network namespace", source);
    if replace(program.fd().map_err(|error| failed(error.into()))?, pin)? {
        return Ok(());
    }
    keep(attach(program).map_err(failed)?, pin)
}

/// Attaches `lb_listen` to `cgroup`, or replaces the program of the pinned link at `pin`.
pub(super) fn listen(program: &mut SockOps, cgroup: &Path, pin: &Path) -> Result<(), AttachError> {
    let attach = |program: &mut SockOps| -> Result<FdLink, BoxedError> {
        // Links always allow other programs beside them; aya expects `Single` for links.
        let id = program.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        Ok(program.take_link(id)?.try_into()?)
    };
    let failed = |source| to_cgroup("lb_listen", cgroup, source);
    if replace(program.fd().map_err(|error| failed(error.into()))?, pin)? {
        return Ok(());
    }
    keep(attach(program).map_err(failed)?, pin)
}

/// Attaches the program `name` to its system call with an address, or replaces the program of the pinned
/// link at `pin`.
pub(super) fn at_system_call(
    name: &str,
    program: &mut CgroupSockAddr,
    cgroup: &Path,
    pin: &Path,
) -> Result<(), AttachError> {
    let attach = |program: &mut CgroupSockAddr| -> Result<FdLink, BoxedError> {
        let id = program.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        Ok(program.take_link(id)?.try_into()?)
    };
    let failed = |source| to_cgroup(name, cgroup, source);
    if replace(program.fd().map_err(|error| failed(error.into()))?, pin)? {
        return Ok(());
    }
    keep(attach(program).map_err(failed)?, pin)
}

fn to_cgroup(name: &str, cgroup: &Path, source: BoxedError) -> AttachError {
    AttachError::new(
        format!("attach {name} to the cgroup {}", cgroup.display()),
        source,
    )
}

fn keep(link: FdLink, pin: &Path) -> Result<(), AttachError> {
    link.pin(pin)
        .map(drop)
        .map_err(|error| AttachError::new(format!("pin the link {}", pin.display()), error))
}

/// Replaces the program of the link pinned at `pin`. Returns `false` if there is no such link. A link that
/// is no longer attached is removed and also returns `false`.
pub(super) fn replace(program: &ProgramFd, pin: &Path) -> Result<bool, AttachError> {
    let link = match open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(AttachError::new(
                format!("open the pin {}", pin.display()),
                error,
            ));
        }
    };
    match sys::update_link(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        // The link's network namespace or cgroup was removed.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            remove(pin)?;
            Ok(false)
        }
        Err(error) => Err(AttachError::new(
            format!("replace the program of {}", pin.display()),
            error,
        )),
    }
}

/// Makes the link pinned at `link` run the program pinned at `program` again.
pub(super) fn put_back(program: &Path, link: &Path) -> io::Result<()> {
    let (program, link) = (open_pin(program)?, open_pin(link)?);
    sys::update_link(link.as_fd(), program.as_fd())
}

fn remove(pin: &Path) -> Result<(), AttachError> {
    fs::remove_file(pin)
        .map_err(|error| AttachError::new(format!("remove the pin {}", pin.display()), error))
}

/// Whether the link pinned at `pin` is attached to something.
pub(super) fn is_live(pin: &Path) -> bool {
    target(pin).is_ok_and(|target| target != 0)
}

/// Number of the namespace, cgroup or interface that the link pinned at `pin` is attached to; 0 for a dead
/// link.
pub(super) fn target(pin: &Path) -> io::Result<u64> {
    open_pin(pin).and_then(|link| target_of(link.as_fd()))
}

/// Detaches the link pinned at `pin` now. Removal of the pin alone leaves the time of the detachment to the
/// kernel.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    sys::detach_link(open_pin(pin)?.as_fd())
}

/// Types of links with targets of 32 bits: a network namespace or an interface (`enum bpf_link_type` in
/// `linux/bpf.h`: NETNS, XDP, TCX).
const NARROW: [u32; 3] = [5, 6, 11];

/// Opens the object pinned at `pin`. aya's own function hides the descriptor that `sys` needs.
pub(super) fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    sys::open(pin, 0)
}

/// Opens the map that is pinned at `pin` for reading, which a read-only file system allows too.
pub(super) fn open_map_to_read(pin: &Path) -> io::Result<OwnedFd> {
    sys::open(pin, sys::BPF_F_RDONLY)
}

fn target_of(link: BorrowedFd<'_>) -> io::Result<u64> {
    let info = sys::link_info(link)?;
    let narrow = NARROW.contains(&info.kind);
    Ok(if narrow {
        info.target & 0xffff_ffff
    } else {
        info.target
    })
}

/// Path of the pin of a program's link.
pub(super) fn pin_of(pin_dir: &Path, program: &str) -> PathBuf {
    pin_dir.join("links").join(program)
}
