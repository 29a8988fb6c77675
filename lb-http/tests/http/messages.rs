//! Requests that go through many connections, and back again.

use super::{Backend, Client, Echo, OK, Proxy};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Five requests of as many clients go over one connection to the backend, on which `answer` answers.
#[track_caller]
fn is_used_again(answer: impl Fn(&mut Client, &mut Client)) {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut connection = None;
    for _ in 0..5 {
        let mut client = proxy.ask(GET);
        let connection = connection.get_or_insert_with(|| backend.accept());
        connection.head();
        answer(connection, &mut client);
    }
    backend.was_spared();
}

#[test]
fn a_connection_to_the_backend_is_used_again() {
    is_used_again(|connection, client| {
        connection.send(OK);
        assert_eq!(client.status(), 200);
    });
}

#[test]
fn a_connection_to_the_backend_is_used_again_after_an_answer_in_chunks() {
    is_used_again(|connection, client| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send("2\r\nok\r\n");
        connection.send("0\r\n\r\n");
        client.head();
        assert_eq!(client.exactly(12), "2\r\nok\r\n0\r\n\r\n");
    });
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    drop(client);
    assert_eq!(connection.rest(), "", "the backend can stop working on it");
}

#[test]
fn many_clients_are_served_at_once() {
    let echo = Echo::new(OK);
    let proxy = Proxy::new(&[&echo.backend], "");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = proxy.connect();
                for _ in 0..200 {
                    client.send(GET);
                    assert_eq!(client.status(), 200);
                }
            });
        }
    });
}
