//! Who asks for what: the forwarding headers, as they come in and as they go out.
//!
//! From a trusted proxy they are read and continued, and the client is the rightmost address that
//! is not trusted; what was written to its left is nobody's word and is dropped. From anybody else
//! they are replaced.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use hyper::Version;
use hyper::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, VIA};

pub mod value;
use crate::config::http::{Cidr, Settings};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id of a request that is taken over from a trusted proxy.
const LONGEST_ID: usize = 128;
/// Most addresses of a chain that are looked at, from the right.
const MOST_HOPS: usize = 64;

/// What is the same for every request of a connection.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Whoever made the connection, by its PROXY header if it came with one.
    pub peer: SocketAddr,
    /// The address that it came to.
    pub local: SocketAddr,
    /// Whether it is TLS.
    pub https: bool,
    trusted: bool,
    ip: HeaderValue,
    port: HeaderValue,
}

/// What was found out of one request.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The client.
    pub ip: IpAddr,
    /// The same as text.
    pub ip_text: HeaderValue,
    /// Whether the client speaks TLS, to us or to a trusted proxy.
    pub https: bool,
    /// The id of the request.
    pub request_id: HeaderValue,
}

/// Names this service in Via, and knows its own name again.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Origin {
    /// A connection from `peer` to `local`, neither of them IPv4-mapped.
    pub fn new(peer: SocketAddr, local: SocketAddr, https: bool, trusted: &[Cidr]) -> Self {
        Self {
            peer,
            local,
            https,
            trusted: is_trusted(trusted, peer.ip()),
            ip: text(&peer.ip().to_string()),
            port: HeaderValue::from(local.port()),
        }
    }

    /// Whether whoever made the connection is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// The client's address and the port that it came to, as text.
    pub fn texts(&self) -> (&HeaderValue, &HeaderValue) {
        (&self.ip, &self.port)
    }

    /// The scheme of the connection.
    pub fn scheme(&self) -> &'static str {
        scheme(self.https)
    }
}

/// `http` or `https`: never `ws` or `wss`, which Express would take for something else.
pub fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

/// Drops the header names with underscores: an application that turns names into variables takes
/// `X_Real_IP` for `X-Real-IP`.
pub fn drop_underscores(headers: &mut HeaderMap) {
    let has_underscore = |name: &HeaderName| name.as_str().contains('_');
    if !headers.keys().any(has_underscore) {
        return;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|n| has_underscore(n))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Sets the forwarding headers of a request. Fields of one hop must be gone already: what a
/// client names in `Connection` must not take away what is set here.
pub fn forward(headers: &mut HeaderMap, origin: &Origin, settings: &Settings) -> Asker {
    let asker = if origin.trusted {
        continued(headers, origin, settings)
    } else {
        replaced(headers, origin, settings)
    };
    headers.insert(X_REAL_IP, asker.ip_text.clone());
    headers.insert(
        X_FORWARDED_PROTO,
        HeaderValue::from_static(scheme(asker.https)),
    );
    headers.insert(X_REQUEST_ID, asker.request_id.clone());
    asker
}

/// Gives a request that [`forward`] has seen the id under which it was sent before.
pub fn rename(headers: &mut HeaderMap, asker: &mut Asker, id: &[u8; 32]) {
    if let Ok(id) = HeaderValue::from_bytes(id) {
        headers.insert(X_REQUEST_ID, id.clone());
        asker.request_id = id;
    }
}

/// Nothing is believed.
fn replaced(headers: &mut HeaderMap, origin: &Origin, settings: &Settings) -> Asker {
    let host = headers.get(HOST).cloned();
    headers.insert(X_FORWARDED_FOR, origin.ip.clone());
    headers.insert(X_FORWARDED_PORT, origin.port.clone());
    if settings.forwarded {
        let hops = [origin.peer.ip()];
        let value = value::write(&hops, host.as_ref(), origin.scheme());
        headers.insert(FORWARDED, value);
    } else {
        headers.remove(FORWARDED);
    }
    match host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host),
        None => headers.remove(X_FORWARDED_HOST),
    };
    Asker {
        ip: origin.peer.ip(),
        ip_text: origin.ip.clone(),
        https: origin.https,
        request_id: new_id(),
    }
}

/// What a trusted proxy says is read, and continued.
fn continued(headers: &mut HeaderMap, origin: &Origin, settings: &Settings) -> Asker {
    let told = value::read(headers.get_all(FORWARDED));
    let hops = hops(headers, &told, origin, &settings.trusted_proxies);
    let ip = hops[0];
    let chain: Vec<String> = hops.iter().map(IpAddr::to_string).collect();
    headers.insert(X_FORWARDED_FOR, text(&chain.join(", ")));
    let https = told_scheme(headers, &told).unwrap_or(origin.https);
    let host = one(headers, X_FORWARDED_HOST)
        .or_else(|| told.host.as_deref().map(text))
        .or_else(|| headers.get(HOST).cloned());
    let port = one(headers, X_FORWARDED_PORT)
        .filter(|port| port.to_str().is_ok_and(|port| port.parse::<u16>().is_ok()));
    headers.insert(
        X_FORWARDED_PORT,
        port.unwrap_or_else(|| origin.port.clone()),
    );
    if settings.forwarded {
        let value = value::write(&hops, host.as_ref(), scheme(https));
        headers.insert(FORWARDED, value);
    } else {
        headers.remove(FORWARDED);
    }
    match host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host),
        None => headers.remove(X_FORWARDED_HOST),
    };
    Asker {
        ip,
        ip_text: text(&chain[0]),
        https,
        request_id: one(headers, X_REQUEST_ID)
            .filter(is_id)
            .unwrap_or_else(new_id),
    }
}

