//! Who may depend on whom: `lb-ebpf -> lb-common <- lb-agent <- tests` with `lb-http <- lb-agent`, and inside the agent
//! `cli -> control -> reconcile -> {state, dataplane}`.

use super::{Complaint, Source};

/// Every crate with the crates of ours that it may depend on.
const CRATES: [(&str, &[&str]); 7] = [
    ("lb-common", &[]),
    ("lb-http", &[]),
    ("lb-ebpf", &["lb-common"]),
    ("lb-agent", &["lb-common", "lb-http"]),
    ("tests", &["lb-common", "lb-agent"]),
    ("load", &[]),
    ("xtask", &[]),
];

/// All names that a dependency of ours can have.
const OURS: [&str; 7] = [
    "lb-common",
    "lb-http",
    "lb-ebpf",
    "lb-agent",
    "lb-load",
    "lb-tests",
    "xtask",
];

/// Modules of the agent with those of its modules that they must not know.
const MODULES: [(&str, &[&str]); 5] = [
    (
        "config",
        &[
            "cli",
            "control",
            "dataplane",
            "proxy",
            "reconcile",
            "report",
            "run",
            "state",
        ],
    ),
    (
        "state",
        &["cli", "control", "proxy", "reconcile", "report", "run"],
    ),
    (
        "dataplane",
        &[
            "cli",
            "config",
            "control",
            "proxy",
            "reconcile",
            "report",
            "run",
        ],
    ),
    ("proxy", &["cli", "control", "reconcile", "report", "run"]),
    (
        "control",
        &["cli", "dataplane", "proxy", "reconcile", "run"],
    ),
];

/// Where the names of aya may appear: nobody else knows how the kernel is reached.
const AYA_PLACES: [&str; 3] = [
    "lb-agent/src/dataplane/bpf/",
    "lb-ebpf/",
    "tests/src/prog_run.rs",
];

/// Where text may go to the terminal.
const PRINTING_PLACES: [&str; 2] = ["lb-agent/src/cli/", "lb-agent/src/main.rs"];

/// Dependencies between our crates point downwards, and lb-common stays safe.
pub(super) fn crates_depend_downwards(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (name, allowed) in CRATES {
        let Some(manifest) = find(sources, &format!("{name}/Cargo.toml")) else {
            continue;
        };
        for (number, dependency) in own_dependencies(manifest) {
            if !allowed.contains(&dependency) {
                let message = format!("{name} must not depend on {dependency}");
                complaints.push(manifest.complain(number, message));
            }
        }
    }
    for safe in ["lb-common", "lb-http"] {
        if let Some(library) = find(sources, &format!("{safe}/src/lib.rs"))
            && !library.text.contains("#![forbid(unsafe_code)]")
        {
            complaints.push(library.complain(1, format!("{safe} has to forbid(unsafe_code)")));
        }
    }
    complaints
}

fn find<'a>(sources: &'a [Source], path: &str) -> Option<&'a Source> {
    sources.iter().find(|source| source.path == path)
}

/// Our crates among the dependencies of a manifest, with their lines.
fn own_dependencies(manifest: &Source) -> Vec<(usize, &str)> {
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for (number, line) in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            found.extend(OURS.contains(&name).then_some((number, name)));
        }
    }
    found
}

/// Inside the crates: modules know what is below them, one place knows aya, one place prints.
pub(super) fn modules_use_what_is_below_them(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (number, line) in source.lines() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let wrong = upward(&source.path, line)
                .or_else(|| stray_aya(&source.path, line))
                .or_else(|| stray_print(&source.path, line));
            complaints.extend(wrong.map(|message| source.complain(number, message)));
        }
    }
    complaints
}

/// A use of a module above. Tests may wire up what they like.
fn upward(path: &str, line: &str) -> Option<String> {
    let inside = path.strip_prefix("lb-agent/src/")?;
    if inside.ends_with("tests.rs") {
        return None;
    }
    let module = inside.split(['/', '.']).next()?;
    let (_, forbidden) = MODULES.iter().find(|(name, _)| *name == module)?;
    let used = line.split("crate::").skip(1).find_map(|rest| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        forbidden.contains(&&rest[..end]).then_some(&rest[..end])
    })?;
    Some(format!(
        "`{module}` must not know `{used}`: the direction is in ARCHITECTURE.md"
    ))
}

fn stray_aya(path: &str, line: &str) -> Option<String> {
    let allowed = AYA_PLACES.iter().any(|place| path.starts_with(place))
        || path.starts_with("tests/tests/bpf_")
        || path.starts_with("xtask/");
    let used = line.contains("aya::") || line.contains("aya_log::");
    (used && !allowed).then(|| "only lb-agent/src/dataplane/bpf uses aya".to_owned())
}

fn stray_print(path: &str, line: &str) -> Option<String> {
    let allowed =
        PRINTING_PLACES.iter().any(|place| path.starts_with(place)) || path.ends_with("tests.rs");
    let prints = line.contains("println!(") || line.contains("print!(");
    (prints && path.starts_with("lb-agent/src/") && !allowed)
        .then(|| "only lb-agent/src/cli prints; elsewhere use tracing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_points_upwards_is_found() {
        let manifest =
            "[package]\nname = \"lb-common\"\n[dev-dependencies]\nlb-agent.path = \"\"\n";
        let complaints = crates_depend_downwards(&[Source::new("lb-common/Cargo.toml", manifest)]);
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].line, 4);
    }

    #[test]
    fn the_usual_dependencies_are_fine() {
        let manifest = "[dependencies]\nlb-common = { path = \"../lb-common\" }\nserde = \"1\"\n";
        assert!(
            crates_depend_downwards(&[Source::new("lb-agent/Cargo.toml", manifest)]).is_empty()
        );
    }

    #[test]
    fn lb_common_has_to_forbid_unsafe_code() {
        let library = Source::new("lb-common/src/lib.rs", "#![no_std]\n");
        assert_eq!(crates_depend_downwards(&[library]).len(), 1);
    }

    #[test]
    fn a_module_that_knows_one_above_it_is_found() {
        let found = |path: &str, line: &str| {
            modules_use_what_is_below_them(&[Source::new(path, line)]).len()
        };
        assert_eq!(
            found("lb-agent/src/state/plan.rs", "use crate::control::message;"),
            1
        );
        assert_eq!(
            found("lb-agent/src/state/plan.rs", "use crate::config::Config;"),
            0
        );
        assert_eq!(
            found(
                "lb-agent/src/config/mod.rs",
                "fn f(x: &crate::state::Desired) {}"
            ),
            1
        );
        assert_eq!(
            found("lb-agent/src/run.rs", "use crate::control::server;"),
            0
        );
        assert_eq!(
            found(
                "lb-agent/src/state/tests.rs",
                "use crate::control::message;"
            ),
            0
        );
    }

    #[test]
    fn aya_and_printing_stay_in_their_places() {
        let found = |path: &str, line: &str| {
            modules_use_what_is_below_them(&[Source::new(path, line)]).len()
        };
        assert_eq!(
            found("lb-agent/src/reconcile/mod.rs", "use aya::maps::Array;"),
            1
        );
        assert_eq!(
            found(
                "lb-agent/src/dataplane/bpf/maps.rs",
                "use aya::maps::Array;"
            ),
            0
        );
        assert_eq!(
            found("lb-agent/src/reconcile/mod.rs", "println!(\"x\");"),
            1
        );
        assert_eq!(found("lb-agent/src/cli/status.rs", "println!(\"x\");"), 0);
    }
}
