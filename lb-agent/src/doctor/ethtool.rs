//! Offloads of an interface, by the ioctl that every driver has (SIOCETHTOOL, `linux/ethtool.h`).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
/// Large receive offload.
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with the pointer of its union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u64; 2],
}

/// Whether the interface merges received packets before any program sees them.
pub(super) fn lro(interface: &str) -> io::Result<bool> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let mut value = Value {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        rest: [0; 2],
    };
    let name = interface.as_bytes();
    // The last byte stays zero.
    let length = name.len().min(libc::IFNAMSIZ - 1);
    request.name[..length].copy_from_slice(&name[..length]);
    // SAFETY: the request is as large as `struct ifreq` (40 bytes) and names a value that outlives
    // the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data & ETH_FLAG_LRO != 0)
}
const _: () = assert!(size_of::<Request>() == 40);
