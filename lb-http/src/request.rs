//! A request as filters see it, and their interface to the backends.

use std::rc::Rc;

use hyper::Method;
use lb_common::abi::{BackendId, ServiceHead, ServiceId};
use lb_http1::{Framing, RequestHead};

use super::auth::AuthOutcome;
use super::compress::RequestMeta;
use super::forwarded::{Asker, Origin};
use super::limits::Limited;
use super::rules::Values;
use super::sticky::StickyKey;
use super::sticky::sessions::Sessions;
use super::trace::TraceContext;
use lb_config::BackendAddress;

/// A request as filters see it.
#[derive(Clone)]
pub(super) struct Request {
    /// As its backend gets it.
    pub(super) head: RequestHead,
    /// Of its body.
    pub(super) framing: Framing,
    /// Its connection.
    pub(super) origin: Rc<Origin>,
    /// The client of the request.
    pub(super) asker: Asker,
    /// Its trace, as its backend gets it.
    pub(super) trace: Option<TraceContext>,
    /// The protocol that the client wants to go on with.
    pub(super) upgrade: Option<String>,
    /// How its answer may be compressed, if it may.
    pub(super) meta: Option<RequestMeta>,
    /// The sticky key.
    pub(super) sticky: StickyKey,
    /// What the server of forward authentication said.
    pub(super) auth: Option<Box<AuthOutcome>>,
    /// The limits that it exceeds or counts for.
    pub(super) limited: Limited,
}

impl Request {
    /// Whether it came by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.origin.https
    }

    /// Whether it is a HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// The values of variables in the rules of `service`.
    pub(super) fn values<'a>(
        &'a self,
        service: &'a str,
        backend: Option<&'a BackendAddress>,
    ) -> Values<'a> {
        Values {
            service,
            origin: &self.origin,
            asker: &self.asker,
            method: &self.head.method,
            host: self.head.host(),
            target: self.head.target(),
            trace: self.trace.as_ref(),
            backend,
        }
    }
}

/// The interface of filters to the backends and their tables.
pub(super) trait Backends {
    /// The address of a backend.
    fn address(&self, id: BackendId) -> Option<BackendAddress>;

    /// The settings of a service's table in force.
    fn table(&self, service: ServiceId) -> Option<&ServiceHead>;

    /// The memory of Socket.IO sessions.
    fn sessions(&self) -> &Sessions;
}
