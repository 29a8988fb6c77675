//! The service of a command that names none. It follows from the address of the backend where that is unambiguous.

use super::Reconciler;
use super::commands::{no_such_backend, refuse};
use crate::control::message::{Refusal, RefusalKind};
use crate::state::desired::Service;
use crate::state::overlay::{Overlay, Target};
use lb_config::BackendAddress;

impl Reconciler {
    /// The service called `name`, or the only one.
    pub(super) fn named(&self, name: Option<&str>) -> Result<&Service, Refusal> {
        let services = &self.desired.services;
        match (name, services.as_slice()) {
            (Some(name), services) => called(services, name),
            (None, [only]) => Ok(only),
            (None, services) => Err(ambiguous("there are several", services)),
        }
    }

    /// The service that a backend leaves: the one called `name`, or the only one with a backend at `address`.
    pub(super) fn holder(
        &self,
        name: Option<&str>,
        address: &BackendAddress,
    ) -> Result<&Service, Refusal> {
        holder(&self.desired.services, name, address)
    }

    /// The service that a backend joins: the one called `name`, or the one that has or had `address`, or the
    /// only one that is not a route's.
    pub(super) fn taker(
        &self,
        name: Option<&str>,
        address: &BackendAddress,
    ) -> Result<&Service, Refusal> {
        taker(&self.desired.services, &self.overlay, name, address)
    }
}

impl Reconciler {
    /// The service that loses its changes made at run time: the one called `name`, or the only one that has
    /// changes at `address`, or the one with that backend.
    pub(super) fn changed_one(
        &self,
        name: Option<&str>,
        address: &BackendAddress,
    ) -> Result<&Service, Refusal> {
        let has_changes = |service: &&Service| {
            let mut targets = self.overlay.targets();
            targets.any(|it| it.service == service.name && it.address == *address)
        };
        let services = self.desired.services.iter();
        let changed: Vec<&Service> = services.filter(has_changes).collect();
        match (name, changed.as_slice()) {
            (None, [only]) => Ok(only),
            (None, [_, _, ..]) => Err(ambiguous(
                &format!("{address} was changed in several"),
                changed,
            )),
            _ => {
                let service = self.holder(name, address)?;
                let known = service.backend(address).is_some()
                    || changed.iter().any(|it| it.name == service.name);
                let target = || Target {
                    service: service.name.clone(),
                    address: address.clone(),
                };
                known
                    .then_some(service)
                    .ok_or_else(|| no_such_backend(&target()))
            }
        }
    }
}

fn holder<'a>(
    services: &'a [Service],
    name: Option<&str>,
    address: &BackendAddress,
) -> Result<&'a Service, Refusal> {
    if let Some(name) = name {
        return called(services, name);
    }
    if let [only] = services {
        return Ok(only);
    }
    match with_backend(services, address).as_slice() {
        [only] => Ok(only),
        [] => Err(refuse(
            RefusalKind::NotFound,
            format!(
                "{address} is not a backend of any service (there is: {})",
                names(services)
            ),
            Some("`lb-agent status` lists them"),
        )),
        several => Err(ambiguous(
            &format!("{address} is a backend of several"),
            several.iter().copied(),
        )),
    }
}

fn taker<'a>(
    services: &'a [Service],
    overlay: &Overlay,
    name: Option<&str>,
    address: &BackendAddress,
) -> Result<&'a Service, Refusal> {
    if let Some(name) = name {
        return called(services, name);
    }
    let had = |service: &&Service| {
        let removed = overlay.removed.iter();
        removed
            .filter(|target| target.service == service.name)
            .any(|target| target.address == *address)
    };
    let groups = [
        with_backend(services, address),
        services.iter().filter(had).collect(),
        services.iter().filter(|it| !is_of_route(it)).collect(),
    ];
    match groups.iter().map(Vec::as_slice).find(|it| !it.is_empty()) {
        Some([only]) => Ok(only),
        _ if !groups[0].is_empty() => Err(ambiguous(
            &format!("{address} is a backend of several"),
            groups[0].iter().copied(),
        )),
        _ => Err(ambiguous("there are several", services)),
    }
}

/// Whether the service consists of the backends of a route. Its name is `SERVICE/ROUTE`.
fn is_of_route(service: &Service) -> bool {
    service.name.contains('/')
}

