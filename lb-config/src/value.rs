//! The rules for one value, whether it comes from the file, the command line or a request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::abi::MAX_NAME;

/// Longest duration that is taken: ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({remedy})")]
pub struct BadValue {
    /// The problem of the value.
    pub problem: String,
    /// The advice for a value that works.
    pub remedy: String,
}

fn bad<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, BadValue> {
    Err(BadValue {
        problem: problem.into(),
        remedy: remedy.into(),
    })
}

/// `text` in quotes, on one line and not too long, as messages show it.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The path of a unix socket, at most 107 bytes: `sun_path` less its final zero, unix(7).
pub fn unix_socket(text: &str) -> Result<PathBuf, BadValue> {
    const MOST: usize = 107;
    let path = PathBuf::from(text);
    if !path.is_absolute() || path.file_name().is_none() || text.contains(char::is_control) {
        return bad(
            format!("{} is not an absolute path", quoted(text)),
            "write it like \"unix:/run/app.sock\"",
        );
    }
    if text.len() > MOST {
        return bad(
            format!("{} bytes are too long for the path of a socket", text.len()),
            format!("at most {MOST}"),
        );
    }
    Ok(path)
}

/// The address of a backend that is not a unix socket: an IP address and a port. `localhost:5000` and a port alone
/// stand for 127.0.0.1.
pub fn backend_ip(text: &str) -> Result<SocketAddr, BadValue> {
    let address = match port_of_this_host(text) {
        Some(port) => socket_address(&format!("127.0.0.1:{port}"), Use::Backend)?,
        None => socket_address(text, Use::Backend)?,
    };
    let (ip, port) = (address.ip(), address.port());
    if ip.is_unspecified() {
        let here = loopback_like(ip);
        return bad(
            format!("{address} is every address, not that of a backend"),
            format!(
                "for an application on this host write \"{}\"",
                SocketAddr::new(here, port)
            ),
        );
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return bad(
            format!("{ip} is not the address of one host"),
            "write the address of the application",
        );
    }
    Ok(address)
}

/// An address to listen on.
pub fn listen_address(text: &str) -> Result<SocketAddr, BadValue> {
    let address = socket_address(text, Use::Listen)?;
    if address.ip().is_multicast() || address.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return bad(
            format!("{} is not an address of this host", address.ip()),
            format!("use \"0.0.0.0:{0}\" or \"[::]:{0}\"", address.port()),
        );
    }
    Ok(address)
}

/// The address of a client.
pub fn client_address(text: &str) -> Result<IpAddr, BadValue> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical()),
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(with_port) => bad(
                format!("{} has a port", quoted(text)),
                format!(
                    "only the address counts: write {}",
                    with_port.ip().to_canonical()
                ),
            ),
            Err(_) => bad(
                format!("{} is not an IP address", quoted(text)),
                "write it like 203.0.113.9 or 2001:db8::9",
            ),
        },
    }
}

/// A weight from 1 to 65,535.
pub fn weight(number: i128) -> Result<u16, BadValue> {
    match u16::try_from(number) {
        Ok(weight) if weight > 0 => Ok(weight),
        _ => bad(format!("{number} is not a weight"), "use 1 to 65535"),
    }
}

/// A duration, as humantime reads it.
pub fn duration(text: &str) -> Result<Duration, BadValue> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > MAX_DURATION => {
            bad(format!("{} is too long", quoted(text)), "at most 10 years")
        }
        Ok(duration) => Ok(duration),
        Err(_) => bad(
            format!("{} is not a duration", quoted(text)),
            "write it like \"3h\", \"90s\", \"1h30m\" or \"250ms\"",
        ),
    }
}

/// A duration given as a number of seconds.
pub fn seconds(number: f64) -> Result<Duration, BadValue> {
    match Duration::try_from_secs_f64(number) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => bad(
            format!("{number} is not a number of seconds"),
            "use 0 to 315360000, which is ten years",
        ),
    }
}

/// A part of the whole, 0 to 1, in millionths.
pub fn part(number: f64) -> Result<u32, BadValue> {
    if !(0.0..=1.0).contains(&number) {
        return bad(format!("{number} is not a part of the whole"), "use 0 to 1");
    }
    Ok((number * 1e6).round() as u32)
}

/// A part of the whole in percent, in millionths.
pub fn percent(text: &str) -> Result<u32, BadValue> {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    match number.map(|number| part(number / 100.0)) {
        Some(Ok(part)) => Ok(part),
        _ => bad(
            format!("{} is no percentage", quoted(text)),
            "write it like \"5%\", at most \"100%\"",
        ),
    }
}

/// The name of a service.
pub fn service_name(text: &str) -> Result<String, BadValue> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(known) {
        return bad(
            format!("{} is not a name", quoted(text)),
            format!("use 1 to {MAX_NAME} letters, digits, \".\", \"_\" and \"-\""),
        );
    }
    Ok(text.to_owned())
}

/// The name of a service, or of one inside it: that of the backends of a route, as in `app/api`.
pub fn any_service_name(text: &str) -> Result<String, BadValue> {
    let (outer, inner) = match text.split_once('/') {
        Some((outer, inner)) => (outer, Some(inner)),
        None => (text, None),
    };
    service_name(outer)?;
    inner.map(service_name).transpose()?;
    if text.len() > MAX_NAME {
        return bad(
            format!("{} is too long", quoted(text)),
            format!("use at most {MAX_NAME} characters for both names and the slash"),
        );
    }
    Ok(text.to_owned())
}

