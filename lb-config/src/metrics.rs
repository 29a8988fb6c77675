//! The address that serves metrics: `[agent] metrics`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::quoted;

/// Longest path of a unix socket: `sun_path` less its final zero, unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// A socket that serves metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A TCP address to listen on.
    Tcp(SocketAddr),
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address and port, or `unix:` and an absolute path.
pub(super) fn address(text: &str) -> Result<MetricsAddress, String> {
    const REMEDY: &str = "write \"127.0.0.1:9600\" or \"unix:/run/lb-agent/metrics.sock\"";
    let shown = quoted(text);
    let Some(path) = text.strip_prefix("unix:") else {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("{shown} is not an address with a port ({REMEDY})"))?;
        if address.port() == 0 {
            return Err(format!("{shown} has no port that one could ask ({REMEDY})"));
        }
        return Ok(MetricsAddress::Tcp(address));
    };
    let plain = path.starts_with('/') && path.len() > 1 && !path.contains(char::is_control);
    if !plain {
        return Err(format!("{shown} has no absolute path ({REMEDY})"));
    }
    if path.len() > MAX_SOCKET_PATH {
        let length = path.len();
        return Err(format!(
            "{length} bytes are too long for the path of a socket (at most {MAX_SOCKET_PATH})"
        ));
    }
    Ok(MetricsAddress::Unix(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_go_to_a_tcp_address_or_a_unix_socket() {
        for good in ["127.0.0.1:9600", "[::1]:9600", "unix:/run/x.sock"] {
            assert_eq!(address(good).unwrap().to_string(), good);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in [
            "9600",
            "localhost:9600",
            "127.0.0.1:0",
            "unix:x",
            "unix:/",
            "unix:/a\nb",
            &long,
        ] {
            let problem = address(bad).unwrap_err();
            assert!(
                problem.contains("write") || problem.contains("too long"),
                "{problem}"
            );
        }
    }
}
