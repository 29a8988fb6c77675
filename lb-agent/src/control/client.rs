//! The other end of the control socket, for the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use lb_http::Purge;

use super::message::{Command, Part, Refusal, RefusalDocument, RefusalKind};

/// For a whole call: a little more than the agent takes to say that it is busy.
const CALL_TIME: Duration = Duration::from_secs(40);
/// For an agent that is there to show it.
const SILENT_TIME: Duration = Duration::from_secs(5);
/// After how long without an answer it is asked whether it is there.
const QUIET_TIME: Duration = Duration::from_millis(1500);

/// Why a call has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No agent listens on the socket, or the caller may not connect to it.
    #[error("no agent answers at {}", path.display())]
    Unreachable {
        /// Path of the control socket.
        path: PathBuf,
        /// The answer of the operating system.
        #[source]
        source: io::Error,
    },
    /// The agent refused the command.
    #[error("{}", .0.error)]
    Refused(Refusal),
    /// The agent went away, or something else than an agent is there.
    #[error("no answer that makes sense from {}: {reason}", path.display())]
    Garbled {
        /// Path of the control socket.
        path: PathBuf,
        /// Description of the fault.
        reason: String,
    },
    /// The socket is open, but its process does not answer.
    #[error("the agent at {} does not answer", path.display())]
    Silent {
        /// Path of the control socket.
        path: PathBuf,
        /// Its process, if it can be seen from here.
        pid: Option<i32>,
    },
    /// The agent took too long.
    #[error("no answer from {} within {} seconds", path.display(), CALL_TIME.as_secs())]
    Late {
        /// Path of the control socket.
        path: PathBuf,
    },
}

