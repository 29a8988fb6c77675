//! Limits on the requests of clients. Their counts belong to the process: they outlive every change of settings.
//!
//! | file | owns |
//! | --- | --- |
//! | `rates` | rates by key, in a table of fixed size |
//! | `in_flight` | requests under way by key |
//! | `offenders` | clients that are to be banned |

mod in_flight;
mod offenders;
mod rates;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lb_common::hash;
use lb_config::http::Limit;
use lb_net::clock::boot_ns;

pub(crate) use in_flight::Held;
use in_flight::InFlight;
pub use offenders::Offender;
use offenders::Offenders;
use rates::{Pace, Rates};

/// The counts of all limits.
pub(crate) struct Limiter {
    /// Keys are hashed by it, so that no client can choose a place.
    secret: [u64; 2],
    /// Made with the first rate.
    rates: OnceLock<Rates>,
    in_flight: Arc<InFlight>,
    offenders: Offenders,
    /// By service and limit.
    counters: Mutex<HashMap<String, HashMap<String, Arc<Counters>>>>,
}

/// The counters of one limit.
#[derive(Default)]
struct Counters {
    refused: AtomicU64,
    would_refuse: AtomicU64,
}

/// The figures of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitFigures {
    /// Requests that got 429.
    pub refused: u64,
    /// Requests above a limit with `dry_run`.
    pub would_refuse: u64,
}

/// The table of rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitTableFigures {
    /// Keys whose last request still counts.
    pub keys: u64,
    /// How many there can be.
    pub capacity: u64,
    /// How many had to make room for others.
    pub evicted: u64,
}

/// One limit, ready to count requests.
pub(crate) struct Gate {
    limiter: Arc<Limiter>,
    name: Arc<str>,
    /// Differs from that of every other limit, and does not from that of the same one before a reload.
    secret: [u64; 2],
    pace: Option<Pace>,
    concurrent: Option<u32>,
    dry_run: bool,
    ban: Option<Duration>,
    counters: Arc<Counters>,
}

/// What limits have to say about a request.
#[derive(Default)]
pub(crate) struct Limited {
    /// The last limit that it exceeds.
    pub(crate) exceeded: Option<Exceeded>,
    /// It is under way for these.
    pub(crate) held: Option<Held>,
}

impl Clone for Limited {
    /// A copy of a request, which goes to its backend for the cache, counts for no limit.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A limit that a request exceeds.
pub(crate) struct Exceeded {
    pub(crate) limit: Arc<str>,
    /// The request was passed on.
    pub(crate) dry_run: bool,
}

impl Default for Limiter {
    fn default() -> Self {
        let mut secret = [0; 16];
        // Without it a client could only choose who makes room for it.
        let _ = getrandom::fill(&mut secret);
        let words = u128::from_ne_bytes(secret);
        Self {
            secret: [(words >> 64) as u64, words as u64],
            rates: OnceLock::new(),
            in_flight: Arc::default(),
            offenders: Offenders::default(),
            counters: Mutex::default(),
        }
    }
}

impl Limiter {
    /// `limit` of the service called `service`, whose clients were counted under the name `identity`.
    pub(crate) fn gate(self: &Arc<Self>, service: &str, identity: &str, limit: &Limit) -> Gate {
        let salt = hash::salt(&format!("{identity}\0{}", limit.name));
        let mut counters = self.counters();
        let of_service = counters.entry(service.to_owned()).or_default();
        let counters = of_service.entry(limit.name.clone()).or_default();
        Gate {
            limiter: Arc::clone(self),
            name: limit.name.as_str().into(),
            secret: [self.secret[0] ^ salt, self.secret[1]],
            pace: limit.rate.as_ref().map(Pace::of),
            concurrent: limit.concurrent,
            dry_run: limit.dry_run,
            ban: limit.ban.filter(|_| !limit.dry_run),
            counters: Arc::clone(counters),
        }
    }

    /// Forgets the counters of services that are gone.
    pub(crate) fn keep_only(&self, is_there: impl Fn(&str) -> bool) {
        self.counters().retain(|name, _| is_there(name));
    }

    /// The figures of a limit.
    pub(crate) fn figures(&self, service: &str, limit: &str) -> LimitFigures {
        let counters = self.counters();
        let of_limit = counters.get(service).and_then(|limits| limits.get(limit));
        of_limit.map_or_else(LimitFigures::default, |counters| LimitFigures {
            refused: counters.refused.load(Relaxed),
            would_refuse: counters.would_refuse.load(Relaxed),
        })
    }

