//! Failures of one stream, and of a whole connection.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn h2_8_7_refused_stream_is_sent_again_whatever_its_method() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let client = proxy.ask(POST);
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    assert_eq!(call.piece().await.as_deref(), Some(&b"hello"[..]));
    call.answer.send_reset(Reason::REFUSED_STREAM);
    let mut call = served.call().await;
    assert_eq!(call.piece().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(call.piece().await, None);
    call.finish(204);
    assert_eq!(status(client).await, 204);
    backend.was_spared();
}

#[tokio::test]
async fn stream_that_is_always_refused_is_refused_to_the_client() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, _sends) = caller.call().await;
    let client = proxy.ask(GET);
    let mut served = Served::accept(&backend).await;
    let mut seen = 0;
    let refusing = async {
        loop {
            served
                .call()
                .await
                .answer
                .send_reset(Reason::REFUSED_STREAM);
            seen += 1;
        }
    };
    let both = async {
        let error = soon(answer).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
        assert!(error.is_remote());
        assert_eq!(status(client).await, 503);
    };
    tokio::select! {
        () = both => {}
        () = refusing => {}
    }
    assert_eq!(seen, 8, "each of them once and three times again");
}

#[tokio::test]
async fn reset_before_the_answer_reaches_a_call_and_is_a_bad_gateway_to_others() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, _sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    served
        .call()
        .await
        .answer
        .send_reset(Reason::ENHANCE_YOUR_CALM);
    let error = soon(answer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    let client = proxy.ask(POST);
    served.call().await.answer.send_reset(Reason::CANCEL);
    assert_eq!(status(client).await, 502);
    // One that is idempotent may be sent again.
    let client = proxy.ask(GET);
    served
        .call()
        .await
        .answer
        .send_reset(Reason::INTERNAL_ERROR);
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    backend.was_spared();
}

#[tokio::test]
async fn retries_are_a_share_of_the_requests() {
    let backend = Backend::new();
    let settings = format!("{H2C}\nupstream = {{ max_fails = 0, retry_budget = 0.0 }}");
    let proxy = Proxy::new(&[&backend], &settings);
    let mut caller = Caller::new(&proxy).await;
    let mut seen = 0;
    let mut served = None;
    for _ in 0..30 {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (answer, _) = caller.send(request, true).await;
        if served.is_none() {
            served = Some(Served::accept(&backend).await);
        }
        let served = served.as_mut().unwrap();
        let mut answer = std::pin::pin!(soon(answer));
        let status = loop {
            tokio::select! {
                answer = &mut answer => break answer.unwrap().status(),
                mut call = served.call() => {
                    call.answer.send_reset(Reason::INTERNAL_ERROR);
                    seen += 1;
                }
            }
        };
        assert_eq!(status, 502);
    }
    // There are ten to begin with.
    assert_eq!(seen, 40);
}

#[tokio::test]
async fn reset_within_an_answer_is_no_end_of_it() {
    for (reason, expected) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
    ] {
        let backend = Backend::new();
        let proxy = proxy(&backend);
        let mut caller = Caller::new(&proxy).await;
        let (answer, _sends) = caller.call().await;
        let mut served = Served::accept(&backend).await;
        let mut call = served.call().await;
        let mut answers = call.begin();
        answers.send_data("some".into(), false).unwrap();
        let mut answer = soon(answer).await.unwrap();
        let first = piece(answer.body_mut()).await.unwrap();
        assert_eq!(first.as_deref(), Some(&b"some"[..]));
        answers.send_reset(reason);
        let error = piece(answer.body_mut()).await.unwrap_err();
        assert_eq!(error.reason(), Some(expected), "{reason:?}");
        assert!(error.is_remote());
        // Over HTTP/1.1 the last chunk does not come.
        let mut client = proxy.ask(GET);
        let mut call = served.call().await;
        let mut answers = call.begin();
        answers.send_data("some".into(), false).unwrap();
        let (mut client, _) = beside(move || {
            let head = client.head();
            assert_eq!(client.exactly(9), "4\r\nsome\r\n");
            (client, head)
        })
        .await;
        answers.send_reset(reason);
        assert_eq!(beside(move || client.rest()).await, "");
    }
}

