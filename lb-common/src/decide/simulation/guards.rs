//! Bans and lists of the simulation.

use super::Simulation;
use crate::abi::ServiceId;
use crate::abi::packet::Ip;
use crate::decide::data_path::Guards;

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
}
