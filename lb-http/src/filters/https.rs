//! Plain requests are sent to TLS, and browsers are told to come by TLS alone (RFC 6797).

use hyper::{Method, StatusCode};
use lb_http1::{Name, RequestHead};

use super::{Filter, Response, Verdict};
use crate::answers;
use crate::request::{Backends, Request};
use lb_config::http::{Hsts, Tls};

struct Https {
    /// `Strict-Transport-Security`, for answers over TLS.
    hsts: Option<String>,
    /// The port to which plain requests are sent.
    redirect_port: Option<u16>,
}

pub(super) fn filter(tls: Option<&Tls>) -> Option<Box<dyn Filter>> {
    let tls = tls?;
    let port = tls.listen.first().map(std::net::SocketAddr::port);
    Some(Box::new(Https {
        hsts: tls.hsts.as_ref().map(hsts),
        redirect_port: port.filter(|_| tls.redirect_http),
    }))
}

impl Filter for Https {
    /// The answer to a plain request is a 308, so that a POST stays one.
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        let Some(port) = self.redirect_port else {
            return Ok(None);
        };
        let head = &request.head;
        if request.is_tls() || request.asker.https || is_acme_challenge(head) {
            return Ok(None);
        }
        let to = redirect_target(head.host(), port, head.target());
        let to = to.ok_or(StatusCode::BAD_REQUEST)?;
        let mut answer = answers::plain(StatusCode::PERMANENT_REDIRECT);
        answer.head.fields.append(Name::Location, to.as_bytes());
        Ok(Some(answer))
    }

    fn response(&self, request: &Request, _backends: &dyn Backends, response: &mut Response<'_>) {
        if let Some(hsts) = &self.hsts
            && request.is_tls()
        {
            let name = Name::StrictTransportSecurity;
            response.head.fields.set(name, hsts.as_bytes());
        }
    }
}

/// RFC 6797, section 6.1.
fn hsts(hsts: &Hsts) -> String {
    let mut text = format!("max-age={}", hsts.max_age.as_secs());
    if hsts.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if hsts.preload {
        text.push_str("; preload");
    }
    text
}

/// Whether a certificate authority asks for the answer to an HTTP challenge. It asks over plain HTTP, as there
/// may be no certificate yet (RFC 8555, section 8.3). Only the exact spelling counts, with a token of the
/// base64url alphabet. So no other path can be meant, however a backend reads it.
pub(super) fn is_acme_challenge(head: &RequestHead) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let token = head.target().strip_prefix(b"/.well-known/acme-challenge/");
    matches!(head.method, Method::GET | Method::HEAD)
        && token.is_some_and(|token| !token.is_empty() && token.iter().all(is_of_token))
}

/// The HTTPS URL for a plain request (RFC 9110, section 10.2.2); `None` without a host.
fn redirect_target(host: &[u8], port: u16, target: &[u8]) -> Option<String> {
    let host = std::str::from_utf8(host)
        .ok()
        .filter(|host| !host.is_empty())?;
    // The port that it has is that of plain HTTP.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let port = match port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let target = std::str::from_utf8(target).ok()?;
    Some(format!("https://{name}{port}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_plain_request_is_sent_to_the_same_place_over_tls() {
        let to = |host: &str, port, target| {
            redirect_target(host.as_bytes(), port, str::as_bytes(target))
        };
        let same = "https://example.com/a?b=c";
        assert_eq!(to("example.com", 443, "/a?b=c").as_deref(), Some(same));
        assert_eq!(to("example.com:80", 443, "/a?b=c").as_deref(), Some(same));
        assert_eq!(
            to("[::1]:8080", 8443, "/").as_deref(),
            Some("https://[::1]:8443/")
        );
        assert_eq!(to("[::1]", 443, "/").as_deref(), Some("https://[::1]/"));
        assert_eq!(to("", 443, "/"), None);
    }

    #[test]
    fn only_the_exact_path_of_a_challenge_is_one() {
        let is = |method: Method, target: &str| {
            let head = RequestHead::new(method, target.as_bytes(), hyper::Version::HTTP_11);
            is_acme_challenge(&head)
        };
        let token = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
        assert!(is(Method::GET, token) && is(Method::HEAD, token));
        assert!(!is(Method::POST, token));
        for other in [
            "/.well-known/acme-challenge",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenges/a",
            "/.well-known/acme-challenge/a/b",
            "/.well-known/acme-challenge/a?b",
            "/.well-known/acme-challenge/..",
            "/.well-known/acme-challenge/../../login",
            "/.well-known/acme-challenge/%2e%2e%2f%2e%2e%2flogin",
            "/.well-known/acme-challenge/..%2flogin",
            "/.well-known/acme-challenge/..;/login",
            "/.well-known/acme-challenge/..\\login",
            "/.well-known/acme-challenge/%61",
            "/%2ewell-known/acme-challenge/a",
            "//.well-known/acme-challenge/a",
            "/x/../.well-known/acme-challenge/a",
            "/.WELL-KNOWN/acme-challenge/a",
        ] {
            assert!(!is(Method::GET, other), "{other}");
        }
    }

    #[test]
    fn strict_transport_security_is_what_was_asked_for() {
        let plain = Hsts {
            max_age: Duration::from_secs(180 * 86_400),
            include_subdomains: false,
            preload: false,
        };
        assert_eq!(hsts(&plain), "max-age=15552000");
        let all = Hsts {
            include_subdomains: true,
            preload: true,
            ..plain
        };
        let text = "max-age=15552000; includeSubDomains; preload";
        assert_eq!(hsts(&all), text);
    }
}
