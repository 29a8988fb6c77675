//! The flow tables as `lb_common::decide` wants them: `lb_common::flows` over `sets`.

use core::ops::{Deref, DerefMut};

use lb_common::abi::packet::{FlowEntry, FlowKey, FlowSet, Hop, PacketSettings};
use lb_common::clients::Counted;
use lb_common::flows::{self, At, By, End, Flow, Home, NewFlow, Refused, Set, Wanted};

use crate::caps;
use crate::clock::now_s;
use crate::packet_maps::{NAT_PORTS, packet_settings, scratch};
use crate::sets::{Entering, Place, PortMap, set};

/// The entry of a flow.
#[derive(Clone, Copy)]
pub struct Entry<const N: usize> {
    set: Place<N>,
    way: usize,
    state: u32,
}

impl<const N: usize> Entry<N> {
    /// The entry itself.
    #[inline(always)]
    pub fn as_ptr(self) -> *mut FlowEntry<N> {
        self.set.entry(self.way)
    }

    /// Its way back.
    #[inline(always)]
    pub fn hop(self) -> *mut Hop {
        self.set.hop(self.way)
    }

    /// Whether it is still that of the same flow.
    #[inline(always)]
    pub fn is_there(self) -> bool {
        flows::is_untouched(self.state, self.set.state(self.way))
    }
}

impl<const N: usize> Deref for Entry<N> {
    type Target = FlowEntry<N>;

    #[inline(always)]
    fn deref(&self) -> &FlowEntry<N> {
        // SAFETY: inside the set; the reader asks `is_there` afterwards.
        unsafe { &*self.as_ptr() }
    }
}

/// See [`flows::locate`].
#[inline(always)]
fn locate<const N: usize>(
    settings: &PacketSettings,
    by: By,
    packet: (&[u32; N], u8),
    far: bool,
) -> Option<(Place<N>, At)> {
    let owner = |place| NAT_PORTS.get(place).map(|port| port.owner);
    flows::locate::<N, Place<N>, _>(settings, by, packet, far, owner, set)
}

/// See `FlowEntries::entry`.
#[inline(always)]
pub fn entry<const N: usize>(by: By, words: &[u32; N], protocol: u8) -> Option<Entry<N>> {
    let settings = packet_settings()?;
    let (set, at) = locate(settings, by, (words, protocol), false)?;
    Some(Entry {
        set,
        way: usize::from(at.way),
        state: at.state,
    })
}

/// See `Flows::flow`: whether it is in the scratch map now.
#[inline(always)]
pub fn find(key: &FlowKey, marks: [u8; 2]) -> Option<()> {
    let scratch = scratch()?;
    // SAFETY: this CPU's own element.
    unsafe { (*scratch).key = *key };
    let v4 = key.dst.is_v4();
    By::any(marks, |by| {
        let found = if v4 {
            lb_find_flow4(by as u32)
        } else {
            lb_find_flow6(by as u32)
        };
        (found != 0).then_some(())
    })
}

/// Finds the flow of the key in the scratch map, and reads it: 1 if it is there. `by` is the number
/// of a [`By`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_find_flow4(by: u32) -> u64 {
    find_by::<3>(By::of_number(by)).is_some().into()
}

/// The same over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_find_flow6(by: u32) -> u64 {
    find_by::<9>(By::of_number(by)).is_some().into()
}

#[inline(always)]
fn find_by<const N: usize>(by: By) -> Option<()> {
    let scratch = scratch()?;
    let settings = packet_settings()?;
    // SAFETY: this CPU's own element.
    let key = unsafe { &(*scratch).key };
    let (set, at) = locate::<N>(settings, by, (&key.words(), key.protocol as u8), true)?;
    read(set, at)
}

/// Reads a flow to the scratch map, unless another one takes its place meanwhile.
#[inline(always)]
fn read<const N: usize>(set: Place<N>, at: At) -> Option<()> {
    let scratch = scratch()?;
    let way = usize::from(at.way);
    // SAFETY: inside the set; torn values are not used.
    let entry = unsafe { &*set.entry(way) };
    // SAFETY: as above.
    let hop = unsafe { &*set.hop(way) };
    // SAFETY: this CPU's own element.
    unsafe { &mut (*scratch).flow }.read(at, entry, hop);
    let now = set.state(way);
    if !flows::is_untouched(at.state, now) {
        // SAFETY: as above. It is asked for anew.
        unsafe { (*scratch).flow.hop.ifindex = 0 };
    }
    flows::is_same(at.state, now).then_some(())
}

/// The flow that was found or entered last on this CPU.
#[inline(always)]
pub fn found() -> Option<*mut Flow> {
    let scratch = scratch()?;
    // SAFETY: this CPU's own element.
    Some(unsafe { &raw mut (*scratch).flow })
}

