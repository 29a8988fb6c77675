//! The handler that answers from the response cache (see `cache`), and fills it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use lb_http1::body::Piece;
use lb_http1::{Fields, Name, ResponseHead};
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::Answer;
use super::cache::{
    Control, Fill, Flight, Found, Joined, Object, Purpose, Reuse, State, Store, Taken, add_target,
};
use super::compress;
use super::context::RequestContext;
use super::exchange::{self, Outcome, Place, unless_gone};
use super::files::{self, Part, Ranges};
use super::filters::{Permit, Source};
use super::metrics::CacheResult;
use super::peer::{Peer, PeerError};
use super::progress::Progress;
use super::ranged::{partial, unsatisfiable};
use super::record::Record;
use super::sticky::engineio;
use super::transfer::Transfer;
use lb_config::http::{Algorithm, Cache};

/// How long a request may take that no client waits for.
const BEHIND: Duration = Duration::from_secs(60);

/// A request that the cache may answer, or has to know of.
struct Asked {
    store: Arc<Store>,
    /// The service of the backends, scheme, host, path and query.
    key: Vec<u8>,
    /// The offset of the scheme.
    url: usize,
    control: Control,
}

/// Answers a request of a service with a cache.
pub(super) async fn serve(
    permit: Permit,
    (context, record): (&mut RequestContext, &mut Record),
    place: Place<'_>,
    settings: &Cache,
    (peer, progress): (&mut impl Peer, &Progress),
) -> Outcome {
    let asked = match is_apart(context) {
        true => None,
        false => Asked::new(context, place, settings),
    };
    let Some(asked) = asked else {
        return exchange::proxy(permit, (context, record), place, peer, progress).await;
    };
    let mut request = Cached {
        permit,
        context,
        record,
        place,
        peer,
        progress,
        settings,
        asked,
    };
    if !matches!(request.context.head.method, Method::GET | Method::HEAD) {
        return request.fetch(Purpose::Invalidate).await;
    }
    request.serve().await
}

/// Whether the cache has nothing to do with a request: one of Socket.IO, an upgrade, one whose method is safe but not
/// GET or HEAD, one with a body, or one that is for a version of its own.
fn is_apart(context: &RequestContext) -> bool {
    let head = &context.head;
    let is_socketio = head.path().starts_with(b"/socket.io/")
        || head
            .query()
            .is_some_and(|query| engineio::asked(query).is_some());
    let is_conditional = head.fields.has(Name::IfMatch) || head.fields.has(Name::IfUnmodifiedSince);
    let is_of_use = match head.method {
        Method::GET | Method::HEAD => context.framing.is_empty() && !is_conditional,
        Method::OPTIONS | Method::TRACE | Method::CONNECT => false,
        _ => true,
    };
    is_socketio || context.upgrade.is_some() || !is_of_use
}

impl Asked {
    fn new(context: &RequestContext, (_, _, service): Place<'_>, settings: &Cache) -> Option<Self> {
        let snapshot = context.connection.worker.snapshot();
        let store = Arc::clone(snapshot.store.as_ref()?);
        let service = service?.0.to_le_bytes();
        let (host, target) = (context.head.host(), context.head.target());
        let mut key =
            Vec::with_capacity(service.len() + "https://".len() + host.len() + target.len());
        key.extend_from_slice(&service);
        let url = key.len();
        let (scheme, port): (&[u8], &[u8]) = match context.asker.https {
            true => (b"https://", b":443"),
            false => (b"http://", b":80"),
        };
        key.extend_from_slice(scheme);
        let host = host.strip_suffix(port).unwrap_or(host);
        let name = key.len();
        key.extend_from_slice(host);
        key[name..].make_ascii_lowercase();
        add_target(&mut key, target, &settings.key);
        Some(Self {
            store,
            key,
            url,
            control: Control::of_request(&context.head.fields),
        })
    }
}

/// What a request waits for, or does.
enum Next {
    /// It asks a backend.
    Ask(Option<Flight>, Option<Arc<Object>>, &'static str),
    Answer(Outcome),
}

/// A request on its way through the cache.
struct Cached<'a, P> {
    permit: Permit,
    context: &'a mut RequestContext,
    record: &'a mut Record,
    place: Place<'a>,
    peer: &'a mut P,
    progress: &'a Progress,
    settings: &'a Cache,
    asked: Asked,
}

