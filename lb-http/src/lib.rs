//! The HTTP engine: services with `mode = "http"`, in user space. It accepts clients, asks [`ServiceTables`] for
//! backends, and knows nothing of BPF. Messages are those of `lb_http1`; hyper speaks HTTP/2 with clients.
//!
//! | file | owns |
//! | --- | --- |
//! | `engine` | the workers, started, told of new settings and ended |
//! | `decide` | the backend of a request that is not sent, for `lookup` |
//! | `presence` | whether the applications of the backends listen |
//! | `tables` | the interface to the process around: backends, threads, the health of backends |
//! | `access_log` | a line for each request |
//! | `thread`, `accept` | threads, each with a runtime and listeners of its own |
//! | `worker` | the state of each thread: settings, upstream connections, passive health |
//! | `settings` | the settings of the workers, swapped whole; the choice of a backend |
//! | `serve` | a client's connection from its first byte: PROXY header, TLS, then HTTP |
//! | `connection` | the state of a client's connection |
//! | `http1`, `client` | a client's connection of HTTP/1.1, request by request, and its bytes |
//! | `respond` | the answer to a request of HTTP/1.1, written to its client |
//! | `prefixed` | a connection of which some bytes were read already |
//! | `h2`, `body` | a client's connection of HTTP/2, and the bodies on it |
//! | `peer` | a client as one of its requests sees it, over either |
//! | `exchange` | the handler that has backends answer: to the head of the answer |
//! | `head_reader` | the head of an answer, from a backend |
//! | `failure` | why a request has no answer |
//! | `upload`, `download`, `transfer` | bodies on their way |
//! | `handle` | a request on its way: filters, handler, filters |
//! | `context` | one request with its connection, service and route |
//! | `request` | a request as filters see it |
//! | `files`, `serve_files` | files: found, described and read; the handler that sends them |
//! | `ranged` | answers made of parts of files and of stored answers |
//! | `auth` | basic and forward authentication |
//! | `limits` | the counts of limits on requests |
//! | `filters` | the filters of every request and every answer |
//! | `progress` | how far a request is, and its deadline |
//! | `listener_config` | the settings of connections, made from the configuration |
//! | `compiled` | the settings of requests, made from the configuration |
//! | `handshake` | TLS on a client's connection |
//! | `proxied` | the PROXY header of a client's connection |
//! | `selector`, `breaker` | a connection to the right backend; the passive health of backends |
//! | `answers` | answers of the gateway's own |
//! | `upstream` | connections to backends |
//! | `h2c` | connections of HTTP/2 to backends, which requests share |
//! | `carrier` | the carrier of a request, over either |
//! | `affinity_cache` | affinities that a thread has just read or written |
//! | `tunnel`, `extended` | WebSockets, and those that come over HTTP/2 |
//! | `stream` | the bytes |
//! | `compress` | answers made smaller on their way |
//! | `cache`, `serve_cached` | stored answers of backends |
//! | `routes` | which route a request takes |
//! | `forwarded` | the forwarding headers |
//! | `rules` | header rules, and the targets of redirects |
//! | `sticky` | stickiness beyond a client's address |
//! | `pages` | the pages for errors and maintenance |
//! | `tls` | TLS for clients: certificates, server names, session tickets |
//! | `trace` | the trace of a request (W3C Trace Context), and its spans for a collector |
//! | `watch` | files that are read again when they change |
//! | `clock` | deadlines |
//! | `counts` | the counters for `status` |
//! | [`metrics`] | the figures of requests, by service and by backend |
//! | `record` | the record of a request: counted, and logged, once, at its end |
//! | `ids` | maps by ids |
//! | [`fuzz`] | properties that must hold for any bytes from the network |

#![forbid(unsafe_code)]

mod accept;
mod access_log;
mod affinity_cache;
mod answers;
mod auth;
mod body;
mod breaker;
mod cache;
mod carrier;
mod client;
mod client_cert;
mod clock;
mod compiled;
mod compress;
mod connection;
mod context;
mod counts;
mod decide;
mod download;
mod engine;
mod exchange;
mod extended;
mod failure;
mod files;
mod filters;
mod forwarded;
pub mod fuzz;
mod h2;
mod h2c;
mod handle;
mod handshake;
mod head_reader;
mod http1;
mod ids;
mod limits;
mod listener_config;
pub mod metrics;
mod pages;
mod peer;
mod prefixed;
mod presence;
mod progress;
mod proxied;
mod ranged;
mod record;
mod request;
mod respond;
mod routes;
mod rules;
mod selector;
mod serve;
mod serve_cached;
mod serve_files;
mod settings;
mod sticky;
mod stream;
mod tables;
mod thread;
mod tls;
mod trace;
mod transfer;
mod tunnel;
mod upload;
mod upstream;
mod watch;
mod worker;

pub use auth::check_config as check_users;
pub use cache::{CacheFigures, Purge, StoredObject};
pub use counts::RequestCounts;
pub use decide::{Decision, Sample};
pub use engine::Engine;
pub use files::check_config as check_files;
pub use limits::{LimitFigures, LimitTableFigures, Offender};
pub use metrics::CacheResult;
pub use pages::check_config as check_pages;
pub use presence::{Presence, Presences};
pub use tables::{Confine, PassiveHealth, Role, ServiceTables};
pub use tls::{
    Absent, CertificateStatus, ClientAuthStatus, Findings, check_config as check_certificates,
};
pub use trace::SpanFigures;
