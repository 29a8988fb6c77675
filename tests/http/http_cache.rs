//! `[service.http.cache]`: responses come from memory, `cache` tells of them, `purge` removes them, and a reload keeps
//! them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};

/// A site with a cache before a service that sends the files of `root`.
fn services(root: &Path, lock: &str) -> String {
    format!(
        "[[service]]\nname = 'site'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.http.cache]\nlock = '{lock}'\n\
         [[service]]\nname = 'origin'\nlisten = ['127.0.0.1:5000']\nmode = 'http'\n\
         [[service.route]]\npath = '/'\n[service.route.files]\nroot = '{}'\n\
         cache_control = [{{ path = '*', value = 'max-age=3600' }}]\n\
         [service.http]\nresponse_headers = [{{ set = 'Cache-Tag', value = 'pages, all' }}]\n",
        root.display()
    )
}

#[test]
fn responses_stay_until_they_are_purged() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let page = dir.path().join("page.txt");
    fs::write(&page, "old").unwrap();
    let agent = Agent::start(&hosts.balancer, &services(dir.path(), "5s"));
    let ask = |path: &str| -> Reply {
        let what = format!("GET {path}");
        exchange::ask(
            &hosts.clients,
            client_v4(1),
            SERVICE_V4,
            &what,
            &["Host: a.test"],
        )
    };
    assert_eq!(ask("/page.txt").body, "old");
    fs::write(&page, "new").unwrap();
    let stored = ask("/page.txt");
    assert_eq!(stored.body, "old");
    assert!(
        stored
            .header("cache-status")
            .starts_with("lb-agent; hit; ttl=")
    );

    agent.configure(&services(dir.path(), "6s"));
    agent.ok(&["reload"]);
    assert_eq!(ask("/page.txt").body, "old");
    let told = agent.ok(&["cache"]);
    assert!(
        told.contains("66 % from memory: 2 hit, 0 stale, 0 revalidated, 1 miss"),
        "{told}"
    );
    assert!(told.contains("http://a.test/page.txt"), "{told}");
    let stats: serde_json::Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let of_service = &stats["status"]["services"][0]["cache"];
    assert_eq!(of_service["hit"], 2, "{stats:#}");

    // The origin knows its files for a second.
    std::thread::sleep(Duration::from_millis(1500));
    let purged = agent.ok(&["purge", "http://A.test:80/page.txt"]);
    assert!(purged.contains("1 stored response is removed"), "{purged}");
    assert_eq!(ask("/page.txt").body, "new");
    let purged = agent.ok(&["purge", "--tag", "pages"]);
    assert!(purged.contains("1 stored response is removed"), "{purged}");
    assert!(!agent.ok(&["cache"]).contains("page.txt"));
    assert_eq!(ask("/page.txt").header("cache-tag"), "pages, all");
    let wrong = agent.run(&["purge", "page.txt"]);
    assert_ne!(wrong.code, 0);
    assert!(wrong.stderr.contains("is not a URL"), "{wrong:?}");
    agent.ok(&["purge", "--all"]);
    assert!(!agent.ok(&["cache"]).contains("page.txt"));
}
