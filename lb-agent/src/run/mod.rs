//! The agent's life: open sockets and data plane, serve until told to stop.

mod planes;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use crate::allocator;
use crate::control::message::{Command, Refusal, Reply};
use crate::control::queue::{Call, Calls, Inbox, queue};
use crate::control::server;
use crate::crowd::Phase;
use crate::dataplane::bpf;
use crate::errors::chain;
use crate::metrics::{self, listener::Listener};
use crate::network::{Network, sysctl::Sysctls};
use crate::page;
use crate::privilege;
use crate::reconcile::{LOOK_AGAIN, ReconcileError, Reconciler};
use crate::state::store::Store;
use crate::takeover::{self, Predecessor, Successors};
use lb_config::Config;
use lb_net::admission::{Admission, Descriptors};
use lb_net::bind::Listening;
use lb_net::handover::{AcceptPolicy, FdStore};
use planes::Planes;

/// Where the agent starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No other agent runs.
    Alone,
    /// The agent that runs, if there is one, is replaced without a gap.
    TakeOver {
        /// The log goes where that of the earlier agent went.
        takes_output: bool,
    },
}

/// Runs the agent until SIGTERM, SIGINT, `lb-agent stop` or another agent takes over. `reload` reads `config_path`
/// again; `None` for the usual path.
pub fn run(config: Config, config_path: Option<PathBuf>, start: Start) -> anyhow::Result<End> {
    privilege::confine()?;
    let origin = Origin::of(start, &config)?;
    let descriptors = Descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The main thread does the work that takes privileges.
        .on_thread_start(|| privilege::keep_or_warn(&[]))
        .build()?;
    runtime.block_on(serve(config, config_path, origin, descriptors))
}

/// What an agent starts with.
struct Origin {
    /// Descriptors of an earlier agent.
    kept: FdStore,
    /// The running agent, if this one takes over from it.
    predecessor: Option<Predecessor>,
    takes_output: bool,
}

impl Origin {
    fn of(start: Start, config: &Config) -> anyhow::Result<Self> {
        let Start::TakeOver { takes_output } = start else {
            return Ok(Self::alone());
        };
        let asked = Predecessor::ask(&config.agent.state_dir);
        let asked = asked.map_err(|error| WillNotHelp(error.to_string()))?;
        Ok(match asked {
            None => Self::alone(),
            Some((predecessor, kept)) => Self {
                kept,
                predecessor: Some(predecessor),
                takes_output,
            },
        })
    }

    fn alone() -> Self {
        Self {
            kept: FdStore::take(),
            predecessor: None,
            takes_output: false,
        }
    }

    /// Ends the predecessor: this agent serves.
    fn replace(&mut self) -> Result<(), WillNotHelp> {
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(());
        };
        let (pid, version) = (predecessor.pid, predecessor.version.clone());
        tokio::task::block_in_place(|| predecessor.replace(self.takes_output))
            .map_err(|error| WillNotHelp(error.to_string()))?;
        tracing::info!(pid, version, "taken over from the agent before");
        Ok(())
    }
}

/// Why there is no agent, and trying again will not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WillNotHelp(String);

/// The cause of an agent's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A signal: the supervisor may start the agent again.
    Signal,
    /// `lb-agent stop`: it is to stay stopped.
    Told,
    /// Another agent serves in its place.
    TakenOver,
}

