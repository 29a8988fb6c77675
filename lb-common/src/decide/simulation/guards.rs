//! Bans, lists and caps of the simulation.

use super::Simulation;
use super::flows::with_set;
use crate::abi::ServiceId;
use crate::abi::access::guard;
use crate::abi::packet::Ip;
use crate::clients::Counted;
use crate::decide::data_path::Guards;
use crate::flows::{Flow, count};
use crate::select::Client;

impl Simulation {
    /// Marks a flow of a service with a cap as counted.
    pub(super) fn count_flow(&mut self, flow: &Flow) {
        if self.access.guards(flow.service) >> guard::CAP != 0 {
            with_set!(self.flows, flow.at, |set, ports| count(
                set,
                ports,
                &flow.at,
                Counted(1)
            ));
        }
    }
}

impl Guards for Simulation {
    fn is_guarded(&self, service: ServiceId) -> bool {
        self.access.guards(service) != 0
    }

    fn denies(&mut self, service: ServiceId, client: &Ip) -> bool {
        let now_ns = u64::from(self.now_s) * 1_000_000_000;
        let denies = self.access.refuses(service, &client.to_addr(), now_ns);
        if denies {
            *self.denied.entry(service.0).or_default() += 1;
        }
        denies
    }

    /// The simulation counts the flows themselves, and knows no reservations.
    fn is_full(&mut self, service: ServiceId, client: &Ip) -> bool {
        let cap = self.access.guards(service) >> guard::CAP;
        let Some(head) = self.services.get(&service.0).map(|service| service.head) else {
            return false;
        };
        let client = Client::new(&head, &client.to_addr()).key;
        let is_of = |src: &Ip| Client::new(&head, &src.to_addr()).key == client;
        cap != 0 && self.flows.counted(service, is_of) >= cap as usize
    }
}
