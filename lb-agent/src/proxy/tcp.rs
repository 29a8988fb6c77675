//! TCP: accepts connections, connects each to the first backend that can be reached, and copies
//! both ways until both are done.
//!
//! An idle connection holds no buffer. Bytes are read into a buffer that all connections of a
//! thread share, and only bytes that the other side does not take at once are kept. While bytes are
//! kept no more are read, so that the slower side sets the pace.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_common::abi::protocol;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::hops::Hops;
use super::{Candidate, Chooser, Farewell, Open, Traffic, Visit, asked_to_end, asked_to_stop};
use lb_config::http::ProxyVersion;
use lb_net::admission::listener::{Client, Listener};
use lb_net::admission::{Admission, is_scarcity, lacks_port};

use lb_net::proxy_protocol;
use lb_net::sockopt::save_syn;

/// Most bytes read at once, and so the most kept for one direction of a connection.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Serves listening sockets.
#[derive(Clone, Copy, Debug)]
pub struct TcpProxy {
    /// How long one backend may take to accept a connection before the next is tried.
    pub connect_timeout: Duration,
}

impl Default for TcpProxy {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Connections that are still accepted when no more are wanted.
const MOST_WAITING: usize = 4096;

/// Part of the drain time that is left for the last connections.
const FOR_THE_LAST: Duration = Duration::from_secs(1);

impl TcpProxy {
    /// Serves `listener` until `shutdown` asks to stop and the connections are over, or their time
    /// is. Dropping the future ends them at once.
    pub async fn serve(
        self,
        mut listener: Listener,
        chooser: Arc<dyn Chooser>,
        mut shutdown: super::Shutdown,
    ) {
        if let Err(error) = save_syn(&listener) {
            warn!(%error, "loops of connections will not be noticed");
        }
        let serve = |(client, peer)| self.connection(client, peer, Arc::clone(&chooser));
        let mut connections = JoinSet::new();
        let Farewell {
            deadline,
            accept_policy,
        } = loop {
            tokio::select! {
                biased;
                farewell = asked_to_stop(&mut shutdown) => break farewell,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    if let Some(accepted) = accepted {
                        connections.spawn(serve(accepted));
                    }
                }
            }
        };
        let mut last = JoinSet::new();
        if accept_policy.serves_newcomers() {
            // The end does not wait for slow connections.
            let until = deadline.checked_sub(FOR_THE_LAST).unwrap_or(deadline);
            loop {
                tokio::select! {
                    biased;
                    over = connections.join_next() => if over.is_none() { break },
                    () = sleep_until(until) => break,
                    Some(_) = last.join_next() => {}
                    accepted = listener.accept() => {
                        if let Some(accepted) = accepted {
                            last.spawn(serve(accepted));
                        }
                    }
                }
            }
        }
        // Connections in the backlog have been let in already. Their number is bounded, even in a flood.
        for _ in 0..MOST_WAITING {
            let Some(accepted) = listener.waiting() else {
                break;
            };
            if let Some(accepted) = accepted {
                last.spawn(serve(accepted));
            }
        }
        drop(listener);
        let drained = async {
            while connections.join_next().await.is_some() {}
            while last.join_next().await.is_some() {}
        };
        if timeout_at(deadline, drained).await.is_err() {
            let connections = connections.len() + last.len();
            info!(connections, "closed when the drain time was over");
        }
    }

    /// One connection from beginning to end.
    async fn connection(self, client: Client, peer: SocketAddr, chooser: Arc<dyn Chooser>) {
        let Ok(local) = client.local_addr() else {
            return;
        };
        let visit = Visit::new(local, peer, protocol::TCP);
        if let Some((service, most)) = chooser.service(visit.local, visit.protocol)
            && !client.joins(service, most)
        {
            return client.reset();
        }
        prepare(&client);
        let hops = Hops::of_connection(&client, visit.client.ip());
        if hops.is_loop() {
            chooser.came_back(visit.local, visit.protocol);
            reset(&client);
            return;
        }
        let connected = tokio::select! {
            // Boxed: it is over when most of the connection's life begins.
            connected = Box::pin(self.connect(&visit, hops, (client.admission(), chooser.as_ref()))) => connected,
            // The client has gone, so there is no use in connecting.
            _ = failure(&client) => return,
        };
        let Some((backend, candidate)) = connected else {
            reset(&client);
            return;
        };
        let mut ending = chooser.ending();
        let traffic = chooser.traffic(candidate.backend);
        let _open = Open::new(chooser, &visit, candidate.backend);
        prepare(&backend);
        if let Some(version) = candidate.proxy_protocol
            && let Err(error) = introduce(&backend, version, &visit).await
        {
            debug!(%error, backend = %candidate.address, "cannot tell whose connection it is");
            reset(&client);
            return;
        }
        let copied = tokio::select! {
            copied = copy(&client, &backend, &traffic) => copied,
            () = asked_to_end(&mut ending, candidate.backend) => Err(io::Error::other("drained")),
        };
        if let Err(error) = copied {
            debug!(%error, client = %visit.client, backend = %candidate.address, "reset");
            reset(&client);
            reset(&backend);
        }
    }

