//! The address of a backend: an IP address and a port, or a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use lb_common::hash;
use serde::{Deserialize, Serialize};

use super::value::{self, BadValue};

/// The discard-only block (RFC 6666), of which no packet ever comes: the first half of the
/// addresses that stand for unix sockets in the tables.
const DISCARD_ONLY: u64 = 0x0100 << 48;
/// Keys of the digests of a path; any two that differ will do.
const DIGEST_KEYS: [[u64; 2]; 2] = [[0, 0], [1, 0]];

/// The address of a backend.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum BackendAddress {
    /// An address and a port; never a wildcard, never IPv4-mapped.
    Ip(SocketAddr),
    /// A unix socket, by its absolute path.
    Unix(Arc<Path>),
}

impl BackendAddress {
    /// The address that stands for this one in the tables, which hold IP addresses only. For a unix
    /// socket it is an IPv6 address and a port made from the path.
    pub fn key(&self) -> SocketAddr {
        match self {
            Self::Ip(address) => *address,
            Self::Unix(path) => {
                let digest = |key| hash::bytes(key, path.as_os_str().as_encoded_bytes());
                let low = digest(DIGEST_KEYS[0]);
                let port = digest(DIGEST_KEYS[1]) as u16;
                let ip = Ipv6Addr::from(u128::from(DISCARD_ONLY) << 64 | u128::from(low));
                SocketAddr::new(IpAddr::V6(ip), port.max(1))
            }
        }
    }

    /// The IP address and the port, if it has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the unix socket, if it is one.
    pub fn unix(&self) -> Option<&Arc<Path>> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for BackendAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<PathBuf> for BackendAddress {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path.into())
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BackendAddress> for String {
    fn from(address: BackendAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for BackendAddress {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        text.parse()
    }
}

/// An IP address and a port, `localhost` and a port, a port alone, or `unix:` and a path.
impl FromStr for BackendAddress {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text.strip_prefix("unix:") {
            Some(path) => value::unix_socket(path).map(Self::from),
            None => value::backend_ip(text).map(Self::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_has_an_address_of_its_own_that_leads_nowhere() {
        let key = |path: &str| path.parse::<BackendAddress>().unwrap().key();
        let one = key("unix:/run/a.sock");
        assert!(one.ip().to_string().starts_with("100::"), "{one}");
        assert_eq!(one, key("unix:/run/a.sock"));
        assert_ne!(one, key("unix:/run/b.sock"));
        assert_eq!(key("127.0.0.1:80"), "127.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn localhost_and_a_port_alone_are_127_0_0_1() {
        for text in ["5003", "localhost:5003", "LocalHost:5003", "127.0.0.1:5003"] {
            let address: BackendAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), "127.0.0.1:5003", "{text}");
        }
        let wrong = |text: &str| text.parse::<BackendAddress>().unwrap_err().to_string();
        for (text, problem) in [
            ("0", "127.0.0.1:0 has port 0"),
            ("localhost:0", "127.0.0.1:0 has port 0"),
            ("65536", "\"65536\" is not a port"),
            ("localhost:99999", "\"99999\" is not a port"),
            ("localhost:http", "\"http\" is not a port"),
            ("localhost:", "\"\" is not a port"),
            (
                "localhost",
                "\"localhost\" has no port (write \"localhost:5000\")",
            ),
            ("localhost.example:80", "names are not looked up"),
            (":5003", "has no address (write \"127.0.0.1:5003\")"),
            ("-1", "not an address"),
        ] {
            let told = wrong(text);
            assert!(told.contains(problem), "{text}: {told}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["127.0.0.1:5000", "[::1]:5000", "unix:/run/app.sock"] {
            let address: BackendAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(
                serde_json::from_str::<BackendAddress>(&json).unwrap(),
                address
            );
        }
    }
}
