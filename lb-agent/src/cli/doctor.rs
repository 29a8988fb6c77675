//! `lb-agent doctor`: obstacles on this machine, as lines or as JSON.

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;

use super::failure::{self, Failure};
use super::output::{self, Look, count};
use super::{Control, running};
use crate::doctor::{self, Finding, Level};

/// Check this host, and name a remedy for each problem
///
/// A line for each warning and each failure, with its remedy, and a count of all checks. Exit code 1 if there is a
/// failure. Without --config the file of the running agent is looked with.
#[derive(Debug, Args)]
#[command(after_help = "Example: sudo lb-agent doctor")]
pub(super) struct Doctor {
    /// Configuration to look with [default: the file of the running agent, else /etc/lb-agent/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the checks without a problem too
    #[arg(long)]
    all: bool,
    /// Print all checks as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    failures: usize,
    warnings: usize,
    skipped: usize,
    findings: &'a [Finding],
}

impl<'a> Report<'a> {
    fn of(findings: &'a [Finding]) -> Self {
        let number = |level| {
            let found = findings.iter().filter(|finding| finding.level == level);
            found.count()
        };
        Self {
            failures: number(Level::Failure),
            warnings: number(Level::Warning),
            skipped: number(Level::Skipped),
            findings,
        }
    }
}

impl Doctor {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let (config, running) = running::config(self.config.as_deref(), control)?;
        let findings = doctor::examine(&config, &running);
        let report = Report::of(&findings);
        if self.json {
            let text = serde_json::to_string_pretty(&report)
                .map_err(|error| Failure::failed(format!("doctor: {error}")))?;
            output::line(&text)?;
        } else {
            output::text(&render(&report, self.all, Look::of_stdout()))?;
        }
        match report.failures {
            0 => Ok(()),
            _ => Err(Failure::shown(failure::FAILED)),
        }
    }
}

/// The findings that are not ok, or all, and their number. The checks that were skipped are named by the finding
/// about privileges.
fn render(report: &Report<'_>, all: bool, look: Look) -> String {
    let is_shown = |finding: &&Finding| match finding.level {
        Level::Warning | Level::Failure => true,
        Level::Ok | Level::Skipped => all,
    };
    let shown = report.findings.iter().filter(is_shown);
    let mut text: String = shown.map(|finding| line(finding, look)).collect();
    text += &format!("{}\n", summary(report));
    text
}

fn line(finding: &Finding, look: Look) -> String {
    let (word, style) = match finding.level {
        Level::Ok => ("ok", AnsiColor::Green.on_default()),
        Level::Skipped => ("skipped", Style::new()),
        Level::Warning => ("warning", AnsiColor::Yellow.on_default()),
        Level::Failure => ("FAILURE", AnsiColor::Red.on_default()),
    };
    let style = if look.colour { style } else { Style::new() };
    let remedy = finding.remedy.as_ref();
    let remedy = remedy.map_or_else(String::new, |remedy| format!(" ({remedy})"));
    let Finding { check, found, .. } = finding;
    format!("{style}{word:7}{style:#}  {check}: {found}{remedy}\n")
}

fn summary(report: &Report<'_>) -> String {
    let checks = count(report.findings.len(), "check");
    let failures = count(report.failures, "failure");
    let warnings = count(report.warnings, "warning");
    match (report.failures + report.warnings, report.skipped) {
        (0, 0) => format!("{checks}, all ok"),
        (_, 0) => format!("{checks}: {failures}, {warnings}"),
        (_, skipped) => format!("{checks}: {failures}, {warnings}, {skipped} skipped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look {
        colour: false,
        width: usize::MAX,
    };

    fn finding(level: Level, check: &str) -> Finding {
        let is_bad = level != Level::Ok;
        Finding {
            level,
            check: check.to_owned(),
            found: "found".to_owned(),
            remedy: is_bad.then(|| "remedy".to_owned()),
        }
    }

    #[test]
    fn only_problems_and_a_count_are_printed() {
        let findings = [
            finding(Level::Ok, "kernel"),
            finding(Level::Warning, "port"),
            finding(Level::Ok, "clock"),
        ];
        let report = Report::of(&findings);
        assert_eq!(
            render(&report, false, PLAIN),
            "warning  port: found (remedy)\n3 checks: 0 failures, 1 warning\n"
        );
        assert_eq!(
            render(&report, true, PLAIN),
            "ok       kernel: found\nwarning  port: found (remedy)\nok       clock: found\n\
             3 checks: 0 failures, 1 warning\n"
        );
    }

    #[test]
    fn good_host_gets_one_line() {
        let findings = [finding(Level::Ok, "kernel"), finding(Level::Ok, "clock")];
        assert_eq!(
            render(&Report::of(&findings), false, PLAIN),
            "2 checks, all ok\n"
        );
    }

    #[test]
    fn skipped_checks_are_counted_and_not_listed() {
        let findings = [
            finding(Level::Failure, "privileges"),
            finding(Level::Skipped, "pins"),
            finding(Level::Skipped, "agent"),
        ];
        assert_eq!(
            render(&Report::of(&findings), false, PLAIN),
            "FAILURE  privileges: found (remedy)\n3 checks: 1 failure, 0 warnings, 2 skipped\n"
        );
    }
}
