//! Metrics on a socket of their own: `GET /metrics` on a TCP address or a unix socket.
//!
//! Many scrapers cost no more than one: a snapshot is good for a while.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

pub use super::listener::Listener;
use super::listener::{Stream, speak};
use super::{collect, text};
use crate::control::message::{Command, Reply};
use crate::control::queue::Calls;
use crate::control::stats::{Family, Stats};
use crate::crowd::{Asking, Phase};
use lb_config::MetricsAddress;
use lb_net::handover::FdStore;

/// Time limit for a whole connection.
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// Time limit for the agent's answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long a snapshot is good for.
const FRESH: Duration = Duration::from_millis(250);

/// Listens at `address`, or takes over the socket of an earlier agent.
///
/// # Errors
/// The operating system's, with the address in words.
pub async fn bind(address: &MetricsAddress, kept: &FdStore) -> io::Result<Listener> {
    Listener::bind("metrics", address, kept).await
}

/// Serves `listener` for as long as the agent answers `calls`, `most` connections at a time; more
/// wait in the backlog, and all in a `phase` of waiting.
pub async fn serve(listener: Listener, calls: Calls, most: usize, phase: watch::Receiver<Phase>) {
    let snapshots = Arc::new(Snapshots {
        calls,
        last: Mutex::new(None),
    });
    let serve = |stream, asking| connection(stream, Arc::clone(&snapshots), asking);
    listener.serve(most, phase, serve).await;
}

async fn connection(stream: Stream, snapshots: Arc<Snapshots>, asking: Asking) {
    let service = service_fn(|request| {
        let snapshots = Arc::clone(&snapshots);
        let asking = asking.clone();
        async move {
            asking.set(true);
            let response = respond(&request, &snapshots).await;
            // A scraper that keeps its connection is silent until it asks again.
            asking.set(false);
            Ok::<_, Infallible>(response)
        }
    });
    speak(stream, service, WHOLE_TIME, "metrics").await;
}

async fn respond(request: &Request<Incoming>, snapshots: &Snapshots) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, line: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(line.as_bytes())));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is GET /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match snapshots.families().await {
        Some(families) => encoded(&families, request.headers().get(ACCEPT)),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy\n"),
    }
}

/// The metrics of a snapshot as an HTTP answer, in the format that an `Accept` header asks for.
pub fn response(stats: &Stats, accept: Option<&HeaderValue>) -> Response<Full<Bytes>> {
    encoded(&collect::families(stats), accept)
}

fn encoded(families: &[Family], accept: Option<&HeaderValue>) -> Response<Full<Bytes>> {
    let accept = accept.and_then(|value| value.to_str().ok());
    let (kind, text) = text::encode(families, accept.unwrap_or_default());
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The latest snapshot, and the source of newer ones.
struct Snapshots {
    calls: Calls,
    last: Mutex<Option<(Instant, Arc<Vec<Family>>)>>,
}

impl Snapshots {
    async fn families(&self) -> Option<Arc<Vec<Family>>> {
        // Requests that arrive meanwhile wait here for the same snapshot.
        let mut last = self.last.lock().await;
        if let Some((at, families)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(families));
        }
        let asked = self.calls.ask(Command::Stats, None);
        let Ok(Some(Ok(Reply::Stats(stats)))) = timeout(ANSWER_TIME, asked).await else {
            return None;
        };
        let families = Arc::new(collect::families(&stats));
        *last = Some((Instant::now(), Arc::clone(&families)));
        Some(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queue::queue;
    use crate::metrics::listener::HEAD_TIME;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const MOST: usize = 64;

    async fn asked(address: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 404");
        stream
    }

    #[tokio::test]
    async fn neither_silent_connections_nor_kept_ones_keep_a_scraper_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, _inbox) = queue();
        let (_phase, serving) = watch::channel(Phase::Serving);
        let server = tokio::spawn(serve(Listener::Tcp(listener), calls, MOST, serving));
        let mut others = Vec::new();
        for _ in 0..MOST {
            others.push(asked(address).await);
        }
        for _ in 0..4 * MOST {
            others.push(TcpStream::connect(address).await.unwrap());
        }
        let begun = Instant::now();
        timeout(HEAD_TIME, asked(address))
            .await
            .expect("an answer in time");
        assert!(begun.elapsed() < HEAD_TIME);
        server.abort();
    }
}
