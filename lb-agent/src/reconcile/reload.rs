//! Another configuration: what it would change, and its coming into force.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use lb_common::abi::{BackendId, state};

use super::commands::{changed, count, failed, not_changed, refuse};
use super::{ReconcileError, Reconciler};
use crate::config::{self, Config, ConfigError};
use crate::control::message::{Part, Refusal, RefusalKind, Reply, Submitted};
use crate::dataplane;
use crate::host::boot_ns;
use crate::l7::tls::check_config;
use crate::state::overlay::Overlay;
use crate::state::plan::plan;
use crate::state::preview::{Picture, Present, Preview, preview};

impl Reconciler {
    /// Reads the configuration again. A bad one changes nothing.
    pub(super) fn reload(&mut self, max_moved: Option<Part>) -> Result<Reply, Refusal> {
        let config = config::load(self.config_path.as_deref()).map_err(|error| bad(&error))?;
        let certificates = check_config(&config, SystemTime::now());
        if !certificates.unusable.is_empty() {
            return Err(refuse(
                RefusalKind::BadRequest,
                certificates.unusable.join("\n"),
                Some("nothing was changed; `lb-agent check` finds the same"),
            ));
        }
        self.check_loops(&config)?;
        if let Some(most) = max_moved {
            let preview = self.preview(config.clone())?;
            if preview.moved > most.fraction() {
                return Err(too_many(&preview, most));
            }
        }
        for problem in &certificates.refused {
            tracing::warn!("{problem}");
        }
        self.l7.read_certificates_again();
        let (config, overlay, restart) = self.next(config);
        self.change(config, overlay)
            .map_err(|error| not_changed("reload", &error))?;
        let backends: usize = self.desired.services.iter().map(|s| s.backends.len()).sum();
        let services = self.desired.services.len();
        changed(format!(
            "reloaded: {}, {}{}",
            count(services, "service"),
            count(backends, "backend"),
            if restart {
                " (what changed under [agent] comes with a restart)"
            } else {
                ""
            },
        ))
    }

    /// What a configuration would change: the one that is sent along, or the agent's own file.
    pub(super) fn plan(&self, submitted: Option<&Submitted>) -> Result<Preview, Refusal> {
        let config = match submitted {
            Some(Submitted { text, source }) => config::parse(text, Path::new(source)),
            None => config::load(self.config_path.as_deref()),
        };
        self.preview(config.map_err(|error| bad(&error))?)
    }

    /// The configuration as a reload would take it, with the changes made at run time that stay;
    /// and whether some of it comes with a restart only.
    fn next(&self, mut config: Config) -> (Config, Overlay, bool) {
        let mut overlay = self.overlay.clone();
        // What the file does not have any more need not be hidden.
        overlay.removed.retain(|target| {
            config.services.iter().any(|service| {
                service.name == target.service
                    && service
                        .backends
                        .iter()
                        .any(|backend| backend.address == target.address)
            })
        });
        // The socket may have been named on the command line.
        config.agent.control.clone_from(&self.config.agent.control);
        let restart = config.agent != self.config.agent;
        config.agent = self.config.agent.clone();
        (config, overlay, restart)
    }

    /// Refuses a configuration with backends that are the agent itself: by addresses of this host,
    /// or with this data plane.
    fn check_loops(&self, config: &Config) -> Result<(), Refusal> {
        let loops = self.compose(config, &Overlay::default()).configured_loops();
        match loops.is_empty() {
            true => Ok(()),
            false => Err(not_changed("reload", &ReconcileError::Loops(loops))),
        }
    }

    fn preview(&self, config: Config) -> Result<Preview, Refusal> {
        self.check_loops(&config)?;
        let (config, overlay, restart) = self.next(config);
        let desired = self.compose(&config, &overlay);
        let mut after = self.observed.clone();
        after.unix_sockets = desired.unix_sockets();
        let actions =
            plan(&desired, &after, &self.busy()).map_err(|error| failed("plan", &error))?;
        actions.iter().for_each(|action| after.note(action));
        let known = self
            .plane
            .known_clients()
            .map_err(|error| failed("plan", &error))?;
        let open = self
            .open_connections()
            .map_err(|error| failed("plan", &error))?;
        let present = Present {
            known: &known,
            active: &|entry| open.get(&entry.id).copied().unwrap_or(0),
            now_ns: boot_ns(),
        };
        let before = Picture {
            desired: &self.desired,
            observed: &self.observed,
        };
        let after = Picture {
            desired: &desired,
            observed: &after,
        };
        let mut preview = preview(before, after, &present);
        preview.restart = restart;
        Ok(preview)
    }

    /// Open connections of every backend, on all paths.
    fn open_connections(&self) -> Result<HashMap<BackendId, u64>, dataplane::Error> {
        let backends = self.observed.backends.iter();
        let present = backends.filter(|entry| entry.state != state::REMOVED);
        let open = present.map(|entry| {
            let mut counts = self.plane.backend_counts(entry)?;
            counts += self.front.backend_counts(entry.id);
            counts += self.l7.backend_counts(entry.id);
            Ok((entry.id, counts.active))
        });
        open.collect()
    }
}

fn bad(error: &ConfigError) -> Refusal {
    refuse(
        RefusalKind::BadRequest,
        error.to_string(),
        Some("nothing was changed; `lb-agent check` finds the same"),
    )
}

fn too_many(preview: &Preview, most: Part) -> Refusal {
    refuse(
        RefusalKind::Conflict,
        format!(
            "{:.1}% of the clients or connections of a service would move, and {}% may",
            preview.moved * 100.0,
            most.fraction() * 100.0
        ),
        Some("nothing was changed; `lb-agent plan` tells whose"),
    )
}
