//! The flow tables in memory.

use std::any::Any;
use std::vec::Vec;

use crate::abi::ServiceId;
use crate::abi::packet::{FlowKey, FlowSet, Ip, PacketSettings};
use crate::clients::Counted;
use crate::flows::{self, At, By, End, Flow, NewFlow, Ports, Refused, Set, Wanted};

/// Does something with the set of a flow, whichever table that is in.
macro_rules! with_set {
    ($flows:expr, $at:expr, |$set:ident, $ports:ident| $does:expr) => {{
        let $ports = &mut $flows.ports;
        if $at.v6 == 0 {
            let $set = &mut $flows.v4[$at.set as usize];
            $does
        } else {
            let $set = &mut $flows.v6[$at.set as usize];
            $does
        }
    }};
}
pub(super) use with_set;

/// `FLOWS4`, `FLOWS6` and `NAT_PORTS`.
#[derive(Clone, Debug, PartialEq)]
pub struct Flows {
    /// Flows over IPv4.
    pub v4: Vec<FlowSet<3>>,
    /// Flows over IPv6.
    pub v6: Vec<FlowSet<9>>,
    /// Owners of the source ports.
    pub ports: Vec<u32>,
}

impl Default for Flows {
    fn default() -> Self {
        Self::sized(Self::SETS, Self::PORTS)
    }
}

impl Flows {
    /// Sets that there are by default.
    const SETS: u32 = 64;
    /// The same of places for source ports.
    const PORTS: u32 = 8192;

    /// Tables of so many sets, and of so many places for source ports, a power of two.
    pub fn sized(sets: u32, ports: u32) -> Self {
        Self {
            v4: std::vec![FlowSet::EMPTY; sets as usize],
            v6: std::vec![FlowSet::EMPTY; sets as usize],
            ports: std::vec![0; ports as usize],
        }
    }

