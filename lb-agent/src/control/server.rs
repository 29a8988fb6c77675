//! Connections to the control socket. Each connection has its own task and deadline, and their number is
//! limited. A client that is idle, slow or sends invalid requests delays no other client.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::api::{self, No};
pub use super::bind::{BindError, appear_behind, bind};
use super::message::{Command, Reply};
use super::peer::Peer;
use super::queue::Calls;
use super::quota::{Quotas, Share};
use super::stats::Stats;
use crate::crowd::{Asking, Crowd, Phase};
use lb_net::seldom::Seldom;

/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Time limit for the request body.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Time limit for the agent's answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time limit for a whole connection, so that a client that never reads cannot hold it for ever.
const WHOLE_TIME: Duration = Duration::from_secs(60);
/// For those that are under way when the agent stops.
const LAST_TIME: Duration = Duration::from_millis(500);
/// How much of a body that is too long is read and thrown away: a client that is still sending
/// would not see the answer.
const MAX_WASTE: usize = 32 << 20;
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Writes figures as metrics, in the format that an `Accept` header asks for.
pub type AsMetrics = fn(&Stats, Option<&HeaderValue>) -> Response<Full<Bytes>>;

/// Serves `listener` until `phase` says that the agent ends, with at most `most` connections at a time. Every request
/// becomes a command in `calls`; `metrics` writes the figures for requests in metrics format. Further connections
/// wait in the socket's backlog. At the end the socket is removed, unless it was taken over, and open connections get
/// half a second more.
pub async fn serve(
    listener: UnixListener,
    calls: Calls,
    metrics: AsMetrics,
    most: usize,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut crowd = Crowd::new(most);
    let agent = Agent {
        calls,
        metrics,
        quotas: Quotas::default(),
    };
    let last = loop {
        let now = *phase.borrow_and_update();
        if matches!(now, Phase::Ending | Phase::TakenOver) {
            break now;
        }
        let has_room = crowd.has_room() && now == Phase::Serving;
        tokio::select! {
            told = phase.changed() => if told.is_err() {
                break Phase::Ending;
            },
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => crowd.serve(|asking| connection(stream, agent.clone(), asking)),
                // Out of descriptors or memory.
                Err(error) => {
                    static LINE: Seldom = Seldom::new();
                    if let Some(times) = LINE.cause() {
                        tracing::warn!(%error, times, "accept on the control socket");
                    }
                    crowd.give_back();
                    sleep(Duration::from_millis(100)).await;
                }
            },
            () = crowd.changed() => {}
        }
    };
    // While the listener lives no other agent takes the path, so the file removed here is this agent's.
    if last == Phase::Ending
        && let Some(path) = listener.local_addr()?.as_pathname()
    {
        let _ = std::fs::remove_file(path);
    }
    drop(listener);
    let _ = timeout(LAST_TIME, crowd.over()).await;
    Ok(())
}

/// Queue for requests, and the limit on connections at a time.
#[derive(Clone)]
struct Agent {
    calls: Calls,
    metrics: AsMetrics,
    quotas: Quotas,
}

