//! The agent's HTTP engine in this process.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use lb_agent::dataplane::Connections as _;
use lb_agent::dataplane::memory::Memory;
use lb_agent::http;
use lb_agent::state::desired::Desired;
use lb_agent::state::observed::Observed;
use lb_agent::state::overlay::Overlay;
use lb_agent::state::plan::plan;
use lb_agent::state::surroundings::Surroundings;
use lb_net::admission::Admission;
use lb_net::handover::FdStore;

/// A host of which nothing is known.
struct Here;

impl Surroundings for Here {
    fn can_steer(&self) -> bool {
        false
    }

    fn is_local(&self, _address: SocketAddr) -> bool {
        true
    }
}

/// A proxy with one worker, which ends with the process.
pub(crate) struct Engine {
    address: SocketAddr,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Engine {
    pub(crate) fn new(backend: SocketAddr) -> Self {
        Self::with(&format!("backends = ['{backend}']\n"))
    }

    /// With these settings of the service.
    pub(crate) fn with(settings: &str) -> Self {
        let address = free_port();
        let text = format!(
            "[[service]]\nname = 'app'\nmode = 'http'\nlisten = ['{address}']\n\
             {settings}[service.http.upstream]\nmax_fails = 0\n\
             [service.http.compression]\nenabled = false\n"
        );
        let config = lb_config::parse(&text, Path::new("test.toml")).unwrap();
        let desired = Desired::new(&config, &Overlay::default(), [1, 2], 0, &Here);
        let mut observed = Observed::default();
        for action in plan(&desired, &observed, &|_| false).unwrap() {
            observed.note(&action);
        }
        let clients = Memory::new(64).clients();
        let mut engine = http::engine(clients, false, 1, FdStore::default(), Admission::default());
        http::publish(&mut engine, &desired, &Arc::new(observed));
        assert_eq!(engine.problems().collect::<Vec<_>>(), Vec::<String>::new());
        std::mem::forget(engine);
        Self { address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
