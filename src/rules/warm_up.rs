//! The warm-up of a line: how many messages it may send on each of its first days.
//!
//! Days are periods of 24 hours that start with the line's first message, so they need no time zone.

use std::time::Duration;

use crate::domain::UnixMs;

/// The length of a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A day of a warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUpDay {
    /// The number of the day, from 0.
    pub number: u32,
    /// The day's share: how many messages may be sent on this day.
    pub share: u32,
    /// When the next day begins.
    pub ends: UnixMs,
}

/// The day at `now` of a warm-up with these `shares` that began at `start`. `None`: the warm-up is over.
pub fn day(shares: &[u32], start: UnixMs, now: UnixMs) -> Option<WarmUpDay> {
    let number = u32::try_from(now.since(start).as_millis() / DAY.as_millis()).ok()?;
    let share = *shares.get(usize::try_from(number).ok()?)?;
    Some(WarmUpDay { number, share, ends: start.after(DAY.saturating_mul(number + 1)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixMs = UnixMs(1_795_984_075_312);

    #[test]
    fn each_day_has_its_share_and_then_the_line_is_free() {
        let at = |hours: u64| day(&[50, 100], START, START.after(Duration::from_secs(hours * 3_600)));
        let first = WarmUpDay { number: 0, share: 50, ends: START.after(DAY) };
        let second = WarmUpDay { number: 1, share: 100, ends: START.after(2 * DAY) };
        assert_eq!([0, 23, 24, 47].map(at), [Some(first), Some(first), Some(second), Some(second)]);
        assert_eq!(at(48), None);
        assert_eq!(day(&[], START, START), None, "a line without a warm-up");
        assert_eq!(day(&[50, 100], START, UnixMs(0)), Some(first), "the clock was set back");
    }

    proptest! {
        #[test]
        fn a_day_lasts_from_the_end_of_the_one_before_to_its_own(
            shares in prop::collection::vec(1_u32.., 1..30),
            ms in 0_u64..40 * 86_400_000,
        ) {
            let now = UnixMs(START.0 + ms);
            match day(&shares, START, now) {
                Some(today) => {
                    prop_assert!(now < today.ends && today.ends.since(now) <= DAY);
                    prop_assert_eq!(today.share, shares[today.number as usize]);
                    let next = day(&shares, START, today.ends);
                    prop_assert_eq!(next.map(|next| next.number), shares.get(today.number as usize + 1).map(|_| today.number + 1));
                }
                None => prop_assert!(now.since(START) >= DAY * shares.len() as u32),
            }
        }
    }
}
