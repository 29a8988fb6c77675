//! HTTP/2 to backends, played stream by stream by the crate `h2`. Clients speak HTTP/1.1, or HTTP/2 with
//! prior knowledge.

mod bodies;
mod connections;
mod failures;
mod heads;

use std::time::Duration;

use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::server::{Builder, SendResponse};
use ::h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use hyper::body::Bytes;
use lb_http::Presence;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Backend, Client, PATIENCE, Proxy};

const H2C: &str = "protocol = 'h2c'";
/// The fields that a client of gRPC sends beside its pseudo-header fields.
const CALL: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// A proxy in front of `backend` that speaks HTTP/2 with it.
fn proxy(backend: &Backend) -> Proxy {
    Proxy::new(&[backend], H2C)
}

/// Waits for an expected event.
#[track_caller]
fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let waited = timeout(PATIENCE, what).await;
        waited.unwrap_or_else(|_| panic!("nothing came for {place}"))
    }
}

/// A backend's end of a connection. Its requests are taken one by one.
struct Served {
    requests: mpsc::UnboundedReceiver<Call>,
    control: mpsc::UnboundedSender<Control>,
    /// Done with the connection.
    task: tokio::task::JoinHandle<()>,
}

enum Control {
    /// GOAWAY for streams that have not come yet.
    GoAway,
    /// The socket is closed as it is.
    Drop,
}

/// A request, as the backend has it.
struct Call {
    request: Request<RecvStream>,
    answer: SendResponse<Bytes>,
}

impl Served {
    /// The next connection of the proxy, under the usual settings.
    async fn accept(backend: &Backend) -> Self {
        Self::with(backend, &mut Builder::new()).await
    }

    /// The same under these.
    async fn with(backend: &Backend, settings: &mut Builder) -> Self {
        let stream = soon(listener(backend).accept()).await.unwrap().0;
        Self::on(stream, settings).await
    }

    /// On a connection that was accepted.
    async fn on<S>(stream: S, settings: &mut Builder) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut connection = soon(settings.handshake(stream)).await.unwrap();
        let (taken, requests) = mpsc::unbounded_channel();
        let (control, mut told) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = connection.accept() => match accepted {
                        Some(Ok((request, answer))) => {
                            let _ = taken.send(Call { request, answer });
                        }
                        _ => return,
                    },
                    Some(told) = told.recv() => match told {
                        Control::GoAway => connection.graceful_shutdown(),
                        Control::Drop => return,
                    },
                }
            }
        });
        Self {
            requests,
            control,
            task,
        }
    }

    /// The next request.
    async fn call(&mut self) -> Call {
        soon(self.requests.recv()).await.expect("a request")
    }

    /// No request comes.
    async fn is_quiet(&mut self) {
        let waited = timeout(Duration::from_millis(100), self.requests.recv()).await;
        assert!(waited.is_err(), "a request came");
    }

    fn tell(&self, control: Control) {
        self.control.send(control).unwrap();
    }
}

fn listener(backend: &Backend) -> TcpListener {
    let listener = backend.listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

impl Call {
    fn field(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    /// Answers with a status alone.
    fn finish(mut self, status: u16) {
        let head = Response::builder().status(status).body(()).unwrap();
        self.answer.send_response(head, true).unwrap();
    }

    /// Answers with the head of a call of gRPC.
    fn begin(&mut self) -> SendStream<Bytes> {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        self.answer.send_response(head, false).unwrap()
    }

    /// The next piece of the body; nothing at its end.
    async fn piece(&mut self) -> Option<Bytes> {
        piece(self.request.body_mut()).await.unwrap()
    }

    /// Why the client has reset the stream.
    async fn reset(&mut self) -> Reason {
        let reset = soon(std::future::poll_fn(|context| {
            self.answer.poll_reset(context)
        }));
        reset.await.unwrap()
    }
}

/// The next bytes of a body, for which the other side may send as many again; nothing at its end.
async fn piece(body: &mut RecvStream) -> Result<Option<Bytes>, ::h2::Error> {
    while let Some(data) = soon(body.data()).await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        if !data.is_empty() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// All of a body, and its trailers.
async fn rest(body: &mut RecvStream) -> Result<(String, Option<HeaderMap>), ::h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = piece(body).await? {
        all.extend_from_slice(&data);
    }
    let trailers = soon(body.trailers()).await?;
    Ok((String::from_utf8(all).unwrap(), trailers))
}

/// A client of HTTP/2 with prior knowledge.
struct Caller(SendRequest<Bytes>);

impl Caller {
    async fn new(proxy: &Proxy) -> Self {
        Self::with(proxy, &mut ::h2::client::Builder::new()).await
    }

    async fn with(proxy: &Proxy, settings: &mut ::h2::client::Builder) -> Self {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (send, connection) = soon(settings.handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// Begins a call of gRPC.
    async fn call(&mut self) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post("http://a.test/p.Service/Method");
        for (name, value) in CALL {
            request = request.header(name, value);
        }
        self.send(request.body(()).unwrap(), false).await
    }

    async fn send(
        &mut self,
        request: Request<()>,
        is_all: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = std::future::poll_fn(|context| self.0.poll_ready(context));
        soon(ready).await.unwrap();
        self.0.send_request(request, is_all).unwrap()
    }

    /// The status that a GET is answered with.
    async fn get(&mut self) -> u16 {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (answer, _) = self.send(request, true).await;
        soon(answer).await.unwrap().status().as_u16()
    }
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().unwrap());
    }
    map
}

/// Runs blocking code beside the backend of the test.
fn beside<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let begun = tokio::task::spawn_blocking(what);
    async { soon(begun).await.unwrap() }
}

/// The status that a client of HTTP/1.1 gets for `request`.
async fn status(mut client: Client) -> u16 {
    beside(move || client.status()).await
}