/// The addresses on the way here that can be vouched for, the client's first: what is written
/// counts from the right as long as whoever wrote it is trusted.
fn hops(headers: &HeaderMap, told: &value::Told, origin: &Origin, trusted: &[Cidr]) -> Vec<IpAddr> {
    let mut hops = vec![origin.peer.ip()];
    let written: Vec<Option<IpAddr>> = if headers.contains_key(X_FORWARDED_FOR) {
        let values = headers.get_all(X_FORWARDED_FOR).iter();
        values
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(address)
            .collect()
    } else {
        told.hops.clone()
    };
    for hop in written.into_iter().rev().take(MOST_HOPS) {
        // A hop that is hidden or unknown ends what can be known.
        let Some(hop) = hop else { break };
        hops.push(hop);
        if !is_trusted(trusted, hop) {
            break;
        }
    }
    hops.reverse();
    hops
}

fn is_trusted(trusted: &[Cidr], ip: IpAddr) -> bool {
    trusted.iter().any(|block| block.contains(ip))
}

/// An address as people write it into X-Forwarded-For: some add a port or brackets.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_matches(['[', ']']).parse())
        .ok()?;
    Some(ip.to_canonical())
}

/// Whether a trusted proxy says that the client speaks TLS.
fn told_scheme(headers: &HeaderMap, told: &value::Told) -> Option<bool> {
    let values = headers.get_all(X_FORWARDED_PROTO).iter();
    let first = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .next()
        .map(<[u8]>::trim_ascii);
    let is_tls = |scheme: &[u8]| {
        if scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"wss") {
            Some(true)
        } else if scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"ws") {
            Some(false)
        } else {
            None
        }
    };
    first
        .and_then(is_tls)
        .or_else(|| is_tls(told.proto.as_deref()?.as_bytes()))
}

/// The value of a header that is there once and not empty.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|value| !value.is_empty())?;
    values.next().is_none().then(|| value.clone())
}

fn is_id(id: &HeaderValue) -> bool {
    id.len() <= LONGEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

thread_local! {
    /// State of the generator of ids: they must not repeat, and are no secret.
    static IDS: Cell<[u64; 2]> = Cell::new(seed());
}

fn seed() -> [u64; 2] {
    let mut bytes = [0; 16];
    // Without random numbers the ids of two threads could be alike, which only confuses logs.
    let _ = getrandom::fill(&mut bytes);
    let words = u128::from_ne_bytes(bytes);
    [(words >> 64) as u64 | 1, words as u64]
}

fn new_id() -> HeaderValue {
    HeaderValue::from_bytes(&id()).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// A new id: 32 hexadecimal digits.
pub fn id() -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let [first, second] = IDS.with(|ids| {
        let [salt, count] = ids.get();
        ids.set([salt, count.wrapping_add(1)]);
        let spread = |word: u64| {
            // The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
            let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        [spread(count), spread(count ^ salt)]
    });
    let mut text = [0; 32];
    let words = u128::from(first) << 64 | u128::from(second);
    for (place, digit) in text.iter_mut().zip((0..32).rev()) {
        *place = DIGITS[(words >> (4 * digit)) as usize & 15];
    }
    text
}

impl Via {
    /// For a service; `secret` makes its name unlike that of any other balancer's.
    pub fn new(secret: [u64; 2], service: &str) -> Self {
        let digest = lb_common::hash::bytes(secret, service.as_bytes());
        let pseudonym = format!("lb-agent-{:08x}", digest as u32);
        let value = |version| text(&format!("{version} {pseudonym}"));
        Self {
            http_10: value("1.0"),
            http_11: value("1.1"),
            http_2: value("2"),
            pseudonym,
        }
    }

    /// What it is called in a request of HTTP/1.1.
    pub fn http_11(&self) -> &HeaderValue {
        &self.http_11
    }

    /// Adds this service to the ones that the request has passed; `false` if it has passed here
    /// before, and goes in circles (RFC 9110, section 7.6.3).
    pub fn pass(&self, headers: &mut HeaderMap, version: Version) -> bool {
        let own = self.pseudonym.as_bytes();
        let is_own = |value: &HeaderValue| {
            value
                .as_bytes()
                .split(|byte| matches!(byte, b',' | b' '))
                .any(|word| word == own)
        };
        if headers.get_all(VIA).iter().any(is_own) {
            return false;
        }
        let value = match version {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        };
        headers.append(VIA, value.clone());
        true
    }
}

/// Addresses and the like are always good values.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
