//! The forwarding headers: client, host, scheme and certificate, as they come in and as they go out.
//!
//! From a trusted proxy they are read and continued, and the client is the rightmost address that
//! is not trusted. Entries to its left are unverified and are dropped. From other peers the headers are
//! replaced.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use hyper::Version;
use hyper::header::HeaderName;
use lb_http1::{Fields, Name, list};

pub(crate) mod value;
use super::client_cert::{ClientCertificate, Presented};
use lb_config::http::{Cidr, Settings, is_alike};

/// Longest id of a request that is taken over from a trusted proxy.
const LONGEST_ID: usize = 128;
/// Most addresses of a chain that are looked at, from the right.
const MOST_HOPS: usize = 64;

/// The facts shared by all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The peer of the connection, by its PROXY header if it came with one.
    pub peer: SocketAddr,
    /// The address that it came to.
    pub local: SocketAddr,
    /// Whether it is TLS.
    pub https: bool,
    /// The client's certificate; `None` if the client was not asked for one.
    pub client: Option<Rc<Presented>>,
    /// Whether the peer is the client, and no proxy: the SYN came from its address.
    pub is_client: bool,
    trusted: bool,
    ip: Rc<str>,
    port: String,
}

/// The origin of one request.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// The client.
    pub ip: IpAddr,
    /// The same as text.
    pub ip_text: Rc<str>,
    /// Whether the client speaks TLS, to us or to a trusted proxy.
    pub https: bool,
    /// The id of the request.
    pub request_id: RequestId,
}

/// The id of a request: visible ASCII characters.
#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; LONGEST_ID],
    length: u8,
}

/// Names this service in Via, and knows its own name again.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pseudonym: String,
    http_10: String,
    http_11: String,
    http_2: String,
}

impl Origin {
    /// A connection from `peer` to `local`, neither of them IPv4-mapped.
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, https: bool, trusted: &[Cidr]) -> Self {
        let trusted = is_trusted(trusted, peer.ip());
        Self {
            peer,
            local,
            https,
            client: None,
            is_client: !trusted,
            trusted,
            ip: text(&[peer.ip()]).into(),
            port: itoa::Buffer::new().format(local.port()).to_owned(),
        }
    }

    /// The certificate that the client has shown.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.client.as_ref()?.certificate.as_ref()
    }

    /// The same of a connection that a proxy has introduced by a PROXY header.
    pub(crate) fn introduced(self) -> Self {
        Self {
            is_client: false,
            ..self
        }
    }

    /// The scheme of the connection.
    pub(crate) fn scheme(&self) -> &'static str {
        scheme(self.https)
    }
}

/// `http` or `https`: never `ws` or `wss`, which Express would take for something else.
pub(crate) fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

impl Asker {
    /// Of a request that says nothing, or nothing that is believed.
    pub(crate) fn of_connection(origin: &Origin) -> Self {
        Self {
            ip: origin.peer.ip(),
            ip_text: Rc::clone(&origin.ip),
            https: origin.https,
            request_id: RequestId::generate(),
        }
    }
}

/// Names with separators that are set here.
const OURS: [Name; 6] = [
    Name::XForwardedFor,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::XForwardedProto,
    Name::XRealIp,
    Name::XRequestId,
];

/// Drops the header names that an application which turns names into variables takes for one that is set here, as
/// `X.Real.IP` for `X-Real-IP`, and unless `underscores` all that have an underscore.
pub(crate) fn drop_disguised(fields: &mut Fields, underscores: bool) {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    fields.retain(|name, known| {
        known != Name::Other
            || name.iter().all(is_usual)
            || (underscores || !name.contains(&b'_'))
                && !OURS
                    .iter()
                    .any(|ours| is_alike(name, ours.text().as_bytes()))
    });
}

/// Removes the lines whose names are `name` to such an application.
pub(crate) fn remove_alike(fields: &mut Fields, name: &[u8]) {
    fields.remove_called(name);
    fields.retain(|other, known| known != Name::Other || !is_alike(other, name));
}

/// Sets a line, and removes those that are alike.
pub(crate) fn set_alike(fields: &mut Fields, name: &[u8], value: &[u8]) {
    remove_alike(fields, name);
    fields.append_called(name, value);
}

/// Sets the forwarding headers of a request. Fields of one hop must be gone already: a client's
/// `Connection` header must not remove the fields that are set here.
pub(crate) fn forward(fields: &mut Fields, origin: &Origin, settings: &Settings) -> Asker {
    let asker = if origin.trusted {
        continued(fields, origin, settings)
    } else {
        replaced(fields, origin, settings)
    };
    fields.set(Name::XRealIp, asker.ip_text.as_bytes());
    fields.set(Name::XForwardedProto, scheme(asker.https).as_bytes());
    fields.set(Name::XRequestId, asker.request_id.as_bytes());
    asker
}

