//! The proxies and backends, and the ports that each of them listens on.

/// The port of the backend that sends WebSocket messages back.
pub(super) const ECHO: u16 = 6000;

/// A proxy that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Proxy {
    /// nginx, one worker
    Nginx,
    /// HAProxy, one thread
    Haproxy,
    /// h2o, one thread, for files
    H2o,
    /// Varnish, one pool of threads, for stored answers
    Varnish,
    /// Caddy, one thread of Go, for files
    Caddy,
    /// lb-agent, one worker
    Agent,
}

/// What a proxy does on one of its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Port {
    /// HTTP/1.1.
    Plain,
    /// The same in TLS, and HTTP/2.
    Tls,
    /// WebSockets, to the backend that sends messages back.
    WebSocket,
    /// A header is set on each request, and another on each answer.
    Rules,
    /// The client is a trusted proxy.
    Trusted,
    /// A cookie names the backend.
    Cookie,
    /// The session of Socket.IO names the backend.
    SocketIo,
    /// Files, without a backend.
    Files,
    /// Stored answers.
    Cached,
    /// Requests are counted against a limit that they never reach.
    Limited,
    /// Requests are above their limit.
    Refused,
}

impl Proxy {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 6] = [
        Self::Nginx,
        Self::Haproxy,
        Self::H2o,
        Self::Varnish,
        Self::Caddy,
        Self::Agent,
    ];

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::H2o => "h2o",
            Self::Varnish => "Varnish",
            Self::Caddy => "Caddy",
            Self::Agent => "lb-agent",
        }
    }

    /// The number of one of its ports.
    pub(super) fn port(self, port: Port) -> u16 {
        let first = match self {
            Self::Nginx => 8000,
            Self::Haproxy => 8100,
            Self::Agent => 8200,
            Self::H2o => 8300,
            Self::Varnish => 8400,
            Self::Caddy => 8500,
        };
        first + port as u16
    }

    /// A port that it listens on in any case.
    pub(super) fn first_port(self) -> u16 {
        self.port(match self {
            Self::Nginx | Self::Haproxy | Self::Agent => Port::Plain,
            Self::H2o | Self::Caddy => Port::Files,
            Self::Varnish => Port::Cached,
        })
    }

    /// Its programs, with Debian's packages of them.
    pub(super) fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nginx => &[("nginx", "nginx")],
            Self::Haproxy => &[("haproxy", "haproxy")],
            Self::H2o => &[("h2o", "h2o")],
            Self::Varnish => &[
                ("varnishd", "varnish"),
                ("varnishncsa", "varnish"),
                ("setpriv", "util-linux"),
            ],
            Self::Caddy => &[("caddy", "caddy")],
            Self::Agent => &[],
        }
    }
}
