//! The maps of bans and of the lists of services.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError, PerCpuArray};
use lb_common::abi::access::{self, RuleKey, guard};
use lb_common::abi::{MAX_SERVICES, ServiceId};
use lb_common::access::{Rules, Set};

use super::maps::{per_cpu, take};
use super::pod;

/// The maps `RULES`, `GUARDS`, `DENIED` and `CAPPED`, and the agent's copy of the first two.
pub(super) struct AccessMaps {
    rules: LpmTrie<MapData, pod::RuleData, pod::Rule>,
    guards: Array<MapData, u32>,
    denied: PerCpuArray<MapData, u64>,
    capped: PerCpuArray<MapData, u64>,
    in_force: Rules,
    guarded: Vec<u32>,
}

impl AccessMaps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            rules: take(object, "RULES")?.try_into()?,
            guards: take(object, "GUARDS")?.try_into()?,
            denied: take(object, "DENIED")?.try_into()?,
            capped: take(object, "CAPPED")?.try_into()?,
            in_force: Rules::default(),
            guarded: vec![0; MAX_SERVICES],
        })
    }

    /// Reads the maps as another agent has left them.
    pub(super) fn read_back(&mut self) -> Result<(), MapError> {
        self.in_force = Rules::default();
        for entry in self.rules.iter() {
            let (key, rule) = entry?;
            let key = RuleKey {
                bits: key.prefix_len(),
                data: key.data().0,
            };
            self.in_force.insert(key, rule.0);
        }
        for (index, guards) in (0..).zip(&mut self.guarded) {
            *guards = self.guards.get(&index, 0)?;
            let cap = *guards >> guard::CAP;
            if cap != 0 {
                self.in_force.caps.insert(ServiceId(index), cap);
            }
        }
        Ok(())
    }

    /// Enters rules that are new or changed. All others stay, so that nobody is let in while services change.
    pub(super) fn add(&mut self, rules: &Rules) -> Result<(), MapError> {
        for (key, rule) in rules.iter() {
            if self.in_force.get(key) != Some(rule) {
                self.rules.insert(&pod_key(key), pod::Rule(*rule), 0)?;
                self.in_force.insert(*key, *rule);
            }
        }
        self.in_force.caps.clone_from(&rules.caps);
        self.guard(&Set::new(self.in_force.clone()))
    }

    /// Removes all other rules.
    pub(super) fn keep_only(&mut self, rules: &Rules) -> Result<(), MapError> {
        self.guard(&Set::new(rules.clone()))?;
        let gone = self.in_force.keys().filter(|key| !rules.contains_key(key));
        for key in gone.copied().collect::<Vec<_>>() {
            match self.rules.remove(&pod_key(&key)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
            self.in_force.remove(&key);
        }
        Ok(())
    }

    /// Tells the programs which tables they have to ask.
    fn guard(&mut self, set: &Set) -> Result<(), MapError> {
        for (index, guarded) in (0..).zip(&mut self.guarded) {
            let guards = set.guards(ServiceId(index));
            if *guarded != guards {
                self.guards.set(index, guards, 0)?;
                *guarded = guards;
            }
        }
        Ok(())
    }

    /// Clients that a service has refused.
    pub(super) fn denied(&self, service: ServiceId) -> Result<u64, MapError> {
        Ok(self.denied.get(&service.0, 0)?.iter().sum())
    }

    /// Connections that a service has refused as too many of one client.
    pub(super) fn capped(&self, service: ServiceId) -> Result<u64, MapError> {
        Ok(self.capped.get(&service.0, 0)?.iter().sum())
    }

    /// Begins the counts of a service anew.
    pub(super) fn reset(&mut self, service: ServiceId) -> Result<(), MapError> {
        self.denied.set(service.0, per_cpu(0)?, 0)?;
        self.capped.set(service.0, per_cpu(0)?, 0)
    }

    /// Number of rules in force, and how many fit.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.in_force.len(), access::MAX_RULES)
    }
}

fn pod_key(key: &RuleKey) -> Key<pod::RuleData> {
    Key::new(key.bits, pod::RuleData(key.data))
}
