//! The choice of a backend for a packet, and the affinity of its client.

use lb_common::abi::{
    Affinity, AffinityKey, BackendId, Counter, ServiceHead, ServiceId, protocol, state,
};
use lb_common::addr::Addr;
use lb_common::decide::data_path::{Choices, Chosen};
use lb_common::flows::Home;
use lb_common::select::{Choice, Client, Reason};

use crate::maps::{AFFINITY, BACKENDS, TABLES, count, remember_udp};
use crate::pick::{Picked, pick, pick_first};
use crate::tables::{affinity, now_ns};
use crate::world::{Hook, Maps};

/// How old a client's affinity may grow before another packet renews it.
const RENEW_NS: u64 = 1_000_000_000;

impl<H: Hook> Choices for Maps<H> {
    #[inline(always)]
    fn pick(
        &self,
        service: ServiceId,
        protocol: u32,
        client: &Addr,
        home: &Home,
    ) -> Option<Choice> {
        pick_first(service, protocol, client, home)
    }

    #[inline(always)]
    fn count_choice(&mut self, service: ServiceId, reason: Reason) {
        count(
            service,
            match reason {
                Reason::Affinity => Counter::Affinity,
                Reason::Slot => Counter::Slot,
                Reason::Next => Counter::Next,
            },
        );
    }

    #[inline(always)]
    fn choose(
        &mut self,
        service: ServiceId,
        protocol: u32,
        client: &Addr,
        avoid: BackendId,
    ) -> Chosen {
        match pick(service, protocol, client, avoid) {
            Picked::Packet(choice) => {
                self.count_choice(service, choice.reason);
                Chosen::Packet(choice.backend)
            }
            // `lb_steer` chooses and counts.
            Picked::OtherPath => Chosen::OtherPath,
            Picked::None => {
                count(service, Counter::Refused);
                Chosen::None
            }
        }
    }

    #[inline(always)]
    fn remember(&mut self, protocol: u32, service: ServiceId, client: &Addr, backend: BackendId) {
        remember(protocol, service, client, backend);
    }

    #[inline(always)]
    fn remembered(
        &self,
        protocol: u32,
        head: &ServiceHead,
        key: &AffinityKey,
    ) -> Option<BackendId> {
        let known = affinity(protocol as u8, key)?;
        if now_ns().wrapping_sub(known.seen_ns) >= head.affinity_ns {
            return None;
        }
        let backend = BACKENDS.get(known.backend.index())?;
        let keeps =
            backend.id == known.backend && matches!(backend.state, state::UP | state::DRAINING);
        keeps.then_some(known.backend)
    }
}

/// Stores the backend of a client.
#[inline(always)]
fn remember(protocol: u32, service: ServiceId, client: &Addr, backend: BackendId) {
    let Some(table) = TABLES.get_value(service.0, &0) else {
        return;
    };
    if table.head.affinity_ns == 0 {
        return;
    }
    let client = Client::new(&table.head, client);
    let now_ns = now_ns();
    let fresh = affinity(protocol as u8, &client.key).is_some_and(|known| {
        known.backend == backend && now_ns.wrapping_sub(known.seen_ns) < RENEW_NS
    });
    if fresh {
        return;
    }
    let affinity = Affinity {
        seen_ns: now_ns,
        backend,
        pad: 0,
    };
    if protocol == u32::from(protocol::UDP) {
        remember_udp(&client.key, &affinity);
    } else {
        // A full map pushes out the client unseen for longest; nothing else can fail.
        let _ = AFFINITY.insert(client.key, affinity, 0);
    }
}
