//! Whether maps that are open can be looked into without capabilities: the kernel is asked.

/// BPF_MAP_LOOKUP_ELEM of `enum bpf_cmd` (`linux/bpf.h`).
const COMMAND: libc::c_long = 1;

/// The part of `union bpf_attr` for that command.
#[repr(C)]
struct Lookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Whether a thread without capabilities may not even look into a map that is open: so it is before
/// Linux 5.19 unless `kernel.unprivileged_bpf_disabled` is 0. The calling thread finds out; it should
/// hold none.
pub(super) fn are_locked() -> bool {
    // No map at all: a thread that may ask is told that.
    let attr = Lookup {
        map_fd: u32::MAX,
        pad: 0,
        key: 0,
        value: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `attr`, which is as it has it and valid for its size. Without a map it reads and
    // writes nothing else.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, COMMAND, &raw const attr, size_of::<Lookup>()) };
    done < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}
