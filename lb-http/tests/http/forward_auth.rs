//! Forward authentication: who gets in, what the server and the backend see, and that nobody gets in by a failure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::figures::figures;
use super::h2::{self, DATA, END_HEADERS, END_STREAM, GET, HEADERS, Secure, fields};
use super::log::Log;
use super::{Backend, Client, Echo, OK, Proxy, field, status};

const GRANTED: &str = "HTTP/1.1 200 OK\r\nX-Auth-User: ann\r\nX-Auth-User: staff\r\nX-Secret: 1\r\n\
                       Set-Cookie: session=2; Path=/\r\nContent-Length: 2\r\n\r\nok";
const DENIED: &str = "HTTP/1.1 302 Found\r\nLocation: https://login.test/?rd=a\r\nSet-Cookie: csrf=1\r\n\
                      Set-Cookie: csrf=2\r\nX-Why: nobody\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngo!\n\r\n0\r\n\r\n";

/// The setting that names a server.
fn auth(server: &Backend, more: &str) -> String {
    let address = server.address;
    format!(
        "auth = {{ url = 'http://{address}/check?x=1', set = ['X-Auth-User', 'X-Auth-Mail']{more} }}"
    )
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n")
}

#[test]
fn server_sees_the_request_and_the_backend_sees_the_user() {
    let (server, backend, log) = (Backend::new(), Backend::new(), Log::new());
    let settings = format!("{}\n{}", auth(&server, ""), log.settings());
    let proxy = Proxy::new(&[&backend], &settings);
    let mut client = proxy.ask(
        "POST /a/b?c=d HTTP/1.1\r\nHost: a.test\r\nCookie: session=1\r\nAuthorization: Bearer x\r\n\
         X-Auth-User: root\r\nX.Auth.User: root\r\nX-Auth+Mail: r@a.test\r\nX-Forwarded-Method: GET\r\n\
         X-Forwarded-Uri: /open\r\nX-Original-URL: /open\r\nX-Original-Method: GET\r\nX.Forwarded.Uri: /open\r\n\
         If-None-Match: \"x\"\r\nRange: bytes=0-1\r\nX-Other: 1\r\nContent-Length: 4\r\n\r\nbody",
    );
    let (mut asked, head) = server.request();
    assert!(head.starts_with("GET /check?x=1 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", Some("a.test")),
        ("cookie", Some("session=1")),
        ("authorization", Some("Bearer x")),
        ("x-forwarded-method", Some("POST")),
        ("x-forwarded-uri", Some("/a/b?c=d")),
        ("x-forwarded-host", Some("a.test")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-original-method", Some("POST")),
        ("x-original-url", Some("http://a.test/a/b?c=d")),
        ("x.forwarded.uri", None),
        ("content-length", None),
        ("transfer-encoding", None),
        ("if-none-match", None),
        ("range", None),
        ("x-other", Some("1")),
    ] {
        assert_eq!(field(&head, name), value, "{name}: {head}");
    }
    asked.send(GRANTED);
    let (mut behind, head) = backend.request();
    let users: Vec<&str> = head
        .split("\r\n")
        .filter(|line| line.starts_with("x-auth") || line.contains("root"))
        .collect();
    assert_eq!(users, ["x-auth-user: ann", "x-auth-user: staff"]);
    for name in [
        "x.auth.user",
        "x-auth+mail",
        "x-auth-mail",
        "x-secret",
        "x-forwarded-uri",
    ] {
        assert_eq!(field(&head, name), None, "{name}: {head}");
    }
    assert_eq!(field(&head, "range"), Some("bytes=0-1"));
    assert_eq!(behind.exactly(4), "body");
    behind.send(OK);
    let (status, answer) = client.answer();
    assert_eq!(status, 200);
    assert_eq!(field(&answer, "set-cookie"), Some("session=2; Path=/"));
    assert_eq!(field(&answer, "cache-control"), Some("private, no-cache"));
    assert_eq!(field(&answer, "x-auth-user"), None);
    let line = &log.lines(1)[0];
    assert_eq!(
        (&line["user"], &line["status"]),
        (&"ann".into(), &200.into())
    );
    assert!(line["auth_ms"].is_number(), "{line}");
}

#[test]
fn answer_that_lets_nobody_in_goes_to_the_client_whole() {
    let (server, backend, log) = (Backend::new(), Backend::new(), Log::new());
    let settings = format!("{}\n{}", auth(&server, ""), log.settings());
    let proxy = Proxy::new(&[&backend], &settings);
    let mut client = proxy.ask(&get("/", ""));
    let (mut asked, _) = server.request();
    asked.send(DENIED);
    let (status, answer) = client.answer();
    assert_eq!(status, 302);
    assert_eq!(field(&answer, "location"), Some("https://login.test/?rd=a"));
    assert_eq!(field(&answer, "x-why"), Some("nobody"));
    assert_eq!(field(&answer, "transfer-encoding"), None);
    let cookies = answer
        .split("\r\n")
        .filter(|line| line.starts_with("set-cookie"));
    assert_eq!(
        cookies.collect::<Vec<_>>(),
        ["set-cookie: csrf=1", "set-cookie: csrf=2"]
    );
    assert!(answer.ends_with("\r\n\r\ngo!\n"), "{answer}");
    // The same connections go on.
    client.send(&get("/", ""));
    asked.head();
    asked
        .send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n");
    let (status, answer) = client.answer();
    assert_eq!(
        (status, field(&answer, "www-authenticate")),
        (401, Some("Bearer"))
    );
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(asked.head().starts_with("GET "));
    asked.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    client.is_silent();
    backend.was_spared();
    let line = &log.lines(3)[0];
    assert_eq!(
        (&line["status"], &line["why"]),
        (&302.into(), &"denied".into())
    );
    let figures = figures(&proxy, |figures| figures.auth[1] == 3);
    assert_eq!(figures.auth, [0, 3, 0]);
    assert_eq!(figures.auth_time.buckets.iter().sum::<u64>(), 3);
}

#[test]
fn server_that_gives_no_answer_lets_nobody_in() {
    let (server, backend, log) = (Backend::new(), Backend::new(), Log::new());
    let settings = format!(
        "{}\n{}",
        auth(&server, ", timeout = '300ms'"),
        log.settings()
    );
    let proxy = Proxy::new(&[&backend], &settings);
    let answered = |answer: &str| {
        let mut client = proxy.ask(&get("/", ""));
        let (mut asked, _) = server.request();
        asked.send(answer);
        drop(asked);
        client.status()
    };
    for answer in [
        "",
        "HTTP/1.1 ",
        "HTTP/1.1 200 OK\r\nX-Auth",
        "220 smtp.test\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\ncut",
    ] {
        assert_eq!(answered(answer), 502, "{answer:?}");
    }
    // One that is slow.
    let mut client = proxy.ask(&get("/", ""));
    let (_asked, _) = server.request();
    assert_eq!(client.status(), 504);
    // One that sends more than a page.
    let mut client = proxy.ask(&get("/", ""));
    let (mut asked, _) = server.request();
    asked.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2000000\r\n\r\n");
    let sender = std::thread::spawn(move || {
        use std::io::Write as _;
        // It ends with a reset.
        let _ = asked.stream.write_all(&vec![b'x'; 2_000_000]);
    });
    assert_eq!(client.status(), 502);
    sender.join().unwrap();
    // One that is gone.
    drop(server);
    assert_eq!(proxy.ask(&get("/", "")).status(), 502);
    backend.was_spared();
    let lines = log.lines(10);
    assert!(lines.iter().all(|line| line["why"] == "auth"), "{lines:?}");
    let figures = figures(&proxy, |figures| figures.auth[2] == 10);
    assert_eq!(figures.auth, [0, 0, 10]);
}

#[test]
fn connections_to_the_server_are_kept_and_one_that_it_has_closed_is_replaced() {
    let (server, backend) = (Backend::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&backend.backend], &auth(&server, ""));
    let mut client = proxy.ask(&get("/", ""));
    let (mut asked, _) = server.request();
    asked.send(GRANTED);
    assert_eq!(client.status(), 200);
    for _ in 0..3 {
        client.send(&get("/", ""));
        asked.head();
        // Its body comes later than its head, and holds up no request.
        asked.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(client.status(), 200);
    }
    client.send(&get("/", ""));
    asked.head();
    drop(asked);
    let (mut asked, _) = server.request();
    asked.send(GRANTED);
    assert_eq!(client.status(), 200);
}

