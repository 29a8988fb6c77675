//! Connections that the kernel handed to backends, and remembered clients.

use std::sync::Arc;

use lb_common::abi::{self, path};

use super::{Bpf, close};
use crate::dataplane::{Connections, Error, Pick};
use lb_net::Clients;

impl Connections for Bpf {
    fn clients(&self) -> Arc<dyn Clients> {
        Arc::clone(&self.clients) as Arc<dyn Clients>
    }

    fn busy(&self, index: u32) -> bool {
        self.maps
            .active
            .get(&index, 0)
            .is_ok_and(|active| active != 0)
    }

    fn close_connections(&self, backend: &abi::Backend) -> Result<usize, Error> {
        if backend.path == path::NAT {
            let mut packets = Bpf::packets(self);
            let open = packets.get().map_or(Ok(0), |p| p.close(backend.id));
            return open
                .map(|open| open as usize)
                .map_err(|error| Error::table("close the flows of a backend", error));
        }
        close::close(&self.pin_dir, backend.id).map_err(|error| {
            let what = "close the connections of a backend (it takes CAP_NET_ADMIN and a kernel with \
                        CONFIG_INET_DIAG_DESTROY, or CAP_SYS_PTRACE)";
            Error::table(what, error)
        })
    }

    fn close_clients(&self, pick: Pick<'_>) -> Result<usize, Error> {
        let closed = close::close_clients(pick).map_err(|error| {
            let what = "close the connections of clients (it takes CAP_NET_ADMIN and a kernel with \
                        CONFIG_INET_DIAG_DESTROY, or CAP_SYS_PTRACE)";
            Error::table(what, error)
        })?;
        let mut packets = Bpf::packets(self);
        let ended = packets.get().map_or(Ok(0), |p| p.end_clients(pick));
        let failed = |error| Error::table("end the flows of clients", error);
        Ok(closed + ended.map_err(failed)?)
    }
}
