//! Reads the counters of backends, services, tables and packets from the maps of the programs.

use lb_common::abi::{
    self, Counter, MAX_BACKENDS, MAX_LISTEN, MAX_LISTENERS, MAX_SERVICES, ServiceId, path, state,
};

use super::maps::counter_index;
use super::{Bpf, adopt};
use crate::dataplane::packets::PacketFigures;
use crate::dataplane::{BackendCounts, Counts, Error, ServiceCounts, TableCounts};

impl Counts for Bpf {
    fn backend_counts(&self, backend: &abi::Backend) -> Result<BackendCounts, Error> {
        let failed = |error| Error::table("read the counters of a backend", error);
        let index = backend.id.index();
        let stats = self.maps.backend_stats.get(&index, 0).map_err(failed)?;
        // On the packet paths these are clients on this host, which the programs connect directly.
        let mut counts = BackendCounts {
            active: self.maps.active.get(&index, 0).map_err(failed)?,
            total: stats
                .iter()
                .map(|cpu| cpu.0.connections + cpu.0.datagrams)
                .sum(),
            ..BackendCounts::default()
        };
        if matches!(backend.path, path::NAT | path::DSR)
            && let Some(packets) = Bpf::packets(self).get()
        {
            counts += packets.backend_counts(backend.id).map_err(failed)?;
        }
        Ok(counts)
    }

    fn service_counts(&self, service: ServiceId) -> Result<ServiceCounts, Error> {
        let mut counts = [0; Counter::COUNT];
        for (counter, count) in (0..).zip(&mut counts[..Counter::STORED]) {
            let values = self
                .maps
                .service_stats
                .get(&counter_index(service, counter), 0)
                .map_err(|error| Error::table("read the counters of a service", error))?;
            *count = values.iter().sum();
        }
        let denied = self.access.denied(service);
        counts[Counter::Denied as usize] =
            denied.map_err(|error| Error::table("read the counters of a service", error))?;
        let capped = self.access.capped(service);
        counts[Counter::Capped as usize] =
            capped.map_err(|error| Error::table("read the counters of a service", error))?;
        Ok(counts)
    }

    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        let failed = |error| Error::table("count the remembered clients", error);
        let noted = adopt::noted(&self.maps)
            .map_err(|error| Error::table("list the listening sockets", error))?;
        let used = self
            .observed
            .backends
            .iter()
            .filter(|backend| backend.state != state::REMOVED);
        let table = |table, entries: usize, capacity: usize| TableCounts {
            table,
            entries: entries as u64,
            capacity: capacity as u64,
        };
        let (rules, most_rules) = self.access.size();
        let mut tables = vec![
            table("services", self.observed.names.len(), MAX_SERVICES),
            table("listen", self.observed.listen.len(), MAX_LISTEN),
            table("backends", used.count(), MAX_BACKENDS),
            table("owners", self.owners.len(), MAX_BACKENDS * 4),
            table("listeners", noted.len(), MAX_LISTENERS),
            table("rules", rules, most_rules),
        ];
        for (table, map) in ["affinity", "affinity_udp"]
            .into_iter()
            .zip(&self.remembered)
        {
            tables.push(TableCounts {
                table,
                entries: map.entries().map_err(failed)?,
                capacity: map.capacity,
            });
        }
        if let Some(packets) = Bpf::packets(self).get() {
            tables.extend(packets.tables());
        }
        Ok(tables)
    }

    fn packet_figures(&self) -> Result<Option<PacketFigures>, Error> {
        let mut packets = Bpf::packets(self);
        let figures = packets.get().map(|packets| packets.figures());
        figures
            .transpose()
            .map_err(|error| Error::table("read the counters of packets", error))
    }
}
