//! The answer to a request of HTTP/1.1, written to its client.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode, Version};
use lb_http1::body::{BodyError, Decoder, Encoder, Piece};
use lb_http1::fields::line_to;
use lb_http1::{Framing, Name, RequestHead, ResponseHead, buffer_pool};
use tokio::io::AsyncWrite as _;

use super::access_log::{End, LogFields};
use super::answers::Answer;
use super::client::{Asking, Conn};
use super::clock;
use super::connection::Connection;
use super::context::RequestContext;
use super::download::DownloadError;
use super::exchange::{Outcome, Reply};
use super::handle;
use super::metrics::Cause;
use super::peer::{Peer as _, PeerError};
use super::record::Record;
use super::settings::Service;
use super::transfer::Transfer;
use super::tunnel::Tunnel;
use super::upload::UploadError;

/// Fewer bytes of a body are cheaper to copy behind the head than to write beside it.
const FEW: usize = 2 * 1024;
/// Bytes that are passed on before others on this thread have their turn.
const TURN: usize = 256 * 1024;

/// The state of a connection after a request.
pub(super) enum After {
    /// The next request may come.
    Next,
    /// It ends, and all that was sent was read.
    Close,
    /// It ends, and the client may still be sending.
    Linger,
    /// It is of no use any more.
    Broken,
    /// It goes on with another protocol.
    Tunnel(Box<Tunnel>, Record),
}

/// How the body of an answer goes to its client.
struct Framed {
    length: Option<u64>,
    has_body: bool,
}

/// Answers one request.
pub(super) async fn exchange(
    conn: &mut Conn,
    connection: &Rc<Connection>,
    mut head: RequestHead,
) -> After {
    let Some(service) = connection.service() else {
        return After::Broken;
    };
    connection.progress.exchange();
    let checked = head.check();
    let version = head.version;
    let mut closes = head.closes() || service_closes(&service);
    let expects = version == Version::HTTP_11 && head.fields.has(Name::Expect);
    let framing = match checked {
        Ok(framing) => framing,
        Err(refusal) => {
            closes |= refusal.is_unsound();
            let refused = RequestContext::refused(connection, service, head, None);
            let after = refuse(conn, refused, refusal.status(), closes).await;
            return match after {
                After::Close if refusal.is_unsound() => After::Linger,
                after => after,
            };
        }
    };
    let (mut context, mut record) = RequestContext::new(connection, service, head, framing, None);
    let mut asking = Asking {
        conn,
        body: Decoder::new(framing),
        expects: expects && !framing.is_empty(),
        version,
    };
    let progress = &connection.progress;
    let outcome = handle::handle(&mut context, &mut record, &mut asking, progress).await;
    connection.progress.answer();
    closes |= connection.worker.is_stopping() || connection.is_left_over();
    let after = match outcome {
        Outcome::Gone | Outcome::Reset(_) => return After::Broken,
        Outcome::Tunnel(head, tunnel) => {
            return upgrade(asking.conn, connection, head.into_inner(), tunnel, record).await;
        }
        Outcome::Own(answer) => {
            let answer = answer.into_inner();
            closes |= asking.is_cut_off() || must_close(answer.head.status);
            send(asking.conn, &context, answer, closes, record).await
        }
        Outcome::Backend(reply) => {
            closes |= asking.is_cut_off();
            match stream(&mut asking, connection, *reply, closes, record).await {
                Ok(after) => after,
                Err(Unsent(mut record)) => {
                    record.failed(Cause::Malformed);
                    let page = context.refuse(StatusCode::BAD_GATEWAY);
                    send(asking.conn, &context, page.into_inner(), closes, record).await
                }
            }
        }
    };
    match after {
        After::Next if !asking.body.is_over() => match asking.discard().await {
            true => After::Next,
            false => After::Linger,
        },
        After::Close if !asking.body.is_over() || !asking.conn.is_drained() => After::Linger,
        after => after,
    }
}

/// One request for each connection.
fn service_closes(service: &Service) -> bool {
    service.http.settings.timeouts.idle.is_zero()
}

