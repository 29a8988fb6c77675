//! Backends for the engine: tables of a configuration, in which all of them are up, and a memory of clients.

use std::collections::HashMap;
use std::sync::Mutex;

use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceId, ServiceKey, ServiceTable, path, protocol,
    state,
};
use lb_common::addr;
use lb_common::maglev::Member;
use lb_common::table::{Built, HeadSettings, TableSpec};
use lb_config::{BackendAddress, Config, Service};
use lb_http::ServiceTables;
use lb_net::Clients;

/// The secret that clients and cookies are hashed by.
const HASH_KEY: [u64; 2] = [1, 2];

/// One state of all services.
pub(crate) struct Tables {
    services: Vec<(String, Built)>,
    listen: HashMap<ServiceKey, ServiceId>,
    /// At the indexes of their ids.
    backends: Vec<(Backend, BackendAddress)>,
}

impl Tables {
    /// Those of `config`. Services and backends have their ids by their order.
    pub(crate) fn new(config: &Config) -> Self {
        let mut tables = Self {
            services: Vec::new(),
            listen: HashMap::new(),
            backends: Vec::new(),
        };
        for (service, index) in config.services.iter().zip(0..) {
            tables.add(service, ServiceId(index));
        }
        tables
    }

    fn add(&mut self, service: &Service, id: ServiceId) {
        let first = self.backends.len();
        for backend in &service.backends {
            let index = u16::try_from(self.backends.len()).unwrap();
            let key = backend.address.key();
            let entry = Backend {
                addr: addr::from_ip(key.ip()),
                port: key.port(),
                protocol: protocol::TCP,
                state: state::UP,
                id: BackendId::new(index, 1),
                service: id,
                weight: backend.weight,
                path: path::PROXY,
                pad: 0,
            };
            self.backends.push((entry, backend.address.clone()));
        }
        for listen in service.http.iter().flat_map(|http| http.all_listen()) {
            let key = ServiceKey::new(addr::from_ip(listen.ip()), listen.port(), protocol::TCP);
            self.listen.insert(key, id);
        }
        let table = table(service, id, &self.backends[first..]);
        self.services.push((service.name.clone(), table));
    }
}

/// The table by which the clients of `service` are spread over `backends`.
fn table(service: &Service, id: ServiceId, backends: &[(Backend, BackendAddress)]) -> Built {
    let members = backends.iter().map(|(entry, _)| {
        let member = Member {
            addr: entry.addr,
            port: entry.port,
            weight: entry.weight,
        };
        (member, entry.id)
    });
    let settings = HeadSettings {
        hash_key: HASH_KEY,
        affinity_ns: u64::try_from(service.affinity.timeout.as_nanos()).unwrap(),
        max_load_permille: 0,
        ipv4_prefix: service.affinity.ipv4_prefix,
        ipv6_prefix: service.affinity.ipv6_prefix,
        http: true,
    };
    let head = settings.head(id, &service.name);
    Built::new(TableSpec::new(head, members.collect()))
}

impl ServiceTables for Tables {
    fn service(&self, name: &str) -> Option<ServiceId> {
        let place = self.services.iter().position(|(known, _)| known == name)?;
        Some(ServiceId(u32::try_from(place).unwrap()))
    }

    fn name(&self, service: ServiceId) -> Option<&str> {
        let (name, _) = self.services.get(service.0 as usize)?;
        Some(name)
    }

    fn hash_name(&self, _: ServiceId) -> Option<&str> {
        None
    }

    fn limit(&self, key: &ServiceKey) -> Option<(ServiceId, Option<u32>)> {
        let id = self
            .listen
            .get(key)
            .or_else(|| self.listen.get(&key.wildcard()))?;
        Some((*id, None))
    }

    fn table(&self, service: ServiceId) -> Option<&ServiceTable> {
        let (_, built) = self.services.get(service.0 as usize)?;
        Some(built.table())
    }

    fn entry(&self, id: BackendId) -> Option<&Backend> {
        let (entry, _) = self.backends.get(id.index() as usize)?;
        Some(entry)
    }

    fn backends_of(&self, service: ServiceId) -> Vec<&Backend> {
        let entries = self.backends.iter().map(|(entry, _)| entry);
        entries.filter(|entry| entry.service == service).collect()
    }

    fn address(&self, backend: &Backend) -> BackendAddress {
        self.backends[backend.id.index() as usize].1.clone()
    }
}

/// The memory of clients.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<HashMap<AffinityKey, Affinity>>);

impl Clients for Remembered {
    fn affinity(&self, _: u8, key: &AffinityKey) -> Option<Affinity> {
        self.0.lock().unwrap().get(key).copied()
    }

    fn remember(&self, _: u8, key: &AffinityKey, affinity: Affinity) {
        self.0.lock().unwrap().insert(*key, affinity);
    }

    fn active(&self, _: BackendId) -> u64 {
        0
    }

    fn active_total(&self, _: ServiceId) -> u64 {
        0
    }
}
