//! Names of services before and after a reload, and the notes about them.

use super::*;
use crate::state::compose::tests::{Loopback, config};
use crate::state::overlay::Target;

fn service(name: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = '{name}'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n{more}\n"
    )
}

fn target(service: &str) -> Target {
    Target {
        service: service.to_owned(),
        address: "127.0.0.1:5001".parse().unwrap(),
    }
}

fn desired(text: &str, overlay: &Overlay) -> Desired {
    let surroundings = Loopback { can_steer: true };
    Desired::new(&config(text), overlay, [1, 2], 0, &surroundings)
}

/// The overlay after a reload of `text`, with these services in force before.
fn reload(overlay: &mut Overlay, text: &str, known: &[&str]) {
    carry_over(overlay, &config(text), &|name| known.contains(&name));
}

#[test]
fn renamed_service_takes_over_changes_made_at_run_time() {
    let mut overlay = Overlay::default();
    overlay.add(target("app"), 3);
    overlay.drain(target("app"), 1000);
    overlay.removed.push(target("app"));
    reload(&mut overlay, &service("web", "was = 'app'"), &["app"]);
    assert_eq!(overlay.added(&target("web")), Some(3));
    assert_eq!(overlay.drained[0].target, target("web"));
    assert_eq!(overlay.removed, [target("web")]);
}

#[test]
fn hash_name_stays_when_was_is_taken_out_and_over_further_renames() {
    let mut overlay = Overlay::default();
    let hash_name =
        |text: &str, overlay: &Overlay| desired(text, overlay).services[0].hash_name.clone();
    let plain = service("web", "");
    assert_eq!(hash_name(&plain, &overlay), "web");
    let renamed = service("web", "was = 'app'");
    reload(&mut overlay, &renamed, &["app"]);
    assert_eq!(hash_name(&renamed, &overlay), "app");
    reload(&mut overlay, &plain, &["web"]);
    assert_eq!(hash_name(&plain, &overlay), "app");
    let again = service("shop", "was = 'web'");
    reload(&mut overlay, &again, &["web"]);
    assert_eq!(hash_name(&again, &overlay), "app");
    // An agent with an empty overlay takes the first name from the file.
    let both = service("shop", "was = ['web', 'app']");
    assert_eq!(hash_name(&both, &Overlay::default()), "app");
    reload(&mut overlay, &service("other", ""), &["shop"]);
    assert_eq!(
        overlay,
        Overlay::default(),
        "of services that are gone nothing is kept"
    );
}

#[test]
fn service_that_was_there_keeps_its_hash_whatever_it_claims_to_have_been() {
    let mut overlay = Overlay::default();
    let text = service("web", "was = 'app'");
    reload(&mut overlay, &text, &["app", "web"]);
    assert_eq!(desired(&text, &overlay).services[0].hash_name, "web");
}

#[test]
fn rename_is_told_and_a_likely_one_with_the_remedy() {
    let mut overlay = Overlay::default();
    overlay.add(target("app"), 1);
    let before = desired(&service("app", ""), &overlay);
    let after = |more: &str| desired(&service("web", more), &Overlay::default());
    assert_eq!(
        notes(&before, &after("was = 'app'")),
        ["app is web from now on"]
    );
    let told = notes(&before, &after(""));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("write was = \"app\" in the [[service]] web"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("127.0.0.1:5001 of app, added at run time"),
        "{told:?}"
    );
    assert!(notes(&before, &before).is_empty());
}

#[test]
fn way_back_gives_names_back() {
    let before = desired(&service("app", ""), &Overlay::default());
    let after = desired(&service("web", "was = 'app'"), &Overlay::default());
    assert_eq!(back(&before, &after).services[0].was, ["web"]);
    assert_eq!(back(&before, &before), before);
}
