//! The bpf system call, for commands that aya does not offer in the required form.
//!
//! Each command has a function with references and slices as parameters. All addresses and lengths for the
//! kernel therefore originate in this file.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::{MapData, MapType};

/// A command's part of the kernel's `union bpf_attr` (`linux/bpf.h`).
///
/// # Safety
/// The type is `#[repr(C)]`, laid out as in the kernel for [`Attr::COMMAND`], without implicit padding.
unsafe trait Attr {
    /// One of `enum bpf_cmd`.
    const COMMAND: libc::c_long;
}

/// Makes the system call.
///
/// # Safety
/// Every address in `attr` is valid for the command's reads and writes until the call returns.
unsafe fn bpf<A: Attr>(attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is laid out as in the kernel (`Attr`) and valid for its size; the caller guarantees
    // the addresses in it.
    let done = unsafe { libc::syscall(libc::SYS_bpf, A::COMMAND, attr, size_of::<A>()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// Makes the system call of a command that returns a new descriptor.
///
/// # Safety
/// As for [`bpf`]; the command returns a descriptor.
unsafe fn bpf_fd<A: Attr>(attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller guarantees the same conditions.
    let fd = unsafe { bpf(attr) }?;
    // SAFETY: the kernel has just created this descriptor, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Declares a command's part of `union bpf_attr`.
macro_rules! attr {
    ($(#[$doc:meta])* $name:ident = $command:literal { $($field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Default)]
        struct $name { $($field: $type,)+ }

        // SAFETY: the fields are those of the command in `linux/bpf.h`, with explicit padding.
        unsafe impl Attr for $name {
            const COMMAND: libc::c_long = $command;
        }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())+);
    };
}

attr! {
    /// BPF_MAP_CREATE, as of Linux 4.15.
    MapCreate = 0 {
        map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32,
        inner_map_fd: u32, numa_node: u32, map_name: [u8; 16],
    }
}
attr! {
    /// BPF_MAP_LOOKUP_ELEM.
    MapLookup = 1 { map_fd: u32, pad: u32, key: u64, value: u64, flags: u64, }
}
attr! {
    /// BPF_MAP_UPDATE_ELEM.
    MapUpdate = 2 { map_fd: u32, pad: u32, key: u64, value: u64, flags: u64, }
}
attr! {
    /// BPF_OBJ_PIN.
    ObjPin = 6 { pathname: u64, bpf_fd: u32, file_flags: u32, }
}
attr! {
    /// BPF_OBJ_GET.
    ObjGet = 7 { pathname: u64, bpf_fd: u32, file_flags: u32, }
}
attr! {
    /// BPF_PROG_TEST_RUN (`test`).
    ProgTestRun = 10 {
        prog_fd: u32, retval: u32, data_size_in: u32, data_size_out: u32, data_in: u64, data_out: u64,
        repeat: u32, duration: u32, ctx_size_in: u32, ctx_size_out: u32, ctx_in: u64, ctx_out: u64,
        flags: u32, cpu: u32, batch_size: u32, pad: u32,
    }
}
attr! {
    /// BPF_OBJ_GET_INFO_BY_FD (`info`).
    InfoByFd = 15 { bpf_fd: u32, info_len: u32, info: u64, }
}
attr! {
    /// BPF_PROG_QUERY (`query`), up to Linux 6.6.
    ProgQuery = 16 {
        target: u32, attach_type: u32, query_flags: u32, attach_flags: u32, prog_ids: u64, prog_cnt: u32,
        pad: u32, prog_attach_flags: u64, link_ids: u64, link_attach_flags: u64, revision: u64,
    }
}
attr! {
    /// BPF_MAP_LOOKUP_BATCH (`batch`).
    LookupBatch = 24 {
        in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, elem_flags: u64,
        flags: u64,
    }
}
attr! {
    /// BPF_MAP_UPDATE_BATCH (`batch`).
    UpdateBatch = 26 {
        in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, elem_flags: u64,
        flags: u64,
    }
}
attr! {
    /// BPF_LINK_UPDATE (`link_update`).
    LinkUpdate = 29 { link_fd: u32, new_prog_fd: u32, flags: u32, old_prog_fd: u32, }
}
attr! {
    /// BPF_LINK_DETACH (`link_detach`).
    LinkDetach = 34 { link_fd: u32, }
}

/// Flag: opens a map for reading only.
pub(super) const BPF_F_RDONLY: u32 = 1 << 3;

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Type and sizes of a map.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Type of the map, one of `enum bpf_map_type` in `linux/bpf.h`.
    pub(super) map_type: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value.
    pub(super) value_size: u32,
}

/// Creates a map. `template` is a map like the inner ones, for an array of maps.
pub(super) fn create_map(
    shape: &Shape,
    max_entries: u32,
    name: &str,
    template: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    let len = name.len().min(map_name.len() - 1);
    map_name[..len].copy_from_slice(&name.as_bytes()[..len]);
    let mut attr = MapCreate {
        map_type: shape.map_type,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries,
        inner_map_fd: template.map_or(0, number),
        map_name,
        ..MapCreate::default()
    };
    // SAFETY: `attr` has no address, and the command returns a descriptor.
    unsafe { bpf_fd(&mut attr) }
}

/// Reads the value at `index` of an array into `value`, for values that are too large for a stack. The
/// value of an array of maps is the id of the inner map.
///
/// # Errors
/// There is no such value, or the map is not an array of values with this size.
pub(super) fn lookup<T: aya::Pod>(map: &MapData, index: u32, value: &mut T) -> io::Result<()> {
    let info = map.info().map_err(io::Error::other)?;
    let is_array = matches!(info.map_type(), Ok(MapType::Array | MapType::ArrayOfMaps));
    if !is_array || info.value_size() as usize != size_of::<T>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attr = MapLookup {
        map_fd: number(map.fd().as_fd()),
        key: &raw const index as u64,
        value: (&raw mut *value) as u64,
        ..MapLookup::default()
    };
    // SAFETY: the map is an array: its key is a `u32`, and it has one value an index, of the size of a `T`.
    // Any bytes are a `T` (`Pod`).
    unsafe { bpf(&mut attr) }.map(drop)
}

/// Puts the map `inner` into the array of maps `outer`.
pub(super) fn put_inner(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let fd = number(inner);
    let mut attr = MapUpdate {
        map_fd: number(outer),
        key: &raw const index as u64,
        value: &raw const fd as u64,
        ..MapUpdate::default()
    };
    // SAFETY: an array of maps has keys and values of four bytes, like `index` and `fd`. The kernel only
    // reads both.
    unsafe { bpf(&mut attr) }.map(drop)
}

/// Puts each of `inner` into the array of maps `outer`, at the index in the same position of `indices`.
///
/// # Errors
/// The kernel refuses, or is too old for the command. Some maps may be in the array then.
pub(super) fn put_inner_batch(
    outer: BorrowedFd<'_>,
    indices: &[u32],
    inner: &[OwnedFd],
) -> io::Result<()> {
    if indices.len() != inner.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let fds: Vec<u32> = inner.iter().map(|map| number(map.as_fd())).collect();
    let mut attr = UpdateBatch {
        keys: indices.as_ptr() as u64,
        values: fds.as_ptr() as u64,
        count: indices.len() as u32,
        map_fd: number(outer),
        ..UpdateBatch::default()
    };
    // SAFETY: an array of maps has keys and values of four bytes. Both slices have `count` of them, which
    // the kernel only reads.
    unsafe { bpf(&mut attr) }.map(drop)
}

/// Pins the map, program or link `object` at `pin`.
pub(super) fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(object),
        file_flags: 0,
    };
    // SAFETY: the address is that of a zero-terminated string, which outlives the call.
    unsafe { bpf(&mut attr) }.map(drop)
}

