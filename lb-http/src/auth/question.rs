//! A GET to a server of forward authentication, and its answer.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use lb_config::BackendAddress;
use lb_http1::body::{BodyError, Decoder, Piece};
use lb_http1::response::Malformed;
use lb_http1::{Framing, RequestHead, ResponseHead};
use lb_net::admission::{Admission, is_scarcity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::connections::Connections;
use crate::stream::Stream;

/// Bytes and lines of the head of an answer at most.
const LONGEST_HEAD: usize = 64 * 1024;
const MOST_LINES: usize = 200;
/// Bytes of the body of an answer that goes to the client.
const MOST_BODY: usize = 1 << 20;
/// Bytes of the body of another one, and the time that it may take, until its connection is given up.
const MOST_IDLE_BODY: usize = 64 * 1024;
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Bytes that are read at once.
const ROOM: usize = 8 * 1024;

/// The means of a worker to ask servers.
#[derive(Clone, Copy)]
pub(crate) struct Servers<'a> {
    pub(crate) connections: &'a Rc<Connections>,
    pub(crate) admission: &'a Admission,
}

/// An answer. Its body is empty if it lets the request in.
pub(super) struct Reply {
    pub(super) head: ResponseHead,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("there are too few descriptors: {0}")]
    Scarce(io::Error),
    #[error("the connection broke")]
    Broken,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("no answer in time")]
    Late,
}

impl From<Malformed> for Fault {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

impl From<BodyError> for Fault {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::CutShort => Self::Broken,
            _ => Self::Malformed("the body of an answer is malformed"),
        }
    }
}

/// Asks. A connection that its server closed while it was idle is replaced once.
pub(super) async fn ask(
    servers: Servers<'_>,
    address: &BackendAddress,
    head: &RequestHead,
) -> Result<Reply, Fault> {
    let mut text = Vec::with_capacity(1024);
    head.write(&mut text);
    Framing::None.write(&mut text);
    if let Some(stream) = servers.connections.take(address) {
        let mut incoming = Incoming::new(stream);
        match incoming.exchange(&text).await {
            Ok(head) => return incoming.finish(servers, address, head).await,
            // Not a byte came: the server has most likely closed all that were idle.
            Err(Fault::Broken) if incoming.is_untouched => servers.connections.forget(address),
            Err(fault) => return Err(fault),
        }
    }
    let stream = Stream::open(address, servers.admission).await;
    let stream = stream.map_err(|error| match is_scarcity(&error) {
        true => Fault::Scarce(error),
        false => Fault::Connect(error),
    })?;
    let mut incoming = Incoming::new(stream);
    let head = incoming.exchange(&text).await?;
    incoming.finish(servers, address, head).await
}

/// A connection with the bytes that were read from it.
pub(crate) struct Incoming {
    stream: Stream,
    input: Vec<u8>,
    is_untouched: bool,
}

impl Incoming {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            is_untouched: true,
        }
    }

    /// Sends a request, and reads the head of the final answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<ResponseHead, Fault> {
        let written = self.stream.write_all(request).await;
        written.map_err(|_| Fault::Broken)?;
        loop {
            while let Some((head, length)) =
                ResponseHead::parse(&self.input, LONGEST_HEAD, MOST_LINES)?
            {
                self.input.drain(..length);
                if !head.is_interim() {
                    return Ok(head);
                }
            }
            if self.read().await? == 0 {
                return Err(Fault::Broken);
            }
        }
    }

    /// Reads the body behind `head`, as far as it is of use.
    async fn finish(
        mut self,
        servers: Servers<'_>,
        address: &BackendAddress,
        head: ResponseHead,
    ) -> Result<Reply, Fault> {
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::NOT_MODIFIED => {
                return Err(Fault::Malformed(
                    "an answer has a status without a meaning here",
                ));
            }
            _ => {}
        }
        let stays = head.stays().then(|| head.idle_seconds());
        let mut decoder = Decoder::new(head.framing(&Method::GET)?);
        if !head.status.is_success() {
            let body = self.body(&mut decoder, MOST_BODY).await?;
            if let Some(seconds) = stays {
                self.keep(servers.connections, address, seconds);
            }
            return Ok(Reply { head, body });
        }
        if let Some(seconds) = stays {
            let (connections, address) = (Rc::clone(servers.connections), address.clone());
            // The request does not wait for the body.
            tokio::task::spawn_local(async move {
                let rest = self.body(&mut decoder, MOST_IDLE_BODY);
                if let Ok(Ok(_)) = timeout(LONGEST_REST, rest).await {
                    self.keep(&connections, &address, seconds);
                }
            });
        }
        let body = Vec::new();
        Ok(Reply { head, body })
    }

    /// Whether not a byte has come.
    pub(crate) const fn is_untouched(&self) -> bool {
        self.is_untouched
    }

    /// The connection, if no byte was read beyond the answer.
    pub(crate) fn into_idle(self) -> Option<Stream> {
        self.input.is_empty().then_some(self.stream)
    }

    fn keep(self, connections: &Connections, address: &BackendAddress, seconds: Option<u64>) {
        if self.input.is_empty() {
            connections.put(address, self.stream, seconds);
        }
    }

    /// Reads a body of at most so many bytes.
    pub(crate) async fn body(
        &mut self,
        decoder: &mut Decoder,
        most: usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        loop {
            let taken = decoder.pieces(&self.input, &mut |piece| {
                if let Piece::Data(data) = piece {
                    if body.len() + data.len() > most {
                        return Err(Fault::Malformed("the body of an answer is too long"));
                    }
                    body.extend_from_slice(data);
                }
                Ok(())
            })?;
            self.input.drain(..taken.0);
            if decoder.is_over() {
                return Ok(body);
            }
            if self.read().await? == 0 {
                decoder.end()?;
            }
        }
    }

    /// Reads more: how many bytes.
    async fn read(&mut self) -> Result<usize, Fault> {
        self.input.reserve(ROOM);
        let read = self.stream.read_buf(&mut self.input).await;
        let length = read.map_err(|_| Fault::Broken)?;
        self.is_untouched &= length == 0;
        Ok(length)
    }
}
