//! Golden errors: text in, lines out. The lines are compared to the letter.

use std::path::Path as FilePath;
use std::time::Duration;

use lb_common::abi::{MAX_MEMBERS, MAX_SERVICES};
use proptest::prelude::*;

use super::*;

pub(crate) mod corpus;
mod packet;
mod reference;
mod values;

const FULL: &str = r#"
[agent]
state_dir = "/var/lib/lb"
control = "/run/lb.sock"
pin_dir = "/sys/fs/bpf/lb"
data_plane = "bpf"
hash_seed = "000102030405060708090a0B0c0d0e0f"
max_clients = 1_000
cgroup = "/sys/fs/cgroup/unified"

[[service]]
name = "web"
listen = ["0.0.0.0:80", "[::]:80", "[::ffff:192.0.2.1]:81"]
mode = "tcp"
affinity = { timeout = "1h30m", ipv4_prefix = 24, ipv6_prefix = 56 }
max_load = 1.25
backends = ["127.0.0.1:5000", { address = "[::ffff:10.0.0.1]:5001", weight = 2, path = "proxy" }]

[[service]]
name = "dns"
listen = ["0.0.0.0:80"]
mode = "udp"
affinity.timeout = "0s"
"#;

/// The lines for `text`, without the name of the file.
fn errors(text: &str) -> Vec<String> {
    let Err(error) = parse(text, FilePath::new("f")) else {
        return Vec::new();
    };
    let shown = error.to_string();
    shown
        .lines()
        .map(|line| line.strip_prefix("f:").unwrap().to_owned())
        .collect()
}

/// The error lines of a service that is good but for `line`.
fn errors_with(line: &str) -> Vec<String> {
    let mut text = String::from("[[service]]\n");
    for (key, usual) in [("name", "'web'"), ("listen", "['0.0.0.0:80']")] {
        if !line.starts_with(key) {
            text.push_str(&format!("{key} = {usual}\n"));
        }
    }
    errors(&format!("{text}{line}"))
        .iter()
        .map(|line| {
            let (_, message) = line.split_once(": ").unwrap();
            message.to_owned()
        })
        .collect()
}

#[test]
fn every_key_is_read() {
    let config = parse(FULL, FilePath::new("/etc/x.toml")).unwrap();
    let [web, dns] = config.services.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(config.agent.state_dir, FilePath::new("/var/lib/lb"));
    assert_eq!(config.agent.control, FilePath::new("/run/lb.sock"));
    assert_eq!(config.agent.pin_dir, FilePath::new("/sys/fs/bpf/lb"));
    assert_eq!(config.agent.data_plane, DataPlane::Bpf);
    let seed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    assert_eq!(config.agent.hash_seed, Some(seed));
    assert_eq!(config.agent.max_clients, 1000);
    assert_eq!(
        config.agent.cgroup.as_deref(),
        Some(FilePath::new("/sys/fs/cgroup/unified"))
    );
    assert_eq!(config.source.as_deref(), Some(FilePath::new("/etc/x.toml")));
    assert_eq!(web.affinity.timeout, Duration::from_secs(5400));
    assert_eq!(
        (web.affinity.ipv4_prefix, web.affinity.ipv6_prefix),
        (24, 56)
    );
    assert_eq!(web.max_load_permille, Some(1250));
    assert_eq!(web.listen[2], "192.0.2.1:81".parse().unwrap());
    assert_eq!(web.backends[0].weight, 1);
    let second = Backend {
        address: "10.0.0.1:5001".parse().unwrap(),
        weight: 2,
        path: Path::Proxy,
    };
    assert_eq!(web.backends[1], second);
    assert_eq!(
        (dns.mode, dns.affinity.timeout),
        (Mode::Udp, Duration::ZERO)
    );
    assert_eq!(dns.affinity.ipv6_prefix, 64);
}

