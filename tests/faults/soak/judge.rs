//! Judges whether each result of a visit had a reason. Clients are lost or move only by an act that
//! declares it, and only the clients concerned.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_tests::load::Visit;

use crate::ways::Way;

/// Time after an act in which its effects may show: a busy machine takes a while to answer.
const AFTER: Duration = Duration::from_secs(3);

/// The permitted cost of an act; by default nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// Ways by which requests may be lost.
    pub(crate) loses: &'static [Way],
    /// Ways by which clients may move.
    pub(crate) moves: &'static [Way],
    /// Ways by which open WebSockets end.
    pub(crate) ends: &'static [Way],
    /// Ways by which some of them may end.
    pub(crate) may_end: &'static [Way],
    /// Names of the copies that are concerned; an empty list stands for all.
    pub(crate) ports: Vec<u16>,
    /// A message that the agent must have logged.
    pub(crate) logged: Option<String>,
}

/// An act that happened, with its cost.
#[derive(Debug)]
pub(crate) struct Disruption {
    pub(crate) what: String,
    begun: Instant,
    ended: Instant,
    cost: Cost,
}

impl Disruption {
    /// It has ended just now.
    pub(crate) fn new(name: &str, begun: Instant, cost: Cost) -> Self {
        Self {
            what: format!("{name} {:?}", cost.ports),
            begun,
            ended: Instant::now(),
            cost,
        }
    }

    fn concerns(&self, port: Option<u16>) -> bool {
        let ports = &self.cost.ports;
        ports.is_empty() || port.is_none_or(|port| ports.contains(&port))
    }

    /// Whether open WebSockets by `way` with the copy at `port` end.
    pub(crate) fn ends(&self, way: Way, port: u16) -> bool {
        self.cost.ends.contains(&way) && self.concerns(Some(port))
    }

    /// Whether some of those may end, or none.
    pub(crate) fn may_end(&self, way: Way) -> bool {
        self.cost.may_end.contains(&way)
    }

    /// Whether requests by `way` may be lost.
    pub(crate) fn loses(&self, way: Way) -> bool {
        self.cost.loses.contains(&way)
    }

    /// Whether figures of the copy at `address` may begin anew.
    pub(crate) fn renews(&self, port: u16) -> bool {
        self.cost.ports.contains(&port)
    }

    fn meets(&self, from: Instant, to: Instant) -> bool {
        self.begun <= to && from <= self.ended + AFTER
    }
}

/// The application that served a client last.
struct Home {
    begun: Instant,
    port: u16,
}

/// Totals of the visits of one path.
#[derive(Default)]
struct Sum {
    visits: usize,
    lost: usize,
    moved: usize,
}

/// Keeps the acts, and the home of each client.
#[derive(Default)]
pub(crate) struct Judge {
    disruptions: Vec<Disruption>,
    homes: BTreeMap<(Way, IpAddr), Home>,
    sums: BTreeMap<Way, Sum>,
}

impl Judge {
    pub(crate) fn note(&mut self, disruption: Disruption) {
        self.disruptions.push(disruption);
    }

    /// Visits in the order of each client.
    pub(crate) fn hear(&mut self, way: Way, visits: Vec<Visit>) {
        for visit in visits {
            self.hear_one(way, visit);
        }
    }

    fn hear_one(&mut self, way: Way, visit: Visit) {
        let client = visit.client;
        let home = self.homes.get(&(way, client));
        let port = home.map(|home| home.port);
        let sum = self.sums.entry(way).or_default();
        sum.visits += 1;
        // A connection that stays may have broken at any time since it was used.
        let since = match (way, home) {
            (Way::Http, Some(home)) => home.begun,
            _ => visit.begun,
        };
        let reason = |costs: fn(&Cost) -> &'static [Way], since| {
            self.disruptions.iter().any(|one| {
                costs(&one.cost).contains(&way)
                    && one.concerns(port)
                    && one.meets(since, visit.ended)
            })
        };
        match visit.answer {
            Err(error) => {
                assert!(
                    reason(|cost| cost.loses, since),
                    "{way:?}: {client} of {port:?} was lost without a reason: {error}; it took {:?}, until {:?} ago; lately: {:?}",
                    visit.ended - visit.begun,
                    visit.ended.elapsed(),
                    self.lately()
                );
                sum.lost += 1;
            }
            Ok(answer) => {
                if let Some(home) = home
                    && home.port != answer.port
                {
                    assert!(
                        reason(|cost| cost.moves, home.begun),
                        "{way:?}: {client} moved from {} to {} without a reason; lately: {:?}",
                        home.port,
                        answer.port,
                        self.lately()
                    );
                    sum.moved += 1;
                }
                let home = Home {
                    begun: visit.begun,
                    port: answer.port,
                };
                self.homes.insert((way, client), home);
            }
        }
    }

    fn lately(&self) -> Vec<(String, Duration)> {
        let ago = |one: &Disruption| (one.what.clone(), one.ended.elapsed());
        self.disruptions.iter().rev().take(4).map(ago).collect()
    }

    pub(crate) fn report(&self) {
        for (way, sum) in &self.sums {
            let Sum {
                visits,
                lost,
                moved,
            } = sum;
            println!(
                "{way:?}: {visits} requests, {lost} lost, {moved} by another copy than before"
            );
        }
    }
}
