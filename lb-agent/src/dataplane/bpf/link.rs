//! Attaching programs by links that are pinned, and replacing a program through its link so that
//! nothing is detached in between.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramFd, SkLookup, SockOps};

/// Why a program could not be attached.
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

/// Attaches `lb_steer` to this network namespace, or puts it in the place of the program that the
/// pinned link at `pin` runs.
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

/// Attaches `lb_listen` to `cgroup`, or puts it in the place of the program that the pinned link
/// at `pin` runs.
pub(super) fn listen(program: &mut SockOps, cgroup: &Path, pin: &Path) -> Result<(), AttachError> {
    let attach = |program: &mut SockOps| -> Result<FdLink, BoxedError> {
        // Links always let other programs run too; aya wants `Single` for them.
        let id = program.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        Ok(program.take_link(id)?.try_into()?)
    };
    let failed = |source| to_cgroup("lb_listen", cgroup, source);
    if replace(program.fd().map_err(|error| failed(error.into()))?, pin)? {
        return Ok(());
    }
    keep(attach(program).map_err(failed)?, pin)
}

/// The same for the program called `name`, at a system call that names an address.
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

/// Runs `program` in the place of what the link pinned at `pin` runs. `false` when there is no
/// such link, or none that is attached to anything any more; that one is removed.
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
    match update(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        // What it was attached to is gone: a network namespace or a cgroup that was removed.
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

/// Has the link pinned at `link` run the program pinned at `program` again.
pub(super) fn put_back(program: &Path, link: &Path) -> io::Result<()> {
    let (program, link) = (open_pin(program)?, open_pin(link)?);
    update(link.as_fd(), program.as_fd())
}

fn remove(pin: &Path) -> Result<(), AttachError> {
    fs::remove_file(pin)
        .map_err(|error| AttachError::new(format!("remove the pin {}", pin.display()), error))
}

/// Whether the link pinned at `pin` is attached to something.
pub(super) fn is_live(pin: &Path) -> bool {
    target(pin).is_ok_and(|target| target != 0)
}

/// Number of the namespace, cgroup or interface that the link pinned at `pin` is attached to; 0 for a
/// dead link.
pub(super) fn target(pin: &Path) -> io::Result<u64> {
    open_pin(pin).and_then(|link| target_of(link.as_fd()))
}

/// Detaches the link pinned at `pin` now. Removing the pin alone lets go of it only once the kernel
/// gets to it.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = LinkDetach {
        link_fd: link.as_raw_fd() as u32,
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The kernel's `union bpf_attr` for BPF_LINK_DETACH (`link_detach` in `linux/bpf.h`).
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The kernel's `union bpf_attr` for BPF_LINK_UPDATE (`link_update` in `linux/bpf.h`).
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The same for BPF_OBJ_GET (`pathname`, `bpf_fd`, `file_flags`).
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The same for BPF_OBJ_GET_INFO_BY_FD (`info`).
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of the kernel's `struct bpf_link_info`; in the union of what a link is attached to,
/// all links of ours begin with the number that identifies it (`netns.netns_ino`, `xdp.ifindex`,
/// `tcx.ifindex`, and `cgroup.cgroup_id`, which is 64 bits wide).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    target: u64,
    rest: [u64; 8],
}

/// Opens a map for reading alone (`linux/bpf.h`).
const BPF_F_RDONLY: u32 = 1 << 3;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
/// Kinds of links that are attached to something with a number of 32 bits: a network namespace,
/// or an interface (`enum bpf_link_type` in `linux/bpf.h`: NETNS, XDP, TCX).
const NARROW: [u32; 3] = [5, 6, 11];

/// The same for BPF_MAP_LOOKUP_ELEM (`map_fd`, `key`, `value`, `flags`).
#[repr(C)]
struct MapLookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the value at `index` of an array into `value`, for values that are too large for a stack.
/// The value of an array of maps is the id of the inner map.
pub(super) fn lookup<T: aya::Pod>(map: &MapData, index: u32, value: &mut T) -> io::Result<()> {
    let mut attr = MapLookup {
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        pad: 0,
        key: &raw const index as u64,
        value: (&raw mut *value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Whether a thread without capabilities may not even look into a map that is open: so it is before
/// Linux 5.19 unless `kernel.unprivileged_bpf_disabled` is 0. The calling thread finds out; it should
/// hold none.
pub fn locks_maps() -> bool {
    let mut attr = MapLookup {
        // No map at all: who may ask is told that.
        map_fd: u32::MAX,
        pad: 0,
        key: 0,
        value: 0,
        flags: 0,
    };
    let told = bpf(BPF_MAP_LOOKUP_ELEM, &mut attr);
    told.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Opens what is pinned at `pin`. aya's own way hides the descriptor that the commands below need.
pub(super) fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    open_pin_with(pin, 0)
}

/// Opens the map that is pinned at `pin` for reading, which a read-only file system allows too.
pub(super) fn open_map_to_read(pin: &Path) -> io::Result<OwnedFd> {
    open_pin_with(pin, BPF_F_RDONLY)
}

fn open_pin_with(pin: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

fn target_of(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let narrow = NARROW.contains(&info.kind);
    Ok(if narrow {
        info.target & 0xffff_ffff
    } else {
        info.target
    })
}

/// The bpf system call, for the commands that aya does not offer for these kinds of links.
pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the command's part of `union bpf_attr`, laid out as the kernel has it and
    // valid for its size; the pointers in it live as long as the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// Where the pin of the link of `program` is.
pub(super) fn pin_of(pin_dir: &Path, program: &str) -> PathBuf {
    pin_dir.join("links").join(program)
}