/// After these the rest of the request is not worth reading.
fn must_close(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE
    )
}

/// Answers a request that is refused with a page for `status`.
async fn refuse(
    conn: &mut Conn,
    (context, record): (Box<RequestContext>, Record),
    status: StatusCode,
    closes: bool,
) -> After {
    context.connection.progress.answer();
    let answer = context.refuse(status).into_inner();
    send(conn, &context, answer, closes, record).await
}

/// Refuses bytes that are no request, of which `begun` is the beginning.
pub(super) async fn refuse_malformed(
    conn: &mut Conn,
    connection: &Rc<Connection>,
    status: StatusCode,
    begun: &[u8],
) -> After {
    let Some(service) = connection.service() else {
        return After::Broken;
    };
    connection.progress.exchange();
    // Empty lines before it belong to it (RFC 9112, section 2.2).
    let line = begun
        .trim_ascii_start()
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let log_fields = LogFields {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        ..LogFields::default()
    };
    // Only the method is known, which decides whether an answer may have a body.
    let method = match log_fields.method {
        b"HEAD" => Method::HEAD,
        _ => Method::GET,
    };
    let head = RequestHead::new(method, b"/", Version::HTTP_11);
    let refused = RequestContext::refused(connection, service, head, Some(&log_fields));
    match refuse(conn, refused, status, true).await {
        After::Broken => After::Broken,
        _ => After::Linger,
    }
}

/// Adds the date to an answer without one (RFC 9110, section 6.6.1).
fn add_date(head: &mut ResponseHead) {
    if !head.fields.has(Name::Date) {
        clock::with_date(|date| head.fields.append(Name::Date, date));
    }
}

/// Adds the head of an answer to the output. Returns the encoding of its body.
fn begin(
    out: &mut Vec<u8>,
    head: &mut ResponseHead,
    framed: &Framed,
    (version, closes): (Version, &mut bool),
) -> Encoder {
    add_date(head);
    let framing = match framed.length {
        Some(length) => Framing::Length(length),
        None if !framed.has_body => Framing::None,
        None if version == Version::HTTP_11 => Framing::Chunked,
        None => {
            *closes = true;
            Framing::UntilClose
        }
    };
    if out.capacity() == 0 {
        *out = buffer_pool::take();
    }
    head.write(out);
    if *closes {
        line_to(out, b"connection", b"close");
    } else if version == Version::HTTP_10 {
        line_to(out, b"connection", b"keep-alive");
    }
    // No length with these, even if the backend sends one (RFC 9110, section 8.6).
    match head.status.as_u16() {
        100..200 | 204 => Framing::None.write(out),
        _ => framing.write(out),
    }
    Encoder::new(if framed.has_body {
        framing
    } else {
        Framing::None
    })
}

/// Sends an answer that is at hand.
async fn send(
    conn: &mut Conn,
    context: &RequestContext,
    mut answer: Answer,
    mut closes: bool,
    mut record: Record,
) -> After {
    let version = context.head.version;
    record.answered_by(&answer);
    let is_bare = matches!(answer.head.status.as_u16(), 204 | 304);
    let framed = Framed {
        length: (!is_bare).then_some(answer.body.len() as u64),
        has_body: !context.is_head() && !is_bare,
    };
    begin(
        &mut conn.out,
        &mut answer.head,
        &framed,
        (version, &mut closes),
    );
    let mut body = match framed.has_body {
        true => answer.body,
        false => Bytes::new(),
    };
    if body.len() <= FEW {
        conn.out.extend_from_slice(&body);
        record.sent(body.len() as u64);
        body.clear();
    }
    if !flush(conn, &context.connection, &body, &mut record).await {
        return After::Broken;
    }
    record.finish(End::Complete);
    if closes { After::Close } else { After::Next }
}

