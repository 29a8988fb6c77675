//! Figures of candidates that take turns in rounds: medians and ratios.

/// Round, from 1, and index of a candidate for every turn. Each round starts with another candidate,
/// so that none is always the first after a pause.
pub(super) fn turns(rounds: u32, candidates: usize) -> impl Iterator<Item = (u32, usize)> {
    let turn = move |round: u32, turn: usize| (round as usize + turn) % candidates;
    (0..rounds).flat_map(move |round| (0..candidates).map(move |n| (round + 1, turn(round, n))))
}

/// All rounds of one figure of one candidate.
struct Series<F, C> {
    figure: F,
    candidate: C,
    /// One for each round, in order.
    rounds: Vec<f64>,
}

/// All figures, in the order of their first measurements.
pub(super) struct Figures<F, C>(Vec<Series<F, C>>);

impl<F: Copy + PartialEq, C: Copy + PartialEq> Figures<F, C> {
    /// Without figures.
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one more round.
    pub(super) fn add(&mut self, figure: F, candidate: C, value: f64) {
        let mut known = self.0.iter_mut();
        let known = known.find(|known| (known.figure, known.candidate) == (figure, candidate));
        match known {
            Some(series) => series.rounds.push(value),
            None => self.0.push(Series {
                figure,
                candidate,
                rounds: vec![value],
            }),
        }
    }

    /// Figures and candidates with at least one round.
    pub(super) fn measured(&self) -> impl Iterator<Item = (F, C)> {
        self.0
            .iter()
            .map(|series| (series.figure, series.candidate))
    }

    /// All rounds of a figure; empty if it was not measured.
    pub(super) fn rounds(&self, figure: F, candidate: C) -> &[f64] {
        let mut known = self.0.iter();
        let known = known.find(|known| (known.figure, known.candidate) == (figure, candidate));
        known.map_or(&[], |series| &series.rounds)
    }

    /// The median of all rounds.
    pub(super) fn median(&self, figure: F, candidate: C) -> Option<f64> {
        median(self.rounds(figure, candidate).to_vec())
    }

    /// The median of each round's ratio to the better of `others` in the same round: a disturbance of
    /// the machine hits both.
    pub(super) fn ratio(
        &self,
        figure: F,
        candidate: C,
        others: &[C],
        better: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let others = others.iter().map(|&other| self.rounds(figure, other));
        let best = |round: usize| {
            let values = others.clone().filter_map(|rounds| rounds.get(round));
            values.copied().reduce(better)
        };
        let ours = self.rounds(figure, candidate).iter().enumerate();
        let ratios = ours.filter_map(|(round, value)| Some(value / best(round)?));
        median(ratios.collect())
    }
}

/// The middle value, or the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(*values.get(lower)?, *values.get(upper)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn each_round_starts_with_another_candidate() {
        let all: Vec<_> = turns(3, 2).collect();
        assert_eq!(all, [(1, 0), (1, 1), (2, 1), (2, 0), (3, 0), (3, 1)]);
    }

    #[test]
    fn a_slow_round_that_hit_both_does_not_change_the_ratio() {
        let mut figures = Figures::new();
        for (direct, nginx) in [(100.0, 50.0), (50.0, 25.0), (100.0, 48.0)] {
            figures.add((), "direct", direct);
            figures.add((), "nginx", nginx);
        }
        assert_eq!(figures.ratio((), "nginx", &["direct"], f64::max), Some(0.5));
        assert_eq!(figures.ratio((), "nginx", &["haproxy"], f64::max), None);
    }
}
