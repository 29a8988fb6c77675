//! Closes the open connections of a backend on the socket path. The kernel finds the sockets with the
//! backend's id in their storage, and destroys them.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use aya::maps::MapData;
use lb_common::abi::{BackendId, SocketOwner};
use rustix::net::{Shutdown, shutdown};

use super::adopt::borrow;
use super::holders::one_each;
use super::maps::pin_of;
use crate::dataplane::Pick;
use crate::sockdiag::{self, Connection};

/// Closes the connections of `backend`; returns their number.
///
/// SOCK_DESTROY resets both ends. On a kernel without it (CONFIG_INET_DIAG_DESTROY) the agent borrows the
/// sockets from their processes and shuts them down.
pub(super) fn close(pin_dir: &Path, backend: BackendId) -> io::Result<usize> {
    let storage = MapData::from_pin(pin_of(pin_dir, "SOCKET_OWNER")).map_err(io::Error::other)?;
    let fd = storage.fd().as_fd().as_raw_fd();
    let open = sockdiag::with_storage(fd, &|value| owner(value) == Some(backend))?;
    end(&open)
}

/// Closes the connections of clients that `pick` names by the address that they came to and their own;
/// returns their number.
///
/// # Errors
/// The kernel does not list its sockets, or does not end one of them.
pub fn close_clients(pick: Pick<'_>) -> io::Result<usize> {
    end(&sockdiag::between(pick)?)
}

fn end(open: &[Connection]) -> io::Result<usize> {
    for (done, connection) in open.iter().enumerate() {
        match sockdiag::destroy(connection) {
            Ok(_) => {}
            Err(error) if unsupported(&error) => {
                return shut_down(&open[done..]).map(|shut| done + shut);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(open.len())
}

/// The backend id in the storage of a socket.
fn owner(value: &[u8]) -> Option<BackendId> {
    const AT: usize = std::mem::offset_of!(SocketOwner, backend);
    let id = value.get(AT..)?.first_chunk()?;
    Some(BackendId(u32::from_ne_bytes(*id)))
}

fn unsupported(error: &io::Error) -> bool {
    // 524 is the kernel's internal ENOTSUPP, which it should not return to user space. Without CAP_NET_ADMIN the
    // agent ends its own sockets alone.
    [libc::EOPNOTSUPP, 524, libc::EPERM]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// Shuts connections down through descriptors borrowed from their processes.
fn shut_down(connections: &[Connection]) -> io::Result<usize> {
    let inodes: HashSet<u32> = connections.iter().map(Connection::inode).collect();
    let mut shut = 0;
    for holder in one_each(&inodes)?.into_values() {
        match shutdown(borrow(&holder)?, Shutdown::Both) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => shut += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(shut)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn without_sock_destroy_a_connection_is_shut_down_through_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let found = sockdiag::find(server.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(shut_down(&[found.unwrap().unwrap()]).unwrap(), 1);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end has come");
    }

    #[test]
    fn the_owner_of_a_socket_is_read_from_its_storage() {
        let mut value = [0; size_of::<SocketOwner>()];
        value[std::mem::offset_of!(SocketOwner, backend)] = 7;
        assert_eq!(
            owner(&value),
            Some(BackendId(u32::from_ne_bytes([7, 0, 0, 0])))
        );
        assert_eq!(owner(&value[..20]), None);
    }
}
