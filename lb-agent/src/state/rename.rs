//! Renamed services: carries their run-time changes over to the new name.
//!
//! Tables, clients and counts go by the id of a service. A renamed service keeps its id
//! (`state::plan`). Changes made at run time and the name that clients are hashed by go by service
//! names. This module carries those over.

use super::desired::{Desired, Service, Source};
use super::overlay::{Overlay, Renamed};
use lb_config::Config;

/// Moves the changes in the overlay to the service names of `config`. `is_known` tells whether a
/// service of this name has been in force. Such a service keeps the name that its clients are
/// hashed by, whichever former names it lists.
pub fn carry_over(overlay: &mut Overlay, config: &Config, is_known: &dyn Fn(&str) -> bool) {
    let is_named = |name: &str| config.services.iter().any(|service| service.name == name);
    for service in &config.services {
        let former = || service.was.iter().filter(|name| !is_named(name));
        if !service.was.is_empty() && overlay.hash_name(&service.name).is_none() {
            let first = match is_known(&service.name) {
                true => Some(service.name.as_str()),
                false => former()
                    .find_map(|name| overlay.hash_name(name))
                    .or_else(|| former().find(|name| is_known(name)).map(String::as_str))
                    .or_else(|| service.was.last().map(String::as_str)),
            };
            let renamed = first.map(|first| Renamed {
                service: service.name.clone(),
                first: first.to_owned(),
            });
            overlay.renamed.extend(renamed);
        }
        for name in former() {
            overlay.rename(name, &service.name);
        }
    }
    overlay.renamed.retain(|renamed| is_named(&renamed.service));
}

/// The service of `before` that became `service` of `after` by a rename, if there is one.
pub fn former<'a>(service: &Service, before: &'a Desired, after: &Desired) -> Option<&'a Service> {
    if before.service(&service.name).is_some() {
        return None;
    }
    let gone = |name: &&String| after.service(name).is_none();
    let mut names = service.was.iter().filter(gone);
    names.find_map(|name| before.service(name))
}

/// `before`, prepared as the target of a rollback from `after`. Renamed services get their names
/// back.
pub fn back(before: &Desired, after: &Desired) -> Desired {
    let mut back = before.clone();
    for service in &after.services {
        let old = former(service, before, after).map(|old| old.name.clone());
        let mut services = back.services.iter_mut();
        if let Some(old) = services.find(|known| Some(&known.name) == old.as_ref()) {
            old.was.push(service.name.clone());
        }
    }
    back
}

/// Notes about services that are removed or renamed from `before` to `after`, a sentence each.
pub fn notes(before: &Desired, after: &Desired) -> Vec<String> {
    let renamed = |old: &Service| {
        let mut services = after.services.iter();
        services.find(|new| former(new, before, after).is_some_and(|found| found.name == old.name))
    };
    let is_new = |new: &&Service| {
        before.service(&new.name).is_none() && former(new, before, after).is_none()
    };
    let mut notes = Vec::new();
    let gone = before.services.iter();
    for old in gone.filter(|old| after.service(&old.name).is_none()) {
        if let Some(new) = renamed(old) {
            notes.push(format!("{} is {} from now on", old.name, new.name));
            continue;
        }
        let mut new = after.services.iter().filter(is_new);
        let successor = new.find(|new| shares_an_address(old, new));
        notes.extend(successor.map(|new| likely_rename(&old.name, &new.name)));
        notes.extend(lost(old));
    }
    notes
}

fn shares_an_address(old: &Service, new: &Service) -> bool {
    let shared = |address| new.listen.contains(address);
    old.protocol == new.protocol && old.listen.iter().any(shared)
}

fn likely_rename(old: &str, new: &str) -> String {
    format!(
        "{old} goes, and {new} comes on the same address: if it was renamed, write was = \"{old}\" in the \
         [[service]] {new}, or its clients, counts and changes made at run time begin anew"
    )
}

/// A note about backends added at run time that are lost with their service.
fn lost(service: &Service) -> Option<String> {
    let at_run_time = service.backends.iter();
    let at_run_time = at_run_time.filter(|backend| backend.source == Source::Runtime);
    let addresses: Vec<String> = at_run_time.map(|b| b.address.to_string()).collect();
    let name = &service.name;
    (!addresses.is_empty()).then(|| {
        format!(
            "{} of {name}, added at run time, gets nobody any more (until there is a service {name} again, \
             or one with was = \"{name}\")",
            addresses.join(", ")
        )
    })
}

#[cfg(test)]
mod tests;