/// A seed of 16 bytes, as 32 hexadecimal digits.
pub fn hash_seed(text: &str) -> Result<[u8; 16], BadValue> {
    let seed = (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten();
    match seed {
        Some(seed) => Ok(seed.to_be_bytes()),
        // The text is a secret: it is not shown.
        None => bad(
            format!("{} characters that are not a seed", text.chars().count()),
            "write 32 hexadecimal digits, for example from \"openssl rand -hex 16\"",
        ),
    }
}

/// The digits of `5000` and `localhost:5000`. They may be no port.
fn port_of_this_host(text: &str) -> Option<&str> {
    let port = match text.split_once(':') {
        Some((host, port)) => host.eq_ignore_ascii_case("localhost").then_some(port)?,
        None => text,
    };
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(port)
}

/// The use of an address, which decides about the example in messages.
#[derive(Clone, Copy)]
enum Use {
    Backend,
    Listen,
}

impl Use {
    fn example(self) -> &'static str {
        match self {
            Self::Backend => "write it like \"127.0.0.1:5000\" or \"[::1]:5000\"",
            Self::Listen => "write it like \"0.0.0.0:80\" or \"[::]:80\"",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Backend => 5000,
            Self::Listen => 80,
        }
    }

    /// The remedy for a text that is only a port.
    fn everywhere(self, port: u16) -> String {
        match self {
            Self::Backend => format!("write \"127.0.0.1:{port}\""),
            Self::Listen => format!("write \"0.0.0.0:{port}\" and \"[::]:{port}\""),
        }
    }
}

fn socket_address(text: &str, wanted: Use) -> Result<SocketAddr, BadValue> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(why_not_an_address(text, wanted));
    };
    if address.port() == 0 {
        return bad(
            format!("{address} has port 0"),
            "use a port from 1 to 65535",
        );
    }
    if let SocketAddr::V6(v6) = address
        && (v6.scope_id() != 0 || v6.ip().is_unicast_link_local())
    {
        return bad(
            format!("{address} is a link-local address, which is not in this version"),
            "use a global, a unique local or a loopback address",
        );
    }
    // The canonical form: an IPv4-mapped IPv6 address is the IPv4 address in disguise.
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn why_not_an_address(text: &str, wanted: Use) -> BadValue {
    let shown = quoted(text);
    let (problem, remedy) = if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = port_without_brackets(text)
            .unwrap_or_else(|| SocketAddr::new(ip.to_canonical(), wanted.port()));
        (
            format!("{shown} has no port"),
            format!("write \"{example}\""),
        )
    } else if let Ok(port) = text.trim_start_matches(['*', ':']).parse::<u16>() {
        (
            format!("{shown} has no address"),
            wanted.everywhere(port.max(1)),
        )
    } else if let Some((_, rest)) = text.split_once("://") {
        (
            format!("{shown} is a URL"),
            format!("{}, without {}", wanted.example(), {
                let scheme = text.len() - rest.len();
                quoted(&text[..scheme])
            }),
        )
    } else if let Some((host, port)) = text.rsplit_once(':') {
        why_not_a_host_and_port(host, port, wanted)
    } else if is_host_name(text) {
        host_without_port(text, wanted)
    } else {
        (
            format!("{shown} is not an address and a port"),
            wanted.example().to_owned(),
        )
    };
    BadValue { problem, remedy }
}

/// The address and port that "::1:5000" is likely to mean, although it is an address by itself.
fn port_without_brackets(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port >= 80)?;
    Some(SocketAddr::new(IpAddr::V6(ip.parse().ok()?), port))
}

fn why_not_a_host_and_port(host: &str, port: &str, wanted: Use) -> (String, String) {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    match (ip, port.parse::<u16>()) {
        (Ok(IpAddr::V6(ip)), Ok(port)) => (
            format!("{} has no brackets", quoted(&format!("{host}:{port}"))),
            format!("write \"[{ip}]:{port}\""),
        ),
        (Ok(_), Err(_)) => (
            format!("{} is not a port", quoted(port)),
            "use 1 to 65535".to_owned(),
        ),
        (Err(_), Ok(port)) if is_host_name(host) => host_name(host, port),
        (Err(_), Err(_)) if host.eq_ignore_ascii_case("localhost") => (
            format!("{} is not a port", quoted(port)),
            "use 1 to 65535".to_owned(),
        ),
        _ => (
            format!(
                "{} is not an address and a port",
                quoted(&format!("{host}:{port}"))
            ),
            wanted.example().to_owned(),
        ),
    }
}

fn host_without_port(host: &str, wanted: Use) -> (String, String) {
    let port = wanted.port();
    match wanted {
        Use::Backend if host.eq_ignore_ascii_case("localhost") => (
            format!("{} has no port", quoted(host)),
            format!("write \"{host}:{port}\""),
        ),
        _ => host_name(host, port),
    }
}

fn host_name(host: &str, port: u16) -> (String, String) {
    let remedy = if host.eq_ignore_ascii_case("localhost") {
        format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
    } else {
        let lookup = quoted(&format!("getent hosts {host}"));
        format!("write its IP address, which {lookup} prints, as in \"192.0.2.1:{port}\"")
    };
    let problem = format!(
        "{} is a host name, and names are not looked up",
        quoted(host)
    );
    (problem, remedy)
}

fn is_host_name(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// The loopback address of the family of `ip`.
fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}
