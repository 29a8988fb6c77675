//! Requests that the page refuses: DNS rebinding, and other sites in the browser of a user.
//!
//! A page of another site can make its own name resolve to the address of this page (DNS rebinding). The browser then
//! counts both as one origin, but sends the other name in `Host`.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

/// Whether `Host`, and the authority of the target if it has one, are an IP address, `localhost` or one of `names`.
pub(super) fn is_for_us(head: &Parts, names: &[String]) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.to_str().ok().and_then(|host| host.parse().ok());
    let is_ours = |authority: &Authority| is_our_name(authority, names);
    host.as_ref().is_some_and(is_ours) && head.uri.authority().is_none_or(is_ours)
}

fn is_our_name(authority: &Authority, names: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if address.unwrap_or(host).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut names = names.iter().map(String::as_str).chain(["localhost"]);
    names.any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether the page of another site has made the browser send the request (Fetch Metadata, `Sec-Fetch-Site`). Programs
/// and old browsers send no such header.
pub(super) fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn is_taken(target: &str, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        is_for_us(&head, &["lb.example.com".to_owned()])
    }

    #[test]
    fn only_addresses_localhost_and_listed_names_are_taken() {
        let good = [
            "127.0.0.1",
            "127.0.0.1:9601",
            "[::1]:9601",
            "[::1]",
            "localhost",
            "LOCALHOST:8080",
            "lb.example.com.",
            "LB.example.com:443",
        ];
        for host in good {
            assert!(is_taken("/", &[host]), "{host}");
        }
        let bad = [
            "evil.example",
            "evil.example:9601",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "a.lb.example.com",
            "127.0.0.1@evil.example",
            "",
        ];
        for host in bad {
            assert!(!is_taken("/", &[host]), "{host}");
        }
        assert!(!is_taken("/", &[]) && !is_taken("/", &["localhost", "localhost"]));
        assert!(is_taken("http://localhost/", &["localhost"]));
        assert!(!is_taken("http://evil.example/", &["localhost"]));
    }

    #[test]
    fn requests_of_other_sites_are_told_apart() {
        let is_foreign = |site: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", site.parse().unwrap());
            is_of_another_site(&headers)
        };
        assert!(is_foreign("cross-site") && is_foreign("same-site"));
        assert!(!is_foreign("same-origin") && !is_foreign("none"));
        assert!(!is_of_another_site(&HeaderMap::new()));
    }
}
