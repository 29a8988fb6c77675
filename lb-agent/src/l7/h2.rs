//! HTTP/2 to clients (RFC 9113): many requests at once on one connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{COOKIE, HOST, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::Body;
use super::progress::Phase;
use super::visit::Visit;
use super::watched::Watched;
use super::{answers, forward};

/// Streams that a client may open and reset before they were looked at (CVE-2023-44487). hyper
/// closes the connection of one that does so more often.
const PENDING_RESETS: usize = 20;
/// Streams that may be reset for errors of the client over the life of a connection.
const ERROR_RESETS: usize = 256;
/// What one stream may have waiting to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// What a client may send on one stream, and on all of them, before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A connection without a sign of life is asked for one, and closed without an answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Runs what hyper spawns on this thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Answers requests until the connection ends.
pub(super) async fn converse(io: Watched, visit: &Rc<Visit>) {
    let limits = visit
        .service()
        .map(|service| service.http.settings.limits.clone());
    let limits = limits.unwrap_or_default();
    let service = service_fn(|request| answer(Rc::clone(visit), request));
    // CONTINUATION frames are bounded by the header list (RFC 9113, section 10.5.1).
    let mut connection = http2::Builder::new(Here)
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
    poll_fn(|context| {
        let idle = visit.progress.phase() != Phase::Exchange
            && visit.progress.poll_deadline(context).is_ready();
        if (idle || visit.worker.is_stopping()) && !told {
            told = true;
            // GOAWAY: what is under way is answered.
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

async fn answer(
    visit: Rc<Visit>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    if name_host(&mut request) {
        join_cookies(&mut request);
        return forward::handle(visit, request).await;
    }
    Ok(answers::plain(StatusCode::BAD_REQUEST))
}

/// `:authority` is the Host of HTTP/1.1 (RFC 9113, section 8.3.1). `false` if both are there and
/// say different things.
fn name_host<B>(request: &mut Request<B>) -> bool {
    let Some(authority) = request.uri().authority() else {
        return true;
    };
    let authority = authority.as_str();
    let mut hosts = request.headers().get_all(HOST).iter();
    if !hosts.all(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())) {
        return false;
    }
    match HeaderValue::from_str(authority) {
        Ok(host) => {
            request.headers_mut().insert(HOST, host);
            true
        }
        Err(_) => false,
    }
}

/// Cookies may come in pieces, for the sake of compression (RFC 9113, section 8.2.3).
fn join_cookies<B>(request: &mut Request<B>) {
    let headers = request.headers_mut();
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn h2_8_3_1_the_authority_becomes_the_host_and_must_agree_with_it() {
        let mut alone = request("https://a.test:8443/", &[]);
        assert!(name_host(&mut alone));
        assert_eq!(alone.headers()[HOST], "a.test:8443");
        assert!(name_host(&mut request(
            "https://a.test/",
            &[("host", "A.test")]
        )));
        assert!(!name_host(&mut request(
            "https://a.test/",
            &[("host", "b.test")]
        )));
        let twice = [("host", "a.test"), ("host", "b.test")];
        assert!(!name_host(&mut request("https://a.test/", &twice)));
    }

    #[test]
    fn h2_8_2_3_cookies_in_pieces_are_joined() {
        let mut pieces = request("/", &[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut pieces);
        let joined: Vec<_> = pieces.headers().get_all(COOKIE).iter().collect();
        assert_eq!(joined, ["a=1; b=2"]);
        let mut whole = request("/", &[("cookie", "a=1")]);
        join_cookies(&mut whole);
        assert_eq!(whole.headers()[COOKIE], "a=1");
    }
}
