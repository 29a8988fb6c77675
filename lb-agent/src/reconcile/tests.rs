//! Runs commands on in-memory tables that fail on request.

mod bans;
mod lookup;
mod runtime;

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::control::message::{Command, RefusalKind, Reply};
use crate::control::queue::Call;
use crate::control::status::Status;
use crate::dataplane::memory::Memory;
use crate::dataplane::{
    BackendCounts, Connections, Counts, Describe, Error, Listeners, PacketPaths, Reader,
    ServiceCounts, Tables,
};
use crate::state::action::Action;
use crate::state::preview::Known;
use lb_net::Clients;
use lb_net::admission::Admission;
use lb_net::handover::FdStore;

/// A [`Memory`] that is shared with the test.
#[derive(Clone)]
struct Shared {
    memory: Arc<Mutex<Memory>>,
    /// A lock that listing the clients waits for.
    gate: Arc<Mutex<()>>,
    /// The ports on which an application listens; `None` if that is unknown.
    listening: Arc<Mutex<Option<Vec<u16>>>>,
}

impl Shared {
    fn new() -> Self {
        Self {
            memory: Arc::new(Mutex::new(Memory::new(16))),
            gate: Arc::default(),
            listening: Arc::default(),
        }
    }

    fn get(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

struct SlowReader(Arc<Mutex<()>>);

impl Reader for SlowReader {
    fn known_clients(&self) -> Result<Vec<Known>, Error> {
        let _open = self.0.lock().unwrap();
        Ok(Vec::new())
    }
}

impl Describe for Shared {
    fn name(&self) -> &'static str {
        self.get().name()
    }
}

impl Tables for Shared {
    fn observe(&self) -> Result<Observed, Error> {
        self.get().observe()
    }
    fn apply(&mut self, action: &Action) -> Result<(), Error> {
        self.get().apply(action)
    }
    fn purge(&mut self) -> Result<(), Error> {
        self.get().purge()
    }
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(SlowReader(Arc::clone(&self.gate)))
    }
}

impl Connections for Shared {
    fn clients(&self) -> Arc<dyn Clients> {
        self.get().clients()
    }
    fn busy(&self, index: u32) -> bool {
        self.get().busy(index)
    }
    fn close_connections(&self, backend: &lb_common::abi::Backend) -> Result<usize, Error> {
        self.get().close_connections(backend)
    }
    fn close_clients(&self, pick: crate::dataplane::Pick<'_>) -> Result<usize, Error> {
        self.get().close_clients(pick)
    }
}

impl Listeners for Shared {
    fn steers(&self) -> bool {
        // The userspace path then opens no listener.
        true
    }
    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String> {
        self.get().adopt_listeners(observed)
    }
    fn listening(
        &self,
    ) -> Result<Option<std::collections::HashSet<lb_common::abi::BackendId>>, Error> {
        let ports = self.listening.lock().unwrap();
        let observed = self.get().observe()?;
        Ok(ports.as_ref().map(|ports| {
            let backends = observed.backends.iter();
            let listens = backends.filter(|entry| ports.contains(&entry.port));
            listens.map(|entry| entry.id).collect()
        }))
    }
}

impl Counts for Shared {
    fn backend_counts(&self, backend: &abi::Backend) -> Result<BackendCounts, Error> {
        self.get().backend_counts(backend)
    }
    fn service_counts(&self, service: abi::ServiceId) -> Result<ServiceCounts, Error> {
        self.get().service_counts(service)
    }
}

impl PacketPaths for Shared {}

struct Bench {
    dir: tempfile::TempDir,
    plane: Shared,
}

impl Bench {
    fn new(backends: &str) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
            plane: Shared::new(),
        };
        bench.configure(backends);
        bench
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn configure(&self, backends: &str) {
        let text = format!(
            "[agent]\nstate_dir = '{0}/state'\ncontrol = '{0}/control'\n\
             [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{backends}]\n",
            self.dir.path().display()
        );
        std::fs::write(self.config_path(), text).unwrap();
    }

    /// A new agent on the same state directory and tables.
    fn agent(&self) -> Reconciler {
        let config = lb_config::load(Some(&self.config_path())).unwrap();
        let store = Store::open(&config.agent.state_dir, &FdStore::default()).unwrap();
        let front = ListenerSet::new(
            self.plane.clients(),
            true,
            FdStore::default(),
            Admission::default(),
        );
        let l7 = http::engine(
            front.clients(),
            true,
            1,
            FdStore::default(),
            Admission::default(),
        );
        let path = Some(self.config_path());
        let plane = Box::new(self.plane.clone());
        let mut agent = Reconciler::new(config, path, store, plane, front, l7, Vec::new()).unwrap();
        agent.start().unwrap();
        agent
    }
}

