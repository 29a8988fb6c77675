//! Answers that are one client's, and requests that the cache has nothing to do with.

use super::{Got, ON, Origin, get};

#[track_caller]
fn is_never_stored(lines: &'static str, request: &str) {
    let origin = Origin::with(lines);
    let proxy = origin.proxy(ON);
    for number in 1..4 {
        assert_eq!(
            get(&proxy, "/", request).body,
            number.to_string(),
            "{lines}"
        );
    }
}

#[test]
fn private_answers_are_never_stored() {
    is_never_stored("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "");
    is_never_stored("Cache-Control: max-age=60, private\r\n", "");
    is_never_stored("Cache-Control: no-store\r\n", "");
    is_never_stored("Cache-Control: max-age=60\r\nVary: *\r\n", "");
    is_never_stored("", "");
}

#[test]
fn answers_to_credentials_are_stored_only_if_they_say_that_they_are_for_all() {
    const SECRET: &str = "Authorization: Basic eA==\r\n";
    is_never_stored("Cache-Control: max-age=60\r\n", SECRET);
    let origin = Origin::with("Cache-Control: public, max-age=60\r\n");
    let proxy = origin.proxy(ON);
    assert_eq!(get(&proxy, "/", SECRET).body, "1");
    assert_eq!(get(&proxy, "/", "").body, "1");
}

#[test]
fn a_client_gets_its_own_cookie_and_the_store_none() {
    let origin = Origin::with("Cache-Control: max-age=60\r\n");
    let cookie = "stickiness = { cookie = 'lb' }\nresponse_headers = [{ add = 'Set-Cookie', value = 'seen=$client_ip' }]";
    let proxy = origin.proxy(&format!("{cookie}\n{ON}"));
    get(&proxy, "/", "");
    let again = get(&proxy, "/", "");
    assert_eq!(
        (&*again.body, again.field("set-cookie")),
        ("1", Some("seen=127.0.0.1"))
    );
}

#[test]
fn socketio_and_upgrades_never_enter_it() {
    let origin = Origin::with("Cache-Control: max-age=60\r\n");
    let proxy = origin.proxy(ON);
    for (number, path) in (1..).zip([
        "/socket.io/",
        "/socket.io/",
        "/x?EIO=4&transport=polling",
        "/x?EIO=4&transport=polling",
    ]) {
        assert_eq!(get(&proxy, path, "").body, number.to_string());
    }
}

#[test]
fn unsafe_methods_that_succeed_forget_what_is_stored() {
    let origin = Origin::with("Cache-Control: max-age=60\r\nLocation: /other\r\n");
    let proxy = origin.proxy(ON);
    assert_eq!(
        (get(&proxy, "/", "").body, get(&proxy, "/other", "").body),
        ("1".into(), "2".into())
    );
    let mut client = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(Got::of(&mut client).body, "3");
    assert_eq!(
        (get(&proxy, "/", "").body, get(&proxy, "/other", "").body),
        ("4".into(), "5".into())
    );
}

#[test]
fn requests_say_how_old_an_answer_may_be() {
    let origin = Origin::with("Cache-Control: max-age=60\r\n");
    let proxy = origin.proxy(ON);
    assert_eq!(
        get(&proxy, "/", "Cache-Control: only-if-cached\r\n").status,
        504
    );
    assert_eq!(get(&proxy, "/", "").body, "1");
    assert_eq!(
        get(&proxy, "/", "Cache-Control: only-if-cached\r\n").body,
        "1"
    );
    assert_eq!(get(&proxy, "/", "Cache-Control: no-cache\r\n").body, "2");
    assert_eq!(get(&proxy, "/", "Pragma: no-cache\r\n").body, "3");
    assert_eq!(get(&proxy, "/", "").body, "3");
}