/// A caller of the agent at one control socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A caller of the agent at `path`. Nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The agent's answer to `command`, as JSON text.
    pub async fn text(&self, command: &Command) -> Result<String, CallError> {
        let stream = self.connect().await?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        tokio::select! {
            answer = timeout(CALL_TIME, self.ask(stream, command)) => {
                answer.map_err(|_| CallError::Late {
                    path: self.path.clone(),
                })?
            }
            () = self.silence() => Err(CallError::Silent {
                path: self.path.clone(),
                pid,
            }),
        }
    }

    /// Waits until no process answers any more. A busy agent still answers at once that there is no such
    /// path as `/`.
    async fn silence(&self) {
        loop {
            sleep(QUIET_TIME).await;
            let said = timeout(SILENT_TIME - QUIET_TIME, self.says_anything()).await;
            if said.is_err() {
                return;
            }
        }
    }

    /// Sends a request without a command. Ready when an agent answers, or has gone.
    async fn says_anything(&self) -> io::Result<()> {
        let mut stream = UnixStream::connect(&self.path).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: lb-agent\r\n\r\n")
            .await?;
        stream.read_u8().await.map(drop)
    }

    /// The agent's answer to a command that reads: a `Status` or a `Lookup`.
    pub async fn read<T: DeserializeOwned>(&self, command: &Command) -> Result<T, CallError> {
        let text = self.text(command).await?;
        serde_json::from_str(&text).map_err(|error| self.garbled(error))
    }

    /// Sends `command` and returns the agent's summary of the change, one line.
    pub async fn change(&self, command: &Command) -> Result<String, CallError> {
        #[derive(Deserialize)]
        struct Changed {
            message: String,
        }
        let Changed { message } = self.read(command).await?;
        Ok(message)
    }

    /// Process ID of the listener, if there is one. `None` if it cannot be seen from here.
    pub async fn peer(&self) -> Result<Option<i32>, CallError> {
        let stream = self.connect().await?;
        Ok(stream.peer_cred().ok().and_then(|peer| peer.pid()))
    }

    async fn connect(&self) -> Result<UnixStream, CallError> {
        let deadline = Instant::now() + SILENT_TIME;
        loop {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                // The backlog is full: many others are calling.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(CallError::Silent {
                        path: self.path.clone(),
                        pid: None,
                    });
                }
                Err(source) => {
                    return Err(CallError::Unreachable {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    async fn ask(&self, stream: UnixStream, command: &Command) -> Result<String, CallError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.garbled(error))?;
        tokio::spawn(connection);
        let response = sender
            .send_request(request(command))
            .await
            .map_err(|error| self.garbled(error))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.garbled(error))?;
        let text =
            String::from_utf8(body.to_bytes().into()).map_err(|error| self.garbled(error))?;
        if status.is_success() {
            return Ok(text);
        }
        let document: RefusalDocument =
            serde_json::from_str(&text).map_err(|_| self.garbled(format!("it says {status}")))?;
        Err(CallError::Refused(Refusal {
            kind: kind(status),
            error: document.error,
            hint: document.hint,
        }))
    }

    fn garbled(&self, reason: impl ToString) -> CallError {
        CallError::Garbled {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

fn kind(status: StatusCode) -> RefusalKind {
    match status {
        StatusCode::NOT_FOUND => RefusalKind::NotFound,
        StatusCode::CONFLICT => RefusalKind::Conflict,
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => RefusalKind::Failed,
        status if status.is_client_error() => RefusalKind::BadRequest,
        _ => RefusalKind::Failed,
    }
}

fn request(command: &Command) -> Request<Full<Bytes>> {
    let (method, path, body) = match command {
        Command::Status => (Method::GET, "/v1/status".to_owned(), None),
        Command::Stats => (Method::GET, "/v1/stats".to_owned(), None),
        Command::Lookup {
            client,
            service,
            request,
        } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("client", &client.to_string());
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.extend_pairs(request.parameters());
            (Method::GET, format!("/v1/lookup?{}", query.finish()), None)
        }
        Command::AddBackend {
            address,
            service,
            weight,
            ensure,
        } => {
            let body = json!({
                "address": address, "service": service, "weight": weight, "ensure": ensure,
            });
            (Method::POST, "/v1/backends".to_owned(), Some(body))
        }
        Command::RemoveBackend { address, service } => {
            let body = json!({ "address": address, "service": service });
            (Method::DELETE, "/v1/backends".to_owned(), Some(body))
        }
        Command::ResetBackend { address, service } => {
            let body = json!({ "address": address, "service": service });
            (Method::POST, "/v1/backends/reset".to_owned(), Some(body))
        }
        Command::DrainBackend {
            address,
            service,
            timeout,
            at_end,
            now,
        } => {
            let body = json!({
                "address": address, "service": service, "at_end": at_end, "now": now,
                "timeout_seconds": timeout.map(|timeout| timeout.as_secs_f64()),
            });
            (Method::POST, "/v1/backends/drain".to_owned(), Some(body))
        }
        Command::Bans => (Method::GET, "/v1/bans".to_owned(), None),
        Command::Ban(ban) => {
            let body = json!({
                "prefix": ban.prefix, "service": ban.service, "reason": ban.reason, "force": ban.force,
                "for_seconds": ban.length.map(|length| length.as_secs_f64()),
            });
            (Method::POST, "/v1/bans".to_owned(), Some(body))
        }
        Command::Unban { prefix, service } => {
            let body = json!({ "prefix": prefix, "service": service });
            (Method::DELETE, "/v1/bans".to_owned(), Some(body))
        }
        Command::Reload {
            max_moved,
            forget_runtime,
        } => {
            let body = json!({
                "max_moved": max_moved.map(Part::fraction),
                "forget_runtime": forget_runtime,
            });
            (Method::POST, "/v1/reload".to_owned(), Some(body))
        }
        Command::Plan {
            config,
            forget_runtime,
        } => {
            let body = json!({ "config": config, "forget_runtime": forget_runtime });
            (Method::POST, "/v1/plan".to_owned(), Some(body))
        }
        Command::Cache { prefix, most } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("prefix", prefix);
            query.append_pair("most", &most.to_string());
            (Method::GET, format!("/v1/cache?{}", query.finish()), None)
        }
        Command::PurgeCache { what } => {
            let body = match what {
                Purge::Url(url) => json!({ "url": url }),
                Purge::Prefix(url) => json!({ "url": url, "prefix": true }),
                Purge::Tag(tag) => json!({ "tag": tag }),
                Purge::All => json!({ "url": "", "prefix": true }),
            };
            (Method::POST, "/v1/cache/purge".to_owned(), Some(body))
        }
        Command::Stop { purge } => {
            let body = json!({ "purge": purge });
            (Method::POST, "/v1/stop".to_owned(), Some(body))
        }
    };
    let body = body.map_or_else(String::new, |body| body.to_string());
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    let host = hyper::header::HeaderValue::from_static("lb-agent");
    request.headers_mut().insert(HOST, host);
    request
}
