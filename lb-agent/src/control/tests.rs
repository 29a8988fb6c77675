//! Client and server over a real socket, with a fake agent behind the channel; and clients that
//! send anything but a good request.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{CallError, Client};
use super::facts::RequestFacts;
use super::message::{AffinityFound, Command, Lookup, Refusal, RefusalKind, Reply};
use super::queue::{Call, queue};
use super::server::{bind, serve};
use super::status::{AgentStatus, Status};
use crate::crowd::Phase;
use crate::metrics::server::response;
use lb_config::BackendAddress;

/// An agent that answers every command and remembers it.
struct Fake {
    path: PathBuf,
    seen: Arc<Mutex<Vec<Command>>>,
    phase: watch::Sender<Phase>,
    server: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Fake {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = bind(&path, None).unwrap();
        let (calls, mut inbox) = queue();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            // A plan takes for ever here.
            let mut plans = Vec::new();
            while let Some(call) = inbox.next().await {
                lock(&noted).push(call.command.clone());
                if matches!(call.command, Command::Plan { .. }) {
                    plans.push(call);
                    continue;
                }
                let Call { command, reply, .. } = call;
                let _ = reply.send(answer(command));
            }
        });
        let (phase, phases) = watch::channel(Phase::Serving);
        let server = tokio::spawn(serve(listener, calls, response, 1024, phases));
        Self {
            path,
            seen,
            phase,
            server,
            _dir: dir,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }

    fn seen(&self) -> Vec<Command> {
        lock(&self.seen).clone()
    }

    /// Sends `bytes` as they are and returns everything that comes back until the end, be it
    /// orderly or not.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn still_answers(&self) {
        let status: Status = self.client().read(&Command::Status).await.unwrap();
        assert_eq!(status, an_agent());
    }
}

fn lock(seen: &Mutex<Vec<Command>>) -> std::sync::MutexGuard<'_, Vec<Command>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn an_agent() -> Status {
    Status {
        agent: AgentStatus {
            version: "0.1.0".to_owned(),
            pid: 7,
            uptime_seconds: 5,
            data_plane: "bpf".to_owned(),
            degraded: false,
            notes: Vec::new(),
            config: None,
            cache: None,
            packets: None,
        },
        services: Vec::new(),
    }
}

fn a_lookup(command: &Command) -> Lookup {
    let Command::Lookup { client, .. } = command else {
        panic!("{command:?}")
    };
    let backend: BackendAddress = "127.0.0.1:5001".parse().unwrap();
    Lookup {
        client: *client,
        service: "web".to_owned(),
        stickiness: Default::default(),
        decided_by: Some("address".to_owned()),
        backend: Some(backend.clone()),
        reason: Some("affinity".to_owned()),
        prefix: Some(format!("{client}/32")),
        slot: Some(12_345),
        order: vec![backend.clone()],
        candidates: Vec::new(),
        affinity: Some(AffinityFound {
            backend,
            age_seconds: 3,
            expires_in_seconds: 10_797,
        }),
    }
}

fn answer(command: Command) -> Result<Reply, Refusal> {
    match command {
        Command::Status => Ok(Reply::Status(an_agent())),
        Command::Lookup { .. } => Ok(Reply::Lookup(a_lookup(&command))),
        Command::RemoveBackend { .. } => Err(Refusal {
            kind: RefusalKind::NotFound,
            error: "not a backend of web".to_owned(),
            hint: Some("see status".to_owned()),
        }),
        _ => Ok(Reply::Changed {
            message: "done".to_owned(),
        }),
    }
}

#[tokio::test]
async fn every_command_arrives_as_it_was_sent() {
    let fake = Fake::start();
    let address: BackendAddress = "[2001:db8::1]:5000".parse().unwrap();
    let service = Some("web".to_owned());
    let commands = [
        Command::AddBackend {
            address: address.clone(),
            service: service.clone(),
            weight: Some(3),
            ensure: false,
        },
        Command::AddBackend {
            address: address.clone(),
            service: None,
            weight: None,
            ensure: false,
        },
        Command::DrainBackend {
            address: address.clone(),
            service,
            timeout: Some(Duration::from_millis(2500)),
            at_end: Default::default(),
            now: false,
        },
        Command::Reload {
            max_moved: None,
            forget_runtime: false,
        },
        Command::Stop { purge: true },
    ];
    for command in &commands {
        assert_eq!(fake.client().change(command).await.unwrap(), "done");
    }
    assert_eq!(fake.seen(), commands);
}

#[tokio::test]
async fn documents_and_refusals_come_back_whole() {
    let fake = Fake::start();
    fake.still_answers().await;
    let command = Command::Lookup {
        client: "203.0.113.9".parse().unwrap(),
        service: Some("web".to_owned()),
        request: RequestFacts {
            cookie: Some("a=1; b=2".to_owned()),
            header: Some(("x-user".to_owned(), "ann & bob".to_owned())),
            query: Some("room=7&page=2".to_owned()),
            sid: Some("a=b".to_owned()),
        },
    };
    let lookup: Lookup = fake.client().read(&command).await.unwrap();
    assert_eq!(lookup, a_lookup(&command));
    assert_eq!(fake.seen().last(), Some(&command));
    let command = Command::RemoveBackend {
        address: "127.0.0.1:5000".parse().unwrap(),
        service: None,
    };
    let Err(CallError::Refused(refusal)) = fake.client().change(&command).await else {
        panic!("not refused")
    };
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert_eq!(refusal.hint.as_deref(), Some("see status"));
}

