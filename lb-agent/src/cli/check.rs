//! `lb-agent check`: everything that is wrong with a configuration, without an agent.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;

use super::failure::Failure;
use super::output::{self, count};
use crate::dataplane;
use lb_config::{Config, loops};
use lb_http::check_certificates;

/// Check a configuration without using it
///
/// Every problem is printed, a line each, with its line in the file.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent check --config new.toml && lb-agent reload")]
pub(super) struct Check {
    /// Configuration [default: /etc/lb-agent/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        let lb_config::Inspected { config, error } = lb_config::inspect(self.config.as_deref());
        let mut problems: Vec<String> = error
            .iter()
            .flat_map(|error| {
                error
                    .to_string()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        // Even if the text has faults, the files that it names are examined too.
        let config = config.unwrap_or_default();
        let mut certificates = check_certificates(&config, SystemTime::now());
        problems.append(&mut certificates.unusable);
        problems.append(&mut certificates.refused);
        problems.append(&mut lb_http::check_pages(&config));
        if error.is_none() {
            problems.extend(loops_here(&config));
        }
        if !problems.is_empty() {
            return Err(Failure::of_lines(problems));
        }
        output::line(&summary(&config))?;
        lb_config::warnings(&config)
            .iter()
            .chain(&certificates.warnings)
            .try_for_each(|warning| output::line(&format!("warning: {warning}")))
    }
}

/// Backends that are the agent itself, by addresses that this very host has.
fn loops_here(config: &Config) -> Vec<String> {
    let steers = loops::may_steer(config.agent.data_plane);
    loops::lines(config, steers, &dataplane::is_local)
}

fn summary(config: &Config) -> String {
    let backends: usize = config
        .services
        .iter()
        .map(|service| service.backends.len())
        .sum();
    let mut text = format!(
        "configuration ok: {}, {}",
        count(config.services.len(), "service"),
        count(backends, "backend")
    );
    if config.source.is_none() {
        let file = lb_config::DEFAULT_FILE;
        text.push_str(&format!(" (built in, as there is no {file})"));
    } else if config.is_built_in {
        text.push_str(" (built in, as the file has no [[service]]: \"web\" on port 80)");
    }
    text
}
