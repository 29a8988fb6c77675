//! Sockets for the userspace path, ready for tokio.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 4096;

/// A TCP socket that listens on `address`.
///
/// SO_REUSEADDR lets an agent take an address again at once; another listener still keeps it away.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// TCP sockets that share `address` (SO_REUSEPORT): the kernel spreads connections over them. With
/// port 0 all have the port that the first was given.
pub fn tcp_group(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut group = Vec::with_capacity(count);
    tcp_members(address, count, &mut group)?;
    Ok(group)
}

/// Makes a group at least `count` sockets large; of one that is empty, `address` is the address.
pub fn tcp_members(
    address: SocketAddr,
    count: usize,
    group: &mut Vec<TcpListener>,
) -> io::Result<()> {
    let mut address = match group.first() {
        Some(first) => first.local_addr()?,
        None => address,
    };
    while group.len() < count {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        bind(&socket, address)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        group.push(listener);
    }
    Ok(())
}

/// A UDP socket bound to `address`.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    bind(&socket, address)?;
    Ok(socket.into())
}

/// `[::]` is IPv6 only, as everywhere in the configuration.
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_wildcards_do_not_get_in_each_others_way() {
        let v4 = tcp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        tcp(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        let taken = tcp(SocketAddr::new("0.0.0.0".parse().unwrap(), port)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