#[test]
fn backend_of_this_host_may_be_its_port_alone() {
    let text = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                backends = [5000, '5001', 'localhost:5002', { address = 5003 }]";
    let config = parse(text, FilePath::new("f")).unwrap();
    let backends = config.services[0].backends.iter();
    let addresses: Vec<String> = backends.map(|b| b.address.to_string()).collect();
    let expected = [5000, 5001, 5002, 5003].map(|port| format!("127.0.0.1:{port}"));
    assert_eq!(addresses, expected);
}

#[test]
fn a_short_file_gets_the_defaults() {
    let text = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']";
    let config = parse(text, FilePath::new("f")).unwrap();
    let expected = Config {
        source: Some("f".into()),
        is_built_in: false,
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn a_file_with_agent_alone_has_the_built_in_service() {
    for (text, data_plane) in [
        ("[agent]", DataPlane::Auto),
        ("[agent]\ndata_plane = 'bpf'", DataPlane::Bpf),
    ] {
        let config = parse(text, FilePath::new("f")).unwrap();
        assert!(config.is_built_in);
        assert_eq!(config.services, Config::default().services);
        assert_eq!(config.agent.data_plane, data_plane);
    }
    assert_eq!(
        errors("[agent]\n[[services]]\nname = 'a'"),
        ["2: services: unknown key (did you mean service?)"]
    );
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = r#"
[agent]
state_dri = "/var/lib/lb"
pin_dir = "bpf"
[[service]]
name = "web"
listen = ["0.0.0.0:0", "0.0.0.0:80"]
mode = "sctp"
bakends = []
backends = ["127.0.0.1", { address = "127.0.0.1:5001", weight = 0, wieght = 2 }]
[[service]]
name = "web"
listen = ["0.0.0.0:80"]
[extra]
"#;
    let expected = [
        "3: agent.state_dri: unknown key (did you mean state_dir?)",
        "4: agent.pin_dir: \"bpf\" is not an absolute path (start it with \"/\" and name a place of its own)",
        "7: service[0].listen[0]: 0.0.0.0:0 has port 0 (use a port from 1 to 65535)",
        "8: service[0].mode: \"sctp\" is unknown (use \"tcp\", \"udp\" or \"http\")",
        "9: service[0].bakends: unknown key (did you mean backends?)",
        "10: service[0].backends[0]: \"127.0.0.1\" has no port (write \"127.0.0.1:5000\")",
        "10: service[0].backends[1].weight: 0 is not a weight (use 1 to 65535)",
        "10: service[0].backends[1].wieght: unknown key (did you mean weight?)",
        "12: service[1].name: \"web\" is the name of service[0] (line 6) too (give each service a name of its own)",
        "13: service[1].listen[0]: 0.0.0.0:80 belongs to service[0] (line 7) (let each address lead to one service)",
        "14: extra: unknown key (there is agent and service)",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn a_file_without_services_says_how_to_write_one() {
    let missing = [
        " there is no service (add [[service]] with a name and listen addresses, or [agent] alone for the built-in \
         service on port 80)",
    ];
    assert_eq!(errors(""), missing);
    let one = ["1: service: expected a list (write [[service]], with two brackets on each side)"];
    assert_eq!(errors("[service]\nname = 'web'"), one);
    let bare = [
        "1: service[0]: name is missing (write name = \"web\")",
        "1: service[0]: listen is missing (write listen = [\"0.0.0.0:80\", \"[::]:80\"])",
    ];
    assert_eq!(errors("[[service]]"), bare);
}

#[test]
fn a_syntax_error_names_its_line() {
    let found = errors("[agent]\nstate_dir = \n[[service]\nname = 'web'");
    let lines: Vec<&str> = found.iter().map(|line| &line[..2]).collect();
    assert_eq!(lines, ["2:", "3:"], "{found:?}");
    let found = errors("a = 1\na = 2");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("2: duplicate key"), "{found:?}");
}

#[test]
fn a_wildcard_and_an_address_may_share_a_port_and_so_may_tcp_and_udp() {
    let service = |name, listen, mode| {
        format!("[[service]]\nname = '{name}'\nlisten = ['{listen}']\nmode = '{mode}'\n")
    };
    let text = [
        service("a", "0.0.0.0:80", "tcp"),
        service("b", "192.0.2.1:80", "tcp"),
        service("c", "[::]:80", "tcp"),
        service("d", "0.0.0.0:80", "udp"),
    ]
    .concat();
    assert_eq!(errors(&text), Vec::<String>::new());
}

#[test]
fn the_own_port_of_a_service_is_a_loop_only_where_the_agent_connects_to_it() {
    let loops = |agent: &str, service: &str| {
        let text = format!(
            "[agent]\n{agent}\n[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\n{service}"
        );
        let found = errors(&text);
        assert!(
            found
                .iter()
                .all(|line| line.contains("this service itself")),
            "{found:?}"
        );
        !found.is_empty()
    };
    let own = "backends = ['127.0.0.1:80']";
    assert!(!loops("", own));
    assert!(!loops(
        "data_plane = 'bpf'",
        &format!("mode = 'udp'\n{own}")
    ));
    assert!(loops("data_plane = 'userspace'", own));
    assert!(loops(
        "data_plane = 'userspace'",
        &format!("mode = 'udp'\n{own}")
    ));
    assert!(loops("", &format!("path = 'proxy'\n{own}")));
    assert!(loops("", &format!("send_proxy_protocol = 'v2'\n{own}")));
    assert!(loops("", &format!("mode = 'http'\n{own}")));
}

#[test]
fn services_that_lead_to_each_other_through_the_agent_are_refused() {
    let text = "[agent]\ndata_plane = 'userspace'\n\
                [[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:81']\n\
                [[service]]\nname = 'b'\nlisten = ['[::]:81', '127.0.0.1:81']\nbackends = ['127.0.0.1:80']\n";
    let expected = [
        "6: service[0].backends[0]: 127.0.0.1:81 is where b listens (127.0.0.1:81), which leads back to a (let the application listen on another port)",
        "10: service[1].backends[0]: 127.0.0.1:80 is where a listens (0.0.0.0:80), which leads back to b (let the application listen on another port)",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn limits_are_those_of_the_kernels_tables() {
    let many: String = (0..=MAX_SERVICES)
        .map(|n| {
            format!(
                "[[service]]\nname = 's{n}'\nlisten = ['0.0.0.0:{}']\n",
                n + 1
            )
        })
        .collect();
    assert_eq!(
        errors(&many),
        [" 257 services are too many (all services together can have 256)"]
    );
    let backends: Vec<String> = (0..=MAX_MEMBERS)
        .map(|n| format!("'10.0.{}.{}:80'", n / 256, n % 256))
        .collect();
    let found = errors_with(&format!("backends = [{}]", backends.join(",")));
    assert_eq!(
        found,
        ["service[0]: 1025 backends are too many (a service can have 1024)"]
    );
}

#[test]
fn a_file_with_thousands_of_problems_shows_the_first_ones() {
    let text: String = (0..5000).map(|n| format!("k{n} = 1\n")).collect();
    let found = errors(&text);
    assert_eq!(found.len(), 51);
    assert_eq!(found[50], " and 4951 more problems");
}

#[test]
fn files_that_cannot_be_configurations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let error = |path: &FilePath| {
        let shown = load(Some(path)).unwrap_err().to_string();
        shown
            .strip_prefix(&format!("{}:", path.display()))
            .unwrap_or_else(|| panic!("{shown}"))
            .to_owned()
    };
    assert_eq!(
        error(&dir.path().join("none")),
        " no such file (name another with --config)"
    );
    assert_eq!(error(dir.path()), " is a directory (name a file in it)");
    assert_eq!(
        error(&write("binary", b"a = 1\n\xff\xfe")),
        "2: not UTF-8 text (TOML is always UTF-8)"
    );
    assert_eq!(
        error(&write("huge", &vec![b' '; MAX_FILE_BYTES as usize + 1])),
        " longer than 4 MiB (this is not a configuration of lb-agent)"
    );
    assert_eq!(
        error(FilePath::new("/dev/zero")),
        " longer than 4 MiB (this is not a configuration of lb-agent)"
    );
}

#[test]
fn the_built_in_default_is_for_when_nobody_named_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let usual = dir.path().join("config.toml");
    assert_eq!(
        inspect_or_default(None, &usual).sound().unwrap(),
        Config::default()
    );
    assert!(inspect_or_default(Some(&usual), &usual).sound().is_err());
    std::fs::write(&usual, FULL).unwrap();
    assert_eq!(
        inspect_or_default(None, &usual)
            .sound()
            .unwrap()
            .services
            .len(),
        2
    );
}

#[test]
fn warnings_tell_what_is_likely_to_surprise() {
    let of = |text: &str| warnings(&parse(text, FilePath::new("f")).unwrap(), &|_| false);
    assert!(
        of("[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:1']")
            .is_empty()
    );
    let found = of("[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\naffinity.ipv4_prefix = 0");
    assert_eq!(found.len(), 2, "{found:?}");
    let own_port = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nhealth = {}\n\
                    backends = ['127.0.0.1:80']";
    let found = of(own_port);
    assert!(found[0].starts_with("where BPF cannot serve"), "{found:?}");
    assert!(found[1].contains("checks of its health"), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
    let found =
        of(&format!("[agent]\ndata_plane = 'userspace'\n{own_port}")
            .replace("0.0.0.0", "192.0.2.1"));
    assert!(
        found[0].contains("has to listen on 127.0.0.1 alone"),
        "{found:?}"
    );
    let found = of("[agent]\ndata_plane = 'bpf'\n\
         [[service]]\nname = 'a'\nlisten = ['127.0.0.1:80']\nbackends = ['127.0.0.1:81']\n\
         [[service]]\nname = 'b'\nlisten = ['127.0.0.1:81']\nbackends = ['127.0.0.1:80']");
    assert_eq!(found.len(), 2, "{found:?}");
    let found = of(
        "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:1']\n\
         allow = ['10.0.0.0/8', '192.0.2.1']\ndeny = ['192.0.2.1/32', '0.0.0.0/0']",
    );
    assert_eq!(
        found,
        ["a: 192.0.2.1/32 is in allow and in deny, and is refused (take it out of one)"]
    );
    let page = |at: &str| {
        let service =
            "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:1']";
        of(&format!("[agent]\npage = '{at}'\n{service}"))
    };
    assert!(page("0.0.0.0:9601")[0].contains("may read the live page"));
    assert!(page("127.0.0.1:9601").is_empty() && page("unix:/run/page.sock").is_empty());
    let bare = parse(
        "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:81']",
        FilePath::new("f"),
    )
    .unwrap();
    assert_eq!(warnings(&bare, &|_| false).len(), 1);
    assert!(warnings(&bare, &|name| name == "a").is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,400}") {
        let _ = parse(&text, FilePath::new("f"));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes), FilePath::new("f"));
    }

    /// Damage to a good file gets past the syntax more often than noise does.
    #[test]
    fn no_damage_makes_it_panic(
        cuts in proptest::collection::vec((0..FULL.len(), "[\\[\\]{}='\",.0-9a-z \\n:-]{0,6}"), 1..6)
    ) {
        let mut text = FULL.to_owned();
        for (at, new) in cuts {
            let at = at.min(text.len());
            let end = (at + new.len()).min(text.len());
            text.replace_range(at..end, &new);
        }
        if let Err(error) = parse(&text, FilePath::new("f")) {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(error.to_string().lines().all(|line| line.starts_with("f:")));
        }
    }

    #[test]
    fn no_value_makes_a_rule_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<BackendAddress>();
        let _ = value::listen_address(&text);
        let _ = value::client_address(&text);
        let _ = value::duration(&text);
        let _ = value::service_name(&text);
        let _ = value::hash_seed(&text);
    }
}