#[test]
fn body_of_an_answer_that_lets_a_request_in_is_not_waited_for() {
    let (server, backend) = (Backend::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&backend.backend], &auth(&server, ""));
    let mut client = proxy.ask(&get("/", ""));
    let (mut asked, _) = server.request();
    asked.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.status(), 200);
    // It comes after all, and the connection is as good as before.
    asked.send("late");
    let deadline = std::time::Instant::now() + super::PATIENCE;
    loop {
        client.send(&get("/", ""));
        if let Some(stream) = server.try_accept(Duration::from_millis(100)) {
            // The bytes were not there yet.
            let mut other = Client::new(stream);
            other.head();
            other.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(client.status(), 200);
            assert!(std::time::Instant::now() < deadline);
            continue;
        }
        asked.head();
        asked.send(GRANTED);
        assert_eq!(client.status(), 200);
        break;
    }
}

#[test]
fn websocket_is_asked_about_and_gets_the_cookie_with_its_handshake() {
    let (server, backend) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&backend], &auth(&server, ""));
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let mut client = proxy.ask(&get("/chat", upgrade));
    let (mut asked, head) = server.request();
    assert_eq!(
        (field(&head, "upgrade"), field(&head, "connection")),
        (None, None)
    );
    asked.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.status(), 401);
    backend.was_spared();
    let mut client = proxy.ask(&get("/chat", upgrade));
    asked.head();
    asked.send(GRANTED);
    let (mut behind, head) = backend.request();
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    behind.send(&format!(
        "HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n"
    ));
    let head = client.head();
    assert_eq!(status(&head), 101);
    assert_eq!(field(&head, "set-cookie"), Some("session=2; Path=/"));
    behind.send("hello");
    assert_eq!(client.exactly(5), "hello");
}

