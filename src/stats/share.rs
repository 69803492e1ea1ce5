//! How campaigns share a line.
//!
//! Campaigns that share a line take turns. In each turn a campaign sends as many messages as its priority, here called
//! its weight `w`. So a campaign with `work` messages needs `work / w` turns. In these turns every other campaign sends
//! `work / w` times its own weight, or all its messages if it has fewer. The sum of all these messages, divided by the
//! rate of the line, is the time. It is exact while the rate stays the same and no work is added.

/// A campaign's share of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineShare {
    /// The number of messages left to send on the line.
    pub work: u64,
    /// The campaign's priority.
    pub weight: u8,
}

impl LineShare {
    /// The number of messages that the line sends until this share is done: its own messages, and those of `others`
    /// that go before its last one.
    pub fn with_those_before(self, others: &[LineShare]) -> f64 {
        let turns = self.work as f64 / f64::from(self.weight);
        let before: f64 = others.iter().map(|other| (other.work as f64).min(turns * f64::from(other.weight))).sum();
        self.work as f64 + before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(work: u64, weight: u8) -> LineShare {
        LineShare { work, weight }
    }

    #[test]
    fn campaigns_share_a_line_in_proportion_to_priority() {
        let table = [
            (share(800, 5), vec![], 80.0, 10.0),
            (share(800, 5), vec![share(800, 5)], 80.0, 20.0),
            (share(10, 5), vec![share(10_000_000, 5)], 80.0, 0.25),
            (share(10_000, 5), vec![share(10, 5)], 10.0, 1001.0),
            (share(100, 10), vec![share(1000, 5), share(20, 5)], 10.0, 17.0),
            (share(0, 5), vec![share(1000, 5)], 10.0, 0.0),
        ];
        for (ours, others, rate, expected) in table {
            assert_eq!(ours.with_those_before(&others) / rate, expected, "{ours:?} beside {others:?}");
        }
    }

    proptest! {
        /// Compares the formula with a line that serves campaigns in turns, one message per unit of weight in each
        /// turn.
        #[test]
        fn the_formula_matches_a_simulated_line(ours in (1u64..300, 1u8..=10), others in prop::collection::vec((0u64..300, 1u8..=10), 0..5)) {
            let ours = share(ours.0, ours.1);
            let others: Vec<LineShare> = others.into_iter().map(|(work, weight)| share(work, weight)).collect();
            let (mut left, mut rest, mut sent) = (ours.work, others.iter().map(|other| other.work).collect::<Vec<_>>(), 0u64);
            while left > 0 {
                let turn = left.min(u64::from(ours.weight));
                left -= turn;
                sent += turn;
                for (rest, other) in rest.iter_mut().zip(&others) {
                    let turn = (*rest).min(u64::from(other.weight));
                    *rest -= turn;
                    sent += turn;
                }
            }
            let round: u64 = others.iter().map(|other| u64::from(other.weight)).sum();
            let predicted = ours.with_those_before(&others);
            prop_assert!((predicted - sent as f64).abs() <= (round + u64::from(ours.weight)) as f64, "{predicted} for {sent}");
        }
    }
}
