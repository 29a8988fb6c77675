//! redbot, a lint for HTTP, looks at files, answers of the cache, redirects and errors. It has nothing to object to but
//! for a stated list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::node;
use lb_tests::skip::skip;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4};
use serde_json::Value;

/// Objections by path and redbot's name for them, with the reason.
const OBJECTIONS: [(&str, &str, &str); 3] = [
    (
        "/sub",
        "FRESHNESS_HEURISTIC",
        "a redirect to the directory says nothing of its lifetime, as with nginx",
    ),
    (
        "/listing/",
        "FRESHNESS_HEURISTIC",
        "a list says nothing of its lifetime: rules go by the names of files",
    ),
    (
        "/api/prices",
        "DATE_INCORRECT",
        "redbot heeds Age only where it comes before Date; the sum of both is right",
    ),
];

/// Paths that are looked at. The last one is in the cache when it is asked for again.
const PATHS: [&str; 8] = [
    "/",
    "/users/7",
    "/app.js",
    "/large.txt",
    "/sub",
    "/listing/",
    "/api/prices",
    "/api/prices",
];

fn fill(root: &Path) {
    let write = |name: &str, content: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let text = "Home of the test. ".repeat(30);
    let page = format!("<!doctype html><html lang=\"en\"><title>Home</title><p>{text}</html>\n");
    write("index.html", &page);
    write("sub/index.html", &page);
    write("app.js", &"console.log('hello');\n".repeat(100));
    let gzip = Command::new("gzip")
        .arg("-k")
        .arg(root.join("app.js"))
        .status();
    assert!(gzip.expect("gzip").success());
    write(
        "large.txt",
        &"All work and no play makes Jack a dull boy.\n".repeat(10_000),
    );
    write("listing/one.txt", "one");
}

fn services(root: &Path) -> String {
    let root = root.display();
    format!(
        "[[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000']\n[service.http.cache]\n\
         [[service.route]]\npath = '/api'\nbackends = ['127.0.0.1:5000']\n\
         [[service.route]]\npath = '/listing'\nfiles = {{ root = '{root}', listing = true }}\n\
         [[service.route]]\npath = '/'\n[service.route.files]\nroot = '{root}'\n\
         try = ['$path', '/index.html']\nprecompressed = ['gzip']\n\
         cache_control = [{{ path = '*.js', value = 'max-age=60' }}, {{ path = '*', value = 'no-cache' }}]\n"
    )
}

/// redbot's notes on a URL: the name, the level, and the text of each.
fn notes(redbot: &Path, host: &Host, path: &str) -> Vec<(String, String, String)> {
    let mut command = host.command(redbot);
    command
        .args(["-o", "har"])
        .arg(format!("http://{}{path}", SERVICE_V4.ip()));
    let output = command.output().expect("start redbot");
    let archive: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{path}: {error}: {output:?}"));
    let notes = archive["log"]["entries"][0]["_red_messages"].as_array();
    let text = |note: &Value, name: &str| note[name].as_str().unwrap_or_default().to_owned();
    let all = notes.into_iter().flatten();
    let all: Vec<_> = all
        .map(|note| ["note_id", "level", "summary"].map(|name| text(note, name)))
        .map(|[name, level, summary]| (name, level, summary))
        .collect();
    assert!(!all.is_empty(), "{path}: {archive:#}");
    all
}

#[test]
fn redbot_objects_to_nothing_but_a_stated_list() {
    let Some(redbot) = std::env::var_os("LB_TEST_REDBOT").map(PathBuf::from) else {
        skip("redbot: LB_TEST_REDBOT does not name it");
        return;
    };
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    fill(dir.path());
    let agent = Agent::start(&hosts.balancer, &services(dir.path()));
    let listen = ([127, 0, 0, 1], 5000).into();
    let _app = node::serve(&hosts.balancer, "site.js", listen, agent.dir());
    let mut report = String::new();
    for path in PATHS {
        let notes = notes(&redbot, &hosts.clients, path);
        for (name, level, summary) in &notes {
            let is_known = |(on, which, _): &(&str, &str, &str)| *on == path && which == name;
            let is_objection = matches!(level.as_str(), "BAD" | "WARN");
            if is_objection && !OBJECTIONS.iter().any(is_known) {
                report += &format!("{path}: {name}, {level}: {summary}\n");
            }
        }
        if path == "/large.txt" {
            let is_right = |name: &str| name == "RANGE_CORRECT";
            assert!(notes.iter().any(|(name, ..)| is_right(name)), "{notes:#?}");
        }
    }
    assert!(report.is_empty(), "{report}");
    let told = agent.ok(&["cache"]);
    assert!(told.contains("/api/prices"), "{told}");
}
