//! Choices made on the host, by the very function that the kernel uses.

use std::collections::HashSet;
use std::net::IpAddr;

use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceId, ServiceTable, state,
};
use lb_common::addr;
use lb_common::select::{self, Client, Reason, Tables};

use crate::state::observed::Observed;
use lb_net::Clients;
use lb_net::clock::boot_ns;

/// One service as `lb_common::select` wants it.
pub struct HostTables<'a> {
    table: &'a ServiceTable,
    protocol: u8,
    observed: &'a Observed,
    clients: &'a dyn Clients,
    usable: &'a dyn Fn(&Backend) -> bool,
    tried: HashSet<BackendId>,
}

impl<'a> HostTables<'a> {
    /// The service `id`, if it has a table. `usable` says which backends can take a connection.
    pub fn new(
        id: ServiceId,
        protocol: u8,
        observed: &'a Observed,
        clients: &'a dyn Clients,
        usable: &'a dyn Fn(&Backend) -> bool,
    ) -> Option<Self> {
        let table = observed.tables.get(&id)?.table();
        Some(Self {
            table,
            protocol,
            observed,
            clients,
            usable,
            tried: HashSet::new(),
        })
    }

    /// The client with address `ip`.
    pub fn client(&self, ip: IpAddr) -> Client {
        Client::new(&self.table.head, &addr::from_ip(ip))
    }

    /// The client that `prefix` stands for, whole.
    pub fn client_with_prefix(&self, prefix: addr::Addr) -> Client {
        Client::with_prefix(&self.table.head, prefix)
    }

    /// The usable backends in the order in which a connection would be offered to them.
    pub fn preferences(&mut self, client: &Client) -> Vec<(Backend, Reason)> {
        let mut preferences = Vec::new();
        while let Some(choice) = select::select(self, client) {
            let backend = self.observed.backends[choice.backend.index() as usize];
            preferences.push((backend, choice.reason));
        }
        preferences
    }

    /// All backends of the service in the client's order, usable or not.
    pub fn order(&self, client: &Client) -> Vec<Backend> {
        let entry = |id: BackendId| self.observed.backends[id.index() as usize];
        select::order(self, client)
            .into_iter()
            .map(entry)
            .filter(|backend| backend.state == state::UP)
            .collect()
    }
}

impl Tables for HostTables<'_> {
    fn head(&self) -> &ServiceHead {
        &self.table.head
    }

    fn slot(&self, slot: u32) -> BackendId {
        self.table.slots[slot as usize]
    }

    fn member(&self, member: u32) -> BackendId {
        self.table.members[member as usize]
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.observed.backends.get(id.index() as usize).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.clients.affinity(self.protocol, key)
    }

    fn now_ns(&self) -> u64 {
        boot_ns()
    }

    fn active(&self, id: BackendId) -> u64 {
        self.clients.active(id)
    }

    fn active_total(&self) -> u64 {
        self.clients.active_total(self.table.head.id)
    }

    /// Each backend takes the connection once, so that asking again gives the next one.
    fn hand_over(&mut self, backend: &Backend) -> bool {
        (self.usable)(backend) && self.tried.insert(backend.id)
    }
}
