//! The exact text that a reader sees.

use super::*;
use crate::control::status::guards::{
    AccessStatus, AuthStatus, CacheCounts, CacheSize, GuardStatus, LimitStatus,
};
use crate::control::status::{
    AffinityStatus, CounterStatus, ProcessStatus, RouteStatus, StickinessStatus,
};

const EIGHTY: Look = Look {
    colour: false,
    width: 80,
};

fn backend(address: &str) -> BackendStatus {
    BackendStatus {
        address: address.parse().unwrap(),
        state: "up".to_owned(),
        listening: Some(true),
        processes: Vec::new(),
        through_the_agent: None,
        path: "socket".to_owned(),
        class: None,
        why: "on this host".to_owned(),
        weight: 1,
        share: 0.25,
        source: "file".to_owned(),
        active: 120,
        websockets: None,
        connections: 10_234,
        drain_seconds_left: None,
        clients: "all".to_owned(),
        down_because: None,
        health: None,
    }
}

fn web() -> ServiceStatus {
    ServiceStatus {
        name: "web".to_owned(),
        mode: "tcp".to_owned(),
        listen: vec!["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()],
        tls: None,
        routes: Vec::new(),
        stickiness: StickinessStatus::default(),
        affinity: AffinityStatus {
            timeout_seconds: 10_800,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
        },
        max_load: None,
        all_down: None,
        counters: CounterStatus {
            affinity: 9000,
            slot: 1200,
            next: 34,
            refused: 0,
            denied: 0,
            capped: 0,
        },
        guards: GuardStatus::default(),
        backends: vec![
            backend("127.0.0.1:5000"),
            BackendStatus {
                weight: 2,
                share: 0.5,
                source: "runtime".to_owned(),
                state: "draining".to_owned(),
                drain_seconds_left: Some(12),
                ..backend("127.0.0.1:5001")
            },
            BackendStatus {
                state: "no listener".to_owned(),
                listening: Some(false),
                share: 0.0,
                active: 0,
                ..backend("127.0.0.1:5002")
            },
        ],
    }
}

fn status(services: Vec<ServiceStatus>) -> Status {
    Status {
        agent: AgentStatus {
            version: "0.1.0".to_owned(),
            pid: 4711,
            uptime_seconds: 11_525,
            data_plane: "bpf".to_owned(),
            degraded: false,
            notes: Vec::new(),
            config: Some("/etc/lb-agent/config.toml".to_owned()),
            cache: None,
            packets: None,
        },
        services,
    }
}

#[test]
fn the_usual_table_fits_in_eighty_columns() {
    let expected = "\
web  tcp  0.0.0.0:80  [::]:80  sticky by address (/32, /64) for 3h
  BACKEND         STATE        PATH    WEIGHT  SHARE  ACTIVE  TOTAL  SOURCE
  127.0.0.1:5000  up           socket       1  25.0%     120  10234  file
  127.0.0.1:5001  draining     socket       2  50.0%     120  10234  runtime
                  draining, 12 s left
  127.0.0.1:5002  no listener  socket       1      -       0  10234  file
  clients: 9000 returning, 1200 new, 34 moved on because their backend was away;
    0 refused

lb-agent 0.1.0  pid 4711  up 3h 12m  data plane bpf  /etc/lb-agent/config.toml
";
    let shown = render(&status(vec![web()]), EIGHTY);
    assert_eq!(shown, expected);
    assert!(shown.lines().all(|line| line.len() <= 80));
}

#[test]
fn with_room_a_note_stands_in_the_line_of_its_backend() {
    let wide = Look {
        colour: false,
        width: 120,
    };
    let shown = render(&status(vec![web()]), wide);
    assert!(shown.contains("120  10234  runtime  draining, 12 s left\n"));
    assert!(shown.ends_with("data plane bpf  /etc/lb-agent/config.toml\n"));
}

#[test]
fn a_proxied_backend_and_a_drained_one_say_why() {
    let service = ServiceStatus {
        max_load: Some(1.25),
        backends: vec![
            BackendStatus {
                path: "proxy".to_owned(),
                why: "on another host".to_owned(),
                listening: None,
                ..backend("[2001:db8::1]:80")
            },
            BackendStatus {
                state: "drained".to_owned(),
                down_because: Some("drained".to_owned()),
                share: 0.0,
                ..backend("127.0.0.1:5000")
            },
        ],
        ..web()
    };
    let expected = "\
web  tcp  0.0.0.0:80  [::]:80  sticky by address (/32, /64) for 3h
    max load 1.25
  BACKEND           STATE    PATH    WEIGHT  SHARE  ACTIVE  TOTAL  SOURCE
  [2001:db8::1]:80  up       proxy        1  25.0%     120  10234  file
                    on another host
  127.0.0.1:5000    drained  socket       1      -     120  10234  file
";
    let shown = render(&status(vec![service]), EIGHTY);
    assert!(shown.starts_with(expected), "{shown}");
}

#[test]
fn a_service_without_backends_says_how_to_add_one() {
    let service = || ServiceStatus {
        backends: Vec::new(),
        ..web()
    };
    let shown = render(&status(vec![service()]), EIGHTY);
    assert!(shown.contains("  no backend yet (lb-agent add-backend 127.0.0.1:5000)\n"));
    let shown = render(&status(vec![service(), service()]), EIGHTY);
    assert!(shown.contains("127.0.0.1:5000 --service web)\n"));
}

#[test]
fn many_listen_addresses_are_broken_into_lines() {
    let service = ServiceStatus {
        listen: (1..20).map(|n| ([192, 0, 2, n], 80).into()).collect(),
        ..web()
    };
    let shown = render(&status(vec![service]), EIGHTY);
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    assert!(
        shown.contains("\n    192.0.2.6:80  192.0.2.7:80"),
        "{shown}"
    );
}

#[test]
fn notes_of_the_agent_come_last() {
    let mut status = status(vec![web()]);
    status.agent.notes = vec!["BPF cannot serve here: no privilege".to_owned()];
    let shown = render(&status, EIGHTY);
    assert!(shown.ends_with("\nnote: BPF cannot serve here: no privilege\n"));
}

#[test]
fn colours_change_no_column() {
    let colour = Look {
        colour: true,
        ..EIGHTY
    };
    let shown = render(&status(vec![web()]), colour);
    assert!(shown.contains("\u{1b}[31mno listener\u{1b}[0m"));
    let mut bare = String::new();
    for (index, part) in shown.split('\u{1b}').enumerate() {
        let text = if index == 0 {
            part
        } else {
            part.split_once('m').unwrap().1
        };
        bare.push_str(text);
    }
    assert_eq!(bare, render(&status(vec![web()]), EIGHTY));
}

#[test]
fn what_a_check_found_wrong_is_shown_while_it_matters() {
    let health = |state: &str, against| HealthStatus {
        state: state.to_owned(),
        since_seconds: 75,
        against,
        check: "http GET /up".to_owned(),
        last_error: Some("status 503".to_owned()),
        last_error_seconds_ago: Some(1),
        took_ms: None,
    };
    let note = |state: &str, against| {
        let backend = BackendStatus {
            health: Some(health(state, against)),
            ..backend("127.0.0.1:5000")
        };
        note_of(&backend).map(|(note, _)| note)
    };
    let down = "unhealthy for 1m 15s: http GET /up: status 503";
    assert_eq!(note("down", 0).as_deref(), Some(down));
    assert_eq!(note("down", 1).as_deref(), Some(down));
    let doubt = "failed 2 times in a row: http GET /up: status 503";
    assert_eq!(note("up", 2).as_deref(), Some(doubt));
    assert_eq!(note("up", 0), None);
}

#[test]
fn http_service_names_its_stickiness_its_routes_and_the_processes_behind() {
    let process = |pid| ProcessStatus {
        pid,
        program: "node".to_owned(),
    };
    let service = ServiceStatus {
        mode: "http".to_owned(),
        listen: vec!["0.0.0.0:80".parse().unwrap()],
        routes: vec![
            RouteStatus {
                hosts: Vec::new(),
                path: "/api".to_owned(),
                to: "backends of web/api".to_owned(),
            },
            RouteStatus {
                hosts: vec!["a.example".to_owned(), "*.b.example".to_owned()],
                path: "/".to_owned(),
                to: "redirect to https://c.example/".to_owned(),
            },
        ],
        stickiness: StickinessStatus {
            by: "cookie".to_owned(),
            name: Some("lb".to_owned()),
        },
        all_down: Some("refuse".to_owned()),
        backends: vec![
            BackendStatus {
                processes: vec![process(4711)],
                ..backend("127.0.0.1:5000")
            },
            BackendStatus {
                processes: (1..=4).map(process).collect(),
                through_the_agent: Some("IPv6".to_owned()),
                ..backend("127.0.0.1:5001")
            },
        ],
        counters: CounterStatus {
            next: 1,
            ..CounterStatus::default()
        },
        ..web()
    };
    let expected = "\
web  http  0.0.0.0:80  sticky by cookie lb
  route  any host  /api  backends of web/api
  route  a.example, *.b.example  /  redirect to https://c.example/
  BACKEND         STATE  PATH    WEIGHT  SHARE  ACTIVE  TOTAL  SOURCE
  127.0.0.1:5000  up     socket       1  25.0%     120  10234  file
                  node (pid 4711)
  127.0.0.1:5001  up     socket       1  25.0%     120  10234  file
                  node (pid 1), node (pid 2), 2 more; IPv6 clients through the agent: it listens on IPv4 only
  no backend is healthy: clients are refused (all_down = \"refuse\")
  clients: 0 returning, 0 new, 1 moved on because its backend was away;
    0 refused
";
    let shown = render(&status(vec![service]), EIGHTY);
    assert!(shown.starts_with(expected), "{shown}");
}

#[test]
fn stickiness_beside_the_address_is_named_with_what_follows_it() {
    let named = |by: &str, name: Option<&str>, timeout_seconds| {
        let mut service = web();
        service.affinity.timeout_seconds = timeout_seconds;
        service.stickiness = StickinessStatus {
            by: by.to_owned(),
            name: name.map(str::to_owned),
        };
        words::stickiness(&service)
    };
    let address = "sticky by address (/32, /64), not remembered";
    assert_eq!(named("address", None, 0), address);
    let socketio = "sticky by socketio, else by address (/32, /64) for 3h";
    assert_eq!(named("socketio", None, 10_800), socketio);
    let header = "sticky by header x-user, else by address (/32, /64) for 1m";
    assert_eq!(named("header", Some("x-user"), 60), header);
}

#[test]
fn route_that_is_two_columns_too_long_is_broken_into_lines() {
    let host = "a-host-with-a-long-name.example".to_owned();
    let service = ServiceStatus {
        routes: vec![RouteStatus {
            hosts: vec![host.clone()],
            path: "/a/long/path".to_owned(),
            to: "backends of web/ten-letter".to_owned(),
        }],
        ..web()
    };
    let shown = render(&status(vec![service]), EIGHTY);
    let expected = format!("  route  {host}  /a/long/path\n    backends of web/");
    assert!(shown.contains(&expected), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
}

#[test]
fn service_whose_backends_are_all_drained_says_what_that_means() {
    let drained = |address| BackendStatus {
        state: "drained".to_owned(),
        ..backend(address)
    };
    let service = |second| ServiceStatus {
        backends: vec![drained("127.0.0.1:5000"), second],
        ..web()
    };
    let said = words::nobody(&service(drained("127.0.0.1:5001"))).unwrap();
    assert!(
        said.contains("lb-agent add-backend 127.0.0.1:5000"),
        "{said}"
    );
    assert_eq!(words::nobody(&service(backend("127.0.0.1:5001"))), None);
}

#[test]
fn guards_of_a_service_have_a_line_each() {
    let limit = |name: &str, path: &str| LimitStatus {
        name: name.to_owned(),
        path: path.to_owned(),
        key: "client".to_owned(),
        rate: Some("10/1m".to_owned()),
        refused: 12,
        ..LimitStatus::default()
    };
    let service = ServiceStatus {
        guards: GuardStatus {
            cache: Some(CacheCounts {
                hit: 7,
                miss: 1,
                stale: 0,
                revalidated: 2,
            }),
            limits: vec![
                limit("login", "/login"),
                LimitStatus {
                    concurrent: Some(4),
                    dry_run: true,
                    would_refuse: 3,
                    ..limit("all", "/")
                },
            ],
            access: AccessStatus {
                allow: 0,
                deny: 2,
                bans: 1,
            },
            auth: Some(AuthStatus {
                users: vec!["/etc/lb-agent/users".to_owned()],
                refused: 5,
            }),
        },
        ..web()
    };
    assert_eq!(
        guards::lines(&service),
        [
            "cache: 90 % from memory; 7 hit, 0 stale, 2 revalidated, 1 miss",
            "limit login: 10/1m by client at /login; 12 refused",
            "limit all: 10/1m, 4 at once by client; 3 above it passed on (dry_run)",
            "access: 2 in deny, 1 ban",
            "passwords: /etc/lb-agent/users; 5 refused",
        ]
    );
    assert_eq!(guards::lines(&web()), Vec::<String>::new());
    let size = CacheSize {
        bytes: 3 << 19,
        capacity: 128 << 20,
        entries: 12,
    };
    assert_eq!(
        guards::cache_size(&size),
        "cache 1.5 of 128.0 MiB in 12 entries"
    );
}