impl<P: Peer> Cached<'_, P> {
    async fn serve(&mut self) -> Outcome {
        match self.next().await {
            Next::Answer(outcome) => outcome,
            Next::Ask(flight, stored, why) => self.ask(flight, stored, why).await,
        }
    }

    /// Looks for a stored answer, and waits for one that is on its way.
    async fn next(&mut self) -> Next {
        let until = Instant::now() + self.settings.lock;
        let mut waited = false;
        loop {
            let asked = &self.asked;
            let (key, stored, why) = match asked.store.find(&asked.key, &self.context.head.fields) {
                Found::Passing => return Next::Ask(None, None, "bypass"),
                Found::Nothing(key) => (key, None, "uri-miss"),
                Found::Object(object) => match object.terms.reuse(&asked.control, object.age()) {
                    Reuse::Fresh => return Next::Answer(self.hit(&object, CacheResult::Hit)),
                    // It came while this request waited: it is as new as one of its own.
                    _ if waited => return Next::Answer(self.hit(&object, CacheResult::Hit)),
                    Reuse::Stale => {
                        self.revalidate_behind(&object);
                        return Next::Answer(self.hit(&object, CacheResult::Stale));
                    }
                    Reuse::Revalidate => {
                        let why = match object.age() < object.terms.lifetime {
                            true => "request",
                            false => "stale",
                        };
                        (asked.key.clone(), Some(object), why)
                    }
                },
            };
            if asked.control.only_if_cached {
                let page = self.context.page(StatusCode::GATEWAY_TIMEOUT);
                return Next::Answer(Outcome::Own(self.context.clear(Source::Gateway, page)));
            }
            if !self.may_share(stored.is_some()) {
                return Next::Ask(None, stored, why);
            }
            let follower = match asked.store.join(&key) {
                Joined::Lead(flight) => return Next::Ask(Some(flight), stored, why),
                Joined::Follow(follower) => follower,
            };
            match timeout_at(until, unless_gone(self.peer, follower.wait())).await {
                Ok(None) => return Next::Answer(Outcome::Gone),
                Ok(Some(State::Stored)) if !waited => waited = true,
                Ok(Some(State::Failed)) => {}
                // It varies on something, cannot be stored, or takes its time.
                Ok(Some(_)) | Err(_) => return Next::Ask(None, stored, why),
            }
        }
    }

    /// Whether the answer to this request is good for others.
    fn may_share(&self, revalidates: bool) -> bool {
        let head = &self.context.head;
        let is_own =
            head.method == Method::HEAD || self.context.is_of_user() || self.asked.control.no_store;
        let is_partial = [Name::Range, Name::IfNoneMatch, Name::IfModifiedSince]
            .iter()
            .any(|name| head.fields.has(*name));
        !is_own && (revalidates || !is_partial)
    }

    /// Has a backend answer.
    async fn ask(
        &mut self,
        flight: Option<Flight>,
        stored: Option<Arc<Object>>,
        why: &'static str,
    ) -> Outcome {
        let stored = stored.filter(|_| self.may_share(true));
        if stored.is_none() && !self.is_plain() {
            // The answer is a part, or says that the client has it.
            self.tell(CacheResult::Miss);
            return self.pass().await;
        }
        let client = self.context.head.fields.clone();
        if let Some(object) = &stored {
            object.ask(&mut self.context.head.fields);
        }
        let purpose = Purpose::Store {
            flight,
            stored,
            control: self.asked.control,
            why,
            heuristic: self.settings.heuristic,
            is_of_user: self.context.is_of_user(),
        };
        let mut fill = self.fill(purpose);
        let refused = match self.run(&mut fill).await {
            Ok(outcome) => {
                self.tell(CacheResult::Miss);
                return outcome;
            }
            Err(refused) => refused,
        };
        let (object, what) = match fill.take() {
            Some(Taken::Refreshed(object)) => (object, CacheResult::Revalidated),
            Some(Taken::Error(object)) => (object, CacheResult::Stale),
            None => match fill.on_failure() {
                Some(object) => (object, CacheResult::Stale),
                None => {
                    self.tell(CacheResult::Miss);
                    return exchange::refuse(self.context, refused);
                }
            },
        };
        self.context.head.fields = client;
        self.hit(&object, what)
    }

    /// Whether the answer to the request is a whole one.
    fn is_plain(&self) -> bool {
        self.context.head.method == Method::GET && self.may_be_whole()
    }

    fn may_be_whole(&self) -> bool {
        let fields = &self.context.head.fields;
        let partial = [Name::Range, Name::IfNoneMatch, Name::IfModifiedSince];
        !partial.iter().any(|name| fields.has(*name))
    }

    fn fill(&self, purpose: Purpose) -> Fill {
        let asked = &self.asked;
        let key = (asked.key.clone(), asked.url);
        Fill::new(&asked.store, key, &self.settings.key, purpose)
    }

    async fn run(&mut self, fill: &mut Fill) -> Result<Outcome, exchange::Refused> {
        exchange::fetch(
            self.permit.again(),
            (self.context, self.record),
            self.place,
            (self.peer, self.progress),
            Some(fill),
        )
        .await
    }

    async fn fetch(&mut self, purpose: Purpose) -> Outcome {
        let mut fill = self.fill(purpose);
        match self.run(&mut fill).await {
            Ok(outcome) => outcome,
            Err(refused) => exchange::refuse(self.context, refused),
        }
    }

    /// Has a backend answer without the cache.
    async fn pass(&mut self) -> Outcome {
        exchange::proxy(
            self.permit.again(),
            (self.context, self.record),
            self.place,
            self.peer,
            self.progress,
        )
        .await
    }

    /// Counts and logs what was done.
    fn tell(&mut self, what: CacheResult) {
        self.asked.store.count(what);
        self.record.cached(what);
    }

    /// Sends a stored answer.
    fn hit(&mut self, object: &Object, what: CacheResult) -> Outcome {
        self.record.by_cache();
        object.used();
        self.tell(what);
        send(self.context, &self.asked.store, object, what)
    }

    /// Asks for a stale answer while it is sent, unless that is done already.
    fn revalidate_behind(&self, object: &Arc<Object>) {
        let asked = &self.asked;
        let Joined::Lead(flight) = asked.store.join(&asked.key) else {
            return;
        };
        let mut context = self.context.again();
        context.head.method = Method::GET;
        object.ask(&mut context.head.fields);
        let mut fill = self.fill(Purpose::Store {
            flight: Some(flight),
            stored: Some(Arc::clone(object)),
            control: asked.control,
            why: "stale",
            heuristic: self.settings.heuristic,
            is_of_user: context.is_of_user(),
        });
        let mut record = self.record.beside();
        let permit = self.permit.again();
        let service = self.place.2;
        tokio::task::spawn_local(async move {
            let of_service = Arc::clone(&context.service);
            let place = (&*of_service, context.route_of(&of_service), service);
            let progress = Progress::new();
            progress.exchange();
            let sides = (&mut *context, &mut record);
            let asking = (&mut Nobody, &progress);
            let fetched = exchange::fetch(permit, sides, place, asking, Some(&mut fill));
            let drained = async {
                if let Ok(Outcome::Backend(reply)) = fetched.await {
                    drain(reply.transfer).await;
                }
            };
            if timeout(BEHIND, drained).await.is_err() {
                tracing::debug!("a stale answer was asked for in vain");
            }
        });
    }
}

