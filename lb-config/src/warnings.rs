//! Settings that are allowed and still likely to surprise.

mod limits;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::http::Action;
use super::{Config, DataPlane, MetricsAddress, Mode, Path, Service, loops, memory};

/// Warnings about `config` before it is used, a sentence each. `has_more` names the services with backends beside the
/// configuration.
pub fn warnings(config: &Config, has_more: &dyn Fn(&str) -> bool) -> Vec<String> {
    let services = config.services.iter();
    let mut found: Vec<String> = services
        .flat_map(|service| of_service(service, has_more(&service.name)))
        .collect();
    found.extend(chains(config));
    found.extend(own_ports(config));
    found.extend(cache(config, memory::limit()));
    found.extend(open_page(config));
    found
}

/// A cache that may grow beyond the memory that there is: the file that tells so, and its bytes.
fn cache(config: &Config, limit: Option<(PathBuf, u64)>) -> Option<String> {
    let mut http = config.services.iter().flat_map(|service| &service.http);
    let is_used = http.any(|http| http.settings.cache.is_some());
    let (file, limit) = limit?;
    let memory = config.agent.cache.memory;
    (is_used && memory > limit).then(|| {
        format!(
            "the response cache may take {memory} bytes, and {} leaves {limit} to the agent (set \
             memory in agent.cache, with room for the rest)",
            file.display()
        )
    })
}

/// A live page that other hosts reach: it asks for no password.
fn open_page(config: &Config) -> Option<String> {
    let Some(MetricsAddress::Tcp(address)) = &config.agent.page else {
        return None;
    };
    (!address.ip().is_loopback()).then(|| {
        format!(
            "agent: all clients that reach {address} may read the live page, with addresses of backends and bans \
             (use a loopback address and a tunnel, or a firewall)"
        )
    })
}

/// Backends on the port of their own service. The data plane decides which of both gets a
/// connection.
fn own_ports(config: &Config) -> Vec<String> {
    let data_plane = config.agent.data_plane;
    let mut found = Vec::new();
    if data_plane == DataPlane::Auto {
        let is_local = loops::evidently_local(config);
        let without_bpf = loops::lines(config, false, &is_local);
        found.extend(without_bpf.into_iter().map(|line| {
            format!("where BPF cannot serve, the agent does not start with this: {line}")
        }));
    }
    for service in &config.services {
        for backend in &service.backends {
            found.extend(own_port(service, backend, data_plane));
        }
    }
    found
}

fn own_port(service: &Service, backend: &super::Backend, data_plane: DataPlane) -> Option<String> {
    let address = backend.address.ip()?;
    let mut listen = service.listen.iter();
    let at = listen.find(|listen| listen.port() == address.port())?;
    let name = &service.name;
    if data_plane == DataPlane::Userspace {
        return address.ip().is_loopback().then(|| {
            format!(
                "{name}: {address} has the port of {at}, where the agent listens: the application \
                 has to listen on {} alone, not on all addresses (or on another port)",
                address.ip()
            )
        });
    }
    if service.mode == Mode::Udp && matches!(backend.path, Path::Auto | Path::Socket) {
        let mut listen = service.listen.iter();
        let other = listen.find(|listen| {
            listen.port() == address.port() && listen.is_ipv4() != address.is_ipv4()
        });
        let family = if address.is_ipv4() { "IPv6" } else { "IPv4" };
        return other.map(|other| {
            format!(
                "{name}: {family} clients of {other} reach {address} if the application listens on \
                 [::]:{} for both families, and not otherwise",
                other.port()
            )
        });
    }
    let is_itself = *at == address || loops::is_wildcard_of(at, address);
    let is_handed_over = matches!(backend.path, Path::Auto | Path::Socket);
    (service.health.is_some() && is_itself && is_handed_over).then(|| {
        format!(
            "{name}: {address} is where the service listens ({at}), so checks of its health may be \
             answered by another backend (let the application listen on another port)"
        )
    })
}

