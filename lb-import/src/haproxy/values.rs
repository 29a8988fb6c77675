//! Values of HAProxy in the notation of lb-agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The addresses of `bind`: `*:80`, `:80`, `10.0.0.1:80,[::]:80`, `:::80`, `ipv4@:80`.
pub(super) fn listens(text: &str) -> Option<Vec<SocketAddr>> {
    text.split(',').map(listen).collect()
}

fn listen(text: &str) -> Option<SocketAddr> {
    let text = text
        .strip_prefix("ipv4@")
        .or_else(|| text.strip_prefix("ipv6@"))
        .unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = match host {
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(address, port))
}

/// The address of a server, an address of IP with a port or a unix socket.
pub(super) fn server(text: &str) -> Option<String> {
    if let Some(path) = text
        .strip_prefix("unix@")
        .or_else(|| text.starts_with('/').then_some(text))
    {
        return Some(format!("unix:{path}"));
    }
    let text = text
        .strip_prefix("ipv4@")
        .or_else(|| text.strip_prefix("ipv6@"))
        .unwrap_or(text);
    let text = text.replace("localhost:", "127.0.0.1:");
    Some(text.parse::<SocketAddr>().ok()?.to_string())
}

/// A time: milliseconds, or with a unit.
pub(super) fn time(text: &str) -> Option<String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    number.parse::<u64>().ok()?;
    let unit = match unit {
        "" | "ms" => "ms",
        "s" | "m" | "h" | "d" => unit,
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// A format of a header's value with variables; what has no counterpart as an error.
pub(super) fn template(text: &str) -> Result<String, String> {
    const SAMPLES: [(&str, &str); 10] = [
        ("%[src]", "${client_ip}"),
        ("%ci", "${client_ip}"),
        ("%[dst_port]", "${server_port}"),
        ("%fp", "${server_port}"),
        ("%[hdr(host)]", "${host}"),
        ("%[req.hdr(host)]", "${host}"),
        ("%[req.hdr(Host)]", "${host}"),
        ("%[path]", "${path}"),
        ("%[method]", "${method}"),
        ("%[unique-id]", "${request_id}"),
    ];
    let mut value = text.replace('$', "$$");
    for (theirs, ours) in SAMPLES {
        value = value.replace(theirs, ours);
    }
    match value.replace("%%", "").find('%') {
        Some(_) => Err(format!("{text} has a sample without a counterpart")),
        None => Ok(value.replace("%%", "%")),
    }
}

/// A name of a section as that of a service.
pub(super) fn name(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || char == '-';
    let name = text.replace(|char| !plain(char), "-");
    let name = name.trim_matches('-');
    if name.is_empty() { "web" } else { name }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_haproxy() {
        let listens = |text: &str| listens(text).map(|all| format!("{all:?}"));
        assert_eq!(
            listens("*:80,:::443").as_deref(),
            Some("[0.0.0.0:80, [::]:443]")
        );
        assert_eq!(listens(":1000-2000"), None);
        assert_eq!(server("10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(server("/run/a.sock").as_deref(), Some("unix:/run/a.sock"));
        assert_eq!(server("app:80"), None);
        assert_eq!(time("5000").as_deref(), Some("5000ms"));
        assert_eq!(time("10s").as_deref(), Some("10s"));
        assert_eq!(time("x"), None);
        assert_eq!(template("a %[src]").as_deref(), Ok("a ${client_ip}"));
        assert!(template("%[rand]").is_err());
    }
}
