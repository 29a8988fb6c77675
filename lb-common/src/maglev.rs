//! Tables that map slots to members, in the place of Maglev's (Eisenbud et al., "Maglev: A Fast
//! and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! As in Maglev each member has a permutation of the slots of its own and claims them in that
//! order. Unlike Maglev a member whose next slot is taken does not look on for a free one: a slot
//! goes to the member that comes to it first, each at a pace of its own weight, independent of the
//! others. This is weighted rendezvous hashing (Thaler and Ravishankar, 1998; Schindelhauer and
//! Schomaker, 2005), run from the members' side: `slots * ln(slots)` steps for any number of
//! members, while asking every member for every slot would take `slots * members`.
//!
//! # What holds
//! - **Same set, same table**, in any order of the members and on any machine: integers only, fixed
//!   keys, members sorted by identity. Always.
//! - **Shares** are within [`SLACK_PERCENT`] of the weights, rounded to whole slots, and every
//!   member has one slot at least. Always (but for tables so small that there are not slots enough
//!   to round). If rendezvous leaves a member outside, members with too few slots take from
//!   those with too many ("levelling").
//! - **Removing a member moves only its own slots; adding one moves only those it gets**: exactly,
//!   as long as nothing has to be levelled, which is the rule up to some ten members in 65,537
//!   slots. Beyond, levelling moves others too: beside each slot that has to move 0.007 others with
//!   20 members, 0.06 with 50, 0.16 with 100 (classic Maglev: 0.06, 0.22, 0.57). So adding one moves
//!   at most 1.3/N of the slots up to 100 members in 65,537 slots, which is 650 slots each. Tables
//!   with fewer slots each put shares first: with 1,000 members it is 4 (classic Maglev: 5.4).
//!
//! Exact removal and exact shares exclude each other. If removals move nothing else, every slot
//! has a fixed order of all possible members; then the slots that one member owns, as the others
//! come and go at random, are positively correlated events, and their number has a standard
//! deviation of at least `sqrt(slots / members / 2)`: 0.9 % of a share with 10 members, 2 % with
//! 50, 9 % with 1,000. The permutations used here reach that bound.

use alloc::vec;
use alloc::vec::Vec;

use crate::addr::Addr;
use crate::hash;

/// Greatest deviation of a member's share from its weight, in percent of its share.
pub const SLACK_PERCENT: u64 = 2;
/// Owner of every slot of a table without members.
pub const NO_OWNER: u32 = u32::MAX;
/// Greatest number of slots.
pub const MAX_SLOTS: usize = 1 << 24;
/// Greatest number of members.
pub const MAX_MEMBERS: usize = 1 << 16;

/// One that can own slots. Its identity is address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Address.
    pub addr: Addr,
    /// Port.
    pub port: u16,
    /// Weight; a member of weight 0 owns no slot.
    pub weight: u16,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The number of slots is not prime, or above [`MAX_SLOTS`].
    NotPrime(usize),
    /// There are more members than slots, or than [`MAX_MEMBERS`].
    TooManyMembers(usize),
    /// These two members, by index, have the same identity.
    Duplicate(usize, usize),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotPrime(slots) => {
                write!(f, "{slots} slots: not a prime number below {MAX_SLOTS}")
            }
            Self::TooManyMembers(members) => {
                write!(f, "{members} members: more than slots or {MAX_MEMBERS}")
            }
            Self::Duplicate(a, b) => write!(f, "members {a} and {b} have the same identity"),
        }
    }
}

impl core::error::Error for Error {}

