//! A link between two hosts that carries IP packets without frames: a tun interface on each, and threads that
//! pass packets on.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use crate::topology::hosts::Host;

/// Flags of TUNSETIFF (linux/if_tun.h): IP packets, and nothing before them.
const TUN_WITHOUT_INFO: i16 = 0x1001;
/// The request itself, `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// The kernel's `struct ifreq`, as TUNSETIFF takes it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    pad: [u8; 22],
}

/// Joins two hosts by interfaces called `name`, which are up. The link lasts as long as the test.
pub fn join(one: &Host, other: &Host, name: &str) {
    let [one, other] = [one, other].map(|host| {
        let file = host.run(|| open(name));
        host.ip(&["link", "set", name, "up"]);
        file
    });
    carry(one.try_clone().unwrap(), other.try_clone().unwrap());
    carry(other, one);
}

fn open(name: &str) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.expect("open /dev/net/tun");
    let mut request = Request {
        name: [0; 16],
        flags: TUN_WITHOUT_INFO,
        pad: [0; 22],
    };
    let text = CString::new(name).unwrap();
    let bytes = text.as_bytes_with_nul();
    request.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: the request has the size and layout that the kernel reads and writes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    file
}

fn carry(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        while let Ok(size) = from.read(&mut packet) {
            // A full queue drops packets, as any link does.
            let _ = to.write(&packet[..size]);
        }
    });
}
