//! Maintains the `OWNERS` map: for each bound address the backend that the socket belongs to.

use std::collections::{BTreeSet, HashMap, HashSet};

use aya::maps::MapError;
use lb_common::abi::{self, BackendId, OwnerKey, path, state};

use super::adopt::bound_addresses;
use super::{Bpf, pod};

/// A backend's claim to a bound address: the rank of the address (0 is the most specific) and the backend's
/// index. A socket on the exact address belongs to that backend alone. If two backends share a socket, the
/// first one counts its connections.
type Claim = (usize, u32);

/// All claims, by bound address.
#[derive(Default)]
pub(super) struct Claims(HashMap<OwnerKey, BTreeSet<Claim>>);

impl Claims {
    fn of(backends: &[abi::Backend]) -> Self {
        let mut claims = Self::default();
        for backend in backends {
            claims.add(backend);
        }
        claims
    }

    fn add(&mut self, backend: &abi::Backend) {
        for (key, claim) in claims_of(backend) {
            self.0.entry(key).or_default().insert(claim);
        }
    }

    fn remove(&mut self, backend: &abi::Backend) {
        for (key, claim) in claims_of(backend) {
            if let Some(claims) = self.0.get_mut(&key) {
                claims.remove(&claim);
                if claims.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
    }

    fn owner(&self, key: &OwnerKey, backends: &[abi::Backend]) -> Option<BackendId> {
        let (_, index) = self.0.get(key)?.first()?;
        Some(backends[*index as usize].id)
    }
}

/// The claims of a backend to the addresses that its sockets can be bound to.
fn claims_of(backend: &abi::Backend) -> impl Iterator<Item = (OwnerKey, Claim)> + use<> {
    let steered = backend.state != state::REMOVED && backend.path == path::SOCKET;
    let backend = *backend;
    let places = bound_addresses(&backend).into_iter().enumerate();
    let keys = places.map(move |(place, addr)| {
        let key = OwnerKey {
            addr,
            port: backend.port,
            protocol: backend.protocol,
            pad: 0,
            service: backend.service,
        };
        (key, (place, backend.id.index()))
    });
    keys.filter(move |_| steered)
}

impl Bpf {
    /// Updates the map after the entry of a backend has changed from `before`.
    pub(super) fn write_owners(
        &mut self,
        before: &abi::Backend,
        index: u32,
    ) -> Result<(), MapError> {
        let after = self.observed.backends[index as usize];
        let keys: HashSet<OwnerKey> = match &mut self.claims {
            Some(claims) => {
                claims.remove(before);
                claims.add(&after);
                let touched = claims_of(before).chain(claims_of(&after));
                touched.map(|(key, _)| key).collect()
            }
            // The first call also checks all entries that an earlier agent has left.
            None => {
                let claims = self.claims.insert(Claims::of(&self.observed.backends));
                claims.0.keys().chain(self.owners.keys()).copied().collect()
            }
        };
        let written = keys.into_iter().try_for_each(|key| self.write_owner(key));
        if written.is_err() {
            self.claims = None;
        }
        written
    }

    fn write_owner(&mut self, key: OwnerKey) -> Result<(), MapError> {
        let claims = self.claims.as_ref();
        let wanted = claims.and_then(|claims| claims.owner(&key, &self.observed.backends));
        if self.owners.get(&key).copied() == wanted {
            return Ok(());
        }
        let map = &mut self.maps.owners;
        match wanted {
            Some(id) => {
                map.insert(pod::OwnerKey(key), pod::BackendId(id), 0)?;
                self.owners.insert(key, id);
            }
            None => {
                map.remove(&pod::OwnerKey(key))?;
                self.owners.remove(&key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::observed::FREE;
    use lb_common::addr;

    fn backend(index: u16, ip: [u8; 4], port: u16) -> abi::Backend {
        abi::Backend {
            addr: addr::from_ip(ip.into()),
            port,
            protocol: abi::protocol::TCP,
            state: state::UP,
            path: path::SOCKET,
            id: BackendId::new(index, 0),
            ..FREE
        }
    }

    #[test]
    fn very_address_is_its_backends_and_a_wildcard_the_first_ones() {
        let mut backends = vec![
            FREE,
            backend(1, [127, 0, 0, 1], 5000),
            backend(2, [127, 0, 0, 2], 5000),
        ];
        let mut claims = Claims::of(&backends);
        let keys =
            |backend: &abi::Backend| claims_of(backend).map(|(key, _)| key).collect::<Vec<_>>();
        let (first, second) = (keys(&backends[1]), keys(&backends[2]));
        assert_eq!(first[1..], second[1..], "wildcards are shared");
        let id = |index| Some(BackendId::new(index, 0));
        assert_eq!(claims.owner(&first[0], &backends), id(1));
        assert_eq!(claims.owner(&second[0], &backends), id(2));
        assert_eq!(claims.owner(&first[1], &backends), id(1));
        // The second backend becomes the owner after the first is removed.
        let before = backends[1];
        backends[1].state = state::REMOVED;
        claims.remove(&before);
        claims.add(&backends[1]);
        assert_eq!(claims.owner(&first[0], &backends), None);
        assert_eq!(claims.owner(&first[1], &backends), id(2));
    }
}