#[test]
fn http2_is_asked_about_stream_by_stream() {
    let (server, backend) = (Backend::new(), Backend::new());
    let secure = Secure::with(&backend, &auth(&server, ""));
    let mut client = secure.connect();
    let mut answer = |stream, answered: &mut dyn FnMut()| {
        client.send(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&GET));
        answered();
        let head = client.next_of(&[HEADERS]).unwrap();
        let body = client.next_of(&[DATA]).unwrap();
        (h2::status(&head.payload), body.payload)
    };
    let mut asked = None;
    let denied = answer(1, &mut || {
        let (mut server, head) = server.request();
        assert_eq!(field(&head, "x-forwarded-proto"), Some("https"));
        assert_eq!(field(&head, "x-original-url"), Some("https://a.test/"));
        server.send("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n");
        asked = Some(server);
    });
    assert_eq!(denied, (404, b"no\n".to_vec()));
    backend.was_spared();
    let granted = answer(3, &mut || {
        let asked = asked.as_mut().unwrap();
        asked.head();
        asked.send(GRANTED);
        let (mut behind, head) = backend.request();
        assert!(head.contains("x-auth-user: ann\r\n"), "{head}");
        behind.send(OK);
    });
    assert_eq!(granted, (200, b"ok".to_vec()));
}

#[test]
fn files_and_redirects_are_asked_about_too() {
    let (server, backend) = (Backend::new(), Backend::new());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.txt"), "secret").unwrap();
    let settings = format!(
        "{}\n[[service.route]]\npath = '/f'\nfiles = '{}'\n[[service.route]]\npath = '/open'\nauth = false\n\
         answer = {{ body = 'x' }}\n[[service.route]]\npath = '/r'\nredirect = {{ to = '/elsewhere' }}",
        auth(&server, ""),
        dir.path().display()
    );
    let proxy = Proxy::new(&[&backend], &settings);
    let mut client = proxy.connect();
    client.send(&get("/f/x.txt", ""));
    let (mut asked, _) = server.request();
    for path in ["/f/x.txt", "/r"] {
        asked.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.status(), 403, "{path}");
        client.send(&get(path, ""));
        asked.head();
        asked.send(GRANTED);
        let (_, answer) = client.answer();
        assert_eq!(
            field(&answer, "set-cookie"),
            Some("session=2; Path=/"),
            "{path}"
        );
        client.send(&get("/r", ""));
        asked.head();
    }
    asked.send(GRANTED);
    assert_eq!(client.answer().0, 308);
    client.send(&get("/open", ""));
    let (status, answer) = client.answer();
    assert_eq!((status, field(&answer, "set-cookie")), (200, None));
}