/// The client of a request that is not passed on. Without a trusted proxy its forwarding headers go, and none are set.
pub(crate) fn read(fields: &mut Fields, origin: &Origin, settings: &Settings) -> Asker {
    if origin.trusted {
        return forward(fields, origin, settings);
    }
    drop_claims(fields, &settings.allow_client_headers);
    for name in [
        Name::XForwardedFor,
        Name::XForwardedPort,
        Name::XForwardedHost,
        Name::XForwardedProto,
        Name::Forwarded,
        Name::XRealIp,
        Name::XRequestId,
    ] {
        fields.remove(name);
    }
    Asker::of_connection(origin)
}

/// Names by which proxies tell applications the client, the requested host and the certificate.
const CLAIMS: [&str; 12] = [
    "forwarded-for",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-ip",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
    "remote-user",
    "x-remote-user",
    "proxy",
];
/// Beginnings of such names.
const CLAIM_STARTS: [&str; 2] = ["x-forwarded", "ssl-client-"];

/// Drops the claims of an untrusted client except those `allowed`, in every spelling that an application
/// may take for the same name.
fn drop_claims(fields: &mut Fields, allowed: &[HeaderName]) {
    fields.retain(|name, known| {
        let is_ours = matches!(known, Name::Host | Name::XRequestId);
        is_ours || !is_claim(name) || {
            let is_name = |other: &HeaderName| other.as_str().as_bytes().eq_ignore_ascii_case(name);
            allowed.iter().any(is_name)
        }
    });
}

/// Whether a name is one of [`CLAIMS`], with other separators too.
fn is_claim(name: &[u8]) -> bool {
    let same = |byte: &u8, other: &u8| {
        byte.eq_ignore_ascii_case(other) || (*other == b'-' && !byte.is_ascii_alphanumeric())
    };
    let begins = |start: &str| {
        let start = start.as_bytes();
        name.len() >= start.len() && name.iter().zip(start).all(|(a, b)| same(a, b))
    };
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    matches!(first, b'c' | b'f' | b'p' | b'r' | b's' | b't' | b'x')
        && (CLAIM_STARTS.iter().any(|start| begins(start))
            || CLAIMS
                .iter()
                .any(|claim| name.len() == claim.len() && begins(claim)))
}

/// Nothing is believed.
fn replaced(fields: &mut Fields, origin: &Origin, settings: &Settings) -> Asker {
    drop_claims(fields, &settings.allow_client_headers);
    fields.set(Name::XForwardedFor, origin.ip.as_bytes());
    fields.set(Name::XForwardedPort, origin.port.as_bytes());
    fields.remove(Name::Forwarded);
    if settings.forwarded {
        let hops = [origin.peer.ip()];
        let value = value::write(&hops, fields.get(Name::Host), origin.scheme());
        fields.append(Name::Forwarded, value.as_bytes());
    }
    fields.set_same(Name::XForwardedHost, Name::Host);
    Asker::of_connection(origin)
}

/// Reads and continues the headers of a trusted proxy.
fn continued(fields: &mut Fields, origin: &Origin, settings: &Settings) -> Asker {
    let told = value::read(fields.all(Name::Forwarded));
    let hops = hops(fields, &told, origin, &settings.trusted_proxies);
    let ip = hops[0];
    let chain = text(&hops);
    let ip_text = chain.split_once(',').map_or(&*chain, |(first, _)| first);
    let https = told_scheme(fields, &told).unwrap_or(origin.https);
    let host = one(fields, Name::XForwardedHost)
        .or(told.host.as_deref().map(str::as_bytes))
        .or_else(|| fields.get(Name::Host))
        .map(<[u8]>::to_vec);
    let is_port = |port: &&[u8]| list::number(port).is_some_and(|port| port <= 0xffff);
    let port = one(fields, Name::XForwardedPort).filter(is_port);
    let port = port.map(<[u8]>::to_vec);
    let request_id = one(fields, Name::XRequestId)
        .and_then(RequestId::of)
        .unwrap_or_else(RequestId::generate);
    fields.set(Name::XForwardedFor, chain.as_bytes());
    let port = port.as_deref().unwrap_or(origin.port.as_bytes());
    fields.set(Name::XForwardedPort, port);
    fields.remove(Name::Forwarded);
    if settings.forwarded {
        let value = value::write(&hops, host.as_deref(), scheme(https));
        fields.append(Name::Forwarded, value.as_bytes());
    }
    fields.remove(Name::XForwardedHost);
    if let Some(host) = &host {
        fields.append(Name::XForwardedHost, host);
    }
    Asker {
        ip,
        ip_text: ip_text.into(),
        https,
        request_id,
    }
}

