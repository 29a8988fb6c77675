//! The agent's life: open sockets and data plane, serve until told to stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lb_common::abi::PROXY_HTTP;
use lb_common::abi::packet::PacketSettings;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use crate::allocator;
use crate::control::message::Command;
use crate::control::queue::{Call, Inbox, queue};
use crate::control::server;
use crate::dataplane::bpf::kernel::{Kernel, OLDEST_KERNEL};
use crate::dataplane::bpf::{self, Bpf, FlowSettings, KernelLog, OpenError, leftover};
use crate::dataplane::memory::Memory;
use crate::dataplane::{Connections as _, DataPlane};
use crate::errors::chain;
use crate::http;
use crate::metrics;
use crate::network::{Network, sysctl::Sysctls};
use crate::privilege;
use crate::proxy::listener_set::ListenerSet;
use crate::reconcile::{LOOK_AGAIN, ReconcileError, Reconciler};
use crate::state::store::Store;
use lb_config::{Config, PacketConfig};
use lb_http::Engine;
use lb_net::admission::{Admission, Descriptors};
use lb_net::bind::Listening;
use lb_net::handover::{AcceptPolicy, FdStore};

/// How long connections on the userspace path may go on after the agent was told to stop.
const LAST_CONNECTIONS: Duration = Duration::from_secs(5);

/// Runs the agent until SIGTERM, SIGINT or `lb-agent stop`. `reload` reads `config_path` again; `None` for
/// the usual path.
pub fn run(config: Config, config_path: Option<PathBuf>) -> anyhow::Result<End> {
    privilege::confine()?;
    let kept = FdStore::take();
    let descriptors = Descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The main thread does the work that takes privileges.
        .on_thread_start(|| privilege::keep_or_warn(&[]))
        .build()?;
    runtime.block_on(serve(config, config_path, kept, descriptors))
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
}

async fn serve(
    config: Config,
    config_path: Option<PathBuf>,
    kept: FdStore,
    descriptors: Descriptors,
) -> anyhow::Result<End> {
    // The lock comes first: a second agent must not get as far as the maps.
    let store = Store::open(&config.agent.state_dir)?;
    let control = server::bind(&config.agent.control, config.agent.control_mode)?;
    let metrics = match &config.agent.metrics {
        Some(address) => Some(metrics::server::bind(address).await?),
        None => None,
    };
    privilege::settle()?;
    let admission = Admission::new(descriptors, config.agent.max_connections);
    let Planes {
        plane,
        notes,
        log,
        front,
        l7,
    } = open_planes(&config, &kept, &admission)?;
    let mut reconciler = Reconciler::new(config, config_path, store, plane, front, l7, notes)?;
    reconciler.sources().add(Arc::new(admission));
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

    let (calls, inbox) = queue();
    let (stop, stopped) = watch::channel(false);
    let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: the agent is stopping too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let metrics = metrics.map(|listener| {
        let most = descriptors.for_metrics();
        tokio::spawn(metrics::server::serve(listener, calls.clone(), most))
    });
    let server = tokio::spawn(server::serve(
        control,
        calls,
        metrics::server::response,
        descriptors.for_control(),
        until_stopped(stopped.clone()),
    ));
    if let Some(log) = log {
        log.forward();
    }
    let probes = tokio::spawn(reconciler.health().probe());
    tell_ready(listening);
    let end = answer(&mut reconciler, inbox).await?;

    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    probes.abort();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    let accept_policy = match end {
        End::Signal => AcceptPolicy::of_the_next(),
        End::Told => AcceptPolicy::Refused,
    };
    reconciler.wind_down(LAST_CONNECTIONS, accept_policy).await;
    Ok(end)
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

/// Carries out commands until one of them, or a signal, ends the agent.
async fn answer(reconciler: &mut Reconciler, mut inbox: Inbox) -> anyhow::Result<End> {
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
            _ = listeners.tick() => tokio::task::block_in_place(|| reconciler.look_for_listeners()),
            _ = watchdog.tick(), if alive.is_some() => {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
            _ = hangup.recv() => {
                let answer = tokio::task::block_in_place(|| reconciler.handle(Command::Reload { max_moved: None }));
                if let Err(refusal) = answer {
                    tracing::error!("reload on SIGHUP: {}", refusal.error);
                }
            }
            _ = reopen.recv() => tokio::task::block_in_place(|| reconciler.reopen_logs()),
            _ = terminate.recv() => return Ok(End::Signal),
            _ = interrupt.recv() => return Ok(End::Signal),
        }
    }
}

