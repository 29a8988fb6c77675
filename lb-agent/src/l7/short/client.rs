//! A client's connection while its requests take the short way: one after the other, each with
//! what it needs until it is answered.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use hyper::{StatusCode, Version};
use lb_common::abi::ServiceId;
use tokio::io::AsyncWriteExt as _;

use super::super::access_log::{End, Record};
use super::super::clock;
use super::super::early::Early;
use super::super::forwarded;
use super::super::parts::{Backends, Lane, Target};
use super::super::passage::Passage;
use super::super::progress::Phase;
use super::super::reach::{Reached, Way};
use super::super::spare;
use super::super::sticky::Key;
use super::super::stream::Stream;
use super::super::visit::Visit;
use super::relay::{self, Came, Question, Reply};
use super::{Adopted, Left, Sent, Terms, answer, request};
use crate::config::http::Stickiness;

/// A client's connection.
pub(super) struct Client<'a> {
    pub(super) stream: Stream,
    /// Read, and not answered yet.
    pub(super) input: Vec<u8>,
    visit: &'a Rc<Visit>,
}

/// Bytes of further requests that are read while one is under way.
const MOST_AHEAD: usize = 16 * 1024;

pub(super) enum More {
    /// More bytes are there.
    Bytes,
    /// The agent ends.
    Stop,
    /// The client says no more.
    End,
    /// The head of a request takes too long.
    Late,
    /// The connection is of no use any more.
    Broken,
}

pub(super) enum Begun {
    Partial,
    Plain(Asked),
    Other,
}

/// A plain request on its way.
pub(super) struct Asked {
    /// Bytes of its head, as it came.
    length: usize,
    /// As it is sent.
    head: Vec<u8>,
    id: [u8; 32],
    /// When it was taken up, in milliseconds of the thread's clock.
    begun_ms: u64,
    /// Its lane.
    place: usize,
    /// Its backends' service.
    target: ServiceId,
    is_head: bool,
    is_conditional: bool,
    /// The connection ends with it.
    is_last: bool,
    record: Option<Box<Record>>,
}

impl Asked {
    /// Hands it over.
    fn adopted(mut self, reached: Result<Reached, StatusCode>, is_late: bool) -> Exchanged {
        spare::give(std::mem::take(&mut self.head));
        Exchanged::Adopted(Box::new(Adopted {
            id: self.id,
            reached,
            sent: Sent {
                at_ms: self.begun_ms,
                is_late,
            },
            record: self.record,
        }))
    }

    /// A backend was chosen.
    fn chose(&mut self, reached: &Reached) {
        if let Some(record) = &mut self.record {
            record.chose(&reached.upstream.name, reached.why);
            record.connect = Some(reached.connect);
        }
    }

