//! Pacing: when the next message of a line may leave.
//!
//! Only the owner of a line paces it, in memory, with `governor`. A new pacer starts empty, so that a takeover, a
//! restart or a change of the rate never adds a burst to what Meta has already received in this second. When Meta
//! throttles, the rate is cut by half at once and rises again in steps.
//!
//! Chats and campaigns share the rate. Campaigns leave the headroom free, and chats leave campaigns half of the rest
//! while there are any to send.
//!
//! If the process dies: the pace is lost, and the next owner starts empty.
//! Never: reads a clock. Callers pass `now`, which does not go back.

use std::{
    cell::Cell,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    state::{InMemoryState, NotKeyed},
};

use crate::rules::rate::LaneRates;

/// Burst beyond one message, in messages, at any rate. It lets a line that is late catch up: without it, the timer's
/// resolution of one millisecond costs 1 % of the rate at 80 messages per second. It is too small for any second to
/// exceed the rate by two messages.
const BURST_MIN: f64 = 0.25;

/// Burst beyond one message, in seconds of the rate, if that is more than [`BURST_MIN`]. It lets a line catch up when
/// the machine is busy. The worst second then has the rate, one message and one percent; most of that percent is left
/// for messages that are late on the network.
const BURST_SECONDS: f64 = 0.003;

/// The limiter counts in fractions of a message: this many make one message.
const PARTS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// The share of the rate that a cut leaves.
const CUT: f64 = 0.5;

/// The share of the full rate by which the rate rises each second after a cut.
const RISE_PER_SECOND: f64 = 0.05;

/// Minimum time between two cuts. Throttled answers come in groups, and one cut is enough for all messages sent before
/// it.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// The share of their rate that campaigns keep, however many messages the chats have.
const CAMPAIGNS_KEEP: f64 = 0.5;

/// The lowest rate that a cut leaves, in messages per second.
const RATE_MIN: f64 = 0.2;

/// The clock that `governor` requires. It returns the `now` of the last call.
struct PacerClock(Cell<Instant>);

impl Clock for PacerClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// One limit of a line.
struct Limiter {
    limiter: RateLimiter<NotKeyed, InMemoryState, PacerClock>,
    /// Taken for a message that has not left yet.
    taken: bool,
}

/// What the next message is, and what else waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A message of a chat, while no campaign has anything to send.
    Chat,
    /// A message of a chat, while a campaign waits.
    ChatBesideCampaigns,
    /// A message of a campaign.
    Campaign,
}

/// The pacer of one line.
pub struct Pacer {
    full: LaneRates,
    share: f64,
    campaigns: Limiter,
    /// Limits the chats while campaigns have something to send.
    chats: Limiter,
    /// All messages.
    whole: Limiter,
    cut_at: Option<Instant>,
    risen_at: Instant,
}

impl Pacer {
    /// A pacer for `rates` above zero. Starts empty.
    pub fn new(rates: LaneRates, now: Instant) -> Self {
        let [campaigns, chats, whole] = limiters(rates, 1.0, now);
        Self { full: rates, share: 1.0, campaigns, chats, whole, cut_at: None, risen_at: now }
    }

    /// Changes the full rates. A cut stays in force.
    pub fn set_rates(&mut self, rates: LaneRates, now: Instant) {
        if rates != self.full {
            self.full = rates;
            self.restart(now);
        }
    }

    /// The present rate of the campaigns in messages per second.
    pub fn rate(&self) -> f64 {
        cut(self.full.campaigns, self.share)
    }

    /// The present rate of all messages in messages per second.
    pub fn whole_rate(&self) -> f64 {
        cut(self.full.whole, self.share)
    }

    /// Whether the rate is cut.
    pub fn is_cut(&self) -> bool {
        self.share < 1.0
    }

    /// Takes the right to send one message. `Err`: how long to wait for it.
    pub fn take(&mut self, traffic: Traffic, now: Instant) -> Result<(), Duration> {
        self.rise(now);
        let own = match traffic {
            Traffic::Chat => None,
            Traffic::ChatBesideCampaigns => Some(&mut self.chats),
            Traffic::Campaign => Some(&mut self.campaigns),
        };
        let Some(own) = own else { return self.whole.take(now) };
        // What is taken of the own limit is kept until the whole has room, too.
        if !own.taken {
            own.take(now)?;
            own.taken = true;
        }
        self.whole.take(now)?;
        own.taken = false;
        Ok(())
    }

    /// Cuts the rate, because Meta throttled the line.
    pub fn throttled(&mut self, now: Instant) {
        if self.cut_at.is_some_and(|at| now.duration_since(at) < CUT_EVERY) {
            return;
        }
        self.cut_at = Some(now);
        self.risen_at = now;
        self.share *= CUT;
        self.restart(now);
    }

    fn rise(&mut self, now: Instant) {
        if self.share >= 1.0 {
            return;
        }
        let waited = now.duration_since(self.risen_at).as_secs_f64();
        if waited >= 1.0 {
            self.risen_at = now;
            self.share = (self.share + RISE_PER_SECOND * waited).min(1.0);
            self.restart(now);
        }
    }

    /// Restarts the limits at the current rates, empty.
    pub fn restart(&mut self, now: Instant) {
        [self.campaigns, self.chats, self.whole] = limiters(self.full, self.share, now);
    }
}

/// What a cut leaves of a rate.
fn cut(rate: f64, share: f64) -> f64 {
    (rate * share).max(RATE_MIN.min(rate))
}

/// The limits of the campaigns, of the chats beside campaigns, and of both together.
fn limiters(rates: LaneRates, share: f64, now: Instant) -> [Limiter; 3] {
    let LaneRates { campaigns, whole } = rates;
    [campaigns, whole - campaigns * CAMPAIGNS_KEEP, whole].map(|rate| Limiter::new(cut(rate, share), now))
}

