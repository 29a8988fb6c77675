//! Replaces the configuration in force by the present one of the file.

use std::time::SystemTime;

use super::Reconciler;
use super::commands::{changed, count, not_changed, refuse};
use super::snapshot::{Next, bad, check_loops, next};
use crate::control::message::{Part, Refusal, RefusalKind, Reply};
use crate::privilege::Worker;
use crate::state::changes::{removed, staying};
use crate::state::overlay::Overlay;
use crate::state::preview::Preview;
use crate::state::rename::notes;
use lb_http::{Absent, Findings, check_certificates, check_files};

impl Reconciler {
    /// Reads the configuration again. A bad configuration changes nothing.
    pub(super) fn reload(
        &mut self,
        max_moved: Option<Part>,
        forget_runtime: bool,
    ) -> Result<Reply, Refusal> {
        let config = lb_config::load(self.config_path.as_deref()).map_err(|error| bad(&error))?;
        let certificates = check_certificates(&config, SystemTime::now());
        let worker = Worker::of_this_process();
        let files = check_files(&config, worker.name(), || worker.confine());
        let users = lb_http::check_users(&config);
        let unusable = [certificates.unusable.as_slice(), &files, &users].concat();
        if !unusable.is_empty() {
            return Err(refuse(
                RefusalKind::BadRequest,
                unusable.join("\n"),
                Some("nothing was changed; `lb-agent check` finds the same"),
            ));
        }
        self.keep_tls(&certificates)?;
        check_loops(&self.compose(&config, &Overlay::default()))?;
        let next = next(config.clone(), &self.config, &self.overlay, forget_runtime)?;
        if let Some(most) = max_moved {
            let preview = self.snapshot().preview(config, forget_runtime)?;
            if preview.moved > most.fraction() {
                return Err(too_many(&preview, most));
            }
        }
        for problem in certificates.tolerated() {
            tracing::warn!("{problem}");
        }
        self.l7.read_certificates_again();
        let before = self.desired.clone();
        let Next {
            config,
            overlay,
            restart,
            forgotten,
        } = next;
        let stay = staying(&self.config, &config, &overlay);
        self.change(config, overlay)
            .map_err(|error| not_changed("reload", &error))?;
        let backends: usize = self.desired.services.iter().map(|s| s.backends.len()).sum();
        let services = self.desired.services.len();
        let notes = notes(&before, &self.desired);
        for note in &notes {
            tracing::warn!("{note}");
        }
        let runtime = [removed(&self.config, &self.overlay), stay].concat();
        for note in &runtime {
            tracing::info!("{note}");
        }
        let notes = notes.iter().chain(&runtime).map(|note| format!("\n{note}"));
        let warnings = certificates.tolerated();
        let warnings = warnings.map(|text| format!("\nwarning: {text}"));
        let lines: String = notes.chain(warnings).collect();
        let forgotten = match forgotten {
            0 => String::new(),
            some => format!(
                "; forgot changes of {} made at run time",
                count(some, "backend")
            ),
        };
        changed(format!(
            "reloaded: {}, {}{forgotten}{}{lines}",
            count(services, "service"),
            count(backends, "backend"),
            if restart {
                " (what changed under [agent] comes with a restart)"
            } else {
                ""
            },
        ))
    }
}

impl Reconciler {
    /// Refuses to take a certificate out of force because its files, or those in its place, do not exist. Files
    /// that have never been there are waited for.
    fn keep_tls(&self, findings: &Findings) -> Result<(), Refusal> {
        let is_lost = |absent: &&Absent| {
            let mut services = self.config.services.iter();
            let service = services.find(|service| service.name == absent.service);
            let tls = service.and_then(|service| service.http.as_ref()?.tls.as_ref());
            let pairs = tls.map_or(&[][..], |tls| &tls.certificates);
            pairs.iter().any(|pair| {
                let concerns = absent.leaves_none || *pair == absent.files;
                concerns && self.l7.has_certificate(pair)
            })
        };
        let lost: Vec<&str> = findings
            .absent
            .iter()
            .filter(is_lost)
            .map(|absent| absent.text.as_str())
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(refuse(
            RefusalKind::BadRequest,
            lost.join("\n"),
            Some("nothing was changed; the certificate that is in force stays"),
        ))
    }
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
