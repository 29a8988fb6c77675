//! A client's connection from its first byte to its last: PROXY header, TLS, then HTTP.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;

use super::connection::Connection;
use super::forwarded::Origin;
use super::handshake::Accepted;
use super::metrics::Handshake;
use super::prefixed::Prefixed;
use super::settings::{Service, Snapshot};
use super::stream::Stream;
use super::worker::Worker;
use super::{h2, handshake, http1, proxied};
use lb_config::http::Timeouts;
use lb_net::admission::listener::Client;

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, stream: Client, peer: SocketAddr) {
    // Boxed: a connection that waits for requests holds no room for its beginning.
    let Some((stream, connection)) = Box::pin(establish(worker, stream, peer)).await else {
        return;
    };
    let stream = if connection.is_http2() {
        Some(Prefixed::new(Bytes::new(), stream))
    } else {
        connection.progress.head(connection.head_timeout());
        http1::converse(stream, &connection).await
    };
    if let Some(stream) = stream {
        connection.speak_http2();
        Box::pin(h2::converse(stream, &connection)).await;
    }
}

/// The steps before HTTP: the limit of connections, PROXY header and TLS. `None` if the connection is over.
async fn establish(
    worker: Rc<Worker>,
    mut stream: Client,
    peer: SocketAddr,
) -> Option<(Stream, Rc<Connection>)> {
    let local = canonical(stream.local_addr().ok()?);
    let peer = canonical(peer);
    if let Some((service, most)) = worker.snapshot().limit(local)
        && !stream.joins(service, most)
    {
        stream.reset();
        return None;
    }
    let mut origin = origin(&worker, &mut stream, peer, local).await?;
    let snapshot = worker.snapshot();
    let service = snapshot.service_at(local);
    let over_tls = service.filter(|service| Snapshot::is_tls(service, local));
    let (stream, tls) = match over_tls.map(Arc::clone) {
        None => (Stream::Client(stream), None),
        Some(service) => {
            drop(snapshot);
            // Boxed: those without TLS need not hold room for it.
            let accepted = Box::pin(shake_hands(&worker, &service, stream)).await?;
            origin.client = accepted.presented;
            (accepted.stream, Some(accepted.agreed))
        }
    };
    origin.https = tls.is_some();
    Some((stream, Connection::new(worker, local, origin, tls)?))
}

/// TLS with a client, counted; `None` if that came to nothing.
async fn shake_hands(worker: &Worker, service: &Service, stream: Client) -> Option<Accepted> {
    let accepted = match &service.listener.tls {
        Some(configs) => handshake::accept(configs, stream, Timeouts::default().header).await,
        None => Err(Handshake::Failed),
    };
    let outcome = match &accepted {
        Ok(accepted) if accepted.agreed.is_resumed => Handshake::Resumed,
        Ok(_) => Handshake::Full,
        Err(cause) => *cause,
    };
    let meter = worker.meters.service(&service.http.name);
    meter.handshake(outcome);
    accepted.ok()
}

/// The client of the connection, from its PROXY header if a trusted proxy is to send one. `None` if there
/// is no service, or no header.
async fn origin(
    worker: &Worker,
    stream: &mut Client,
    peer: SocketAddr,
    local: SocketAddr,
) -> Option<Origin> {
    let snapshot = worker.snapshot();
    let settings = &snapshot.service_at(local)?.http.settings;
    let trusted = &settings.trusted_proxies;
    let is_proxy = || trusted.iter().any(|block| block.contains(peer.ip()));
    if !(settings.proxy_protocol && is_proxy()) {
        return Some(Origin::new(peer, local, false, trusted));
    }
    match Box::pin(proxied::read(stream.stream_mut(), settings.timeouts.header)).await {
        Ok(told) => {
            let (peer, local) = told.unwrap_or((peer, local));
            Some(Origin::new(peer, local, false, trusted).introduced())
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "no PROXY header");
            None
        }
    }
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for; others as they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
