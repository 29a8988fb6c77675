//! The task that owns the desired state and puts it in force. Commands are carried out one after
//! the other. Each is answered after the data plane has the change.

mod bans;
mod cache;
mod commands;
mod cookies;
mod drain;
mod packets;
mod passive;
mod presence;
mod reload;
mod reset;
pub mod snapshot;
mod stop;
#[cfg(test)]
mod tests;
mod which;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::abi::{self, path, state};
use lb_common::access::Set;

pub use commands::DEFAULT_DRAIN;

use packets::Surveyed;
use snapshot::Here;

use crate::dataplane::bpf::applications::Applications;
use crate::dataplane::{self, DataPlane};
use crate::errors::chain;
use crate::health::{Health, Watched};
use crate::http;
use crate::metrics::Sources;
use crate::proxy::listener_set::ListenerSet;
use crate::report::{self, figures::Evicted};
use crate::state::access;
use crate::state::action::Action;
use crate::state::desired::{self, Desired};
use crate::state::observed::{Observed, address_of};
use crate::state::overlay::{self, Overlay, Target};
use crate::state::plan::{PlanError, plan};
use crate::state::rename::{back, carry_over};
use crate::state::route::MPTCP;
use crate::state::store::{Store, StoreError};
use lb_config::Config;
use lb_http::Engine;
use lb_net::bind::Listening;
use lb_net::handover::AcceptPolicy;

/// The reasons why a change could not be put in force. The state that was in force before stays in
/// force.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The change could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The desired state does not fit the tables.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The data plane refused the change.
    #[error(transparent)]
    DataPlane(#[from] dataplane::Error),
    /// Connections would come back to the agent in an endless loop.
    #[error("{}", .0.join("; "))]
    Loops(Vec<String>),
}

/// Delay before a change that could not be put in force is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Delay before an occupied listen address is tried again. Its holder may be an agent that is about
/// to end.
const LISTEN_AGAIN: Duration = Duration::from_millis(250);

/// Delay before sockets that could not be adopted are tried again.
const ADOPT_AGAIN: Duration = Duration::from_secs(5);

/// Interval between two looks at the listening sockets of applications.
pub const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Time for open connections on the userspace path after the agent was told to stop.
const LAST_CONNECTIONS: Duration = Duration::from_secs(5);

/// Owner of the desired and the observed state.
pub struct Reconciler {
    config: Config,
    config_path: Option<PathBuf>,
    store: Store,
    overlay: Overlay,
    hash_key: [u64; 2],
    plane: Box<dyn DataPlane>,
    desired: Arc<Desired>,
    /// Whether `desired` has been in force once.
    started: bool,
    /// The tables in force. Listeners, HTTP workers, `status`, plans and metrics share them.
    observed: Arc<Observed>,
    front: ListenerSet,
    health: Health,
    l7: Engine,
    about: report::About,
    problems: Vec<String>,
    sources: Sources,
    evicted: Evicted,
    /// Time of the next attempt at a change that could not be put in force.
    retry: Option<Instant>,
    /// Time of the last adoption of listening sockets.
    adopted_at: Instant,
    failures: passive::Failures,
    looks: drain::Looks,
    sightings: presence::Sightings,
    applications: Applications,
    /// Time of the next step of a slow start.
    ramp: Option<Instant>,
    surveyed: Surveyed,
}

impl Reconciler {
    /// Reads the state that the data plane has in force. Changes nothing yet: see
    /// [`Reconciler::start`].
    pub fn new(
        config: Config,
        config_path: Option<PathBuf>,
        store: Store,
        plane: Box<dyn DataPlane>,
        front: ListenerSet,
        mut l7: Engine,
        notes: Vec<String>,
    ) -> Result<Self, ReconcileError> {
        let secret = config.agent.hash_seed.map_or_else(|| store.secret(), Ok)?;
        let words = u128::from_be_bytes(secret);
        let observed = Arc::new(plane.observe()?);
        let mut overlay = store.overlay()?;
        carry_over(&mut overlay, &config, &|name| {
            observed.service(name).is_some()
        });
        warn(&config, &overlay);
        let health = Health::default();
        front.tell_failures_to(health.failure_reports());
        l7.tell_failures_to(Arc::new(health.failure_reports()));
        let surveyed = Surveyed::new(&config.agent.state_dir);
        Ok(Self {
            about: report::About::new(&config, plane.name(), notes),
            config,
            config_path,
            store,
            overlay,
            hash_key: [(words >> 64) as u64, words as u64],
            plane,
            desired: Arc::default(),
            started: false,
            observed,
            front,
            health,
            l7,
            problems: Vec::new(),
            sources: Sources::default(),
            evicted: Evicted::default(),
            retry: None,
            adopted_at: Instant::now(),
            looks: drain::Looks::default(),
            sightings: presence::Sightings::default(),
            applications: Applications::default(),
            ramp: None,
            failures: passive::Failures::default(),
            surveyed,
        })
    }