/// Writes into each slot the index into `members` of its owner; [`NO_OWNER`] into all when there
/// is no member (or none with a weight).
///
/// # Errors
/// See [`Error`]; `slots` is untouched then.
pub fn fill(members: &[Member], slots: &mut [u32]) -> Result<(), Error> {
    let order = by_identity(members)?;
    let count = slots.len();
    if count > MAX_SLOTS || !is_prime(count) {
        return Err(Error::NotPrime(count));
    }
    if order.len() > count.min(MAX_MEMBERS) {
        return Err(Error::TooManyMembers(order.len()));
    }
    match order.as_slice() {
        [] => slots.fill(NO_OWNER),
        [only] => slots.fill(*only as u32),
        _ => {
            let ring = Ring::new(count as u32);
            let runners: Vec<Runner> = order
                .iter()
                .map(|&index| Runner::new(&members[index], &ring))
                .collect();
            race(&ring, &runners, slots);
            Level::new(&ring, &runners, slots).run();
            for slot in slots {
                *slot = order[*slot as usize] as u32;
            }
        }
    }
    Ok(())
}

/// Indices of the members that have a weight, in order of their identity.
fn by_identity(members: &[Member]) -> Result<Vec<usize>, Error> {
    let identity = |index: usize| (members[index].addr, members[index].port);
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&index| identity(index));
    if let Some(pair) = order
        .windows(2)
        .find(|pair| identity(pair[0]) == identity(pair[1]))
    {
        return Err(Error::Duplicate(pair[0], pair[1]));
    }
    order.retain(|&index| members[index].weight != 0);
    Ok(order)
}

/// Binary places of [`Ring::times`].
const TIME_BITS: u32 = 27;
/// Binary places of [`Runner::per_weight`].
const WEIGHT_BITS: u32 = 26;
/// Binary places by which the product of both is cut, so that it fits [`arrival`]'s 48 bits.
const CUT_BITS: u32 = 10;

/// Values that depend on the number of slots alone.
struct Ring {
    count: u32,
    /// Powers of a primitive root modulo `count`: each of 1 to `count - 1` once. Sequences along
    /// it have no lattice structure, unlike Maglev's arithmetic ones, of which about one pair in
    /// 10,000 runs into each other all the way.
    powers: Vec<u32>,
    /// `times[n]` is when a runner of weight 1 makes its `n`th claim: such that a slot's time is
    /// exponentially distributed, with which the first of several runners is each with a
    /// probability in proportion to its weight.
    times: Vec<u32>,
    /// The least difference of two times.
    tick: u64,
}

impl Ring {
    fn new(count: u32) -> Self {
        let mut powers = Vec::with_capacity(count as usize - 1);
        let (root, mut power) = (primitive_root(count), 1u32);
        for _ in 1..count {
            powers.push(power);
            power = (u64::from(power) * root % u64::from(count)) as u32;
        }
        // The sum of 1/count, 1/(count-1), ... is -ln(1 - n/count), as integers have it.
        let (mut times, mut time) = (Vec::with_capacity(count as usize), 0u64);
        for left in (1..=count).rev() {
            times.push((time >> 16) as u32);
            time += (1 << (TIME_BITS + 16)) / u64::from(left);
        }
        Self {
            count,
            powers,
            times,
            tick: (1 << TIME_BITS) / u64::from(count),
        }
    }
}

/// A member on its way over the slots.
#[derive(Clone, Copy)]
struct Runner {
    /// Claims made.
    claims: u32,
    /// Index of the next power.
    at: u32,
    /// Step from power to power, coprime to their number.
    stride: u32,
    /// Added to each power.
    offset: u32,
    /// Odd; places a claim between two times, as claims at the same time would all go to the same
    /// runner.
    jitter: u32,
    weight: u16,
    /// One over `weight`.
    per_weight: u64,
}