#[tokio::test]
async fn client_that_cancels_takes_its_stream_along() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut waiting = served.call().await;
    // Before the answer has begun.
    drop((answer, sends));
    assert_eq!(waiting.reset().await, Reason::CANCEL);
    // And after.
    let (answer, mut sends) = caller.call().await;
    let mut call = served.call().await;
    let _answers = call.begin();
    let answer = soon(answer).await.unwrap();
    sends.send_reset(Reason::CANCEL);
    drop(answer);
    let gone = soon(call.request.body_mut().data())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(gone.reason(), Some(Reason::CANCEL));
    // A client of HTTP/1.1 cancels by closing.
    let client = proxy.ask(GET);
    let mut call = served.call().await;
    drop(client);
    assert_eq!(call.reset().await, Reason::CANCEL);
    assert_eq!(caller_is_served(&mut caller, &mut served).await, 204);
    backend.was_spared();
}

async fn caller_is_served(caller: &mut Caller, served: &mut Served) -> u16 {
    let serving = async { served.call().await.finish(204) };
    tokio::join!(caller.get(), serving).0
}

#[tokio::test]
async fn upload_that_is_reset_is_not_taken_for_a_whole_one() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let mut caller = Caller::new(&proxy).await;
        let (_answer, mut sends) = caller.call().await;
        let mut connection = beside(move || backend.request().0).await;
        sends.send_data("half".into(), false).unwrap();
        let mut connection = beside(move || {
            assert_eq!(connection.exactly(9), "4\r\nhalf\r\n");
            connection
        })
        .await;
        sends.send_reset(reason);
        let rest = beside(move || connection.rest()).await;
        assert_eq!(rest, "", "no last chunk after {reason:?}");
    }
}

#[tokio::test]
async fn upload_that_is_reset_resets_the_stream_to_the_backend() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let backend = Backend::new();
        let proxy = proxy(&backend);
        let mut caller = Caller::new(&proxy).await;
        let (answer, mut sends) = caller.call().await;
        let mut served = Served::accept(&backend).await;
        let mut call = served.call().await;
        let _answers = call.begin();
        let _answer = soon(answer).await.unwrap();
        sends.send_data("half".into(), false).unwrap();
        assert_eq!(call.piece().await.as_deref(), Some(&b"half"[..]));
        sends.send_reset(reason);
        let gone = soon(call.request.body_mut().data()).await.unwrap();
        assert_eq!(gone.unwrap_err().reason(), Some(Reason::CANCEL));
    }
}

#[tokio::test]
async fn backend_that_dies_is_connected_to_again() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let (get, post) = (proxy.ask(GET), proxy.ask(POST));
    let mut served = Served::accept(&backend).await;
    let _calls = [served.call().await, served.call().await];
    served.tell(Control::Drop);
    let mut second = Served::accept(&backend).await;
    second.call().await.finish(204);
    assert_eq!(status(get).await, 204);
    assert_eq!(status(post).await, 502, "it may have arrived");
    let client = proxy.ask(POST);
    second.call().await.finish(204);
    assert_eq!(status(client).await, 204);
}

