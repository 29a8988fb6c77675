//! The ways from the client to a backend, and their ports.

use super::cgroup::Cgroup;
use super::net::BACKENDS;
use super::requests::Path;

/// Port of a third, whose sockets no program sees.
pub(super) const DIRECT: u16 = 5002;

/// A way from the client to a backend, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Way {
    /// To a backend itself, on a machine without an agent
    Direct,
    /// To a backend itself, on a machine with agents
    Beside,
    /// By lb-agent, on the `socket` path
    Steered,
    /// By nginx, `stream` module
    Nginx,
    /// By HAProxy, `mode tcp`
    Haproxy,
}

impl Way {
    /// The port on the server's address that leads this way.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Direct => DIRECT,
            Self::Beside => BACKENDS[0],
            Self::Steered => 80,
            Self::Nginx => 8080,
            Self::Haproxy => 8081,
        }
    }

    /// Where the sockets of both ends are.
    pub(super) fn cgroup(self) -> Cgroup {
        match self {
            Self::Beside | Self::Steered => Cgroup::Watched,
            Self::Direct | Self::Nginx | Self::Haproxy => Cgroup::Bare,
        }
    }

    /// Whether it takes an agent.
    pub(super) fn has_agent(self) -> bool {
        self.cgroup() == Cgroup::Watched
    }
}

impl Path for Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Beside => "beside",
            Self::Steered => "steered",
            Self::Nginx => "nginx stream",
            Self::Haproxy => "HAProxy tcp",
        }
    }
}
