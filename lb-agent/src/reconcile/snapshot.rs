//! Makes plans from a copy of the state in force, each on its own thread. Commands, health and the
//! network do not wait for them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caps::Capability;
use lb_common::abi::{BackendId, state};

use super::commands::{failed, not_changed, refuse};
use super::packets::{entrance, own_addresses, ports};
use super::{ReconcileError, Reconciler};
use crate::allocator;
use crate::control::message::{Refusal, RefusalKind, Reply, Submitted};
use crate::control::queue::Call;
use crate::dataplane::{self, Reader};
use crate::health::Health;
use crate::network::Network;
use crate::network::survey::Way;
use crate::privilege::keep_or_warn;
use crate::state::changes::{forget, removed, staying};
use crate::state::desired::Desired;
use crate::state::observed::Observed;
use crate::state::overlay::{self, Overlay, Target};
use crate::state::plan::plan;
use crate::state::preview::{Picture, Present, Preview, preview};
use crate::state::rename::carry_over;
use crate::state::surroundings::Surroundings;
use crate::state::targets::Ports;
use crate::state::verdict::Verdict;
use lb_config::{Config, ConfigError, PacketConfig};
use lb_net::Clients;
use lb_net::clock::boot_ns;

/// The nice value of threads that make plans. It gives them a third of the agent's CPU time if both
/// compete.
const PRIORITY: i32 = 5;

/// A copy of the state in force, with the inputs of the next configuration.
pub struct Snapshot {
    config: Config,
    config_path: Option<PathBuf>,
    overlay: Overlay,
    hash_key: [u64; 2],
    desired: Arc<Desired>,
    observed: Arc<Observed>,
    /// Open connections by backend, without the flows of the packet paths.
    clients: Arc<dyn Clients>,
    reader: Arc<dyn Reader>,
    steers: bool,
    network: Network,
    health: Health,
}

/// The facts about the host that a configuration depends on.
pub(super) struct Here<'a> {
    pub(super) steers: bool,
    pub(super) reader: &'a dyn Reader,
    pub(super) network: &'a Network,
    pub(super) config: &'a PacketConfig,
    pub(super) health: &'a Health,
    /// Checks that the kernel takes the packet programs.
    pub(super) packets: &'a dyn Fn() -> Result<(), &'static str>,
}

impl Surroundings for Here<'_> {
    fn can_steer(&self) -> bool {
        self.steers
    }

    fn is_local(&self, address: SocketAddr) -> bool {
        dataplane::is_local(address.ip())
    }

    fn is_mptcp(&self, address: SocketAddr) -> bool {
        self.reader.is_mptcp(address)
    }

    fn packets(&self) -> Result<(), &'static str> {
        entrance(self.network, self.config)?;
        (self.packets)()
    }

    fn way(&self, address: IpAddr) -> Option<Way> {
        self.network.way(address)
    }

    fn packet_settings(&self) -> (PacketConfig, Ports) {
        (self.config.clone(), ports())
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        own_addresses(self.network)
    }

    fn verdict(&self, target: &Target) -> Option<Verdict> {
        self.health.verdict(target)
    }
}

impl Reconciler {
    /// A copy of the state in force. Making it takes some milliseconds at most.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config.clone(),
            config_path: self.config_path.clone(),
            overlay: self.overlay.clone(),
            hash_key: self.hash_key,
            desired: Arc::clone(&self.desired),
            observed: Arc::clone(&self.observed),
            clients: self.l7.clients(),
            reader: self.plane.reader(),
            steers: self.plane.steers(),
            network: self.network(),
            health: self.health(),
        }
    }
}

