//! An answer on its way from a backend, as the cache sees it: its head is judged, and its body copied while it goes to
//! the client.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use lb_config::http::CacheKey;
use lb_http1::{Fields, Name, RequestHead, ResponseHead};

use super::control::Control;
use super::flights::{Flight, State};
use super::key;
use super::object::Object;
use super::policy::{self, Arrival, Storing, Terms};
use super::store::Store;

/// The name of this cache in `Cache-Status`.
const NAME: &str = "lb-agent";

/// A request that goes to a backend, and what the cache wants of its answer.
pub(crate) struct Fill {
    store: Arc<Store>,
    key: Vec<u8>,
    /// The offset of the URL in the key.
    url: usize,
    rules: CacheKey,
    purpose: Purpose,
    purges: u64,
    begun: Instant,
    taken: Option<Taken>,
}

/// What an answer is for.
pub(crate) enum Purpose {
    /// To be stored, if it may be.
    Store {
        /// Others wait for it.
        flight: Option<Flight>,
        /// What it takes the place of, or says is still good.
        stored: Option<Arc<Object>>,
        /// The directives of the request.
        control: Control,
        /// Why the request goes to a backend (RFC 9211, section 2.2).
        why: &'static str,
        /// A lifetime is guessed where none is given.
        heuristic: bool,
        /// The client is known by other means than `Authorization`.
        is_of_user: bool,
    },
    /// The request changes something (RFC 9111, section 4.4).
    Invalidate,
}

/// The cache has taken an answer: something else is sent.
pub(crate) enum Taken {
    /// The stored one is still good.
    Refreshed(Arc<Object>),
    /// The backend fails, and the stored one may be sent.
    Error(Arc<Object>),
}

/// What becomes of an answer.
pub(crate) enum Seen {
    /// It goes to the client.
    Pass,
    /// The same, and its body is copied.
    Copy(Box<Copying>),
    /// It goes no further.
    Taken,
}

impl Fill {
    /// Of a request whose key was made by `rules` and has its URL behind `url` bytes.
    pub(crate) fn new(
        store: &Arc<Store>,
        (key, url): (Vec<u8>, usize),
        rules: &CacheKey,
        purpose: Purpose,
    ) -> Self {
        Self {
            purges: store.purges(),
            store: Arc::clone(store),
            key,
            url,
            rules: rules.clone(),
            purpose,
            begun: Instant::now(),
            taken: None,
        }
    }

