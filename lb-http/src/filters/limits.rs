//! Refuses requests above the limits of their client, session, header or cookie with 429 (RFC 6585, section 4),
//! and says when to come again (RFC 9110, section 10.2.3).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::StatusCode;
use lb_common::abi::ServiceId;
use lb_common::addr;
use lb_config::http::{Limit, LimitKey, path};
use lb_http1::{Fields, Name};

use super::{Filter, Refusal, Verdict};
use crate::limits::{Gate, Limited, Limiter};
use crate::request::{Backends, Request};
use crate::sticky::engineio;

/// The limits of one route in their order. The first that refuses a request ends it.
struct Limits {
    service: String,
    counted: Vec<Counted>,
}

struct Counted {
    gate: Gate,
    /// In lower case; empty for every path.
    path: String,
    key: LimitKey,
    origin: LimitOrigin,
}

/// The facts about a route's service that limits need.
#[derive(Clone, Copy)]
pub(crate) struct LimitOrigin {
    /// The service of the route's backends, which has the sessions.
    pub(crate) service: Option<ServiceId>,
    /// Bits of a client's address that count, of IPv4 and of IPv6.
    pub(crate) prefixes: (u8, u8),
}

/// The limits of one route, ready to be made.
pub(crate) struct LimitTerms<'a> {
    pub(crate) limiter: &'a Arc<Limiter>,
    /// The name that the service's clients are hashed by.
    pub(crate) identity: &'a str,
    pub(crate) origin: LimitOrigin,
}

pub(super) fn filter<'a>(
    service: &str,
    limits: impl Iterator<Item = &'a Limit>,
    terms: &LimitTerms<'_>,
) -> Option<Box<dyn Filter>> {
    let counted = limits.map(|limit| Counted {
        gate: terms.limiter.gate(service, terms.identity, limit),
        path: limit.path.to_ascii_lowercase(),
        key: limit.key.clone(),
        origin: terms.origin,
    });
    let counted: Vec<Counted> = counted.collect();
    (!counted.is_empty()).then(|| {
        let service = service.to_owned();
        Box::new(Limits { service, counted }) as Box<dyn Filter>
    })
}

impl Filter for Limits {
    fn request(&self, request: &mut Request, backends: &dyn Backends) -> Verdict {
        let mut limited = Limited::default();
        let verdict = self.counted.iter().try_for_each(|limit| {
            if !limit.covers(&String::from_utf8_lossy(request.head.path())) {
                return Ok(());
            }
            let key = limit.key(request, backends);
            let passed = limit.gate.pass(key, &mut limited);
            if passed.is_err() && request.origin.is_client {
                let (prefix, bits) = limit.prefix(request.origin.peer.ip());
                limit.gate.ban(&self.service, prefix, bits);
            }
            passed
        });
        request.limited = limited;
        verdict.map(|()| None).map_err(|wait| {
            let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1);
            Refusal {
                status: StatusCode::TOO_MANY_REQUESTS,
                field: Some(("Retry-After", seconds.to_string())),
                why: Some("limit"),
            }
        })
    }
}

impl Counted {
    /// Whether requests for `path` count. Each form that a backend may read as a path below that of the limit
    /// does, as Express reads paths without regard to case.
    fn covers(&self, path: &str) -> bool {
        self.path.is_empty()
            || self.fits(&path::normal(path))
            || path::readings(path).is_some_and(|readings| {
                let mut readings = readings.iter();
                readings.any(|reading| self.fits(&path::normal(reading)))
            })
    }

    fn fits(&self, path: &str) -> bool {
        let (path, own) = (path.as_bytes(), self.path.as_bytes());
        path.get(..own.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(own))
            && matches!(path.get(own.len()), None | Some(b'/'))
    }

    fn key(&self, request: &Request, backends: &dyn Backends) -> u64 {
        let fields = &request.head.fields;
        let value = match &self.key {
            LimitKey::Client => None,
            LimitKey::Session => self.session(request, backends),
            LimitKey::Header(name) => {
                let mut values = fields.called(name.as_str().as_bytes());
                values.next().map(Cow::Borrowed)
            }
            LimitKey::Cookie(name) => cookie(fields, name).map(Cow::Borrowed),
        };
        match value {
            Some(value) => self.gate.token(&value),
            None => self.client(request.asker.ip),
        }
    }

    fn client(&self, ip: IpAddr) -> u64 {
        self.gate.client(&self.prefix(ip).0)
    }

    /// The part of an address that counts, and how many of its 128 bits that are.
    fn prefix(&self, ip: IpAddr) -> (addr::Addr, u32) {
        let (ipv4, ipv6) = self.origin.prefixes;
        let bits = match ip {
            IpAddr::V4(_) => 96 + u32::from(ipv4),
            IpAddr::V6(_) => u32::from(ipv6),
        };
        (addr::client_prefix(&addr::from_ip(ip), ipv4, ipv6), bits)
    }

    /// The Socket.IO session, if a backend has begun it: made-up ones are of their client.
    fn session<'a>(&self, request: &'a Request, backends: &dyn Backends) -> Option<Cow<'a, [u8]>> {
        let sid = engineio::asked(request.head.query()?)?.sid?;
        let service = self.origin.service?;
        backends.sessions().backend_of(service, &sid)?;
        Some(match sid {
            Cow::Borrowed(sid) => Cow::Borrowed(sid.as_bytes()),
            Cow::Owned(sid) => Cow::Owned(sid.into_bytes()),
        })
    }
}

/// The value of a cookie (RFC 6265, section 4.2.1), if it is not empty.
fn cookie<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    fields
        .all(Name::Cookie)
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
        .find(|value| !value.is_empty())
}
