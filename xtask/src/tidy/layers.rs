//! The order of dependencies: `lb-ebpf -> lb-common <- lb-config <- lb-net <- lb-http <- lb-agent
//! <- tests` with `lb-http1 <- lb-http`. Inside a crate it is the order of its modules, from the
//! ground up.

use super::modules::{Use, children, uses};
use super::{Complaint, Source};

/// Every crate, with the crates of this repository that it may depend on.
const CRATES: [(&str, &[&str]); 11] = [
    ("lb-common", &[]),
    ("lb-config", &["lb-common"]),
    ("lb-import", &["lb-config"]),
    ("lb-net", &["lb-common", "lb-config"]),
    ("lb-http1", &[]),
    ("lb-http", &["lb-common", "lb-config", "lb-net", "lb-http1"]),
    ("lb-ebpf", &["lb-common"]),
    (
        "lb-agent",
        &["lb-common", "lb-config", "lb-import", "lb-net", "lb-http"],
    ),
    ("tests", &["lb-common", "lb-config", "lb-net", "lb-agent"]),
    ("load", &[]),
    ("xtask", &[]),
];

/// All names of dependencies within this repository.
const OURS: [&str; 11] = [
    "lb-common",
    "lb-config",
    "lb-import",
    "lb-net",
    "lb-http1",
    "lb-http",
    "lb-ebpf",
    "lb-agent",
    "lb-load",
    "lb-tests",
    "xtask",
];

/// The file with the orders of modules.
const THIS_FILE: &str = "xtask/src/tidy/layers.rs";