async fn serve(
    config: Config,
    config_path: Option<PathBuf>,
    mut origin: Origin,
    descriptors: Descriptors,
) -> anyhow::Result<End> {
    let kept = origin.kept.clone();
    let state_dir = config.agent.state_dir.clone();
    // The lock comes first: a second agent must not get as far as the maps.
    let store = Store::open(&state_dir, &kept)?;
    let listeners = Listeners::open(&config, &kept).await?;
    privilege::settle()?;
    let admission = Admission::new(descriptors, config.agent.max_connections);
    let Planes {
        plane,
        notes,
        log,
        front,
        l7,
    } = planes::open(&config, &kept, &admission)?;
    let mut reconciler = Reconciler::new(config, config_path, store, plane, front, l7, notes)?;
    reconciler.sources().add(Arc::new(admission));
    reconciler
        .sources()
        .add(Arc::new(metrics::syn_cookies::Counts));
    reconciler.start().map_err(|error| match error {
        // Another port helps, not another try.
        ReconcileError::Loops(_) => WillNotHelp(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    allocator::give_back();
    let listening = reconciler.listening();
    if listening.is_in_vain() {
        let problems = reconciler.listen_problems().join("; ");
        return Err(WillNotHelp(format!("nothing can be served: {problems}")).into());
    }
    kept.forget_others();
    origin.replace()?;

    let (calls, inbox) = queue();
    let servers = listeners.serve(calls, descriptors);
    if let Some(log) = log {
        log.forward();
    }
    let probes = tokio::spawn(reconciler.health().probe());
    tell_ready(listening);
    let next = Next {
        successors: Successors::listen(&state_dir),
        kept: kept.clone(),
        phase: servers.phase.clone(),
    };
    let end = answer(&mut reconciler, inbox, next).await?;

    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    probes.abort();
    servers.end(end).await;
    let accept_policy = match end {
        End::Signal => AcceptPolicy::of_the_next(),
        End::Told => AcceptPolicy::Refused,
        End::TakenOver => AcceptPolicy::TakenOver,
    };
    kept.release_all();
    reconciler.wind_down(accept_policy).await;
    Ok(end)
}

/// The sockets for commands, for metrics and for the live page.
struct Listeners {
    control: UnixListener,
    metrics: Option<Listener>,
    page: Option<(Listener, Vec<String>)>,
}

impl Listeners {
    /// Opens them, or takes those of an earlier agent that are at the same addresses.
    async fn open(config: &Config, kept: &FdStore) -> anyhow::Result<Self> {
        const CONTROL: &str = "control";
        let path = &config.agent.control;
        let control = match kept.unix_listener(CONTROL, path) {
            Some(listener) => UnixListener::from_std(listener)?,
            None => server::bind(path, config.agent.control_mode)?,
        };
        kept.hold(CONTROL, [&control]);
        let metrics = match &config.agent.metrics {
            Some(address) => Some(metrics::server::bind(address, kept).await?),
            None => None,
        };
        let page = match &config.agent.page {
            Some(address) => {
                let listener = Listener::bind(page::NAME, address, kept).await?;
                Some((listener, config.agent.page_hosts.clone()))
            }
            None => None,
        };
        Ok(Self {
            control,
            metrics,
            page,
        })
    }

    fn serve(self, calls: Calls, descriptors: Descriptors) -> Servers {
        if let Err(error) = server::appear_behind(&self.control) {
            tracing::warn!(%error, "commands see another process behind the control socket");
        }
        let (phase, phases) = watch::channel(Phase::Serving);
        let metrics = self.metrics.map(|listener| {
            let (calls, most) = (calls.clone(), descriptors.for_metrics());
            tokio::spawn(metrics::server::serve(
                listener,
                calls,
                most,
                phases.clone(),
            ))
        });
        let page = self.page.map(|(listener, names)| {
            let (calls, most) = (calls.clone(), descriptors.for_metrics());
            tokio::spawn(page::serve(listener, names, calls, most, phases.clone()))
        });
        let control = tokio::spawn(server::serve(
            self.control,
            calls,
            metrics::server::response,
            descriptors.for_control(),
            phases,
        ));
        Servers {
            phase,
            control,
            others: metrics.into_iter().chain(page).collect(),
        }
    }
}

/// The tasks that serve [`Listeners`].
struct Servers {
    phase: watch::Sender<Phase>,
    control: JoinHandle<std::io::Result<()>>,
    /// Those of metrics and the live page.
    others: Vec<JoinHandle<()>>,
}

impl Servers {
    async fn end(self, end: End) {
        self.phase.send_replace(match end {
            End::Signal | End::Told => Phase::Ending,
            End::TakenOver => Phase::TakenOver,
        });
        for other in &self.others {
            other.abort();
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), self.control).await;
    }
}

/// The agent that may take over from this one.
struct Next {
    successors: Successors,
    kept: FdStore,
    phase: watch::Sender<Phase>,
}

impl Next {
    /// Hands everything over to the agent that asks. Nothing is changed meanwhile, and who asks has to wait. Returns
    /// whether that agent serves now.
    async fn hand_over(&self, stream: UnixStream) -> bool {
        tracing::info!("another agent is about to take over");
        self.phase.send_replace(Phase::Waiting);
        let kept = self.kept.clone();
        let handed = tokio::task::spawn_blocking(move || takeover::hand_over(&stream, &kept)).await;
        match handed.map_err(std::io::Error::other).flatten() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "another agent has not taken over, this one goes on");
                self.phase.send_replace(Phase::Serving);
                false
            }
        }
    }
}