#[tokio::test]
async fn an_answer_is_json_that_reads_well_in_a_terminal() {
    let fake = Fake::start();
    let answer = fake.raw(b"POST /v1/reload HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"));
    assert!(answer.ends_with("{\n  \"message\": \"done\"\n}\n"));
}

#[tokio::test]
async fn ten_megabytes_are_refused_and_the_sender_sees_it() {
    let fake = Fake::start();
    let mut request = b"POST /v1/backends HTTP/1.1\r\ncontent-length: 10485760\r\n\r\n".to_vec();
    request.resize(request.len() + (10 << 20), b'x');
    let answer = fake.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("the body is longer than 64 KiB"));
    assert!(answer.contains("\"hint\""));
    assert!(fake.seen().is_empty());
    fake.still_answers().await;
}

#[tokio::test]
async fn ten_megabytes_that_are_only_announced_are_refused_at_once() {
    let fake = Fake::start();
    let head =
        "POST /v1/backends HTTP/1.1\r\ncontent-length: 10485760\r\nexpect: 100-continue\r\n\r\n";
    let answer = fake.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn junk_is_refused_and_changes_nothing() {
    let fake = Fake::start();
    let answer = fake.raw(b"\x16\x03\x01\x02\x00\x01 junk\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = fake
        .raw(b"POST /v1/backends HTTP/1.1\r\ncontent-length: 4\r\n\r\njunk")
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("it is not a JSON object"));
    let answer = fake.raw(b"GET /v1/reload HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: POST\r\n"));
    let answer = fake.raw(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(60_000));
    let answer = fake.raw(long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(fake.seen().is_empty());
    fake.still_answers().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_given_up() {
    let fake = Fake::start();
    let start = tokio::time::Instant::now();
    fake.raw(b"GET /v1/status HT").await;
    assert!(start.elapsed() <= Duration::from_secs(6));
    fake.still_answers().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let fake = Fake::start();
    let answer = fake
        .raw(b"POST /v1/backends HTTP/1.1\r\ncontent-length: 10\r\n\r\n{")
        .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_once_are_all_served() {
    let fake = Arc::new(Fake::start());
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let fake = Arc::clone(&fake);
            tokio::spawn(async move { fake.still_answers().await })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(fake.seen().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn idle_clients_do_not_keep_others_out_for_long() {
    let fake = Fake::start();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(UnixStream::connect(&fake.path).await.unwrap());
    }
    let start = tokio::time::Instant::now();
    fake.still_answers().await;
    assert!(start.elapsed() < Duration::from_secs(15));
    drop(idle);
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_still_gets_its_answer() {
    let fake = Fake::start();
    let mut stream = UnixStream::connect(&fake.path).await.unwrap();
    stream
        .write_all(b"GET /v1/status HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn when_the_agent_stops_its_socket_goes() {
    let fake = Fake::start();
    let _idle = UnixStream::connect(&fake.path).await.unwrap();
    let start = Instant::now();
    fake.phase.send(Phase::Ending).unwrap();
    fake.server.await.unwrap().unwrap();
    // It does not wait for the head of a request.
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(!fake.path.exists());
    let error = Client::new(&fake.path).text(&Command::Status).await;
    assert!(matches!(error, Err(CallError::Unreachable { .. })));
}

#[tokio::test]
async fn an_agent_that_is_going_away_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (calls, inbox) = queue();
    drop(inbox);
    let (_phase, serving) = watch::channel(Phase::Serving);
    let listener = bind(&path, None).unwrap();
    tokio::spawn(serve(listener, calls, response, 8, serving));
    let error = Client::new(&path).text(&Command::Status).await.unwrap_err();
    assert_eq!(error.to_string(), "the agent is stopping");
}

#[tokio::test]
async fn second_plan_of_a_user_is_refused_while_the_first_is_being_made() {
    let fake = Arc::new(Fake::start());
    let plan = Command::Plan {
        config: None,
        forget_runtime: false,
    };
    let asking = tokio::spawn({
        let (client, plan) = (fake.client(), plan.clone());
        async move { client.text(&plan).await }
    });
    while fake.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let Err(CallError::Refused(refusal)) = fake.client().text(&plan).await else {
        panic!("not refused")
    };
    assert!(
        refusal.error.contains("is being made already"),
        "{refusal:?}"
    );
    assert_eq!(
        refusal.hint.as_deref(),
        Some("wait until it is done, then ask again")
    );
    fake.still_answers().await;
    // A caller that has gone still holds its plan until it is made.
    asking.abort();
    let _ = asking.await;
    assert!(fake.client().text(&plan).await.is_err());
    assert_eq!(fake.seen().len(), 2, "one plan and one status");
}
