//! The facts about the host that the choice of a path depends on, beside the configuration.

use std::net::{IpAddr, SocketAddr};

use super::overlay::Target;
use super::targets::Ports;
use super::verdict::Verdict;
use crate::network::survey::Way;
use lb_config::PacketConfig;

/// The facts about the host that the choice of a path depends on, beside the configuration.
pub trait Surroundings {
    /// Whether connections can be handed to sockets at all.
    fn can_steer(&self) -> bool;
    /// Whether an address belongs to this host.
    fn is_local(&self, address: SocketAddr) -> bool;
    /// Whether the application at an address of this host listens by MPTCP.
    fn is_mptcp(&self, _: SocketAddr) -> bool {
        false
    }
    /// Whether packets can be forwarded. The error is the reason in a few words.
    fn packets(&self) -> Result<(), &'static str> {
        Err("no packet path here")
    }
    /// The route to an address; `None` if there is none.
    fn way(&self, _: IpAddr) -> Option<Way> {
        None
    }
    /// The settings of the packet paths, and the source ports that they may take.
    fn packet_settings(&self) -> (PacketConfig, Ports) {
        let ports = Ports { first: 0, count: 0 };
        (PacketConfig::default(), ports)
    }
    /// The host's own addresses, as other hosts know them.
    fn own_addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
    /// The health verdict of a backend; `None` if the backend is not checked.
    fn verdict(&self, _: &Target) -> Option<Verdict> {
        None
    }
}
