//! The packet paths of the data plane. Their programs are loaded with the first backend that needs them.

use super::{Bpf, REFUSED};
use crate::dataplane::packets::{InterfaceState, Wanted};
use crate::dataplane::{Error, PacketPaths};

impl PacketPaths for Bpf {
    fn packets(&self) -> Result<(), &'static str> {
        let loaded = match Bpf::packets(self).opened() {
            Ok(packets) => packets.check(),
            Err(_) => false,
        };
        loaded.then_some(()).ok_or(REFUSED)
    }

    fn follow(&mut self, wanted: &[Wanted], has_rules: bool) -> Vec<InterfaceState> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Vec::new(), |p| p.follow(wanted, has_rules))
    }

    fn linger(&mut self) -> Vec<InterfaceState> {
        let mut packets = Bpf::packets(self);
        packets.get().map_or(Vec::new(), |p| p.linger())
    }

    fn distrust_routes(&mut self) -> Result<(), Error> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Ok(()), |p| p.distrust_routes())
            .map_err(|error| Error::table("tell the programs that routes have changed", error))
    }

    fn clean_slots(&mut self) -> Result<(), Error> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Ok(()), |p| p.clean_slots())
            .map_err(|error| Error::table("clean the slots of dsr", error))
    }
}
