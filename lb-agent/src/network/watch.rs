//! Noticing that interfaces, addresses or routes have changed: the kernel tells a netlink socket.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Multicast groups, `enum rtnetlink_groups` in linux/rtnetlink.h.
const LINK: u32 = 1;
const IPV4_ADDRESS: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV6_ADDRESS: u32 = 9;
const IPV6_ROUTE: u32 = 11;

/// Changes seldom come alone: what follows within this time is told with the first.
const TOGETHER: Duration = Duration::from_millis(50);

/// Calls `changed` after each change, on a thread of its own that lives as long as the process.
pub(super) fn start(changed: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in [LINK, IPV4_ADDRESS, IPV4_ROUTE, IPV6_ADDRESS, IPV6_ROUTE] {
        socket.add_membership(group)?;
    }
    let listen = move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match socket.recv(&mut &mut buffer[..], 0) {
                Ok(_) => {}
                // More came than could be kept: something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "changes of the network are noticed late from now on");
                    return;
                }
            }
            std::thread::sleep(TOGETHER);
            while socket
                .recv(&mut &mut buffer[..], libc::MSG_DONTWAIT)
                .is_ok()
            {}
            changed();
        }
    };
    std::thread::Builder::new()
        .name("network-watch".into())
        .spawn(listen)
        .map(drop)
}
