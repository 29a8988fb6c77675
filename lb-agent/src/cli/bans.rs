//! `lb-agent bans`: the bans in force.

use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::message::{BanStatus, Bans as Found, Command};

/// List the bans in force
///
/// The lists allow and deny of the configuration are not among them.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent bans")]
pub(super) struct Bans {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bans {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        let failed = |error| Failure::of_call("bans", error);
        if self.json {
            return output::text(&wait_for(client.text(&Command::Bans))?.map_err(failed)?);
        }
        let found: Found = wait_for(client.read(&Command::Bans))?.map_err(failed)?;
        if found.bans.is_empty() {
            return output::line("nobody is banned");
        }
        let lines: String = found.bans.iter().map(line).collect();
        output::text(&lines)
    }
}

/// One ban, as in "203.0.113.0/24  all services  9m 12s left  login attempts".
fn line(ban: &BanStatus) -> String {
    let service = ban.service.as_deref().unwrap_or("all services");
    let left = match ban.left_seconds {
        Some(seconds) => {
            let left = humantime::format_duration(Duration::from_secs(seconds));
            format!("{left} left")
        }
        None => "until unban".to_owned(),
    };
    let reason = ban.reason.as_deref().unwrap_or_default();
    let line = format!("{}  {service}  {left}  {reason}", ban.prefix);
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_prefix_service_time_and_reason() {
        let mut ban = BanStatus {
            prefix: "203.0.113.0/24".parse().unwrap(),
            service: None,
            left_seconds: Some(552),
            reason: Some("login attempts".to_owned()),
        };
        assert_eq!(
            line(&ban),
            "203.0.113.0/24  all services  9m 12s left  login attempts\n"
        );
        ban.left_seconds = None;
        ban.reason = None;
        ban.service = Some("web".to_owned());
        assert_eq!(line(&ban), "203.0.113.0/24  web  until unban\n");
    }
}