fn add(address: &str) -> Command {
    Command::AddBackend {
        address: address.parse().unwrap(),
        service: None,
        weight: None,
        ensure: false,
    }
}

fn remove(address: &str) -> Command {
    Command::RemoveBackend {
        address: address.parse().unwrap(),
        service: None,
    }
}

fn drain(address: &str, timeout: Duration) -> Command {
    let address = address.parse().unwrap();
    Command::DrainBackend {
        address,
        service: None,
        timeout: Some(timeout),
        at_end: Default::default(),
        now: false,
    }
}

fn status(agent: &mut Reconciler) -> Status {
    match agent.handle(Command::Status).unwrap() {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

/// The address, state and source of every backend.
fn backends(agent: &mut Reconciler) -> Vec<String> {
    let service = status(agent).services.remove(0);
    let line = |b: crate::control::status::BackendStatus| {
        format!("{} {} {}", b.address, b.state, b.source)
    };
    service.backends.into_iter().map(line).collect()
}

/// The part of the new clients that each backend gets, 0 to 1.
fn shares(agent: &mut Reconciler) -> Vec<f64> {
    let service = status(agent).services.remove(0);
    service
        .backends
        .iter()
        .map(|backend| backend.share)
        .collect()
}

#[test]
fn what_was_changed_at_run_time_comes_back_after_a_restart() {
    let bench = Bench::new("'127.0.0.1:5000', '127.0.0.1:5001'");
    let mut agent = bench.agent();
    agent.handle(add("127.0.0.1:5002")).unwrap();
    agent.handle(remove("127.0.0.1:5000")).unwrap();
    agent
        .handle(drain("127.0.0.1:5001", Duration::from_secs(3600)))
        .unwrap();
    let before = backends(&mut agent);
    assert_eq!(
        before,
        ["127.0.0.1:5001 draining file", "127.0.0.1:5002 up runtime"]
    );
    drop(agent);
    assert_eq!(backends(&mut bench.agent()), before);
    // A reboot leaves no tables.
    *bench.plane.get() = Memory::new(16);
    assert_eq!(backends(&mut bench.agent()), before);
}

#[test]
fn a_change_that_fails_half_way_is_taken_back_whole() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    let before = backends(&mut agent);
    let tables_before = format!(
        "{:?}",
        bench
            .plane
            .observe()
            .unwrap()
            .backends_of(abi::ServiceId(0))
            .collect::<Vec<_>>()
    );
    // The entry is written, the table is not.
    for steps in 0..2 {
        bench.plane.get().fail_after = Some(steps);
        let refusal = agent.handle(add("127.0.0.1:5001")).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Failed);
        bench.plane.get().fail_after = None;
        assert_eq!(backends(&mut agent), before, "{steps} steps");
        // The next change repairs the state that could not be undone.
        agent.handle(add("127.0.0.1:5002")).unwrap();
        agent.handle(remove("127.0.0.1:5002")).unwrap();
        let tables = format!(
            "{:?}",
            bench
                .plane
                .observe()
                .unwrap()
                .backends_of(abi::ServiceId(0))
                .collect::<Vec<_>>()
        );
        assert_eq!(tables, tables_before, "{steps} steps");
    }
    drop(agent);
    assert_eq!(
        backends(&mut bench.agent()),
        before,
        "nothing of it was kept"
    );
}

#[test]
fn a_change_that_cannot_be_kept_is_not_made() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    // A directory takes the name of the temporary file, so even root cannot write the file.
    std::fs::create_dir(bench.dir.path().join("state/state.new")).unwrap();
    let refusal = agent.handle(add("127.0.0.1:5001")).unwrap_err();
    assert!(refusal.error.contains("state.new"), "{}", refusal.error);
    assert_eq!(backends(&mut agent), ["127.0.0.1:5000 up file"]);
}

