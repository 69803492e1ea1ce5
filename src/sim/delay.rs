//! Delays of a scenario, and the random draws from them.

use std::{str::FromStr, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde::{Deserialize, Deserializer, de};

/// A random duration, drawn each time it is used.
///
/// Written `"200ms"` (constant), `"20ms..120ms"` (uniform) or `"median 40ms p99 200ms"` (log-normal, with a long tail).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// A constant.
    Fixed(Duration),
    /// Uniform between the two bounds, both included.
    Uniform(Duration, Duration),
    /// Log-normal.
    Tail {
        /// Half of the draws are below this. Not zero.
        median: Duration,
        /// 99 of 100 draws are below this. At least the median.
        p99: Duration,
    },
}

/// The longest duration that a scenario may contain.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874;

impl Delay {
    /// No delay.
    pub const NONE: Delay = Delay::Fixed(Duration::ZERO);

    pub(super) fn draw(&self, draws: &mut Draws) -> Duration {
        match *self {
            Delay::Fixed(duration) => duration,
            Delay::Uniform(least, most) => least + (most - least).mul_f64(draws.uniform()),
            Delay::Tail { median, p99 } => {
                let sigma = (p99.as_secs_f64() / median.as_secs_f64()).ln() / Z99;
                // Capped at ten times the 99th percentile, so that no draw stalls a run.
                let drawn = median.as_secs_f64() * (sigma * draws.normal()).exp();
                Duration::from_secs_f64(drawn.min(p99.as_secs_f64() * 10.0))
            }
        }
    }
}

impl Default for Delay {
    fn default() -> Self {
        Self::NONE
    }
}

impl FromStr for Delay {
    type Err = BadDelay;

    fn from_str(text: &str) -> Result<Self, BadDelay> {
        parse(text).ok_or_else(|| BadDelay(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Delay> {
    if let Some((least, most)) = text.split_once("..") {
        let (least, most) = (duration(least)?, duration(most)?);
        return (least <= most).then_some(Delay::Uniform(least, most));
    }
    if let Some(tail) = text.strip_prefix("median ") {
        let (median, p99) = tail.split_once(" p99 ")?;
        let (median, p99) = (duration(median)?, duration(p99)?);
        return (!median.is_zero() && median <= p99).then_some(Delay::Tail { median, p99 });
    }
    duration(text).map(Delay::Fixed)
}

fn duration(text: &str) -> Option<Duration> {
    let duration: Duration = text.trim().parse::<jiff::SignedDuration>().ok()?.try_into().ok()?;
    (duration <= DURATION_MAX).then_some(duration)
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text is not a valid delay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a delay: write \"200ms\", \"20ms..120ms\" or \"median 40ms p99 200ms\", each at most 24h")]
pub struct BadDelay(String);

/// The random draws of one request. The same seed, line and request number give the same draws.
pub(super) struct Draws(SmallRng);

impl Draws {
    pub(super) fn new(seed: u64, line: u16, request: u64) -> Self {
        // Multiplying by odd constants spreads line and request over all bits, so that adjacent requests draw from
        // different streams.
        let mixed = seed ^ (u64::from(line) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(SmallRng::seed_from_u64(mixed ^ request.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    /// Uniform in `0.0..1.0`.
    pub(super) fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// Returns true with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.uniform() < probability
    }

    /// A uniform index below `len`, which must not be 0.
    pub(super) fn below(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// Returns each value with its probability, and `None` with the rest of 1.
    pub(super) fn pick<T>(&mut self, odds: impl IntoIterator<Item = (T, f64)>) -> Option<T> {
        let mut left = self.uniform();
        for (value, probability) in odds {
            if left < probability {
                return Some(value);
            }
            left -= probability;
        }
        None
    }

    /// Standard normal, by the Box–Muller transform.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delays_parse_in_all_three_forms() {
        assert_eq!("200ms".parse(), Ok(Delay::Fixed(200 * MS)));
        assert_eq!("0s".parse(), Ok(Delay::NONE));
        assert_eq!("20ms..2s".parse(), Ok(Delay::Uniform(20 * MS, 2000 * MS)));
        assert_eq!("median 40ms p99 200ms".parse(), Ok(Delay::Tail { median: 40 * MS, p99: 200 * MS }));
        for bad in ["", "20", "-5ms", "2s..1s", "median 40ms", "median 2s p99 1s", "median 0s p99 1s", "25h", "1s..25h"]
        {
            assert_eq!(bad.parse::<Delay>(), Err(BadDelay(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn draws_follow_their_distribution_and_repeat_with_their_seed() {
        let tail = Delay::Tail { median: 40 * MS, p99: 200 * MS };
        let uniform = Delay::Uniform(20 * MS, 120 * MS);
        let draw = |delay: Delay| -> Vec<Duration> {
            let mut draws: Vec<_> = (0..10_000).map(|request| delay.draw(&mut Draws::new(7, 0, request))).collect();
            draws.sort();
            draws
        };
        let drawn = draw(tail);
        assert!((35 * MS..45 * MS).contains(&drawn[5_000]), "median {:?}", drawn[5_000]);
        assert!((170 * MS..230 * MS).contains(&drawn[9_900]), "p99 {:?}", drawn[9_900]);
        assert_eq!(drawn, draw(tail));
        let drawn = draw(uniform);
        assert!(drawn[0] >= 20 * MS && drawn[9_999] <= 120 * MS);
        assert!((65 * MS..75 * MS).contains(&drawn[5_000]), "middle {:?}", drawn[5_000]);
    }

    #[test]
    fn draws_of_the_widest_tail_are_capped() {
        let tail: Delay = "median 1ns p99 24h".parse().expect("a delay");
        for request in 0..10_000 {
            assert!(tail.draw(&mut Draws::new(7, 0, request)) <= DURATION_MAX * 10);
        }
    }

    #[test]
    fn pick_returns_each_value_in_proportion_to_its_odds() {
        let mut counts = [0; 3];
        for request in 0..10_000 {
            match Draws::new(1, 3, request).pick([("a", 0.2), ("b", 0.5)]) {
                Some("a") => counts[0] += 1,
                Some(_) => counts[1] += 1,
                None => counts[2] += 1,
            }
        }
        assert!((1_800..2_200).contains(&counts[0]), "{counts:?}");
        assert!((4_800..5_200).contains(&counts[1]), "{counts:?}");
    }
}