fn with_backend<'a>(services: &'a [Service], address: &BackendAddress) -> Vec<&'a Service> {
    let services = services.iter();
    services
        .filter(|service| service.backend(address).is_some())
        .collect()
}

fn called<'a>(services: &'a [Service], name: &str) -> Result<&'a Service, Refusal> {
    let mut all = services.iter();
    all.find(|service| service.name == name).ok_or_else(|| {
        let error = format!(
            "there is no service {name:?} (there is: {})",
            names(services)
        );
        refuse(RefusalKind::NotFound, error, None)
    })
}

fn names<'a>(services: impl IntoIterator<Item = &'a Service>) -> String {
    let names: Vec<&str> = services.into_iter().map(|it| it.name.as_str()).collect();
    names.join(", ")
}

/// The refusal of a command that several services fit.
fn ambiguous<'a>(why: &str, services: impl IntoIterator<Item = &'a Service>) -> Refusal {
    refuse(
        RefusalKind::BadRequest,
        format!("which service? {why}: {}", names(services)),
        Some("name it with --service, or in the variable LB_SERVICE"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::path::Path;

    use crate::state::desired::Desired;
    use crate::state::surroundings::Surroundings;

    const ROUTES: &str = "[[service]]
name = 'web'
mode = 'http'
listen = ['0.0.0.0:80']
backends = ['127.0.0.1:5000', '127.0.0.1:5009']
[[service.route]]
path = '/api'
backends = ['127.0.0.1:6000', '127.0.0.1:5009']
";
    const SECOND: &str = "[[service]]\nname = 'mail'\nlisten = ['0.0.0.0:25']\n";

    fn address(port: u16) -> BackendAddress {
        BackendAddress::Ip(([127, 0, 0, 1], port).into())
    }

    struct Loopback;

    impl Surroundings for Loopback {
        fn can_steer(&self) -> bool {
            true
        }

        fn is_local(&self, address: SocketAddr) -> bool {
            address.ip().is_loopback()
        }
    }

    fn services(text: &str, overlay: &Overlay) -> Vec<Service> {
        let config = lb_config::parse(text, Path::new("test.toml")).unwrap();
        Desired::new(&config, overlay, [1, 2], 0, &Loopback).services
    }

    fn told(outcome: Result<&Service, Refusal>) -> String {
        outcome.map_or_else(|refusal| refusal.error, |service| service.name.clone())
    }

    #[test]
    fn address_of_one_service_names_the_service_that_loses_it() {
        let services = services(ROUTES, &Overlay::default());
        let holder = |port| told(holder(&services, None, &address(port)));
        assert_eq!(holder(5000), "web");
        assert_eq!(holder(6000), "web/api");
        assert_eq!(
            holder(5009),
            "which service? 127.0.0.1:5009 is a backend of several: web, web/api"
        );
        assert_eq!(
            holder(7000),
            "127.0.0.1:7000 is not a backend of any service (there is: web, web/api)"
        );
        assert_eq!(
            told(super::holder(&services, Some("web/api"), &address(5009))),
            "web/api"
        );
    }

    #[test]
    fn added_backend_joins_the_service_that_has_or_had_it() {
        let removed = Overlay {
            removed: vec![Target {
                service: "web/api".to_owned(),
                address: address(6000),
            }],
            ..Overlay::default()
        };
        let services = services(ROUTES, &removed);
        let taker = |port| told(taker(&services, &removed, None, &address(port)));
        assert_eq!(taker(5000), "web");
        assert_eq!(taker(6000), "web/api");
        assert_eq!(
            taker(5009),
            "which service? 127.0.0.1:5009 is a backend of several: web, web/api"
        );
    }

    #[test]
    fn new_address_joins_the_only_service_that_is_not_of_a_route() {
        let none = Overlay::default();
        let taker = |text: &str| told(taker(&services(text, &none), &none, None, &address(7000)));
        assert_eq!(taker(ROUTES), "web");
        assert_eq!(
            taker(&format!("{ROUTES}{SECOND}")),
            "which service? there are several: web, web/api, mail"
        );
    }

    #[test]
    fn only_service_is_meant_in_any_case() {
        let none = Overlay::default();
        let mail = services(SECOND, &none);
        assert_eq!(told(holder(&mail, None, &address(1))), "mail");
        assert_eq!(told(taker(&mail, &none, None, &address(1))), "mail");
    }
}