impl Snapshot {
    /// Answers a call for the plan of a configuration. The plan runs on a thread of its own with a
    /// lower priority than the agent.
    pub fn answer(self, call: Call, config: Option<Submitted>, forget_runtime: bool) {
        let work = move || {
            // The configuration may be readable for its owner only.
            keep_or_warn(&[Capability::CAP_DAC_READ_SEARCH]);
            if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
                tracing::debug!(%error, "a plan is made with the priority of the agent");
            }
            let plan = self.plan(config.as_ref(), forget_runtime).map(Reply::Plan);
            drop(self);
            allocator::give_back();
            // The caller may have gone, so a send error is ignored.
            let _ = call.reply.send(plan);
        };
        let thread = std::thread::Builder::new().name("plan".into());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "no thread for a plan");
        }
    }

    /// Predicts the effect of a configuration: the submitted one, or else the agent's own file. With
    /// `forget_runtime` as if its services lost their changes made at run time.
    ///
    /// # Errors
    /// A refusal if the configuration is bad or does not fit, or if tables cannot be read.
    pub fn plan(
        &self,
        submitted: Option<&Submitted>,
        forget_runtime: bool,
    ) -> Result<Preview, Refusal> {
        let config = match submitted {
            Some(Submitted { text, source }) => lb_config::parse(text, Path::new(source)),
            None => lb_config::load(self.config_path.as_deref()),
        };
        self.preview(config.map_err(|error| bad(&error))?, forget_runtime)
    }

    /// Predicts the effect of a reload with `config`.
    pub(super) fn preview(&self, config: Config, forget_runtime: bool) -> Result<Preview, Refusal> {
        check_loops(&self.compose(&config, &Overlay::default()))?;
        let Next {
            config,
            overlay,
            restart,
            ..
        } = next(config, &self.config, &self.overlay, forget_runtime)?;
        let desired = self.compose(&config, &overlay);
        let mut after = Observed::clone(&self.observed);
        after.unix_sockets = desired.unix_sockets();
        let busy = |index: u32| self.open(self.observed.backends[index as usize].id) > 0;
        let actions = plan(&desired, &after, &busy).map_err(|error| failed("plan", &error))?;
        actions.iter().for_each(|action| after.note(action));
        let unread = |error: dataplane::Error| failed("plan", &error);
        let known = self.reader.known_clients().map_err(unread)?;
        let present = Present::new(known, self.open_connections().map_err(unread)?, boot_ns());
        let before = Picture {
            desired: &self.desired,
            observed: &self.observed,
        };
        let after = Picture {
            desired: &desired,
            observed: &after,
        };
        let mut preview = preview(before, after, &present);
        preview.notes.extend(removed(&config, &overlay));
        preview
            .notes
            .extend(staying(&self.config, &config, &overlay));
        preview.restart = restart;
        Ok(preview)
    }

    fn compose(&self, config: &Config, overlay: &Overlay) -> Desired {
        let here = Here {
            steers: self.steers,
            reader: self.reader.as_ref(),
            network: &self.network,
            config: &config.agent.packet,
            health: &self.health,
            packets: &|| self.reader.packets(),
        };
        Desired::new(config, overlay, self.hash_key, overlay::steady_ms(), &here)
    }

    fn open(&self, id: BackendId) -> u64 {
        match id {
            BackendId::NONE => 0,
            id => self.clients.active(id),
        }
    }

    /// Open connections of every backend, over all paths.
    fn open_connections(&self) -> Result<HashMap<BackendId, u64>, dataplane::Error> {
        let backends = self.observed.backends.iter();
        let present = backends.filter(|entry| entry.state != state::REMOVED);
        let open = present.map(|entry| {
            let flows = self.reader.open_flows(entry)?;
            Ok((entry.id, self.open(entry.id) + flows))
        });
        open.collect()
    }
}

/// Refuses a configuration with backends that lead to the agent itself. The cause may be an address
/// of this host or this data plane. `desired` is the configuration without changes made at run
/// time.
pub(super) fn check_loops(desired: &Desired) -> Result<(), Refusal> {
    let loops = desired.configured_loops();
    match loops.is_empty() {
        true => Ok(()),
        false => Err(not_changed("reload", &ReconcileError::Loops(loops))),
    }
}

/// The state after a reload.
pub(super) struct Next {
    pub(super) config: Config,
    /// The changes made at run time that stay.
    pub(super) overlay: Overlay,
    /// Whether a part of the configuration takes effect with a restart only.
    pub(super) restart: bool,
    /// Number of backends with changes made at run time that are forgotten.
    pub(super) forgotten: usize,
}

/// The state after a reload of `config` in the place of `now`. `forget_runtime` ends the changes made at run time
/// in services of a file.
pub(super) fn next(
    mut config: Config,
    now: &Config,
    overlay: &Overlay,
    forget_runtime: bool,
) -> Result<Next, Refusal> {
    if forget_runtime && config.source.is_none() {
        return Err(refuse(
            RefusalKind::Conflict,
            "there is no configuration file that changes made at run time could be dropped for"
                .to_owned(),
            Some("nothing was changed; remove-backend removes a backend"),
        ));
    }
    let mut overlay = overlay.clone();
    let is_known = |name: &str| now.services.iter().any(|service| service.name == name);
    carry_over(&mut overlay, &config, &is_known);
    // A removal is kept only for backends that are still in the file.
    overlay.removed.retain(|target| {
        config.services.iter().any(|service| {
            service.name == target.service
                && service
                    .backends
                    .iter()
                    .any(|backend| backend.address == target.address)
        })
    });
    let forgotten = match forget_runtime {
        true => forget(&config, &mut overlay),
        false => 0,
    };
    // The control socket may come from the command line.
    config.agent.control.clone_from(&now.agent.control);
    let restart = config.agent != now.agent;
    config.agent = now.agent.clone();
    Ok(Next {
        config,
        overlay,
        restart,
        forgotten,
    })
}

/// The refusal of a configuration that cannot be read.
pub(super) fn bad(error: &ConfigError) -> Refusal {
    refuse(
        RefusalKind::BadRequest,
        error.to_string(),
        Some("nothing was changed; `lb-agent check` finds the same"),
    )
}