/// Serves one connection: one request, one answer.
async fn connection(stream: UnixStream, agent: Agent, asking: Asking) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "who asks on the control socket cannot be known");
            return;
        }
    };
    let service = service_fn(|request| {
        asking.set(true);
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(respond(request, peer, &agent).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        // A client that has said everything may close its side before the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(WHOLE_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a control connection broke off"),
        Err(_) => tracing::debug!("a control connection took too long"),
    }
}

async fn respond(request: Request<Incoming>, peer: Peer, agent: &Agent) -> Response<Full<Bytes>> {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let accept = request.headers().get(ACCEPT).cloned();
    let as_metrics = request.uri().path() == "/metrics";
    let response = match answer(request, peer, agent).await {
        Ok(Reply::Stats(stats)) if as_metrics => (agent.metrics)(&stats, accept.as_ref()),
        Ok(reply) => json(StatusCode::OK, &reply),
        Err(no) => {
            let mut response = json(no.status, &no.document);
            if let Some(methods) = no.allow.and_then(|methods| methods.parse().ok()) {
                response.headers_mut().insert(ALLOW, methods);
            }
            response
        }
    };
    tracing::debug!(asked, status = response.status().as_u16(), "control");
    response
}

async fn answer(request: Request<Incoming>, peer: Peer, agent: &Agent) -> Result<Reply, No> {
    let (head, body) = request.into_parts();
    let declared = body.size_hint().lower();
    // A client that asks first whether to send such a body (`Expect`) has not sent it yet.
    let most = api::max_body(head.uri.path());
    if declared > most as u64 && head.headers.contains_key(EXPECT) {
        return Err(No::too_large(most));
    }
    // Before any other answer too: a client that is still sending might not see it.
    let body = timeout(BODY_TIME, whole(body, most)).await.map_err(|_| {
        No::new(
            StatusCode::REQUEST_TIMEOUT,
            "the rest of the body did not come",
            "send as much as Content-Length says",
        )
    })??;
    let endpoint = api::endpoint(&head.method, head.uri.path())?;
    let command = api::command(endpoint, head.uri.query().unwrap_or_default(), &body)?;
    if !command.changes() {
        let share = agent.quotas.take(&command, &peer)?;
        return carry_out(command, share, &agent.calls).await;
    }
    let asked = command.clone();
    let outcome = match peer.may_change() {
        true => carry_out(command, None, &agent.calls).await,
        false => Err(No::forbidden()),
    };
    log(&asked, &outcome, peer);
    outcome
}

/// Logs a command that changes something, with its parts as fields. The message is a sentence without them.
fn log(asked: &Command, outcome: &Result<Reply, No>, peer: Peer) {
    let command = asked.name();
    let (address, service) = asked.subject();
    let backend = address.map(tracing::field::display);
    let subject = address.map_or_else(String::new, |address| format!(" {address}"));
    let no = match outcome {
        Ok(Reply::Unchanged { message }) => {
            tracing::debug!(command, backend, service, "{message} (asked by {peer})");
            return;
        }
        // Further lines are logged where they arise.
        Ok(Reply::Changed { message }) => {
            let message = message.lines().next().unwrap_or_default();
            tracing::info!(command, backend, service, %peer, "{message} (asked by {peer})");
            return;
        }
        Ok(_) => {
            tracing::info!(command, backend, service, %peer, "{command}{subject} (asked by {peer})");
            return;
        }
        Err(no) => no,
    };
    let error = no.document.error.lines().collect::<Vec<_>>().join("; ");
    if no.status.is_server_error() {
        tracing::error!(
            command, backend, service, error, %peer,
            "{command}{subject} failed: {error} (asked by {peer})"
        );
    } else {
        tracing::warn!(
            command, backend, service, error, %peer,
            "{command}{subject} refused: {error} (asked by {peer})"
        );
    }
}

/// The body, if it is not too long.
async fn whole(mut body: Incoming, most: usize) -> Result<Vec<u8>, No> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            No::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
                "send as much as Content-Length says",
            )
        })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        length += chunk.len();
        if length <= most {
            bytes.extend_from_slice(&chunk);
        }
        if length > MAX_WASTE {
            break;
        }
    }
    if length > most {
        return Err(No::too_large(most));
    }
    Ok(bytes)
}

async fn carry_out(command: Command, share: Option<Share>, calls: &Calls) -> Result<Reply, No> {
    match timeout(ANSWER_TIME, calls.ask(command, share)).await {
        Ok(Some(answer)) => Ok(answer?),
        Ok(None) => Err(No::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent is stopping",
            "start it again",
        )),
        Err(_) => Err(No::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the agent has been busy for {} seconds",
                ANSWER_TIME.as_secs()
            ),
            "what was asked may still be done: see \"lb-agent status\" and the agent's log",
        )),
    }
}

/// Indented, for people who read it with curl.
fn json(status: StatusCode, document: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, mut text) = match serde_json::to_string_pretty(document) {
        Ok(text) => (status, text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            let text = r#"{"error": "the answer cannot be written as JSON", "hint": null}"#;
            (StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
        }
    };
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