    /// `settings` with the sizes of these tables.
    pub fn describe(&self, settings: &mut PacketSettings) {
        settings.sets = self.v4.len() as u32;
        settings.ports = self.ports.len() as u32;
        settings.key = [
            0x5eed_0001,
            0x9e37,
            0x79b9_0003,
            0x7f4a_0005,
            0x7c15_0007,
            11,
        ]
        .map(|odd: u64| odd.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    /// All flows, as packets from their clients see them.
    pub fn all(&self) -> Vec<Flow> {
        fn of<const N: usize>(sets: &[FlowSet<N>]) -> impl Iterator<Item = Flow> {
            sets.iter().zip(0..).flat_map(move |(set, number)| {
                let ways = 0..set.entries.len();
                let there = ways.filter(|way| flows::is_there(set.state(*way)));
                there.map(move |way| {
                    let at = At::new::<N>(number, way, End::Client, set.state(way));
                    read_at(sets, &at)
                })
            })
        }
        of(&self.v4).chain(of(&self.v6)).collect()
    }

    /// How many flows of a service are counted for clients with such addresses.
    pub(super) fn counted(&self, service: ServiceId, is_of: impl Fn(&Ip) -> bool) -> usize {
        fn of<const N: usize>(
            sets: &[FlowSet<N>],
            service: ServiceId,
            is_of: impl Fn(&Ip) -> bool,
        ) -> usize {
            let entries = sets.iter().flat_map(|set| &set.entries);
            let counted = entries.filter(|entry| {
                let mut key = FlowKey::NONE;
                key.set_words(&entry.ends[End::Client as usize], entry.protocol);
                let here = u32::from(entry.service) == service.0 && is_of(&key.src);
                here && entry.client != Counted::NONE
            });
            counted.count()
        }
        of(&self.v4, service, &is_of) + of(&self.v6, service, &is_of)
    }

    /// The sets of flows of so many words, 3 or 9.
    pub(super) fn sets<const N: usize>(&self) -> &Vec<FlowSet<N>> {
        let tables: [&dyn Any; 2] = [&self.v4, &self.v6];
        let mut sets = tables.into_iter().filter_map(|table| table.downcast_ref());
        sets.next().expect("flows of 3 or 9 words")
    }

    /// The flow of packets that come in as `key`; `marks` are those of its source and destination.
    pub(super) fn find(
        &self,
        settings: &PacketSettings,
        key: &FlowKey,
        marks: [u8; 2],
    ) -> Option<Flow> {
        let at = By::any(marks, |by| {
            let protocol = key.protocol as u8;
            if key.dst.is_v4() {
                self.locate::<3>(settings, by, &key.words(), protocol, true)
            } else {
                self.locate::<9>(settings, by, &key.words(), protocol, true)
            }
        })?;
        Some(self.at(&at))
    }

    /// The place of the flow of packets that come in as `words`; `far` says that it may be in the other
    /// half of its set.
    pub(super) fn locate<const N: usize>(
        &self,
        settings: &PacketSettings,
        by: By,
        words: &[u32; N],
        protocol: u8,
        far: bool,
    ) -> Option<At> {
        let sets = self.sets::<N>();
        let owner = |place| self.ports.get(place as usize).copied();
        let set = |number| sets.get(number as usize);
        let packet = (words, protocol);
        let found = flows::locate::<N, FlowSet<N>, _>(settings, by, packet, far, owner, set)?;
        Some(found.1)
    }

    pub(super) fn enter(
        &mut self,
        settings: &PacketSettings,
        new: &mut NewFlow,
        now_s: u32,
    ) -> Result<(Flow, bool), Refused> {
        if new.key.dst.is_v4() {
            enter(&mut self.v4, &mut self.ports, settings, new, now_s)
        } else {
            enter(&mut self.v6, &mut self.ports, settings, new, now_s)
        }
    }

    /// Notes a packet.
    pub(super) fn touch(&mut self, at: &At, seen_s: u32, next_seq: u32) {
        let end = usize::from(at.reply);
        with_set!(self, at, |set, _ports| {
            let entry = &mut set.entries[usize::from(at.way)];
            entry.seen_s[end] = seen_s;
            entry.next_seq[end] = next_seq;
        });
    }

    /// The flow at a place.
    pub(super) fn at(&self, at: &At) -> Flow {
        if at.v6 == 0 {
            read_at(&self.v4, at)
        } else {
            read_at(&self.v6, at)
        }
    }
}

fn read_at<const N: usize>(sets: &[FlowSet<N>], at: &At) -> Flow {
    let set = &sets[at.set as usize];
    let way = usize::from(at.way);
    let mut flow = Flow::default();
    flow.read(*at, &set.entries[way], &set.hops[way]);
    flow
}

fn enter<const N: usize>(
    sets: &mut [FlowSet<N>],
    ports: &mut Vec<u32>,
    settings: &PacketSettings,
    new: &mut NewFlow,
    now_s: u32,
) -> Result<(Flow, bool), Refused> {
    let wanted = Wanted::new(settings, new, now_s);
    let set = &mut sets[wanted.set() as usize];
    let entered = flows::enter(set, ports, settings, &wanted, new)?;
    Ok((read_at(sets, &entered.at), entered.evicted))
}

impl<const N: usize> Set<N> for FlowSet<N> {
    fn state(&self, way: usize) -> u32 {
        self.entries[way].state
    }

    fn replace_state(&mut self, way: usize, old: u32, new: u32) -> bool {
        let state = &mut self.entries[way].state;
        let same = *state == old;
        if same {
            *state = new;
        }
        same
    }

    fn counts(&self, way: usize) -> u32 {
        self.entries[way].counts
    }

    fn add_counts(&mut self, way: usize, amount: u32) -> u32 {
        let counts = &mut self.entries[way].counts;
        let old = *counts;
        *counts = old.wrapping_add(amount);
        old
    }

    fn difference(&self, way: usize, end: End, words: &[u32; N], protocol: u8) -> u32 {
        let entry = &self.entries[way];
        let same = entry.ends[end as usize] == *words && entry.protocol == protocol;
        u32::from(!same)
    }

    fn backend_end(&self, way: usize) -> ([u32; N], u8) {
        let entry = &self.entries[way];
        (entry.ends[End::Backend as usize], entry.protocol)
    }

    fn seen_s(&self, way: usize) -> u32 {
        self.entries[way].seen_s[End::Client as usize]
    }

    fn set_client(&mut self, way: usize, counted: Counted) -> bool {
        let client = &mut self.entries[way].client;
        let free = *client == Counted::NONE;
        if free {
            *client = counted;
        }
        free
    }

    fn take_client(&mut self, way: usize) -> Counted {
        std::mem::take(&mut self.entries[way].client)
    }

    fn write(&mut self, way: usize, new: &NewFlow, now_s: u32) {
        self.entries[way].begin(new, now_s);
    }
}

impl Ports for Vec<u32> {
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool {
        let place = &mut self[place as usize];
        let same = *place == old;
        if same {
            *place = new;
        }
        same
    }

    /// The entries are the count.
    fn uncount(&mut self, _: Counted) {}
}
