//! The short way of requests: those without anything special, from a client over HTTP/1.1 to its
//! backend and back, without a map of headers in between.
//!
//! | file | owns |
//! | --- | --- |
//! | `client` | a client's connection, request by request |
//! | `request` | which requests are plain, and what their backend is told |
//! | `answer` | which answers are plain, and what the client gets of them |
//! | `relay` | the bytes, read into a buffer of the thread |
//!
//! What a plain request says is looked at once, and written once. Everything else takes the long
//! way (hyper, and `forward`), which also decides about everything that goes wrong: it gets the
//! bytes that were read, and a request that is under way together with its connection
//! ([`Adopted`]). From then on the whole connection takes the long way.

mod answer;
mod client;
mod relay;
mod request;

use std::rc::Rc;
use std::sync::Arc;

use hyper::StatusCode;

use super::access_log::Record;
use super::reach::Reached;
use super::settings::Service;
use super::stream::Stream;
use super::visit::Visit;
use crate::config::http::{Limits, Stickiness};
use client::{Begun, Client, Exchanged, More};

/// What is left of a connection.
pub(super) enum Left {
    /// Nothing.
    Over,
    /// The head of a request did not come in time.
    Late(Stream),
    /// All of it, for the long way.
    Rest(Stream),
}

/// A request that the long way goes on with.
pub(super) struct Adopted {
    /// The id that its backend was told.
    pub(super) id: [u8; 32],
    /// What came of the search for a backend. The request has been sent there.
    pub(super) reached: Result<Reached, StatusCode>,
    pub(super) sent: Sent,
    record: Option<Box<Record>>,
}

/// What came of sending it.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    /// When that was, in milliseconds of the thread's clock.
    pub(super) at_ms: u64,
    /// The backend did not answer in time.
    pub(super) is_late: bool,
}

impl Adopted {
    /// What has been noted of it; the first time.
    pub(super) fn record(&mut self) -> Option<Box<Record>> {
        self.record.take()
    }
}

/// Answers requests until the connection ends, or one comes that is not plain.
pub(super) async fn converse(stream: Stream, visit: &Rc<Visit>) -> Left {
    let mut client = Client::new(stream, visit);
    let mut terms: Option<Terms> = None;
    loop {
        if visit.worker.is_stopping() {
            return client.rest();
        }
        let generation = visit.worker.snapshot().generation;
        if terms.as_ref().map(|terms| terms.generation) != Some(generation) {
            terms = Terms::of(visit, generation);
        }
        let Some(terms) = &terms else {
            return client.rest();
        };
        let asked = match client.begin(terms) {
            Begun::Partial => match client.more().await {
                More::Bytes => continue,
                More::Stop => return client.rest(),
                More::End if client.input.is_empty() => return Left::Over,
                More::End => return client.rest(),
                More::Late => return Left::Late(client.stream),
                More::Broken => return Left::Over,
            },
            Begun::Other => return client.rest(),
            Begun::Plain(asked) => asked,
        };
        match client.exchange(terms, asked).await {
            Exchanged::Done => {}
            Exchanged::Last => {
                client.close().await;
                return Left::Over;
            }
            Exchanged::Broken => return Left::Over,
            Exchanged::Adopted(adopted) => {
                *visit.adopted.borrow_mut() = Some(*adopted);
                return client.rest();
            }
        }
    }
}

/// What holds for the plain requests of a connection, under one state of the settings.
struct Terms {
    generation: u64,
    service: Arc<Service>,
    /// Header lines for the backend that are the same for all of them.
    told: Vec<u8>,
    /// Header lines for the client.
    added: Vec<u8>,
}

impl Terms {
    /// `None` if none of them can take the short way.
    fn of(visit: &Rc<Visit>, generation: u64) -> Option<Self> {
        if visit.is_left_over() {
            return None;
        }
        let service = visit.service()?;
        let settings = &service.http.settings;
        let is_sent_to_tls = service.edge.redirect_port.is_some() && visit.tls.is_none();
        let keeps = matches!(
            settings.stickiness,
            Stickiness::Address | Stickiness::SocketIo
        );
        let introduces = settings.send_proxy_protocol.is_some();
        if visit.origin.is_trusted() || settings.forwarded || is_sent_to_tls || introduces || !keeps
        {
            return None;
        }
        let (ip, port) = visit.origin.texts();
        let scheme = visit.origin.scheme();
        let mut told = Vec::with_capacity(256);
        for (name, value) in [
            ("x-forwarded-for", ip.as_bytes()),
            ("x-forwarded-port", port.as_bytes()),
            ("x-real-ip", ip.as_bytes()),
            ("x-forwarded-proto", scheme.as_bytes()),
            ("via", service.parts.via.http_11().as_bytes()),
        ] {
            request::line_to(&mut told, name.as_bytes(), value);
        }
        let mut added = Vec::new();
        if let (Some(hsts), Some(_)) = (&service.edge.hsts, visit.tls) {
            request::line_to(&mut added, b"strict-transport-security", hsts.as_bytes());
        }
        Some(Self {
            generation,
            service,
            told,
            added,
        })
    }
}

/// What is passed on of the head of a request, if it is plain; for the fuzz targets.
pub(crate) fn passed_on(bytes: &[u8]) -> Option<Vec<u8>> {
    let terms = request::HeldTo {
        limits: &Limits::default(),
        underscores: false,
        reads_query: false,
    };
    let mut out = Vec::new();
    let parsed = request::parse(bytes, terms, &mut out);
    matches!(parsed, request::Parsed::Plain(_)).then_some(out)
}

/// The same of an answer to a GET.
pub(crate) fn passed_back(bytes: &[u8]) -> Option<Vec<u8>> {
    let asked = answer::Known {
        is_head: false,
        is_conditional: false,
        compressor: None,
    };
    let mut out = Vec::new();
    let parsed = answer::parse(bytes, asked, &mut out);
    matches!(parsed, answer::Parsed::Plain(_)).then_some(out)
}
