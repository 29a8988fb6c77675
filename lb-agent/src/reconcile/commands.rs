//! Carries out each command, and makes its answer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::abi::state;

use super::{ReconcileError, Reconciler};
use crate::control::facts::RequestFacts;
use crate::control::message::{Command, Refusal, RefusalKind, Reply};
use crate::control::status::Status;
use crate::dataplane::bpf::strangers::{Stranger, strangers};
use crate::errors::chain;
use crate::report::{self, figures::Figures};
use crate::state::changes::removed;
use crate::state::desired::{Backend, Service};
use crate::state::overlay::{self, AtEnd, Drained, Overlay, Target};
use lb_config::BackendAddress;
use lb_net::admission::is_near;

/// The default length of a drain.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

impl Reconciler {
    /// Carries out one command. The caller drops the reconciler after [`Command::Stop`].
    pub fn handle(&mut self, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::Status => self.status_with_applications().map(Reply::Status),
            Command::Stats => self.stats(),
            Command::Lookup {
                client,
                service,
                request,
            } => self.lookup(client, service.as_deref(), &request),
            Command::AddBackend {
                address,
                service,
                weight,
                ensure,
            } => self.add_backend(address, service.as_deref(), weight, ensure),
            Command::RemoveBackend { address, service } => {
                self.remove_backend(address, service.as_deref())
            }
            Command::ResetBackend { address, service } => {
                self.reset_backend(address, service.as_deref())
            }
            Command::DrainBackend {
                address,
                service,
                timeout,
                at_end,
                now,
            } => {
                let timeout = timeout.unwrap_or(DEFAULT_DRAIN);
                self.drain_backend(address, service.as_deref(), timeout, (at_end, now))
            }
            Command::Ban(ban) => self.ban(ban),
            Command::Unban { prefix, service } => self.unban(prefix, service.as_deref()),
            Command::Bans => Ok(Reply::Bans(self.bans())),
            Command::Reload {
                max_moved,
                forget_runtime,
            } => self.reload(max_moved, forget_runtime),
            // The agent's loop makes plans on a thread instead: see [`super::snapshot`].
            Command::Plan {
                config,
                forget_runtime,
            } => {
                let plan = self.snapshot().plan(config.as_ref(), forget_runtime);
                plan.map(Reply::Plan)
            }
            Command::Cache { prefix, most } => self.cache(&prefix, most as usize),
            Command::PurgeCache { what } => self.purge_cache(&what),
            Command::Stop { purge } => self.stop(purge),
        }
    }

    fn stats(&self) -> Result<Reply, Refusal> {
        let status = self.status()?;
        let figures = Figures {
            desired: &self.desired,
            observed: &self.observed,
            counts: self.plane.as_ref(),
            steers: self.plane.steers(),
            front: &self.front,
            l7: &self.l7,
            sources: &self.sources,
            evicted: &self.evicted,
        };
        figures
            .stats(status)
            .map(|stats| Reply::Stats(Box::new(stats)))
            .map_err(|error| failed("read the tables", &error))
    }

    /// The status with the processes of backends, which figures do without.
    fn status_with_applications(&mut self) -> Result<Status, Refusal> {
        let mut status = self.status()?;
        report::applications::add(
            &mut status,
            &mut self.applications,
            &self.desired,
            &self.observed,
        );
        Ok(status)
    }

    fn status(&self) -> Result<Status, Refusal> {
        let notes = self.problems.iter().cloned().chain(self.front.problems());
        let notes = notes.chain(self.l7.problems());
        let notes = notes.chain(self.plane.refusals());
        let notes = notes.chain(self.surveyed.problems.iter().cloned());
        let notes = notes.chain(removed(&self.config, &self.overlay));
        let notes = notes.chain(self.crowded()).chain(self.strangers());
        let loops = self.desired.loops().into_iter();
        let notes = notes.chain(loops.map(|line| format!("{line}; it gets nobody")));
        let sources = report::Sources {
            desired: &self.desired,
            observed: &self.observed,
            counts: self.plane.as_ref(),
            listeners: self.plane.as_ref(),
            front: &self.front,
            health: &self.health,
            l7: &self.l7,
        };
        let status = report::status(&self.about, &sources, notes.collect());
        let failed = |error| failed("read the tables", &error);
        let mut status = status.map_err(failed)?;
        status.agent.degraded = self.listening().failed > 0;
        status.agent.packets = self.packet_status().map_err(failed)?;
        Ok(status)
    }

    /// Other processes that listen on the addresses of services with backends. They get no new
    /// connections any more.
    pub(super) fn strangers(&self) -> impl Iterator<Item = String> {
        let services = self.desired.services.iter();
        services.flat_map(|service| self.strangers_of(service))
    }

    fn strangers_of(&self, service: &Service) -> Vec<String> {
        if !self.plane.steers() || service.backends.is_empty() {
            return Vec::new();
        }
        let backends = service.backends.iter();
        let backends: Vec<SocketAddr> = backends.filter_map(|b| b.address.ip()).collect();
        let found = strangers(service.protocol, &service.listen, &backends);
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(%error, "list the listening sockets");
            Vec::new()
        });
        let name = &service.name;
        let told = |Stranger { bound, whose }| {
            format!(
                "{whose} listens on {bound} too, and gets nobody who comes for {name} (stop it, add it as a \
                 backend, or give {name} another address)"
            )
        };
        found.into_iter().map(told).collect()
    }

    /// Limits on connections through the agent that are almost reached.
    fn crowded(&self) -> impl Iterator<Item = String> {
        let admission = self.front.admission();
        let of_services = self
            .observed
            .max_connections
            .iter()
            .filter_map(|(id, most)| {
                let open = admission.open(*id);
                let name = self.observed.names.get(id)?;
                is_near(open, *most as usize).then(|| {
                format!(
                    "{open} of {most} connections of {name} through the agent are open (raise its \
                     max_connections, or see whose they are)"
                )
            })
            });
        admission.problems().into_iter().chain(of_services)
    }

    fn lookup(
        &self,
        client: IpAddr,
        service: Option<&str>,
        request: &RequestFacts,
    ) -> Result<Reply, Refusal> {
        let service = self.named(service)?;
        let listening = self
            .plane
            .listening()
            .map_err(|error| failed("read the tables", &error))?;
        let tables = report::Tables {
            observed: &self.observed,
            l7: &self.l7,
            listening: listening.as_ref(),
        };
        let found = report::lookup(service, &tables, client, request);
        found.map(Reply::Lookup).ok_or_else(|| {
            let error = format!("{} has no table", service.name);
            refuse(RefusalKind::Failed, error, None)
        })
    }

    /// Refuses a backend that the path of its service cannot reach.
    fn check_path(&self, target: &Target) -> Result<(), Refusal> {
        let mut services = self.config.services.iter();
        let Some(service) = services.find(|service| service.name == target.service) else {
            return Ok(());
        };
        lb_config::check_path(service, &target.address).map_err(|problem| {
            let error = format!("add {} to {}: {problem}", target.address, target.service);
            refuse(RefusalKind::BadRequest, error, None)
        })
    }

    fn add_backend(
        &mut self,
        address: BackendAddress,
        service: Option<&str>,
        weight: Option<u16>,
        ensure: bool,
    ) -> Result<Reply, Refusal> {
        let service = self.taker(service, &address)?;
        let (target, present) = self.target(service, address);
        let address = &target.address;
        lb_config::check_backend(service.mode, address).map_err(|problem| {
            refuse(
                RefusalKind::BadRequest,
                format!("add {address} to {}: {problem}", target.service),
                None,
            )
        })?;
        self.check_path(&target)?;
        let in_file = self.in_file(&target);
        let mut overlay = self.overlay.clone();
        overlay.restore(&target);
        let verb = match present {
            Some(backend) if backend.state != state::UP => {
                if let Some(weight) = weight {
                    overlay.add(target.clone(), weight);
                }
                "put back in service"
            }
            Some(backend) if weight.is_none_or(|weight| weight == backend.weight) => {
                let message = format!("{address} is already a backend of {}", target.service);
                if ensure {
                    return Ok(Reply::Unchanged { message });
                }
                return Err(refuse(
                    RefusalKind::Conflict,
                    message,
                    Some("give --weight to change its weight, or see `lb-agent status`"),
                ));
            }
            Some(_) => {
                overlay.add(target.clone(), weight.unwrap_or(1));
                "changed the weight of"
            }
            None => {
                // A removed backend of the file comes back with its settings in the file.
                if !in_file || weight.is_some() {
                    overlay.add(target.clone(), weight.unwrap_or(1));
                }
                "added"
            }
        };
        self.change_overlay(overlay)?;
        let mut services = self.desired.services.iter();
        let service = services.find(|service| service.name == target.service);
        let strangers = service.map_or(Vec::new(), |service| self.strangers_of(service));
        let Reply::Changed { mut message } = self.say(verb, &target)? else {
            return changed(verb);
        };
        if service.is_some_and(|service| self.has_no_listener(service, &target.address)) {
            message += " (nothing listens there yet)";
        }
        for line in &strangers {
            tracing::warn!("{line}");
        }
        let lines: String = strangers.iter().map(|line| format!("\n{line}")).collect();
        changed(format!("{message}{lines}"))
    }

    /// Whether nothing listens at the address of a backend on this host.
    fn has_no_listener(&self, service: &Service, address: &BackendAddress) -> bool {
        let listening = self.plane.listening().unwrap_or_else(|error| {
            tracing::debug!(error = %chain(&error), "who listens is not known");
            None
        });
        report::has_no_listener(service, &self.observed, listening.as_ref(), address)
    }

    fn remove_backend(
        &mut self,
        address: BackendAddress,
        service: Option<&str>,
    ) -> Result<Reply, Refusal> {
        let service = self.holder(service, &address)?;
        let (target, present) = self.target(service, address);
        present.ok_or_else(|| no_such_backend(&target))?;
        let in_file = self.in_file(&target);
        let mut overlay = self.overlay.clone();
        overlay.forget(&target);
        if in_file {
            overlay.removed.push(target.clone());
        }
        self.change_overlay(overlay)?;
        let Reply::Changed { message } = self.say("removed", &target)? else {
            return changed("removed");
        };
        changed(if in_file {
            format!("{message} (it is still in the configuration file: take it out there too)")
        } else {
            message
        })
    }

    fn drain_backend(
        &mut self,
        address: BackendAddress,
        service: Option<&str>,
        timeout: Duration,
        (at_end, moved): (AtEnd, bool),
    ) -> Result<Reply, Refusal> {
        let service = self.holder(service, &address)?;
        let (target, present) = self.target(service, address);
        present.ok_or_else(|| no_such_backend(&target))?;
        let mut overlay = self.overlay.clone();
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        overlay.put_drain(Drained {
            target: target.clone(),
            until_unix_ms: overlay::steady_ms().saturating_add(timeout_ms),
            at_end,
            moved,
        });
        self.change_overlay(overlay)?;
        changed(format!(
            "draining {} of {}: no new clients, {}",
            target.address,
            target.service,
            about_drain(timeout, at_end, moved),
        ))
    }

    pub(super) fn change_overlay(&mut self, overlay: Overlay) -> Result<(), Refusal> {
        self.change(self.config.clone(), overlay)
            .map_err(|error| not_changed("make the change", &error))
    }

    pub(super) fn say(&self, verb: &str, target: &Target) -> Result<Reply, Refusal> {
        let Target { service, address } = target;
        let backends = self
            .desired
            .service(service)
            .map_or(0, |service| service.backends.len());
        changed(format!(
            "{verb} {address} ({service}: {})",
            count(backends, "backend")
        ))
    }

    fn target(&self, service: &Service, address: BackendAddress) -> (Target, Option<Backend>) {
        let target = Target {
            service: service.name.clone(),
            address,
        };
        let present = service.backend(&target.address).cloned();
        (target, present)
    }

    pub(super) fn in_file(&self, target: &Target) -> bool {
        self.config.services.iter().any(|service| {
            service.name == target.service
                && service
                    .backends
                    .iter()
                    .any(|backend| backend.address == target.address)
        })
    }
}

