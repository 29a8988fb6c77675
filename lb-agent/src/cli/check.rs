//! `lb-agent check`: everything that is wrong with a configuration, without an agent.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;

use super::Control;
use super::failure::Failure;
use super::output::{self, count};
use super::running::Chosen;
use crate::dataplane;
use crate::privilege::Worker;
use lb_config::{Config, loops};
use lb_http::check_certificates;

/// Check a configuration without using it
///
/// Every problem is printed, a line each, with its line in the file.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent check && lb-agent reload")]
pub(super) struct Check {
    /// Configuration [default: the file of the running agent, else /etc/lb-agent/config.toml]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let named = self.file.as_deref().or(self.config.as_deref());
        let chosen = Chosen::new(named, control)?;
        let lb_config::Inspected { config, error } = lb_config::inspect(chosen.path());
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
        problems.append(&mut lb_http::check_users(&config));
        let worker = Worker::of_service();
        let confine = || worker.confine();
        problems.append(&mut lb_http::check_files(&config, worker.name(), confine));
        if error.is_none() {
            problems.extend(loops_here(&config));
        }
        if !problems.is_empty() {
            return Err(Failure::of_lines(problems));
        }
        output::line(&summary(&config, &chosen.to_string()))?;
        let warnings = lb_config::warnings(&config, &|_| false);
        let warnings = warnings.iter().map(String::as_str);
        warnings
            .chain(certificates.tolerated())
            .try_for_each(|warning| output::line(&format!("warning: {warning}")))
    }
}

/// Backends that are the agent itself, by addresses that this very host has.
fn loops_here(config: &Config) -> Vec<String> {
    let steers = loops::may_steer(config.agent.data_plane);
    loops::lines(config, steers, &dataplane::is_local)
}

/// `file` is the file that was read, if the user did not name it.
fn summary(config: &Config, file: &str) -> String {
    let backends = config.services.iter().map(|service| service.backends.len());
    let counts = format!(
        "configuration ok: {}, {}",
        count(config.services.len(), "service"),
        count(backends.sum(), "backend")
    );
    let remark = match (&config.source, config.is_built_in) {
        (None, _) => format!("built in, as there is no {}", lb_config::DEFAULT_FILE),
        (Some(path), true) => format!(
            "built in, as {} has no [[service]]: \"web\" on port 80",
            path.display()
        ),
        (Some(_), false) => file.to_owned(),
    };
    match remark.as_str() {
        "" => counts,
        remark => format!("{counts} ({remark})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_the_file_that_the_user_did_not() {
        let text = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']";
        let config = |text| lb_config::parse(text, std::path::Path::new("/x.toml")).unwrap();
        let ok = "configuration ok: 1 service, 0 backends";
        assert_eq!(summary(&config(text), ""), ok);
        let running = Chosen::Running("/x.toml".into()).to_string();
        assert_eq!(
            summary(&config(text), &running),
            format!("{ok} (/x.toml, the file of the running agent)")
        );
        assert_eq!(
            summary(&config("[agent]"), ""),
            format!("{ok} (built in, as /x.toml has no [[service]]: \"web\" on port 80)")
        );
        assert_eq!(
            summary(&Config::default(), ""),
            format!("{ok} (built in, as there is no /etc/lb-agent/config.toml)")
        );
    }
}