/// A crate's first file, and all modules that it declares, from the ground up: each may use those before it.
type Order = (&'static str, &'static [&'static str]);

/// Crates with an order of their modules.
const ORDERS: [Order; 4] = [
    (CONFIG, &CONFIG_MODULES),
    (NET, &NET_MODULES),
    (HTTP, &HTTP_MODULES),
    (AGENT, &AGENT_MODULES),
];

const CONFIG: &str = "lb-config/src/lib.rs";
const CONFIG_MODULES: [&str; 21] = [
    "memory", "foreign", "error", "value", "choice", "reader", "schema", "address", "packet",
    "lists", "metrics", "http", "otlp", "health", "agent", "raw", "hints", "loops", "validate",
    "show", "warnings",
];

const NET: &str = "lb-net/src/lib.rs";
const NET_MODULES: [&str; 8] = [
    "clock",
    "seldom",
    "sockopt",
    "clients",
    "proxy_protocol",
    "bind",
    "handover",
    "admission",
];

const HTTP: &str = "lb-http/src/lib.rs";
const HTTP_MODULES: [&str; 66] = [
    "clock",
    "client_cert",
    "forwarded",
    "ids",
    "limits",
    "metrics",
    "pages",
    "peer",
    "presence",
    "proxied",
    "routes",
    "sticky",
    "stream",
    "tables",
    "watch",
    "auth",
    "trace",
    "access_log",
    "affinity_cache",
    "answers",
    "record",
    "breaker",
    "client",
    "counts",
    "h2c",
    "prefixed",
    "progress",
    "rules",
    "tls",
    "handshake",
    "carrier",
    "compress",
    "listener_config",
    "tunnel",
    "request",
    "upstream",
    "files",
    "cache",
    "fuzz",
    "download",
    "filters",
    "compiled",
    "settings",
    "upload",
    "failure",
    "head_reader",
    "worker",
    "connection",
    "context",
    "extended",
    "selector",
    "transfer",
    "body",
    "exchange",
    "ranged",
    "serve_files",
    "serve_cached",
    "handle",
    "h2",
    "respond",
    "http1",
    "serve",
    "accept",
    "thread",
    "engine",
    "decide",
];

const AGENT: &str = "lb-agent/src/lib.rs";
const AGENT_MODULES: [&str; 21] = [
    "allocator",
    "errors",
    "sockdiag",
    "crowd",
    "privilege",
    "network",
    "state",
    "dataplane",
    "host",
    "health",
    "control",
    "metrics",
    "page",
    "proxy",
    "http",
    "doctor",
    "report",
    "reconcile",
    "takeover",
    "run",
    "cli",
];

/// Modules of the agent that must not use a module below them.
const APART: [(&str, &str); 2] = [
    // A command goes to `reconcile` by a queue.
    ("control", "dataplane"),
    ("proxy", "control"),
];

/// Files that may name aya: the rest of the code does not know how the kernel is reached.
const AYA_PLACES: [&str; 3] = [
    "lb-agent/src/dataplane/bpf/",
    "lb-ebpf/",
    "tests/src/prog_run.rs",
];

/// Knows `state`, the wanted state of services, not the configuration.
const WITHOUT_CONFIG: &str = "lb-agent/src/dataplane/";

/// Files that may print to the terminal.
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
    for safe in ["lb-common", "lb-config", "lb-http1", "lb-http"] {
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

/// Crates of this repository among the dependencies of a manifest, with their lines.
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

/// Inside a crate, every module has its place in the order, and uses only modules before it.
pub(super) fn modules_use_what_is_below_them(sources: &[Source]) -> Vec<Complaint> {
    let order = |one: &Use<'_>| ORDERS.into_iter().find(|(root, _)| *root == one.root);
    let mut complaints: Vec<Complaint> = uses(sources)
        .iter()
        .filter(|one| one.parent.is_empty())
        .filter_map(|one| upward(one, order(one)?))
        .collect();
    complaints.sort();
    complaints.dedup();
    for (root, modules) in ORDERS {
        let library = find(sources, root);
        complaints.extend(
            library
                .into_iter()
                .flat_map(|it| without_place(it, modules)),
        );
    }
    complaints
}

/// A complaint about a use of a module above, or of a forbidden one.
fn upward(one: &Use<'_>, (root, modules): Order) -> Option<Complaint> {
    let place = |name: &str| modules.iter().position(|known| *known == name);
    let why = if place(one.to)? > place(one.from)? {
        "is above it"
    } else if root == AGENT && APART.contains(&(one.from, one.to)) {
        "it is to leave alone"
    } else {
        return None;
    };
    let message = format!(
        "`{}` must not use `{}` (`{}`), which {why}: see {THIS_FILE}",
        one.from, one.to, one.path
    );
    Some(one.source.complain(one.line, message))
}

/// Modules that are not in the order, and names in the order that are no modules.
fn without_place(library: &Source, modules: &[&str]) -> Vec<Complaint> {
    let declared = children(library);
    let unknown = declared
        .iter()
        .filter(|(_, name)| !modules.contains(name))
        .map(|(line, name)| library.complain(*line, format!("`{name}` is missing in {THIS_FILE}")));
    let gone = modules
        .iter()
        .filter(|name| !declared.iter().any(|(_, declared)| declared == *name))
        .map(|name| library.complain(1, format!("{THIS_FILE} has `{name}`, which is no module")));
    unknown.chain(gone).collect()
}

/// Inside the crates: one place knows aya, one place prints, one place does not know the configuration.
pub(super) fn aya_printing_and_configuration_stay_in_their_places(
    sources: &[Source],
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (number, line) in source.lines() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let wrong = stray_aya(&source.path, line)
                .or_else(|| stray_print(&source.path, line))
                .or_else(|| stray_config(&source.path, line));
            complaints.extend(wrong.map(|message| source.complain(number, message)));
        }
    }
    complaints
}

fn stray_aya(path: &str, line: &str) -> Option<String> {
    let allowed = AYA_PLACES.iter().any(|place| path.starts_with(place))
        || path.starts_with("tests/kernel/bpf_")
        || path.starts_with("xtask/");
    let used = line.contains("aya::") || line.contains("aya_log::");
    (used && !allowed).then(|| "only lb-agent/src/dataplane/bpf uses aya".to_owned())
}

fn stray_config(path: &str, line: &str) -> Option<String> {
    (path.starts_with(WITHOUT_CONFIG) && line.contains("lb_config::"))
        .then(|| format!("{WITHOUT_CONFIG} does not know lb_config: see {THIS_FILE}"))
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

    /// Complaints about an agent that has all modules, empty but for these files.
    fn about(files: &[(&str, &str)]) -> Vec<String> {
        let declared = AGENT_MODULES
            .map(|name| format!("pub mod {name};\n"))
            .concat();
        let mut sources = vec![Source::new(AGENT, &declared)];
        sources.extend(files.iter().map(|(path, text)| Source::new(path, text)));
        let empty = AGENT_MODULES.map(|name| Source::new(&format!("lb-agent/src/{name}.rs"), ""));
        for source in empty {
            if sources.iter().all(|other| other.path != source.path) {
                sources.push(source);
            }
        }
        let complaints = modules_use_what_is_below_them(&sources);
        complaints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_that_uses_one_above_it_is_found() {
        let found = |path: &str, text: &str| about(&[(path, text)]).len();
        let plan = "lb-agent/src/state.rs";
        assert_eq!(found(plan, "use crate::control::message;"), 1);
        assert_eq!(found(plan, "use crate::network::X;"), 0);
        let call = "fn f() {\n    crate::run::g();\n}";
        assert_eq!(found("lb-agent/src/control.rs", call), 1);
        let test = "#[cfg(test)]\nmod tests { use crate::run; }";
        assert_eq!(found("lb-agent/src/control.rs", test), 0);
        assert_eq!(
            found("lb-agent/src/run.rs", "use crate::control::server;"),
            0
        );
    }

    #[test]
    fn a_module_below_that_is_to_be_left_alone_is_found() {
        for (name, other) in APART {
            let path = format!("lb-agent/src/{name}.rs");
            let text = format!("use crate::{other}::X;");
            assert_eq!(about(&[(&path, &text)]).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_re_export_of_a_module_above_is_found() {
        let files = [
            ("lb-agent/src/host.rs", "pub use crate::state::X;"),
            ("lb-agent/src/state.rs", "pub struct X;"),
            ("lb-agent/src/network.rs", "use crate::host::X;"),
        ];
        assert_eq!(about(&files).len(), 2);
    }

    #[test]
    fn a_module_without_a_place_is_found_and_a_place_without_a_module() {
        assert_eq!(about(&[]), [""; 0]);
        let more = AGENT_MODULES
            .map(|name| format!("pub mod {name};\n"))
            .concat()
            + "mod other;\n";
        let complaints = modules_use_what_is_below_them(&[Source::new(AGENT, &more)]);
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].line, AGENT_MODULES.len() + 1);
        let less = more.replace("pub mod cli;\nmod other;\n", "");
        assert_eq!(
            modules_use_what_is_below_them(&[Source::new(AGENT, &less)]).len(),
            1
        );
    }

    #[test]
    fn each_crate_with_an_order_is_checked() {
        for (root, modules) in ORDERS {
            let (dir, _) = root.rsplit_once('/').unwrap();
            let declared: String = modules
                .iter()
                .map(|name| format!("pub mod {name};\n"))
                .collect();
            let (lowest, highest) = (modules[0], modules[modules.len() - 1]);
            let mut sources = vec![Source::new(root, &declared)];
            for name in modules {
                let text = format!("use crate::{highest}::X;");
                let text = if *name == lowest { &text } else { "" };
                sources.push(Source::new(&format!("{dir}/{name}.rs"), text));
            }
            let complaints = modules_use_what_is_below_them(&sources);
            assert_eq!(complaints.len(), 1, "{root}");
            assert_eq!(complaints[0].path, format!("{dir}/{lowest}.rs"));
        }
    }

    #[test]
    fn dataplane_that_reads_the_configuration_is_found() {
        let line = "use lb_config::Config;";
        let found = |path: &str| {
            aya_printing_and_configuration_stay_in_their_places(&[Source::new(path, line)]).len()
        };
        assert_eq!(found("lb-agent/src/dataplane/mod.rs"), 1);
        assert_eq!(found("lb-agent/src/state/desired.rs"), 0);
    }

    #[test]
    fn aya_elsewhere_and_printing_elsewhere_are_found() {
        let found = |path: &str, line: &str| {
            aya_printing_and_configuration_stay_in_their_places(&[Source::new(path, line)]).len()
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
