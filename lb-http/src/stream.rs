//! One byte stream for everything that HTTP goes over: TCP, TLS and unix sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use lb_config::BackendAddress;
use lb_net::admission::Admission;
use lb_net::admission::listener::Client;

/// A connection, to a client or to a backend.
pub(super) enum Stream {
    /// TCP, with a client.
    Client(Client),
    /// TCP, with a backend.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TCP with TLS in it, with a client.
    Tls(Box<TlsStream<Client>>),
}

/// The delay before a unix socket with a full queue is tried again.
const FULL: Duration = Duration::from_millis(5);

impl Stream {
    /// A new connection to a backend or another server.
    pub(super) async fn open(address: &BackendAddress, admission: &Admission) -> io::Result<Self> {
        match address {
            BackendAddress::Ip(address) => {
                let stream = admission.connect(*address, |_| Ok(())).await?;
                // A socket that is broken already says so when it is used.
                let _ = stream.set_nodelay(true);
                Ok(Self::Tcp(stream))
            }
            BackendAddress::Unix(path) => {
                let stream = loop {
                    match UnixStream::connect(path).await {
                        // Its queue is full, which a unix socket does not wait for by itself.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            sleep(FULL).await;
                        }
                        connected => break connected?,
                    }
                };
                admission.keeps(&stream)?;
                Ok(Self::Unix(stream))
            }
        }
    }

    /// Whether neither a byte nor an end has come.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut room = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut quiet, &mut room).is_pending()
    }

    /// The TCP socket below, if it is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Client(client) => Some(client.stream()),
            Self::Tls(stream) => Some(stream.get_ref().0.stream()),
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
        }
    }

    /// Makes closing it reset the connection.
    pub(super) fn reset_when_closed(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $what:expr) => {
        match $self {
            Stream::Client($stream) => $what,
            Stream::Tcp($stream) => $what,
            Stream::Unix($stream) => $what,
            Stream::Tls($stream) => $what,
        }
    };
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Client(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }
}
