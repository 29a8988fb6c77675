//! Settings and statistics of the packet paths, independent of the data plane that forwards the packets.

use lb_common::abi::packet::PacketCounter;

use super::{Error, NO_PACKETS};
pub use crate::network::status::{InterfaceState, PacketFigures};
use crate::network::survey::Place;

/// An interface for the packet programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The kernel's index of the interface (`ifindex`).
    pub index: u32,
    /// Name of the interface.
    pub name: String,
    /// MTU of the interface, in bytes.
    pub mtu: u32,
    /// Attachment point of the programs.
    pub place: Place,
    /// Whether XDP can redirect frames to the interface.
    pub takes_xdp: bool,
    /// Whether frames that XDP sends back by the interface leave it regardless of the peer. That is not so
    /// on a veth.
    pub sends_back: bool,
    /// Whether replies of backends on this host leave by the interface.
    pub mends_replies: bool,
    /// Whether its packets have no Ethernet header.
    pub bare: bool,
    /// MAC address; `None` for an interface without one.
    pub mac: Option<[u8; 6]>,
}

/// Programs that forward packets, and the interfaces that they are on. All methods have defaults for a data
/// plane without such programs.
pub trait PacketPaths {
    /// Whether packets can be forwarded.
    ///
    /// # Errors
    /// The reason, in a few words.
    fn packets(&self) -> Result<(), &'static str> {
        Err(NO_PACKETS)
    }
    /// Attaches the packet programs to these interfaces, and detaches them from all others. Returns the
    /// state of each.
    fn follow(&mut self, _wanted: &[Wanted], _has_rules: bool) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Keeps the packet programs attached as long as flows are left, because only they can reset the flows'
    /// ends. Returns their interfaces; the list is empty when no program is attached.
    fn linger(&mut self) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Makes the packet programs look up all routes and neighbours again, after a change of these.
    fn distrust_routes(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Releases slots of the `dsr` path from former owners that have no flows left.
    fn clean_slots(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// All counters of packets, in the order of their output.
pub const COUNTERS: [PacketCounter; PacketCounter::COUNT] = {
    use PacketCounter::*;
    [
        Passed,
        OtherPath,
        Forwarded,
        Replied,
        ToStack,
        Echoed,
        IcmpPassed,
        ResetSent,
        IcmpSent,
        FlowNew,
        FlowEstablished,
        FlowQuota,
        Tracked,
        DropNoBackend,
        DropMalformed,
        DropMartian,
        DropSpoofed,
        DropTtl,
        DropFragment,
        DropNoPort,
        DropTooBig,
        DropIcmp,
        DropKernel,
        DropNoRoute,
        FlowEvicted,
        DropNoRoom,
        FlowElsewhere,
        SynCookie,
    ]
};

/// The name of a counter in `status`, `stats` and metrics.
pub fn counter_name(counter: PacketCounter) -> &'static str {
    match counter {
        PacketCounter::Passed => "passed",
        PacketCounter::OtherPath => "other_path",
        PacketCounter::Forwarded => "forwarded",
        PacketCounter::Replied => "replied",
        PacketCounter::ToStack => "to_stack",
        PacketCounter::Echoed => "echoed",
        PacketCounter::IcmpPassed => "icmp_passed",
        PacketCounter::ResetSent => "reset_sent",
        PacketCounter::IcmpSent => "icmp_sent",
        PacketCounter::FlowNew => "flow_new",
        PacketCounter::FlowEstablished => "flow_established",
        PacketCounter::FlowQuota => "flow_quota",
        PacketCounter::Tracked => "tracked",
        PacketCounter::DropNoBackend => "drop_no_backend",
        PacketCounter::DropMalformed => "drop_malformed",
        PacketCounter::DropMartian => "drop_martian",
        PacketCounter::DropSpoofed => "drop_spoofed",
        PacketCounter::DropTtl => "drop_ttl",
        PacketCounter::DropFragment => "drop_fragment",
        PacketCounter::DropNoPort => "drop_no_port",
        PacketCounter::DropTooBig => "drop_too_big",
        PacketCounter::DropIcmp => "drop_icmp",
        PacketCounter::DropKernel => "drop_kernel",
        PacketCounter::DropNoRoute => "drop_no_route",
        PacketCounter::FlowEvicted => "flow_evicted",
        PacketCounter::DropNoRoom => "drop_no_room",
        PacketCounter::FlowElsewhere => "flow_elsewhere",
        PacketCounter::SynCookie => "syn_cookie",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_at_its_index_with_a_name_of_its_own() {
        let mut names: Vec<&str> = COUNTERS.map(counter_name).to_vec();
        for (index, counter) in COUNTERS.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PacketCounter::COUNT);
    }

    #[test]
    fn every_reason_to_drop_is_explained() {
        let page = include_str!("../../../docs/drops.md");
        let reasons = COUNTERS.map(counter_name).into_iter();
        for reason in reasons.filter_map(|name| name.strip_prefix("drop_")) {
            let row = format!("| `packet_{reason}` |");
            assert!(page.contains(&row), "{row}");
        }
    }
}
