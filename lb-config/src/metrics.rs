//! The addresses that serve metrics and the live page: `[agent] metrics` and `page`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::quoted;

/// Longest path of a unix socket: `sun_path` less its final zero, unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// A socket that serves metrics or the live page.
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

/// An address and port for metrics, or `unix:` and an absolute path.
pub(super) fn address(text: &str) -> Result<MetricsAddress, String> {
    const REMEDY: &str = "write \"127.0.0.1:9600\" or \"unix:/run/lb-agent/metrics.sock\"";
    socket(text, REMEDY)
}

/// The same for the live page.
pub(super) fn page(text: &str) -> Result<MetricsAddress, String> {
    const REMEDY: &str = "write \"127.0.0.1:9601\" or \"unix:/run/lb-agent/page.sock\"";
    socket(text, REMEDY)
}

/// A host name in lower case, without port and final dot (RFC 1123, section 2.1).
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(is_inside)
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        let shown = quoted(text);
        return Err(format!(
            "{shown} is not a host name (write it without a port, as in \"lb.example.com\")"
        ));
    }
    Ok(name)
}

fn socket(text: &str, remedy: &str) -> Result<MetricsAddress, String> {
    let shown = quoted(text);
    let Some(path) = text.strip_prefix("unix:") else {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("{shown} is not an address with a port ({remedy})"))?;
        if address.port() == 0 {
            return Err(format!("{shown} has no port that one could ask ({remedy})"));
        }
        return Ok(MetricsAddress::Tcp(address));
    };
    let plain = path.starts_with('/') && path.len() > 1 && !path.contains(char::is_control);
    if !plain {
        return Err(format!("{shown} has no absolute path ({remedy})"));
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

    #[test]
    fn page_is_at_an_address_and_answers_to_names_of_hosts() {
        for good in ["127.0.0.1:9601", "unix:/run/x.sock"] {
            assert_eq!(page(good).unwrap().to_string(), good);
        }
        assert!(page("9601").unwrap_err().contains("127.0.0.1:9601"));
        assert_eq!(host_name("LB.Example.com.").unwrap(), "lb.example.com");
        for bad in ["", "a..b", "a:80", "a/b", "*.a", "http://a", "ä.de"] {
            assert!(
                host_name(bad).unwrap_err().contains("without a port"),
                "{bad}"
            );
        }
    }
}
