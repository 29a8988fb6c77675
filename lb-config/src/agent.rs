//! `[agent]`.

use std::path::PathBuf;

use super::choice::choice;
use super::error::Problems;
use super::http::size;
use super::metrics::{self, MetricsAddress};
use super::otlp::{self, OtlpUrl};
use super::packet::PacketConfig;
use super::reader::Table;
use super::schema::fields::Flat;
use super::schema::kinds::{List, Maybe, Text, Whole, one_of, path, sub, text, whole};
use super::schema::section;
use super::value::{self, BadValue};

/// Most clients that can be remembered: more would take gigabytes of kernel memory.
const MAX_CLIENTS: u32 = 1 << 24;
/// Most connections that can be allowed: more would be no limit.
const MAX_CONNECTIONS: u32 = 1 << 24;
/// Longest path of a unix socket: `sun_path` less its final zero, unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// `max_connections`: a whole number from 1 to [`MAX_CONNECTIONS`].
pub(super) const CONNECTIONS: Whole<u32> = whole(1..=MAX_CONNECTIONS, "connections");
const DIRECTORY: Text<PathBuf, String> =
    path("absolute path", "\"/var/lib/lb-agent\"", absolute_path);
const CONTROL: Text<PathBuf, String> = path("path of a socket", DIRECTORY.example, socket_path);
const METRICS: Text<MetricsAddress, String> = text(
    "IP address and port, or unix socket",
    "\"127.0.0.1:9600\"",
    metrics::address,
);
const PAGE: Text<MetricsAddress, String> = text(
    "IP address and port, or unix socket",
    "\"127.0.0.1:9601\"",
    metrics::page,
);
const PAGE_HOST: Text<String, String> = text("host name", "\"lb.example.com\"", metrics::host_name);
const OTLP: Text<OtlpUrl, BadValue> = text("URL of `http://`", otlp::EXAMPLE, otlp::url);
const SEED: Text<[u8; 16], BadValue> = Text {
    what: "32 hexadecimal digits",
    example: "\"0123...\"",
    parse: value::hash_seed,
    print: |seed| format!("{:032x}", u128::from_be_bytes(*seed)),
};
const MODE: Text<u32, String> = Text {
    what: "file mode, octal",
    example: "\"0660\"",
    parse: control_mode,
    print: |mode| format!("{mode:04o}"),
};

section! {
    Restart, "0.1";
    /// Settings of the agent itself. All of them are read when the agent starts.
    pub struct AgentConfig {
        /// Directory of changes made at run time, and of the secret key of the hash.
        pub state_dir: PathBuf = "/var/lib/lb-agent".into(), DIRECTORY;
        /// Directory on a bpffs where programs, maps and links are pinned. Each agent on a host needs one of its own.
        pub pin_dir: PathBuf = "/sys/fs/bpf/lb-agent".into(), DIRECTORY;
        /// The cgroup whose sockets are watched. Without it the root of the cgroup v2 mount.
        pub cgroup: Option<PathBuf> = None, Maybe(DIRECTORY);
        /// The control socket, which the other commands talk to.
        pub control: PathBuf = super::DEFAULT_CONTROL.into(), CONTROL;
        /// The data plane.
        pub data_plane: DataPlane = DataPlane::Auto, one_of();
        /// Key of the client hash. Without it a random key is made once and kept in `state_dir`. Balancers with the
        /// same key, services and backends send a client to the same backend, and know each other's cookies.
        pub hash_seed: Option<[u8; 16]> = None, Maybe(SEED);
        /// Clients that are remembered, over all services. The one unseen for longest makes room for a new one.
        pub max_clients: u32 = super::clients_for(super::memory::bytes()), whole(1..=MAX_CLIENTS, "clients"),
            shown "one for each 64 KiB of memory, 8192 to 65536";
        /// Most client connections that go through the agent, over all services. Without it the limit on open files
        /// bounds them.
        pub max_connections: Option<u32> = None, Maybe(CONNECTIONS);
        /// Worker threads for `mode = "http"`. 0 is one for each core.
        pub l7_workers: u16 = 0, whole(0..=1024, "threads");
        /// Memory of the response caches of all services.
        pub cache: CacheMemory = CacheMemory::default(), sub("{ memory = \"256MiB\" }");
        /// Address where metrics are served for Prometheus, beside the control socket.
        pub metrics: Option<MetricsAddress> = None, Maybe(METRICS);
        /// Address of the live page, for a browser. It shows the state of the agent and changes nothing. All clients
        /// that reach the address may read it.
        pub page: Option<MetricsAddress> = None, Maybe(PAGE);
        /// Host names that the live page answers to, beside `localhost` and IP addresses. A request for another name is
        /// refused, against DNS rebinding.
        pub page_hosts: Vec<String> = Vec::new(), List("[\"lb.example.com\"]", PAGE_HOST);
        /// Base URL of a collector of OpenTelemetry: `http://` and an address. Spans of sampled requests are sent there
        /// by OTLP/HTTP in JSON, for services with `[service.http.tracing]`.
        pub otlp: Option<OtlpUrl> = None, Maybe(OTLP);
        /// Mode of the control socket. A user that may open it may read; changes take more. `"0666"` lets all users
        /// of the host read.
        pub control_mode: Option<u32> = None, Maybe(MODE), shown "`\"0660\"`";
        /// Settings of the packet paths.
        pub packet: PacketConfig = PacketConfig::default(), Flat;
    }
}

