//! The kernel's data plane by itself: programs and tables, and no agent. Tests with it prove that a
//! path works without the agent.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lb_agent::dataplane::bpf::{self, Bpf};
use lb_agent::dataplane::{BackendCounts, Connections as _, Counts as _, Tables as _};
use lb_agent::host::HostTables;
use lb_agent::state::desired::Desired;
use lb_agent::state::observed::{Observed, address_of};
use lb_agent::state::overlay::Overlay;
use lb_agent::state::plan::plan;
use lb_agent::state::surroundings::Surroundings;
use lb_common::abi;
use lb_common::select::Client;
use lb_config::BackendAddress;
use lb_net::handover::FdStore;

use crate::topology::hosts::Host;

/// Programs and tables on a host; purged when dropped.
pub struct Kernel<'a> {
    host: &'a Host,
    pin_dir: PathBuf,
    /// `None` only while it is opened again: two cannot have the same pins.
    plane: Option<Bpf>,
    desired: Desired,
    observed: Observed,
}

struct AllHere;

impl Surroundings for AllHere {
    fn can_steer(&self) -> bool {
        true
    }

    fn is_local(&self, _address: SocketAddr) -> bool {
        true
    }
}

impl<'a> Kernel<'a> {
    /// Loads and attaches the programs on `host`, with these services (TOML). All their backends are
    /// reached by `path` (one of [`abi::path`]).
    pub fn open(host: &'a Host, services: &str, path: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pin_dir = PathBuf::from(format!(
            "/sys/fs/bpf/lbt-plane-{}-{count}",
            std::process::id()
        ));
        let plane = host.run(|| open(&pin_dir));
        let config = lb_config::parse(services, Path::new("test.toml")).unwrap();
        let mut desired = Desired::new(&config, &Overlay::default(), [1, 2], 0, &AllHere);
        for service in &mut desired.services {
            for backend in &mut service.backends {
                backend.route.path = path;
            }
        }
        let observed = plane.observe().unwrap();
        let mut kernel = Self {
            host,
            pin_dir,
            plane: Some(plane),
            desired,
            observed,
        };
        kernel.put_in_force();
        kernel
    }

    /// Lets go of everything and opens it again, as another agent would.
    pub fn open_again(&mut self) {
        self.plane = None;
        self.plane = Some(self.host.run(|| open(&self.pin_dir)));
    }

    fn plane(&self) -> &Bpf {
        self.plane.as_ref().unwrap()
    }

    /// Directory of the pinned programs, links and maps.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Gives a backend another state, one of [`abi::state`].
    pub fn set_state(&mut self, backend: SocketAddr, state: u8) {
        let backends = self.desired.services.iter_mut();
        for entry in backends.flat_map(|service| &mut service.backends) {
            if entry.address == BackendAddress::Ip(backend) {
                entry.state = state;
            }
        }
        self.put_in_force();
    }

    fn put_in_force(&mut self) {
        for action in plan(&self.desired, &self.observed, &|_| false).unwrap() {
            let plane = self.plane.as_mut().unwrap();
            // The sockets that it claims belong to its host.
            self.host.run(|| plane.apply(&action)).unwrap();
            self.observed.note(&action);
        }
    }

    /// The backend for `client`, by `lb_common::select` on the host, as `lookup` shows it.
    pub fn choice(&self, service: &str, client: IpAddr) -> SocketAddr {
        let clients = self.plane().clients();
        let id = self.observed.service(service).unwrap();
        let usable = |_: &abi::Backend| true;
        let protocol = self.protocol(service);
        let mut tables =
            HostTables::new(id, protocol, &self.observed, clients.as_ref(), &usable).unwrap();
        let client = tables.client(client);
        address_of(&tables.preferences(&client)[0].0)
    }

    /// The backend that the kernel remembers for `client`.
    pub fn remembered(&self, service: &str, client: IpAddr) -> Option<SocketAddr> {
        let id = self.observed.service(service).unwrap();
        let head = self.observed.tables[&id].table().head;
        let client = Client::new(&head, &lb_common::addr::from_ip(client));
        let clients = self.plane().clients();
        let affinity = clients.affinity(self.protocol(service), &client.key)?;
        let index = affinity.backend.index() as usize;
        Some(address_of(&self.observed.backends[index]))
    }

    fn protocol(&self, service: &str) -> u8 {
        self.desired.service(service).unwrap().protocol
    }

    /// The counters of a backend.
    pub fn counts(&self, service: &str, backend: SocketAddr) -> BackendCounts {
        let id = self.observed.service(service).unwrap();
        let mut backends = self.observed.backends_of(id);
        let entry = backends.find(|entry| address_of(entry) == backend).unwrap();
        self.plane().backend_counts(entry).unwrap()
    }
}

fn open(pin_dir: &Path) -> Bpf {
    let settings = bpf::Settings {
        pin_dir: pin_dir.to_owned(),
        max_clients: 4096,
        cgroup: None,
        flows: bpf::FlowSettings::default(),
        kept: FdStore::default(),
    };
    Bpf::open(&settings).expect("load the programs").plane
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        self.plane = None;
        let _ = bpf::purge(&self.pin_dir);
    }
}
