//! Reads the kernel's tables for plans, without the task that changes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lb_common::abi::{self, path};

use super::maps;
use super::mptcp::MptcpListeners;
use super::packet::LazyPackets;
use crate::dataplane::{Error, Reader};
use crate::state::preview::Known;

/// A reader of the pinned maps.
pub(super) struct KernelReader {
    pub(super) pin_dir: PathBuf,
    pub(super) packets: Arc<Mutex<LazyPackets>>,
    pub(super) mptcp: Arc<MptcpListeners>,
}

impl Reader for KernelReader {
    fn is_mptcp(&self, address: SocketAddr) -> bool {
        self.mptcp.is_at(address)
    }

    fn packets(&self) -> Result<(), &'static str> {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        match packets.may_serve() {
            true => Ok(()),
            false => Err(super::REFUSED),
        }
    }

    fn known_clients(&self) -> Result<Vec<Known>, Error> {
        // This call opens the maps by their pins, so a long list does not block the serving tasks.
        maps::known_clients(&self.pin_dir)
            .map_err(|error| Error::table("list the clients that are remembered", error))
    }

    fn open_flows(&self, backend: &abi::Backend) -> Result<u64, Error> {
        if !matches!(backend.path, path::NAT | path::DSR) {
            return Ok(0);
        }
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = packets.get().map(|open| open.backend_counts(backend.id));
        counts
            .transpose()
            .map(|counts| counts.unwrap_or_default().active)
            .map_err(|error| Error::table("read the counters of a backend", error))
    }
}