    /// Puts the configuration and the stored changes in force.
    pub fn start(&mut self) -> Result<(), ReconcileError> {
        // This comes first, so that a backend found down by the last agent stays down until a probe
        // passes.
        let desired = self.compose(&self.config, &self.overlay);
        self.watch(&desired);
        self.overlay.forget_ended(overlay::steady_ms());
        let desired = self.compose(&self.config, &self.overlay);
        no_loops(desired.configured_loops())?;
        self.put_in_force(desired)?;
        if self.overlay != self.store.overlay()? {
            self.store.keep(&self.overlay)?;
        }
        self.strangers().for_each(|line| tracing::warn!("{line}"));
        Ok(())
    }

    /// Puts the desired state in force again, after another agent may have changed the tables.
    pub fn resume(&mut self) -> Result<(), ReconcileError> {
        self.plane.reclaim()?;
        self.observed = Arc::new(self.plane.observe()?);
        let desired = Arc::clone(&self.desired);
        self.carry_out(&desired)
    }

    /// The health of the backends. The caller runs [`Reconciler::tick`] after each change of it.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Makes the health checks cover the backends of `desired`, and no others.
    fn watch(&self, desired: &Desired) {
        let mut wanted = Vec::new();
        for service in &desired.services {
            let Some(check) = &service.health else {
                continue;
            };
            let id = self.observed.service(&service.name);
            let checked = |backend: &&desired::Backend| !check.passive || backend.elsewhere;
            for backend in service.backends.iter().filter(checked) {
                let in_force = id.and_then(|id| {
                    let mut backends = self.observed.backends_of(id);
                    backends.find(|entry| address_of(entry) == backend.address.key())
                });
                let down = in_force.is_some_and(|entry| entry.state == state::DOWN);
                let target = Target {
                    service: service.name.clone(),
                    address: backend.address.clone(),
                };
                wanted.push(Watched {
                    target,
                    check: Arc::clone(check),
                    up: !down || backend.drain.is_some(),
                });
            }
        }
        self.health.watch(wanted);
    }

