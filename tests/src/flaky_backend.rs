//! A backend in the test's process that can be told to misbehave.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::topology::hosts::Host;
use crate::wait;

/// Behaviour of the backend towards its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Every request is answered.
    Well,
    /// Every request is answered with this status.
    Status(u16),
    /// Every request is answered, after a while.
    Slow(Duration),
    /// Every connection is reset.
    Resetting,
}

/// Listens, and answers every `GET` with its port; closed when dropped.
pub struct FlakyBackend {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    number: u16,
    mood: Mutex<Mood>,
    connections: AtomicUsize,
}

impl FlakyBackend {
    /// A backend that answers every request. It listens when this returns.
    pub fn new(host: &Host, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let shared = Arc::new(Shared {
            number: address.port(),
            mood: Mutex::new(Mood::Well),
            connections: AtomicUsize::new(0),
        });
        let listener = host.run(|| {
            let (domain, tcp) = (Domain::for_address(address), Some(Protocol::TCP));
            let socket = Socket::new(domain, Type::STREAM, tcp).unwrap();
            socket.set_reuse_address(true).unwrap();
            wait::until("the port", || socket.bind(&address.into()).ok());
            socket.listen(1024).unwrap();
            TcpListener::from(socket)
        });
        let accepting = listener.try_clone().unwrap();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&serving);
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || shared.serve(&stream));
            }
        });
        Self { listener, shared }
    }

    /// From now on it behaves like this.
    pub fn feel(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Connections that it has accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FlakyBackend {
    fn drop(&mut self) {
        // Ends the listening although a thread waits on the socket.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    /// Answers request after request, until the peer closes the connection.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mood = *self.mood.lock().unwrap();
            if mood == Mood::Resetting {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            if line != "\r\n" {
                return;
            }
            if let Mood::Slow(pause) = mood {
                std::thread::sleep(pause);
            }
            let status = match mood {
                Mood::Status(status) => status,
                _ => 200,
            };
            if self.answer(stream, status).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream, status: u16) -> std::io::Result<()> {
        let remote = stream.peer_addr()?.ip();
        let number = self.number;
        let body = format!("{{\"port\":{number},\"pid\":0,\"remote\":\"{remote}\"}}");
        let length = body.len();
        let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + &body).as_bytes())
    }
}
