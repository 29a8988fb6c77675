//! Listening sockets beside the control socket, for metrics and the live page: a TCP address or a unix socket, which
//! the next agent gets.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::crowd::{Asking, Crowd, Phase};
use lb_config::MetricsAddress;
use lb_net::handover::FdStore;
use lb_net::seldom::Seldom;

/// A socket that requests come to.
pub enum Listener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// A connection of either kind.
pub type Stream = Box<dyn Duplex>;

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Listens at `address`, with the socket called `name` of an earlier agent if `kept` has it. A unix socket without
    /// a living server is replaced. `name` is the key of the address in `[agent]`, too.
    ///
    /// # Errors
    /// The operating system's, with the address in words.
    pub async fn bind(name: &str, address: &MetricsAddress, kept: &FdStore) -> io::Result<Self> {
        let failed = |error: io::Error| {
            let hint = "another address, or see who is there with `ss -lpn`";
            io::Error::new(
                error.kind(),
                format!("serve {name} on {address}: {error} (give [agent] {name} {hint})"),
            )
        };
        let bound = match (Self::taken_over(name, address, kept), address) {
            (Ok(Some(listener)), _) => Ok(listener),
            (_, MetricsAddress::Tcp(address)) => TcpListener::bind(address).await.map(Self::Tcp),
            (_, MetricsAddress::Unix(path)) => bind_unix(path).map(Self::Unix),
        };
        let listener = bound.map_err(failed)?;
        kept.hold(name, [&listener]);
        Ok(listener)
    }

    /// The socket of an earlier agent, if it is at `address`.
    fn taken_over(
        name: &str,
        address: &MetricsAddress,
        kept: &FdStore,
    ) -> io::Result<Option<Self>> {
        match address {
            MetricsAddress::Tcp(wanted) => {
                let mut found = kept.called(name);
                found.retain(|listener| listener.local_addr().is_ok_and(|it| it == *wanted));
                let listener = found.pop().map(TcpListener::from_std).transpose()?;
                Ok(listener.map(Self::Tcp))
            }
            MetricsAddress::Unix(path) => {
                let listener = kept.unix_listener(name, path);
                let listener = listener.map(UnixListener::from_std).transpose()?;
                Ok(listener.map(Self::Unix))
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }

    /// Serves connections with `connection`, `most` at a time; more wait in the backlog, and all in a `phase` of
    /// waiting. It ends when the sender of `phase` is gone.
    pub async fn serve<F>(
        self,
        most: usize,
        mut phase: watch::Receiver<Phase>,
        connection: impl Fn(Stream, Asking) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut crowd = Crowd::new(most);
        loop {
            let has_room = *phase.borrow_and_update() == Phase::Serving && crowd.has_room();
            let accepted = tokio::select! {
                accepted = self.accept(), if has_room => accepted,
                () = crowd.changed() => continue,
                told = phase.changed() => match told {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            match accepted {
                Ok(stream) => crowd.serve(|asking| connection(stream, asking)),
                // Out of descriptors or memory.
                Err(error) => {
                    static LINE: Seldom = Seldom::new();
                    if let Some(times) = LINE.cause() {
                        tracing::warn!(%error, times, "accept on the socket of metrics or page");
                    }
                    crowd.give_back();
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// For the head of a request.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(5);

/// Speaks HTTP/1.1 on a connection of `what`, for at most `time`.
pub(crate) async fn speak<S, B>(stream: Stream, service: S, time: Duration, what: &str)
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(time, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, what, "a connection broke off"),
        Err(_) => tracing::debug!(what, "a connection took too long"),
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}
