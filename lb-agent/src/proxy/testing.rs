//! Helpers for the tests of both proxies: a chooser that records its calls, and waiting for conditions.

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_common::abi::BackendId;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Candidate, Chooser, Ending, Farewell};

/// Longest that anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`, but not for ever.
#[track_caller]
pub(super) fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("nothing has come of {caller}"),
        }
    }
}

/// The calls that a chooser has recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) asked: Vec<(SocketAddr, IpAddr)>,
    pub(super) opened: Vec<BackendId>,
    pub(super) closed: Vec<BackendId>,
    pub(super) failed: Vec<BackendId>,
    pub(super) came_back: usize,
}

/// Always gives the same candidates.
pub(super) struct Fixed {
    candidates: Mutex<Vec<Candidate>>,
    told: watch::Sender<Told>,
    pub(super) ending: watch::Sender<HashSet<BackendId>>,
}

impl Fixed {
    /// Candidates at these addresses, with the ids 1, 2 and so on.
    pub(super) fn new(addresses: &[SocketAddr]) -> Arc<Self> {
        let candidate = |(nth, &address)| Candidate {
            backend: BackendId(nth),
            address,
            proxy_protocol: None,
        };
        Arc::new(Self {
            candidates: Mutex::new((1..).zip(addresses).map(candidate).collect()),
            told: watch::Sender::default(),
            ending: watch::Sender::default(),
        })
    }

    /// Other candidates from now on.
    pub(super) fn lead_to(&self, address: SocketAddr) {
        self.candidates.lock().unwrap()[0].address = address;
    }

    pub(super) fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    /// Waits until the recorded calls fulfil a condition.
    #[track_caller]
    pub(super) fn until(&self, holds: impl Fn(&Told) -> bool) -> impl Future<Output = Told> {
        let mut told = self.told.subscribe();
        soon(async move { told.wait_for(|told| holds(told)).await.unwrap().clone() })
    }
}

impl Chooser for Fixed {
    fn candidates(&self, local: SocketAddr, client: IpAddr, _: u8) -> Vec<Candidate> {
        self.told
            .send_modify(|told| told.asked.push((local, client)));
        self.candidates.lock().unwrap().clone()
    }

    fn opened(&self, _: SocketAddr, _: IpAddr, _: u8, backend: BackendId) {
        self.told.send_modify(|told| told.opened.push(backend));
    }

    fn closed(&self, backend: BackendId) {
        self.told.send_modify(|told| told.closed.push(backend));
    }

    fn came_back(&self, _: SocketAddr, _: u8) {
        self.told.send_modify(|told| told.came_back += 1);
    }

    fn ending(&self) -> Ending {
        self.ending.subscribe()
    }

    fn failed(&self, backend: BackendId) {
        self.told.send_modify(|told| told.failed.push(backend));
    }
}

/// Longer than any test.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The sending end of a shutdown.
pub(super) type Stop = watch::Sender<Option<Farewell>>;

/// A loopback address with a port of the system's choice.
pub(super) fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 0)
}

/// Bytes that differ if one of them is lost, doubled or moved.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}