pub(super) fn changed(message: impl Into<String>) -> Result<Reply, Refusal> {
    Ok(Reply::Changed {
        message: message.into(),
    })
}

pub(super) fn refuse(kind: RefusalKind, error: String, hint: Option<&str>) -> Refusal {
    Refusal {
        kind,
        error,
        hint: hint.map(str::to_owned),
    }
}

pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> Refusal {
    refuse(
        RefusalKind::Failed,
        format!("{what}: {}", chain(error)),
        Some("nothing was changed; the agent's log may say more"),
    )
}

/// Turns the error of a change into a refusal. A loop is a mistake in the request.
pub(super) fn not_changed(what: &str, error: &ReconcileError) -> Refusal {
    match error {
        ReconcileError::Loops(lines) => refuse(
            RefusalKind::BadRequest,
            lines.join("\n"),
            Some("nothing was changed"),
        ),
        error => failed(what, error),
    }
}

pub(super) fn no_such_backend(target: &Target) -> Refusal {
    refuse(
        RefusalKind::NotFound,
        format!("{} is not a backend of {}", target.address, target.service),
        Some("`lb-agent status` lists them"),
    )
}

/// The effect of a drain on the clients of a backend, in words.
fn about_drain(timeout: Duration, at_end: AtEnd, moved: bool) -> String {
    let time = humantime::format_duration(Duration::from_secs(timeout.as_secs()));
    let clients = match (moved, at_end) {
        (true, _) => "known ones move".to_owned(),
        (false, AtEnd::Keep) => "known ones stay".to_owned(),
        (false, _) => format!("known ones may stay for {time}"),
    };
    match at_end {
        AtEnd::Close => format!("{clients}; connections are closed after {time}"),
        AtEnd::Leave | AtEnd::Keep => clients,
    }
}

/// A number with its noun, as in "1 backend" or "2 backends".
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
