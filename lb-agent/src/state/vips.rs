//! The destination table of the packet paths: the service or the host behind each address.

use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::abi::packet::{Vip, VipKey, vip};
use lb_common::abi::{ServiceId, path};

use super::desired::{Desired, Service};
use super::targets::ip;

/// Whether any backend is on a packet path.
pub fn in_use(desired: &Desired) -> bool {
    desired.services.iter().any(by_packets)
}

fn by_packets(service: &Service) -> bool {
    let packet = |path| matches!(path, path::NAT | path::DSR);
    service.backends.iter().any(|b| packet(b.route.path))
}

/// The destination table of the packet programs. It has listen addresses with ports of services on
/// the packet paths, the same addresses alone, and the host's own addresses.
pub fn vips(desired: &Desired, ids: &HashMap<&str, ServiceId>) -> HashMap<VipKey, Vip> {
    let mut vips = HashMap::new();
    if !in_use(desired) {
        return vips;
    }
    for address in &desired.own {
        note(&mut vips, *address, vip::OWN);
    }
    for service in desired
        .services
        .iter()
        .filter(|service| by_packets(service))
    {
        let Some(id) = ids.get(service.name.as_str()) else {
            continue;
        };
        let dsr = service.backends.iter().all(|b| b.route.path == path::DSR);
        let entry = Vip {
            service: *id,
            flags: if dsr { vip::DSR } else { 0 },
        };
        for (address, port) in listened(service, &desired.own) {
            let key = VipKey::new(ip(address), port.to_be(), service.protocol);
            vips.insert(key, entry);
            let own = desired.own.contains(&address);
            note(
                &mut vips,
                address,
                vip::SERVICE | if own { 0 } else { vip::ECHO },
            );
        }
    }
    // A specific listen address outranks a wildcard. The address of a service that is not on the
    // packet paths does not belong to a wildcard's service that is.
    for service in desired
        .services
        .iter()
        .filter(|service| !by_packets(service))
    {
        for listen in service.listen.iter().filter(|l| !l.ip().is_unspecified()) {
            vips.remove(&VipKey::new(
                ip(listen.ip()),
                listen.port().to_be(),
                service.protocol,
            ));
        }
    }
    vips
}

/// The addresses that a service listens on. A wildcard is expanded to the host's own addresses of
/// its family.
fn listened(service: &Service, own: &[IpAddr]) -> Vec<(IpAddr, u16)> {
    let mut found = Vec::new();
    for listen in &service.listen {
        if listen.ip().is_unspecified() {
            let family = own.iter().filter(|own| own.is_ipv4() == listen.is_ipv4());
            found.extend(family.map(|own| (*own, listen.port())));
        } else {
            found.push((listen.ip(), listen.port()));
        }
    }
    found
}

fn note(vips: &mut HashMap<VipKey, Vip>, address: IpAddr, flags: u32) {
    let entry = vips.entry(VipKey::address(ip(address))).or_insert(Vip {
        service: ServiceId(0),
        flags: 0,
    });
    entry.flags |= flags;
}
