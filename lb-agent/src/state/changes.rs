//! Changes made at run time against the configuration: sentences about those that stay, and their end.

use std::collections::BTreeSet;

use super::overlay::{Overlay, Target};
use lb_config::{BackendAddress, Config};

/// Addresses in a sentence, beyond which the rest is counted.
const SHOWN: usize = 8;

/// Sentences about backends of `config` that were removed at run time, one for each service.
pub fn removed(config: &Config, overlay: &Overlay) -> Vec<String> {
    per_service(config, |service| {
        let removed = overlay.removed.iter();
        let removed = removed.filter(|target| target.service == service.name);
        let gone = addresses(removed.filter(|target| has(service, &target.address)));
        (!gone.is_empty()).then(|| {
            format!(
                "{} of the file {} removed at run time: {} (of {}; \"lb-agent reset-backend\" puts one back)",
                gone.len(),
                were(gone.len()),
                list(&gone),
                service.name
            )
        })
    })
}

/// Sentences about backends that stay although `config` does not have them, one or two for each service.
/// `before` is the configuration in force.
pub fn staying(before: &Config, config: &Config, overlay: &Overlay) -> Vec<String> {
    let was_there = |target: &&Target| {
        let mut services = before.services.iter();
        services.any(|service| service.name == target.service && has(service, &target.address))
    };
    let added = |service: &lb_config::Service| -> Vec<&Target> {
        let added = overlay.added.iter().map(|added| &added.target);
        added
            .filter(|target| target.service == service.name && !has(service, &target.address))
            .collect()
    };
    let mut notes = per_service(config, |service| {
        let out = addresses(added(service).into_iter().filter(was_there));
        (!out.is_empty()).then(|| {
            format!(
                "{} {} not in the file any more, but changed at run time, and {}: {} (of {}; \"lb-agent \
                 reset-backend\" ends that)",
                out.len(),
                if out.len() == 1 { "is" } else { "are" },
                stays(out.len()),
                list(&out),
                service.name
            )
        })
    });
    notes.extend(per_service(config, |service| {
        let new = |target: &&Target| !was_there(target);
        let beside = addresses(added(service).into_iter().filter(new));
        (!beside.is_empty()).then(|| {
            format!(
                "{} added at run time {} beside the file: {} (of {})",
                beside.len(),
                stays(beside.len()),
                list(&beside),
                service.name
            )
        })
    }));
    notes
}

/// Forgets the changes made at run time in services of `config`. Returns the number of backends that had some.
pub fn forget(config: &Config, overlay: &mut Overlay) -> usize {
    let named = |target: &Target| {
        let mut services = config.services.iter();
        services.any(|service| service.name == target.service)
    };
    let changed: BTreeSet<Target> = overlay.targets().filter(|it| named(it)).cloned().collect();
    for target in &changed {
        overlay.forget(target);
    }
    changed.len()
}

fn per_service(
    config: &Config,
    note: impl Fn(&lb_config::Service) -> Option<String>,
) -> Vec<String> {
    config.services.iter().filter_map(note).collect()
}

fn has(service: &lb_config::Service, address: &BackendAddress) -> bool {
    let mut backends = service.backends.iter();
    backends.any(|backend| backend.address == *address)
}

fn addresses<'a>(targets: impl Iterator<Item = &'a Target>) -> Vec<&'a BackendAddress> {
    targets.map(|target| &target.address).collect()
}

fn list(addresses: &[&BackendAddress]) -> String {
    let shown = addresses.iter().take(SHOWN).map(ToString::to_string);
    let shown: Vec<String> = shown.collect();
    let rest = addresses.len().saturating_sub(SHOWN);
    match rest {
        0 => shown.join(", "),
        _ => format!("{} and {rest} more", shown.join(", ")),
    }
}

fn were(number: usize) -> &'static str {
    if number == 1 { "was" } else { "were" }
}

fn stays(number: usize) -> &'static str {
    if number == 1 { "stays" } else { "stay" }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(ports: &[u16]) -> Config {
        let backends: Vec<String> = ports.iter().map(|port| format!("'{port}'")).collect();
        let backends = backends.join(", ").replace("'5", "'127.0.0.1:5");
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{backends}]\n"
        );
        lb_config::parse(&text, Path::new("test.toml")).unwrap()
    }

    fn target(service: &str, port: u16) -> Target {
        Target {
            service: service.to_owned(),
            address: BackendAddress::Ip(([127, 0, 0, 1], port).into()),
        }
    }

    #[test]
    fn removed_backends_are_named_while_the_file_has_them() {
        let removed_ports = [5001, 5002, 5009].map(|port| target("web", port));
        let mut overlay = Overlay {
            removed: removed_ports.into(),
            ..Overlay::default()
        };
        assert_eq!(
            removed(&config(&[5000, 5001, 5002]), &overlay),
            [
                "2 of the file were removed at run time: 127.0.0.1:5001, 127.0.0.1:5002 (of web; \"lb-agent \
                 reset-backend\" puts one back)"
            ]
        );
        assert_eq!(removed(&config(&[5000]), &overlay), Vec::<String>::new());
        let many: Vec<u16> = (5000..5020).collect();
        overlay.removed = many.iter().map(|port| target("web", *port)).collect();
        let notes = removed(&config(&many), &overlay);
        assert!(notes[0].contains("127.0.0.1:5007 and 12 more"), "{notes:?}");
    }

    #[test]
    fn backends_beyond_the_file_are_named_by_their_origin() {
        let mut overlay = Overlay::default();
        for port in [5000, 5001, 5002] {
            overlay.add(target("web", port), 3);
        }
        let notes = staying(&config(&[5000, 5001]), &config(&[5000]), &overlay);
        assert_eq!(
            notes,
            [
                "1 is not in the file any more, but changed at run time, and stays: 127.0.0.1:5001 (of web; \
                 \"lb-agent reset-backend\" ends that)",
                "1 added at run time stays beside the file: 127.0.0.1:5002 (of web)",
            ]
        );
    }

    #[test]
    fn changes_of_other_services_are_not_forgotten() {
        let mut overlay = Overlay::default();
        overlay.add(target("web", 5000), 3);
        overlay.drain(target("web", 5000), 1);
        overlay.removed.push(target("web", 5001));
        overlay.add(target("old", 5000), 3);
        assert_eq!(forget(&config(&[5000]), &mut overlay), 2);
        let left: Vec<&Target> = overlay.targets().collect();
        assert_eq!(left, [&target("old", 5000)]);
    }
}