#[tokio::test]
async fn backend_that_dies_within_an_answer_breaks_it_off() {
    let backend = Backend::new();
    let proxy = proxy(&backend);
    let mut caller = Caller::new(&proxy).await;
    let (answer, _sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut answers = served.call().await.begin();
    answers.send_data("some".into(), false).unwrap();
    let mut answer = soon(answer).await.unwrap();
    assert!(piece(answer.body_mut()).await.unwrap().is_some());
    served.tell(Control::Drop);
    let error = piece(answer.body_mut()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn backend_that_fails_too_often_is_passed_by() {
    let (first, second) = (Backend::new(), Backend::new());
    let settings = format!("{H2C}\nupstream = {{ max_fails = 2, retries = 0 }}");
    let proxy = Proxy::new(&[&first, &second], &settings);
    let client = proxy.ask(POST);
    let (stream, is_first) = beside({
        let copy = |backend: &Backend| Backend {
            listener: backend.listener.try_clone().unwrap(),
            address: backend.address,
        };
        let (first, second) = (copy(&first), copy(&second));
        move || crate::either(&first, &second)
    })
    .await;
    stream.set_nonblocking(true).unwrap();
    let mut failing = Served::on(TcpStream::from_std(stream).unwrap(), &mut Builder::new()).await;
    failing
        .call()
        .await
        .answer
        .send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(status(client).await, 502);
    // Resets of requests that were begun before the last one are the same failure.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let client = proxy.ask(POST);
    failing
        .call()
        .await
        .answer
        .send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(status(client).await, 502);
    let client = proxy.ask(POST);
    let other = if is_first { &second } else { &first };
    let mut served = Served::accept(other).await;
    served.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    failing.is_quiet().await;
}

#[tokio::test]
async fn answer_that_does_not_come_in_time_is_given_up() {
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        &format!("{H2C}\ntimeouts = {{ first_byte = '300ms' }}"),
    );
    let mut caller = Caller::new(&proxy).await;
    let (answer, _sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut other = served.call().await;
    let mut answers = other.begin();
    let mut answer = soon(answer).await.unwrap();
    let client = proxy.ask(GET);
    let mut call = served.call().await;
    assert_eq!(status(client).await, 504);
    assert_eq!(call.reset().await, Reason::CANCEL);
    // The connection may be the reason: the next request gets another one. Those before go on.
    let client = proxy.ask(GET);
    let mut second = Served::accept(&backend).await;
    second.call().await.finish(204);
    assert_eq!(status(client).await, 204);
    answers.send_data("some".into(), true).unwrap();
    assert_eq!(rest(answer.body_mut()).await.unwrap().0, "some");
    backend.was_spared();
}

#[tokio::test]
async fn body_or_answer_that_stops_is_given_up() {
    let backend = Backend::new();
    let settings = "timeouts = { response = '300ms', body = '300ms' }";
    let proxy = Proxy::new(&[&backend], &format!("{H2C}\n{settings}"));
    let client = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    assert_eq!(status(client).await, 408);
    assert_eq!(call.reset().await, Reason::CANCEL);
    let mut client = proxy.ask(GET);
    let mut call = served.call().await;
    let mut answers = call.begin();
    answers.send_data("some".into(), false).unwrap();
    let rest = beside(move || client.rest()).await;
    assert!(rest.ends_with("4\r\nsome\r\n"), "{rest}");
    let reset = soon(std::future::poll_fn(|context| answers.poll_reset(context)));
    assert_eq!(reset.await.unwrap(), Reason::CANCEL);
    backend.was_spared();
}

#[tokio::test]
async fn body_that_is_too_large_is_refused_and_the_stream_reset() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], &format!("{H2C}\nlimits = {{ body = 10 }}"));
    let mut caller = Caller::new(&proxy).await;
    let (answer, mut sends) = caller.call().await;
    let mut served = Served::accept(&backend).await;
    let mut call = served.call().await;
    sends.send_data("eleven bytes".into(), false).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 413);
    assert_eq!(call.reset().await, Reason::CANCEL);
    // The same when the answer has begun.
    let (answer, mut sends) = caller.call().await;
    let mut call = served.call().await;
    let _answers = call.begin();
    let mut answer = soon(answer).await.unwrap();
    sends.send_data("eleven bytes".into(), false).unwrap();
    assert!(piece(answer.body_mut()).await.is_err());
    let gone = soon(call.request.body_mut().data())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(gone.reason(), Some(Reason::CANCEL));
}
