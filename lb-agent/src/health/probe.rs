//! One probe of one backend.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use crate::sockdiag;
use lb_config::BackendAddress;
use lb_config::health::{Health as Check, HttpProbe, Probe};
use lb_config::http::Protocol;

/// So much of a body is searched for the text that must be there, in bytes.
const MAX_BODY: usize = 64 << 10;
/// From one look whether a connection has been accepted to the next, at first.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// Probes a backend: returns the time it took, or the fault in a few words.
pub(super) async fn probe(backend: &BackendAddress, check: &Check) -> Result<Duration, String> {
    let start = Instant::now();
    if check.probe == Probe::Nothing {
        return Ok(Duration::ZERO);
    }
    let mut step = "no answer to a connection";
    let asked = async {
        match backend {
            BackendAddress::Ip(address) => {
                let port = check.port.unwrap_or(address.port());
                let address = SocketAddr::new(address.ip(), port);
                let stream = TcpStream::connect(address).await.map_err(cannot)?;
                match &check.probe {
                    Probe::Nothing => Ok(()),
                    Probe::Tcp => {
                        step = "connected, but the application does not accept (is it frozen?)";
                        accepted(&stream).await;
                        Ok(())
                    }
                    Probe::Http(http) => {
                        step = "connected, but no whole answer";
                        answered(stream, &address.to_string(), http).await
                    }
                }
            }
            BackendAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(cannot)?;
                match &check.probe {
                    Probe::Tcp | Probe::Nothing => Ok(()),
                    Probe::Http(http) => {
                        step = "connected, but no whole answer";
                        answered(stream, "localhost", http).await
                    }
                }
            }
        }
    };
    match timeout(check.timeout, asked).await {
        Ok(outcome) => outcome.map(|()| start.elapsed()),
        Err(_) => Err(format!(
            "{step} within {}",
            humantime::format_duration(check.timeout)
        )),
    }
}

fn cannot(error: io::Error) -> String {
    error.kind().to_string()
}

/// Waits until the application has accepted the connection. The kernel completes handshakes for a frozen
/// process as well; for a backend on this host, the kernel can tell whether the process has accepted. If
/// the kernel does not know, being connected has to do.
async fn accepted(stream: &TcpStream) {
    let (Ok(near), Ok(far)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let mut look = FIRST_LOOK;
    while let Ok(Some(false)) = sockdiag::accepted(near, far) {
        sleep(look).await;
        look = (look * 2).min(Duration::from_millis(100));
    }
}

/// Sends the request and judges the answer.
async fn answered(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    probe: &HttpProbe,
) -> Result<(), String> {
    let broken = |error: hyper::Error| format!("no answer that makes sense: {error}");
    let request = request(host, probe)?;
    let io = TokioIo::new(stream);
    // The connection lives as long as its guard.
    let (response, _end) = match probe.protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
            let end = AbortOnDrop(tokio::spawn(connection).abort_handle());
            (sender.send_request(request).await, end)
        }
        Protocol::H2c => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = http2::handshake(executor, io).await.map_err(broken)?;
            let end = AbortOnDrop(tokio::spawn(connection).abort_handle());
            (sender.send_request(request).await, end)
        }
    };
    let response = response.map_err(broken)?;
    let status = response.status().as_u16();
    if !probe.status.contains(status) {
        return Err(format!("status {status}"));
    }
    match &probe.body {
        Some(text) => contains(response, text).await,
        None => Ok(()),
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(host: &str, probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, String> {
    let host = probe.host.as_deref().unwrap_or(host);
    let request = Request::builder()
        .method(probe.method.as_str())
        .header(USER_AGENT, concat!("lb-agent/", env!("CARGO_PKG_VERSION")));
    let request = match probe.protocol {
        Protocol::Http1 => request
            .uri(probe.path.as_str())
            .header(CONNECTION, HeaderValue::from_static("close"))
            .header(HOST, host),
        Protocol::H2c => request.uri(format!("http://{host}{}", probe.path)),
    };
    let mut request = request
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in &probe.headers {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request)
}

/// Whether the beginning of the body contains `text`.
async fn contains(response: Response<Incoming>, text: &str) -> Result<(), String> {
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke off: {error}"))?;
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(data);
        }
        // The answer is a few bytes or a page; searching the earlier bytes again costs nothing.
        if read.windows(text.len()).any(|part| part == text.as_bytes()) {
            return Ok(());
        }
        if read.len() >= MAX_BODY {
            break;
        }
    }
    Err(format!("{text:?} is not in the body"))
}

#[cfg(test)]
mod tests;
