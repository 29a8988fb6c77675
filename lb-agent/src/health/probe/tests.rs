//! Probes of servers that do well and of others that do not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Checks a server that answers every connection with `answer`; the request that it received is returned
/// too.
async fn check_of(answer: &'static str, check: Check) -> (Result<Duration, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let length = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        // The end of the connection is that of an answer without a length.
        stream.shutdown().await.unwrap();
        String::from_utf8(asked[..length].to_vec()).unwrap()
    });
    let outcome = probe(&address.into(), &check).await;
    (outcome, server.await.unwrap())
}

fn http(settings: &str) -> Check {
    let text = format!(
        "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\n[service.health]\ntype = 'http'\n\
         timeout = '5s'\n{settings}"
    );
    let config = lb_config::parse(&text, std::path::Path::new("test.toml")).unwrap();
    config.services[0].health.clone().unwrap()
}

#[tokio::test]
async fn a_good_answer_is_good_and_the_request_is_as_configured() {
    let settings = "path = '/up?a=b'\nmethod = 'HEAD'\nhost = 'example.com'\n\
                    headers = { 'X-Probe' = 'yes' }";
    let (outcome, asked) = check_of("HTTP/1.1 204 No Content\r\n\r\n", http(settings)).await;
    outcome.unwrap();
    let lines: Vec<&str> = asked.lines().collect();
    assert_eq!(lines[0], "HEAD /up?a=b HTTP/1.1");
    for line in ["host: example.com", "x-probe: yes", "connection: close"] {
        assert!(
            lines.iter().any(|l| l.eq_ignore_ascii_case(line)),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_told() {
    let ok = "HTTP/1.1 200 OK\r\n\r\nall is well";
    let cases = [
        ("", "HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
        ("status = '204'", ok, "status 200"),
        ("body = 'fine'", ok, "\"fine\" is not in the body"),
        ("", "SSH-2.0-OpenSSH\r\n", "no answer that makes sense"),
        ("", "", "no answer that makes sense"),
    ];
    for (settings, answer, expected) in cases {
        let (outcome, _) = check_of(answer, http(settings)).await;
        let error = outcome.unwrap_err();
        assert!(error.contains(expected), "{settings}: {error}");
    }
    check_of(ok, http("body = 'is well'")).await.0.unwrap();
}

#[tokio::test]
async fn nobody_there_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for check in [Check::default(), http("")] {
        assert_eq!(
            probe(&address.into(), &check).await,
            Err("connection refused".to_owned())
        );
    }
}

#[tokio::test]
async fn one_who_does_not_accept_or_answer_is_a_failure() {
    // The kernel completes the handshake, as it does for a process that is frozen.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let quick = |check| Check {
        timeout: Duration::from_millis(50),
        ..check
    };
    let error = probe(&address.into(), &quick(Check::default()))
        .await
        .unwrap_err();
    assert!(error.contains("does not accept"), "{error}");
    let error = probe(&address.into(), &quick(http(""))).await.unwrap_err();
    assert_eq!(error, "connected, but no whole answer within 50ms");
    // Once it accepts, a connection is enough.
    tokio::spawn(async move {
        loop {
            let _ = listener.accept().await;
        }
    });
    probe(
        &address.into(),
        &Check {
            timeout: Duration::from_secs(5),
            ..Check::default()
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn another_port_may_answer_for_a_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { listener.accept().await.map(drop) });
    let check = Check {
        port: Some(port),
        timeout: Duration::from_secs(5),
        ..Check::default()
    };
    // Port 1 itself has no listener.
    probe(&"127.0.0.1:1".parse().unwrap(), &check)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_asked_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let backend = BackendAddress::from(path.clone());
    assert_eq!(
        probe(&backend, &http("")).await,
        Err("entity not found".to_owned())
    );
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        length
    });
    probe(&backend, &http("")).await.unwrap();
    assert!(server.await.unwrap() > 0);
}

#[tokio::test]
async fn a_backend_of_h2c_is_asked_over_http_2() {
    use hyper::server::conn::http2::Builder;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
            let _ = told.send((request.uri().to_string(), request.version()));
            async { Ok::<_, std::convert::Infallible>(Response::new("all is well".to_owned())) }
        });
        // An error is the end of the probe's connection.
        let _ = Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        asked.recv().await.unwrap()
    });
    let mut check = http("path = '/up'\nhost = 'example.com'\nbody = 'is well'");
    let Probe::Http(probe_of_http) = &mut check.probe else {
        panic!("{}", check.probe)
    };
    probe_of_http.protocol = Protocol::H2c;
    probe(&address.into(), &check).await.unwrap();
    let (uri, version) = server.await.unwrap();
    assert_eq!(
        (uri.as_str(), version),
        ("http://example.com/up", hyper::Version::HTTP_2)
    );
}
