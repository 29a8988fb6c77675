//! The record of a request: counted, and logged if its service has an access log, once, at its end.
//!
//! A request that comes to an answer, a refusal or nothing at all has one from its head on. It is written by
//! [`Record::finish`], else when it is dropped: no request ends without being counted.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use lb_common::abi::BackendId;

use super::access_log::{End, Ended, Line};
use super::answers::Answer;
use super::auth::AuthOutcome;
use super::limits::{Held, Limited};
use super::metrics::{
    BackendMeter, CacheResult, Cause, Meters, Method, ServiceMeter, Source, Status,
};
use super::trace::OpenSpans;

/// The word of the access log for a request whose client has no access.
pub(super) const DENIED: &str = "denied";

/// A request under way.
pub(super) struct Record {
    counters: Counters,
    begun: Instant,
    first_byte: FirstByte,
    status: Option<StatusCode>,
    source: Source,
    /// The source of the answer in the place of a backend.
    stand_in: Option<Source>,
    method: Method,
    cause: Cause,
    is_tunnel: bool,
    is_over: bool,
    bytes: u64,
    /// Limits count it among the requests under way.
    held: Option<Held>,
    /// Its line in the access log.
    pub(super) line: Option<Box<Line>>,
    /// Its spans, if they are exported.
    pub(super) spans: Option<Box<OpenSpans>>,
}

/// The counters that the bytes of a request belong to.
#[derive(Clone)]
pub(super) struct Counters {
    service: ServiceMeter,
    backend: Option<BackendMeter>,
}

/// When the head of the answer was there.
#[derive(Clone, Copy)]
enum FirstByte {
    /// It is not.
    Awaited,
    /// It is, and the clock was not read since.
    Now,
    After(Duration),
}

impl Counters {
    /// Counts bytes from the client.
    pub(super) fn received(&self, bytes: u64) {
        self.service.received.add(bytes);
        if let Some(backend) = &self.backend {
            backend.received.add(bytes);
        }
    }

    /// Counts bytes to the client.
    fn sent(&self, bytes: u64) {
        self.service.sent.add(bytes);
        if let Some(backend) = &self.backend {
            backend.sent.add(bytes);
        }
    }
}

impl Record {
    /// A request that begins now.
    pub(super) fn begin(service: ServiceMeter, method: Method, line: Option<Box<Line>>) -> Self {
        Self {
            counters: Counters {
                service,
                backend: None,
            },
            begun: Instant::now(),
            first_byte: FirstByte::Awaited,
            status: None,
            source: Source::Route,
            stand_in: None,
            method,
            cause: Cause::Other,
            is_tunnel: false,
            is_over: false,
            bytes: 0,
            held: None,
            line,
            spans: None,
        }
    }

    /// That of a request that the gateway makes by itself beside this one: it is not counted.
    pub(super) fn beside(&self) -> Self {
        let service = self.counters.service.clone();
        let mut record = Self::begin(service, self.method, None);
        record.is_over = true;
        record
    }

    /// The limits that it exceeds, and those that count it until its end.
    pub(super) fn limited(&mut self, limited: Limited) {
        self.held = limited.held;
        if let (Some(exceeded), Some(line)) = (limited.exceeded, &mut self.line) {
            line.limit = Some((exceeded.limit, exceeded.dry_run));
        }
    }

    /// The server of forward authentication was asked.
    pub(super) fn asked(&mut self, outcome: &AuthOutcome) {
        let service = &self.counters.service;
        service.asked(outcome.verdict, outcome.time);
        if let Some(cause) = outcome.cause {
            self.cause = cause;
        }
        if let Some(line) = &mut self.line {
            line.auth = Some(outcome.time);
            if let Some(user) = &outcome.user {
                line.known_as(user);
            }
        }
    }

    /// The backend that was chosen; the last one counts.
    pub(super) fn chose(&mut self, meters: &Meters, backend: BackendId) {
        self.counters.backend = Some(meters.backend(backend));
    }

    /// There is a connection to a backend, which took so long to come about.
    pub(super) fn reached(&mut self, name: &str, why: &'static str, connect: Duration) {
        if let Some(line) = &mut self.line {
            line.chose(name, why);
            line.connect = Some(connect);
        }
        if let Some(spans) = &mut self.spans {
            spans.reached(name, why, self.begun.elapsed().saturating_sub(connect));
        }
    }