impl Runner {
    fn new(member: &Member, ring: &Ring) -> Self {
        let mut identity = [0; 18];
        identity[..16].copy_from_slice(&member.addr);
        identity[16..].copy_from_slice(&member.port.to_be_bytes());
        let [a, b] = [
            hash::bytes([0, 1], &identity),
            hash::bytes([0, 2], &identity),
        ];
        let steps = ring.count - 1;
        let mut stride = 1 + hash::place(b as u32, steps);
        while gcd(stride, steps) != 1 {
            stride = stride % steps + 1;
        }
        let weight = u64::from(member.weight);
        Self {
            claims: 0,
            at: hash::place(a as u32, steps),
            stride,
            offset: hash::place((a >> 32) as u32, ring.count),
            jitter: (b >> 32) as u32 | 1,
            weight: member.weight,
            per_weight: ((1 << WEIGHT_BITS) + weight / 2) / weight,
        }
    }

    /// The next slot of this runner's permutation, and when it comes to it. After the last it
    /// starts anew.
    #[inline(always)]
    fn claim(&mut self, ring: &Ring) -> u32 {
        self.claims += 1;
        if self.claims == ring.count {
            // The powers leave out 0.
            self.claims = 0;
            return self.offset;
        }
        let slot = ring.powers[self.at as usize] + self.offset;
        self.at = wrap(self.at + self.stride, ring.count - 1);
        wrap(slot, ring.count)
    }
}

/// `value` modulo `limit`, for a value below twice the limit.
#[inline(always)]
fn wrap(value: u32, limit: u32) -> u32 {
    if value >= limit { value - limit } else { value }
}

/// Gives each slot to the runner that comes to it first.
fn race(ring: &Ring, runners: &[Runner], owners: &mut [u32]) {
    let total_weight: u64 = runners.iter().map(|runner| u64::from(runner.weight)).sum();
    // Time by which a slot has been claimed once on average. Runners take turns of this length so
    // that no runner goes on when all slots have their owner.
    let turn = ((1u64 << (TIME_BITS + WEIGHT_BITS - CUT_BITS)) / total_weight).max(1);
    let mut runners = runners.to_vec();
    let mut done = vec![false; runners.len()];
    // Arrival in the upper 48 bits, runner in the lower 16.
    let mut first = vec![u64::MAX; owners.len()];
    let mut end = 0;
    // A slot claimed before `end` is decided: all arrivals still to come are later.
    while !first.iter().all(|arrival| arrival >> 16 < end) {
        end += turn;
        for (index, runner) in runners.iter_mut().enumerate() {
            if !done[index] {
                done[index] = run(ring, runner, index as u64, end, &mut first);
            }
        }
    }
    for (owner, arrival) in owners.iter_mut().zip(first) {
        *owner = (arrival & 0xffff) as u32;
    }
}

/// Makes all claims of a runner before `end`; true when it has been everywhere.
#[inline(always)]
fn run(ring: &Ring, runner: &mut Runner, index: u64, end: u64, first: &mut [u64]) -> bool {
    let before = (end << CUT_BITS).div_ceil(runner.per_weight);
    let mut own = *runner;
    for &time in &ring.times[own.claims as usize..] {
        let time = u64::from(time);
        if time >= before {
            *runner = own;
            return false;
        }
        let slot = own.claim(ring);
        let jitter = (u64::from(slot.wrapping_mul(own.jitter) >> 16) * ring.tick) >> 16;
        let arrival = ((time + jitter) * own.per_weight) >> CUT_BITS << 16 | index;
        let first = &mut first[slot as usize];
        *first = arrival.min(*first);
    }
    true
}

/// Brings every share within its bounds.
struct Level<'a> {
    ring: &'a Ring,
    runners: &'a [Runner],
    owners: &'a mut [u32],
    /// Slots owned, by runner.
    owned: Vec<u32>,
    bounds: Vec<Bounds>,
}

/// How many slots a runner should own.
#[derive(Clone, Copy)]
struct Bounds {
    least: u32,
    floor: u32,
    ceil: u32,
    most: u32,
}

