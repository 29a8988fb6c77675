//! Over real loopback sockets.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};

use lb_common::abi::BackendId;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::testing::{Fixed, HOUR, Stop, any_port, noise, soon};
use super::*;

mod limits;

const FIRST: BackendId = BackendId(1);
const SECOND: BackendId = BackendId(2);

/// A listener for clients on a port of its own.
fn admitting(listen: &str, admission: Admission) -> (Listener, SocketAddr) {
    let socket = std::net::TcpListener::bind(any_port(listen)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    (Listener::new(socket, admission).unwrap(), address)
}

/// A proxy on a port of its own.
struct Proxy {
    address: SocketAddr,
    chooser: Arc<Fixed>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(listen: &str, backends: &[SocketAddr]) -> Self {
        Self::start_with(listen, backends, Admission::default()).await
    }

    async fn start_with(listen: &str, backends: &[SocketAddr], admission: Admission) -> Self {
        let (listener, address) = admitting(listen, admission);
        let (stop, shutdown) = watch::channel(None);
        let chooser = Fixed::new(backends);
        let proxy = TcpProxy {
            connect_timeout: Duration::from_millis(200),
        };
        Self {
            address,
            task: tokio::spawn(proxy.serve(listener, chooser.clone(), shutdown)),
            chooser,
            stop,
        }
    }

    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    /// On a runtime of one thread: a connection that waits in the queue, as the proxy does not run.
    fn connect_unseen(&self) -> TcpStream {
        let stream = std::net::TcpStream::connect(self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }

    fn stop_by(&self, deadline: Instant) {
        self.stop
            .send(Some(Farewell::to_newcomers(deadline)))
            .unwrap();
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(any_port("127.0.0.1")).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A proxy with one backend, and a connection through it.
async fn pair() -> (Proxy, TcpStream, TcpStream) {
    let (listener, address) = listener().await;
    let proxy = Proxy::start("127.0.0.1", &[address]).await;
    let client = proxy.connect().await;
    let (backend, _) = soon(listener.accept()).await.unwrap();
    (proxy, client, backend)
}

/// An address at which connections are refused for as long as the socket lives.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&any_port("127.0.0.1").into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address at which connections get no answer for as long as the sockets live: its queue is
/// full.
fn silent() -> (Vec<Socket>, SocketAddr) {
    let (socket, address) = refusing();
    socket.listen(0).unwrap();
    let mut sockets = vec![socket];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address.into());
        sockets.push(filler);
    }
    (sockets, address)
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

async fn assert_passes(from: &mut TcpStream, to: &mut TcpStream) {
    soon(from.write_all(b"marco")).await.unwrap();
    let mut bytes = [0; 5];
    soon(to.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"marco");
}

async fn assert_open(client: &mut TcpStream, backend: &mut TcpStream) {
    assert_passes(client, backend).await;
    assert_passes(backend, client).await;
}

async fn assert_reset(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let error = soon(stream.read_to_end(&mut bytes)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_half_closes_still_gets_its_answer() {
    let (proxy, mut client, mut backend) = pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"question");
    backend.write_all(b"answer").await.unwrap();
    drop(backend);
    assert_eq!(read_all(&mut client).await, b"answer");
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
}

#[tokio::test]
async fn a_backend_that_half_closes_still_gets_what_the_client_sends() {
    let (proxy, mut client, mut backend) = pair().await;
    backend.write_all(b"greeting").await.unwrap();
    backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"greeting");
    client.write_all(b"late").await.unwrap();
    drop(client);
    assert_eq!(read_all(&mut backend).await, b"late");
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
}

#[tokio::test]
async fn nothing_is_lost_or_changed_when_the_reader_is_slow() {
    for to_backend in [true, false] {
        let (_proxy, client, backend) = pair().await;
        let (mut from, mut to) = match to_backend {
            true => (client, backend),
            false => (backend, client),
        };
        let sent = Arc::new(noise(24 << 20));
        let writer = tokio::spawn({
            let sent = sent.clone();
            async move {
                from.write_all(&sent).await.unwrap();
                from.shutdown().await.unwrap();
                from
            }
        });
        let (mut got, mut chunk) = (Vec::with_capacity(sent.len()), [0; 7001]);
        loop {
            let length = soon(to.read(&mut chunk)).await.unwrap();
            if length == 0 {
                break;
            }
            got.extend_from_slice(&chunk[..length]);
            tokio::task::yield_now().await;
        }
        assert!(got == *sent, "{} of {} bytes", got.len(), sent.len());
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    const MANY: usize = 512 << 20;
    let (_proxy, mut client, backend) = pair().await;
    let written = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let written = written.clone();
        async move {
            let chunk = noise(1 << 16);
            while written.load(Ordering::Relaxed) < MANY {
                let length = client.write(&chunk).await.unwrap();
                written.fetch_add(length, Ordering::Relaxed);
            }
        }
    });
    // Called stalled too early, it has only written less.
    let mut before = usize::MAX;
    while written.load(Ordering::Relaxed) != before {
        before = written.load(Ordering::Relaxed);
        sleep(Duration::from_millis(200)).await;
    }
    assert!(before < MANY / 2, "{before} bytes are somewhere");
    writer.abort();
    drop(backend);
}

#[tokio::test]
async fn a_refused_connection_goes_to_the_next_backend() {
    let (_held, refused) = refusing();
    let (listener, address) = listener().await;
    let proxy = Proxy::start("127.0.0.1", &[refused, address]).await;
    let mut client = proxy.connect().await;
    let (mut backend, _) = soon(listener.accept()).await.unwrap();
    assert_open(&mut client, &mut backend).await;
    let told = proxy.chooser.told();
    assert_eq!((told.failed, told.opened), (vec![FIRST], vec![SECOND]));
}

#[tokio::test]
async fn bytes_sent_while_a_backend_does_not_answer_reach_the_next() {
    let (_held, silent) = silent();
    let (listener, address) = listener().await;
    let proxy = Proxy::start("127.0.0.1", &[silent, address]).await;
    let mut client = proxy.connect().await;
    client.write_all(b"early").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut backend, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"early");
    let told = proxy.chooser.told();
    assert_eq!((told.failed, told.opened), (vec![FIRST], vec![SECOND]));
}

#[tokio::test]
async fn a_client_for_whom_there_is_nobody_is_reset() {
    let (_held, refused) = refusing();
    for backends in [&[][..], &[refused, refused]] {
        let proxy = Proxy::start("127.0.0.1", backends).await;
        assert_reset(&mut proxy.connect().await).await;
        let told = proxy.chooser.told();
        assert_eq!(told.failed.len(), backends.len());
        assert_eq!((told.opened, told.closed), (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_both_ways() {
    for by_client in [true, false] {
        let (proxy, mut client, mut backend) = pair().await;
        assert_open(&mut client, &mut backend).await;
        let (from, mut to) = match by_client {
            true => (client, backend),
            false => (backend, client),
        };
        reset(&from);
        drop(from);
        assert_reset(&mut to).await;
        proxy.chooser.until(|told| told.closed == [FIRST]).await;
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_when_the_other_side_does_not_read() {
    let (proxy, mut client, mut backend) = pair().await;
    let chunk = noise(1 << 16);
    // Until the proxy has something that it cannot pass on, and reads no more.
    while timeout(Duration::from_millis(200), client.write(&chunk))
        .await
        .is_ok()
    {}
    reset(&client);
    drop(client);
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
    assert_reset(&mut backend).await;
}

#[tokio::test]
async fn a_reset_is_passed_on_after_a_half_close() {
    let (proxy, mut client, mut backend) = pair().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"");
    reset(&client);
    drop(client);
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
    let error = soon(async {
        loop {
            if let Err(error) = backend.write_all(b"?").await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    });
    let kind = error.await.kind();
    assert!(
        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind),
        "{kind}"
    );
}

#[tokio::test]
async fn what_came_before_a_reset_is_passed_on() {
    let (_proxy, mut client, mut backend) = pair().await;
    assert_open(&mut client, &mut backend).await;
    // A server that answers without having read all of the question resets by closing.
    client.write_all(&noise(1000)).await.unwrap();
    soon(backend.readable()).await.unwrap();
    backend.write_all(b"no").await.unwrap();
    drop(backend);
    let mut answer = [0; 2];
    soon(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"no");
}

#[tokio::test]
async fn each_connection_is_opened_and_closed_once() {
    let (listener, address) = listener().await;
    let proxy = Proxy::start("127.0.0.1", &[address]).await;
    let mut held = Vec::new();
    for nth in 0..30 {
        let mut client = proxy.connect().await;
        let (mut backend, _) = soon(listener.accept()).await.unwrap();
        assert_open(&mut client, &mut backend).await;
        match nth % 3 {
            0 => drop((client, backend)),
            1 => {
                reset(&backend);
                drop(backend);
                held.push(client);
            }
            _ => held.extend([client, backend]),
        }
    }
    proxy.chooser.until(|told| told.closed.len() == 20).await;
    assert_eq!(proxy.chooser.told().opened.len(), 30);
    // The rest are closed by the end of the proxy itself.
    proxy.task.abort();
    proxy.chooser.until(|told| told.closed.len() >= 30).await;
    assert!(proxy.task.await.unwrap_err().is_cancelled());
    assert_eq!(proxy.chooser.told().closed.len(), 30);
}

#[tokio::test]
async fn on_shutdown_open_connections_go_on_and_new_ones_are_refused() {
    let (proxy, mut client, mut backend) = pair().await;
    proxy.stop_by(Instant::now() + HOUR);
    soon(async {
        while TcpStream::connect(proxy.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_open(&mut client, &mut backend).await;
    assert!(!proxy.task.is_finished());
    drop((client, backend));
    soon(proxy.task).await.unwrap();
    assert_eq!(proxy.chooser.told().closed, [FIRST]);
}

#[tokio::test]
async fn before_another_agent_new_ones_are_served_as_long_as_there_are_old_ones() {
    let (listener, address) = listener().await;
    let proxy = Proxy::start("127.0.0.1", &[address]).await;
    let mut client = proxy.connect().await;
    let (mut backend, _) = soon(listener.accept()).await.unwrap();
    assert_open(&mut client, &mut backend).await;
    let farewell = Farewell {
        deadline: Instant::now() + HOUR,
        accept_policy: lb_net::handover::AcceptPolicy::Wait,
    };
    proxy.stop.send(Some(farewell)).unwrap();
    let mut new = proxy.connect().await;
    let (mut at, _) = soon(listener.accept()).await.unwrap();
    assert_open(&mut new, &mut at).await;
    assert_open(&mut client, &mut backend).await;
    drop((client, backend));
    soon(async {
        while TcpStream::connect(proxy.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_open(&mut new, &mut at).await;
    assert!(!proxy.task.is_finished());
    // And with it the connections not yet accepted.
    drop((new, at, listener));
    soon(proxy.task).await.unwrap();
}

#[tokio::test]
async fn when_the_drain_time_is_over_connections_are_closed() {
    let (proxy, mut client, mut backend) = pair().await;
    assert_open(&mut client, &mut backend).await;
    proxy.stop_by(Instant::now() + Duration::from_millis(50));
    soon(proxy.task).await.unwrap();
    assert_eq!(read_all(&mut client).await, b"");
    assert_eq!(read_all(&mut backend).await, b"");
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
}

#[tokio::test]
async fn who_waits_to_be_accepted_at_shutdown_is_served() {
    let (backend, address) = listener().await;
    let (waited_at, at) = admitting("127.0.0.1", Admission::default());
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(soon(TcpStream::connect(at)).await.unwrap());
    }
    let (stop, shutdown) = watch::channel(None);
    stop.send(Some(Farewell::to_newcomers(Instant::now() + HOUR)))
        .unwrap();
    let proxy = TcpProxy::default().serve(waited_at, Fixed::new(&[address]), shutdown);
    let proxy = tokio::spawn(proxy);
    for _ in 0..20 {
        soon(backend.accept()).await.unwrap();
    }
    drop(clients);
    soon(proxy).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_that_nobody_can_ask_for_any_more_is_one() {
    let (proxy, mut client, _backend) = pair().await;
    drop(proxy.stop);
    soon(proxy.task).await.unwrap();
    assert_eq!(read_all(&mut client).await, b"");
}

#[tokio::test]
async fn ipv6_clients_reach_an_ipv4_backend_and_ipv4_ones_are_known_as_such() {
    let (listener, address) = listener().await;
    let proxy = Proxy::start("::", &[address]).await;
    for ip in ["::1", "127.0.0.5"] {
        let target = SocketAddr::new(ip.parse().unwrap(), proxy.address.port());
        let mut client = soon(TcpStream::connect(target)).await.unwrap();
        let (mut backend, _) = soon(listener.accept()).await.unwrap();
        assert_open(&mut client, &mut backend).await;
        let (local, from) = *proxy.chooser.told().asked.last().unwrap();
        assert_eq!((local, from), (target, client.local_addr().unwrap().ip()));
    }
}

#[tokio::test]
async fn an_idle_connection_takes_little_memory() {
    let (mut listener, address) = admitting("127.0.0.1", Admission::default());
    let _client = TcpStream::connect(address).await.unwrap();
    let (client, peer) = soon(listener.accept()).await.unwrap();
    let chooser: Arc<dyn Chooser> = Fixed::new(&[]);
    let connection = TcpProxy::default().connection(client, peer, chooser);
    let bytes = size_of_val(&connection);
    assert!(bytes <= 1408, "{bytes}");
}

#[tokio::test]
async fn nothing_is_kept_when_all_has_been_taken() {
    let (from, to) = (pair().await, pair().await);
    let (mut source, from) = (from.1, from.2);
    let (to, mut sink) = (to.1, to.2);
    let passed = AtomicU64::new(0);
    let mut direction = Direction::new(&from, &to, &passed);
    let sent = noise(16 << 20);
    let (written, got) = (
        async {
            source.write_all(&sent).await.unwrap();
        },
        async {
            let mut got = vec![0; sent.len()];
            sink.read_exact(&mut got).await.unwrap();
            got
        },
    );
    let ended = poll_fn(|context| direction.poll(context));
    let got = tokio::select! {
        ended = ended => panic!("{ended:?}"),
        ((), got) = async { tokio::join!(written, got) } => got,
    };
    assert!(got == sent);
    assert_eq!(direction.kept.capacity(), 0);
}

/// Runs [`out_of_files`] in a process of its own, as the limit is the process's.
#[test]
fn a_proxy_that_runs_out_of_files_serves_again_when_there_are_some() {
    let name = "proxy::tcp::tests::out_of_files";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    let output = child.env("LB_AGENT_TEST_ALONE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("nobody blamed"),
        "{output:?}"
    );
}

#[test]
fn out_of_files() {
    if std::env::var_os("LB_AGENT_TEST_ALONE").is_none() {
        return;
    }
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let (listener, address) = listener().await;
        let proxy = Proxy::start("127.0.0.1", &[address]).await;
        // The proxy has not run yet: this connection waits in its queue.
        let mut client = std::net::TcpStream::connect(proxy.address).unwrap();
        client.set_nonblocking(true).unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, free as u64, hard).unwrap();
        let asked = proxy.chooser.until(|told| !told.asked.is_empty());
        let mut asked = std::pin::pin!(asked);
        let served = timeout(Duration::from_millis(100), asked.as_mut()).await;
        assert!(served.is_err(), "the limit does not hold");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        asked.await;
        let _kept = soon(listener.accept()).await.unwrap();
        std::io::Write::write_all(&mut client, b"!").unwrap();
        println!("served late");

        // One for the client, and none to connect with: that is not the backend's fault.
        let mut client = proxy.connect_unseen();
        let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, free as u64 + 1, hard).unwrap();
        assert_reset(&mut client).await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let told = proxy.chooser.told();
        assert_eq!((told.asked.len(), told.failed), (2, vec![]));
        println!("nobody blamed");
    });
}

#[tokio::test]
async fn connections_end_that_are_told_to_and_no_others() {
    let (one, other) = (pair().await, pair().await);
    for (proxy, ends) in [(&one.0, FIRST), (&other.0, SECOND)] {
        proxy.chooser.ending.send_modify(|ending| {
            ending.insert(ends);
        });
    }
    let (_proxy, mut client, mut backend) = one;
    for side in [&mut client, &mut backend] {
        let error = soon(side.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let (_proxy, mut client, mut backend) = other;
    soon(client.write_u8(7)).await.unwrap();
    assert_eq!(soon(backend.read_u8()).await.unwrap(), 7);
}
