//! What the agent tells of cache, files, limits, bans and passwords is what was done with the requests: `status`,
//! `stats`, the metrics and the access log have the same counts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{exchange, http, wait};
use serde_json::{Value, json};

/// A site with everything that answers or refuses before a backend, and the service behind it.
fn services(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[[service]]\nname = 'site'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:5000']\n\
         deny = ['10.9.9.0/24']\n\
         limit = [{{ name = 'rare', path = '/rare', rate = '1/24h' }}]\n\
         [service.http]\naccess_log = {{ file = '{dir}/access.log', format = 'json' }}\n\
         [service.http.cache]\n\
         [[service.route]]\npath = '/files'\nfiles = '{dir}/www'\n\
         [[service.route]]\npath = '/old'\nredirect = '/new'\n\
         [[service.route]]\npath = '/staff'\nfiles = '{dir}/www'\nauth = {{ users = '{dir}/users' }}\n\
         [[service]]\nname = 'origin'\nlisten = ['127.0.0.1:5000']\nmode = 'http'\n\
         [[service.route]]\npath = '/'\nanswer = {{ status = 200, body = 'hello' }}\n\
         response_headers = [{{ set = 'Cache-Control', value = 'max-age=60' }}]\n"
    )
}

/// The directory that the services name.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir_all(dir.path().join("www/files")).unwrap();
    fs::write(dir.path().join("www/files/a.txt"), "a file").unwrap();
    fs::write(dir.path().join("users"), "").unwrap();
    dir
}

/// `why`, `cache` and `limit` of each line of the access log.
fn whys(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let words =
            ["why", "cache", "limit"].map(|name| line[name].as_str().unwrap_or("-").to_owned());
        words.join(" ")
    };
    text.lines().map(line).collect()
}

#[test]
fn status_stats_metrics_and_access_log_have_the_same_counts() {
    let (hosts, dir) = (Hosts::new(), directory());
    let agent = Agent::start(&hosts.balancer, &services(dir.path()));
    let (good, bad) = (client_v4(1), client_v4(2));
    agent.ok(&["ban", &bad.to_string(), "--for", "1h"]);
    hosts
        .clients
        .run(|| http::connect(bad, SERVICE_V4).unwrap_err());
    for (path, status) in [
        ("/x", 200),
        ("/x", 200),
        ("/x", 200),
        ("/files/a.txt", 200),
        ("/files/none", 404),
        ("/old", 308),
        ("/staff/a.txt", 401),
        ("/rare", 200),
        ("/rare", 429),
    ] {
        let what = format!("GET {path}");
        let reply = exchange::ask(&hosts.clients, good, SERVICE_V4, &what, &[]);
        assert_eq!(reply.status, status, "{path}");
    }
    let mut lines = wait::until("nine lines", || {
        Some(whys(dir.path())).filter(|lines| lines.len() == 9)
    });
    // Each worker writes its own lines.
    lines.sort();
    assert_eq!(
        lines,
        [
            "affinity miss -",
            "cache hit -",
            "cache hit -",
            "denied - -",
            "files - -",
            "files - -",
            "limit - rare",
            "route - -",
            "slot miss -",
        ]
    );

    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let site = &stats["http"][0];
    assert_eq!(
        site["answers"],
        json!({"backend": 2, "cache": 2, "files": 1, "gateway": 3, "route": 1})
    );
    assert_eq!(
        site["cache"],
        json!({"hit": 2, "miss": 2, "revalidated": 0, "stale": 0})
    );
    assert_eq!(site["denied"], 1);

    let status = agent.status();
    let site = &status["services"][0];
    assert_eq!(
        site["cache"],
        json!({"hit": 2, "miss": 2, "revalidated": 0, "stale": 0})
    );
    let limit = &site["limits"][0];
    assert_eq!(
        (&limit["name"], &limit["rate"]),
        (&json!("rare"), &json!("1/24h"))
    );
    assert_eq!(
        (&limit["path"], &limit["refused"]),
        (&json!("/rare"), &json!(1))
    );
    assert_eq!(site["access"], json!({"allow": 0, "deny": 1, "bans": 1}));
    assert_eq!(site["auth"]["refused"], 1);
    assert!(site["counters"]["denied"].as_u64().unwrap() >= 1, "{site}");
    let stored = &status["agent"]["cache"];
    assert!(stored["bytes"].as_u64().unwrap() > 0, "{stored}");
    let table = agent.ok(&["status"]);
    for line in [
        "cache: 50 % from memory; 2 hit, 0 stale, 0 revalidated, 2 miss",
        "access: 1 in deny, 1 ban",
        "limit rare: 1/24h by client at /rare; 1 refused",
        "users; 1 refused",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let page = agent.ok(&["stats"]);
    for word in ["HIT RATE", "50%", "rare"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    agent.ok(&["unban", &bad.to_string()]);
    assert_eq!(agent.status()["services"][0]["access"]["bans"], 0);
}