    /// The registry for parts that count on their own.
    pub fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// The latest time for the next call of [`Reconciler::tick`].
    pub fn next_tick(&self) -> Option<Instant> {
        let now = Instant::now();
        // The kernel does not report new UDP sockets.
        let udp = self.steers_udp().then(|| now + Duration::from_millis(200));
        let closing = self.closing().then(|| now + drain::AGAIN);
        let step = self.next_step(now).map(|step| match self.retry {
            Some(retry) => step.max(retry),
            None => step,
        });
        let failures = self.counts_failures().then(|| now + passive::AGAIN);
        let packets = self.next_packet_step();
        let deaf = self.listening().failed > 0;
        let listen = deaf.then(|| now + LISTEN_AGAIN);
        [step, udp, closing, failures, packets, listen, self.retry]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time of the next change of the desired state that needs no command. It may be in the past.
    fn next_step(&self, now: Instant) -> Option<Instant> {
        let now_ms = overlay::steady_ms();
        let backends = self.desired.services.iter().flat_map(|s| &s.backends);
        let drains = backends.filter_map(|backend| backend.drain.filter(|drain| !drain.over));
        let drain = drains
            .map(|drain| drain.until_unix_ms.saturating_sub(now_ms))
            .min()
            .map(|left_ms| now + Duration::from_millis(left_ms));
        let ends = self.desired.bans.iter().filter_map(|ban| ban.until_unix_ms);
        let left_ms = ends.min().map(|until_ms| until_ms.saturating_sub(now_ms));
        let ban = left_ms.map(|left_ms| now + Duration::from_millis(left_ms));
        [drain, ban, self.ramp].into_iter().flatten().min()
    }

    /// Ends drains that are over, follows the health of backends, and looks for new UDP sockets.
    pub fn tick(&mut self) {
        self.pass_failures_on();
        // This is asked first, so that no step is missed that comes meanwhile or during a command.
        self.ramp = self.health.next_step();
        let desired = self.compose(&self.config, &self.overlay);
        self.retry = None;
        if desired != *self.desired
            && let Err(error) = self.put_in_force(desired)
        {
            tracing::error!(error = %chain(&error), "a change of state could not be put in force");
            self.retry = Some(Instant::now() + RETRY);
        }
        self.close_drained();
        self.front.try_again();
        self.l7.try_again();
        if self.steers_udp() {
            self.adopt();
        }
        if self.surveyed.next_is_due() {
            let desired = std::mem::take(&mut self.desired);
            self.follow(&desired);
            self.desired = desired;
        }
    }

    /// Takes account of a change of the network.
    pub fn network_changed(&mut self) {
        if let Err(error) = self.plane.distrust_routes() {
            tracing::warn!(error = %chain(&error), "packets may go the way of before for a while");
        }
        self.tick();
    }

    /// Looks again which applications listen, and by which kinds of sockets. The kernel reports
    /// neither new MPTCP sockets nor closed ones. The caller does so about every [`LOOK_AGAIN`].
    pub fn look_for_listeners(&mut self) {
        self.look_for_kinds();
        self.follow_presence();
    }

    fn look_for_kinds(&mut self) {
        let concerns = |backend: &desired::Backend| {
            backend.route.path == path::SOCKET || backend.route.why == MPTCP
        };
        if !self.desired.backends().any(concerns) {
            return;
        }
        let changed = self.plane.look_for_listeners();
        if changed {
            self.tick();
        }
        let again = !self.problems.is_empty() && self.adopted_at.elapsed() >= ADOPT_AGAIN;
        if changed || again {
            self.adopt();
        }
    }

    /// The numbers of the agent's own listen addresses that are open and that failed.
    pub fn listening(&self) -> Listening {
        self.front.listening() + self.l7.listening()
    }

    /// The reasons why listen addresses are not open, a line each.
    pub fn listen_problems(&self) -> Vec<String> {
        self.front.problems().chain(self.l7.problems()).collect()
    }

    /// Reopens the files of the access logs after log rotation.
    pub fn reopen_logs(&self) {
        self.l7.reopen_logs();
    }

    /// Ends the userspace paths. Open connections may go on for [`LAST_CONNECTIONS`], on the L7 path for
    /// the longest drain time of a service. A new agent can start meanwhile. If one is expected, the other
    /// paths go on as before until the L7 path has ended.
    pub async fn wind_down(self, accept_policy: AcceptPolicy) {
        let longest = self.longest_drain();
        let Self {
            front,
            l7,
            store,
            plane,
            ..
        } = self;
        // Dropping the store releases the lock on the state.
        drop((store, plane));
        let mut http = std::pin::pin!(l7.wind_down(longest, accept_policy));
        let before = match accept_policy {
            AcceptPolicy::TakenOver | AcceptPolicy::Refused => Duration::ZERO,
            AcceptPolicy::Wait | AcceptPolicy::Served => longest,
        };
        let over = tokio::time::timeout(before, &mut http).await.is_ok();
        let http = async {
            if !over {
                http.await;
            }
        };
        tokio::join!(front.wind_down(LAST_CONNECTIONS, accept_policy), http);
    }

    /// The time that the L7 path has for its end.
    fn longest_drain(&self) -> Duration {
        let http = self.desired.services.iter().filter_map(|s| s.http.as_ref());
        let drains = http.map(|http| http.settings.timeouts.drain);
        drains.max().unwrap_or_default()
    }

    fn steers_udp(&self) -> bool {
        self.observed.backends.iter().any(|backend| {
            backend.state != state::REMOVED
                && backend.protocol == abi::protocol::UDP
                && backend.path == path::SOCKET
        })
    }

    fn compose(&self, config: &Config, overlay: &Overlay) -> Desired {
        let reader = self.plane.reader();
        let here = Here {
            steers: self.plane.steers(),
            reader: reader.as_ref(),
            network: &self.surveyed.network,
            config: &config.agent.packet,
            health: &self.health,
            packets: &|| self.plane.packets(),
        };
        Desired::new(config, overlay, self.hash_key, overlay::steady_ms(), &here)
    }

    /// Plans and carries out the steps to `desired`. If a step fails, the steps before it are
    /// undone by a plan back to the last desired state. A starting agent does not know that state.
    /// The state in force then stays.
    fn put_in_force(&mut self, desired: Desired) -> Result<(), ReconcileError> {
        match self.carry_out(&desired) {
            Ok(()) => {
                self.watch(&desired);
                for line in desired.new_loops(&self.desired) {
                    tracing::warn!("{line}; it gets nobody");
                }
                self.desired = Arc::new(desired);
                self.started = true;
                Ok(())
            }
            Err(error) => {
                if !self.started {
                    return Err(error);
                }
                let before = back(&self.desired, &desired);
                if let Err(again) = self.carry_out(&before) {
                    tracing::error!(error = %chain(&again), "a change could not be undone");
                }
                Err(error)
            }
        }
    }

    /// Whether the backend at an index has open connections on any path.
    fn busy(&self) -> impl Fn(u32) -> bool + '_ {
        let clients = self.l7.clients();
        move |index| {
            let id = self.observed.backends[index as usize].id;
            self.plane.busy(index) || (id != abi::BackendId::NONE && clients.active(id) > 0)
        }
    }

