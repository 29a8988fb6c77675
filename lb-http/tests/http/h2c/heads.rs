//! Heads and trailers, both ways.

use super::*;
use crate::{field, status as status_of};

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test]
async fn h2_3_3_request_goes_over_http_2_with_what_the_service_adds() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask(
        "POST /a?b HTTP/1.1\r\nHost: a.test\r\nX-Mixed: Case\r\nConnection: x-mine\r\nX-Mine: 1\r\n\
         Content-Length: 5\r\n\r\nhello",
    );
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    assert_eq!(call.request.uri(), "http://a.test/a?b");
    assert_eq!(call.request.method(), "POST");
    assert_eq!(call.field("content-length"), Some("5"));
    assert_eq!(call.field("x-mixed"), Some("Case"));
    assert_eq!(call.field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(call.field("via").is_some_and(|via| via.starts_with("1.1 ")));
    for name in ["connection", "x-mine", "host", "te", "transfer-encoding"] {
        assert_eq!(call.field(name), None, "{name}");
    }
    assert_eq!(call.piece().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(call.piece().await, None);
    call.finish(204);
    assert_eq!(status(client).await, 204);
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    assert_eq!(call.field("te"), Some("trailers"));
    sends.send_data("ping".into(), false).unwrap();
    sends.send_trailers(trailers(&[("x-sum", "1")])).unwrap();
    assert_eq!(call.piece().await.as_deref(), Some(&b"ping"[..]));
    assert_eq!(call.piece().await, None);
    let came = soon(call.request.body_mut().trailers()).await.unwrap();
    assert_eq!(came.unwrap()["x-sum"], "1");
    let mut answers = call.begin();
    answers.send_data("pong".into(), false).unwrap();
    let status = [("grpc-status", "0"), ("grpc-message", "fine")];
    answers.send_trailers(trailers(&status)).unwrap();
    let mut answer = soon(answer).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    let (body, came) = rest(answer.body_mut()).await.unwrap();
    assert_eq!(body, "pong");
    assert_eq!(came.unwrap(), trailers(&status));
}

#[tokio::test]
async fn trailers_reach_a_client_of_http_1_1_that_takes_them() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut served = None;
    for (te, expected) in [
        (
            "TE: trailers\r\nConnection: te\r\n",
            "0\r\ngrpc-status: 0\r\n\r\n",
        ),
        ("", "0\r\n\r\n"),
    ] {
        let mut client = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n"));
        if served.is_none() {
            served = Some(Served::accept(&backend).await);
        }
        let mut call = served.as_mut().unwrap().call().await;
        let mut answers = call.begin();
        answers.send_data("ok".into(), false).unwrap();
        answers
            .send_trailers(trailers(&[("grpc-status", "0")]))
            .unwrap();
        let came = beside(move || {
            let head = client.head();
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
            client.until(|bytes| {
                let end = bytes.ends_with(b"\r\n\r\n");
                end.then_some(bytes.len())
            })
        });
        assert_eq!(came.await, format!("2\r\nok\r\n{expected}"));
    }
}

#[tokio::test]
async fn answer_of_trailers_alone_ends_with_its_head() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, _sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "12")
        .body(())
        .unwrap();
    call.answer.send_response(head, true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert!(answer.body().is_end_stream());
    assert_eq!(answer.headers().get("content-length"), None);
    // To a client of HTTP/1.1 it is an answer without a body.
    let mut client = proxy.ask(GET);
    served.call().await.finish(200);
    let came = beside(move || (client.head(), client.exactly(5)));
    let (head, body) = came.await;
    assert_eq!((status_of(&head), body.as_str()), (200, "0\r\n\r\n"));
}

#[tokio::test]
async fn head_request_has_the_length_and_no_body() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut client = proxy.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    assert_eq!(call.request.method(), "HEAD");
    let head = Response::builder().header("content-length", "7");
    call.answer
        .send_response(head.body(()).unwrap(), true)
        .unwrap();
    let head = beside(move || {
        let head = client.head();
        client.is_silent();
        head
    });
    assert_eq!(field(&head.await, "content-length"), Some("7"));
}

#[tokio::test]
async fn early_hints_are_passed_on_over_http_1_1() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut client = proxy.ask(GET);
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let hints = Response::builder()
        .status(103)
        .header("link", "</a.css>; rel=preload");
    call.answer
        .send_informational(hints.body(()).unwrap())
        .unwrap();
    let (mut client, head) = beside(move || {
        let head = client.head();
        (client, head)
    })
    .await;
    assert_eq!(status_of(&head), 103);
    assert_eq!(field(&head, "link"), Some("</a.css>; rel=preload"));
    call.finish(204);
    assert_eq!(beside(move || client.status()).await, 204);
}

#[tokio::test]
async fn websocket_is_refused_clearly() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(status(client).await, 501);
    backend.was_spared();
}

#[tokio::test]
async fn target_that_http_2_cannot_carry_is_a_bad_request() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n");
    let _served = Served::accept(&backend).await;
    assert_eq!(status(client).await, 400);
}

#[tokio::test]
async fn answer_of_too_many_lines_is_a_bad_gateway() {
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        "protocol = 'h2c'\nlimits = { response_headers = 5 }",
    );
    let client = proxy.ask(GET);
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let mut head = Response::builder();
    for _ in 0..6 {
        head = head.header("x-a", "1");
    }
    call.answer
        .send_response(head.body(()).unwrap(), true)
        .unwrap();
    assert_eq!(status(client).await, 502);
}

#[tokio::test]
async fn route_may_speak_another_protocol_than_its_service() {
    let (new, old) = (Backend::new(), Backend::new());
    let route = format!(
        "[[service.route]]\npath = '/old'\nbackends = ['{}']\nprotocol = 'http1'",
        old.address
    );
    let proxy = Proxy::new(&[&new], &format!("{H2C}\n{route}"));
    let client = proxy.ask(GET);
    let mut served = Served::accept(&new).await;
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    let client = proxy.ask("GET /old HTTP/1.1\r\nHost: a\r\n\r\n");
    let old = beside(move || {
        let (mut connection, head) = old.request();
        connection.send(crate::OK);
        head
    });
    assert!(old.await.starts_with("GET /old HTTP/1.1\r\n"));
    assert_eq!(status(client).await, 200);
}
