//! The decision about a request that is not sent is that about the request.

use std::net::Ipv4Addr;

use lb_common::abi::BackendId;
use lb_http::{Decision, Sample};

use super::{Backend, Client, Proxy, field};

const NEW_SESSION: &str = "EIO=4&transport=polling";

fn decide(proxy: &Proxy, headers: &[(&str, &str)], query: Option<&str>) -> Decision {
    decide_without(proxy, headers, query, &[])
}

fn decide_without(
    proxy: &Proxy,
    headers: &[(&str, &str)],
    query: Option<&str>,
    passed: &[BackendId],
) -> Decision {
    let sample = Sample {
        service: "app",
        client: Ipv4Addr::LOCALHOST.into(),
        headers,
        query,
    };
    let engine = proxy.engine.as_ref().unwrap();
    engine.decide(&sample, passed).unwrap()
}

fn id(index: u16) -> BackendId {
    BackendId::new(index, 1)
}

/// The backend that gets `request`, which is answered with `body`, and the head of the answer.
fn asked(proxy: &Proxy, backends: [&Backend; 2], request: &str, body: &str) -> (BackendId, String) {
    let mut client = proxy.ask(request);
    let (stream, is_first) = super::either(backends[0], backends[1]);
    let mut connection = Client::new(stream);
    connection.head();
    let length = body.len();
    connection.send(&format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    (id(if is_first { 0 } else { 1 }), client.answer().1)
}

#[test]
fn a_cookie_decides_and_without_one_any_backend_may_get_the_request() {
    let (one, two) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&one, &two], "stickiness = { cookie = 'lb' }");
    let any = Decision::Any(vec![id(0), id(1)]);
    assert_eq!(decide(&proxy, &[], None), any);
    let both = [&one, &two];
    let mut seen = Vec::new();
    for _ in 0..2 {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (backend, answer) = asked(&proxy, both, request, "");
        let pair = field(&answer, "set-cookie").unwrap();
        let pair = pair.split(';').next().unwrap().to_owned();
        let cookie = format!("a=b; {pair}");
        let decision = decide(&proxy, &[("Cookie", &cookie)], None);
        assert_eq!(decision, Decision::Cookie(backend));
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(asked(&proxy, both, &request, "").0, backend);
        // Nothing listens there: the other one takes it.
        let other = Decision::Any(vec![if backend == id(0) { id(1) } else { id(0) }]);
        let passed = decide_without(&proxy, &[("cookie", &cookie)], None, &[backend]);
        assert_eq!(passed, other);
        seen.push(backend);
    }
    assert_ne!(seen[0], seen[1], "new sessions take turns");
    let forged = ("Cookie", "lb=00000000000000000000000000000000");
    assert_eq!(decide(&proxy, &[forged], None), any);
}

#[test]
fn a_session_decides_until_its_backend_is_gone() {
    let (one, two) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&one, &two], "stickiness = 'socketio'");
    let any = Decision::Any(vec![id(0), id(1)]);
    assert_eq!(decide(&proxy, &[], Some(NEW_SESSION)), any);
    assert_eq!(decide(&proxy, &[], None), Decision::Address);
    let of_session = format!("{NEW_SESSION}&sid=abc");
    assert_eq!(decide(&proxy, &[], Some(&of_session)), Decision::Address);
    let get = |query: &str| format!("GET /socket.io/?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
    let both = [&one, &two];
    let open = r#"0{"sid":"abc","upgrades":[],"pingInterval":25000}"#;
    let (home, _) = asked(&proxy, both, &get(NEW_SESSION), open);
    let decision = decide(&proxy, &[], Some(&of_session));
    assert_eq!(decision, Decision::Session(home));
    assert_eq!(asked(&proxy, both, &get(&of_session), "6").0, home);
    let gone = decide_without(&proxy, &[], Some(&of_session), &[home]);
    assert_eq!(gone, Decision::SessionOver);
}

#[test]
fn a_header_decides_by_its_value_and_an_address_without_it() {
    let (one, two) = (Backend::new(), Backend::new());
    let proxy = Proxy::new(&[&one, &two], "stickiness = { header = 'X-User' }");
    let by = |name, value| decide(&proxy, &[(name, value)], None);
    let ann = by("x-user", "ann");
    assert!(matches!(ann, Decision::Token(_)), "{ann:?}");
    assert_eq!(by("X-User", "ann"), ann);
    assert_ne!(by("X-User", "bob"), ann);
    assert_eq!(by("X-Other", "ann"), Decision::Address);
}
