//! `lb-agent ban` and `lb-agent unban`: clients are refused at the SYN, and let in again.

use std::time::Duration;

use clap::Args;

use super::Control;
use super::failure::Failure;
use crate::control::message::{BanRequest, Command};
use lb_config::http::Cidr;

/// Refuse clients by their address, and end their open connections
///
/// The kernel refuses their connections and datagrams, with and without a running agent. A ban outlives reloads,
/// restarts and upgrades, and ends by itself. A second ban of the same prefix replaces the first. Where the agent is
/// behind another proxy, the address is that of the proxy.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent ban 203.0.113.0/24 --for 10m --reason logins")]
pub(super) struct Ban {
    /// Address or prefix
    #[arg(value_name = "ADDR_OR_PREFIX", value_parser = super::prefix)]
    prefix: Cidr,
    /// How long, as in "10m" or "1h30m" [default: until unban]
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    length: Option<Duration>,
    /// Why, for \"lb-agent bans\"
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Service that refuses them [default: all]
    #[arg(long, value_name = "NAME", value_parser = super::service_name)]
    service: Option<String>,
    /// Also ban loopback, an address of this host, or everybody
    #[arg(long)]
    force: bool,
}

impl Ban {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self {
            prefix,
            length,
            reason,
            service,
            force,
        } = self;
        let request = BanRequest {
            prefix,
            service,
            length,
            reason,
            force,
        };
        control.change("ban", &Command::Ban(request))
    }
}

/// Lift a ban
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent unban 203.0.113.0/24")]
pub(super) struct Unban {
    /// Address or prefix, as it was banned
    #[arg(value_name = "ADDR_OR_PREFIX", value_parser = super::prefix)]
    prefix: Cidr,
    /// Service of the ban [default: a ban of all services]
    #[arg(long, value_name = "NAME", value_parser = super::service_name)]
    service: Option<String>,
}

impl Unban {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self { prefix, service } = self;
        control.change("unban", &Command::Unban { prefix, service })
    }
}
