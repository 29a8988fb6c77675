//! `mode = "http"` against nginx: the same generated requests and answers go through both.
//! Clients and backends have to get the same from both, except for the table in `differences`.
//!
//! | module | owns |
//! | --- | --- |
//! | `requests`, `answers` | the generated messages |
//! | `message` | reading messages, on its own |
//! | `backend` | a backend that answers by script |
//! | `engine`, `nginx` | the two proxies |
//! | `differences` | the permitted differences with their reasons |
//! | `files` | files that both send, with differences of their own |

mod answers;
mod backend;
mod differences;
mod engine;
mod files;
mod message;
mod nginx;
mod requests;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use answers::Script;
use backend::Backend;
use lb_tests::random::Random;
use message::{Message, answers_in};
use requests::Request;

/// Cases, unless `LB_TEST_CASES` says another number.
const CASES: u64 = 2000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The number of the request that ends each connection.
const LAST: u64 = u64::MAX;

/// Requests that are sent at once on one connection, each with the answer of the backend.
pub(crate) struct Case {
    pub(crate) exchanges: Vec<(Request, Script)>,
}

impl Case {
    fn new(random: &mut Random, number: u64) -> Self {
        let length = 1 + random.below(4) / 3;
        let exchanges = (0..length).map(|at| {
            let request = Request::new(random, 2 * number + at);
            let script = Script::new(random, &request.method);
            (request, script)
        });
        Self {
            exchanges: exchanges.collect(),
        }
    }

    /// The statuses of interim answers that the client has to get: nginx passes none on.
    pub(crate) fn interim(&self, seen: &[Option<Message>]) -> Vec<u16> {
        let mut wanted = Vec::new();
        for ((request, script), seen) in self.exchanges.iter().zip(seen) {
            if seen.is_some() && request.is_http11() {
                wanted.extend(script.interim());
            }
        }
        wanted
    }

    /// The bytes of a client: the requests, and one that ends the connection.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (request, _) in &self.exchanges {
            bytes.extend_from_slice(&request.bytes);
        }
        let last =
            format!("GET /last HTTP/1.1\r\nHost: a\r\nX-Case: {LAST}\r\nConnection: close\r\n\r\n");
        bytes.extend_from_slice(last.as_bytes());
        bytes
    }

    /// Sends it through a proxy.
    fn through(&self, proxy: SocketAddr, backend: &Backend, with_interim: bool) -> Outcome {
        for (request, script) in &self.exchanges {
            match with_interim {
                true => backend.answer(request.number, script.clone()),
                false => backend.answer(request.number, script.without_interim()),
            }
        }
        let read = talk(proxy, &self.bytes());
        let methods = self.exchanges.iter().map(|(request, _)| &*request.method);
        let methods: Vec<&str> = methods.chain(["GET"]).collect();
        let (answers, rest) = answers_in(&read, &methods);
        let seen = self.exchanges.iter();
        Outcome {
            answers,
            rest,
            seen: seen
                .map(|(request, _)| backend.seen(request.number))
                .collect(),
        }
    }
}

/// The result of a case.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The answers that the client got, including the one to the last request.
    pub(crate) answers: Vec<Message>,
    /// Bytes that the client got and that are no answer.
    pub(crate) rest: Vec<u8>,
    /// The form in which each request reached the backend.
    pub(crate) seen: Vec<Option<Message>>,
}

impl Outcome {
    /// The statuses of interim answers other than 100, which each proxy gives by itself.
    pub(crate) fn interim(&self) -> Vec<u16> {
        let statuses = self.answers.iter().map(Message::status);
        statuses
            .filter(|status| (101..200).contains(status))
            .collect()
    }

    /// The answers without interim ones.
    pub(crate) fn finals(&self) -> Vec<&Message> {
        let is_final = |answer: &&Message| !(100..200).contains(&answer.status());
        self.answers.iter().filter(is_final).collect()
    }
}

/// All that comes back until the connection ends.
fn talk(proxy: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be refused before all of it is sent.
    let _ = stream.write_all(bytes);
    let (mut read, mut piece) = (Vec::new(), [0; 16_384]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return read,
            Ok(length) => read.extend_from_slice(&piece[..length]),
            Err(error) => {
                write!(read, "[{error}]").unwrap();
                return read;
            }
        }
    }
}

#[test]
fn made_up_requests_and_answers_come_through_as_through_nginx() {
    let mut random = Random::new();
    let given = std::env::var("LB_TEST_CASES").ok();
    let cases = given.map_or(CASES, |text| text.parse().unwrap());
    let (ours, theirs) = (Backend::new(), Backend::new());
    let engine = engine::Engine::new(ours.address());
    let nginx = nginx::Nginx::new(theirs.address());
    let mut counts = differences::Counts::default();
    let mut report = String::new();
    for number in 0..cases {
        let case = Case::new(&mut random, number);
        let through_engine = case.through(engine.address(), &ours, true);
        let through_nginx = case.through(nginx.address(), &theirs, false);
        let found = differences::find(&case, &through_engine, &through_nginx, &mut counts);
        if let Some(found) = found {
            let _ = write!(
                report,
                "\n=== case {number}: {found}\n--- sent\n{:?}\n--- scripts\n{:?}\n\
                 --- lb-agent\n{through_engine:?}\n--- nginx\n{through_nginx:?}\n",
                String::from_utf8_lossy(&case.bytes()),
                case.exchanges
                    .iter()
                    .map(|(_, script)| script)
                    .collect::<Vec<_>>(),
            );
        }
    }
    println!("{cases} cases; {counts}");
    assert!(report.is_empty(), "{report}");
}
