//! Tests of the forwarding headers, from the incoming ones to the outgoing ones.

use super::*;
use lb_config::parse;
use proptest::prelude::*;

fn settings(lines: &str) -> Settings {
    let text = format!(
        "[[service]]\nname = 'a'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n[service.http]\n{lines}"
    );
    let config = parse(&text, std::path::Path::new("f")).unwrap();
    config.services[0].http.as_ref().unwrap().settings.clone()
}

fn trusting() -> Settings {
    settings("trusted_proxies = ['10.0.0.0/8', '2001:db8::/32']")
}

fn headers(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.append_called(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn from(peer: &str, settings: &Settings, mut headers: Fields) -> (Fields, Asker) {
    let peer = SocketAddr::new(peer.parse().unwrap(), 51_000);
    let local = "192.0.2.1:80".parse().unwrap();
    let origin = Origin::new(peer, local, false, &settings.trusted_proxies);
    let asker = forward(&mut headers, &origin, settings);
    (headers, asker)
}

fn value<'a>(headers: &'a Fields, name: &'a str) -> &'a str {
    let mut all = headers.called(name.as_bytes());
    let value = all.next();
    assert_eq!(all.next(), None, "{name} twice");
    value.map_or("-", |value| std::str::from_utf8(value).unwrap())
}

#[test]
fn a_client_is_not_believed() {
    let claims = headers(&[
        ("host", "example.com:8080"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-real-ip", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("x-request-id", "mine"),
        ("forwarded", "for=1.1.1.1"),
    ]);
    let (sent, asker) = from("203.0.113.9", &trusting(), claims);
    assert_eq!(value(&sent, "x-forwarded-for"), "203.0.113.9");
    assert_eq!(value(&sent, "x-real-ip"), "203.0.113.9");
    assert_eq!(value(&sent, "x-forwarded-proto"), "http");
    assert_eq!(value(&sent, "x-forwarded-host"), "example.com:8080");
    assert_eq!(value(&sent, "x-forwarded-port"), "80");
    assert_eq!(value(&sent, "host"), "example.com:8080");
    assert_eq!(value(&sent, "forwarded"), "-");
    assert_eq!(value(&sent, "x-request-id").len(), 32);
    assert_eq!(asker.ip.to_string(), "203.0.113.9");
}

#[test]
fn a_trusted_proxy_is_read_and_continued() {
    let told = headers(&[
        ("host", "inner"),
        ("x-forwarded-for", "6.6.6.6, 203.0.113.9:4711"),
        ("x-forwarded-for", "10.0.0.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.com"),
        ("x-forwarded-port", "443"),
        ("x-request-id", "abc-1"),
    ]);
    let (sent, asker) = from("10.0.0.8", &trusting(), told);
    // 6.6.6.6 was written by the client itself.
    assert_eq!(
        value(&sent, "x-forwarded-for"),
        "203.0.113.9, 10.0.0.7, 10.0.0.8"
    );
    assert_eq!(value(&sent, "x-real-ip"), "203.0.113.9");
    assert_eq!(value(&sent, "x-forwarded-proto"), "https");
    assert_eq!(value(&sent, "x-forwarded-host"), "example.com");
    assert_eq!(value(&sent, "x-forwarded-port"), "443");
    assert_eq!(value(&sent, "x-request-id"), "abc-1");
    assert!(asker.https);
    assert_eq!(asker.ip.to_string(), "203.0.113.9");
}

#[test]
fn a_trusted_proxy_that_says_nothing_is_the_client() {
    let (sent, asker) = from("10.0.0.8", &trusting(), headers(&[("host", "h")]));
    assert_eq!(value(&sent, "x-forwarded-for"), "10.0.0.8");
    assert_eq!(value(&sent, "x-forwarded-proto"), "http");
    assert_eq!(asker.ip.to_string(), "10.0.0.8");
}

#[test]
fn a_hidden_hop_ends_what_can_be_known() {
    let told = headers(&[("x-forwarded-for", "203.0.113.9, unknown, 10.0.0.7")]);
    let (sent, asker) = from("10.0.0.8", &trusting(), told);
    assert_eq!(value(&sent, "x-forwarded-for"), "10.0.0.7, 10.0.0.8");
    assert_eq!(asker.ip.to_string(), "10.0.0.7");
}

#[test]
fn the_forwarded_header_of_a_trusted_proxy_stands_in_for_the_others() {
    let told = headers(&[(
        "forwarded",
        "for=\"[2001:db9::9]:1\";proto=https;host=example.com, for=10.0.0.7",
    )]);
    let (sent, asker) = from("10.0.0.8", &trusting(), told);
    assert_eq!(
        value(&sent, "x-forwarded-for"),
        "2001:db9::9, 10.0.0.7, 10.0.0.8"
    );
    assert_eq!(value(&sent, "x-forwarded-proto"), "https");
    assert_eq!(value(&sent, "x-forwarded-host"), "example.com");
    assert_eq!(value(&sent, "forwarded"), "-");
    assert!(asker.https);
}

#[test]
fn forwarded_quotes_ipv6_addresses() {
    let asked = settings("forwarded = true\ntrusted_proxies = ['10.0.0.0/8']");
    let (sent, _) = from("2001:db8::9", &asked, headers(&[("host", "h:8")]));
    assert_eq!(
        value(&sent, "forwarded"),
        "for=\"[2001:db8::9]\";host=\"h:8\";proto=http"
    );
    let told = headers(&[("x-forwarded-for", "203.0.113.9"), ("host", "h")]);
    let (sent, _) = from("10.0.0.8", &asked, told);
    assert_eq!(
        value(&sent, "forwarded"),
        "for=203.0.113.9;host=\"h\";proto=http, for=10.0.0.8"
    );
}

#[test]
fn h5_6_1_an_empty_member_of_a_list_hides_nobody() {
    let told = headers(&[("x-forwarded-for", "203.0.113.9, , 10.0.0.7,")]);
    let (sent, asker) = from("10.0.0.8", &trusting(), told);
    assert_eq!(asker.ip.to_string(), "203.0.113.9");
    assert_eq!(
        value(&sent, "x-forwarded-for"),
        "203.0.113.9, 10.0.0.7, 10.0.0.8"
    );
}

#[test]
fn a_scheme_is_http_or_https_whatever_is_told() {
    let scheme_for = |told: &str| {
        let told = headers(&[("x-forwarded-proto", told)]);
        let (sent, _) = from("10.0.0.8", &trusting(), told);
        value(&sent, "x-forwarded-proto").to_owned()
    };
    assert_eq!(scheme_for("wss"), "https");
    assert_eq!(scheme_for("HTTPS, http"), "https");
    assert_eq!(scheme_for("javascript"), "http");
}

#[test]
fn an_id_that_could_do_harm_is_replaced() {
    for id in ["", "a b", &"x".repeat(129)] {
        let told = headers(&[("x-request-id", id)]);
        let (sent, _) = from("10.0.0.8", &trusting(), told);
        assert_eq!(value(&sent, "x-request-id").len(), 32, "{id:?}");
    }
}

#[test]
fn ids_do_not_repeat() {
    let ids: std::collections::HashSet<[u8; 32]> = (0..10_000).map(|_| id()).collect();
    assert_eq!(ids.len(), 10_000);
}

#[test]
fn what_a_client_claims_is_dropped_in_every_spelling() {
    let claims = [
        "x-forwarded-ssl",
        "X-Forwarded-Prefix",
        "x_forwarded.for",
        "X+Forwarded~User",
        "X-Original-Method",
        "True-Client-IP",
        "CF_Connecting_IP",
        "client-ip",
        "X-Original-URL",
        "Remote-User",
        "SSL-Client-Cert",
        "Proxy",
    ];
    let lines: Vec<(&str, &str)> = claims.iter().map(|name| (*name, "1")).collect();
    let (sent, _) = from("203.0.113.9", &trusting(), headers(&lines));
    for name in claims {
        assert_eq!(value(&sent, name), "-", "{name}");
    }
    let others = ["x-forward", "clientip", "proxy-authorization", "x-client"];
    let lines: Vec<(&str, &str)> = others.iter().map(|name| (*name, "1")).collect();
    let (sent, _) = from("203.0.113.9", &trusting(), headers(&lines));
    for name in others {
        assert_eq!(value(&sent, name), "1", "{name}");
    }
    let (sent, _) = from("10.0.0.8", &trusting(), headers(&[("client-ip", "1")]));
    assert_eq!(value(&sent, "client-ip"), "1", "of a trusted proxy");
    let allowing = settings("allow_client_headers = ['CF-Connecting-IP']");
    let (sent, _) = from(
        "203.0.113.9",
        &allowing,
        headers(&[("cf-connecting-ip", "1")]),
    );
    assert_eq!(value(&sent, "cf-connecting-ip"), "1");
}

#[test]
fn names_with_underscores_are_dropped_unless_they_are_allowed() {
    let names = || headers(&[("x_real_ip", "1.1.1.1"), ("x_user", "2"), ("a", "b")]);
    let mut map = names();
    drop_disguised(&mut map, false);
    assert_eq!(map.len(), 1);
    let mut map = names();
    drop_disguised(&mut map, true);
    assert_eq!((map.len(), value(&map, "x_user")), (2, "2"));
}

#[test]
fn names_that_applications_take_for_one_that_is_set_are_dropped_even_from_a_trusted_proxy() {
    for name in [
        "X.Real.IP",
        "x_real.ip",
        "X+Real+IP",
        "X.Request-Id",
        "x-forwarded_for",
        "X|Forwarded-Proto",
    ] {
        for underscores in [false, true] {
            let mut map = headers(&[(name, "1"), ("X.Other", "2"), ("X-RealIP", "3")]);
            drop_disguised(&mut map, underscores);
            assert_eq!(value(&map, name), "-", "{name}");
            assert_eq!(map.len(), 2, "{name}");
        }
    }
}

#[test]
fn a_request_that_goes_in_circles_is_noticed() {
    let via = Via::new([1, 2], "app");
    let mut map = headers(&[("via", "1.1 other, 2 lb-agent-x")]);
    assert!(via.pass(&mut map, Version::HTTP_2));
    assert_eq!(map.all(Name::Via).count(), 2);
    assert!(Via::new([1, 2], "other").pass(&mut map, Version::HTTP_11));
    assert!(!via.pass(&mut map, Version::HTTP_11));
}

proptest! {
    /// With any client input that a trusted proxy passes on, the client is the rightmost address that is
    /// not trusted.
    #[test]
    fn the_client_is_the_rightmost_untrusted_address(
        chain in proptest::collection::vec((any::<bool>(), any::<[u8; 2]>()), 0..6)
    ) {
        let ips: Vec<IpAddr> = chain
            .iter()
            .map(|(trusted, [a, b])| IpAddr::from([if *trusted { 10 } else { 203 }, 0, *a, *b]))
            .collect();
        let text: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
        let (sent, asker) = from("10.9.9.9", &trusting(), headers(&[("x-forwarded-for", &text.join(","))]));
        let expected = ips.iter().rev().find(|ip| ip.to_string().starts_with("203"));
        let leftmost = ips.first().copied().unwrap_or("10.9.9.9".parse().unwrap());
        prop_assert_eq!(asker.ip, expected.copied().unwrap_or(leftmost));
        prop_assert!(value(&sent, "x-forwarded-for").starts_with(&asker.ip.to_string()));
    }

    #[test]
    fn no_header_makes_it_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut map = Fields::new();
        for name in ["x-forwarded-for", "forwarded", "x-forwarded-proto", "x-forwarded-host", "host"] {
            map.append_called(name.as_bytes(), &value);
        }
        from("10.0.0.8", &trusting(), map);
    }
}
