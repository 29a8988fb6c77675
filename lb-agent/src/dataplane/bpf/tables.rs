//! Applies actions to the kernel's tables.
//!
//! The tables of several services are replaced by one system call. After a replacement the kernel waits
//! until no program reads the old table (synchronize_rcu, some 15 ms). Since Linux 6.8 it waits once for a
//! whole batch; older kernels wait for each table.

use std::sync::Arc;

use lb_common::access::Rules;

use super::create::TABLES;
use super::reader::KernelReader;
use super::write::refused;
use super::{BoxedError, Bpf, load, maps, pod, purge};
use crate::dataplane::{Error, Reader, Tables};
use crate::state::action::Action;
use crate::state::observed::Observed;

/// Most tables that are replaced by one call, 260 KiB each.
const TOGETHER: usize = 32;

impl Tables for Bpf {
    fn observe(&self) -> Result<Observed, Error> {
        Ok(self.observed.clone())
    }

    fn apply(&mut self, action: &Action) -> Result<(), Error> {
        let failed = |error| refused(action, error);
        let backend = match action {
            Action::PutBackend(backend) => Some(backend.id.index()),
            Action::RemoveBackend(id) => Some(id.index()),
            _ => None,
        };
        let before = backend.map(|index| (self.observed.backends[index as usize], index));
        self.write(action).map_err(failed)?;
        self.observed.note(action);
        if let Some((before, index)) = before {
            self.write_owners(&before, index)
                .map_err(|error| failed(error.into()))?;
        }
        self.follow_dsr(action)
    }

    fn apply_all(
        &mut self,
        actions: &[Action],
        done: &mut dyn FnMut(&Action),
    ) -> Result<(), Error> {
        self.apply_in_rows(actions, done)
    }

    fn add_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        let added = self.access.add(rules);
        added.map_err(|error| Error::table("enter bans in the map RULES", error))
    }

    fn keep_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        let kept = self.access.keep_only(rules);
        kept.map_err(|error| Error::table("remove bans from the map RULES", error))
    }

    fn reclaim(&mut self) -> Result<(), Error> {
        load::put_back(self.local_hooks.object(), &self.pin_dir)
            .and_then(|()| self.local_hooks.put_back())
            .map_err(|error| Error::table("put the programs back", error))?;
        if let Some(packets) = Bpf::packets(self).get() {
            packets.distrust_attachments();
        }
        self.observed = Observed::default();
        self.owners.clear();
        self.claims = None;
        self.read_back()
            .map_err(|error| Error::table("read the tables back", error))
    }

    fn purge(&mut self) -> Result<(), Error> {
        if let Some(packets) = Bpf::packets(self).get() {
            packets.follow(&[], false);
        }
        purge(&self.pin_dir)
            .map(drop)
            .map_err(|error| Error::table("remove the pins", error))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(KernelReader {
            pin_dir: self.pin_dir.clone(),
            packets: Arc::clone(&self.packets),
            mptcp: Arc::clone(&self.mptcp),
        })
    }
}

impl Bpf {
    /// Applies changes in their order, with consecutive tables in batches. `done` is called after each
    /// change.
    fn apply_in_rows(
        &mut self,
        actions: &[Action],
        done: &mut dyn FnMut(&Action),
    ) -> Result<(), Error> {
        let mut rest = actions;
        while let [next, ..] = rest {
            let is_table = |action: &&Action| matches!(action, Action::PutTable(..));
            let row = rest.iter().take_while(is_table).count().min(TOGETHER);
            let (row, after) = rest.split_at(row);
            if row.len() > 1 && self.puts_together {
                match self.put_tables(row) {
                    Ok(()) => {
                        for action in row {
                            self.follow_table(action)?;
                            done(action);
                        }
                        rest = after;
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(error, "tables are put in force one by one");
                        self.puts_together = false;
                    }
                }
            }
            self.apply(next)?;
            done(next);
            rest = &rest[1..];
        }
        Ok(())
    }

    fn put_tables(&self, actions: &[Action]) -> Result<(), BoxedError> {
        let tables = actions.iter().filter_map(|action| match action {
            Action::PutTable(id, built) => Some((id.0, pod::ServiceTable(*built.table()))),
            _ => None,
        });
        TABLES.put_all(&maps::dir(&self.pin_dir), tables)
    }

    /// Records that a table is in force, and updates the slots of the `dsr` path.
    fn follow_table(&mut self, action: &Action) -> Result<(), Error> {
        self.observed.note(action);
        self.follow_dsr(action)
    }
}
