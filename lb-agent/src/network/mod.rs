//! The host's network as the packet paths see it: interfaces, routes and neighbours.
//!
//! | file | owns |
//! | --- | --- |
//! | `netlink` | questions to the kernel, rtnetlink(7) |
//! | [`cookies`] | SYN cookies of listeners |
//! | `features` | XDP features of drivers, from generic netlink |
//! | [`status`] | the status of the packet paths |
//! | [`survey`] | the network as it was found; classes of backends, interfaces of clients, places of programs |
//! | `watch` | notifications of changes |
//! | [`sysctl`] | settings of interfaces that have to be changed and restored |
//!
//! This module does not depend on BPF.

pub mod cookies;
mod features;
mod netlink;
pub mod status;
pub mod survey;
pub mod sysctl;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use netlink::Rtnetlink;
use survey::{Survey, Way};

/// The time for which a survey is trusted. A change without a notice is found after this time.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// The agent's knowledge of the host's network. All clones share one state.
#[derive(Clone, Default)]
pub struct Network {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    survey: Arc<Survey>,
    /// Routes by destination; `None` if there is no route.
    ways: HashMap<IpAddr, Option<Way>>,
    at: Option<Instant>,
    problem: Option<String>,
}

impl Network {
    /// Notifies [`Network::changed`] of changes from now on.
    ///
    /// # Errors
    /// The error of the netlink socket or of the thread if the network cannot be watched.
    pub fn watch(&self) -> std::io::Result<()> {
        let changed = Arc::clone(&self.changed);
        let known = Arc::clone(&self.known);
        watch::start(move || {
            lock(&known).at = None;
            changed.notify_one();
        })
    }

    /// Waits for the next change of the network.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The time at which the survey is no longer trusted.
    pub fn stale_at(&self) -> Instant {
        let known = lock(&self.known);
        known.at.map_or_else(Instant::now, |at| at + GOOD_FOR)
    }

    /// The survey of the network, at most five seconds old.
    pub fn survey(&self) -> Arc<Survey> {
        let mut known = lock(&self.known);
        known.refresh();
        Arc::clone(&known.survey)
    }

    /// The route to `address`; `None` if there is none.
    pub fn way(&self, address: IpAddr) -> Option<Way> {
        let mut known = lock(&self.known);
        known.refresh();
        if let Some(way) = known.ways.get(&address) {
            return way.clone();
        }
        let way = known.find(address);
        known.ways.insert(address, way.clone());
        way
    }

    /// Makes sure that these next hops, each with its interface, have a MAC address and keep it.
    pub fn keep_neighbours(&self, next_hops: &BTreeSet<(u32, IpAddr)>) {
        let mut netlink = match Rtnetlink::open() {
            Ok(netlink) => netlink,
            Err(error) => return tracing::warn!(%error, "no netlink socket"),
        };
        for (interface, next_hop) in next_hops {
            if let Err(error) = netlink.use_neighbour(*interface, *next_hop) {
                tracing::debug!(%error, %next_hop, "a neighbour cannot be asked for its address");
            }
        }
    }

    /// The error of the last survey, if it failed.
    pub fn problem(&self) -> Option<String> {
        lock(&self.known).problem.clone()
    }
}

/// Removes the `clsact` queueing discipline of the interface `name`, unless it has filters.
pub fn remove_clsact(name: &str) {
    let removed = nix::net::if_::if_nametoindex(name)
        .map_err(std::io::Error::from)
        .and_then(|index| Rtnetlink::open()?.remove_clsact(index));
    if let Err(error) = removed {
        tracing::debug!(%error, name, "the clsact of an interface cannot be removed");
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    fn refresh(&mut self) {
        if self.at.is_some_and(|at| at.elapsed() < GOOD_FOR) {
            return;
        }
        self.ways.clear();
        match look() {
            Ok(survey) => {
                self.survey = Arc::new(survey);
                self.problem = None;
            }
            Err(error) => self.problem = Some(format!("list the interfaces: {error}")),
        }
        self.at = Some(Instant::now());
    }

    fn find(&self, address: IpAddr) -> Option<Way> {
        let route = Rtnetlink::open().and_then(|mut netlink| netlink.route_to(address));
        match route {
            Ok(route) => route.and_then(|route| self.survey.way(address, &route)),
            Err(error) => {
                tracing::debug!(%error, %address, "no route");
                None
            }
        }
    }
}

fn look() -> std::io::Result<Survey> {
    let mut netlink = Rtnetlink::open()?;
    let gateways = netlink.gateways()?;
    let mut survey = Survey {
        interfaces: netlink.interfaces()?,
        addresses: netlink.addresses()?,
        world: gateways.interfaces,
        routers: gateways.routers,
        // A kernel without support for routing rules has none.
        has_rules: netlink.has_rules().unwrap_or(false),
    };
    // Kernels before 6.3 do not report features. Attaching a program then has to be tried.
    let features = features::all().unwrap_or_default();
    for (index, features) in features {
        if let Some(interface) = survey.interfaces.get_mut(&index) {
            interface.features = Some(features);
        }
    }
    Ok(survey)
}