section! {
    Restart, "0.1"; check = check_cache;
    /// Memory of the response caches of all services.
    #[derive(Eq)]
    pub struct CacheMemory {
        /// Bytes of all stored responses, with everything that belongs to them.
        pub memory: u64 = 128 << 20, size(1 << 20..=1 << 40);
        /// Bytes of the body of one response, at most an eighth of the memory. A larger one is not stored.
        pub object: u64 = 2 << 20, size(1..=1 << 30);
    }
}

/// A response has to fit, and the memory to be there.
fn check_cache(cache: &CacheMemory, table: &mut Table<'_, '_>, problems: &mut Problems) {
    let CacheMemory { memory, object } = *cache;
    if object > memory / 8 {
        problems.add(
            &table.place,
            format!("responses of {object} bytes are too large for {memory} bytes of memory (use at most an eighth)"),
        );
    }
    let there = super::memory::bytes();
    if there > 0 && memory > there {
        problems.add(
            &table.place,
            format!(
                "{memory} bytes are more than the {there} bytes of memory that there are (use less)"
            ),
        );
    }
}

choice! {
    /// Which data plane to use.
    pub enum DataPlane {
        /// The kernel, or user space where the kernel cannot.
        Auto = "auto",
        /// The kernel, or fail.
        Bpf = "bpf",
        /// User space.
        Userspace = "userspace",
    }
}

/// Three octal digits, of which the owner's are read and write.
fn control_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('0').unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok();
    mode.filter(|mode| digits.len() == 3 && mode & 0o711 == 0o600)
        .ok_or_else(|| {
            format!(
                "{} is not a mode for the control socket (write \"0660\", or \"0666\" to let \
                 everybody on this host read)",
                value::quoted(text)
            )
        })
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let shown = value::quoted(text);
    if text.contains(|c: char| c.is_control()) {
        return Err(format!(
            "{shown} has control characters (write a plain path)"
        ));
    }
    let path = PathBuf::from(text);
    // The agent makes and removes files directly under these, so the root itself is refused.
    if !path.is_absolute() || path.parent().is_none() {
        return Err(format!(
            "{shown} is not an absolute path (start it with \"/\" and name a place of its own)"
        ));
    }
    Ok(path)
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    let length = text.len();
    if length > MAX_SOCKET_PATH {
        return Err(format!(
            "{length} bytes are too long for the path of a socket (at most {MAX_SOCKET_PATH})"
        ));
    }
    Ok(path)
}
