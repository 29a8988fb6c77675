//! Messages about single values, to the letter.

use super::{errors, errors_with};

#[test]
fn what_is_wrong_with_one_value_is_said_in_one_line() {
    let table = [
        (
            "backends = ['127.0.0.1:0']",
            "service[0].backends[0]: 127.0.0.1:0 has port 0 (use a port from 1 to 65535)",
        ),
        (
            "backends = ['::1']",
            "service[0].backends[0]: \"::1\" has no port (write \"[::1]:5000\")",
        ),
        (
            "backends = ['::1:5000']",
            "service[0].backends[0]: \"::1:5000\" has no port (write \"[::1]:5000\")",
        ),
        (
            "backends = ['2001:db8:0:0:0:0:0:1:5000']",
            "service[0].backends[0]: \"2001:db8:0:0:0:0:0:1:5000\" has no brackets (write \"[2001:db8::1]:5000\")",
        ),
        (
            "backends = ['127.0.0.1:99999']",
            "service[0].backends[0]: \"99999\" is not a port (use 1 to 65535)",
        ),
        (
            "backends = ['localhost']",
            "service[0].backends[0]: \"localhost\" has no port (write \"localhost:5000\")",
        ),
        (
            "backends = ['app.example']",
            "service[0].backends[0]: \"app.example\" is a host name, and names are not looked up (write its IP address, which \"getent hosts app.example\" prints, as in \"192.0.2.1:5000\")",
        ),
        (
            "backends = [':5000']",
            "service[0].backends[0]: \":5000\" has no address (write \"127.0.0.1:5000\")",
        ),
        (
            "backends = ['http://127.0.0.1:5000']",
            "service[0].backends[0]: \"http://127.0.0.1:5000\" is a URL (write it like \"127.0.0.1:5000\" or \"[::1]:5000\", without \"http://\")",
        ),
        (
            "backends = ['']",
            "service[0].backends[0]: \"\" is not an address and a port (write it like \"127.0.0.1:5000\" or \"[::1]:5000\")",
        ),
        (
            "backends = [65536]",
            "service[0].backends[0]: 65536 is out of range (use 1 to 65535)",
        ),
        (
            "backends = ['65536']",
            "service[0].backends[0]: \"65536\" is not a port (use 1 to 65535)",
        ),
        (
            "backends = [true]",
            "service[0].backends[0]: expected a string, not true or false (write something like \"127.0.0.1:5000\")",
        ),
        (
            "backends = ['0.0.0.0:5000']",
            "service[0].backends[0]: 0.0.0.0:5000 is every address, not that of a backend (for an application on this host write \"127.0.0.1:5000\")",
        ),
        (
            "backends = ['[::]:5000']",
            "service[0].backends[0]: [::]:5000 is every address, not that of a backend (for an application on this host write \"[::1]:5000\")",
        ),
        (
            "backends = ['224.0.0.1:5000']",
            "service[0].backends[0]: 224.0.0.1 is not the address of one host (write the address of the application)",
        ),
        (
            "backends = ['[fe80::1]:5000']",
            "service[0].backends[0]: [fe80::1]:5000 is a link-local address, which is not in this version (use a global, a unique local or a loopback address)",
        ),
        (
            "path = 'proxy'\nbackends = ['127.0.0.1:80']",
            "service[0].backends[0]: 127.0.0.1:80 is this service itself, which listens on 0.0.0.0:80 (let the application listen on another port)",
        ),
        (
            "backends = ['10.0.0.1:1', '10.0.0.1:1']",
            "service[0].backends[1]: 10.0.0.1:1 is listed twice, first in line 4 (leave one out; a weight makes its share larger)",
        ),
        (
            "backends = ['10.0.0.1:1', '[::ffff:10.0.0.1]:1']",
            "service[0].backends[1]: 10.0.0.1:1 is listed twice, first in line 4 (leave one out; a weight makes its share larger)",
        ),
        (
            "backends = [{ weight = 2 }]",
            "service[0].backends[0]: address is missing (write address = \"127.0.0.1:5000\")",
        ),
        (
            "backends = [{ address = '10.0.0.1:1', weight = 65536 }]",
            "service[0].backends[0].weight: 65536 is not a weight (use 1 to 65535)",
        ),
        (
            "backends = [{ address = '10.0.0.1:1', weight = -1 }]",
            "service[0].backends[0].weight: -1 is not a weight (use 1 to 65535)",
        ),
        (
            "backends = [{ address = '10.0.0.1:1', weight = 1.5 }]",
            "service[0].backends[0].weight: expected a whole number, not a number (write something like 1)",
        ),
        (
            "backends = [{ address = '10.0.0.1:1', path = 'ipvs' }]",
            "service[0].backends[0].path: \"ipvs\" is unknown (use \"auto\", \"socket\", \"nat\", \"dsr\" or \"proxy\")",
        ),
        (
            "backends = '127.0.0.1:5000'",
            "service[0].backends: expected a list, not a string (write something like [\"127.0.0.1:5000\", { address = \"127.0.0.1:5001\", weight = 2 }])",
        ),
        (
            "listen = []",
            "service[0].listen: no address (write listen = [\"0.0.0.0:80\", \"[::]:80\"])",
        ),
        (
            "listen = ['*:80']",
            "service[0].listen[0]: \"*:80\" has no address (write \"0.0.0.0:80\" and \"[::]:80\")",
        ),
        (
            "listen = ['0.0.0.0']",
            "service[0].listen[0]: \"0.0.0.0\" has no port (write \"0.0.0.0:80\")",
        ),
        (
            "listen = ['0.0.0.0:80', '0.0.0.0:80']",
            "service[0].listen[1]: 0.0.0.0:80 is listed twice (leave one out)",
        ),
        (
            "listen = ['224.0.0.1:80']",
            "service[0].listen[0]: 224.0.0.1 is not an address of this host (use \"0.0.0.0:80\" or \"[::]:80\")",
        ),
        (
            "mode = 'sctp'",
            "service[0].mode: \"sctp\" is unknown (use \"tcp\", \"udp\" or \"http\")",
        ),
        (
            "name = 'a b'",
            "service[0].name: \"a b\" is not a name (use 1 to 63 letters, digits, \".\", \"_\" and \"-\")",
        ),
        (
            "was = 'web'",
            "service[0].was: there is a service \"web\", service[0] (line 2) (leave was out: what was carried over stays)",
        ),
        (
            "was = ['a', 'a']",
            "service[0].was[1]: \"a\" was service[0] (line 4) already (let each name have one successor)",
        ),
        (
            "was = 'a b'",
            "service[0].was: \"a b\" is not a name (use 1 to 63 letters, digits, \".\", \"_\" and \"-\")",
        ),
        (
            "affinity = '3h'",
            "service[0].affinity: expected a table, not a string (write something like { timeout = \"3h\" })",
        ),
        (
            "affinity = { timeout = '3 parsecs' }",
            "service[0].affinity.timeout: \"3 parsecs\" is not a duration (write it like \"3h\", \"90s\", \"1h30m\" or \"250ms\")",
        ),
        (
            "affinity = { timeout = 30 }",
            "service[0].affinity.timeout: expected a string, not a whole number (write something like \"3h\")",
        ),
        (
            "affinity = { timeout = '250ms' }",
            "service[0].affinity.timeout: \"250ms\" is under a second (use \"0s\" to switch affinity off, or \"1s\" and more)",
        ),
        (
            "affinity = { timeout = '11years' }",
            "service[0].affinity.timeout: \"11years\" is too long (at most 10 years)",
        ),
        (
            "affinity = { ipv4_prefix = 33 }",
            "service[0].affinity.ipv4_prefix: 33 is out of range (use 0 to 32)",
        ),
        (
            "affinity = { ipv6_prefix = 129 }",
            "service[0].affinity.ipv6_prefix: 129 is out of range (use 0 to 128)",
        ),
        (
            "affinity = { prefix = 1 }",
            "service[0].affinity.prefix: unknown key (there is timeout, ipv4_prefix and ipv6_prefix)",
        ),
        (
            "max_load = 0.5",
            "service[0].max_load: 0.5 is out of range (use 1.0 to 100, or leave it out)",
        ),
        (
            "max_load = nan",
            "service[0].max_load: NaN is out of range (use 1.0 to 100, or leave it out)",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(errors_with(line), [expected], "for {line}");
    }
}

#[test]
fn what_is_wrong_with_the_agent_is_said_in_one_line() {
    let service = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']";
    let long = format!("control = '/{}'", "x".repeat(120));
    let table = [
        (
            "data_plane = 'dpdk'",
            "data_plane: \"dpdk\" is unknown (use \"auto\", \"bpf\" or \"userspace\")",
        ),
        (
            "hash_seed = 'secret'",
            "hash_seed: 6 characters that are not a seed (write 32 hexadecimal digits, for example from \"openssl rand -hex 16\")",
        ),
        (
            "max_connections = 0",
            "max_connections: 0 is out of range (use 1 to 16777216)",
        ),
        (
            "max_clients = 0",
            "max_clients: 0 is out of range (use 1 to 16777216)",
        ),
        (
            "state_dir = '/'",
            "state_dir: \"/\" is not an absolute path (start it with \"/\" and name a place of its own)",
        ),
        (
            &long,
            "control: 121 bytes are too long for the path of a socket (at most 107)",
        ),
        (
            "cgroup = 7",
            "cgroup: expected a string, not a whole number (write something like \"/var/lib/lb-agent\")",
        ),
        (
            "pin_dir = \"/a\\u0000b\"",
            "pin_dir: \"/a\\0b\" has control characters (write a plain path)",
        ),
    ];
    for (line, expected) in table {
        let found = errors(&format!("[agent]\n{line}\n{service}"));
        assert_eq!(found, [format!("2: agent.{expected}")], "for {line}");
    }
}

#[test]
fn default_number_of_clients_follows_the_memory_within_bounds() {
    const GIB: u64 = 1 << 30;
    for (memory, clients) in [
        (0, 8_192),
        (GIB / 2, 8_192),
        (GIB, 16_384),
        (3 * GIB, 49_152),
        (4 * GIB, 65_536),
        (64 * GIB, 65_536),
    ] {
        assert_eq!(crate::clients_for(memory), clients, "{memory}");
    }
}

#[test]
fn caps_that_cannot_be_counted_and_bans_of_others_are_refused() {
    let service = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";
    let limit = "mode = 'http'\n[[service.limit]]\nrate = '1/1m'\n";
    for (head, lines, why) in [
        ("", "mode = 'udp'\nclient_connections = 5", "UDP has none"),
        (
            "",
            "path = 'dsr'\nclient_connections = 5\nbackends = ['10.0.0.1:80']",
            "path = \"dsr\"",
        ),
        ("", "client_connections = 0", "65535"),
        ("", "client_connections = 65536", "65535"),
        (
            "[agent]\ndata_plane = 'userspace'\n",
            "client_connections = 5",
            "data_plane = \"userspace\"",
        ),
        (
            "",
            &format!("{limit}key = {{ cookie = 'sid' }}\nban = '1m'"),
            "limits by client",
        ),
        ("", &format!("{limit}ban = '10ms'"), "not the time of a ban"),
    ] {
        let found = errors(&format!("{head}{service}{lines}\n"));
        assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
    }
    assert!(errors(&format!("{service}{limit}ban = '10m'\n")).is_empty());
    assert!(errors(&format!("{service}client_connections = 65535\n")).is_empty());
}
