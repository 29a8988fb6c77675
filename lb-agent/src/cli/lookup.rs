//! `lb-agent lookup`: the backend that a client or a request would get, and the reason.

use std::net::IpAddr;

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::explain;
use crate::control::facts::{self, RequestFacts};
use crate::control::message::{Command, Lookup as Found};

/// Show the backend of a client, and the reason
///
/// An HTTP service may be sticky by more than the address. --cookie, --header, --query and --sid then give the part of a
/// request that decides. Without it the answer is the one for a request without a session.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent lookup 203.0.113.9 --service web")]
pub(super) struct Lookup {
    /// Address of the client
    #[arg(value_name = "CLIENT", value_parser = super::client_address)]
    client: IpAddr,
    /// Service that the client asks [default: the only one]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
    /// Cookie of the request, for stickiness by cookie
    #[arg(long, value_name = "NAME=VALUE", value_parser = facts::cookie)]
    cookie: Option<String>,
    /// Header of the request, for stickiness by header
    #[arg(long, value_name = "NAME: VALUE", value_parser = facts::header)]
    header: Option<(String, String)>,
    /// Query of the request, for stickiness by a key of it
    #[arg(long, value_name = "KEY=VALUE", value_parser = facts::query)]
    query: Option<String>,
    /// Id of the request's Socket.IO session
    #[arg(long, value_name = "SID", value_parser = facts::sid)]
    sid: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Lookup {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        let request = RequestFacts {
            cookie: self.cookie,
            header: self.header,
            query: self.query,
            sid: self.sid,
        };
        let command = Command::Lookup {
            client: self.client,
            service: self.service,
            request: request.clone(),
        };
        let failed = |error| Failure::of_call("lookup", error);
        if self.json {
            return output::text(&wait_for(client.text(&command))?.map_err(failed)?);
        }
        let found: Found = wait_for(client.read(&command))?.map_err(failed)?;
        output::text(&explain::text(&found, &request))
    }
}