/// The agent serves, if not everywhere.
fn tell_ready(Listening { open, failed, .. }: Listening) {
    let mut states = vec![NotifyState::Ready];
    let degraded = format!(
        "degraded: {failed} of {} listening sockets cannot be opened",
        open + failed
    );
    if failed == 0 {
        tracing::info!("ready");
    } else {
        tracing::warn!("ready, but {degraded} (see lb-agent status)");
        states.push(NotifyState::Status(&degraded));
    }
    let _ = sd_notify::notify(&states);
}

/// Carries out commands until one of them, a signal or another agent ends this one.
async fn answer(reconciler: &mut Reconciler, mut inbox: Inbox, next: Next) -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let health = reconciler.health();
    let network = reconciler.network();
    if let Err(error) = network.watch() {
        tracing::warn!(%error, "changes of the network are noticed late");
    }
    // In this very loop: an agent that does not get to it is one that hangs.
    let alive = sd_notify::watchdog_enabled().map(|period| period / 2);
    let mut watchdog = tokio::time::interval(alive.unwrap_or(Duration::from_secs(3600)));
    watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listeners = tokio::time::interval(LOOK_AGAIN);
    listeners.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let tick = reconciler.next_tick().map(Instant::from_std);
        tokio::select! {
            call = inbox.next() => {
                let Some(call) = call else { return Ok(End::Signal) };
                if carry_out(reconciler, call) {
                    return Ok(End::Told);
                }
            }
            () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => {
                tokio::task::block_in_place(|| reconciler.tick());
            }
            () = network.changed() => tokio::task::block_in_place(|| reconciler.network_changed()),
            () = health.changed() => tokio::task::block_in_place(|| reconciler.tick()),
            _ = listeners.tick() => tokio::task::block_in_place(|| {
                reconciler.look_for_listeners();
                reconciler.ban_offenders();
            }),
            _ = watchdog.tick(), if alive.is_some() => {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
            _ = hangup.recv() => {
                let answer = tokio::task::block_in_place(|| reconciler.handle(Command::Reload { max_moved: None, forget_runtime: false }));
                log_reload(answer);
            }
            stream = next.successors.next() => {
                if next.hand_over(stream).await {
                    return Ok(End::TakenOver);
                }
                if let Err(error) = tokio::task::block_in_place(|| reconciler.resume()) {
                    tracing::error!(error = %chain(&error), "the state of before could not be put in force");
                }
            }
            _ = reopen.recv() => tokio::task::block_in_place(|| reconciler.reopen_logs()),
            _ = terminate.recv() => return Ok(End::Signal),
            _ = interrupt.recv() => return Ok(End::Signal),
        }
    }
}

/// Logs the outcome of a reload on SIGHUP.
fn log_reload(answer: Result<Reply, Refusal>) {
    let command = "reload";
    match answer {
        Ok(Reply::Changed { message }) => {
            let message = message.lines().next().unwrap_or_default();
            tracing::info!(command, "{message} (on SIGHUP)");
        }
        Ok(_) => tracing::info!(command, "reloaded (on SIGHUP)"),
        Err(Refusal { error, .. }) => {
            let error = error.lines().collect::<Vec<_>>().join("; ");
            tracing::error!(command, error, "reload refused: {error} (on SIGHUP)");
        }
    }
}

/// Carries out one call. Returns whether it has ended the agent.
fn carry_out(reconciler: &mut Reconciler, mut call: Call) -> bool {
    if let Command::Plan {
        config,
        forget_runtime,
    } = &mut call.command
    {
        let (config, forget_runtime) = (config.take(), *forget_runtime);
        reconciler.snapshot().answer(call, config, forget_runtime);
        return false;
    }
    let Call {
        command,
        reply,
        share,
    } = call;
    let stops = matches!(command, Command::Stop { .. });
    let answer = tokio::task::block_in_place(|| reconciler.handle(command));
    let done = answer.is_ok();
    drop(share);
    // The asker may have hung up.
    let _ = reply.send(answer);
    stops && done
}

/// Removes the objects that an agent has left in the kernel, when none is running. `false` when there were
/// none.
pub fn purge(config: &Config) -> anyhow::Result<bool> {
    // Without a state directory, no agent uses it.
    let state_dir = &config.agent.state_dir;
    let _lock = state_dir
        .exists()
        .then(|| Store::open(state_dir, &FdStore::default()))
        .transpose()?;
    let purged =
        bpf::purge(&config.agent.pin_dir).map_err(|error| anyhow::anyhow!(chain(&error)))?;
    let survey = Network::default().survey();
    let names: Vec<String> = survey.interfaces.values().map(|i| i.name.clone()).collect();
    bpf::remove_filters(&names);
    Sysctls::open(state_dir).restore();
    Ok(purged)
}