    /// The figures of the table of rates; `None` before the first rate.
    pub(crate) fn table(&self) -> Option<LimitTableFigures> {
        self.rates.get().map(|rates| LimitTableFigures {
            keys: rates.indebted(boot_ns()),
            capacity: rates.capacity(),
            evicted: rates.evicted(),
        })
    }

    /// Takes the clients that are to be banned.
    pub(crate) fn take_offenders(&self) -> Vec<Offender> {
        self.offenders.take()
    }

    fn counters(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, Arc<Counters>>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// The key of a client, by the prefix of its address.
    pub(crate) fn client(&self, prefix: &[u8; 16]) -> u64 {
        hash::bytes(self.secret, prefix)
    }

    /// The key of a session, a header or a cookie. It is never that of a client.
    pub(crate) fn token(&self, value: &[u8]) -> u64 {
        let [first, second] = self.secret;
        hash::bytes([first, !second], value)
    }

    /// Asks for the ban of a client whose request was refused, if the limit bans. `prefix` is its address with the
    /// bits that count; `bits` is their number.
    pub(crate) fn ban(&self, service: &str, prefix: [u8; 16], bits: u32) {
        if let Some(length) = self.ban {
            self.limiter.offenders.note(Offender {
                prefix,
                bits,
                service: service.to_owned(),
                limit: self.name.to_string(),
                length,
            });
        }
    }

    /// Counts a request of `key`. The error is the time until the next one may pass.
    pub(crate) fn pass(&self, key: u64, limited: &mut Limited) -> Result<(), Duration> {
        let Err(wait) = self.take(key, limited) else {
            return Ok(());
        };
        limited.exceeded = Some(Exceeded {
            limit: Arc::clone(&self.name),
            dry_run: self.dry_run,
        });
        if self.dry_run {
            self.counters.would_refuse.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.counters.refused.fetch_add(1, Relaxed);
        Err(wait)
    }

    fn take(&self, key: u64, limited: &mut Limited) -> Result<(), Duration> {
        let held = match self.concurrent {
            Some(most) => {
                let held = self.limiter.in_flight.enter(key, most);
                // The end of another request is not known; a second is the least that can be said.
                Some(held.ok_or(Duration::from_secs(1))?)
            }
            None => None,
        };
        if let Some(pace) = self.pace {
            let rates = self.limiter.rates.get_or_init(Rates::new);
            rates.take(key, pace, boot_ns())?;
        }
        if let Some(held) = held {
            limited.held = Some(held.and(limited.held.take()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_config::http::{LimitKey, Rate};

    fn limit(name: &str, burst: u32, concurrent: Option<u32>) -> Limit {
        Limit {
            name: name.to_owned(),
            path: String::new(),
            key: LimitKey::Client,
            rate: Some(Rate {
                count: 1,
                per: Duration::from_secs(3600),
                burst,
            }),
            concurrent,
            ban: None,
            dry_run: false,
        }
    }

    #[test]
    fn counts_belong_to_service_and_limit_and_outlive_a_change_of_the_limit() {
        let limiter = Arc::<Limiter>::default();
        let pass = |service: &str, limit: &Limit| {
            let gate = limiter.gate(service, service, limit);
            let key = gate.client(&[7; 16]);
            gate.pass(key, &mut Limited::default()).is_ok()
        };
        assert!(pass("web", &limit("all", 1, None)));
        assert!(!pass("web", &limit("all", 1, None)));
        assert!(pass("web", &limit("all", 2, None)), "a larger burst");
        assert!(!pass("web", &limit("all", 2, None)));
        assert!(pass("web", &limit("login", 1, None)));
        assert!(pass("shop", &limit("all", 1, None)));
        let refused = |limit: &str| limiter.figures("web", limit).refused;
        assert_eq!((refused("all"), refused("login")), (2, 0));
        limiter.keep_only(|name| name != "web");
        assert_eq!(refused("all"), 0);
    }

    #[test]
    fn request_that_is_refused_for_its_rate_is_not_under_way() {
        let limiter = Arc::<Limiter>::default();
        let gate = limiter.gate("web", "web", &limit("all", 1, Some(1)));
        let key = gate.token(b"abc");
        let mut first = Limited::default();
        assert!(gate.pass(key, &mut first).is_ok());
        drop(first);
        for _ in 0..3 {
            let wait = gate.pass(key, &mut Limited::default()).unwrap_err();
            assert!(wait > Duration::from_secs(3000), "by the rate: {wait:?}");
        }
    }

    #[test]
    fn client_and_value_of_the_same_bytes_are_two_keys() {
        let limiter = Arc::<Limiter>::default();
        let gate = limiter.gate("web", "web", &limit("all", 1, None));
        assert_ne!(gate.client(&[7; 16]), gate.token(&[7; 16]));
    }
}
