//! What the packet paths are told and tell, whatever moves the packets.

use lb_common::abi::packet::PacketCounter;

use super::{Error, NO_PACKETS};
pub use crate::network::status::{InterfaceState, PacketFigures};
use crate::network::survey::Place;

/// An interface that the packet programs are to be on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Greatest packet, bytes.
    pub mtu: u32,
    /// Where the programs go.
    pub place: Place,
    /// Frames can be redirected to it by XDP.
    pub takes_xdp: bool,
    /// Frames that XDP sends back by it go out whoever is at the other end; not so on a veth.
    pub sends_back: bool,
    /// Replies of backends on this host leave by it.
    pub mends_replies: bool,
    /// Its packets have no Ethernet header.
    pub bare: bool,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
}

/// Programs that forward packets, and the interfaces that they are on. A data plane without them
/// implements nothing of it.
pub trait PacketPaths {
    /// Whether packets can be forwarded; else why not, in a few words.
    fn packets(&self) -> Result<(), &'static str> {
        Err(NO_PACKETS)
    }
    /// Has the packet programs on these interfaces, and on no others.
    fn follow(&mut self, _wanted: &[Wanted], _has_rules: bool) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Where the packet programs are, which stay there as long as flows are left: their ends are to
    /// be told that they are over. Empty when there are none.
    fn linger(&mut self) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Routes or neighbours have changed: what the packet programs found of them is not trusted.
    fn distrust_routes(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Lets slots of the `dsr` path go whose former owners have nothing left.
    fn clean_slots(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// All counters of packets.
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
