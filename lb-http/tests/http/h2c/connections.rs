//! Which connections there are, and which streams they carry.

use std::time::Instant;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn requests_of_many_clients_share_one_connection() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let clients: Vec<Client> = (0..20).map(|_| proxy.ask(GET)).collect();
    let mut served = Served::accept(&backend).await;
    let mut calls = Vec::new();
    for _ in &clients {
        calls.push(served.call().await);
    }
    for call in calls.into_iter().rev() {
        call.finish(204);
    }
    for client in clients {
        assert_eq!(status(client).await, 204);
    }
    backend.was_spared();
    let client = proxy.ask(GET);
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    backend.was_spared();
}

#[tokio::test]
async fn h2_5_1_2_further_connection_when_all_streams_are_in_use() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let few = &mut Builder::new();
    few.max_concurrent_streams(2);
    let clients: Vec<Client> = (0..3).map(|_| proxy.ask(GET)).collect();
    let mut first = Served::with(&backend, few).await;
    let calls = [first.call().await, first.call().await];
    first.is_quiet().await;
    let mut second = Served::with(&backend, few).await;
    second.call().await.finish(204);
    calls.into_iter().for_each(|call| call.finish(204));
    for client in clients {
        assert_eq!(status(client).await, 204);
    }
    // With room again the first one is enough.
    let client = proxy.ask(GET);
    first.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    backend.was_spared();
}

#[tokio::test]
async fn backend_that_takes_no_stream_cannot_be_used() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask(GET);
    let none = &mut Builder::new();
    none.max_concurrent_streams(0);
    let _served = Served::with(&backend, none).await;
    assert_eq!(status(client).await, 503);
}

#[tokio::test]
async fn h2_6_8_connection_is_replaced_after_goaway_and_its_streams_end_well() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let before = proxy.ask(GET);
    let mut first = Served::accept(&backend).await;
    let call = first.call().await;
    first.tell(Control::GoAway);
    // Until it has arrived requests may go to the first one, and are passed on.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = proxy.ask(GET);
    let mut second = Served::accept(&backend).await;
    second.call().await.finish(204);
    assert_eq!(status(after).await, 204);
    call.finish(200);
    assert_eq!(status_of_empty(before).await, 200);
    soon(first.task).await.unwrap();
}

/// The status of an answer whose body is an empty chunk.
async fn status_of_empty(mut client: Client) -> u16 {
    beside(move || {
        let status = client.status();
        assert_eq!(client.exactly(5), "0\r\n\r\n");
        status
    })
    .await
}

#[tokio::test]
async fn h2_8_7_stream_above_the_last_one_of_goaway_is_sent_again() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    sends.send_data("once".into(), true).unwrap();
    let script = listener(&backend);
    let stream = soon(script.accept()).await.unwrap().0;
    go_away_at_once(stream).await;
    let mut second = Served::accept(&backend).await;
    let mut call = second.call().await;
    assert_eq!(call.piece().await.as_deref(), Some(&b"once"[..]));
    call.finish(200);
    assert_eq!(soon(answer).await.unwrap().status(), 200);
}

/// Takes the head of a request, and says GOAWAY with nothing processed.
async fn go_away_at_once(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const HEADERS: u8 = 1;
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut preface = [0; 24];
    soon(stream.read_exact(&mut preface)).await.unwrap();
    loop {
        let mut head = [0; 9];
        soon(stream.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon(stream.read_exact(&mut payload)).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    let mut goaway = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
    goaway.extend_from_slice(&[0; 8]);
    stream.write_all(&goaway).await.unwrap();
    // Closed when the proxy has read it.
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn unix_socket_is_spoken_to_like_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let other = Backend::new();
    let route = format!(
        "[[service.route]]\npath = '/u'\nbackends = ['unix:{}']",
        path.display()
    );
    let proxy = Proxy::new(&[&other], &format!("{H2C}\n{route}"));
    let client = proxy.ask("GET /u HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = soon(listener.accept()).await.unwrap().0;
    let mut served = Served::on(stream, &mut Builder::new()).await;
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    other.was_spared();
}

#[tokio::test]
async fn backend_that_refuses_is_waited_for() {
    let backend = Backend::new();
    let address = backend.address;
    let proxy = proxy(&backend);
    drop(backend);
    proxy.report(0, Presence::Listening);
    let client = proxy.ask(GET);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let listener = std::net::TcpListener::bind(address).unwrap();
    let backend = Backend { listener, address };
    let mut served = Served::accept(&backend).await;
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
}

#[tokio::test]
async fn backend_that_says_nothing_is_given_up_after_the_time_to_connect() {
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        "protocol = 'h2c'\ntimeouts = { connect = '300ms' }",
    );
    let begun = Instant::now();
    let clients = [proxy.ask(GET), proxy.ask(GET)];
    let silent = listener(&backend);
    let _silent = soon(silent.accept()).await.unwrap();
    for client in clients {
        assert_eq!(status(client).await, 504);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn backend_of_http_1_1_cannot_be_used() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask(GET);
    let old = beside(move || {
        let mut connection = backend.accept();
        connection.until(|bytes| (bytes.len() > 24).then_some(bytes.len()));
        connection.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        connection.end();
        connection.rest();
    });
    assert_eq!(status(client).await, 503);
    old.await;
}

#[tokio::test]
async fn change_of_protocol_holds_for_the_next_request() {
    let backend = Backend::new();
    let mut proxy = proxy(&backend);
    let client = proxy.ask(GET);
    let mut served = Served::accept(&backend).await;
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    proxy.configure("");
    let client = proxy.ask(GET);
    beside(move || backend.request().0.send(crate::OK)).await;
    assert_eq!(status(client).await, 200);
}
