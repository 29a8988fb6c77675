//! Listening sockets that outlive an agent. systemd keeps them in its file descriptor store while one agent ends
//! and the next begins, or the next takes them over from the running one. New connections and datagrams wait in
//! their queues, and are served instead of refused.

pub mod pass;
mod store;

use std::net::SocketAddr;

pub use store::FdStore;

/// What happens to new clients while an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptPolicy {
    /// New clients are served as long as others are. Then they wait in the queues of the sockets,
    /// which are handed to the next agent.
    Wait,
    /// New clients are served as long as others are, as another agent may be started.
    Served,
    /// The next agent has the sockets, and serves new clients.
    TakenOver,
    /// New clients are refused.
    Refused,
}

impl AcceptPolicy {
    /// The policy of an agent that may be followed by another.
    pub fn of_the_next() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => Self::Wait,
            None => Self::Served,
        }
    }

    /// Whether new connections are accepted as long as earlier ones are open.
    pub fn serves_newcomers(self) -> bool {
        match self {
            Self::Wait | Self::Served => true,
            Self::TakenOver | Self::Refused => false,
        }
    }

    /// Whether the next agent reads the datagrams that come from now on.
    pub fn leaves_datagrams(self) -> bool {
        match self {
            Self::Wait | Self::TakenOver => true,
            Self::Served | Self::Refused => false,
        }
    }

    /// Whether flows and connections begin anew with another agent.
    pub fn another_comes(self) -> bool {
        self != Self::Refused
    }
}

/// The name of the sockets of a listen address. A name has no colon in it (sd_notify(3)).
pub fn name_of(kind: &str, address: SocketAddr) -> String {
    let ip = address.ip().to_string().replace(':', "_");
    format!("{kind}-{ip}-{}", address.port())
}