/// Writes the pending bytes and `body` behind them, at best by one call; false if the client does not take them.
async fn flush(conn: &mut Conn, connection: &Connection, body: &[u8], record: &mut Record) -> bool {
    let progress = &connection.progress;
    progress.awaits(connection.send.get());
    let mut sent = 0;
    poll_fn(|context| {
        let before = (conn.taken, sent);
        let turn = &body[..body.len().min(sent + TURN)];
        let polled = conn.poll_out_with(turn, &mut sent, context);
        record.sent((sent - before.1) as u64);
        let flushed = match polled {
            Poll::Ready(Ok(())) if sent < body.len() => {
                progress.awaits(connection.send.get());
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => Pin::new(&mut conn.stream).poll_flush(context),
            polled => polled,
        };
        if let Poll::Ready(flushed) = flushed {
            return Poll::Ready(flushed.is_ok());
        }
        record.goes_on();
        if before != (conn.taken, sent) {
            progress.awaits(connection.send.get());
        }
        progress.poll_deadline(context).map(|()| false)
    })
    .await
}

/// Agrees to go on with another protocol.
async fn upgrade(
    conn: &mut Conn,
    connection: &Rc<Connection>,
    mut head: ResponseHead,
    tunnel: Box<Tunnel>,
    mut record: Record,
) -> After {
    record.answered(head.status);
    add_date(&mut head);
    head.write(&mut conn.out);
    conn.out.extend_from_slice(b"\r\n");
    match flush(conn, connection, &[], &mut record).await {
        true => After::Tunnel(tunnel, record),
        false => After::Broken,
    }
}

/// The bytes behind the head of an answer are no body, and nothing of it was sent.
struct Unsent(Record);

/// Passes the answer of a backend on, and the rest of the request the other way.
async fn stream(
    asking: &mut Asking<'_>,
    connection: &Rc<Connection>,
    reply: Reply,
    mut closes: bool,
    mut record: Record,
) -> Result<After, Unsent> {
    let Reply {
        head,
        length,
        has_body,
        pause,
        transfer,
    } = reply;
    let mut head = head.into_inner();
    record.answered(head.status);
    let framed = Framed { length, has_body };
    let version = asking.version;
    let out = &mut asking.conn.out;
    let start = out.len();
    let encoder = begin(out, &mut head, &framed, (version, &mut closes));
    drop(head);
    let head_end = out.len();
    let mut streaming = Streaming {
        asking,
        connection,
        transfer,
        encoder,
        pause,
        record,
        uploads: true,
        awaited: Awaited::Nobody,
        closes,
    };
    // The head goes with the part of the body that is there.
    let first = poll_fn(|context| Poll::Ready(streaming.poll_answer(context))).await;
    if let Poll::Ready(Err(error)) = first {
        tracing::debug!(%error, "an answer comes to no end");
        let Streaming {
            asking,
            transfer,
            record,
            ..
        } = streaming;
        let conn = &mut *asking.conn;
        // If the backend only breaks off, it depends on the moment whether the head is on its way: the
        // client always sees a connection that is cut.
        let is_malformed =
            matches!(error, DownloadError::Body(error) if error != BodyError::CutShort);
        if !is_malformed || conn.taken > 0 || conn.out.len() < head_end {
            return Ok(After::Broken);
        }
        conn.out.truncate(start);
        transfer.suspect(connection);
        return Err(Unsent(record));
    }
    let polled = poll_fn(|context| {
        let polled = streaming.poll(context);
        if polled.is_pending() {
            streaming.record.goes_on();
        }
        polled
    });
    if !polled.await {
        return Ok(After::Broken);
    }
    let Streaming {
        transfer,
        record,
        closes,
        ..
    } = streaming;
    transfer.end();
    record.finish(End::Complete);
    Ok(if closes { After::Close } else { After::Next })
}

/// An answer of a backend on its way.
struct Streaming<'a, 'b> {
    asking: &'a mut Asking<'b>,
    connection: &'a Connection,
    transfer: Transfer,
    encoder: Encoder,
    /// How long the backend may pause.
    pause: Option<Duration>,
    record: Record,
    /// The request is still on its way.
    uploads: bool,
    awaited: Awaited,
    /// The connection ends with the answer.
    closes: bool,
}

/// The side that the transfer waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Nobody,
    /// To take the bytes that are ready for it.
    Client,
    /// To go on with its answer.
    Backend,
}

