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
    // Wildcards first, as a specific listen address of any service outranks them.
    for is_wildcard in [true, false] {
        for service in desired.services.iter().filter(|it| by_packets(it)) {
            let Some(id) = ids.get(service.name.as_str()) else {
                continue;
            };
            let dsr = service.backends.iter().all(|b| b.route.path == path::DSR);
            let entry = Vip {
                service: *id,
                flags: if dsr { vip::DSR } else { 0 },
            };
            for (address, port) in listened(service, &desired.own, is_wildcard) {
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
    }
    // The address of a service that is not on the packet paths does not belong to a wildcard's service
    // that is.
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

/// The addresses that a service listens on, with the host's own addresses in place of wildcards: those of
/// its wildcards, or the others.
fn listened<'a>(
    service: &'a Service,
    own: &'a [IpAddr],
    is_wildcard: bool,
) -> impl Iterator<Item = (IpAddr, u16)> {
    let listens = service.listen.iter();
    let chosen = listens.filter(move |listen| listen.ip().is_unspecified() == is_wildcard);
    chosen.flat_map(move |listen| {
        let family = own
            .iter()
            .filter(move |own| own.is_ipv4() == listen.is_ipv4());
        let all = family.copied().filter(move |_| is_wildcard);
        let one = (!is_wildcard).then_some(listen.ip());
        all.chain(one).map(|ip| (ip, listen.port()))
    })
}

fn note(vips: &mut HashMap<VipKey, Vip>, address: IpAddr, flags: u32) {
    let entry = vips.entry(VipKey::address(ip(address))).or_insert(Vip {
        service: ServiceId(0),
        flags: 0,
    });
    entry.flags |= flags;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::compose::tests::{Loopback, config};
    use crate::state::overlay::Overlay;
    use lb_common::abi::protocol;

    #[test]
    fn specific_address_outranks_a_wildcard_in_either_order() {
        let service = |name: &str, listen: &str| {
            format!(
                "[[service]]\nname = '{name}'\nlisten = ['{listen}']\nbackends = ['127.0.0.1:5000']\n"
            )
        };
        let one = service("one", "10.0.0.1:80");
        let all = service("all", "0.0.0.0:80");
        for text in [format!("{one}{all}"), format!("{all}{one}")] {
            let surroundings = Loopback { can_steer: true };
            let config = config(&text);
            let mut desired = Desired::new(&config, &Overlay::default(), [1, 2], 0, &surroundings);
            desired.own = ["10.0.0.1", "10.0.0.2"]
                .map(|own| own.parse().unwrap())
                .into();
            for backend in desired.services.iter_mut().flat_map(|it| &mut it.backends) {
                backend.route.path = path::NAT;
            }
            let ids = HashMap::from([("one", ServiceId(1)), ("all", ServiceId(2))]);
            let vips = vips(&desired, &ids);
            let service_at = |address: &str| {
                let address = ip(address.parse().unwrap());
                vips[&VipKey::new(address, 80_u16.to_be(), protocol::TCP)].service
            };
            assert_eq!(service_at("10.0.0.1"), ServiceId(1), "{text}");
            assert_eq!(service_at("10.0.0.2"), ServiceId(2), "{text}");
        }
    }
}