/// Opens the object pinned at `pin`, with flags as [`BPF_F_RDONLY`].
pub(super) fn open(pin: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags,
    };
    // SAFETY: as for `pin`, and the command returns a descriptor.
    unsafe { bpf_fd(&mut attr) }
}

/// Makes `link` run `program`.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: number(link),
        new_prog_fd: number(program),
        ..LinkUpdate::default()
    };
    // SAFETY: `attr` has no address.
    unsafe { bpf(&mut attr) }.map(drop)
}

/// Detaches `link` from its target.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetach {
        link_fd: number(link),
    };
    // SAFETY: `attr` has no address.
    unsafe { bpf(&mut attr) }.map(drop)
}

/// The head of the kernel's `struct bpf_link_info`. All links of the agent begin their part of the union
/// with the number of their target. These are `netns.netns_ino`, `xdp.ifindex`, `tcx.ifindex` and
/// `cgroup.cgroup_id`; the last one is 64 bits wide.
#[repr(C)]
#[derive(Default)]
pub(super) struct LinkInfo {
    /// Type of the link, one of `enum bpf_link_type`.
    pub(super) kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    /// Number of the link's target; 0 for a detached link.
    pub(super) target: u64,
    rest: [u64; 8],
}

/// The kernel's information about `link`.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: number(link),
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which has that many, all integers.
    unsafe { bpf(&mut attr) }?;
    Ok(info)
}