fn of_service(service: &Service, has_more: bool) -> Vec<String> {
    let name = &service.name;
    let mut found = Vec::new();
    let routed = service
        .http
        .as_ref()
        .is_some_and(|http| !http.routes.is_empty());
    if service.backends.is_empty() && !routed && !has_more {
        found.push(format!(
            "{name} has no backend in the configuration: while none is added, its addresses are \
             left alone (lb-agent add-backend 127.0.0.1:5000 --service {name})"
        ));
    }
    let listens = |v4: bool| service.listen.iter().any(|listen| listen.is_ipv4() == v4);
    let affinity = &service.affinity;
    if affinity.ipv4_prefix == 0 && listens(true) || affinity.ipv6_prefix == 0 && listens(false) {
        found.push(format!(
            "{name} counts no bit of a client's address: all its clients go to one backend"
        ));
    }
    let routes = service.http.iter().flat_map(|http| &http.routes);
    let roots = routes.filter_map(|route| match &route.action {
        Action::Files { files, .. } => Some(files.root.as_path()),
        _ => None,
    });
    found.extend(roots.filter_map(|root| unseen(name, root)));
    found.extend(service.http.iter().flat_map(|http| limits::sessions(http)));
    found.extend(limits::of_service(service));
    found.extend(listed_twice(service));
    let steered_elsewhere = |backend: &&super::Backend| {
        backend.path == Path::Socket
            && service.mode == Mode::Udp
            && service
                .listen
                .iter()
                .all(|listen| listen.port() != backend.address.key().port())
    };
    for backend in service.backends.iter().filter(steered_elsewhere) {
        found.push(format!(
            "{name}: {} will answer from its own port, not from the one its clients asked \
             (leave path at \"auto\")",
            backend.address
        ));
    }
    found
}

/// A root that the agent's systemd unit does not see.
fn unseen(service: &str, root: &std::path::Path) -> Option<String> {
    const HIDDEN: [(&str, &str); 5] = [
        ("/home", "ProtectHome"),
        ("/root", "ProtectHome"),
        ("/run/user", "ProtectHome"),
        ("/tmp", "PrivateTmp"),
        ("/var/tmp", "PrivateTmp"),
    ];
    let (_, setting) = HIDDEN.iter().find(|(above, _)| root.starts_with(above))?;
    Some(format!(
        "{service}: the packages' systemd unit hides {} from the agent ({setting}): move the files, for example to \
         /srv, or take that line back in a drop-in",
        root.display()
    ))
}

/// Prefixes that stand in both lists, of which `allow` has no effect.
fn listed_twice(service: &Service) -> Vec<String> {
    let both = service.allow.iter();
    let both = both.filter(|allowed| {
        let mut denied = service.deny.iter();
        denied.any(|denied| denied.prefix() == allowed.prefix())
    });
    both.map(|prefix| {
        format!(
            "{}: {prefix} is in allow and in deny, and is refused (take it out of one)",
            service.name
        )
    })
    .collect()
}

/// Backends that are listen addresses of another service, which may lead back.
fn chains(config: &Config) -> Vec<String> {
    let transport = |service: &Service| service.mode == Mode::Udp;
    let listen: HashSet<(bool, SocketAddr)> = config
        .services
        .iter()
        .flat_map(|service| {
            service
                .listen
                .iter()
                .map(|listen| (transport(service), *listen))
        })
        .collect();
    let mut found = Vec::new();
    for service in &config.services {
        for backend in &service.backends {
            if listen.contains(&(transport(service), backend.address.key())) {
                found.push(format!(
                    "{}: {} is a listen address of another service: connections pass two of them",
                    service.name, backend.address
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path as FilePath;

    #[test]
    fn cache_larger_than_the_memory_of_its_cgroup_is_told() {
        let of = |table: &str, limit: u64| {
            let text = format!(
                "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
                 backends = ['127.0.0.1:5000']\n{table}"
            );
            let config = crate::parse(&text, FilePath::new("f")).unwrap();
            cache(&config, Some(("/x/memory.max".into(), limit)))
        };
        const ON: &str = "[service.http.cache]";
        let told = of(ON, 64 << 20).unwrap();
        assert!(told.contains("134217728 bytes"), "{told}");
        assert!(told.contains("/x/memory.max leaves 67108864"), "{told}");
        assert_eq!(of(ON, 128 << 20), None);
        assert_eq!(of("", 64 << 20), None);
    }
}