/// The place of the entry.
#[inline(always)]
fn found_at() -> Option<At> {
    // SAFETY: this CPU's own element.
    found().map(|flow| unsafe { (*flow).at })
}

/// See `Flows::room`.
pub struct New(*mut NewFlow);

impl Deref for New {
    type Target = NewFlow;

    #[inline(always)]
    fn deref(&self) -> &NewFlow {
        // SAFETY: this CPU's own element, which one asks for at a time.
        unsafe { &*self.0 }
    }
}

impl DerefMut for New {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut NewFlow {
        // SAFETY: as above.
        unsafe { &mut *self.0 }
    }
}

/// See `Flows::room`.
#[inline(always)]
pub fn room() -> Option<New> {
    let scratch = scratch()?;
    // SAFETY: this CPU's own element.
    Some(New(unsafe { &raw mut (*scratch).new }))
}

/// See `Flows::home`.
#[inline(always)]
pub fn home(words: &[u32; 3], protocol: u8) -> Home {
    match packet_settings() {
        Some(settings) => Home::of(settings, words, End::Client, protocol),
        None => Home { set: 0, way: 0 },
    }
}

/// Reads from all entries that a new flow looks at. The processor waits for none of them while it
/// finds other work within a few hundred instructions.
#[inline(always)]
pub fn fetch(home: &Home) {
    let Some(set) = set::<3>(home.set) else {
        return;
    };
    let half = FlowSet::<3>::WAYS / 2;
    let mut i = 0;
    while i < half {
        set.fetch(home.way & half | i);
        i += 1;
    }
}

/// See `Flows::enter`.
#[inline(always)]
pub fn enter(new: New) -> Result<bool, Refused> {
    if new.key.dst.is_v4() {
        let home = home(&new.key.words(), new.key.protocol as u8);
        return enter_v4(new, &home);
    }
    let home = lb_flow_home6();
    entered(lb_enter_flow6(home as u32, lb_place_flow6(home as u32)))
}

/// The same over IPv4, with a known home.
#[inline(always)]
pub fn enter_v4(_new: New, home: &Home) -> Result<bool, Refused> {
    let home = home.number();
    entered(lb_enter_flow4(home, lb_place_flow4(home)))
}

#[inline(always)]
fn entered(number: u64) -> Result<bool, Refused> {
    uncount_replaced();
    match number {
        ENTERED => Ok(false),
        EVICTED => Ok(true),
        NO_PORT => Err(Refused::NoPort),
        THERE => Err(Refused::There),
        _ => Err(Refused::NoRoom),
    }
}

/// Takes the connection of the flow that made room off the count of its client.
#[inline(always)]
fn uncount_replaced() {
    let Some(scratch) = scratch() else {
        return;
    };
    // SAFETY: this CPU's own element.
    let counted = Counted(core::mem::take(unsafe { &mut (*scratch).replaced }));
    caps::take(counted);
}

const NO_ROOM: u64 = 0;
const NO_PORT: u64 = 1;
const THERE: u64 = 2;
const ENTERED: u64 = 3;
const EVICTED: u64 = 4;

/// The number of the home of the flow in the scratch map.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_flow_home6() -> u64 {
    home_in().unwrap_or(0)
}

#[inline(always)]
fn home_in() -> Option<u64> {
    let scratch = scratch()?;
    let settings = packet_settings()?;
    // SAFETY: this CPU's own element.
    let home = Home::of_new::<9>(settings, unsafe { &(*scratch).new });
    Some(home.number().into())
}

/// The best place for the flow in the scratch map, as `flows::best_place` tells it. `home` is the
/// number of its home.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_place_flow4(home: u32) -> u64 {
    place_in::<3>(home).unwrap_or(u64::MAX)
}

/// The same over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_place_flow6(home: u32) -> u64 {
    place_in::<9>(home).unwrap_or(u64::MAX)
}

#[inline(always)]
fn place_in<const N: usize>(home: u32) -> Option<u64> {
    let scratch = scratch()?;
    let settings = packet_settings()?;
    // SAFETY: this CPU's own element.
    let wanted = Wanted::at(Home::of_number(home), unsafe { &(*scratch).new }, now_s());
    let set = set::<N>(wanted.set())?;
    Some(flows::best_place(&set, settings, &wanted))
}

/// Enters the flow in the scratch map there, and makes it the one that was found: one of the numbers
/// above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_enter_flow4(home: u32, place: u64) -> u64 {
    enter_in::<3>(home, place).unwrap_or(NO_ROOM)
}

/// The same over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_enter_flow6(home: u32, place: u64) -> u64 {
    enter_in::<9>(home, place).unwrap_or(NO_ROOM)
}

