//! WebSockets over HTTP/2: extended CONNECT (RFC 8441), which an application behind gets as the
//! upgrade of HTTP/1.1 that it knows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::{Bytes, Incoming};
use hyper::ext::Protocol;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::counts::Active;
use super::headers;
use super::tunnel::{self, End};
use super::upstream::Tunnelled;
use super::visit::{UnderWay, Visit};

/// A stream of HTTP/2 that is to become a tunnel.
pub(super) struct Extended(Cell<Option<OnUpgrade>>);

impl Extended {
    /// What `request` asks for, if it is an extended CONNECT.
    pub(super) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let asks =
            request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some();
        asks.then(|| Self(Cell::new(Some(hyper::upgrade::on(request)))))
    }

    /// Makes the request of HTTP/1.1 out of it (section 5); returns the protocol, one of
    /// `allowed`.
    pub(super) fn rewrite(head: &mut Parts, allowed: &[String]) -> Result<String, StatusCode> {
        let wanted = head.extensions.remove::<Protocol>();
        let wanted = wanted.ok_or(StatusCode::BAD_REQUEST)?;
        let is_wanted = |name: &&String| name.eq_ignore_ascii_case(wanted.as_str());
        let protocol = allowed.iter().find(is_wanted);
        let protocol = protocol.ok_or(StatusCode::NOT_IMPLEMENTED)?.clone();
        head.method = Method::GET;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let key = HeaderValue::from_str(&STANDARD.encode(nonce));
        let key = key.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        head.headers.insert(header::SEC_WEBSOCKET_KEY, key);
        Ok(protocol)
    }

    /// What is for HTTP/1.1 alone goes from the backend's consent.
    pub(super) fn clean(granted: &mut HeaderMap) {
        headers::strip_hop_by_hop(granted);
        granted.remove(header::UPGRADE);
        granted.remove(header::SEC_WEBSOCKET_ACCEPT);
    }

    /// Joins the stream, once it is there, with the backend.
    pub(super) fn join(
        &self,
        visit: &Rc<Visit>,
        backend: Tunnelled,
        active: Active,
        idle: Option<Duration>,
    ) {
        let Some(stream) = self.0.take() else { return };
        // The connection is in use for as long as the tunnel lives.
        let under_way = UnderWay::begin(visit);
        visit.worker.spawn(async move {
            let _held = under_way;
            let Ok(stream) = stream.await else { return };
            let client = End {
                stream: TokioIo::new(stream),
                early: Bytes::new(),
            };
            let backend = End {
                stream: backend.stream,
                early: backend.early,
            };
            // An error has ended both streams by dropping them.
            let _ = tunnel::copy(client, backend, idle, || active.is_to_end()).await;
        });
    }
}
