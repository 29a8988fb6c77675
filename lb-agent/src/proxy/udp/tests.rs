//! Over real loopback sockets.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::testing::{Fixed, HOUR, Stop, any_port, noise, soon};
use super::*;
use crate::proxy::Farewell;
use lb_net::bind;

const FIRST: BackendId = BackendId(1);
const SECOND: BackendId = BackendId(2);

/// A proxy on a port of its own.
struct Proxy {
    address: SocketAddr,
    chooser: Arc<Fixed>,
    counters: Arc<UdpCounters>,
    stop: Stop,
    task: JoinHandle<io::Result<()>>,
}

impl Proxy {
    async fn start(listen: &str, backends: &[SocketAddr]) -> Self {
        Self::start_with(listen, backends, UdpProxy::default()).await
    }

    async fn start_with(listen: &str, backends: &[SocketAddr], settings: UdpProxy) -> Self {
        let socket = UdpSocket::bind(any_port(listen)).await.unwrap();
        let (stop, shutdown) = watch::channel(None);
        let chooser = Fixed::new(backends);
        Self {
            address: socket.local_addr().unwrap(),
            counters: settings.counters.clone(),
            task: tokio::spawn(settings.serve(socket, chooser.clone(), shutdown)),
            chooser,
            stop,
        }
    }

    /// A client that takes answers from `ip` only.
    async fn client(&self, ip: &str) -> UdpSocket {
        let service = SocketAddr::new(ip.parse().unwrap(), self.address.port());
        let any = if service.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind(any_port(any)).await.unwrap();
        socket.connect(service).await.unwrap();
        socket
    }
}

/// A backend that answers each datagram with its name and the datagram.
struct Echo {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        Self::on(name, UdpSocket::bind(any_port("127.0.0.1")).await.unwrap())
    }

    fn on(name: &'static str, socket: UdpSocket) -> Self {
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; LONGEST];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = [name.as_bytes(), &buffer[..length]].concat();
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { address, task }
    }

    /// Closes the socket.
    async fn end(self) {
        self.task.abort();
        self.task.await.unwrap_err();
    }
}

async fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; LONGEST];
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

