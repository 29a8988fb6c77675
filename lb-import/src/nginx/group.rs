//! The servers that share addresses.

use super::Import;
use super::routes::{self, Site};
use super::server::{self, Listen, Server};

/// The servers of some addresses, the one that takes other names first.
#[derive(Debug)]
pub(super) struct Group<'s, 'a> {
    pub(super) servers: Vec<&'s Server<'a>>,
    pub(super) plain: Vec<Listen>,
    pub(super) tls: Vec<Listen>,
}

/// The servers that share addresses, and then those with the same servers together.
pub(super) fn groups<'s, 'a>(servers: &'s [Server<'a>], import: &Import<'_>) -> Vec<Group<'s, 'a>> {
    let mut groups: Vec<Group<'s, 'a>> = Vec::new();
    let mut seen: Vec<Listen> = Vec::new();
    for listen in servers.iter().flat_map(|server| &server.listens) {
        if seen.iter().any(|known| known.address == listen.address) {
            continue;
        }
        seen.push(listen.clone());
        let at = |server: &&Server<'_>| {
            let mut own = server.listens.iter();
            own.find(|one| one.address == listen.address).cloned()
        };
        let mut members: Vec<&Server<'_>> = servers
            .iter()
            .filter(|server| at(server).is_some())
            .collect();
        let first = members
            .iter()
            .position(|server| at(server).is_some_and(|one| one.is_default));
        let default = members.remove(first.unwrap_or(0));
        members.insert(0, default);
        let is_tls = members
            .iter()
            .any(|server| at(server).is_some_and(|one| one.tls));
        if is_tls && server::certificates(&members, import).is_empty() {
            let reason = format!(
                "no certificate is known for {}, which is left out",
                listen.address
            );
            import.lost(members[0].directive, &reason);
            continue;
        }
        let same = |group: &&mut Group<'_, '_>| {
            group.servers.len() == members.len()
                && group
                    .servers
                    .iter()
                    .zip(&members)
                    .all(|(one, other)| std::ptr::eq(*one, *other))
        };
        let group = match groups.iter_mut().find(same) {
            Some(group) => group,
            None => {
                groups.push(Group {
                    servers: members,
                    plain: Vec::new(),
                    tls: Vec::new(),
                });
                match groups.last_mut() {
                    Some(group) => group,
                    None => continue,
                }
            }
        };
        let list = if is_tls {
            &mut group.tls
        } else {
            &mut group.plain
        };
        list.push(listen.clone());
    }
    groups
}

impl<'s, 'a> Group<'s, 'a> {
    /// What each of its servers does.
    pub(super) fn sites(&self, import: &Import<'_>) -> Vec<Site> {
        let is_alone = self.servers.len() == 1;
        let site = |(at, server): (usize, &&Server<'a>)| {
            if at != 0 && server.names.is_empty() {
                import.lost(
                    server.directive,
                    "it has no name, and another server takes the requests without one",
                );
                return Site::default();
            }
            let hosts = if is_alone || at == 0 {
                &[][..]
            } else {
                &server.names
            };
            routes::read(server, hosts, import)
        };
        self.servers.iter().enumerate().map(site).collect()
    }

    /// The server whose settings hold for the service: the first one that does more than answer by itself.
    pub(super) fn lead(&self) -> &'s Server<'a> {
        let has_locations = |server: &&&Server<'_>| {
            let mut own = server.scope.own().iter();
            own.any(|one| one.name == "location")
        };
        self.servers
            .iter()
            .find(has_locations)
            .unwrap_or(&self.servers[0])
    }

    /// A name for its service.
    pub(super) fn name(&self, import: &Import<'_>) -> String {
        let names = self.servers.iter().flat_map(|server| &server.names);
        let usable = |name: &&String| !name.contains('*') && *name != "localhost";
        let first = names.clone().find(usable).map_or("web", String::as_str);
        let bare: String = first
            .chars()
            .map(|char| {
                if char.is_ascii_alphanumeric() || char == '-' {
                    char
                } else {
                    '-'
                }
            })
            .take(50)
            .collect();
        import.unique(bare)
    }
}