impl Bounds {
    fn new(slots: u32, weight: u16, total_weight: u64) -> Self {
        let percent = u128::from(slots) * u128::from(weight);
        let total_weight = u128::from(total_weight);
        let slack = u128::from(SLACK_PERCENT);
        let floor = (percent / total_weight) as u32;
        let ceil = percent.div_ceil(total_weight) as u32;
        let least = (percent * (100 - slack)).div_ceil(total_weight * 100) as u32;
        let most = (percent * (100 + slack) / (total_weight * 100)) as u32;
        Self {
            least: least.min(floor).max(1),
            floor,
            ceil,
            most: most.max(ceil),
        }
    }
}

impl<'a> Level<'a> {
    fn new(ring: &'a Ring, runners: &'a [Runner], owners: &'a mut [u32]) -> Self {
        let total_weight = runners.iter().map(|runner| u64::from(runner.weight)).sum();
        let mut owned = vec![0; runners.len()];
        for &owner in owners.iter() {
            owned[owner as usize] += 1;
        }
        let bounds = runners
            .iter()
            .map(|runner| Bounds::new(ring.count, runner.weight, total_weight))
            .collect();
        Self {
            ring,
            runners,
            owners,
            owned,
            bounds,
        }
    }

    fn run(mut self) {
        // Those outside among each other first: that moves least.
        self.pass(|taker| taker.least, |giver| giver.most);
        // One of these is over by now. The floors of all shares add up to the slots at most, the
        // ceilings at least: there is always a member to take from and one to give to.
        self.pass(|taker| taker.least, |giver| giver.floor);
        self.pass(|taker| taker.ceil, |giver| giver.most);
        // A share of less than one slot, in a table that is too small for its weights.
        self.pass(|_| 1, |_| 1);
    }

    /// Those with fewer slots than `want` take, one in turn, the next of their permutations that
    /// belongs to a member with more than `keep`.
    fn pass(&mut self, want: impl Fn(Bounds) -> u32, keep: impl Fn(Bounds) -> u32) {
        let surplus = |(owned, bounds): (&u32, &Bounds)| owned.saturating_sub(keep(*bounds));
        let mut left: u32 = self.owned.iter().zip(&self.bounds).map(surplus).sum();
        let mut takers: Vec<(u32, Runner)> = (0..)
            .zip(self.runners)
            .filter(|(index, _)| self.owned[*index as usize] < want(self.bounds[*index as usize]))
            .map(|(index, runner)| (index, *runner))
            .collect();
        // After `count` turns every taker has been at every slot.
        for _ in 0..self.ring.count {
            if takers.is_empty() {
                return;
            }
            for (taker, runner) in &mut takers {
                if left == 0 {
                    return;
                }
                let owner = &mut self.owners[runner.claim(self.ring) as usize];
                let giver = *owner as usize;
                if self.owned[giver] > keep(self.bounds[giver]) {
                    *owner = *taker;
                    self.owned[giver] -= 1;
                    self.owned[*taker as usize] += 1;
                    left -= 1;
                }
            }
            takers.retain(|(taker, _)| {
                self.owned[*taker as usize] < want(self.bounds[*taker as usize])
            });
        }
    }
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn is_prime(number: usize) -> bool {
    number >= 2
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

/// The least primitive root: its powers modulo `prime` are all of 1 to `prime - 1`.
fn primitive_root(prime: u32) -> u64 {
    let order = prime - 1;
    let (mut factors, mut rest, mut factor) = (Vec::new(), order, 2);
    while rest > 1 {
        if factor * factor > rest {
            factor = rest;
        }
        if rest.is_multiple_of(factor) {
            factors.push(factor);
            rest /= factor;
        } else {
            factor += 1;
        }
    }
    let generates = |root: u64| {
        factors
            .iter()
            .all(|factor| power(root, order / factor, prime) != 1)
    };
    (1..u64::from(prime))
        .find(|root| generates(*root))
        .unwrap_or(1)
}

const fn power(base: u64, mut exponent: u32, modulus: u32) -> u64 {
    let modulus = modulus as u64;
    let (mut base, mut result) = (base % modulus, 1 % modulus);
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests;
