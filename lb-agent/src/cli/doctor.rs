//! `lb-agent doctor`: obstacles on this machine, as lines or as JSON.

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;

use super::Control;
use super::failure::{self, Failure};
use super::output::{self, Look};
use crate::doctor::{self, Finding, Level};

/// Check this host, and name a remedy for each problem
///
/// Each line is ok, a warning or a failure with its remedy. Exit code 1 if there is a failure.
#[derive(Debug, Args)]
#[command(after_help = "Example: sudo lb-agent doctor")]
pub(super) struct Doctor {
    /// Configuration to look with [default: /etc/lb-agent/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    failures: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl Doctor {
    pub(super) fn carry_out(self, control: Control) -> Result<(), Failure> {
        let mut config =
            lb_config::load(self.config.as_deref()).map_err(|error| Failure::of_config(&error))?;
        if let Some(path) = control.path {
            config.agent.control = path;
        }
        let findings = doctor::examine(&config);
        let count = |level| {
            findings
                .iter()
                .filter(|finding| finding.level == level)
                .count()
        };
        let report = Report {
            failures: count(Level::Failure),
            warnings: count(Level::Warning),
            findings: &findings,
        };
        if self.json {
            let text = serde_json::to_string_pretty(&report)
                .map_err(|error| Failure::failed(format!("doctor: {error}")))?;
            output::line(&text)?;
        } else {
            output::text(&render(&report, Look::of_stdout()))?;
        }
        match report.failures {
            0 => Ok(()),
            _ => Err(Failure::shown(failure::FAILED)),
        }
    }
}

fn render(report: &Report<'_>, look: Look) -> String {
    let mut text = String::new();
    for finding in report.findings {
        let (word, style) = match finding.level {
            Level::Ok => ("ok", AnsiColor::Green.on_default()),
            Level::Warning => ("warning", AnsiColor::Yellow.on_default()),
            Level::Failure => ("FAILURE", AnsiColor::Red.on_default()),
        };
        let style = if look.colour { style } else { Style::new() };
        text += &format!(
            "{style}{word:7}{style:#}  {}: {}",
            finding.check, finding.found
        );
        if let Some(remedy) = &finding.remedy {
            text += &format!(" ({remedy})");
        }
        text.push('\n');
    }
    text + &match (report.failures, report.warnings) {
        (0, 0) => "all is well\n".to_owned(),
        (failures, warnings) => format!("{failures} failures, {warnings} warnings\n"),
    }
}