    /// Connects to the first candidate that can be reached.
    async fn connect(
        &self,
        visit: &Visit,
        hops: Hops,
        (admission, chooser): (&Admission, &dyn Chooser),
    ) -> Option<(TcpStream, Candidate)> {
        for candidate in visit.candidates(chooser) {
            let address = candidate.address;
            let attempt = admission.connect(address, |socket| hops.mark(socket, address));
            match timeout(self.connect_timeout, attempt).await {
                Ok(Ok(stream)) => return Some((stream, candidate)),
                Ok(Err(error)) => {
                    debug!(%error, backend = %candidate.address, "cannot connect");
                    if is_scarcity(&error) {
                        return None;
                    }
                    // Ports are counted for each address: there may be one towards the next.
                    if lacks_port(&error) {
                        continue;
                    }
                }
                Err(_) => debug!(backend = %candidate.address, "no answer to a connection"),
            }
            chooser.failed(candidate.backend);
        }
        debug!(client = %visit.client, local = %visit.local, "no backend can be reached");
        None
    }
}

/// Sends the PROXY header, which tells the backend the client's address. The header is far smaller than the
/// send buffer of a new socket.
async fn introduce(backend: &TcpStream, version: ProxyVersion, visit: &Visit) -> io::Result<()> {
    let header = proxy_protocol::write(version, visit.client, visit.local);
    let mut rest = header.as_slice();
    while !rest.is_empty() {
        backend.writable().await?;
        match backend.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets the options for both sides of a connection: small messages are sent at once, and a vanished peer is
/// detected some day. A socket that is broken already reports it when it is used.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_keepalive(true);
}

/// Makes closing the socket reset the connection.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Waits for a connection to be reset or to time out, and returns that error. Readable bytes stay in the
/// socket.
async fn failure(stream: &TcpStream) -> io::Error {
    let take = || match SockRef::from(stream).take_error()? {
        Some(error) => Ok(error),
        None => Err(io::ErrorKind::WouldBlock.into()),
    };
    match stream.async_io(Interest::ERROR, take).await {
        Ok(error) | Err(error) => error,
    }
}

/// Copies both ways until both sides have ended. An error means that one side was reset (or timed
/// out), and that the other should be reset, too.
async fn copy(client: &TcpStream, backend: &TcpStream, traffic: &Traffic) -> io::Result<()> {
    let mut there = Direction::new(client, backend, &traffic.bytes_in);
    let mut back = Direction::new(backend, client, &traffic.bytes_out);
    let both = poll_fn(|context| {
        let (there, back) = (there.poll(context)?, back.poll(context)?);
        match there.is_ready() && back.is_ready() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    });
    tokio::select! {
        // Copying first, so that bytes received before a reset are passed on before it.
        biased;
        ended = both => ended,
        // A side that is not being read reports a reset in no other way. It is not read if it has ended, or
        // if the other side does not take its bytes.
        error = failure(client) => Err(error),
        error = failure(backend) => Err(error),
    }
}

/// One direction of a connection.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// Bytes read.
    passed: &'a AtomicU64,
    /// Read, but not yet taken by the other side. Unallocated most of the time.
    kept: Vec<u8>,
    /// How much of it has been taken.
    taken: usize,
    /// The end has been passed on.
    ended: bool,
}

impl<'a> Direction<'a> {
    const fn new(from: &'a TcpStream, to: &'a TcpStream, passed: &'a AtomicU64) -> Self {
        Self {
            from,
            to,
            passed,
            kept: Vec::new(),
            taken: 0,
            ended: false,
        }
    }

    /// Copies the bytes that can be read and written; ready when the end has been passed on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended {
            ready!(self.poll_kept(context))?;
            ready!(self.from.poll_read_ready(context))?;
            match self.forward() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                forwarded => forwarded?,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the bytes that have been kept.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.kept.len() {
            ready!(self.to.poll_write_ready(context))?;
            self.taken += write(self.to, &self.kept[self.taken..])?;
        }
        self.kept = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once, and passes that on.
    fn forward(&mut self) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let length = read(self.from, scratch)?;
            if length == 0 {
                self.ended = true;
                return SockRef::from(self.to).shutdown(Shutdown::Write);
            }
            self.passed.fetch_add(length as u64, Ordering::Relaxed);
            let taken = write(self.to, &scratch[..length])?;
            self.kept.extend_from_slice(&scratch[taken..length]);
            Ok(())
        })
    }
}

/// Reads the available bytes; 0 at the end.
fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = None;
    let read = stream.try_io(Interest::READABLE, || {
        let read = recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        length = Some(read);
        if read == 0 || read == buffer.len() {
            return Ok(read);
        }
        // A buffer that is not full has taken all there was. Saying so saves asking again, which
        // would be every second system call of a connection with small messages.
        Err(io::ErrorKind::WouldBlock.into())
    });
    length.map_or(read, Ok)
}

/// Writes the bytes that the other side takes now, possibly none.
fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

#[cfg(test)]
mod tests;
