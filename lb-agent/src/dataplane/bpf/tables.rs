//! Tables of services that come together: for each one by itself the kernel waits until nobody reads the
//! table before it (synchronize_rcu, some 15 ms), for many together it does so once.
//!
//! That is so since Linux 6.8; before, it waits for each.

use super::create::TABLES;
use super::{BoxedError, Bpf, maps, pod, refused};
use crate::dataplane::{DataPlane as _, Error};
use crate::state::action::Action;

/// Tables that are swapped in together, 260 KiB each.
const TOGETHER: usize = 32;

impl Bpf {
    /// Puts changes in force in their order, tables in a row together. `done` is told of each.
    pub(super) fn apply_in_rows(
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

    /// Notes that a table is in force.
    fn follow_table(&mut self, action: &Action) -> Result<(), Error> {
        self.observed.note(action);
        self.follow_dsr(action)
    }

    /// Has slots on the `dsr` path change hands after `action`.
    pub(super) fn follow_dsr(&self, action: &Action) -> Result<(), Error> {
        match self.dsr_touched(action) {
            Some(service) => self
                .write_dsr(service)
                .map_err(|error| refused(action, error)),
            None => Ok(()),
        }
    }
}
