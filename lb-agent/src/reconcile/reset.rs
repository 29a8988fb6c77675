//! Ends the changes made at run time of one backend.

use super::Reconciler;
use super::commands::changed;
use crate::control::message::{Refusal, Reply};
use crate::state::overlay::Target;
use lb_config::BackendAddress;

impl Reconciler {
    /// Makes the backend what the configuration says. A backend that is not in there goes.
    pub(super) fn reset_backend(
        &mut self,
        address: BackendAddress,
        service: Option<&str>,
    ) -> Result<Reply, Refusal> {
        let service = self.changed_one(service, &address)?.name.clone();
        let target = Target { service, address };
        let mut overlay = self.overlay.clone();
        overlay.forget(&target);
        if overlay == self.overlay {
            return Ok(Reply::Unchanged {
                message: format!(
                    "{} of {} has no changes made at run time",
                    target.address, target.service
                ),
            });
        }
        self.change_overlay(overlay)?;
        if self.in_file(&target) {
            return self.say("reset to the file:", &target);
        }
        let Reply::Changed { message } = self.say("removed", &target)? else {
            return changed("removed");
        };
        changed(format!("{message}, as it is not in the file"))
    }
}
