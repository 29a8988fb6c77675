//! The parts of a request that tell stored answers apart by the configuration.

use super::super::Proxy;
use super::{Got, Origin, get};

const FRESH: &str = "Cache-Control: max-age=60\r\n";

fn with(origin: &Origin, key: &str) -> Proxy {
    origin.proxy(&format!("[service.http.cache]\nkey = {{ {key} }}"))
}

#[test]
fn parameters_that_do_not_count_share_an_answer_and_the_backend_gets_them() {
    let origin = Origin::with(FRESH);
    let proxy = with(&origin, "ignore = ['utm_*']");
    let of = |path: &str| get(&proxy, path, "").body;
    assert_eq!(of("/?b=1&utm_source=x&a=2"), "1");
    assert!(origin.last().starts_with("GET /?b=1&utm_source=x&a=2 "));
    assert_eq!(
        (of("/?a=2&b=1"), of("/?utm_x=y&a=2&b=1")),
        ("1".into(), "1".into())
    );
    assert_eq!(
        (of("/?a=2"), of("/?a=2&utm_;b=1")),
        ("2".into(), "3".into())
    );
    let engine = proxy.engine.as_ref().unwrap();
    assert_eq!(engine.stored("http://a/?a=2&b=1", 9).len(), 1);
}

#[test]
fn host_counts_whatever_else_does_not() {
    let origin = Origin::with(FRESH);
    let proxy = with(&origin, "query = []");
    let of = |host: &str| {
        let mut client = proxy.ask(&format!("GET /?x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        Got::of(&mut client).body
    };
    assert_eq!(
        (of("a"), of("b"), of("a")),
        ("1".into(), "2".into(), "1".into())
    );
}

#[test]
fn headers_and_cookies_make_variants_which_a_change_removes_together() {
    let origin = Origin::with(FRESH);
    let proxy = with(
        &origin,
        "query = [], headers = ['X-Land'], cookies = ['lang']",
    );
    let of = |lines: &str| get(&proxy, "/a", lines).body;
    let german = "X-Land: at\r\nCookie: session=1; lang=de\r\n";
    let english = "X-Land: at\r\nCookie: lang=en\r\n";
    assert_eq!(
        (of(german), of(english), of("")),
        ("1".into(), "2".into(), "3".into())
    );
    assert_eq!(
        (of(german), of(english), of("")),
        ("1".into(), "2".into(), "3".into())
    );
    assert_eq!(of("X-Land: at\r\nCookie: lang=de; session=2\r\n"), "1");
    assert_eq!(of("X-Land: de\r\nCookie: lang=de\r\n"), "4");
    let mut client = proxy.ask("POST /a?x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(Got::of(&mut client).body, "5");
    assert_eq!((of(german), of(english)), ("6".into(), "7".into()));
}
