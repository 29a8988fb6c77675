//! HTTP/2 to clients (RFC 9113): many requests at once on one connection. hyper speaks it; its requests
//! take the same way as those of HTTP/1.1.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_http1::request::Refusal;
use lb_http1::{Framing, Name, RequestHead, ResponseHead};

use super::access_log::End;
use super::answers::Answer;
use super::body::{Body, Stream as Streamed};
use super::clock::Deadline;
use super::connection::{Connection, InFlight};
use super::context::RequestContext;
use super::exchange::{OF_STREAM, Outcome};
use super::extended::Extended;
use super::files::{FileBody, Part};
use super::h2c::headers_of;
use super::prefixed::Prefixed;
use super::progress::Phase;
use super::record::Record;
use super::transfer::Transfer;
use super::{answers, body, handle};

/// Streams that a client may open and reset before they were looked at (CVE-2023-44487). hyper
/// closes the connection of one that does so more often.
const PENDING_RESETS: usize = 20;
/// Streams that may be reset for errors of the client over the life of a connection.
const ERROR_RESETS: usize = 256;
/// Bytes that one stream may have waiting to be sent. Larger bodies go in pieces.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes that a client may send on one stream, and on all of them, before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A connection without a sign of life is asked for one, and closed without an answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// How long a client may take to go that was told to.
const GO: Duration = Duration::from_secs(5);
/// How often it is looked whether the client takes its answers.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the futures that hyper spawns on this thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        // Boxed: the runtime moves a task about before its first step and after its last.
        tokio::task::spawn_local(Box::pin(task));
    }
}