#[test]
fn a_drain_that_is_over_has_its_state_and_add_backend_brings_it_back() {
    let bench = Bench::new("'127.0.0.1:5000', '127.0.0.1:5001'");
    let mut agent = bench.agent();
    agent
        .handle(drain("127.0.0.1:5001", Duration::from_secs(3600)))
        .unwrap();
    assert!(agent.next_tick().is_some());
    agent
        .handle(drain("127.0.0.1:5001", Duration::ZERO))
        .unwrap();
    assert_eq!(agent.next_tick(), None);
    agent.tick();
    assert_eq!(backends(&mut agent)[1], "127.0.0.1:5001 drained file");
    assert_eq!(shares(&mut agent), [1.0, 0.0]);
    agent.handle(add("127.0.0.1:5001")).unwrap();
    assert_eq!(backends(&mut agent)[1], "127.0.0.1:5001 up file");
    let halves = shares(&mut agent);
    assert!(
        halves.iter().all(|share| (0.49..0.51).contains(share)),
        "{halves:?}"
    );
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_reason() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    let cases = [
        (
            add("127.0.0.1:5000"),
            RefusalKind::Conflict,
            "already a backend",
        ),
        (
            remove("127.0.0.1:5009"),
            RefusalKind::NotFound,
            "not a backend",
        ),
        (
            drain("127.0.0.1:5009", Duration::ZERO),
            RefusalKind::NotFound,
            "not a backend",
        ),
        (
            Command::AddBackend {
                address: "127.0.0.1:5001".parse().unwrap(),
                service: Some("shop".to_owned()),
                weight: None,
                ensure: false,
            },
            RefusalKind::NotFound,
            "no service \"shop\"",
        ),
        (
            add("unix:/run/app.sock"),
            RefusalKind::BadRequest,
            "for HTTP",
        ),
    ];
    for (command, kind, text) in cases {
        let refusal = agent.handle(command.clone()).unwrap_err();
        assert_eq!(refusal.kind, kind, "{command:?}: {refusal:?}");
        assert!(refusal.error.contains(text), "{command:?}: {refusal:?}");
    }
    assert_eq!(backends(&mut agent), ["127.0.0.1:5000 up file"]);
}

#[test]
fn a_bad_file_changes_nothing_and_a_good_one_everything_at_once() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    std::fs::write(
        bench.config_path(),
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:0']\n",
    )
    .unwrap();
    let refusal = agent
        .handle(Command::Reload {
            max_moved: None,
            forget_runtime: false,
        })
        .unwrap_err();
    assert!(refusal.error.contains("config.toml:3"), "{}", refusal.error);
    assert_eq!(backends(&mut agent), ["127.0.0.1:5000 up file"]);
    bench.configure("'127.0.0.1:6000', '127.0.0.1:6001'");
    agent
        .handle(Command::Reload {
            max_moved: None,
            forget_runtime: false,
        })
        .unwrap();
    assert_eq!(
        backends(&mut agent),
        ["127.0.0.1:6000 up file", "127.0.0.1:6001 up file"]
    );
}

#[test]
fn a_removed_backend_of_the_file_stays_away_until_it_is_added_again() {
    let bench = Bench::new("'127.0.0.1:5000', { address = '127.0.0.1:5001', weight = 7 }");
    let mut agent = bench.agent();
    let Reply::Changed { message } = agent.handle(remove("127.0.0.1:5001")).unwrap() else {
        panic!("no message");
    };
    assert!(message.contains("still in the configuration"), "{message}");
    agent
        .handle(Command::Reload {
            max_moved: None,
            forget_runtime: false,
        })
        .unwrap();
    assert_eq!(backends(&mut agent), ["127.0.0.1:5000 up file"]);
    agent.handle(add("127.0.0.1:5001")).unwrap();
    assert_eq!(status(&mut agent).services[0].backends[1].weight, 7);
}

#[test]
fn another_weight_is_a_change_and_outlives_a_reload() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    let heavier = Command::AddBackend {
        address: "127.0.0.1:5000".parse().unwrap(),
        service: Some("web".to_owned()),
        weight: Some(5),
        ensure: false,
    };
    agent.handle(heavier).unwrap();
    agent
        .handle(Command::Reload {
            max_moved: None,
            forget_runtime: false,
        })
        .unwrap();
    assert_eq!(status(&mut agent).services[0].backends[0].weight, 5);
}

#[test]
fn the_path_of_the_configuration_is_a_path() {
    // `reload` reads the same file that `run` was given.
    let bench = Bench::new("");
    let mut agent = bench.agent();
    assert_eq!(
        status(&mut agent).agent.config.as_deref().map(Path::new),
        Some(bench.config_path().as_path())
    );
}

#[test]
fn changes_are_made_while_a_plan_is() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    bench.configure("'127.0.0.1:6000'");
    let shut = bench.plane.gate.lock().unwrap();
    let (reply, mut replied) = tokio::sync::oneshot::channel();
    let call = Call {
        command: Command::Plan {
            config: None,
            forget_runtime: false,
        },
        reply,
        share: None,
    };
    agent.snapshot().answer(call, None, false);
    agent.handle(add("127.0.0.1:5001")).unwrap();
    agent.tick();
    assert_eq!(backends(&mut agent).len(), 2);
    assert!(replied.try_recv().is_err(), "the plan is still being made");
    drop(shut);
    let Reply::Plan(plan) = replied.blocking_recv().unwrap().unwrap() else {
        panic!("no plan")
    };
    let [web] = &plan.services[..] else {
        panic!("{plan:?}")
    };
    let addresses: Vec<String> = web.backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(
        addresses,
        ["127.0.0.1:6000", "127.0.0.1:5000"],
        "of when it was asked for"
    );
}