    /// The counters for the bytes of the request.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why no backend answers; the last reason counts.
    pub(super) fn failed(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Files answer it.
    pub(super) fn by_files(&mut self, why: &'static str) {
        self.stand_in(Source::Files, why);
    }

    /// The configuration has its answer: a redirect, or a fixed one.
    pub(super) fn by_route(&mut self) {
        self.stand_in(Source::Route, "route");
    }

    /// A stored answer is sent.
    pub(super) fn by_cache(&mut self) {
        self.stand_in(Source::Cache, "cache");
    }

    fn stand_in(&mut self, source: Source, why: &'static str) {
        self.counters.backend = None;
        self.stand_in = Some(source);
        if let Some(line) = &mut self.line {
            line.because(why);
        }
    }

    /// What the cache did with it.
    pub(super) fn cached(&mut self, result: CacheResult) {
        self.counters.service.cached(result);
        if let Some(line) = &mut self.line {
            line.cache = Some(result.name());
        }
    }

    /// It is refused, for the reason that the access log has a word for.
    pub(super) fn refused(&mut self, why: &'static str) {
        if why == DENIED {
            self.counters.service.denied.add(1);
        }
        if let Some(line) = &mut self.line {
            line.because(why);
        }
    }

    /// The head of an answer is there that is passed on: a backend's, if there is no other source.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.begin_answer(status, self.stand_in.unwrap_or(Source::Backend));
    }

    /// An answer of the gateway's own takes the place of a backend's.
    pub(super) fn answered_by(&mut self, answer: &Answer) {
        self.counters.backend = None;
        let source = match answer.is_page {
            true => Source::Gateway,
            false => self.stand_in.unwrap_or(Source::Route),
        };
        self.begin_answer(answer.head.status, source);
    }

    /// The backend has reset the stream, and the client's is reset too: as good as a bad gateway.
    pub(super) fn reset(&mut self) {
        self.counters.backend = None;
        self.begin_answer(StatusCode::BAD_GATEWAY, Source::Gateway);
    }

    fn begin_answer(&mut self, status: StatusCode, source: Source) {
        self.first_byte = FirstByte::Now;
        self.status = Some(status);
        self.source = source;
        if let Some(spans) = &mut self.spans
            && source == Source::Backend
        {
            spans.first_byte(self.begun.elapsed());
        }
    }

    /// The answer is not at its end yet. The clock is read for its head; the head of one that ends at once is
    /// as late as its end.
    pub(super) fn goes_on(&mut self) {
        if matches!(self.first_byte, FirstByte::Now) {
            self.first_byte = FirstByte::After(self.begun.elapsed());
        }
    }

    /// Bytes of the answer's body, or of a tunnel, were handed to the client.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.counters.sent(bytes);
    }

    /// The request goes on as a tunnel.
    pub(super) fn becomes_tunnel(&mut self) {
        self.goes_on();
        self.is_tunnel = true;
        self.counters.service.tunnels_begun.add(1);
    }

    /// The request is over.
    pub(super) fn finish(mut self, end: End) {
        self.write(end);
    }

    fn write(&mut self, end: End) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.held = None;
        let total = self.begun.elapsed();
        let first_byte = match self.first_byte {
            FirstByte::Awaited => None,
            FirstByte::Now => Some(total),
            FirstByte::After(time) => Some(time),
        };
        self.count(end, first_byte, total);
        if let Some(spans) = self.spans.take() {
            spans.end(self.status, end == End::Aborted, total);
        }
        if let Some(line) = self.line.take() {
            line.write(&Ended {
                status: self.status,
                first_byte,
                total,
                bytes: self.bytes,
                end,
            });
        }
    }

    fn count(&self, end: End, first_byte: Option<Duration>, total: Duration) {
        let Counters { service, backend } = &self.counters;
        let status = Status::of(self.status);
        let backend = backend.as_ref().filter(|_| self.source == Source::Backend);
        service.request(self.method, status);
        if self.status.is_some() {
            service.answer(self.source);
        }
        if let Some(time) = first_byte {
            service.first_byte.observe(time);
        }
        if let Some(backend) = backend {
            backend.request(status);
            if let Some(time) = first_byte {
                backend.first_byte.observe(time);
            }
        }
        if self.is_tunnel {
            service.tunnels_ended.add(1);
        } else {
            service.duration.observe(total);
            if let Some(backend) = backend {
                backend.duration.observe(total);
            }
        }
        match self.status {
            Some(status) if self.source == Source::Gateway => service.page(status, self.cause),
            Some(_) if end == End::Aborted => service.aborted.add(1),
            _ => {}
        }
    }
}

impl Drop for Record {
    /// A request that ends early is counted too.
    fn drop(&mut self) {
        self.write(End::Aborted);
    }
}
