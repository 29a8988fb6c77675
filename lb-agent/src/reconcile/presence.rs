//! Follows whether the applications of the backends on this host listen. The log tells of changes, and the L7 path
//! waits for applications that restart.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_common::abi::{Backend, protocol, state};
use lb_http::Presence;

use super::Reconciler;
use crate::errors::chain;
use crate::state::observed::address_of;

/// Time without a listener before the log tells of it. A restart that takes less is not told.
const QUIET: Duration = Duration::from_secs(3);

/// Most lines for one look.
const MOST_LINES: usize = 16;

/// Protocol and address of an application.
type Place = (u8, SocketAddr);

/// The places of all applications on this host, as of the last look.
#[derive(Default)]
pub(super) struct Sightings(HashMap<Place, Sighting>);

struct Sighting {
    presence: Presence,
    /// Time of the last change of `presence`.
    since: Instant,
    /// Whether the log has told that nothing listens.
    told: bool,
}

/// A line for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The application has been gone for [`QUIET`].
    Gone(Place),
    /// Nothing has listened for [`QUIET`], and nothing did before.
    Never(Place),
    /// An application listens, after one of the others was told; `true` if it had listened before.
    Back(Place, bool),
}

impl Sightings {
    /// Takes the result of a look at all places. Places that are not in it are forgotten.
    fn update(&mut self, seen: &HashMap<Place, bool>, now: Instant) -> Vec<News> {
        self.0.retain(|place, _| seen.contains_key(place));
        let news = seen
            .iter()
            .filter_map(|(place, listens)| self.update_one(*place, *listens, now));
        news.collect()
    }

    fn update_one(&mut self, place: Place, listens: bool, now: Instant) -> Option<News> {
        let first = || Sighting {
            presence: Presence::Never,
            since: now,
            told: false,
        };
        let sighting = self.0.entry(place).or_insert_with(first);
        let before = sighting.presence;
        match (before, listens) {
            (Presence::Listening, true) => return None,
            (_, true) => {
                let was_told = std::mem::take(&mut sighting.told);
                sighting.presence = Presence::Listening;
                return was_told.then_some(News::Back(place, before != Presence::Never));
            }
            (Presence::Listening, false) => {
                sighting.presence = Presence::Gone(now);
                sighting.since = now;
            }
            (_, false) => {}
        }
        if sighting.told || now.saturating_duration_since(sighting.since) < QUIET {
            return None;
        }
        sighting.told = true;
        Some(match sighting.presence {
            Presence::Never => News::Never(place),
            _ => News::Gone(place),
        })
    }

    fn presence(&self, place: &Place) -> Option<Presence> {
        Some(self.0.get(place)?.presence)
    }
}

#[cfg(test)]
impl Sightings {
    /// All places by their ports.
    pub(super) fn by_port(&self) -> Vec<(u16, Presence)> {
        let all = self.0.iter();
        all.map(|((_, address), sighting)| (address.port(), sighting.presence))
            .collect()
    }
}

impl News {
    fn log(&self) {
        match *self {
            Self::Gone(place) => tracing::warn!("{} listens no more", name(place)),
            Self::Never(place) => tracing::warn!("nothing listens on {}", name(place)),
            Self::Back(place, true) => tracing::info!("{} listens again", name(place)),
            Self::Back(place, false) => tracing::info!("{} listens now", name(place)),
        }
    }
}

/// The address of an application, behind "UDP" if it is one for datagrams.
fn name((of, address): Place) -> String {
    match of {
        protocol::UDP => format!("UDP {address}"),
        _ => address.to_string(),
    }
}

fn place(entry: &Backend) -> Place {
    (entry.protocol, address_of(entry))
}

impl Reconciler {
    /// Looks which applications of this host listen.
    pub(super) fn follow_presence(&mut self) {
        let here = self.desired.backends().filter(|backend| !backend.elsewhere);
        let here: HashSet<SocketAddr> = here
            .filter(|backend| backend.address.ip().is_some())
            .map(|backend| backend.address.key())
            .collect();
        if here.is_empty() {
            self.sightings = Sightings::default();
            return;
        }
        let listening = match self.plane.listening() {
            Ok(Some(listening)) => listening,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "who listens is not known");
                return;
            }
        };
        let is_here =
            |entry: &&Backend| entry.state != state::REMOVED && here.contains(&address_of(entry));
        let entries = || self.observed.backends.iter().filter(is_here);
        let mut seen: HashMap<Place, bool> = HashMap::new();
        for entry in entries() {
            *seen.entry(place(entry)).or_default() |= listening.contains(&entry.id);
        }
        let news = self.sightings.update(&seen, Instant::now());
        let (told, rest) = news.split_at(news.len().min(MOST_LINES));
        told.iter().for_each(|news| news.log());
        if !rest.is_empty() {
            let more = rest.len();
            tracing::warn!("{more} more have begun or ceased to listen (see lb-agent status)");
        }
        let known = entries().filter_map(|entry| {
            let presence = self.sightings.presence(&place(entry))?;
            Some((entry.id, presence))
        });
        self.l7.presences().report(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(port: u16) -> Place {
        (protocol::TCP, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Sightings of one place with a clock that the test moves.
    struct Watch(Sightings, Instant);

    impl Watch {
        fn new() -> Self {
            Self(Sightings::default(), Instant::now())
        }

        fn look(&mut self, listens: bool) -> Vec<News> {
            let seen = HashMap::from([(at(5000), listens)]);
            self.0.update(&seen, self.1)
        }

        fn look_after(&mut self, time: Duration, listens: bool) -> Vec<News> {
            self.1 += time;
            self.look(listens)
        }
    }

    #[test]
    fn end_of_an_application_is_told_once_after_the_quiet_time_and_its_return_once() {
        let mut watch = Watch::new();
        assert_eq!(watch.look(true), []);
        let gone = watch.1 + SECOND;
        assert_eq!(watch.look_after(SECOND, false), []);
        assert_eq!(watch.0.presence(&at(5000)), Some(Presence::Gone(gone)));
        assert_eq!(watch.look_after(QUIET - SECOND, false), []);
        assert_eq!(watch.look_after(SECOND, false), [News::Gone(at(5000))]);
        assert_eq!(watch.look_after(QUIET, false), []);
        assert_eq!(watch.0.presence(&at(5000)), Some(Presence::Gone(gone)));
        assert_eq!(watch.look_after(SECOND, true), [News::Back(at(5000), true)]);
        assert_eq!(watch.look_after(SECOND, true), []);
    }

    #[test]
    fn restart_within_the_quiet_time_is_not_told() {
        let mut watch = Watch::new();
        watch.look(true);
        for _ in 0..10 {
            assert_eq!(watch.look_after(SECOND, false), []);
            assert_eq!(watch.look_after(SECOND, true), []);
        }
    }

    #[test]
    fn port_that_never_listened_is_told_in_its_own_words() {
        let mut watch = Watch::new();
        assert_eq!(watch.look(false), []);
        assert_eq!(watch.0.presence(&at(5000)), Some(Presence::Never));
        assert_eq!(watch.look_after(QUIET, false), [News::Never(at(5000))]);
        assert_eq!(watch.look_after(QUIET, false), []);
        assert_eq!(watch.look_after(QUIET, true), [News::Back(at(5000), false)]);
    }

    #[test]
    fn backend_that_is_removed_is_forgotten_without_a_word() {
        let mut watch = Watch::new();
        watch.look(true);
        watch.look_after(SECOND, false);
        assert_eq!(watch.0.update(&HashMap::new(), watch.1 + QUIET), []);
        assert_eq!(watch.0.presence(&at(5000)), None);
    }
}