#[test]
fn answers_to_users_are_not_shared_by_the_cache_unless_they_are_public() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let (server, backend) = (Echo::new(GRANTED), Backend::new());
    let settings = format!("{}\ncache = {{}}", auth(&server.backend, ""));
    let proxy = Proxy::new(&[&backend], &settings);
    let mut client = proxy.connect();
    let mut behind = None;
    let mut ask = |path: &str, control: &str, is_stored: bool| {
        client.send(&get(path, "Cookie: session=1\r\n"));
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if !is_stored {
            let behind = behind.get_or_insert_with(|| backend.accept());
            behind.head();
            let body = format!("{count:02}");
            behind.send(&format!(
                "HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: 2\r\n\r\n{body}"
            ));
        }
        let (_, answer) = client.answer();
        answer[answer.len() - 2..].to_owned()
    };
    for number in 0..3 {
        assert_eq!(ask("/mine", "max-age=60", false), format!("{number:02}"));
    }
    assert_eq!(ask("/all", "public, max-age=60", false), "03");
    assert_eq!(ask("/all", "", true), "03");
}

#[test]
fn server_behind_the_service_itself_is_asked_once_and_never_in_circles() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let own = proxy.address;
    proxy.configure(&format!(
        "auth = {{ url = 'http://{own}/auth' }}\n[[service.route]]\npath = '/auth'\nauth = false"
    ));
    let mut client = proxy.ask(&get("/a", ""));
    let (mut asked, head) = backend.request();
    assert!(head.starts_with("GET /auth "), "{head}");
    asked.send(GRANTED);
    assert!(asked.head().starts_with("GET /a "));
    asked.send(OK);
    assert_eq!(client.status(), 200);
    // By another address, which the configuration does not show.
    let front = super::own_address();
    let relay = Relay::new(front);
    relay.leads_to(own);
    proxy.configure(&format!("auth = {{ url = 'http://{front}/auth' }}"));
    assert_eq!(proxy.ask(&get("/a", "")).status(), 508);
}

#[test]
fn client_names_no_user_on_an_open_route_either() {
    let (server, backend) = (Backend::new(), Backend::new());
    let address = server.address;
    let proxy = Proxy::new(
        &[&backend],
        &format!(
            "auth = {{ url = 'http://{address}', set = ['X-Auth-User', 'Authorization'] }}\n\
             [[service.route]]\npath = '/open'\nauth = false"
        ),
    );
    let claims = "X-Auth-User: root\r\nX.Auth.User: root\r\nAuthorization: Bearer x\r\n";
    let _client = proxy.ask(&get("/open", claims));
    let (_behind, head) = backend.request();
    assert!(!head.contains("root"), "{head}");
    assert_eq!(field(&head, "authorization"), Some("Bearer x"));
    server.was_spared();
}

/// A listener whose connections are passed on to another address.
struct Relay(std::sync::Arc<std::sync::Mutex<Option<std::net::SocketAddr>>>);

impl Relay {
    fn new(at: std::net::SocketAddr) -> Self {
        let target = std::sync::Arc::<std::sync::Mutex<Option<std::net::SocketAddr>>>::default();
        let listener = std::net::TcpListener::bind(at).unwrap();
        let known = std::sync::Arc::clone(&target);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let address = known.lock().unwrap().unwrap();
                let other = std::net::TcpStream::connect(address).unwrap();
                let (mut a, mut b) = (stream.try_clone().unwrap(), other.try_clone().unwrap());
                let (mut c, mut d) = (other, stream);
                std::thread::spawn(move || std::io::copy(&mut a, &mut b));
                std::thread::spawn(move || std::io::copy(&mut c, &mut d));
            }
        });
        Self(target)
    }

    fn leads_to(&self, address: std::net::SocketAddr) {
        *self.0.lock().unwrap() = Some(address);
    }
}

#[test]
fn client_that_goes_away_is_not_asked_about_any_longer() {
    let (server, backend) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&backend], &auth(&server, ""));
    let client = proxy.ask(&get("/", ""));
    let (mut asked, _) = server.request();
    drop(client);
    assert_eq!(asked.rest(), "");
    backend.was_spared();
}