/// Most programs of one hook that are listed.
const MOST_PROGRAMS: usize = 64;

/// Ids of the programs on a hook of `target`, an interface or the descriptor of a namespace.
pub(super) fn programs_on(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MOST_PROGRAMS];
    let mut attr = ProgQuery {
        target,
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the kernel writes at most `prog_cnt` ids, for which there is room.
    unsafe { bpf(&mut attr) }?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// Runs the packet program `program` on `frame`. Writes the resulting frame to `after`. Returns the
/// program's return value and the length of the resulting frame.
pub(super) fn run_on_frame(
    program: BorrowedFd<'_>,
    frame: &[u8],
    after: &mut [u8],
) -> io::Result<(u32, usize)> {
    let mut attr = ProgTestRun {
        prog_fd: number(program),
        data_size_in: frame.len() as u32,
        data_size_out: after.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: after.as_mut_ptr() as u64,
        ..ProgTestRun::default()
    };
    // SAFETY: the kernel reads and writes no more than these slices have.
    unsafe { bpf(&mut attr) }?;
    Ok((attr.retval, (attr.data_size_out as usize).min(after.len())))
}

/// Runs `program` on `context`, which has the kernel's layout for the program's type. The kernel writes the
/// resulting context back. Returns the program's return value.
pub(super) fn run_on_context<C: aya::Pod>(
    program: BorrowedFd<'_>,
    context: &mut C,
) -> io::Result<u32> {
    let before = *context;
    let size = size_of::<C>() as u32;
    let mut attr = ProgTestRun {
        prog_fd: number(program),
        ctx_size_in: size,
        ctx_size_out: size,
        ctx_in: &raw const before as u64,
        ctx_out: &raw mut *context as u64,
        ..ProgTestRun::default()
    };
    // SAFETY: the kernel reads and writes no more than a `C`, and any bytes are a valid one (`Pod`).
    unsafe { bpf(&mut attr) }?;
    Ok(attr.retval)
}

/// The result of one batched read.
pub(super) struct Batch {
    /// Number of entries read.
    pub(super) entries: usize,
    /// Number of the bucket at which the kernel continues.
    pub(super) to: u32,
    /// Whether this batch reached the end of the map.
    pub(super) is_end: bool,
}

/// Reads entries of the hash map `map`, from the bucket `from` or from the first, until `keys` and `values`
/// are full. The elements of both have the map's sizes, each rounded up to a multiple of eight bytes. A
/// bucket must fit.
///
/// # Errors
/// The kernel refuses, or the map is not a hash map with one value per key.
pub(super) fn lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: &MapData,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let info = map.info().map_err(io::Error::other)?;
    if !matches!(info.map_type(), Ok(MapType::Hash | MapType::LruHash)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let fit = |bytes: usize, size: u32| bytes / (size as usize).next_multiple_of(8).max(8);
    let room =
        fit(size_of_val(keys), info.key_size()).min(fit(size_of_val(values), info.value_size()));
    let mut begin = from.unwrap_or(0);
    let mut to = 0u32;
    let mut attr = LookupBatch {
        in_batch: from.map_or(0, |_| &raw mut begin as u64),
        out_batch: &raw mut to as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room as u32,
        map_fd: number(map.fd().as_fd()),
        ..LookupBatch::default()
    };
    // SAFETY: the map is a hash map with one value per key. The kernel writes at most `count` keys and
    // values, for which both slices have room. Any bytes are a `K` and a `V` (`Pod`). The kernel also
    // writes the number of a bucket to `to`.
    let is_end = match unsafe { bpf(&mut attr) } {
        Ok(_) => false,
        // The remaining entries were read all the same.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    Ok(Batch {
        entries: (attr.count as usize).min(room),
        to,
        is_end,
    })
}