impl Limiter {
    fn new(rate: f64, now: Instant) -> Self {
        let burst = burst(rate);
        let period = Duration::from_secs_f64(1.0 / (rate * f64::from(PARTS.get()))).max(Duration::from_nanos(1));
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, PacerClock(Cell::new(now)));
        // Empty the limiter: a full burst right after the burst of the old limiter would exceed the rate in this second.
        let _ = limiter.check_n(burst);
        Self { limiter, taken: false }
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.limiter.clock().0.set(now);
        let checked = self.limiter.check_n(PARTS).expect("a burst has room for a message");
        checked.map_err(|not_until| not_until.wait_time_from(now))
    }
}

/// The burst at `rate`, in fractions of a message: see [`PARTS`].
fn burst(rate: f64) -> NonZeroU32 {
    let burst = (1.0 + (rate * BURST_SECONDS).max(BURST_MIN)) * f64::from(PARTS.get());
    NonZeroU32::new(burst as u32).unwrap_or(PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{LINE_RATE_MAX, LINE_RATE_MIN};

    /// Without headroom.
    fn pacer(rate: f64, now: Instant) -> Pacer {
        Pacer::new(LaneRates { campaigns: rate, whole: rate }, now)
    }

    /// What chats and campaigns send in ten seconds, if both have more than enough, or only one of them has.
    fn sent(rates: LaneRates, has_chats: bool, has_campaigns: bool) -> (f64, f64) {
        let start = Instant::now();
        let (mut pacer, mut now, mut chats, mut campaigns) = (Pacer::new(rates, start), start, 0, 0);
        let chat = if has_campaigns { Traffic::ChatBesideCampaigns } else { Traffic::Chat };
        while now < start + Duration::from_secs(10) {
            now += Duration::from_millis(1);
            chats += u32::from(has_chats && pacer.take(chat, now).is_ok());
            campaigns += u32::from(has_campaigns && pacer.take(Traffic::Campaign, now).is_ok());
        }
        (f64::from(chats) / 10.0, f64::from(campaigns) / 10.0)
    }

    #[test]
    fn chats_have_the_headroom_and_half_of_the_rest_while_campaigns_wait() {
        let is_near = |is: (f64, f64), wanted: (f64, f64)| {
            assert!((is.0 - wanted.0).abs() <= 0.5 && (is.1 - wanted.1).abs() <= 0.5, "{is:?}, not {wanted:?}");
        };
        let rates = LaneRates { campaigns: 80.0, whole: 100.0 };
        is_near(sent(rates, false, true), (0.0, 80.0));
        is_near(sent(rates, true, false), (100.0, 0.0));
        is_near(sent(rates, true, true), (60.0, 40.0));
    }

    #[test]
    fn a_new_pace_starts_empty() {
        let now = Instant::now();
        let mut pacer = pacer(80.0, now);
        let wait = pacer.take(Traffic::Campaign, now).expect_err("nothing may go at once");
        assert!(wait <= Duration::from_micros(12_500), "{wait:?}");
    }

    #[test]
    fn throttled_answers_of_one_second_halve_the_rate_once() {
        let start = Instant::now();
        let mut pacer = pacer(100.0, start);
        pacer.throttled(start);
        pacer.throttled(start + Duration::from_millis(500));
        assert_eq!(pacer.rate(), 50.0);
        pacer.throttled(start + Duration::from_millis(1_000));
        assert_eq!(pacer.rate(), 25.0);
        let _ = pacer.take(Traffic::Campaign, start + Duration::from_secs(3));
        assert_eq!(pacer.rate(), 35.0);
        let _ = pacer.take(Traffic::Campaign, start + Duration::from_secs(60));
        assert_eq!(pacer.rate(), 100.0);
        assert!(!pacer.is_cut());
    }

    #[test]
    fn the_worst_second_is_the_rate_one_message_and_one_percent() {
        for rate in [0.5, 20.0, 80.0, 200.0, 1_000.0, 100_000.0] {
            let start = Instant::now();
            let mut pacer = pacer(rate, start);
            // A late line sends as fast as it can.
            let mut now = start + Duration::from_secs(10);
            let mut sent = 0;
            while now < start + Duration::from_secs(11) {
                match pacer.take(Traffic::Campaign, now) {
                    Ok(()) => sent += 1,
                    Err(wait) => now += wait,
                }
            }
            let most = rate + 1.0 + rate / 100.0;
            assert!(f64::from(sent) <= most && f64::from(sent) >= rate.floor(), "{sent} at {rate}");
        }
    }

    #[test]
    fn the_lowest_and_the_highest_rate_work() {
        let now = Instant::now();
        // The headroom may be up to nine tenths of the line's rate.
        let mut slow = pacer(LINE_RATE_MIN / 10.0, now);
        slow.throttled(now);
        let wait = slow.take(Traffic::Campaign, now).expect_err("a new pace starts empty");
        assert!(wait <= Duration::from_secs(1_000), "{wait:?}");
        let _ = pacer(LINE_RATE_MAX, now).take(Traffic::Campaign, now);
    }

    #[test]
    fn a_line_keeps_its_rate_although_timers_are_late() {
        for rate in [20.0, 80.0, 200.0, 1_000.0] {
            let start = Instant::now();
            let (mut pacer, mut now, mut sent) = (pacer(rate, start), start, 0);
            while now < start + Duration::from_secs(100) {
                match pacer.take(Traffic::Campaign, now) {
                    Ok(()) => sent += 1,
                    Err(wait) => now += wait + Duration::from_millis(2),
                }
            }
            assert!(f64::from(sent) >= 0.999 * 100.0 * rate, "{sent} at {rate}");
        }
    }
}