/// Reads an answer to its end, for the cache alone.
async fn drain(mut transfer: Transfer) {
    while !transfer.is_over() {
        let read = poll_fn(|context| transfer.poll_answer(context, &mut |_| {}));
        if let Err(error) = read.await {
            tracing::debug!(%error, "an answer comes to no end");
            return;
        }
    }
    transfer.end();
}

/// The client of a request that the gateway makes by itself.
struct Nobody;

impl Peer for Nobody {
    fn poll_pieces(
        &mut self,
        _: &mut Context<'_>,
        _: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), PeerError>> {
        Poll::Ready(Err(PeerError::Gone))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn interim(&mut self, _: &ResponseHead) {}
}

/// A stored answer as its client gets it: all of it, parts of it, or that it has it already.
fn send(
    context: &RequestContext,
    store: &Arc<Store>,
    object: &Object,
    what: CacheResult,
) -> Outcome {
    let mut head = object.head.clone();
    let age = object.age();
    head.fields.set_number(Name::Age, age);
    let left = i64::try_from(object.terms.lifetime).unwrap_or(i64::MAX) - age as i64;
    let fields = &mut head.fields;
    match what {
        CacheResult::Revalidated => {
            fields.append(Name::CacheStatus, b"lb-agent; fwd=stale; fwd-status=304");
        }
        _ => fields.append_number(Name::CacheStatus, b"lb-agent; hit; ttl=", left),
    }
    let body = if object.is_known_to(&context.head.fields) {
        head.set_status(StatusCode::NOT_MODIFIED);
        Bytes::new()
    } else {
        let size = object.body.len() as u64;
        match ranges(context, object, size) {
            Ranges::Whole => object.body.clone(),
            Ranges::Unsatisfiable => return unsatisfiable(context, size),
            Ranges::Parts(parts) => {
                let of = |range: &_| Part::of_memory(&object.body, range);
                return partial(context, (Source::Cache, head), &parts, size, of);
            }
        }
    };
    let answer = Answer {
        head,
        body,
        is_page: false,
    };
    // A body in a coding is stored, too.
    let code = |algorithm: Algorithm, body: &Bytes| {
        store.coded(object, algorithm as u8, || {
            compress::whole(algorithm, body).map(Bytes::from)
        })
    };
    Outcome::Own(context.clear_coded(Source::Cache, answer, &code))
}

/// The ranges of a stored answer that a request asks for.
fn ranges(context: &RequestContext, object: &Object, size: u64) -> Ranges {
    let asked: &Fields = &context.head.fields;
    if context.is_head() || object.head.status != StatusCode::OK || !asked.has(Name::Range) {
        return Ranges::Whole;
    }
    let tag = object.head.fields.get(Name::Etag).unwrap_or_default();
    // A weak one does not hold for parts (section 13.1.5).
    let tag = std::str::from_utf8(tag).unwrap_or_default();
    let tag = if tag.starts_with("W/") { "" } else { tag };
    files::ranges(asked, tag, None, size)
}
