//! Applies single changes to the pinned maps.

use aya::maps::{Array, MapData, MapError};
use lb_common::abi::{self, BackendId, BackendStats, Counter, MAX_NAME, ServiceId, state};

use super::maps::{counter_index, per_cpu};
use super::{BoxedError, Bpf, count, create, maps, pod};
use crate::dataplane::Error;
use crate::state::action::Action;
use lb_common::table::{Built, TableSpec};

impl Bpf {
    /// Writes `action` to the maps. The agent's copy of their contents is not updated.
    pub(super) fn write(&mut self, action: &Action) -> Result<(), BoxedError> {
        match action {
            Action::NameService(id, name) => self.name_service(*id, name)?,
            Action::PutBackend(backend) => self.put_backend(backend)?,
            Action::PutTable(id, built) => self.put_table(*id, built.table())?,
            Action::Listen(key, id) => {
                self.addresses.take(key)?;
                if key.protocol == abi::protocol::UDP {
                    self.remember_udp()?;
                }
                self.maps
                    .services
                    .insert(pod::ServiceKey(*key), pod::ServiceId(*id), 0)?;
            }
            Action::PutTarget(target) => Bpf::packets(self).opened()?.put_target(target)?,
            Action::DropTarget(id) => self.drop_target(*id)?,
            Action::PutVip(key, vip) => Bpf::packets(self).opened()?.put_vip(key, vip)?,
            Action::DropVip(key) => {
                if let Some(packets) = Bpf::packets(self).get() {
                    packets.drop_vip(key)?;
                }
            }
            Action::Unlisten(key) => {
                self.maps.services.remove(&pod::ServiceKey(*key))?;
                self.addresses.give_up(key);
            }
            Action::RemoveBackend(id) => {
                let entry = self.observed.backends[id.index() as usize];
                let void = abi::Backend {
                    state: state::REMOVED,
                    ..entry
                };
                self.maps.backends.set(id.index(), pod::Backend(void), 0)?;
                if self.observed.targets.contains_key(id) {
                    self.drop_target(*id)?;
                }
            }
            Action::DropService(id) => self.drop_service(*id)?,
        }
        Ok(())
    }

    fn drop_target(&self, id: BackendId) -> Result<(), MapError> {
        let mut packets = Bpf::packets(self);
        packets.get().map_or(Ok(()), |p| p.drop_target(id))
    }

    /// Creates the maps that only UDP services need, unless that was done.
    pub(super) fn remember_udp(&mut self) -> Result<(), MapError> {
        if self.remembered.len() == maps::CLIENTS.len() {
            return Ok(());
        }
        create::make_udp(&maps::dir(&self.pin_dir), self.max_clients).map_err(MapError::IoError)?;
        let clients = maps::remembered(&self.pin_dir, create::AFFINITY_UDP)?;
        let counted = count::Counted::open(&self.pin_dir, create::AFFINITY_UDP)?;
        self.clients.remember_udp(clients);
        self.remembered.push(counted);
        Ok(())
    }

    fn name_service(&mut self, id: ServiceId, name: &str) -> Result<(), MapError> {
        let mut entry = abi::ServiceName {
            len: 0,
            bytes: [0; MAX_NAME],
        };
        let bytes = &name.as_bytes()[..name.len().min(MAX_NAME)];
        entry.bytes[..bytes.len()].copy_from_slice(bytes);
        entry.len = bytes.len() as u8;
        self.maps.names.set(id.0, pod::ServiceName(entry), 0)
    }

    fn put_backend(&mut self, backend: &abi::Backend) -> Result<(), MapError> {
        let index = backend.id.index();
        if self.observed.backends[index as usize].id != backend.id {
            let zero = pod::BackendStats(BackendStats::default());
            self.maps.backend_stats.set(index, per_cpu(zero)?, 0)?;
        }
        self.local_hooks.serve(backend);
        self.maps.backends.set(index, pod::Backend(*backend), 0)?;
        match Bpf::packets(self).get() {
            Some(packets) if backend.state == state::DOWN => packets.out_of_service(),
            Some(packets) => packets.reopen(backend.id)?,
            None => {}
        }
        Ok(())
    }

    fn put_table(&mut self, id: ServiceId, table: &abi::ServiceTable) -> Result<(), MapError> {
        let mut inner: Array<MapData, pod::ServiceTable> = Array::create(1, 0)?;
        inner.set(0, pod::ServiceTable(*table), 0)?;
        // The kernel returns when no program reads the old map any more.
        self.maps.tables.set(id.0, &inner, 0)
    }

    /// Replaces the table of a service by one without members, which the programs ignore. An array of maps
    /// cannot lose an entry.
    fn drop_service(&mut self, id: ServiceId) -> Result<(), MapError> {
        let empty = self.observed.tables.get(&id).map(|built| {
            let mut head = built.spec().head;
            head.flags = 0;
            Built::new(TableSpec::new(head, Vec::new()))
        });
        if let Some(empty) = empty {
            self.put_table(id, empty.table())?;
        }
        for counter in 0..Counter::STORED as u32 {
            self.maps
                .service_stats
                .set(counter_index(id, counter), per_cpu(0)?, 0)?;
        }
        self.access.reset(id)?;
        self.name_service(id, "")
    }
}

/// Makes an error for an action that is not in force.
pub(super) fn refused(action: &Action, error: BoxedError) -> Error {
    Error::table(format!("change the kernel's tables ({action})"), error)
}
