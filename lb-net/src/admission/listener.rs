//! Accepts clients, for the TCP proxy and the L7 path alike.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_common::abi::ServiceId;
use nix::libc;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{Admission, Scarce};
use crate::seldom::Seldom;

/// A listening socket for clients.
pub struct Listener {
    socket: TcpListener,
    admission: Admission,
    backoff: Backoff,
}

/// The seat of a client. Dropped before the descriptor that it stands for.
struct Seat {
    admission: Admission,
    id: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.admission.seats().leave(self.id);
    }
}

/// The connection of a client that was let in.
pub struct Client {
    // Dropped in this order: the seat before the descriptor that it stands for.
    seat: Seat,
    stream: TcpStream,
}

/// A client, and its address.
pub type Accepted = (Client, SocketAddr);

impl Listener {
    /// Serves clients of `socket`. To be called within a tokio runtime.
    pub fn new(socket: std::net::TcpListener, admission: Admission) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            admission,
            backoff: Backoff::default(),
        })
    }

    /// Waits for a client. `None` when a client was refused, or could not be accepted. Dropping the
    /// future loses no connection.
    pub async fn accept(&mut self) -> Option<Accepted> {
        match self.socket.accept().await {
            Ok((stream, peer)) => self.let_in(stream, peer),
            Err(error) => {
                if let Some(pause) = self.backoff.failed(&error) {
                    // An idle client is cut off to make room for the one that waits.
                    self.admission.make_room();
                    sleep(pause).await;
                }
                None
            }
        }
    }

    /// A client that waits to be accepted; `None` when there is none, `Some(None)` for one that was
    /// refused.
    pub fn waiting(&mut self) -> Option<Option<Accepted>> {
        // Accepted without tokio, which may not have seen the event yet.
        let (socket, peer) = SockRef::from(&self.socket).accept().ok()?;
        let stream = socket
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(socket.into()));
        Some(match (stream, peer.as_socket()) {
            (Ok(stream), Some(peer)) => self.let_in(stream, peer),
            _ => None,
        })
    }

    fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        self.backoff.succeeded();
        if self.admission.keeps(&stream).is_err() {
            reset(&stream);
            return None;
        }
        let id = self.admission.enter(&stream);
        let Some(id) = id else {
            reset(&stream);
            return None;
        };
        let admission = self.admission.clone();
        let seat = Seat { admission, id };
        Some((Client { seat, stream }, peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Admission {
    /// A seat for a client, if one is free or an idle client can be cut off.
    fn enter(&self, stream: &TcpStream) -> Option<usize> {
        let most = self.0.most;
        let mut seats = self.seats();
        if seats.open_in_all() >= most && !seats.shed(None) {
            seats.refuse(None, Scarce::Connections);
            drop(seats);
            self.tell_if_near(most, most, "through the agent");
            return None;
        }
        let id = seats.enter(stream.as_raw_fd());
        let open = seats.open_in_all();
        drop(seats);
        self.tell_if_near(open, most, "through the agent");
        Some(id)
    }
}

impl Client {
    /// Assigns the client to its service, with that service's limit of clients. False if the service refuses
    /// the client, or is full and none of its clients is idle: the connection is then to be reset.
    #[must_use]
    pub fn joins(&self, service: ServiceId, most: Option<u32>) -> bool {
        let admission = &self.seat.admission;
        let is_denied = |peer: SocketAddr| admission.denies(service, peer.ip());
        if admission.is_guarded(service) && self.stream.peer_addr().is_ok_and(is_denied) {
            return false;
        }
        let mut seats = admission.seats();
        if let Some(most) = most.map(|most| most as usize) {
            let open = seats.open(service);
            if open >= most && !seats.shed(Some(service)) {
                seats.refuse(Some(service), Scarce::Connections);
                drop(seats);
                admission.tell_if_near(most, most, "of a service");
                return false;
            }
        }
        seats.join(self.seat.id, service);
        let open = seats.open(service);
        drop(seats);
        if let Some(most) = most {
            admission.tell_if_near(open, most as usize, "of a service");
        }
        true
    }

    /// The admission that let this client in.
    pub fn admission(&self) -> &Admission {
        &self.seat.admission
    }

    /// Lets the kernel send a reset when the connection is closed.
    pub fn reset(&self) {
        reset(&self.stream);
    }

    /// The stream, to read socket options and addresses.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The stream, to read ahead of the protocol.
    pub fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// Errors are ignored: a socket that is broken already says so when it is used.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Deref for Client {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Client {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Client {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Keeps a lack of resources from turning accept into a busy loop, and from filling the log.
#[derive(Default)]
struct Backoff {
    pause: Option<Duration>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LAST: Duration = Duration::from_secs(1);

    fn succeeded(&mut self) {
        if self.pause.take().is_some() {
            tracing::debug!("accepts connections again");
        }
    }

    /// The pause after `error`. `None` for errors that end only the one connection (accept(2),
    /// "Error handling").
    fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        let of_one_connection = [
            libc::ECONNABORTED,
            libc::EINTR,
            libc::EPERM,
            libc::EPROTO,
            libc::ENETDOWN,
            libc::ENETUNREACH,
            libc::EHOSTDOWN,
            libc::EHOSTUNREACH,
            libc::ENONET,
            libc::ENOPROTOOPT,
        ];
        let code = error.raw_os_error().unwrap_or_default();
        if of_one_connection.contains(&code) {
            return None;
        }
        static LINE: Seldom = Seldom::new();
        if let Some(times) = LINE.cause() {
            tracing::warn!(%error, times, "cannot accept connections, trying on");
        }
        let pause = self.pause.map_or(Self::FIRST, |pause| pause * 2);
        self.pause = Some(pause.min(Self::LAST));
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_backs_off_while_there_is_a_lack_and_not_for_one_lost_connection() {
        let mut backoff = Backoff::default();
        let mut failed = |code| backoff.failed(&io::Error::from_raw_os_error(code));
        assert_eq!(failed(libc::ECONNABORTED), None);
        assert_eq!(failed(libc::EMFILE), Some(Duration::from_millis(10)));
        assert_eq!(failed(libc::EMFILE), Some(Duration::from_millis(20)));
        assert_eq!(failed(libc::ECONNABORTED), None);
        for _ in 0..10 {
            failed(libc::ENFILE);
        }
        assert_eq!(failed(libc::ENOMEM), Some(Duration::from_secs(1)));
        backoff.succeeded();
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(backoff.failed(&error), Some(Duration::from_millis(10)));
    }
}
