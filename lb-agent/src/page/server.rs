//! Connections to the page, and the answers to their requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use super::events::{self, Events};
use super::live::Live;
use super::{assets, guard};
use crate::control::message::{Command, Reply};
use crate::control::queue::Calls;
use crate::control::{explain, lookup_command};
use crate::crowd::{Asking, Phase};
use crate::metrics::listener::{Listener, Stream, speak};

/// Time limit for a whole connection, with a stream of events.
const WHOLE_TIME: Duration = events::LENGTH.saturating_add(Duration::from_secs(30));
/// Most connections at a time. Half of them may watch.
const MOST: usize = 32;
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type Answer = Response<Either<Full<Bytes>, Events>>;

/// What the requests are answered from.
struct Page {
    live: Arc<Live>,
    /// Host names beside `localhost` and addresses.
    names: Vec<String>,
}

/// Serves the page at `listener`, for addresses, `localhost` and `names`, for as long as the agent answers `calls`. At
/// most `most` connections are open at a time; more wait in the backlog, and all in a `phase` of waiting.
pub async fn serve(
    listener: Listener,
    names: Vec<String>,
    calls: Calls,
    most: usize,
    phase: watch::Receiver<Phase>,
) {
    let most = most.min(MOST);
    let live = Arc::new(Live::new(calls, most.div_ceil(2)));
    let page = Arc::new(Page {
        live: Arc::clone(&live),
        names,
    });
    let connections = listener.serve(most, phase, |stream, asking| {
        connection(stream, Arc::clone(&page), asking)
    });
    tokio::select! {
        () = connections => {}
        () = live.run() => {}
    }
}

async fn connection(stream: Stream, page: Arc<Page>, asking: Asking) {
    let service = service_fn(|request| {
        let (page, asking) = (Arc::clone(&page), asking.clone());
        async move {
            asking.set(true);
            let answer = respond(request, &page, &asking).await;
            // A stream asks until its end. Another connection that is kept is silent until the next request.
            asking.set(matches!(answer.body(), Either::Right(_)));
            Ok::<_, Infallible>(answer)
        }
    });
    speak(stream, service, WHOLE_TIME, "page").await;
}

async fn respond(request: Request<Incoming>, page: &Page, asking: &Asking) -> Answer {
    let (head, _) = request.into_parts();
    if !guard::is_for_us(&head, &page.names) {
        let line = "use an IP address, localhost, or a name of [agent] page_hosts\n";
        return text(StatusCode::MISDIRECTED_REQUEST, line);
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    if let Some(asset) = assets::at(head.uri.path()) {
        return full(StatusCode::OK, asset.kind, asset.text.as_bytes().into());
    }
    if guard::is_of_another_site(&head.headers) {
        return text(StatusCode::FORBIDDEN, "another site has asked for this\n");
    }
    match head.uri.path() {
        "/events" if head.method == Method::GET => watched(page, asking.clone()),
        "/lookup" => lookup(page, head.uri.query().unwrap_or_default()).await,
        _ => text(StatusCode::NOT_FOUND, "there is GET / and GET /lookup\n"),
    }
}

/// A stream of events.
fn watched(page: &Page, asking: Asking) -> Answer {
    let Some(watcher) = page.live.watch() else {
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "too many watch already\n");
        let seconds = HeaderValue::from_static("10");
        answer.headers_mut().insert(RETRY_AFTER, seconds);
        return answer;
    };
    let events = Events::begin(Arc::clone(&page.live), watcher, asking);
    let mut answer = Response::new(Either::Right(events));
    assets::finish(&mut answer, "text/event-stream");
    // The next stream has a connection of its own, with all of its time.
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

/// The backend of a client, and the reason in words.
async fn lookup(page: &Page, query: &str) -> Answer {
    let no = |status, error: &str| {
        let document = json!({ "error": error }).to_string();
        full(status, JSON, document.into())
    };
    let command = match lookup_command(query) {
        Ok(command) => command,
        Err(refusal) => return no(StatusCode::BAD_REQUEST, &refusal.error),
    };
    let Command::Lookup { request, .. } = &command else {
        return no(StatusCode::BAD_REQUEST, "this is no lookup");
    };
    let request = request.clone();
    match page.live.ask(command).await {
        Some(Ok(Reply::Lookup(found))) => {
            let words = explain::text(&found, &request);
            let document = json!({ "found": found, "text": words }).to_string();
            full(StatusCode::OK, JSON, document.into())
        }
        Some(Err(refusal)) => no(StatusCode::NOT_FOUND, &refusal.error),
        _ => no(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy"),
    }
}

fn text(status: StatusCode, line: &'static str) -> Answer {
    full(status, TEXT, line.into())
}

fn full(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body)));
    *answer.status_mut() = status;
    assets::finish(&mut answer, kind);
    answer
}
