//! The keys of the packet paths, and the backends that these cannot reach.

use super::*;

#[test]
fn every_key_of_the_packet_paths_is_read() {
    let text = "
        [agent]
        interfaces = ['eth0', { name = 'eth1.7', attach = 'xdp' }]
        flow_table = 1000
        flow_timeouts = { syn = '5s', established = '2h', closing = '3s', udp = '10s' }
        nat_source = ['192.0.2.10', '2001:db8::10']
        outer_source = ['10.9.0.0/24']
        [[service]]
        name = 'web'
        listen = ['192.0.2.1:80']
        path = 'dsr'
        encapsulation = 'gue'
        gue_port = 5555
        backends = ['10.0.0.1:80', '[2001:db8::2]:80']";
    let config = parse(text, FilePath::new("f")).unwrap();
    let packet = &config.agent.packet;
    let names: Vec<(&str, Attach)> = packet
        .interfaces
        .iter()
        .map(|interface| (interface.name.as_str(), interface.attach))
        .collect();
    assert_eq!(names, [("eth0", Attach::Auto), ("eth1.7", Attach::Xdp)]);
    let timeouts = FlowTimeouts {
        syn_s: 5,
        established_s: 7200,
        closing_s: 3,
        udp_s: 10,
    };
    assert_eq!((packet.flow_table, packet.timeouts), (1000, timeouts));
    assert_eq!(packet.nat_source.len(), 2);
    let range = packet.outer_source(true).unwrap();
    assert_eq!(
        (range.address.to_string().as_str(), range.bits),
        ("10.9.0.0", 24)
    );
    // A family that is not named keeps its usual range.
    assert_eq!(packet.outer_source(false).unwrap().bits, 64);
    let web = &config.services[0];
    let paths = ServicePaths {
        path: Path::Dsr,
        encapsulation: Encapsulation::Gue,
        gue_port: 5555,
    };
    assert_eq!(web.paths, paths);
    assert!(web.backends.iter().all(|backend| backend.path == Path::Dsr));
}

#[test]
fn the_path_of_a_service_is_that_of_backends_which_name_none() {
    let text = "[[service]]\nname = 'web'\nlisten = ['192.0.2.1:80']\npath = 'nat'\n\
                backends = ['10.0.0.1:1', { address = '10.0.0.2:1', path = 'proxy' }]";
    let config = parse(text, FilePath::new("f")).unwrap();
    let paths: Vec<Path> = config.services[0].backends.iter().map(|b| b.path).collect();
    assert_eq!(paths, [Path::Nat, Path::Proxy]);
}

#[test]
fn what_a_packet_path_cannot_reach_is_refused() {
    let cases = [
        (
            "path = 'nat'\nbackends = ['[2001:db8::1]:80']",
            "[2001:db8::1]:80 is IPv6, and no listen address is: nat keeps the family (listen on \
             an IPv6 address too, or write path = \"proxy\")",
        ),
        (
            "path = 'nat'\nbackends = ['127.0.0.1:5000']",
            "127.0.0.1:5000 is a loopback address, which takes no packet from a wire (write the \
             host's own address, or path = \"socket\")",
        ),
        (
            "path = 'dsr'\nbackends = ['10.0.0.1:81']",
            "10.0.0.1:81 is on another port than 0.0.0.0:80: dsr leaves packets as they are (let \
             the backend and the service have the same port, or write path = \"nat\" (the service \
             listens on 80))",
        ),
        (
            "path = 'dsr'\nencapsulation = 'ip6ip6'\nbackends = ['10.0.0.1:80']",
            "10.0.0.1:80 is no IPv6 address, which \"ip6ip6\" sends to (leave encapsulation out: \
             it follows the backend's address)",
        ),
        (
            "path = 'dsr'\nencapsulation = 'ipip'\nbackends = ['[2001:db8::1]:80']",
            "[2001:db8::1]:80 is no IPv4 address, which \"ipip\" sends to (leave encapsulation \
             out: it follows the backend's address)",
        ),
        (
            "path = 'dsr'\nbackends = ['10.0.0.1:80', { address = '10.0.0.2:80', path = 'nat' }]",
            "dsr is the path of all backends of a service or of none (write path = \"dsr\" in the \
             service)",
        ),
        (
            "mode = 'http'\nbackends = [{ address = '10.0.0.1:80', path = 'nat' }]",
            "HTTP always goes through the agent, never by nat (leave path out)",
        ),
        (
            "path = 'nat'\nsend_proxy_protocol = 'v2'\nbackends = ['10.0.0.1:80']",
            "a PROXY header is sent by the agent alone, and the application sees the client's \
             address without one (leave path or send_proxy_protocol out)",
        ),
        (
            "encapsulation = 'vxlan'",
            "\"vxlan\" is unknown (use \"auto\", \"ipip\", \"ip6ip6\", \"gue\" or \"l2\")",
        ),
        ("gue_port = 0", "0 is out of range (use 1 to 65535)"),
    ];
    for (line, expected) in cases {
        let found = errors_with(line);
        let [found] = found.as_slice() else {
            panic!("{line}: {found:?}");
        };
        assert!(found.ends_with(&format!(": {expected}")), "{line}: {found}");
    }
}

#[test]
fn a_unix_socket_has_no_packets() {
    let found = errors_with("path = 'nat'\nbackends = ['unix:/run/app.sock']");
    let expected = "unix:/run/app.sock is a unix socket, to which no packet goes (leave path out)";
    assert!(found[0].ends_with(expected), "{found:?}");
}

#[test]
fn bad_settings_of_the_packet_paths_are_refused() {
    let cases = [
        (
            "interfaces = ['eth0', 'eth0']",
            "agent.interfaces[1]: eth0 is listed twice (leave one out)",
        ),
        (
            "interfaces = ['lo']",
            "agent.interfaces[0]: \"lo\" brings no packets from outside (name the interface that \
             clients come by; clients on this host are served in any case)",
        ),
        (
            "interfaces = ['a name with blanks']",
            "agent.interfaces[0]: \"a name with blanks\" is not the name of an interface (see `ip \
             link` for those there are)",
        ),
        (
            "flow_timeouts = { syn = '0s' }",
            "agent.flow_timeouts.syn: \"0s\" is out of range (use \"1s\" to \"30d\")",
        ),
        (
            "nat_source = ['127.0.0.1']",
            "agent.nat_source[0]: \"127.0.0.1\" cannot be a source towards other hosts (write an \
             address of this host)",
        ),
        (
            "outer_source = ['10.0.0.0/33']",
            "agent.outer_source[0]: \"10.0.0.0/33\" is not a range of addresses (write \
             \"172.16.0.0/16\")",
        ),
        (
            "flow_table = 0",
            "agent.flow_table: 0 is out of range (use 1 to 16777216)",
        ),
    ];
    let service = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']";
    for (line, expected) in cases {
        let found = errors(&format!("[agent]\n{line}\n{service}"));
        assert_eq!(found, [format!("2: {expected}")], "{line}");
    }
}
