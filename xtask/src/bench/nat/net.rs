//! The hosts: a client, a backend, and between them one host for each way, so that what one of them
//! has in its kernel (connection tracking) costs the others nothing.
//!
//! ```text
//!         .2  10.214.N.0/24  .1            .1  10.215.N.0/24  .2
//! client ──────────────────────  host N  ────────────────────── backend
//! ```

use super::Way;
use crate::bench::net::{CLIENT_HOST, Net};
use crate::bench::requests::Path as _;
use anyhow::Result;

/// The host of both backends.
pub(super) const BACKEND_HOST: &str = "backend";

/// Makes the hosts of these ways.
pub(super) fn hosts(name: &str, ways: &[Way]) -> Result<Net> {
    let mut net = Net::new(name);
    net.add_busy_host(CLIENT_HOST)?;
    net.add_busy_host(BACKEND_HOST)?;
    for &way in ways {
        connect(&mut net, way)?;
    }
    Ok(net)
}

/// Makes the host of a way, between the client and the backend.
fn connect(net: &mut Net, way: Way) -> Result<()> {
    let (host, n) = (way.name(), way.number());
    let (left, right) = (format!("10.214.{n}"), format!("10.215.{n}"));
    if way == Way::Wire {
        net.join((CLIENT_HOST, host), (BACKEND_HOST, host))?;
        net.set_address(CLIENT_HOST, host, &format!("{left}.2"))?;
        return net.set_address(BACKEND_HOST, host, &format!("{left}.1"));
    }
    net.add_host(host)?;
    net.shell(host, "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    for (device, end, network) in [
        ("outside", CLIENT_HOST, &left),
        ("inside", BACKEND_HOST, &right),
    ] {
        net.join((host, device), (end, host))?;
        net.set_address(host, device, &format!("{network}.1"))?;
        net.set_address(end, host, &format!("{network}.2"))?;
        if way == Way::Xdp {
            // XDP needs the other end to poll, and the senders' checksums.
            net.shell(host, &format!("ethtool -K {device} gro on tx off"))?;
            net.shell(end, &format!("ethtool -K {host} gro on tx off"))?;
        }
    }
    route(net, CLIENT_HOST, &right, &left)?;
    route(net, BACKEND_HOST, &left, &right)
}

/// A route to a network, by the host between in another.
fn route(net: &Net, host: &str, network: &str, via: &str) -> Result<()> {
    let (network, via) = (format!("{network}.0/24"), format!("{via}.1"));
    net.ip(host, &["route", "add", &network, "via", &via])
}
