//! The engine between raw sockets: what goes in, byte by byte, and what comes out. Names of tests
//! begin with the section that they are about: `h` is RFC 9110, `k` RFC 9111, `m` RFC 9112, `h2` RFC
//! 9113, `w` RFC 6455, `x` RFC 8441.

mod access;
mod cache;
mod change;
mod decide;
mod engine;
mod faults;
mod figures;
mod files;
mod forward_auth;
mod framing;
mod h2;
mod h2c;
mod hop_by_hop;
mod https;
mod limits;
mod log;
mod messages;
mod prior_knowledge;
mod request_limits;
mod responses;
mod routes;
mod sessions;
mod tables;
mod upgrade;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lb_common::abi::BackendId;
use lb_http::{Engine, Presence};
use lb_net::admission::Admission;
use lb_net::handover::{AcceptPolicy, FdStore};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An address of this host's that no other test uses.
fn own_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., a, b] = std::process::id().to_be_bytes();
    let port = u16::try_from(8000 + count).unwrap();
    SocketAddr::from(([127, 1 + (a & 0x7f), b, 1], port))
}

/// A proxy with one worker.
struct Proxy {
    address: SocketAddr,
    /// As they are configured.
    backends: Vec<String>,
    /// Those under `[service.http]`.
    settings: String,
    engine: Option<Engine>,
}

impl Proxy {
    /// In front of `backends`, with `settings` under `[service.http]`.
    fn new(backends: &[&Backend], settings: &str) -> Self {
        let addresses = backends.iter().map(|backend| backend.address.to_string());
        Self::before(addresses.collect(), settings)
    }

    /// The same with backends by their addresses, or by the paths of their sockets.
    fn before(backends: Vec<String>, settings: &str) -> Self {
        let mut proxy = Self {
            address: own_address(),
            backends,
            settings: String::new(),
            engine: Some(Engine::new(
                Arc::new(tables::Remembered::default()),
                false,
                1,
                FdStore::default(),
                Admission::default(),
                |_| Ok(()),
            )),
        };
        proxy.configure(settings);
        proxy
    }

    /// Other settings.
    fn configure(&mut self, settings: &str) {
        let config = self.config(settings);
        let services = config.services.iter();
        let services: Vec<_> = services.filter_map(|it| it.http.clone()).collect();
        settings.clone_into(&mut self.settings);
        let engine = self.engine.as_mut().unwrap();
        engine.publish(&services, Arc::new(tables::Tables::new(&config)));
        assert_eq!(engine.problems().collect::<Vec<_>>(), Vec::<String>::new());
    }

    /// The configuration with `settings`.
    fn config(&self, settings: &str) -> lb_config::Config {
        let backends: Vec<String> = self.backends.iter().map(|b| format!("'{b}'")).collect();
        let text = format!(
            "[[service]]\nname = 'app'\nmode = 'http'\nlisten = ['{}']\nbackends = [{}]\n\
             [service.http]\n{settings}\n",
            self.address,
            backends.join(", ")
        );
        lb_config::parse(&text, std::path::Path::new("test.toml")).unwrap()
    }

    /// Reports the presence of the backend at `index`, as the kernel tells it.
    fn report(&self, index: u16, presence: Presence) {
        let presences = self.engine.as_ref().unwrap().presences();
        presences.report([(BackendId::new(index, 1), presence)]);
    }

    fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// A client that has sent `text`.
    fn ask(&self, text: &str) -> Client {
        let mut client = self.connect();
        client.send(text);
        client
    }

    /// Ends it in the background.
    fn stop(
        &mut self,
        grace: Duration,
        accept_policy: AcceptPolicy,
    ) -> std::thread::JoinHandle<()> {
        let engine = self.engine.take().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(engine.wind_down(grace, accept_policy));
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.engine.is_some() {
            self.stop(Duration::ZERO, AcceptPolicy::Refused)
                .join()
                .unwrap();
        }
    }
}