/// Carries out one call. Returns whether it has ended the agent.
fn carry_out(reconciler: &mut Reconciler, mut call: Call) -> bool {
    if let Command::Plan { config } = &mut call.command {
        let config = config.take();
        reconciler.snapshot().answer(call, config);
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

struct Planes {
    plane: Box<dyn DataPlane>,
    notes: Vec<String>,
    log: Option<KernelLog>,
    front: ListenerSet,
    l7: Engine,
}

/// Opens the data plane that the configuration asks for, or the best that there is.
fn open_planes(config: &Config, kept: &FdStore, admission: &Admission) -> anyhow::Result<Planes> {
    let agent = &config.agent;
    let max_clients = agent.max_clients;
    let userspace = |notes: Vec<String>| {
        let plane = Memory::new(max_clients);
        let front = ListenerSet::new(plane.clients(), false, kept.clone(), admission.clone());
        let workers = usize::from(agent.l7_workers);
        let l7 = http::engine(
            front.clients(),
            false,
            workers,
            kept.clone(),
            admission.clone(),
        );
        Planes {
            plane: Box::new(plane),
            notes,
            log: None,
            front,
            l7,
        }
    };
    if agent.data_plane == lb_config::DataPlane::Userspace {
        refuse_beside_pins(&agent.pin_dir, None)?;
        return Ok(userspace(Vec::new()));
    }
    let settings = bpf::Settings {
        pin_dir: agent.pin_dir.clone(),
        max_clients,
        cgroup: agent.cgroup.clone(),
        flows: flow_settings(&agent.packet),
    };
    match Bpf::open(&settings) {
        Ok(opened) => with_bpf(opened, usize::from(agent.l7_workers), kept, admission),
        Err(error) if agent.data_plane == lb_config::DataPlane::Auto && error.may_fall_back() => {
            let missing = format!("BPF cannot serve here: {}", explain(&error));
            refuse_beside_pins(&agent.pin_dir, Some(&missing))?;
            tracing::warn!("{missing}; every connection goes through the agent");
            Ok(userspace(vec![missing]))
        }
        // The other agent may be about to end.
        Err(error @ OpenError::InUse { .. }) => Err(anyhow::anyhow!(explain(&error))),
        Err(error) if !error.may_fall_back() => Err(WillNotHelp(explain(&error)).into()),
        Err(error) => Err(anyhow::anyhow!(explain(&error))),
    }
}

/// Programs of an earlier agent would decide about the same connections by other tables.
fn refuse_beside_pins(pin_dir: &Path, missing: Option<&str>) -> Result<(), WillNotHelp> {
    leftover::check(pin_dir).map_err(|found| {
        let mend = match missing {
            Some(missing) => format!("give this agent what it lacks to take them over ({missing})"),
            None => "have it take them over by data_plane = \"auto\"".to_owned(),
        };
        WillNotHelp(format!(
            "{found}: {mend}, or remove them as root with `lb-agent stop --purge` and start again"
        ))
    })
}

/// An error with its causes in one line and, if there is one, the remedy.
fn explain(error: &OpenError) -> String {
    let text = chain(error);
    let kernel = Kernel::running();
    if kernel.is_too_old() && error.may_fall_back() {
        let (major, minor) = OLDEST_KERNEL;
        tracing::debug!("{text}");
        return format!(
            "Linux {} is older than {major}.{minor}, the first that takes the programs of the kernel path",
            kernel.release
        );
    }
    let no_privilege = text.contains("Operation not permitted") || text.contains("os error 1)");
    if no_privilege && !rustix::process::geteuid().is_root() {
        return format!(
            "{text} (run lb-agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)"
        );
    }
    text
}

/// The kernel's data plane, with the listeners for connections that it cannot join itself.
fn with_bpf(
    opened: bpf::Opened,
    l7_workers: usize,
    kept: &FdStore,
    admission: &Admission,
) -> anyhow::Result<Planes> {
    let bpf::Opened {
        mut plane,
        notes,
        log,
    } = opened;
    let mut front = ListenerSet::new(plane.clients(), true, kept.clone(), admission.clone());
    let mut l7 = http::engine(
        front.clients(),
        true,
        l7_workers,
        kept.clone(),
        admission.clone(),
    );
    let mut notes = notes;
    let loopbacks = [
        (libc::AF_INET, IpAddr::from(Ipv4Addr::LOCALHOST), "v4"),
        (libc::AF_INET6, IpAddr::from(Ipv6Addr::LOCALHOST), "v6"),
    ];
    for (family, ip, version) in loopbacks {
        let address = SocketAddr::new(ip, 0);
        let listener = match front.listen_handed_over(address, &format!("proxy-{version}")) {
            Ok(listener) => listener,
            // Without an address family there are no clients of it.
            Err(error) => {
                notes.push(format!("no userspace path for {}: {error}", address.ip()));
                continue;
            }
        };
        plane.offer(family as u32, &listener)?;
        let listener = l7.listen_handed_over(address, &format!("l7-{version}"))?;
        plane.offer(family as u32 | PROXY_HTTP, &listener)?;
    }
    Ok(Planes {
        plane: Box::new(plane),
        notes,
        log: Some(log),
        front,
        l7,
    })
}

/// Removes the objects that an agent has left in the kernel, when none is running. `false` when there were
/// none.
pub fn purge(config: &Config) -> anyhow::Result<bool> {
    // Without a state directory, no agent uses it.
    let state_dir = &config.agent.state_dir;
    let _lock = state_dir
        .exists()
        .then(|| Store::open(state_dir))
        .transpose()?;
    let purged =
        bpf::purge(&config.agent.pin_dir).map_err(|error| anyhow::anyhow!(chain(&error)))?;
    let survey = Network::default().survey();
    let names: Vec<String> = survey.interfaces.values().map(|i| i.name.clone()).collect();
    bpf::remove_filters(&names);
    Sysctls::open(state_dir).restore();
    Ok(purged)
}

fn flow_settings(packet: &PacketConfig) -> FlowSettings {
    let ages = packet.timeouts;
    FlowSettings {
        flows: packet.flow_table,
        ages: PacketSettings {
            syn_s: ages.syn_s,
            established_s: ages.established_s,
            closing_s: ages.closing_s,
            udp_s: ages.udp_s,
            ..PacketSettings::default()
        },
    }
}
