//! Requests in, commands or refusals out.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use lb_config::BackendAddress;

fn ask(method: Method, path: &str, body: &str) -> Result<Command, No> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    command(endpoint(&method, path)?, query, body.as_bytes())
}

/// Status, error and hint of a request that gets none of its way.
fn no(method: Method, path: &str, body: &str) -> (u16, String, String) {
    let no = ask(method, path, body).unwrap_err();
    (
        no.status.as_u16(),
        no.document.error,
        no.document.hint.unwrap(),
    )
}

#[test]
fn requests_become_commands() {
    let web = || Some("web".to_owned());
    let address: BackendAddress = "127.0.0.1:5000".parse().unwrap();
    let get = |path| ask(Method::GET, path, "").unwrap();
    assert_eq!(get("/v1/status"), Command::Status);
    let expected = Command::Lookup {
        client: "2001:db8::9".parse().unwrap(),
        service: web(),
        request: RequestFacts::default(),
    };
    assert_eq!(get("/v1/lookup?client=2001%3Adb8::9&service=web"), expected);
    let expected = Command::Lookup {
        client: "2001:db8::9".parse().unwrap(),
        service: None,
        request: RequestFacts {
            cookie: Some("lb=0f".to_owned()),
            header: Some(("x-user".to_owned(), "ann".to_owned())),
            query: None,
            sid: Some("abc".to_owned()),
        },
    };
    let path = "/v1/lookup?client=2001:db8::9&cookie=lb%3D0f&header=X-User:+ann&sid=abc";
    assert_eq!(get(path), expected);
    let post = |path, body| ask(Method::POST, path, body).unwrap();
    let expected = Command::AddBackend {
        address: address.clone(),
        service: web(),
        weight: Some(7),
        ensure: false,
    };
    let body = r#"{"address":"127.0.0.1:5000","service":"web","weight":7}"#;
    assert_eq!(post("/v1/backends", body), expected);
    let expected = Command::DrainBackend {
        address: address.clone(),
        service: None,
        timeout: Some(Duration::from_millis(1500)),
        at_end: Default::default(),
        now: false,
    };
    let body = r#" {"address":"[::ffff:127.0.0.1]:5000","timeout_seconds":1.5} "#;
    assert_eq!(post("/v1/backends/drain", body), expected);
    let expected = Command::RemoveBackend {
        address: address.clone(),
        service: None,
    };
    let body = r#"{"address":"127.0.0.1:5000","service":null}"#;
    assert_eq!(ask(Method::DELETE, "/v1/backends", body).unwrap(), expected);
    let expected = Command::ResetBackend {
        address: address.clone(),
        service: None,
    };
    assert_eq!(post("/v1/backends/reset", body), expected);
    assert_eq!(
        post("/v1/reload", ""),
        Command::Reload {
            max_moved: None,
            forget_runtime: false
        }
    );
    assert_eq!(post("/v1/stop", ""), Command::Stop { purge: false });
    assert_eq!(
        post("/v1/stop", r#"{"purge":true}"#),
        Command::Stop { purge: true }
    );
}

#[test]
fn purge_is_of_a_url_a_prefix_a_tag_or_all() {
    for (body, what) in [
        (r#"{"url":"http://A"}"#, Purge::Url("http://a/".to_owned())),
        (
            r#"{"url":"http://a/b","prefix":true}"#,
            Purge::Prefix("http://a/b".to_owned()),
        ),
        (r#"{"url":"","prefix":true}"#, Purge::All),
        (r#"{"tag":"a"}"#, Purge::Tag("a".to_owned())),
    ] {
        let command = ask(Method::POST, "/v1/cache/purge", body).unwrap();
        assert_eq!(command, Command::PurgeCache { what }, "{body}");
    }
    for body in [
        "",
        r#"{"url":"a"}"#,
        r#"{"url":"a","prefix":true}"#,
        r#"{"tag":"a b"}"#,
        r#"{"tag":"a","prefix":true}"#,
        r#"{"tag":"a","url":"http://a/"}"#,
    ] {
        let refused = ask(Method::POST, "/v1/cache/purge", body);
        assert!(refused.is_err(), "{body}");
    }
}

#[test]
fn junk_is_told_what_is_wrong_with_it() {
    let cases = [
        (
            "",
            "the body cannot be used: missing field `address` at line 1 column 2",
        ),
        ("junk", "the body cannot be used: it is not a JSON object"),
        (
            "[\"127.0.0.1:5000\"]",
            "the body cannot be used: it is not a JSON object",
        ),
        (
            "{\"address\":1}",
            "the body cannot be used: invalid type: integer `1`, expected a string at line 1 column 12",
        ),
        (
            "{\"adress\":\"\"}",
            "the body cannot be used: unknown field `adress`, expected one of `address`, `service`, `weight`, `ensure` at line 1 column 9",
        ),
        ("{\"address\":\"127.0.0.1\"}", "\"127.0.0.1\" has no port"),
        ("{\"address\":\"127.0.0.1:0\"}", "127.0.0.1:0 has port 0"),
        (
            "{\"address\":\"127.0.0.1:1\",\"weight\":0}",
            "0 is not a weight",
        ),
        (
            "{\"address\":\"127.0.0.1:1\",\"service\":\"\"}",
            "\"\" is not a name",
        ),
        (
            "{\"address\":\"127.0.0.1:1\"} x",
            "the body cannot be used: trailing characters at line 1 column 27",
        ),
    ];
    for (body, expected) in cases {
        let (status, error, hint) = no(Method::POST, "/v1/backends", body);
        assert_eq!((status, error.as_str()), (400, expected));
        assert!(!hint.is_empty());
    }
    let nan = r#"{"address":"127.0.0.1:1","timeout_seconds":-1}"#;
    let (_, error, _) = no(Method::POST, "/v1/backends/drain", nan);
    assert_eq!(error, "-1 is not a number of seconds");
}

#[test]
fn a_wrong_path_and_a_wrong_method_are_told_the_right_ones() {
    let (status, error, hint) = no(Method::GET, "/metric", "");
    assert_eq!(
        (status, error.as_str()),
        (404, "there is nothing at \"/metric\"")
    );
    assert!(hint.contains("POST /v1/backends/drain"));
    let (status, error, hint) = no(Method::GET, "/v1/backends", "");
    assert_eq!(
        (status, error.as_str()),
        (405, "/v1/backends does not take \"GET\"")
    );
    assert_eq!(hint, "use POST or DELETE");
}

#[test]
fn parameters_are_checked() {
    let error = |path| no(Method::GET, path, "").1;
    assert_eq!(error("/v1/lookup"), "which client?");
    assert_eq!(error("/v1/lookup?client=x"), "\"x\" is not an IP address");
    assert_eq!(error("/v1/lookup?ip=1"), "unknown parameter \"ip\"");
    assert_eq!(error("/v1/status?x=1"), "unknown parameter \"x\"");
    assert_eq!(
        error("/v1/lookup?client=1.2.3.4&client=1.2.3.4"),
        "parameter \"client\" is there twice"
    );
}

proptest! {
    #[test]
    fn no_request_makes_it_panic(
        which in 0..6usize,
        query in "\\PC{0,40}",
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "\\{\"address\":\"\\PC{0,20}\"(,\"(weight|service|timeout_seconds)\":[-0-9.e\"a]{0,9})?\\}"
                .prop_map(String::into_bytes),
        ],
    ) {
        let (method, path) = [
            (Method::GET, "/v1/lookup"),
            (Method::POST, "/v1/backends"),
            (Method::DELETE, "/v1/backends"),
            (Method::POST, "/v1/backends/drain"),
            (Method::POST, "/v1/reload"),
            (Method::POST, "/v1/stop"),
        ][which].clone();
        let _ = command(endpoint(&method, path).unwrap(), &query, &body);
    }
}
