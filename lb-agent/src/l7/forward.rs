//! One request from its head to the head of its answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response, StatusCode, Uri, Version};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{Body, RequestBody};
use super::counts::Active;
use super::headers;
use super::passage::{Passage, plain};
use super::settings::Service;
use super::stream::Stream;
use super::upstream::{Driven, Upstream};
use super::visit::{UnderWay, Visit};
use lb_common::abi::BackendId;
use lb_common::select::Reason;

/// How long a backend may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Answers a request.
pub(super) async fn handle(
    visit: Rc<Visit>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let under_way = UnderWay::begin(&visit);
    let Some(service) = visit.service() else {
        let answer = plain(StatusCode::SERVICE_UNAVAILABLE);
        return Ok(answer.map(|body| body.ending(under_way, None)));
    };
    let (head, body) = request.into_parts();
    let passage = Passage::begin(&visit, Arc::clone(&service), under_way, &head);
    let answer = match passage.redirect(&head) {
        Some(answer) => Ok(answer),
        None => {
            let request = Request::from_parts(head, body);
            forward(&visit, &service, &passage, request).await
        }
    };
    visit.answer();
    Ok(passage.finish(answer.unwrap_or_else(plain)))
}

async fn forward(
    visit: &Rc<Visit>,
    service: &Service,
    passage: &Passage,
    request: Request<Incoming>,
) -> Result<Response<Body>, StatusCode> {
    let (mut head, body) = request.into_parts();
    let upgrade = head.version == Version::HTTP_11 && headers::is_websocket(&head.headers);
    headers::strip_hop_by_hop(&mut head.headers);
    headers::forwarded(&mut head.headers, &visit.values);
    if upgrade {
        headers::set_websocket(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    if head.uri.authority().is_some() {
        head.uri = head
            .uri
            .path_and_query()
            .cloned()
            .map_or_else(Uri::default, Uri::from);
    }
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        RequestBody::Client(body)
    };
    let mut request = Request::from_parts(head, body);
    let mut passed = Vec::new();
    loop {
        let (mut upstream, active) = reach(visit, service, passage, &mut passed).await?;
        match upstream.exchange(request).await {
            Ok(answer) => return Ok(finish(visit, upstream, active, answer, upgrade)),
            Err(mut error) => {
                let fresh = !upstream.reused;
                match error.take_message() {
                    // A connection that its backend closed while it was idle: nothing was written.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(StatusCode::BAD_GATEWAY),
                }
            }
        }
    }
}

/// The answer as the client gets it.
fn finish(
    visit: &Visit,
    mut upstream: Upstream,
    active: Active,
    answer: Response<Incoming>,
    upgrade: bool,
) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let granted = upgrade && headers::is_websocket(&head.headers);
        let Some(tunnel) = granted.then(|| upstream.into_tunnel()).flatten() else {
            return plain(StatusCode::BAD_GATEWAY);
        };
        headers::strip_hop_by_hop(&mut head.headers);
        headers::set_websocket(&mut head.headers);
        visit.tunnel(tunnel, active);
        return Response::from_parts(head, Body::empty());
    }
    if let Some(seconds) = headers::keep_alive_seconds(&head.headers) {
        upstream.idle_ms = seconds.saturating_sub(1) * 1000;
    }
    headers::strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    let pool = Rc::clone(&visit.worker.pool);
    let driven = Driven::new(body, upstream, pool);
    Response::from_parts(head, Body::upstream(driven, active))
}

/// A connection to the backend of this client.
async fn reach(
    visit: &Rc<Visit>,
    service: &Service,
    passage: &Passage,
    passed: &mut Vec<BackendId>,
) -> Result<(Upstream, Active), StatusCode> {
    loop {
        let snapshot = visit.worker.snapshot();
        let Some((choice, client)) = snapshot.choose(service.id, visit.peer.ip(), passed) else {
            snapshot.counts.chosen(service.id, None);
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        let id = choice.backend;
        let active = Active::new(&snapshot.counts, service.id, id);
        if let Some(upstream) = visit.worker.pool.take(id) {
            passage.chose(&upstream.name, why(choice.reason), Duration::ZERO);
            return Ok((upstream, active));
        }
        let address = snapshot.address(id).ok_or(StatusCode::BAD_GATEWAY)?;
        let begun = std::time::Instant::now();
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(address)).await {
            let _ = stream.set_nodelay(true);
            if let Ok(upstream) = Upstream::new(id, address.to_string(), Stream::Tcp(stream)).await
            {
                passage.chose(&upstream.name, why(choice.reason), begun.elapsed());
                snapshot.counts.chosen(service.id, Some(choice.reason));
                snapshot.remember(service.id, &client, id);
                return Ok((upstream, active));
            }
        }
        passed.push(id);
    }
}

/// Why a backend was chosen, in the words of `lookup`.
const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Affinity => "affinity",
        Reason::Slot => "slot",
        Reason::Next => "next",
    }
}
