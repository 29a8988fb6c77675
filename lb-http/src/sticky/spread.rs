//! New sessions by weight, from any client: smooth weighted round robin, a state for each worker and
//! service.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use lb_common::abi::{BackendId, ServiceId};

/// The state of the round robin.
#[derive(Debug)]
pub(crate) struct Spread {
    turns: RefCell<HashMap<ServiceId, Vec<(BackendId, i64)>>>,
    seed: u64,
}

/// Two of them begin with different backends.
impl Default for Spread {
    fn default() -> Self {
        Self {
            turns: RefCell::default(),
            seed: RandomState::new().hash_one(0),
        }
    }
}

impl Spread {
    /// The next of `candidates`, which come with their weights; `None` if there are none.
    pub(crate) fn next(
        &self,
        service: ServiceId,
        candidates: impl Iterator<Item = (BackendId, u16)> + Clone,
    ) -> Option<BackendId> {
        let total: i64 = candidates
            .clone()
            .map(|(_, weight)| i64::from(weight))
            .sum();
        let mut services = self.turns.borrow_mut();
        let turns = services.entry(service).or_default();
        if turns.len() > 2 * candidates.clone().count() + 8 {
            turns.retain(|(id, _)| candidates.clone().any(|(known, _)| known == *id));
        }
        let mut best: Option<(usize, i64)> = None;
        for (id, weight) in candidates {
            let place = turns.iter().position(|(known, _)| *known == id);
            let place = place.unwrap_or_else(|| {
                let start = lb_common::hash::bytes([self.seed, 0], &id.0.to_le_bytes());
                turns.push((id, (start % total.max(1) as u64) as i64 - total / 2));
                turns.len() - 1
            });
            let turn = &mut turns[place].1;
            *turn += i64::from(weight);
            if best.is_none_or(|(_, most)| *turn > most) {
                best = Some((place, *turn));
            }
        }
        let (place, _) = best?;
        turns[place].1 -= total;
        Some(turns[place].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEB: ServiceId = ServiceId(1);

    fn counts(spread: &Spread, weights: &[u16], rounds: usize) -> Vec<usize> {
        let mut counts = vec![0; weights.len()];
        for _ in 0..rounds {
            let candidates = weights
                .iter()
                .enumerate()
                .map(|(n, w)| (BackendId(n as u32), *w));
            let id = spread.next(WEB, candidates).unwrap();
            counts[id.0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(Spread::default().next(WEB, std::iter::empty()), None);
    }

    #[test]
    fn one_that_is_away_gets_nothing_and_no_rush_when_it_is_back() {
        let spread = Spread::default();
        counts(&spread, &[1, 1], 100);
        assert_eq!(counts(&spread, &[1], 100), [100]);
        let back = counts(&spread, &[1, 1], 100);
        assert!(
            back.iter().all(|count| (48..=52).contains(count)),
            "{back:?}"
        );
    }

    proptest! {
        #[test]
        fn everybody_gets_a_share_by_weight(weights in proptest::collection::vec(1u16..20, 1..6)) {
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let counts = counts(&Spread::default(), &weights, total * 10);
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert!(count.abs_diff(usize::from(*weight) * 10) <= weights.len() + 1, "{:?} {:?}", counts, weights);
            }
        }
    }
}