impl Streaming<'_, '_> {
    /// Passes on the available bytes. Ready at the end, with whether the body was complete and valid.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut moved = 0;
        loop {
            if self.uploads && self.poll_upload(context).is_err() {
                return Poll::Ready(false);
            }
            let before = self.asking.conn.taken;
            match self.asking.conn.poll_out(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {
                    if self.asking.conn.taken > before {
                        self.moved();
                    }
                    return self.wait(Awaited::Client, context);
                }
            }
            if self.transfer.is_over() {
                return match Pin::new(&mut self.asking.conn.stream).poll_flush(context) {
                    Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
                    Poll::Pending => self.wait(Awaited::Client, context),
                };
            }
            if moved >= TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_answer(context) {
                Poll::Ready(Ok(length)) => {
                    moved += length;
                    self.moved();
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "an answer comes to no end");
                    return Poll::Ready(false);
                }
                Poll::Pending => {}
            }
            // Its errors come again with the next write.
            let _ = Pin::new(&mut self.asking.conn.stream).poll_flush(context);
            if self.asking.poll_gone(context).is_ready() {
                return Poll::Ready(false);
            }
            return self.wait(Awaited::Backend, context);
        }
    }

    /// Sends the available bytes of the request. An error says that the client has gone away.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), ()> {
        let progress = &self.connection.progress;
        match self.transfer.poll_upload(self.asking, progress, context) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.uploads = false,
            Poll::Ready(Err(UploadError::Peer(PeerError::Gone))) => return Err(()),
            // The answer goes on; further bytes of the client are not worth reading.
            Poll::Ready(Err(_)) => {
                self.uploads = false;
                self.closes = true;
            }
        }
        Ok(())
    }

    /// Takes the next pieces of the answer: how many bytes.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, DownloadError>> {
        let (conn, encoder) = (&mut *self.asking.conn, self.encoder);
        let waker = context.waker();
        let mut passed = 0;
        let polled = self
            .transfer
            .poll_answer(context, &mut |piece| match piece {
                Piece::Data(data) => {
                    passed += data.len();
                    put(conn, encoder, data, &mut Context::from_waker(waker));
                }
                Piece::End(trailers) => encoder.end(trailers.as_ref(), &mut conn.out),
                Piece::More => {}
            });
        self.record.sent(passed as u64);
        polled.map_ok(|()| passed)
    }

    fn moved(&mut self) {
        self.awaited = Awaited::Nobody;
        self.asking.conn.moved();
    }

    fn wait(&mut self, whom: Awaited, context: &Context<'_>) -> Poll<bool> {
        let progress = &self.connection.progress;
        if self.awaited != whom {
            self.awaited = whom;
            progress.awaits(match whom {
                Awaited::Nobody => None,
                Awaited::Client => self.connection.send.get(),
                Awaited::Backend => self.pause,
            });
        }
        progress.poll_deadline(context).map(|()| false)
    }
}

/// Sends a piece of a body; bytes that the client does not take at once are kept.
fn put(conn: &mut Conn, encoder: Encoder, data: &[u8], context: &mut Context<'_>) {
    if !encoder.is_plain() || data.len() <= FEW || conn.taken > 0 {
        return encoder.data(data, &mut conn.out);
    }
    let parts = [IoSlice::new(&conn.out), IoSlice::new(data)];
    let parts = if conn.out.is_empty() {
        &parts[1..]
    } else {
        &parts[..]
    };
    // An error comes again with the kept bytes.
    let written = match Pin::new(&mut conn.stream).poll_write_vectored(context, parts) {
        Poll::Ready(Ok(written)) => written,
        _ => 0,
    };
    let of_data = written.saturating_sub(conn.out.len());
    if written >= conn.out.len() {
        conn.out.clear();
    } else {
        conn.out.drain(..written);
    }
    conn.out.extend_from_slice(&data[of_data..]);
}
