//! WebSockets over HTTP/2: extended CONNECT (RFC 8441), which an application behind gets as the
//! upgrade of HTTP/1.1 that it knows.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::{Bytes, Incoming};
use hyper::ext::Protocol;
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lb_http1::{Name, RequestHead};

use super::connection::{Connection, InFlight};
use super::record::Record;
use super::tunnel::{End, Tunnel};

/// A stream of HTTP/2 that is to become a tunnel.
pub(super) struct Extended(OnUpgrade);

impl Extended {
    /// The extended CONNECT in `request`, if it is one.
    pub(super) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let asks =
            request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some();
        asks.then(|| Self(hyper::upgrade::on(request)))
    }

    /// Makes the request of HTTP/1.1 out of it (section 5); returns the protocol, one of
    /// `allowed`.
    pub(super) fn rewrite(
        parts: &Parts,
        head: &mut RequestHead,
        allowed: &[String],
    ) -> Result<String, StatusCode> {
        let wanted = parts.extensions.get::<Protocol>();
        let wanted = wanted.ok_or(StatusCode::BAD_REQUEST)?;
        let is_wanted = |name: &&String| name.eq_ignore_ascii_case(wanted.as_str());
        let protocol = allowed.iter().find(is_wanted);
        let protocol = protocol.ok_or(StatusCode::NOT_IMPLEMENTED)?.clone();
        head.method = Method::GET;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let key = STANDARD.encode(nonce);
        head.fields.set(Name::SecWebsocketKey, key.as_bytes());
        Ok(protocol)
    }

    /// Joins the stream, once it is there, with the backend.
    pub(super) fn join(self, connection: &Rc<Connection>, tunnel: Tunnel, record: Record) {
        // The connection is in use for as long as the tunnel lives.
        let in_flight = InFlight::begin(connection);
        connection.worker.spawn(async move {
            let _held = in_flight;
            let Ok(stream) = self.0.await else { return };
            let client = End {
                stream: TokioIo::new(stream),
                early: Bytes::new(),
            };
            // An error has ended both streams by dropping them.
            let _ = tunnel.run(client, record).await;
        });
    }
}
