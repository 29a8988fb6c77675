//! The clients that are let in, as metrics.

use lb_net::admission::Admission;

use super::Source;
use crate::control::stats::{Family, Kind};

impl Source for Admission {
    fn families(&self) -> Vec<Family> {
        let open = Family::new(
            Kind::Gauge,
            "lb_agent_client_connections",
            "Connections of clients that go through the agent",
        );
        let most = Family::new(
            Kind::Gauge,
            "lb_agent_client_connections_limit",
            "How many of them there may be, where max_connections says so",
        );
        let open = open.with(&[], self.open_in_all() as f64);
        let limit = self.most().map(|limit| most.with(&[], limit as f64));
        std::iter::once(open).chain(limit).collect()
    }
}
