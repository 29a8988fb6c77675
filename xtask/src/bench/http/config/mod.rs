//! The configuration of every program of `bench http`.
//!
//! The proxies are set up alike: one worker, the same backends chosen by the client's address and
//! kept connected, the same headers set, JSON compressed for who takes it, a line in the access log
//! for each request, the same certificate.

mod agent;
mod backend;
mod caddy;
mod h2o;
mod haproxy;
mod nginx;
mod varnish;

pub(super) use agent::agent;
pub(super) use backend::backend;
pub(super) use caddy::caddy;
pub(super) use h2o::h2o;
pub(super) use haproxy::haproxy;
pub(super) use nginx::reverse as reverse_nginx;
pub(super) use varnish::{start_varnish, varnish};

/// The network of the client, for proxies that trust it.
const CLIENTS: &str = "10.213.0.0/24";
