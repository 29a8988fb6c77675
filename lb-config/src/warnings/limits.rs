//! Limits that count otherwise than one may think, or never refuse.

use crate::Service;
use crate::http::{HttpService, Limit, LimitKey, Stickiness};

/// Limits by session of a service that knows no session.
pub(super) fn sessions(http: &HttpService) -> Option<String> {
    let of_routes = http.routes.iter().flat_map(|route| &route.request_limits);
    let mut all = http.request_limits.iter().chain(of_routes);
    let limit = all.find(|limit| limit.key == LimitKey::Session)?;
    (http.settings.stickiness != Stickiness::SocketIo).then(|| {
        format!(
            "{}: the limit {} counts by client, as no request has a session (write stickiness = \"socketio\")",
            http.name, limit.name
        )
    })
}

/// Warnings about the limits of a service and its routes.
pub(super) fn of_service(service: &Service) -> Vec<String> {
    let Some(http) = &service.http else {
        return Vec::new();
    };
    let mut found = unreachable(http);
    let by_client = all(http).find(|limit| limit.key == LimitKey::Client);
    if let Some(limit) = by_client {
        found.extend(one_client(service, http, limit));
        found.extend(any_client(http, limit));
    }
    found
}

/// The limits in the order in which requests meet them.
fn all(http: &HttpService) -> impl Iterator<Item = &Limit> {
    let of_routes = http.routes.iter().flat_map(|route| &route.request_limits);
    http.request_limits.iter().chain(of_routes)
}

/// Limits that another one goes before which is at least as strict: they see only requests that they let pass.
fn unreachable(http: &HttpService) -> Vec<String> {
    let before = |own: usize| all(http).take(own);
    let of = |(own, limit): (usize, &Limit)| {
        let strict = before(own).find(|other| covers(other, limit))?;
        Some(format!(
            "{}: the limit {} never refuses a request, as {} goes before it and is as strict (make it stricter, or \
             leave it out)",
            http.name, limit.name, strict.name
        ))
    };
    all(http).enumerate().filter_map(of).collect()
}

/// Whether every request that `strict` lets pass is within `limit`.
fn covers(strict: &Limit, limit: &Limit) -> bool {
    let is_within = |of_strict: Option<u32>, own: Option<u32>| match (of_strict, own) {
        (_, None) => true,
        (of_strict, Some(own)) => of_strict.is_some_and(|most| most <= own),
    };
    let rate = match (&strict.rate, &limit.rate) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(of_strict), Some(own)) => {
            let takes_as_long = of_strict.per.as_nanos() * u128::from(own.count)
                >= own.per.as_nanos() * u128::from(of_strict.count);
            takes_as_long && of_strict.burst <= own.burst
        }
    };
    !strict.dry_run
        && strict.key == limit.key
        && has_below(&strict.path, &limit.path)
        && rate
        && is_within(strict.concurrent, limit.concurrent)
}

