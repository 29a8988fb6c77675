//! A flood of made-up clients against a limit for each of them. Clients that are real are answered, refusals are counted
//! exactly, and the memory stays within its bounds.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, random};
use serde_json::Value;

/// A proxy that is trusted: its requests are of the clients that it names.
const SERVICES: &str = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
     backends = ['127.0.0.1:5000']\n[service.http]\ntrusted_proxies = ['10.99.1.1']\n\
     [[service.limit]]\nname = 'each'\nrate = '100/1d'\n\
     [[service.route]]\npath = '/flood'\nanswer = { status = 200, body = 'ok' }\n";

/// Made-up clients.
const CLIENTS: u32 = 100_000;
/// Every so many of them is greedy, and sends [`GREED`] requests in place of one.
const EACH: u32 = 500;
/// Requests of a greedy client, of which the limit takes 100.
const GREED: u64 = 150;
/// Requests that are sent before the first answer is read.
const BATCH: usize = 200;
/// Connections of the flood.
const THREADS: u32 = 4;
/// Real clients.
const REAL: u16 = 20;

/// An address of 100.64.0.0/10, one for each number.
fn made_up(number: u32) -> IpAddr {
    IpAddr::from((0x6440_0000 + number).to_be_bytes())
}

/// Sends requests of these clients, and counts the statuses 200 and 429.
fn send(stream: &TcpStream, clients: &[IpAddr]) -> io::Result<[u64; 2]> {
    let request = |client: &IpAddr| {
        format!("GET /flood HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n")
    };
    let requests: String = clients.iter().map(request).collect();
    let mut writer = stream;
    writer.write_all(requests.as_bytes())?;
    let (mut reader, mut counts) = (BufReader::new(stream), [0; 2]);
    for _ in clients {
        counts[usize::from(status(&mut reader)? == 429)] += 1;
    }
    Ok(counts)
}

/// Reads an answer, whose status is 200 or 429.
fn status(reader: &mut BufReader<&TcpStream>) -> io::Result<u16> {
    let (mut line, mut length, mut status) = (String::new(), 0, None);
    while reader.read_line(&mut line)? > 0 && line != "\r\n" {
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        } else {
            let word = line.split(' ').nth(1);
            status = word.and_then(|word| word.parse().ok());
        }
        line.clear();
    }
    reader.read_exact(&mut vec![0; length])?;
    let known = status.filter(|status| matches!(status, 200 | 429));
    known.ok_or_else(|| io::Error::other(format!("status {status:?}")))
}

/// The flood of one connection: the greedy clients, and as many others as there are, at random among each other.
fn flood(clients: impl Iterator<Item = u32>) -> [u64; 2] {
    let stream = http::connect(client_v4(1), SERVICE_V4).unwrap();
    let (mut batch, mut counts) = (Vec::new(), [0; 2]);
    for number in clients {
        let times = if number % EACH == 0 { GREED } else { 1 };
        batch.extend((0..times).map(|_| made_up(number)));
        if batch.len() >= BATCH {
            let more = send(&stream, &batch).unwrap();
            counts = [counts[0] + more[0], counts[1] + more[1]];
            batch.clear();
        }
    }
    let last = send(&stream, &batch).unwrap();
    [counts[0] + last[0], counts[1] + last[1]]
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Figures of the limit and of the table of limits.
fn figures(agent: &Agent<'_>) -> (Value, Value) {
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let tables = stats["tables"].as_array().unwrap();
    let table = tables.iter().find(|table| table["table"] == "http_limits");
    let limits = &stats["http"][0]["limits"]["each"];
    (limits.clone(), table.expect("the table").clone())
}

#[test]
fn flood_of_made_up_clients_harms_no_real_client_and_takes_no_memory() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let seed = random::Random::new().below(u64::from(u32::MAX)) as u32 | 1;
    let real: Vec<TcpStream> = hosts.clients.run(|| {
        let connect = |n| http::connect(client_v4(10 + n), SERVICE_V4).unwrap();
        (0..REAL).map(connect).collect()
    });
    // Each has a debt of its own before the flood.
    for stream in &real {
        (0..10).for_each(|_| drop(http::ask_well(stream).unwrap()));
    }
    let before = resident(agent.pid());
    let [passed, refused] = hosts.clients.run(|| {
        std::thread::scope(|scope| {
            let floods: Vec<_> = (0..THREADS)
                .map(|first| {
                    let numbers = (first..CLIENTS).step_by(THREADS as usize);
                    // Another order in each run, of the same clients: the factor has no divisor of CLIENTS.
                    let order = move |n: u32| {
                        (u64::from(n) * u64::from(seed % 1_000_000 * 10 + 1) % u64::from(CLIENTS))
                            as u32
                    };
                    scope.spawn(move || flood(numbers.map(order)))
                })
                .collect();
            // Meanwhile all that the real clients ask is answered, up to their limit.
            for _ in 10..100 {
                for stream in &real {
                    http::ask_well(stream).unwrap();
                }
            }
            let counts = floods.into_iter().map(|flood| flood.join().unwrap());
            counts.fold([0; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]])
        })
    });
    let greedy = u64::from(CLIENTS / EACH);
    assert_eq!(refused, greedy * (GREED - 100));
    assert_eq!(passed, u64::from(CLIENTS) - greedy + greedy * 100);
    // The flood has pushed out no real client: each is at its limit.
    for stream in &real {
        let error = http::ask_well(stream).unwrap_err();
        assert_eq!(error.to_string(), "status 429");
    }
    let (limits, table) = figures(&agent);
    assert_eq!(limits["refused"], refused + u64::from(REAL), "{limits}");
    let number = |name: &str| table[name].as_u64().unwrap();
    let clients = u64::from(CLIENTS) + u64::from(REAL);
    assert!(number("entries") <= number("capacity"), "{table}");
    // A client without a place has given it up to another.
    assert_eq!(number("entries") + number("evictions"), clients, "{table}");
    let grown = resident(agent.pid()).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}
