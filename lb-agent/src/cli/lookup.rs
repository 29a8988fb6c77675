//! `lb-agent lookup`: the backend that a client would get, and the reason.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::message::{Command, Lookup as Found};

/// Backends that are named of an order that may have a thousand.
const SHOWN: usize = 8;

/// Show the backend of a client, and the reason
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent lookup 203.0.113.9 --service web")]
pub(super) struct Lookup {
    /// Address of the client
    #[arg(value_name = "CLIENT", value_parser = super::client_address)]
    client: IpAddr,
    /// Service that the client asks [default: the only one]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Lookup {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        let command = Command::Lookup {
            client: self.client,
            service: self.service,
        };
        let failed = |error| Failure::of_call("lookup", error);
        if self.json {
            return output::text(&wait_for(client.text(&command))?.map_err(failed)?);
        }
        let found: Found = wait_for(client.read(&command))?.map_err(failed)?;
        output::text(&format!("{}\n{}\n", choice(&found), order(&found)))
    }
}

/// The backend, and the reason.
fn choice(found: &Found) -> String {
    let Found {
        client, service, ..
    } = found;
    let Some(backend) = &found.backend else {
        return format!("{client} goes nowhere: no backend of {service} can take it");
    };
    let mut why = match found.reason.as_deref() {
        Some("slot") => "it has the client's slot".to_owned(),
        Some("next") => "the one that has the client's slot is away or has its share".to_owned(),
        _ => "the client was sent there before".to_owned(),
    };
    if let Some(affinity) = &found.affinity {
        let age = span(affinity.age_seconds);
        if affinity.backend == *backend {
            let left = span(affinity.expires_in_seconds);
            why = format!("the client was sent there {age} ago, which counts for {left} more");
        } else {
            why = format!("{why} (it was sent to {} {age} ago)", affinity.backend);
        }
    }
    format!("{client} goes to {backend} of {service}: {why}")
}

/// Slot, and the backends next in order.
fn order(found: &Found) -> String {
    let after: Vec<String> = found
        .order
        .iter()
        .filter(|backend| Some(*backend) != found.backend.as_ref())
        .map(ToString::to_string)
        .collect();
    let start = format!("prefix {}, slot {}", found.prefix, found.slot);
    match after.len() {
        0 => format!("{start}, no other backend"),
        count if count > SHOWN => format!(
            "{start}, then {} and {} more",
            after[..SHOWN].join(", "),
            count - SHOWN
        ),
        _ => format!("{start}, then {}", after.join(", ")),
    }
}

fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::AffinityFound;
    use lb_config::BackendAddress;

    fn found() -> Found {
        let backend = |port| BackendAddress::Ip(([127, 0, 0, 1], port).into());
        Found {
            client: "203.0.113.9".parse().unwrap(),
            prefix: "203.0.113.9/32".to_owned(),
            service: "web".to_owned(),
            backend: Some(backend(5001)),
            reason: Some("slot".to_owned()),
            slot: 12_345,
            order: vec![backend(5001), backend(5000)],
            affinity: None,
        }
    }

    #[test]
    fn a_new_client_goes_by_its_slot() {
        let found = found();
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: it has the client's slot";
        assert_eq!(choice(&found), expected);
        let expected = "prefix 203.0.113.9/32, slot 12345, then 127.0.0.1:5000";
        assert_eq!(order(&found), expected);
    }

    #[test]
    fn a_known_client_goes_where_it_was() {
        let affinity = AffinityFound {
            backend: "127.0.0.1:5001".parse().unwrap(),
            age_seconds: 3,
            expires_in_seconds: 10_797,
        };
        let found = Found {
            reason: Some("affinity".to_owned()),
            affinity: Some(affinity),
            ..found()
        };
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: the client was sent there 3s \
                        ago, which counts for 2h 59m 57s more";
        assert_eq!(choice(&found), expected);
    }

    #[test]
    fn a_client_whose_backend_is_away_goes_to_the_next() {
        let affinity = AffinityFound {
            backend: "127.0.0.1:5002".parse().unwrap(),
            age_seconds: 3,
            expires_in_seconds: 10_797,
        };
        let found = Found {
            reason: Some("next".to_owned()),
            affinity: Some(affinity),
            ..found()
        };
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: the one that has the client's \
                        slot is away or has its share (it was sent to 127.0.0.1:5002 3s ago)";
        assert_eq!(choice(&found), expected);
    }

    #[test]
    fn without_a_usable_backend_it_goes_nowhere() {
        let found = Found {
            backend: None,
            reason: None,
            order: Vec::new(),
            ..found()
        };
        let expected = "203.0.113.9 goes nowhere: no backend of web can take it";
        assert_eq!(choice(&found), expected);
        let expected = "prefix 203.0.113.9/32, slot 12345, no other backend";
        assert_eq!(order(&found), expected);
    }

    #[test]
    fn of_a_long_order_the_first_are_named() {
        let order_of = (1..=20).map(|port| BackendAddress::Ip(([10, 0, 0, 1], port).into()));
        let found = Found {
            order: order_of.collect(),
            ..found()
        };
        assert!(order(&found).ends_with("10.0.0.1:8 and 12 more"));
    }
}