    fn carry_out(&mut self, desired: &Desired) -> Result<(), ReconcileError> {
        let actions = plan(desired, &self.observed, &self.busy())?;
        // Bans are there before a table or an address leads to a service, and go after it: nobody comes in between.
        let rules = access::rules(desired, &self.observed, &actions);
        self.plane.add_rules(&rules)?;
        self.front.admission().set_rules(Set::new(rules.clone()));
        if let Some(mut ahead) = self.observed.with_first_tables(&actions) {
            // A client may come through the kernel's table before the next line is over.
            ahead.complete(desired);
            self.front.publish(&Arc::new(ahead));
        }
        let outcome = self.apply(&actions);
        // The userspace path must know the state in force even after a failure.
        Arc::make_mut(&mut self.observed).complete(desired);
        self.front.publish(&self.observed);
        http::publish(&mut self.l7, desired, &self.observed);
        outcome?;
        self.plane.keep_rules(&rules)?;
        self.adopt();
        self.follow(desired);
        Ok(())
    }

    /// Applies the steps of a plan. The sockets of backends that already listen are entered before a table or an
    /// address leads to them: clients would be refused in between.
    fn apply(&mut self, actions: &[Action]) -> Result<(), dataplane::Error> {
        let leads = |action: &Action| matches!(action, Action::PutTable(..) | Action::Listen(..));
        let is_backend = |action: &Action| matches!(action, Action::PutBackend(_));
        let mut has_backends = false;
        for part in actions.chunk_by(|action, next| leads(action) || !leads(next)) {
            if has_backends && part.first().is_some_and(leads) {
                self.adopt();
            }
            // Other holders of the old state keep it until the new one is published to them.
            let observed = Arc::make_mut(&mut self.observed);
            let mut note = |action: &Action| observed.note(action);
            self.plane.apply_all(part, &mut note)?;
            has_backends = part.iter().any(is_backend);
        }
        Ok(())
    }

    /// Stores `overlay` and puts it in force over `config`. A failure leaves both as they were.
    fn change(&mut self, config: Config, overlay: Overlay) -> Result<(), ReconcileError> {
        let desired = self.compose(&config, &overlay);
        no_loops(desired.new_loops(&self.desired))?;
        self.store.keep(&overlay)?;
        if let Err(error) = self.put_in_force(desired) {
            if let Err(again) = self.store.keep(&self.overlay) {
                tracing::error!(error = %chain(&again), "a change could not be taken back");
            }
            return Err(error);
        }
        self.config = config;
        self.overlay = overlay;
        if !self.closing() {
            self.front.end(&HashSet::new());
            self.l7.end(&HashSet::new());
        }
        Ok(())
    }

    fn adopt(&mut self) {
        self.adopted_at = Instant::now();
        let problems = self.plane.adopt_listeners(&self.observed);
        for problem in problems
            .iter()
            .filter(|problem| !self.problems.contains(problem))
        {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
    }
}

/// Refuses a change that would bring the forwarding loops `loops`.
/// Logs the warnings about `config`, beside which there are the changes made at run time.
fn warn(config: &Config, overlay: &Overlay) {
    let has_more = |name: &str| overlay.added.iter().any(|it| it.target.service == name);
    for warning in lb_config::warnings(config, &has_more) {
        tracing::warn!("{warning}");
    }
}

fn no_loops(loops: Vec<String>) -> Result<(), ReconcileError> {
    if loops.is_empty() {
        Ok(())
    } else {
        Err(ReconcileError::Loops(loops))
    }
}