    /// What is sent in the place of the answer.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        self.taken.take()
    }

    /// The stored answer, if it may be sent because no backend answers.
    pub(crate) fn on_failure(&mut self) -> Option<Arc<Object>> {
        let Purpose::Store {
            flight,
            stored,
            control,
            ..
        } = &mut self.purpose
        else {
            return None;
        };
        // Each request that waits may have a better fate.
        if let Some(flight) = flight.take() {
            flight.land(State::Passing);
        }
        let stored = stored.as_ref();
        let usable = |object: &&Arc<Object>| object.terms.is_of_use_on_error(control, object.age());
        stored.filter(usable).cloned()
    }

    /// Looks at the head of the answer to `request`, whose body has `length` bytes if that is known.
    pub(crate) fn answered(
        &mut self,
        request: &RequestHead,
        head: &mut ResponseHead,
        length: Option<u64>,
    ) -> Seen {
        if matches!(self.purpose, Purpose::Invalidate) {
            self.invalidate(head);
            return Seen::Pass;
        }
        if policy::is_error(head.status)
            && let Some(object) = self.on_failure()
        {
            self.taken = Some(Taken::Error(object));
            return Seen::Taken;
        }
        let Purpose::Store {
            flight,
            stored,
            why,
            heuristic,
            is_of_user,
            ..
        } = &mut self.purpose
        else {
            return Seen::Pass;
        };
        let arrival = Arrival {
            now: now(),
            delay: self.begun.elapsed().as_secs(),
        };
        let flight = flight.take();
        let is_spoilt = flight.as_ref().is_some_and(Flight::is_spoilt);
        if head.status == StatusCode::NOT_MODIFIED
            && let Some(object) = stored.take()
        {
            if !object.is_meant_by(&head.fields) {
                // The next request asks for all of it.
                self.store.invalidate(&self.key);
                if let Some(flight) = flight {
                    flight.land(State::Passing);
                }
                self.taken = Some(Taken::Refreshed(object));
                return Seen::Taken;
            }
            let head = object.merged(&head.fields);
            let terms = policy::storing(&request.fields, *is_of_user, &head, *heuristic, arrival);
            let fresh = match terms {
                Storing::Store(terms) => Arc::new(object.refreshed(&head, terms)),
                _ => Arc::new(object.refreshed(&head, object.terms)),
            };
            self.keep(
                request,
                &fresh,
                matches!(terms, Storing::Store(_)) && !is_spoilt,
            );
            if let Some(flight) = flight {
                flight.land(State::Stored);
            }
            self.taken = Some(Taken::Refreshed(fresh));
            return Seen::Taken;
        }
        let status = head.status.as_u16();
        let of_revalidation = match stored {
            Some(_) => format!("; fwd-status={status}"),
            None => String::new(),
        };
        let mut told = format!("{NAME}; fwd={why}{of_revalidation}");
        let storing = policy::storing(&request.fields, *is_of_user, head, *heuristic, arrival);
        let fits = length.is_none_or(|length| length <= self.store.object);
        let seen = match storing {
            Storing::Store(terms) if fits && !is_spoilt => {
                told.push_str("; stored");
                Seen::Copy(Box::new(self.copying(request, head, terms, flight)))
            }
            verdict => {
                // An error is over soon.
                if verdict != Storing::NotThis && !policy::is_error(head.status) && !is_spoilt {
                    self.store.pass(&self.key, &request.fields);
                }
                if let Some(flight) = flight {
                    flight.land(State::Passing);
                }
                Seen::Pass
            }
        };
        head.fields.append(Name::CacheStatus, told.as_bytes());
        seen
    }

    /// Keeps an answer that was found to be good, or forgets it.
    fn keep(&self, request: &RequestHead, object: &Arc<Object>, may_be_stored: bool) {
        match may_be_stored {
            true => {
                let object = Arc::clone(object);
                let varies_on = (&request.fields, &*key::variants(&self.rules));
                self.store.put(&self.key, varies_on, object, self.purges);
            }
            false => self.store.invalidate(&self.key),
        }
    }

    fn copying(
        &self,
        request: &RequestHead,
        head: &ResponseHead,
        terms: Terms,
        flight: Option<Flight>,
    ) -> Copying {
        let mut head = head.packed();
        for name in [Name::ContentLength, Name::Age] {
            head.fields.remove(name);
        }
        let others = key::variants(&self.rules);
        let varies = head.fields.has(Name::Vary) || !others.is_empty();
        if !head.fields.has(Name::Date) {
            let date = httpdate::fmt_http_date(SystemTime::now());
            head.fields.append(Name::Date, date.as_bytes());
        }
        Copying {
            store: Arc::clone(&self.store),
            key: self.key.clone(),
            url: self.url,
            request: match varies {
                true => request.fields.packed(),
                false => Fields::default(),
            },
            others,
            head,
            terms,
            body: Vec::new(),
            flight,
            purges: self.purges,
        }
    }

    /// An answer to an unsafe method that is no error.
    fn invalidate(&self, head: &ResponseHead) {
        if !(head.status.is_success() || head.status.is_redirection()) {
            return;
        }
        self.store.invalidate(&self.key);
        let (service, url) = self.key.split_at(self.url);
        let Some(origin) = origin(url) else {
            return;
        };
        for name in [Name::Location, Name::ContentLocation] {
            let Some(place) = head.fields.get(name) else {
                continue;
            };
            // Of the same origin alone: others' answers are not the backend's to forget.
            let path = place.strip_prefix(origin).unwrap_or(place);
            if path.starts_with(b"/") && !path.starts_with(b"//") {
                let mut key = [service, origin].concat();
                key::add_target(&mut key, path, &self.rules);
                self.store.invalidate(&key);
            }
        }
    }
}

/// Scheme and host of a URL.
fn origin(url: &[u8]) -> Option<&[u8]> {
    let host = url.windows(3).position(|three| three == b"://")? + 3;
    let path = url[host..].iter().position(|byte| *byte == b'/')?;
    url.get(..host + path)
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A copy of a body on its way. One that is dropped before its end stores nothing.
pub(crate) struct Copying {
    store: Arc<Store>,
    key: Vec<u8>,
    url: usize,
    /// The fields of the request, if the answer varies on some of them; none otherwise.
    request: Fields,
    /// What it varies on by the configuration.
    others: Vec<Box<[u8]>>,
    head: ResponseHead,
    terms: Terms,
    body: Vec<u8>,
    flight: Option<Flight>,
    purges: u64,
}

impl Copying {
    /// Copies a piece; false if the body is too large to be stored.
    pub(crate) fn data(&mut self, data: &[u8]) -> bool {
        if (self.body.len() + data.len()) as u64 > self.store.object {
            self.store.pass(&self.key, &self.request);
            if let Some(flight) = self.flight.take() {
                flight.land(State::Passing);
            }
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    /// The body is whole: the answer is stored.
    pub(crate) fn finish(mut self) {
        let flight = self.flight.take();
        let is_spoilt = flight.as_ref().is_some_and(Flight::is_spoilt);
        if !is_spoilt {
            let body = std::mem::take(&mut self.body).into_boxed_slice();
            let url = &self.key[self.url..];
            let object = Object::new(url, &self.head, body.into(), self.terms);
            let varies_on = (&self.request, &*self.others);
            self.store
                .put(&self.key, varies_on, Arc::new(object), self.purges);
        }
        if let Some(flight) = flight {
            flight.land(match is_spoilt {
                true => State::Passing,
                false => State::Stored,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_scheme_and_host() {
        assert_eq!(origin(b"http://a:80/b//c"), Some(&b"http://a:80"[..]));
        assert_eq!(origin(b"http://a"), None);
        assert_eq!(origin(b"a/b"), None);
    }
}
