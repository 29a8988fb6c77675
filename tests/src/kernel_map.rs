//! Pinned maps, read and written without the agent: keys and values as they lie in memory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// File descriptor of a BPF map.
pub struct KernelMap(OwnedFd);

/// `union bpf_attr` for BPF_MAP_CREATE, as far as it is needed.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The same for commands about elements; `value` is also the next key.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

impl KernelMap {
    /// Opens the map that is pinned at `pin`.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut attr = ObjGet {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        };
        bpf(BPF_OBJ_GET, &mut attr).map(Self::owned)
    }

    /// An array with one value, for a map of maps.
    pub fn with_value<V: Copy>(value: &V) -> io::Result<Self> {
        let mut attr = Create {
            kind: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: size_of::<V>() as u32,
            max_entries: 1,
            flags: 0,
        };
        let map = bpf(BPF_MAP_CREATE, &mut attr).map(Self::owned)?;
        map.put(&0u32, value)?;
        Ok(map)
    }

    fn owned(fd: libc::c_long) -> Self {
        // SAFETY: the kernel has just made it, for this process alone.
        Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// Writes an element. `K` and `V` have to be of the map's sizes.
    pub fn put<K: Copy, V: Copy>(&self, key: &K, value: &V) -> io::Result<()> {
        let (key, value) = (std::ptr::from_ref(key), std::ptr::from_ref(value));
        let mut attr = self.element(key as u64, value as u64);
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// Puts a map into this map of maps.
    pub fn put_map(&self, index: u32, map: &Self) -> io::Result<()> {
        self.put(&index, &(map.0.as_raw_fd() as u32))
    }

    /// Removes every element. `K` has to be of the size of the map's keys.
    pub fn clear<K: Copy + Default>(&self) -> io::Result<()> {
        let mut key = self.next::<K>(None)?;
        while let Some(found) = key {
            // The next key is fetched before this one is deleted: after a missing key the kernel starts
            // over.
            key = self.next(Some(&found))?;
            let mut attr = self.element(std::ptr::from_ref(&found) as u64, 0);
            bpf(BPF_MAP_DELETE_ELEM, &mut attr)?;
        }
        Ok(())
    }

    /// The key after `key`, or the first.
    fn next<K: Copy + Default>(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::default();
        let before = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
        let mut attr = self.element(before, std::ptr::from_mut(&mut next) as u64);
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, key: u64, value: u64) -> Element {
        Element {
            map_fd: self.0.as_raw_fd() as u32,
            pad: 0,
            key,
            value,
            flags: 0,
        }
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the command's part of `union bpf_attr`, valid for its size; the pointers
    // in it live as long as the call, and the caller vouches for the sizes behind them.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}
