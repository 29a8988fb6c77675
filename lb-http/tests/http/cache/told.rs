//! Figures and the access log say what was done with a request: which source answered, what the cache did, which
//! limit refused it, that it had no access.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lb_http::CacheResult;
use lb_http::metrics::{SOURCES, ServiceFigures};

use super::super::figures::figures;
use super::super::log::Log;
use super::{ON, Origin, get, ok};

/// Answers by their source, in the order of [`SOURCES`].
#[track_caller]
fn sources(figures: &ServiceFigures) -> String {
    let counts = SOURCES.iter().zip(figures.answers);
    let words: Vec<String> = counts.map(|(source, n)| format!("{source} {n}")).collect();
    words.join(", ")
}

fn cached(figures: &ServiceFigures, result: CacheResult) -> u64 {
    figures.cache[result as usize]
}

/// `why` and the fields beside it of each line.
fn whys(log: &Log, count: usize) -> Vec<String> {
    let text = |line: &serde_json::Value, name: &str| match &line[name] {
        serde_json::Value::Null => String::new(),
        value => format!(" {name}={}", value.to_string().trim_matches('"')),
    };
    let line = |line: &serde_json::Value| {
        let more = ["cache", "limit", "dry_run"].map(|name| text(line, name));
        format!("{}{}{}", line["status"], text(line, "why"), more.concat())
    };
    log.lines(count).iter().map(line).collect()
}

#[test]
fn source_cache_limit_and_access_are_counted_and_logged_for_each_request() {
    let (log, dir) = (Log::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("files")).unwrap();
    std::fs::write(dir.path().join("files/a.txt"), "a file").unwrap();
    std::fs::write(dir.path().join("users"), "").unwrap();
    let origin = Origin::with("Cache-Control: max-age=60\r\n");
    let dir = dir.path().display();
    let settings = log.settings();
    let proxy = origin.proxy(&format!(
        "{settings}\n{ON}\n\
         [[service.limit]]\nname = 'rare'\npath = '/rare'\nrate = '1/24h'\n\
         [[service.limit]]\nname = 'trial'\npath = '/trial'\nrate = '1/24h'\ndry_run = true\n\
         [[service.route]]\npath = '/files'\nfiles = '{dir}'\n\
         [[service.route]]\npath = '/old'\nredirect = '/new'\n\
         [[service.route]]\npath = '/staff'\nfiles = '{dir}'\nauth = {{ users = '{dir}/users' }}\n"
    ));
    for (path, status) in [
        ("/x", 200),
        ("/x", 200),
        ("/files/a.txt", 200),
        ("/files/none", 404),
        ("/old", 308),
        ("/staff/a.txt", 401),
        ("/rare", 200),
        ("/rare", 429),
        ("/trial", 200),
        ("/trial", 200),
    ] {
        assert_eq!(get(&proxy, path, "").status, status, "{path}");
    }
    assert_eq!(
        whys(&log, 10),
        [
            "200 why=slot cache=miss",
            "200 why=cache cache=hit",
            "200 why=files",
            "404 why=files",
            "308 why=route",
            "401 why=denied",
            "200 why=affinity cache=miss",
            "429 why=limit limit=rare",
            "200 why=affinity cache=miss",
            "200 why=cache cache=hit limit=trial dry_run=true",
        ]
    );
    let figures = figures(&proxy, |figures| figures.answers.iter().sum::<u64>() == 10);
    assert_eq!(
        sources(&figures),
        "backend 3, cache 2, files 1, route 1, gateway 3"
    );
    let results = [CacheResult::Hit, CacheResult::Miss, CacheResult::Stale];
    assert_eq!(results.map(|it| cached(&figures, it)), [2, 3, 0]);
    assert_eq!(figures.denied, 1);
    assert_eq!(
        figures.cache,
        proxy.engine.as_ref().unwrap().cache().unwrap().requests
    );
}

#[test]
fn revalidated_answer_is_the_caches_and_not_the_backends() {
    let log = Log::new();
    let is_down = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&is_down);
    let origin = Origin::new(move |head| match head.contains("if-none-match") {
        _ if fails.load(Relaxed) => "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned(),
        true => "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_owned(),
        false => ok(
            "ETag: \"1\"\r\nCache-Control: max-age=0, stale-if-error=60\r\n",
            "body",
        ),
    });
    let proxy = origin.proxy(&format!("{}\n{ON}", log.settings()));
    assert_eq!(get(&proxy, "/", "").body, "body");
    assert_eq!(get(&proxy, "/", "").body, "body");
    is_down.store(true, Relaxed);
    assert_eq!(get(&proxy, "/", "").body, "body");
    assert_eq!(
        whys(&log, 3),
        [
            "200 why=slot cache=miss",
            "200 why=cache cache=revalidated",
            "200 why=cache cache=stale",
        ]
    );
    let figures = figures(&proxy, |figures| figures.answers.iter().sum::<u64>() == 3);
    assert_eq!(
        sources(&figures),
        "backend 1, cache 2, files 0, route 0, gateway 0"
    );
    assert_eq!(cached(&figures, CacheResult::Revalidated), 1);
    assert_eq!(cached(&figures, CacheResult::Stale), 1);
    let engine = proxy.engine.as_ref().unwrap();
    let backend = engine.backend_figures(lb_common::abi::BackendId::new(0, 1));
    assert_eq!(backend.requests[1], 1, "{backend:?}");
}

#[test]
fn header_that_names_the_backend_is_left_out_of_answers_that_are_no_backends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    std::fs::write(dir.path().join("files/a.txt"), "a file").unwrap();
    let origin = Origin::with("Cache-Control: max-age=60\r\n");
    let proxy = origin.proxy(&format!(
        "response_headers = [{{ set = 'X-Served-By', value = '$backend' }}]\n{ON}\n\
         [[service.route]]\npath = '/files'\nfiles = '{}'\n\
         [[service.route]]\npath = '/old'\nredirect = '/new'\n",
        dir.path().display()
    ));
    let backend = origin.address.to_string();
    for (path, expected) in [
        ("/", Some(backend.as_str())),
        ("/", None),
        ("/files/a.txt", None),
        ("/old", None),
    ] {
        let got = get(&proxy, path, "");
        assert_eq!(got.field("x-served-by"), expected, "{path}: {got:?}");
    }
}
