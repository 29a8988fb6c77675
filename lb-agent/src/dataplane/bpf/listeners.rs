//! Listening sockets of this host, to which the kernel hands connections.

use std::collections::HashSet;
use std::sync::Arc;

use lb_common::abi::BackendId;

use super::{Bpf, adopt};
use crate::dataplane::{Error, Listeners};
use crate::state::observed::Observed;

impl Listeners for Bpf {
    fn steers(&self) -> bool {
        true
    }

    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String> {
        adopt::adopt(&mut self.maps, &observed.backends)
    }

    fn look_for_listeners(&mut self) -> bool {
        Arc::make_mut(&mut self.mptcp)
            .look()
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "list the listening sockets");
                false
            })
    }

    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error> {
        adopt::listening(&self.maps, &self.observed.backends, &self.mptcp).map(Some)
    }
}