async fn ask(client: &UdpSocket, question: &str) -> String {
    client.send(question.as_bytes()).await.unwrap();
    String::from_utf8(receive(client).await).unwrap()
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_the_client_wrote_to() {
    let echo = Echo::start("a").await;
    for (listen, services) in [
        ("127.0.0.1", &["127.0.0.1"][..]),
        ("0.0.0.0", &["127.0.0.1", "127.0.0.2", "127.3.2.1"]),
        ("::1", &["::1"]),
        ("::", &["::1", "127.0.0.1", "127.0.0.2"]),
    ] {
        let proxy = Proxy::start(listen, &[echo.address]).await;
        for service in services {
            let client = proxy.client(service).await;
            assert_eq!(ask(&client, "1").await, "a1");
            assert_eq!(ask(&client, "2").await, "a2");
            let asked = proxy.chooser.told().asked;
            let local = client.peer_addr().unwrap();
            assert_eq!(
                *asked.last().unwrap(),
                (local, client.local_addr().unwrap().ip())
            );
        }
        assert_eq!(proxy.chooser.told().opened.len(), services.len());
    }
}

#[tokio::test]
async fn one_client_at_two_addresses_has_two_flows() {
    let echo = Echo::start("a").await;
    let proxy = Proxy::start("0.0.0.0", &[echo.address]).await;
    let client = UdpSocket::bind(any_port("127.0.0.1")).await.unwrap();
    for nth in 1..=3 {
        let service = SocketAddr::new([127, 0, 0, nth].into(), proxy.address.port());
        client.send_to(b"?", service).await.unwrap();
        let mut answer = [0; 9];
        let (length, from) = soon(client.recv_from(&mut answer)).await.unwrap();
        assert_eq!((&answer[..length], from), (&b"a?"[..], service));
    }
    assert_eq!(proxy.chooser.told().opened.len(), 3);
}

#[tokio::test]
async fn the_longest_and_the_empty_datagram_pass() {
    let echo = Echo::start("").await;
    let proxy = Proxy::start("127.0.0.1", &[echo.address]).await;
    let client = proxy.client("127.0.0.1").await;
    for length in [0, 1, 65_507] {
        let datagram = noise(length);
        client.send(&datagram).await.unwrap();
        assert!(receive(&client).await == datagram, "{length} bytes");
    }
}

#[tokio::test]
async fn a_refused_datagram_sends_the_next_one_to_the_next_backend() {
    let (gone, echo) = (Echo::start("gone").await, Echo::start("b").await);
    let proxy = Proxy::start("127.0.0.1", &[gone.address, echo.address]).await;
    gone.end().await;
    let client = proxy.client("127.0.0.1").await;
    client.send(b"lost").await.unwrap();
    proxy.chooser.until(|told| told.failed == [FIRST]).await;
    assert_eq!(ask(&client, "2").await, "b2");
    assert_eq!(ask(&client, "3").await, "b3");
    let told = proxy.chooser.until(|told| told.closed == [FIRST]).await;
    assert_eq!(told.opened, [FIRST, SECOND]);
    assert_eq!(proxy.counters.refused.load(Relaxed), 1);
}

#[tokio::test]
async fn a_backend_that_is_back_is_used_again() {
    let echo = Echo::start("a").await;
    let proxy = Proxy::start("127.0.0.1", &[echo.address]).await;
    let client = proxy.client("127.0.0.1").await;
    assert_eq!(ask(&client, "1").await, "a1");
    let address = echo.address;
    echo.end().await;
    client.send(b"lost").await.unwrap();
    proxy.chooser.until(|told| told.failed == [FIRST]).await;
    // Another test may have taken the port for a moment.
    let socket = soon(async {
        loop {
            match UdpSocket::bind(address).await {
                Ok(socket) => break socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let _echo = Echo::on("again", socket.await);
    assert_eq!(ask(&client, "2").await, "again2");
    let told = proxy.chooser.told();
    assert_eq!(
        (told.opened, told.closed),
        (vec![FIRST, FIRST], vec![FIRST])
    );
}

#[tokio::test]
async fn when_all_have_refused_the_first_is_tried_again() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let proxy = Proxy::start("127.0.0.1", &[a.address, b.address]).await;
    a.end().await;
    b.end().await;
    let client = proxy.client("127.0.0.1").await;
    for failures in 1..=4 {
        client.send(b"?").await.unwrap();
        proxy
            .chooser
            .until(|told| told.failed.len() == failures)
            .await;
    }
    let told = proxy.chooser.told();
    assert_eq!(told.failed, [FIRST, SECOND, FIRST, SECOND]);
    proxy.chooser.until(|told| told.closed.len() == 4).await;
}

#[tokio::test]
async fn a_datagram_for_nobody_is_dropped_and_counted() {
    let proxy = Proxy::start("127.0.0.1", &[]).await;
    let client = proxy.client("127.0.0.1").await;
    client.send(b"?").await.unwrap();
    proxy.chooser.until(|told| told.asked.len() == 1).await;
    client.send(b"?").await.unwrap();
    proxy.chooser.until(|told| told.asked.len() == 2).await;
    assert!(proxy.counters.no_backend.load(Relaxed) >= 1);
    assert_eq!(proxy.chooser.told().opened, []);
}

#[tokio::test]
async fn an_idle_flow_ends_and_the_next_datagram_opens_another() {
    let echo = Echo::start("a").await;
    let settings = UdpProxy {
        idle_timeout: Duration::from_millis(50),
        ..UdpProxy::default()
    };
    let proxy = Proxy::start_with("127.0.0.1", &[echo.address], settings).await;
    let client = proxy.client("127.0.0.1").await;
    for nth in 1..=3 {
        assert_eq!(ask(&client, "?").await, "a?");
        proxy.chooser.until(|told| told.closed.len() == nth).await;
        assert_eq!(proxy.chooser.told().opened.len(), nth);
    }
    assert_eq!(proxy.counters.evicted.load(Relaxed), 0);
}

#[tokio::test]
async fn answers_alone_keep_a_flow_alive() {
    let backend = UdpSocket::bind(any_port("127.0.0.1")).await.unwrap();
    let idle_timeout = Duration::from_secs(2);
    let settings = UdpProxy {
        idle_timeout,
        ..UdpProxy::default()
    };
    let service = [backend.local_addr().unwrap()];
    let proxy = Proxy::start_with("127.0.0.1", &service, settings).await;
    let client = proxy.client("127.0.0.1").await;
    client.send(b"subscribe").await.unwrap();
    let (_, flow) = soon(backend.recv_from(&mut [0; 9])).await.unwrap();
    let until = Instant::now() + idle_timeout * 2;
    while Instant::now() < until {
        backend.send_to(b"news", flow).await.unwrap();
        assert_eq!(receive(&client).await, b"news");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.chooser.told().closed, []);
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
}

#[tokio::test]
async fn when_there_are_too_many_flows_the_one_idle_for_longest_makes_room() {
    let echo = Echo::start("a").await;
    let settings = UdpProxy {
        max_flows: 3,
        ..UdpProxy::default()
    };
    let proxy = Proxy::start_with("127.0.0.1", &[echo.address], settings).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(proxy.client("127.0.0.1").await);
    }
    // The first to open is not the longest idle, as it is used again. Times are in milliseconds.
    for nth in [0, 1, 2, 0, 3] {
        assert_eq!(ask(&clients[nth], "?").await, "a?");
        sleep(Duration::from_millis(3)).await;
    }
    proxy.chooser.until(|told| told.closed.len() == 1).await;
    assert_eq!(proxy.counters.evicted.load(Relaxed), 1);
    for nth in [0, 2, 3] {
        assert_eq!(ask(&clients[nth], "?").await, "a?");
    }
    assert_eq!(
        proxy.chooser.told().opened.len(),
        4,
        "these still have theirs"
    );
    assert_eq!(ask(&clients[1], "?").await, "a?");
    assert_eq!(
        proxy.chooser.told().opened.len(),
        5,
        "this one had lost its"
    );
}

#[tokio::test]
async fn many_clients_at_once_are_kept_apart() {
    let echo = Echo::start("a").await;
    let proxy = Proxy::start("127.0.0.1", &[echo.address]).await;
    let mut clients = Vec::new();
    for nth in 0..100 {
        let client = proxy.client("127.0.0.1").await;
        client.send(format!("{nth}").as_bytes()).await.unwrap();
        clients.push(client);
    }
    for (nth, client) in clients.iter().enumerate() {
        assert_eq!(receive(client).await, format!("a{nth}").as_bytes());
    }
    assert_eq!(proxy.chooser.told().opened.len(), 100);
    assert_eq!(proxy.counters.opened.load(Relaxed), 100);
}

#[tokio::test]
async fn on_shutdown_known_clients_are_served_until_the_drain_time_is_over() {
    let echo = Echo::start("a").await;
    let proxy = Proxy::start("127.0.0.1", &[echo.address]).await;
    let known = proxy.client("127.0.0.1").await;
    assert_eq!(ask(&known, "1").await, "a1");
    let deadline = Instant::now() + Duration::from_secs(3);
    proxy
        .stop
        .send(Some(Farewell::to_newcomers(deadline)))
        .unwrap();
    let new = proxy.client("127.0.0.1").await;
    // Whether the proxy has seen the shutdown yet is seen from this.
    tokio::task::yield_now().await;
    new.send(b"?").await.unwrap();
    assert_eq!(ask(&known, "2").await, "a2");
    soon(proxy.task).await.unwrap().unwrap();
    assert!(Instant::now() >= deadline);
    assert_eq!(
        proxy.chooser.told().opened,
        [FIRST],
        "none for the new client"
    );
    proxy.chooser.until(|told| told.closed == [FIRST]).await;
}

#[tokio::test]
async fn before_another_agent_datagrams_wait_and_answers_are_passed_on() {
    let backend = UdpSocket::bind(any_port("127.0.0.1")).await.unwrap();
    let address = backend.local_addr().unwrap();
    let listener = bind::udp(any_port("127.0.0.1")).unwrap();
    let next = listener.try_clone().unwrap();
    let (stop, shutdown) = watch::channel(None);
    let service = listener.local_addr().unwrap();
    let chooser = Fixed::new(&[address]);
    let socket = UdpSocket::from_std(listener).unwrap();
    let proxy = tokio::spawn(UdpProxy::default().serve(socket, chooser.clone(), shutdown));
    let client = UdpSocket::bind(any_port("127.0.0.1")).await.unwrap();
    client.connect(service).await.unwrap();
    client.send(b"before").await.unwrap();
    let mut buffer = [0; 100];
    let (_, flow) = soon(backend.recv_from(&mut buffer)).await.unwrap();
    let farewell = Farewell {
        deadline: Instant::now() + HOUR,
        accept_policy: lb_net::handover::AcceptPolicy::Wait,
    };
    // It is seen before anything else.
    stop.send(Some(farewell)).unwrap();
    client.send(b"after").await.unwrap();
    backend.send_to(b"answer", flow).await.unwrap();
    assert_eq!(receive(&client).await, b"answer");
    soon(proxy).await.unwrap().unwrap();
    let (length, _) = next.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"after", "it has waited");
}

#[tokio::test]
async fn a_proxy_without_flows_stops_at_once() {
    let proxy = Proxy::start("127.0.0.1", &[]).await;
    proxy
        .stop
        .send(Some(Farewell::to_newcomers(Instant::now() + HOUR)))
        .unwrap();
    soon(proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn flows_are_closed_once_when_the_proxy_is_dropped() {
    let echo = Echo::start("a").await;
    let proxy = Proxy::start("127.0.0.1", &[echo.address]).await;
    let (a, b) = (
        proxy.client("127.0.0.1").await,
        proxy.client("127.0.0.1").await,
    );
    ask(&a, "?").await;
    ask(&b, "?").await;
    proxy.task.abort();
    assert!(proxy.task.await.unwrap_err().is_cancelled());
    proxy.chooser.until(|told| told.closed.len() == 2).await;
    assert_eq!(proxy.chooser.told().closed.len(), 2);
}

#[tokio::test]
async fn a_datagram_that_comes_back_to_the_proxy_ends_after_a_few_rounds() {
    for listen in ["127.0.0.1", "::1"] {
        let proxy = Proxy::start(listen, &[any_port(listen)]).await;
        proxy.chooser.lead_to(proxy.address);
        let client = proxy.client(listen).await;
        client.send(b"1").await.unwrap();
        let told = proxy.chooser.until(|told| told.came_back == 1).await;
        assert_eq!(told.opened.len(), 8, "{listen}");
        client.send(b"2").await.unwrap();
        let told = proxy.chooser.until(|told| told.came_back == 2).await;
        assert_eq!(told.opened.len(), 8, "{listen}: the flows are there");
    }
}