#[inline(always)]
fn enter_in<const N: usize>(home: u32, place: u64) -> Option<u64> {
    let scratch = scratch()?;
    let settings = packet_settings()?;
    // SAFETY: this CPU's own element, of which others are used below.
    let new = unsafe { &mut (*scratch).new };
    let wanted = Wanted::at(Home::of_number(home), new, now_s());
    let mut set = set::<N>(wanted.set())?;
    let entered = flows::enter_at(&mut set, &mut Entering, settings, &wanted, new, place);
    let entered = match entered {
        Ok(entered) => entered,
        Err(Refused::NoPort) => return Some(NO_PORT),
        Err(Refused::NoRoom) => return Some(NO_ROOM),
        Err(Refused::There) => return Some(THERE),
    };
    // SAFETY: as above.
    let flow = unsafe { &mut (*scratch).flow };
    flow.at = entered.at;
    flow.out = new.out;
    flow.backend = new.backend;
    flow.service = new.service;
    flow.hop.ifindex = 0;
    Some(if entered.evicted { EVICTED } else { ENTERED })
}

/// Does something with the set of the flow that was found last.
macro_rules! with_set {
    ($at:expr, |$set:ident| $does:expr) => {
        if $at.v6 == 0 {
            #[allow(unused_mut)]
            let mut $set = set::<3>($at.set)?;
            $does
        } else {
            #[allow(unused_mut)]
            let mut $set = set::<9>($at.set)?;
            $does
        }
    };
}

/// See `Flows::mark`, of the flow that was found last.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_mark_flow(add: u32, remove: u32) -> u64 {
    mark(add, remove).is_some().into()
}

#[inline(always)]
fn mark(add: u32, remove: u32) -> Option<()> {
    let at = found_at()?;
    with_set!(at, |set| flows::mark(
        &mut set,
        &mut PortMap,
        &at,
        add,
        remove
    ));
    Some(())
}

/// See `Flows::establish`, of the flow that was found last: 1 if it is pinned, 2 if not, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_establish_flow() -> u64 {
    match establish() {
        Some(true) => 1,
        Some(false) => 2,
        None => 0,
    }
}

#[inline(always)]
fn establish() -> Option<bool> {
    let at = found_at()?;
    with_set!(at, |set| flows::establish(&mut set, &at))
}

/// See `Flows::count_client`, of the flow that was found last, which is counted there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_count_flow(counted: u64) -> u64 {
    count(Counted(counted)).is_some().into()
}

#[inline(always)]
fn count(counted: Counted) -> Option<()> {
    let at = found_at()?;
    with_set!(at, |set| flows::count(&mut set, &mut PortMap, &at, counted));
    Some(())
}

/// See `Flows::keep`, of the flow that was found last.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_keep_flow() -> u64 {
    keep().is_some().into()
}

#[inline(always)]
fn keep() -> Option<()> {
    let at = found_at()?;
    with_set!(at, |set| flows::keep(&mut set, &at));
    Some(())
}

/// See `Flows::remove`, of the flow that was found last.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_remove_flow() -> u64 {
    remove().is_some().into()
}

#[inline(always)]
fn remove() -> Option<bool> {
    let at = found_at()?;
    let settings = packet_settings()?;
    Some(with_set!(at, |set| flows::remove(
        &mut set,
        &mut PortMap,
        settings,
        &at
    )))
}

/// See `Flows::set_hop`, of the flow that was found last: the way back is the one that it has in the
/// scratch map.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_set_flow_hop() -> u64 {
    set_hop().is_some().into()
}

#[inline(always)]
fn set_hop() -> Option<()> {
    let flow = found()?;
    // SAFETY: this CPU's own element.
    let flow = unsafe { &*flow };
    let (at, new) = (flow.at, &flow.hop);
    with_set!(at, |set| {
        if !flows::lock(&mut set, &at) {
            return None;
        }
        // SAFETY: inside the set, and this one's to write.
        let hop = unsafe { &mut *set.hop(usize::from(at.way)) };
        hop.ifindex = new.ifindex;
        hop.at_s = new.at_s;
        hop.macs = new.macs;
        hop.mtu = new.mtu;
        flows::unlock(&mut set, &at);
    });
    Some(())
}

/// See `Flows::touch`.
#[inline(always)]
pub fn touch(at: At, seen_s: u32, next_seq: u32) -> Option<()> {
    let way = usize::from(at.way);
    with_set!(at, |set| {
        // SAFETY: inside the set; two words, each written whole.
        let entry = unsafe { &mut *set.entry(way) };
        note(entry, at.end(), seen_s, next_seq);
    });
    Some(())
}

/// Notes a packet in an entry.
#[inline(always)]
pub fn note<const N: usize>(entry: &mut FlowEntry<N>, end: End, seen_s: u32, next_seq: u32) {
    match end {
        End::Client => {
            entry.seen_s[0] = seen_s;
            entry.next_seq[0] = next_seq;
        }
        End::Backend => {
            entry.seen_s[1] = seen_s;
            entry.next_seq[1] = next_seq;
        }
    }
}
