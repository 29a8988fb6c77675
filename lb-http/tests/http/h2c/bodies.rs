//! Bodies on their way: both ways at once, at the pace of the reader.

use super::*;
use std::io::Read as _;

/// More than all windows and queues on the way have room for.
const MUCH: usize = 64 << 20;

#[tokio::test]
async fn both_ways_go_at_once() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    // The head of the answer comes before any byte of the request.
    let mut answers = call.begin();
    let mut answer = soon(answer).await.unwrap();
    for round in 0..100 {
        let text = format!("message {round}");
        sends.send_data(text.clone().into(), false).unwrap();
        assert_eq!(call.piece().await.as_deref(), Some(text.as_bytes()));
        answers.send_data(text.clone().into(), false).unwrap();
        let came = piece(answer.body_mut()).await.unwrap();
        assert_eq!(came.as_deref(), Some(text.as_bytes()));
    }
    sends.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.piece().await, None);
    answers
        .send_trailers(trailers(&[("grpc-status", "0")]))
        .unwrap();
    let (body, came) = rest(answer.body_mut()).await.unwrap();
    assert_eq!((body.as_str(), came.unwrap().len()), ("", 1));
}

#[tokio::test]
async fn upload_goes_on_while_nobody_takes_the_answer() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let answers = call.begin();
    let _answer = soon(answer).await.unwrap();
    let filled = fill(answers).await;
    assert!(filled > 65_535, "{filled}");
    let sending = tokio::spawn(async move {
        send(&mut sends, 10 << 20).await;
    });
    let mut length = 0;
    while let Some(data) = call.piece().await {
        length += data.len();
    }
    assert_eq!(length, 10 << 20);
    soon(sending).await.unwrap();
}

/// Sends until the other side has taken nothing for a while: how many bytes.
async fn fill(mut sends: SendStream<Bytes>) -> usize {
    let mut sent = 0;
    while let Ok(room) = timeout(Duration::from_millis(500), room(&mut sends, MUCH)).await {
        sends.send_data(vec![b'x'; room].into(), false).unwrap();
        sent += room;
        assert!(sent < MUCH, "there is no end to it");
    }
    // Dropped later than the test ends.
    std::mem::forget(sends);
    sent
}

/// Sends so many bytes, and the end.
async fn send(sends: &mut SendStream<Bytes>, length: usize) {
    let mut left = length;
    while left > 0 {
        let room = soon(room(sends, left)).await;
        left -= room;
        sends.send_data(vec![b'x'; room].into(), left == 0).unwrap();
    }
}

/// Waits for room for some of `wanted` bytes.
async fn room(sends: &mut SendStream<Bytes>, wanted: usize) -> usize {
    sends.reserve_capacity(wanted.min(16_384));
    if sends.capacity() > 0 {
        return sends.capacity().min(wanted);
    }
    let room = std::future::poll_fn(|context| sends.poll_capacity(context)).await;
    room.expect("a stream that is open").unwrap().min(wanted)
}

#[tokio::test]
async fn slow_client_stops_its_own_stream_and_no_other() {
    let backend = Backend::new();
    // It is not cut off meanwhile.
    let proxy = Proxy::new(&[&backend], &format!("{H2C}\ntimeouts = {{ send = '0' }}"));
    let get = || proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let slow = [get(), get(), get(), get()];
    let mut served = Served::accept(&backend).await;
    for _ in &slow {
        let mut call = served.call().await;
        let head = Response::new(());
        let answers = call.answer.send_response(head, false).unwrap();
        let filled = fill(answers).await;
        // The capacity of the sockets, and one window.
        assert!((256 << 10..32 << 20).contains(&filled), "{filled}");
    }
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    let mut call = served.call().await;
    let mut answers = call.begin();
    let echo = tokio::spawn(async move {
        send(&mut answers, 1 << 20).await;
        call
    });
    sends.send_data("hello".into(), true).unwrap();
    let mut answer = soon(answer).await.unwrap();
    assert_eq!(rest(answer.body_mut()).await.unwrap().0.len(), 1 << 20);
    soon(echo).await.unwrap();
    drop(slow);
}

#[tokio::test]
async fn slow_client_gets_all_of_it_in_the_end() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut slow = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let head = Response::builder().header("content-length", 20 << 20);
    let head = head.body(()).unwrap();
    let mut answers = call.answer.send_response(head, false).unwrap();
    let sending = tokio::spawn(async move { send(&mut answers, 20 << 20).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let length = beside(move || {
        slow.head();
        let mut left = vec![0; 20 << 20];
        left[..slow.buffer.len()].copy_from_slice(&slow.buffer);
        slow.stream
            .read_exact(&mut left[slow.buffer.len()..])
            .unwrap();
        left.iter().filter(|byte| **byte == b'x').count()
    });
    assert_eq!(length.await, 20 << 20);
    soon(sending).await.unwrap();
}

#[tokio::test]
async fn slow_backend_stops_the_client() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let filled = fill(sends).await;
    assert!((64 << 10..2 << 20).contains(&filled), "{filled}");
    let mut length = 0;
    while length < filled {
        length += call.piece().await.unwrap().len();
    }
    call.finish(200);
    assert_eq!(soon(answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn answer_before_the_end_of_the_request_is_whole() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    sends.send_data("some".into(), false).unwrap();
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    let mut answers = call.begin();
    answers.send_data("enough".into(), false).unwrap();
    answers
        .send_trailers(trailers(&[("grpc-status", "8")]))
        .unwrap();
    // It asks the client to stop (RFC 9113, section 8.1), when that was written.
    tokio::time::sleep(Duration::from_millis(100)).await;
    call.answer.send_reset(Reason::NO_ERROR);
    let mut answer = soon(answer).await.unwrap();
    let (body, came) = rest(answer.body_mut()).await.unwrap();
    assert_eq!(body, "enough");
    assert_eq!(came.unwrap()["grpc-status"], "8");
}

#[tokio::test]
async fn answer_is_compressed_unless_it_is_a_call() {
    let backend = Backend::new();
    let settings = "compression = { types = ['application/*', 'text/*'], min_size = 1 }";
    let proxy = Proxy::new(&[&backend], &format!("{H2C}\n{settings}"));
    let mut served = None;
    for (kind, expected) in [
        ("text/plain", Some("gzip")),
        ("application/grpc+proto", None),
    ] {
        let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        if served.is_none() {
            served = Some(Served::accept(&backend).await);
        }
        let mut call = served.as_mut().unwrap().call().await;
        let head = Response::builder().header("content-type", kind);
        let mut answers = call
            .answer
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        send(&mut answers, 100_000).await;
        let head = beside(move || client.head()).await;
        assert_eq!(crate::field(&head, "content-encoding"), expected, "{kind}");
    }
}