/// Whether `path` is `above` or lies below it, in any case of its letters.
fn has_below(above: &str, path: &str) -> bool {
    let (above, path) = (above.to_ascii_lowercase(), path.to_ascii_lowercase());
    let rest = path.strip_prefix(&above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A limit by client of a service whose clients all have one address.
fn one_client(service: &Service, http: &HttpService, limit: &Limit) -> Option<String> {
    let Service { name, affinity, .. } = service;
    let listens = |v4: bool| http.all_listen().any(|listen| listen.is_ipv4() == v4);
    if affinity.ipv4_prefix == 0 && listens(true) || affinity.ipv6_prefix == 0 && listens(false) {
        return Some(format!(
            "{name}: the limit {} counts all clients as one, as affinity counts no bit of an address (write \
             ipv4_prefix = 32 and ipv6_prefix = 64)",
            limit.name
        ));
    }
    let settings = &http.settings;
    let is_told = settings.proxy_protocol || !settings.trusted_proxies.is_empty();
    let at = http.all_listen().next()?;
    (http.all_listen().all(|listen| listen.ip().is_loopback()) && !is_told).then(|| {
        format!(
            "{name}: the limit {} counts all clients as one, as {at} is reached through another program of this host \
             (write trusted_proxies = [\"{}\"] if that is a proxy)",
            limit.name,
            at.ip()
        )
    })
}

/// A limit by client where each client may name the address that it counts for.
fn any_client(http: &HttpService, limit: &Limit) -> Option<String> {
    let mut trusted = http.settings.trusted_proxies.iter();
    let everybody = trusted.find(|block| {
        let (first, bits) = block.prefix();
        bits == if lb_common::addr::is_v4(&first) {
            96
        } else {
            0
        }
    })?;
    Some(format!(
        "{}: the limit {} is none, as trusted_proxies has {everybody}: each client may write the address that it counts \
         for into X-Forwarded-For (name the proxies alone)",
        http.name, limit.name
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{parse, warnings};

    /// The warnings of a service with these lines.
    fn of(listen: &str, lines: &str) -> Vec<String> {
        let text = format!(
            "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['{listen}']\nbackends = ['127.0.0.1:5000']\n{lines}"
        );
        warnings(&parse(&text, Path::new("f")).unwrap(), &|_| false)
    }

    /// Those about two limits, one behind the other.
    fn pair(first: &str, second: &str) -> Vec<String> {
        of(
            "0.0.0.0:80",
            &format!("limit = [{{ name = 'a', {first} }}, {{ name = 'b', {second} }}]"),
        )
    }

    #[test]
    fn limit_behind_a_stricter_one_never_refuses() {
        for (first, second) in [
            ("rate = '10/1m'", "rate = '10/1m'"),
            ("rate = '10/1m'", "rate = '100/1m'"),
            ("rate = '1/6s'", "rate = '20/2m', path = '/login'"),
            (
                "rate = '10/1m', path = '/Api'",
                "rate = '20/1m', path = '/api/x'",
            ),
            ("concurrent = 5", "concurrent = 5"),
            (
                "concurrent = 5, rate = '1/1s'",
                "concurrent = 6, rate = '2/1s'",
            ),
            (
                "rate = '1/1s', key = { header = 'X-Key' }",
                "rate = '2/1s', key = { header = 'x-key' }",
            ),
        ] {
            assert_eq!(
                pair(first, second),
                [
                    "web: the limit b never refuses a request, as a goes before it and is as strict (make it stricter, or \
                     leave it out)"
                ],
                "{first} {second}"
            );
        }
    }

    #[test]
    fn limits_that_complement_each_other_are_no_warning() {
        for (first, second) in [
            ("rate = '100/1m'", "rate = '10/1m'"),
            ("rate = '10/1s'", "rate = '100/1m'"),
            ("rate = '100/1m'", "rate = '10/1s'"),
            ("rate = '10/1m', burst = 20", "rate = '20/1m', burst = 10"),
            ("rate = '10/1m', path = '/login'", "rate = '100/1m'"),
            (
                "rate = '10/1m', path = '/a'",
                "rate = '100/1m', path = '/ab'",
            ),
            ("rate = '10/1m', dry_run = true", "rate = '100/1m'"),
            (
                "rate = '10/1m', key = 'client'",
                "rate = '100/1m', key = { cookie = 'x' }",
            ),
            ("rate = '10/1m'", "concurrent = 5"),
            ("concurrent = 5", "rate = '10/1m'"),
            ("concurrent = 5", "concurrent = 6, rate = '10/1m'"),
        ] {
            assert_eq!(
                pair(first, second),
                Vec::<String>::new(),
                "{first} {second}"
            );
        }
    }

    #[test]
    fn clients_that_count_as_one_are_told() {
        let limit = "limit = [{ rate = '10/1m' }]\n";
        let told = |listen: &str, more: &str, message: &str| {
            let found = of(listen, &format!("{limit}{more}"));
            let is_told = found.iter().any(|warning| warning.contains(message));
            assert_eq!(
                is_told,
                !message.is_empty() && !found.is_empty(),
                "{found:?}"
            );
            found.len()
        };
        let one = "counts all clients as one";
        assert_eq!(told("127.0.0.1:80", "", one), 1);
        assert_eq!(told("[::1]:80", "", "write trusted_proxies = [\"::1\"]"), 1);
        assert_eq!(told("0.0.0.0:80", "", ""), 0);
        assert_eq!(
            told("127.0.0.1:80", "[service.http]\nproxy_protocol = true", ""),
            0
        );
        assert_eq!(
            told(
                "127.0.0.1:80",
                "[service.http]\ntrusted_proxies = ['127.0.0.1']",
                ""
            ),
            0
        );
        assert_eq!(told("0.0.0.0:80", "affinity = { ipv4_prefix = 0 }", one), 2);
        for block in ["0.0.0.0/0", "::/0"] {
            let proxies = format!("[service.http]\ntrusted_proxies = ['10.0.0.0/8', '{block}']");
            assert_eq!(
                told(
                    "0.0.0.0:80",
                    &proxies,
                    &format!("trusted_proxies has {block}")
                ),
                1
            );
        }
    }
}