    /// It is answered: puts the end to the head of the answer.
    fn answered(&mut self, visit: &Visit, terms: &Terms, status: u16, out: &mut Vec<u8>) {
        visit.progress.answer();
        self.is_last |= visit.worker.is_stopping() || visit.is_left_over();
        if let Some(record) = &mut self.record {
            record.answered(StatusCode::from_u16(status).unwrap_or_default());
        }
        out.extend_from_slice(&terms.added);
        if self.is_last {
            request::line_to(out, b"connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) enum Exchanged {
    /// The next request may come.
    Done,
    /// It was the last one.
    Last,
    /// The connection is of no use any more.
    Broken,
    /// The long way goes on with it.
    Adopted(Box<Adopted>),
}

impl<'a> Client<'a> {
    /// A client of whom nothing was read.
    pub(super) const fn new(stream: Stream, visit: &'a Rc<Visit>) -> Self {
        Self {
            stream,
            input: Vec::new(),
            visit,
        }
    }

    /// The connection with what was read from it.
    pub(super) fn rest(self) -> Left {
        // Copied, as it is short and its buffer is not.
        let early = Bytes::copy_from_slice(&self.input);
        spare::give(self.input);
        Left::Rest(Early::read(self.stream, early))
    }

    /// Says that nothing more comes, where closing the socket does not say so.
    pub(super) async fn close(mut self) {
        if !matches!(self.stream, Stream::Client(_) | Stream::Tcp(_)) {
            let _ = self.stream.shutdown().await;
        }
    }

    /// Reads more of a request.
    pub(super) async fn more(&mut self) -> More {
        let progress = &self.visit.progress;
        poll_fn(|context| {
            if self.visit.worker.is_stopping() {
                return Poll::Ready(More::Stop);
            }
            match relay::read_more(&mut self.stream, &mut self.input, context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(More::End),
                Poll::Ready(Ok(_)) => {
                    self.visit.begin_head();
                    return Poll::Ready(More::Bytes);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(More::Broken),
                Poll::Pending => {}
            }
            if self.input.is_empty() {
                // Who waits holds no memory.
                spare::give(std::mem::take(&mut self.input));
            }
            progress.poll_deadline(context).map(|()| {
                if progress.phase() == Phase::Head {
                    More::Late
                } else {
                    More::Broken
                }
            })
        })
        .await
    }

    /// Takes up the request at the beginning of what was read.
    pub(super) fn begin(&self, terms: &Terms) -> Begun {
        if self.input.is_empty() {
            return Begun::Partial;
        }
        let mut head = spare::take();
        match self.read_head(terms, &mut head) {
            Begun::Plain(asked) => Begun::Plain(Asked { head, ..asked }),
            other => {
                spare::give(head);
                other
            }
        }
    }

    fn read_head(&self, terms: &Terms, head: &mut Vec<u8>) -> Begun {
        let service = &terms.service;
        let settings = &service.http.settings;
        let held_to = request::HeldTo {
            limits: &settings.limits,
            underscores: settings.underscore_headers,
            reads_query: settings.stickiness != Stickiness::Address,
        };
        let plain = match request::parse(&self.input, held_to, head) {
            request::Parsed::Partial => return Begun::Partial,
            request::Parsed::Other => return Begun::Other,
            request::Parsed::Plain(plain) => plain,
        };
        let place = service.parts.find(plain.host, plain.path);
        let Some(target) = plain_target(service.parts.lane(place)) else {
            return Begun::Other;
        };
        let id = forwarded::id();
        head.extend_from_slice(&terms.told);
        request::line_to(head, b"x-forwarded-host", plain.host.as_bytes());
        request::line_to(head, b"x-request-id", &id);
        head.extend_from_slice(b"\r\n");
        let mut record = Passage::record(self.visit, service, Version::HTTP_11, &plain.said);
        if let Some(record) = &mut record {
            record.identify(&id);
        }
        Begun::Plain(Asked {
            length: plain.length,
            head: Vec::new(),
            id,
            begun_ms: clock::now_ms(),
            place,
            target,
            is_head: plain.is_head,
            is_conditional: plain.is_conditional,
            is_last: plain.closes,
            record,
        })
    }

    /// Sends a request, and its answer back.
    pub(super) async fn exchange(&mut self, terms: &Terms, mut asked: Asked) -> Exchanged {
        let (visit, service) = (self.visit, &terms.service);
        let upstream = &service.http.settings.upstream;
        visit.progress.exchange();
        visit.worker.budget.earn(upstream.retry_budget_permille);
        let ip = visit.origin.peer.ip();
        let mut way = Way {
            visit,
            service,
            target: asked.target,
            key: Key::Address(ip),
            client: ip,
            passed: Vec::new(),
            late: false,
        };
        let mut reached = match self.unless_gone(way.reach()).await {
            None => return Exchanged::Broken,
            Some(Err(status)) => return asked.adopted(Err(status), false),
            Some(Ok(reached)) => reached,
        };
        asked.chose(&reached);
        let timeouts = &service.parts.lane(asked.place).timeouts;
        visit.progress.within(timeouts.first_byte);
        let (plain, reply) = match self.send(&mut reached, terms, &mut asked).await {
            Came::Gone => return Exchanged::Broken,
            Came::Late => return asked.adopted(Ok(reached), true),
            Came::Other(early) => {
                reached.upstream.ask_again(Bytes::from(early));
                return asked.adopted(Ok(reached), false);
            }
            Came::Answer(plain, reply) => (plain, reply),
        };
        spare::give(std::mem::take(&mut asked.head));
        if !self.answer(&mut reached, reply, &mut asked.record).await {
            return Exchanged::Broken;
        }
        if let Some(record) = asked.record {
            record.finish(End::Complete);
        }
        if plain.stays {
            let mut idle = reached.upstream;
            if let Some(seconds) = plain.idle_s {
                idle.idle_ms = seconds.saturating_sub(1).saturating_mul(1000);
            }
            visit.worker.pool.put(idle, upstream.keepalive);
        }
        self.input.drain(..asked.length);
        visit.end();
        if !self.input.is_empty() {
            visit.begin_head();
        }
        if asked.is_last {
            Exchanged::Last
        } else {
            Exchanged::Done
        }
    }

    /// Waits for `what`; `None` if the client goes away.
    async fn unless_gone<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        poll_fn(|context| {
            if let Poll::Ready(done) = what.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            self.poll_gone(context).map(|()| None)
        })
        .await
    }

    /// Ready when the client has gone away. What else it says meanwhile is kept.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < MOST_AHEAD {
            match relay::read_more(&mut self.stream, &mut self.input, context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// Sends the head of a request, and waits for the answer.
    async fn send(&mut self, reached: &mut Reached, terms: &Terms, asked: &mut Asked) -> Came {
        let visit = self.visit;
        let backend = reached.upstream.backend;
        let Some(stream) = reached.upstream.bare() else {
            return Came::Other(Vec::new());
        };
        let head = std::mem::take(&mut asked.head);
        let known = answer::Known {
            is_head: asked.is_head,
            is_conditional: asked.is_conditional,
            compressor: terms.service.edge.compressor.as_ref(),
        };
        let mut question = Question::new(&head, known);
        let came = poll_fn(|context| {
            let complete = |plain: &answer::Plain, out: &mut Vec<u8>| {
                visit.worker.faults.answered(backend);
                let key = Key::Address(visit.origin.peer.ip());
                visit.remember(asked.target, key, backend);
                asked.answered(visit, terms, plain.status, out);
            };
            let came = question.poll(stream, &mut self.stream, complete, context);
            if came.is_ready() {
                return came;
            }
            if self.poll_gone(context).is_ready() {
                return Poll::Ready(Came::Gone);
            }
            let deadline = visit.progress.poll_deadline(context);
            deadline.map(|()| Came::Late)
        })
        .await;
        asked.head = head;
        came
    }

    /// Passes on the rest of an answer; false if that cannot be done.
    async fn answer(
        &mut self,
        reached: &mut Reached,
        mut reply: Reply,
        record: &mut Option<Box<Record>>,
    ) -> bool {
        let Some(backend) = reached.upstream.bare() else {
            return false;
        };
        let visit = self.visit;
        poll_fn(|context| {
            let before = reply.moved();
            let polled = reply.poll(backend, &mut self.stream, context);
            if let Some(record) = record {
                record.bytes = reply.passed();
            }
            if let Poll::Ready(done) = polled {
                return Poll::Ready(done.is_ok());
            }
            if reply.moved() != before {
                visit.progress.wrote(true, None);
            }
            if reply.is_stuck() {
                visit.progress.wrote(false, visit.send.get());
            }
            if self.poll_gone(context).is_ready() {
                return Poll::Ready(false);
            }
            visit.progress.poll_deadline(context).map(|()| false)
        })
        .await
    }
}

/// Where the requests of a lane go, if nothing else is done with them.
fn plain_target(lane: &Lane) -> Option<ServiceId> {
    let is_ruled = !(lane.request.is_empty() && lane.late.is_empty() && lane.response.is_empty());
    match &lane.target {
        Target::Backends(Backends {
            service: Some(service),
            cookies: None,
        }) if !is_ruled => Some(*service),
        _ => None,
    }
}
