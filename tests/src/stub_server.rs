//! A small server in a thread of the test, for listening sockets of every kind.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::skip::skip;
use crate::topology::hosts::Host;
use crate::wait;

/// Whether sockets of `host` can be MPTCP ones. If the kernel has none, the calling test is skipped
/// with a message.
pub fn has_mptcp(host: &Host) -> bool {
    let enabled = host.setting("net/mptcp/enabled");
    if enabled == "0" {
        host.set("net/mptcp/enabled", "1");
    }
    if enabled.is_empty() {
        skip("this kernel has no MPTCP (CONFIG_MPTCP)");
    }
    !enabled.is_empty()
}

/// Listens and answers every `GET` with a number of its own; closed when dropped.
pub struct StubServer(TcpListener);

impl StubServer {
    /// One that calls itself `number`. It listens when this returns.
    pub fn new(host: &Host, address: &str, number: u16) -> Self {
        Self::open(host, address, number, Protocol::TCP, false)
    }

    /// One that listens by MPTCP; see [`has_mptcp`].
    pub fn mptcp(host: &Host, address: &str, number: u16) -> Self {
        Self::open(host, address, number, Protocol::MPTCP, false)
    }

    /// One of a SO_REUSEPORT group.
    pub fn member(host: &Host, address: &str, number: u16) -> Self {
        Self::open(host, address, number, Protocol::TCP, true)
    }

    fn open(host: &Host, address: &str, number: u16, protocol: Protocol, group: bool) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        host.run(|| {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, Some(protocol)).unwrap();
            socket.set_reuse_port(group).unwrap();
            socket.set_reuse_address(true).unwrap();
            // The thread of one that has just been closed may still hold the port.
            wait::until("the port", || socket.bind(&address.into()).ok());
            socket.listen(1024).unwrap();
            let listener = TcpListener::from(socket);
            let accepting = listener.try_clone().unwrap();
            std::thread::spawn(move || serve(&accepting, number));
            Self(listener)
        })
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        // Ends the listening although a thread waits on the socket.
        let listener = socket2::SockRef::from(&self.0);
        let _ = listener.shutdown(Shutdown::Both);
    }
}

fn serve(listener: &TcpListener, number: u16) {
    while let Ok((mut stream, peer)) = listener.accept() {
        let _ = stream.read(&mut [0; 1024]);
        let remote = peer.ip();
        let body = format!("{{\"port\":{number},\"pid\":0,\"remote\":\"{remote}\"}}");
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes());
    }
}
