//! As many flows as were planned for: eight for each set of sixteen.

use super::*;

const SETS: u32 = 4096;
pub(super) const FLOWS: u32 = SETS * 8;

/// A number that has nothing to do with the last one (SplitMix64: Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
pub(super) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// How many of these flows were not pinned when they were established, and how many were pushed out
/// later.
pub(super) fn unlucky<const N: usize>(
    key: u64,
    mut client: impl FnMut(u32) -> (u32, u16),
) -> (u32, u32) {
    let mut table = Table::<N>::new(SETS);
    let mut random_key = key;
    table.settings.key = [(); 6].map(|()| random(&mut random_key));
    let (mut unpinned, mut pushed_out) = (0, 0);
    for number in 0..FLOWS {
        let mut new = flow::<N>(number);
        let (address, port) = client(number);
        new.key.src.0[3] = address.to_be();
        new.key.sport_be = port.to_be();
        (new.out.src, new.out.sport_be) = (new.key.src, new.key.sport_be);
        let entered = table.enter_new(&mut new, START_S).unwrap();
        pushed_out += u32::from(entered.evicted);
        unpinned += u32::from(table.establish(&entered.at) != Some(true));
    }
    table.counts(0, 0);
    (unpinned, pushed_out)
}

#[test]
fn of_as_many_flows_as_were_planned_for_nearly_all_are_pinned_and_hardly_one_is_pushed_out() {
    for key in 1..=6 {
        let clients = || {
            let mut state = key << 32;
            move |_| (random(&mut state) as u32, random(&mut state) as u16 | 1024)
        };
        for (unpinned, pushed_out) in [unlucky::<3>(key, clients()), unlucky::<9>(key, clients())] {
            assert!(
                unpinned * 100 <= FLOWS,
                "key {key}: {unpinned} are not pinned"
            );
            assert!(
                pushed_out * 400 <= FLOWS,
                "key {key}: {pushed_out} are pushed out"
            );
        }
    }
}
