//! Updates the slots of the `dsr` path after changes of a service's table, backends and targets.

use lb_common::abi::{self, BackendId, ServiceId, path, state};

use super::write::refused;
use super::{BoxedError, Bpf};
use crate::dataplane::Error;
use crate::state::action::Action;

impl Bpf {
    /// Updates the slots of the `dsr` path after `action`.
    pub(super) fn follow_dsr(&self, action: &Action) -> Result<(), Error> {
        match self.dsr_touched(action) {
            Some(service) => self
                .write_dsr(service)
                .map_err(|error| refused(action, error)),
            None => Ok(()),
        }
    }

    /// The service on the `dsr` path with slots that `action` may affect.
    fn dsr_touched(&self, action: &Action) -> Option<ServiceId> {
        let service = match action {
            Action::PutTable(id, _) => *id,
            Action::PutBackend(backend) => backend.service,
            Action::PutTarget(target) => self.observed.backends[target.id.index() as usize].service,
            Action::DropTarget(id) => self.observed.backends[id.index() as usize].service,
            _ => return None,
        };
        let mut backends = self.observed.backends_of(service);
        let dsr = backends.any(|backend| backend.path == path::DSR);
        (dsr && self.observed.tables.contains_key(&service)).then_some(service)
    }

    fn write_dsr(&self, service: ServiceId) -> Result<(), BoxedError> {
        let Some(built) = self.observed.tables.get(&service) else {
            return Ok(());
        };
        let observed = &self.observed;
        let there = |id| observed.targets.contains_key(&id);
        let usable = |id: BackendId| {
            let entry = &observed.backends[id.index() as usize];
            entry.id == id && entry.state == state::UP && there(id)
        };
        // UDP has no connections to keep at a backend that is out of service.
        let known = |id: BackendId| {
            let entry = &observed.backends[id.index() as usize];
            let over = entry.protocol == abi::protocol::UDP && entry.state == state::DOWN;
            there(id) && !over
        };
        Bpf::packets(self)
            .opened()?
            .put_dsr(service, built.table(), &usable, &known)?;
        Ok(())
    }
}