/// The addresses of the verified hops, the client's first. Entries count from the right as long as the hop
/// that wrote them is trusted.
fn hops(
    fields: &Fields,
    told: &value::ForwardedInfo,
    origin: &Origin,
    trusted: &[Cidr],
) -> Vec<IpAddr> {
    let mut hops = vec![origin.peer.ip()];
    let written: Vec<Option<IpAddr>> = if fields.has(Name::XForwardedFor) {
        // An empty member of a list is none (RFC 9110, section 5.6.1.2), and hides no hop.
        list::members(fields.all(Name::XForwardedFor))
            .map(address)
            .collect()
    } else {
        told.hops.clone()
    };
    for hop in written.into_iter().rev().take(MOST_HOPS) {
        // A hidden or unknown hop ends the chain of verified ones.
        let Some(hop) = hop else { break };
        hops.push(hop);
        if !is_trusted(trusted, hop) {
            break;
        }
    }
    hops.reverse();
    hops
}

/// Addresses as a list (RFC 9110, section 5.6.1). Those of IPv4 are in every request of a proxy, and five
/// times as fast as by `Display`.
fn text(addresses: &[IpAddr]) -> String {
    let mut text = String::with_capacity(addresses.len() * "255.255.255.255, ".len());
    for address in addresses {
        if !text.is_empty() {
            text.push_str(", ");
        }
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        text.push('.');
                    }
                    text.push_str(itoa::Buffer::new().format(octet));
                }
            }
            // Writing to a string cannot fail.
            IpAddr::V6(address) => _ = write!(text, "{address}"),
        }
    }
    text
}

fn is_trusted(trusted: &[Cidr], ip: IpAddr) -> bool {
    trusted.iter().any(|block| block.contains(ip))
}

/// An address as people write it into X-Forwarded-For: some add a port or brackets.
pub(crate) fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_matches(['[', ']']).parse())
        .ok()?;
    Some(ip.to_canonical())
}

fn told_scheme(fields: &Fields, told: &value::ForwardedInfo) -> Option<bool> {
    let first = list::members(fields.all(Name::XForwardedProto)).next();
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
fn one(fields: &Fields, name: Name) -> Option<&[u8]> {
    fields.only(name).filter(|value| !value.is_empty())
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

impl RequestId {
    /// A new one: 32 hexadecimal digits.
    pub(crate) fn generate() -> Self {
        let mut text = [0; LONGEST_ID];
        text[..32].copy_from_slice(&id());
        Self { text, length: 32 }
    }

    /// A request id that another proxy or the client has given.
    pub(super) fn of(id: &[u8]) -> Option<Self> {
        let is_good = id.len() <= LONGEST_ID && id.iter().all(u8::is_ascii_graphic);
        is_good.then(|| {
            let mut text = [0; LONGEST_ID];
            text[..id.len()].copy_from_slice(id);
            Self {
                text,
                length: id.len() as u8,
            }
        })
    }

    /// Its characters.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }

    /// The same as text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Every byte in hexadecimal digits.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

/// A new id: 32 hexadecimal digits, of a request or a trace.
pub(crate) fn id() -> [u8; 32] {
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
    let bytes = [first.to_be_bytes(), second.to_be_bytes()];
    for (place, byte) in text.chunks_exact_mut(2).zip(bytes.as_flattened()) {
        place.copy_from_slice(&HEX[usize::from(*byte)]);
    }
    text
}

impl Via {
    /// For a service; `secret` makes its name unlike that of any other balancer's.
    pub(crate) fn new(secret: [u64; 2], service: &str) -> Self {
        let digest = lb_common::hash::bytes(secret, service.as_bytes());
        let pseudonym = format!("lb-agent-{:08x}", digest as u32);
        let value = |version| format!("{version} {pseudonym}");
        Self {
            http_10: value("1.0"),
            http_11: value("1.1"),
            http_2: value("2"),
            pseudonym,
        }
    }

    /// Adds this service to the ones that the request has passed; `false` if it has passed here
    /// before, and goes in circles (RFC 9110, section 7.6.3).
    pub(crate) fn pass(&self, fields: &mut Fields, version: Version) -> bool {
        let own = self.pseudonym.as_bytes();
        let is_own = |value: &[u8]| {
            value
                .split(|byte| matches!(byte, b',' | b' '))
                .any(|word| word == own)
        };
        if fields.all(Name::Via).any(is_own) {
            return false;
        }
        let value = match version {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        };
        fields.append(Name::Via, value.as_bytes());
        true
    }
}

#[cfg(test)]
mod tests;
