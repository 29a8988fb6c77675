//! The host's network as the packet paths see it: interfaces, routes and neighbours.
//!
//! | file | owns |
//! | --- | --- |
//! | `netlink` | questions to the kernel, rtnetlink(7) |
//! | `features` | what drivers can do, by generic netlink |
//! | [`status`] | what there is to tell |
//! | [`survey`] | what was found, and what follows from it: which backends are behind this host, by which interfaces clients come, where programs can be |
//! | `watch` | noticing that something has changed |
//! | [`sysctl`] | settings of interfaces that have to be changed, and put back |
//!
//! Nothing here knows of BPF.

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

/// How long what was found is trusted: a change that was not told is noticed after this.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// What is known of the host's network. Copies are the same.
#[derive(Clone, Default)]
pub struct Network {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    survey: Arc<Survey>,
    /// `None` where there is no route.
    ways: HashMap<IpAddr, Option<Way>>,
    at: Option<Instant>,
    problem: Option<String>,
}

impl Network {
    /// Tells [`Network::changed`] of changes from now on. Returns why that cannot be.
    pub fn watch(&self) -> std::io::Result<()> {
        let changed = Arc::clone(&self.changed);
        let known = Arc::clone(&self.known);
        watch::start(move || {
            lock(&known).at = None;
            changed.notify_one();
        })
    }

    /// Waits until something has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When what is known is to be looked at again.
    pub fn stale_at(&self) -> Instant {
        let known = lock(&self.known);
        known.at.map_or_else(Instant::now, |at| at + GOOD_FOR)
    }

    /// What there is, not older than some seconds.
    pub fn survey(&self) -> Arc<Survey> {
        let mut known = lock(&self.known);
        known.refresh();
        Arc::clone(&known.survey)
    }

    /// The way to `address`; `None` where there is none.
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

    /// Makes sure that these next hops, each with its interface, have a MAC address, and keep it.
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

    /// What stood in the way of looking.
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
        // A kernel without them has none.
        has_rules: netlink.has_rules().unwrap_or(false),
    };
    // Kernels before 6.3 do not tell; then it has to be tried.
    let features = features::all().unwrap_or_default();
    for (index, features) in features {
        if let Some(interface) = survey.interfaces.get_mut(&index) {
            interface.features = Some(features);
        }
    }
    Ok(survey)
}
