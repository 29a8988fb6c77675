//! The head of an answer, read from a backend's connection. Interim answers before it go to the client.

use std::pin::pin;
use std::task::{Context, Poll, ready};

use hyper::StatusCode;
use lb_http1::{ResponseHead, buffer_pool, hop};
use tokio::io::AsyncReadExt as _;

use super::failure::Failure;
use super::h2c::Call;
use super::peer::Peer;
use super::stream::Stream;

/// Room for the head of an answer, and for the body of a short one.
const ROOM: usize = 16 * 1024;
/// Longest head of an answer, bytes.
const LONGEST_HEAD: usize = 256 * 1024;
/// Interim answers to one request; a backend that sends more has lost its way.
const MOST_INTERIM: u32 = 8;

/// The head of an answer with the bytes that were read behind it.
pub(super) struct ResponseStart {
    pub(super) head: ResponseHead,
    pub(super) input: Vec<u8>,
    /// The offset in `input` of the bytes behind the head.
    pub(super) at: usize,
}

/// The answer to a request, until its head is there.
pub(super) struct HeadReader {
    input: Vec<u8>,
    interim: u32,
    most_lines: usize,
}

impl HeadReader {
    /// Reads heads of up to so many lines.
    pub(super) fn new(most_lines: usize) -> Self {
        Self {
            input: buffer_pool::take(),
            interim: 0,
            most_lines,
        }
    }

    /// Reads; interim answers go to `peer`.
    pub(super) fn poll(
        &mut self,
        backend: &mut Stream,
        peer: &mut impl Peer,
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseStart, Failure>> {
        loop {
            if self.input.capacity() < ROOM {
                self.input.reserve_exact(ROOM - self.input.len());
            } else if self.input.capacity() - self.input.len() < ROOM / 4 {
                self.input.reserve(ROOM);
            }
            let read = pin!(backend.read_buf(&mut self.input));
            match ready!(read.poll(context)) {
                Ok(length) if length > 0 => {}
                _ if self.input.is_empty() && self.interim == 0 => {
                    return Poll::Ready(Err(Failure::Broken));
                }
                _ => return Poll::Ready(Err(Failure::Malformed("an answer ended in its head"))),
            }
            loop {
                let parsed = ResponseHead::parse(&self.input, LONGEST_HEAD, self.most_lines);
                match parsed {
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "no answer from a backend");
                        return Poll::Ready(Err(Failure::Malformed(error.0)));
                    }
                    Ok(Some((mut head, length))) if head.is_interim() => {
                        self.input.drain(..length);
                        self.interim += 1;
                        if self.interim > MOST_INTERIM {
                            let many = "a request got interim answers without end";
                            return Poll::Ready(Err(Failure::Malformed(many)));
                        }
                        // The gateway has sent the 100 Continue of this request already.
                        if head.status != StatusCode::CONTINUE {
                            hop::strip(&mut head.fields);
                            peer.interim(&head);
                        }
                    }
                    Ok(Some((head, at))) => {
                        return Poll::Ready(Ok(ResponseStart {
                            head,
                            input: std::mem::take(&mut self.input),
                            at,
                        }));
                    }
                }
            }
        }
    }
}

impl HeadReader {
    /// The same of a stream of HTTP/2.
    pub(super) fn poll_shared(
        &self,
        call: &mut Call,
        peer: &mut impl Peer,
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseStart, Failure>> {
        let mut interim = |mut head: ResponseHead| {
            if head.status != StatusCode::CONTINUE {
                hop::strip(&mut head.fields);
                peer.interim(&head);
            }
        };
        let most = (self.most_lines, MOST_INTERIM);
        let head = ready!(call.poll_head(most, &mut interim, context));
        Poll::Ready(head.map_err(Failure::from).map(|head| ResponseStart {
            head,
            input: Vec::new(),
            at: 0,
        }))
    }
}

impl Drop for HeadReader {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.input));
    }
}
