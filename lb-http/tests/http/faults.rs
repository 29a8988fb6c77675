//! Backends that go, come back, hang and lie.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lb_http::Presence;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Backend, Echo, OK, Proxy};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn h9_2_2_a_request_on_a_connection_that_was_closed_meanwhile_is_sent_again() {
    for request in [GET, POST] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let mut client = proxy.ask(GET);
        let (mut connection, _) = backend.request();
        connection.send(OK);
        assert_eq!(client.status(), 200);
        drop(connection);
        client.send(request);
        let (mut fresh, _) = backend.request();
        fresh.send(OK);
        assert_eq!(client.status(), 200, "{request:?}");
    }
}

#[test]
fn h9_2_2_a_request_that_may_have_been_carried_out_is_sent_again_only_if_it_may_be() {
    // Written, and the connection closed without an answer.
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    drop(backend.request());
    backend.request().0.send(OK);
    assert_eq!(client.status(), 200);

    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(POST);
    drop(backend.request());
    assert_eq!(client.status(), 502);
    backend.was_spared();
}

#[test]
fn keep_alive_timeouts_are_kept_with_a_second_to_spare() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    let (mut first, _) = backend.request();
    // Nothing is left after the second that is to spare.
    first.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.status(), 200);
    client.send(GET);
    let (mut second, _) = backend.request();
    second.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.status(), 200);
    client.send(GET);
    second.head();
    second.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn a_backend_that_restarts_is_waited_for() {
    let (first, second) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&first, &second], "timeouts = { restart_grace = '15s' }");
    let mut client = proxy.ask(GET);
    let (stream, is_first) = super::either(&first, &second);
    answer(stream);
    let (home, other) = if is_first {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(client.status(), 200);
    let address = home.address;
    drop(home);
    for request in [GET, POST] {
        client.send(request);
        client.is_silent();
        let back = Backend {
            listener: TcpListener::bind(address).unwrap(),
            address,
        };
        answer(back.try_accept(super::PATIENCE).unwrap());
        assert_eq!(client.status(), 200, "from the same backend");
    }
    other.was_spared();
}

#[test]
fn a_backend_that_restarts_with_many_requests_under_way_keeps_its_clients() {
    let (first, second) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&first, &second], "timeouts = { restart_grace = '50s' }");
    let mut clients: Vec<_> = (0..8).map(|_| proxy.ask(GET)).collect();
    let (stream, is_first) = super::either(&first, &second);
    let (home, other) = if is_first {
        (first, second)
    } else {
        (second, first)
    };
    let mut open = vec![super::Client::new(stream)];
    open.extend(clients.iter().skip(1).map(|_| home.accept()));
    open.iter_mut().for_each(|connection| {
        connection.head();
    });
    let address = home.address;
    drop(home);
    drop(open);
    clients.iter_mut().for_each(super::Client::is_silent);
    let back = Backend {
        listener: TcpListener::bind(address).unwrap(),
        address,
    };
    for _ in &clients {
        answer(back.try_accept(super::PATIENCE).unwrap());
    }
    for client in &mut clients {
        assert_eq!(client.status(), 200, "from the same backend");
    }
    other.was_spared();
}

/// Answers one request, and closes.
fn answer(stream: std::net::TcpStream) {
    let mut connection = super::Client::new(stream);
    connection.head();
    connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn a_backend_that_stays_away_is_passed_by() {
    let gone = Backend::new();
    let echo = Echo::new(OK);
    let proxy = Proxy::new(
        &[&gone, &echo.backend],
        "timeouts = { restart_grace = '0s' }",
    );
    drop(gone);
    for _ in 0..4 {
        assert_eq!(proxy.ask(GET).status(), 200);
    }
}

/// Asks for 16 users, who are spread over all backends. Returns the time that the slowest waits.
fn ask_for_users(proxy: &Proxy) -> Duration {
    let asked = (0..16).map(|user| {
        let begun = Instant::now();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
        assert_eq!(proxy.ask(&request).status(), 200, "user {user}");
        begun.elapsed()
    });
    asked.max().unwrap()
}

/// `restart_grace` is longer than any test.
const PATIENT: &str = "timeouts = { restart_grace = '50s' }\nstickiness = { header = 'X-User' }";

#[test]
fn port_that_never_listened_is_not_waited_for() {
    let (gone, echo) = (Backend::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&gone, &echo.backend], PATIENT);
    drop(gone);
    let slowest = ask_for_users(&proxy);
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn port_that_the_kernel_knows_dead_for_longer_than_the_grace_is_not_waited_for() {
    let (gone, echo) = (Backend::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&gone, &echo.backend], PATIENT);
    drop(gone);
    proxy.report(0, Presence::Listening);
    let long_ago = Instant::now() - Duration::from_secs(60);
    proxy.report(0, Presence::Gone(long_ago));
    let slowest = ask_for_users(&proxy);
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn port_that_the_kernel_saw_listening_is_waited_for_before_the_first_connection() {
    let gone = Backend::new();
    let proxy = Proxy::new(&[&gone], PATIENT);
    let address = gone.address;
    drop(gone);
    proxy.report(0, Presence::Listening);
    let mut client = proxy.ask(GET);
    client.is_silent();
    let back = Backend {
        listener: TcpListener::bind(address).unwrap(),
        address,
    };
    answer(back.try_accept(super::PATIENCE).unwrap());
    assert_eq!(client.status(), 200);
}

#[test]
fn without_any_backend_that_answers_there_is_a_503() {
    let gone = Backend::new();
    let proxy = Proxy::new(&[&gone], "timeouts = { restart_grace = '0s' }");
    drop(gone);
    assert_eq!(proxy.ask(GET).status(), 503);
    assert_eq!(Proxy::new(&[], "").ask(GET).status(), 503);
}

#[test]
fn a_backend_that_fails_again_and_again_is_passed_by_for_a_while() {
    let (bad, echo) = (Backend::new(), Echo::new(OK));
    let settings = "timeouts = { first_byte = '3s' }\n\
                    upstream = { max_fails = 2, fail_timeout = '60s' }";
    let proxy = Proxy::new(&[&bad, &echo.backend], settings);
    // Whoever is sent to the bad one at all: its clients' requests stay unanswered.
    let mut failures = 0;
    for _ in 0..6 {
        match proxy.ask(GET).status() {
            504 => failures += 1,
            status => assert_eq!(status, 200),
        }
    }
    assert!(failures == 0 || failures == 2, "{failures}");
}

#[test]
fn unix_socket_whose_queue_is_full_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let address = SockAddr::unix(&path).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&address) {
            Ok(()) => waiting.push(socket),
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let proxy = Proxy::before(vec![format!("unix:{}", path.display())], "");
    let mut client = proxy.ask(GET);
    client.is_silent();
    // The application comes to it.
    for _ in &waiting {
        listener.accept().unwrap();
    }
    let (connection, _) = listener.accept().unwrap();
    let mut request = [0; 1024];
    let length = (&connection).read(&mut request).unwrap();
    assert!(request[..length].starts_with(b"GET / HTTP/1.1\r\n"));
    let answer = OK.replacen("\r\n", "\r\nDate: now\r\n", 1);
    (&connection).write_all(answer.as_bytes()).unwrap();
    assert_eq!(client.status(), 200);
}