/// One end of a connection.
struct Client {
    stream: TcpStream,
    /// Read, and not yet looked at.
    buffer: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends `text`; an answer gets a date, as servers have clocks (RFC 9110, section 6.6.1).
    fn send(&mut self, text: &str) {
        let is_final = text.strip_prefix("HTTP/1.1 ").is_some_and(|rest| {
            rest.starts_with(|class: char| ('2'..='5').contains(&class)) && !rest.contains("Date:")
        });
        let text = if is_final {
            text.replacen("\r\n", "\r\nDate: now\r\n", 1)
        } else {
            text.to_owned()
        };
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads until `enough` says how many bytes are wanted; the rest is kept.
    #[track_caller]
    fn until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> String {
        loop {
            if let Some(length) = enough(&self.buffer) {
                let rest = self.buffer.split_off(length);
                let taken = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let mut piece = [0; 4096];
            let length = self.stream.read(&mut piece).unwrap();
            let so_far = String::from_utf8_lossy(&self.buffer);
            assert_ne!(length, 0, "ended after {so_far:?}");
            self.buffer.extend_from_slice(&piece[..length]);
        }
    }

    /// The head of a message, with its last line break, in lower case as far as names go.
    #[track_caller]
    fn head(&mut self) -> String {
        let end = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let head = self.until(|bytes| end(bytes).map(|at| at + 4));
        let lines = head.split("\r\n").map(|line| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\r\n")
    }

    /// So many bytes as they are.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut piece = [0; 4096];
        while self.buffer.len() < length {
            let more = self.stream.read(&mut piece).unwrap();
            assert_ne!(more, 0);
            self.buffer.extend_from_slice(&piece[..more]);
        }
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    #[track_caller]
    fn exactly(&mut self, length: usize) -> String {
        self.until(|bytes| (bytes.len() >= length).then_some(length))
    }

    /// The status and the head of an answer, whose body (with Content-Length) is read too.
    #[track_caller]
    fn answer(&mut self) -> (u16, String) {
        let head = self.head();
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = self.exactly(length);
        (status(&head), head + &body)
    }

    /// The status of an answer.
    #[track_caller]
    fn status(&mut self) -> u16 {
        self.answer().0
    }

    /// Everything up to the end of the connection.
    fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.buffer);
        // A reset is an end too.
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Whether unread bytes have come.
    fn has_more(&mut self) -> bool {
        let moment = Some(Duration::from_millis(20));
        self.stream.set_read_timeout(moment).unwrap();
        let seen = self.stream.peek(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(seen, Ok(1))
    }

    /// Nothing comes and the connection stays open.
    #[track_caller]
    fn is_silent(&mut self) {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(150)))
            .unwrap();
        let read = self.stream.read(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let kind = read.map_err(|error| error.kind());
        assert!(matches!(kind, Err(io::ErrorKind::WouldBlock)), "{kind:?}");
        assert_eq!(String::from_utf8_lossy(&self.buffer), "");
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The value of a field, which `head` has once or not at all.
#[track_caller]
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let start = format!("{name}: ");
    let mut values = head
        .split("\r\n")
        .filter_map(|line| line.strip_prefix(&start));
    let value = values.next();
    assert_eq!(values.next(), None, "{name} twice in {head}");
    value
}

/// The listener of an application, which the test plays.
struct Backend {
    listener: TcpListener,
    address: SocketAddr,
}

impl Backend {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection of the proxy.
    #[track_caller]
    fn accept(&self) -> Client {
        Client::new(
            self.try_accept(PATIENCE)
                .expect("a connection to the backend"),
        )
    }

    fn try_accept(&self, within: Duration) -> Option<TcpStream> {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok((stream, _)) = self.listener.accept() {
                stream.set_nonblocking(false).unwrap();
                return Some(stream);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Takes one request without a body on a new connection; returns that and its head.
    #[track_caller]
    fn request(&self) -> (Client, String) {
        let mut connection = self.accept();
        let head = connection.head();
        (connection, head)
    }

    /// No connection has come.
    #[track_caller]
    fn was_spared(&self) {
        assert!(self.try_accept(Duration::from_millis(50)).is_none());
    }
}

/// The next connection of the proxy to one of two backends, and whether it is to the first.
#[track_caller]
fn either(first: &Backend, second: &Backend) -> (TcpStream, bool) {
    let deadline = Instant::now() + PATIENCE;
    let moment = Duration::from_millis(20);
    loop {
        if let Some(stream) = first.try_accept(moment) {
            return (stream, true);
        }
        if let Some(stream) = second.try_accept(moment) {
            return (stream, false);
        }
        assert!(Instant::now() < deadline, "a connection to either backend");
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A thread that answers every request on every connection in the same way.
struct Echo {
    backend: Arc<Backend>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Echo {
    fn new(answer: &'static str) -> Self {
        let backend = Arc::new(Backend::new());
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (accepting, stopped) = (Arc::clone(&backend), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(stream) = accepting.try_accept(Duration::from_millis(50)) {
                    std::thread::spawn(move || serve(stream, answer));
                }
            }
        });
        Self { backend, stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, answer: &str) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        read.extend_from_slice(&piece[..length]);
        while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            read.drain(..end + 4);
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// A request is refused with `wanted` before any backend hears of it.
#[track_caller]
fn refused(request: &str, wanted: u16) -> String {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(request);
    let (status, answer) = client.answer();
    assert_eq!(status, wanted, "{request:?}: {answer}");
    backend.was_spared();
    answer
}

/// The request that a backend gets for `request`.
#[track_caller]
fn forwarded(request: &str) -> String {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(request);
    let (mut connection, head) = backend.request();
    connection.send(OK);
    assert_eq!(client.status(), 200);
    head
}