/// Answers requests until the connection ends.
pub(super) async fn converse(io: Prefixed, connection: &Rc<Connection>) {
    let limits = connection
        .service()
        .map(|service| service.http.settings.limits.clone());
    let limits = limits.unwrap_or_default();
    let service = service_fn(|request| answer(Rc::clone(connection), request));
    // CONTINUATION frames are bounded by the header list (RFC 9113, section 10.5.1).
    let mut served = http2::Builder::new(Here)
        .enable_connect_protocol()
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(io), service);
    let mut told = false;
    let look = Deadline::new();
    look.set(Some(LOOK));
    poll_fn(|context| {
        while look.poll(context).is_ready() {
            look.set(Some(LOOK));
            if connection.is_stalled() {
                // A client that does not read holds backends, and memory.
                return Poll::Ready(());
            }
        }
        let idle = connection.progress.phase() != Phase::Exchange
            && connection.progress.poll_deadline(context).is_ready();
        if idle && told {
            // It has had its time, or speaks no HTTP/2 at all.
            return Poll::Ready(());
        }
        if (idle || connection.worker.is_stopping()) && !told {
            told = true;
            if connection.progress.phase() != Phase::Exchange {
                connection.progress.idle(GO);
            }
            // GOAWAY: open requests are still answered.
            Pin::new(&mut served).graceful_shutdown();
        }
        match Pin::new(&mut served).poll(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

/// Answers a request. The error has the reason that its stream is reset with.
async fn answer(
    connection: Rc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, h2::Error> {
    let in_flight = InFlight::begin(&connection);
    let Some(service) = connection.service() else {
        // No service: it has never listened here.
        let answer = answers::plain(StatusCode::SERVICE_UNAVAILABLE);
        return Ok(whole(answer, in_flight, false));
    };
    let extended = Extended::of(&mut request);
    let has_body = !hyper::body::Body::is_end_stream(request.body());
    let (parts, incoming) = request.into_parts();
    let mut head = head_of(&parts);
    let settings = &service.http.settings;
    let checked = check(&mut head, &parts, extended.is_some(), has_body);
    let checked = checked.map_err(Refusal::status).and_then(|framing| {
        let protocol = match &extended {
            Some(_) => Some(Extended::rewrite(&parts, &mut head, &settings.upgrade)?),
            None => None,
        };
        if head.target().len() > settings.limits.target {
            return Err(StatusCode::URI_TOO_LONG);
        }
        if head.fields.len() > settings.limits.headers {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Ok((framing, protocol))
    });
    let mut asking = body::Asking::new(incoming);
    let progress = Rc::clone(&in_flight.progress);
    let (context, mut record, outcome) = match checked {
        Err(status) => {
            let (context, record) = RequestContext::refused(&connection, service, head, None);
            let refused = Outcome::Own(context.refuse(status));
            (context, record, refused)
        }
        Ok((framing, extended)) => {
            let (mut context, mut record) =
                RequestContext::new(&connection, service, head, framing, extended);
            let outcome = handle::handle(&mut context, &mut record, &mut asking, &progress).await;
            (context, record, outcome)
        }
    };
    progress.answer();
    Ok(match outcome {
        Outcome::Own(answer) => {
            let is_head = context.is_head();
            own(answer.into_inner(), asking, in_flight, (record, is_head))
        }
        Outcome::Reset(reason) => {
            record.reset();
            record.finish(End::Aborted);
            return Err(reason.into());
        }
        Outcome::Gone => {
            // The client does not get this answer: the stream was reset.
            let answer = answers::plain(StatusCode::BAD_REQUEST);
            whole(answer, in_flight, false)
        }
        Outcome::Tunnel(head, tunnel) => {
            let head = head.into_inner();
            record.answered(head.status);
            if let Some(extended) = extended {
                extended.join(&connection, *tunnel, record);
            }
            response(&head, Body::empty())
        }
        Outcome::Backend(reply) => {
            let mut head = reply.head.into_inner();
            record.answered(head.status);
            if let Some(length) = reply.length
                && head.status != StatusCode::NO_CONTENT
            {
                head.fields.set_number(Name::ContentLength, length);
            }
            let length = if reply.has_body {
                reply.length
            } else {
                Some(0)
            };
            let streamed = Streamed::new(asking, reply.transfer, in_flight, record, reply.pause);
            response(&head, Body::streamed(streamed, length))
        }
    })
}

/// An answer that is at hand.
fn own(
    mut answer: Answer,
    asking: body::Asking,
    in_flight: InFlight,
    (mut record, is_head): (Record, bool),
) -> Response<Body> {
    record.answered_by(&answer);
    if answer.body.len() > SEND_BUFFER && !is_head {
        // Its client may take its time, within the limits of all streams.
        let length = answer.body.len() as u64;
        answer.head.fields.set_number(Name::ContentLength, length);
        let body = FileBody::new([Part::Bytes(answer.body)], None, OF_STREAM);
        let transfer = Transfer::of_file(body);
        let streamed = Streamed::new(asking, transfer, in_flight, record, None);
        return response(&answer.head, Body::streamed(streamed, Some(length)));
    }
    if !is_head {
        record.sent(answer.body.len() as u64);
    }
    record.finish(End::Complete);
    whole(answer, in_flight, is_head)
}

/// An answer of which nothing is still to come.
fn whole(mut answer: Answer, in_flight: InFlight, is_head: bool) -> Response<Body> {
    let length = answer.body.len() as u64;
    if !matches!(answer.head.status.as_u16(), 204 | 304) {
        answer.head.fields.set_number(Name::ContentLength, length);
    }
    let body = match is_head {
        true => Body::empty(),
        false => Body::full(answer.body),
    };
    response(&answer.head, body.held(in_flight))
}

/// The head of an answer as hyper has it.
fn response(head: &ResponseHead, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers_of(&head.fields);
    response
}

/// The head of a request as the rest of the engine has it: `:authority` is the Host of HTTP/1.1 (RFC
/// 9113, section 8.3.1), and cookies that came in pieces are joined (section 8.2.3).
fn head_of(parts: &hyper::http::request::Parts) -> RequestHead {
    let target = match parts.uri.path_and_query() {
        Some(target) => target.as_str(),
        None => "/",
    };
    let mut head = RequestHead::new(parts.method.clone(), target.as_bytes(), Version::HTTP_2);
    if let Some(authority) = parts.uri.authority() {
        head.fields
            .append(Name::Host, authority.as_str().as_bytes());
    }
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in &parts.headers {
        match Name::of(name.as_str().as_bytes()) {
            Name::Cookie => cookies.push(value.as_bytes()),
            Name::Host if parts.uri.authority().is_some() => {}
            _ => head
                .fields
                .append_called(name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        head.fields.append(Name::Cookie, &cookies.join(&b"; "[..]));
    }
    head
}

/// Checks the rules of HTTP/2 beside the rules for all requests.
fn check(
    head: &mut RequestHead,
    parts: &hyper::http::request::Parts,
    is_extended: bool,
    has_body: bool,
) -> Result<Framing, Refusal> {
    // Both are there and say different things (RFC 9113, section 8.3.1).
    if let Some(authority) = parts.uri.authority() {
        let authority = authority.as_str().as_bytes();
        let mut hosts = parts.headers.get_all(hyper::header::HOST).iter();
        if !hosts.all(|host| host.as_bytes().eq_ignore_ascii_case(authority)) {
            return Err(Refusal::Malformed("Host beside :authority"));
        }
    }
    // Fields for one connection only (section 8.2.2).
    let of_connection = [
        Name::Connection,
        Name::TransferEncoding,
        Name::Upgrade,
        Name::KeepAlive,
        Name::ProxyConnection,
    ];
    if of_connection.iter().any(|name| head.fields.has(*name))
        || head.fields.all(Name::Te).any(|te| te != b"trailers")
    {
        return Err(Refusal::Malformed("a field of one connection"));
    }
    // Values with spaces around them are malformed (section 8.2.1).
    if head
        .fields
        .iter()
        .any(|(_, value)| value != value.trim_ascii())
    {
        return Err(Refusal::Malformed("spaces around a value"));
    }
    if head.method.as_str() == "PRI" {
        return Err(Refusal::Method);
    }
    let method = head.method.clone();
    if is_extended {
        head.method = Method::GET;
    }
    let checked = head.check();
    head.method = method;
    Ok(match checked? {
        // A body need not say its length (section 8.1).
        Framing::None if has_body && !is_extended => Framing::Chunked,
        framing => framing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, headers: &[(&str, &str)]) -> Result<RequestHead, Refusal> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut head = head_of(&parts);
        check(&mut head, &parts, false, false).map(|_| head)
    }

    #[test]
    fn h2_8_3_1_the_authority_becomes_the_host_and_must_agree_with_it() {
        let alone = checked("https://a.test:8443/", &[]).unwrap();
        assert_eq!(alone.fields.only(Name::Host), Some(&b"a.test:8443"[..]));
        assert!(checked("https://a.test/", &[("host", "A.test")]).is_ok());
        assert!(checked("https://a.test/", &[("host", "b.test")]).is_err());
        let twice = [("host", "a.test"), ("host", "b.test")];
        assert!(checked("https://a.test/", &twice).is_err());
    }

    #[test]
    fn h2_8_2_3_cookies_in_pieces_are_joined() {
        let pieces = checked("https://a/", &[("cookie", "a=1"), ("cookie", "b=2")]).unwrap();
        assert_eq!(pieces.fields.only(Name::Cookie), Some(&b"a=1; b=2"[..]));
    }

    #[test]
    fn h2_8_2_what_http_1_would_refuse_is_refused() {
        for headers in [
            [("connection", "close")],
            [("te", "gzip")],
            [("upgrade", "h2c")],
            [("x-a", " 1")],
            [("x-a", "1\t")],
            [("expect", "more")],
        ] {
            assert!(checked("https://a/", &headers).is_err(), "{headers:?}");
        }
        assert!(checked("https://a/", &[("te", "trailers")]).is_ok());
    }
}
