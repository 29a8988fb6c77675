//! A client's connection of HTTP/1.1, request by request.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_http1::RequestHead;
use lb_http1::request::Limits;

use super::client::Conn;
use super::connection::Connection;
use super::prefixed::Prefixed;
use super::progress::Phase;
use super::respond::{self, After};
use super::stream::Stream;
use super::tunnel::End;

/// How long the head of a request may take when the agent ends.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// The first line of HTTP/2's connection preface (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The next event on a connection.
enum Next {
    /// HTTP/2, with prior knowledge (RFC 9113, section 3.3).
    Http2,
    Head(RequestHead),
    /// The bytes are no request, or take too long to become one: the status to refuse them with.
    Refused(StatusCode),
    /// Nothing.
    End,
    /// The connection is of no use any more.
    Broken,
}

/// Answers requests until the connection ends. A plain one that turns out to speak HTTP/2 is returned,
/// with the bytes that were read of it.
pub(super) async fn converse(stream: Stream, connection: &Rc<Connection>) -> Option<Prefixed> {
    let mut conn = Conn::new(stream);
    let mut is_new = connection.tls.is_none();
    loop {
        // Boxed: a connection that waits for a request holds no room for one.
        let after = match next(&mut conn, connection, std::mem::take(&mut is_new)).await {
            Next::Http2 => {
                let read = Bytes::from(conn.take_unread());
                return Some(Prefixed::new(read, conn.stream));
            }
            Next::Head(head) => Box::pin(respond::exchange(&mut conn, connection, head)).await,
            Next::Refused(status) => {
                let begun = conn.take_unread();
                Box::pin(respond::refuse_malformed(
                    &mut conn, connection, status, &begun,
                ))
                .await
            }
            Next::End => After::Close,
            Next::Broken => After::Broken,
        };
        match after {
            After::Next => {
                connection.end();
                if !conn.is_drained() {
                    connection.begin_head();
                }
            }
            After::Close => {
                conn.close().await;
                return None;
            }
            After::Linger => {
                conn.linger().await;
                return None;
            }
            After::Broken => return None,
            After::Tunnel(tunnel, record) => {
                let client = End {
                    early: Bytes::from(conn.take_unread()),
                    stream: conn.stream,
                };
                // A task of its own is much smaller than that of a connection.
                connection.worker.spawn(async move {
                    let (client, backend, ended) = tunnel.run(client, record).await;
                    if ended.is_err() {
                        client.reset_when_closed();
                        backend.reset_when_closed();
                    }
                });
                return None;
            }
        }
    }
}

/// The head of the next request. HTTP/2 is for connections that are new.
async fn next(conn: &mut Conn, connection: &Connection, is_new: bool) -> Next {
    let mut hurried = false;
    poll_fn(|context| {
        loop {
            if !conn.is_drained() {
                if is_new && conn.unread().starts_with(PREFACE) {
                    return Poll::Ready(Next::Http2);
                }
                connection.begin_head();
                let Some(limits) = limits(connection) else {
                    return Poll::Ready(Next::Broken);
                };
                match RequestHead::parse(conn.unread(), limits) {
                    Ok(None) => {}
                    Ok(Some((head, length))) => {
                        conn.read(length);
                        return Poll::Ready(Next::Head(head));
                    }
                    Err(refusal) => return Poll::Ready(Next::Refused(refusal.status())),
                }
            }
            if conn.is_ended() {
                return Poll::Ready(Next::End);
            }
            match conn.poll_fill(context) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Broken),
                Poll::Pending => break,
            }
        }
        conn.release();
        if connection.worker.is_stopping() {
            if connection.progress.phase() == Phase::Idle {
                return Poll::Ready(Next::End);
            }
            // A client that has just connected is answered, if the request is on its way.
            if !std::mem::replace(&mut hurried, true) {
                connection.progress.head(LAST_HEAD);
            }
        }
        connection.progress.poll_deadline(context).map(|()| {
            let is_begun = connection.progress.phase() == Phase::Head && !conn.is_drained();
            match is_begun {
                true => Next::Refused(StatusCode::REQUEST_TIMEOUT),
                false => Next::End,
            }
        })
    })
    .await
}

fn limits(connection: &Connection) -> Option<Limits> {
    let service = connection.service()?;
    let limits = &service.http.settings.limits;
    Some(Limits {
        bytes: limits.header_bytes,
        lines: limits.headers,
        target: limits.target,
    })
}