/// Renames the service `web` of the bench, and adds a line below its name.
fn rename(bench: &Bench, to: &str, line: &str) {
    bench.configure("'127.0.0.1:5000'");
    let text = std::fs::read_to_string(bench.config_path()).unwrap();
    let named = format!("name = '{to}'\n{line}");
    std::fs::write(bench.config_path(), text.replace("name = 'web'", &named)).unwrap();
}

#[test]
fn backends_added_at_run_time_go_with_a_renamed_service_over_reload_and_restart() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    agent.handle(add("127.0.0.1:5001")).unwrap();
    let two = ["127.0.0.1:5000 up file", "127.0.0.1:5001 up runtime"];
    rename(&bench, "shop", "was = 'web'");
    let told = agent
        .handle(Command::Reload {
            max_moved: None,
            forget_runtime: false,
        })
        .unwrap();
    let Reply::Changed { message } = told else {
        panic!("{told:?}")
    };
    assert!(message.contains("web is shop from now on"), "{message}");
    assert_eq!(backends(&mut agent), two);
    drop(agent);
    // The service is renamed again while no agent is running.
    rename(&bench, "store", "was = 'shop'");
    let mut agent = bench.agent();
    assert_eq!(backends(&mut agent), two);
    assert_eq!(agent.desired.services[0].hash_name, "web");
    drop(agent);
    rename(&bench, "store", "");
    let mut agent = bench.agent();
    assert_eq!(backends(&mut agent), two);
    assert_eq!(agent.desired.services[0].hash_name, "web");
    let ids = &bench.plane.observe().unwrap().names;
    assert_eq!(
        ids.keys().map(|id| id.0).collect::<Vec<_>>(),
        [0],
        "one service all the time"
    );
}

#[test]
fn rename_that_fails_half_way_is_taken_back_with_its_id() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    rename(&bench, "shop", "was = 'web'\nmax_load = 2");
    // The step that names the service succeeds, the next one fails.
    bench.plane.get().fail_after = Some(1);
    let reload = Command::Reload {
        max_moved: None,
        forget_runtime: false,
    };
    assert!(agent.handle(reload.clone()).is_err());
    bench.plane.get().fail_after = None;
    agent.tick();
    agent.handle(reload).unwrap();
    let names = bench.plane.observe().unwrap().names;
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [(abi::ServiceId(0), "shop".to_owned())]
    );
}

#[test]
fn backend_whose_application_does_not_listen_has_a_state_of_its_own_and_no_share() {
    let bench = Bench::new("'127.0.0.1:5000', '127.0.0.1:5001'");
    let mut agent = bench.agent();
    *bench.plane.listening.lock().unwrap() = Some(vec![5001]);
    assert_eq!(
        backends(&mut agent),
        ["127.0.0.1:5000 no listener file", "127.0.0.1:5001 up file"]
    );
    assert_eq!(shares(&mut agent), [0.0, 1.0]);
    agent
        .handle(drain("127.0.0.1:5000", Duration::from_secs(60)))
        .unwrap();
    assert_eq!(
        backends(&mut agent)[0],
        "127.0.0.1:5000 draining file",
        "a drain is what the operator has asked for"
    );
}

#[test]
fn l7_path_hears_which_applications_listen() {
    let bench = Bench::new("'127.0.0.1:5000', '192.0.2.1:80'");
    let mut agent = bench.agent();
    let presences = |agent: &mut Reconciler| {
        agent.look_for_listeners();
        agent.sightings.by_port()
    };
    *bench.plane.listening.lock().unwrap() = Some(vec![]);
    assert_eq!(presences(&mut agent), [(5000, lb_http::Presence::Never)]);
    *bench.plane.listening.lock().unwrap() = Some(vec![5000]);
    assert_eq!(
        presences(&mut agent),
        [(5000, lb_http::Presence::Listening)]
    );
    *bench.plane.listening.lock().unwrap() = Some(vec![]);
    let gone = presences(&mut agent);
    assert!(
        matches!(gone[..], [(5000, lb_http::Presence::Gone(_))]),
        "{gone:?}"
    );
}
