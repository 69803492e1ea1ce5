//! The warm-up of a line: how many messages of the day's share the line may still send.
//!
//! The owner takes the share from Redis in small portions before it sends, and counts them down in memory. So no day
//! exceeds its share, even across restarts and takeovers.
//!
//! If the process dies: the rest of its portion counts as sent on that day. A clean stop returns it.
//! Never: reads a clock. Callers pass `now`.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tracing::{info, warn};

use crate::{
    domain::{Line, LineId, UnixMs},
    redis::{Result, Store},
    rules::warm_up::{self, WarmUpDay},
};

/// How long to wait before another attempt to take a portion, after Redis has failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The warm-up of one line.
#[derive(Debug)]
pub struct WarmUp {
    shares: Arc<[u32]>,
    /// When it began, once that is known.
    start: Option<UnixMs>,
    /// The day of the last portion.
    day: Option<WarmUpDay>,
    /// The messages of the portion that may still be sent on that day.
    left: u32,
    /// Whether nothing of that day's share is left in Redis.
    is_spent: bool,
    is_taking: bool,
    /// The earliest time at which the next portion is taken, after Redis has failed.
    retry_at: Option<UnixMs>,
}

/// Whether the line may send a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmUpGrant {
    /// It may.
    Granted,
    /// A portion has to be taken first.
    TakeFirst,
    /// A portion is being taken, or will be when Redis answers again.
    Waiting,
    /// The share of the day is spent.
    Spent,
}

/// A portion of the share of a day.
#[derive(Clone, Copy, Debug)]
struct Portion {
    /// When the warm-up began.
    start: UnixMs,
    /// The day and the messages of the portion. `None`: the warm-up is over.
    taken: Option<(WarmUpDay, u32)>,
}

impl WarmUp {
    /// The warm-up of a line that starts now; `None` if it has none.
    pub fn of(line: &Line) -> Option<Self> {
        let shares = line.warm_up.clone();
        let new =
            || Self { shares, start: None, day: None, left: 0, is_spent: false, is_taking: false, retry_at: None };
        (!line.warm_up.is_empty()).then(new)
    }

    /// Whether the line may send a message at `now`.
    pub fn grant(&self, now: UnixMs) -> WarmUpGrant {
        let is_over = self.start.is_some_and(|start| warm_up::day(&self.shares, start, now).is_none());
        if is_over || self.is_today(now) && self.left > 0 {
            WarmUpGrant::Granted
        } else if self.spent_until(now).is_some() {
            WarmUpGrant::Spent
        } else if self.is_taking || self.retry_at.is_some_and(|at| now < at) {
            WarmUpGrant::Waiting
        } else {
            WarmUpGrant::TakeFirst
        }
    }

    /// When the next day begins, if the share of the present one is spent.
    pub fn spent_until(&self, now: UnixMs) -> Option<UnixMs> {
        let day = self.day.filter(|_| self.is_spent && self.left == 0 && self.is_today(now))?;
        Some(day.ends)
    }

    /// Records that a message leaves. Called only after [`WarmUpGrant::Granted`].
    pub fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Records that a message that left was certainly not sent.
    pub fn refund(&mut self) {
        self.left += 1;
    }

    /// What the line has taken and not sent: the number of the day, and the messages.
    pub fn unsent(&self) -> Option<(u32, u32)> {
        self.day.filter(|_| self.left > 0).map(|day| (day.number, self.left))
    }

    fn is_today(&self, now: UnixMs) -> bool {
        self.day.is_some_and(|day| now < day.ends)
    }

    fn apply(&mut self, Portion { start, taken }: Portion, line: &LineId) {
        self.start = Some(start);
        let Some((day, n)) = taken else { return };
        if self.day.replace(day) != Some(day) {
            self.left = 0; // The rest of an earlier day's portion is dropped.
        }
        self.left += n;
        self.is_spent = n == 0;
        if self.is_spent {
            info!(
                line.id = %line, day = day.number + 1, share = day.share, until = %day.ends,
                "the share of the day of the line's warm-up is spent"
            );
        }
    }

    /// Takes a portion of up to `wanted` messages at `now`. From this call on, until the future ends, no other is
    /// taken.
    pub fn take(
        this: &Rc<RefCell<Self>>,
        store: Store,
        line: LineId,
        wanted: u32,
        now: UnixMs,
    ) -> impl Future<Output = ()> + 'static {
        let warm_up = this.clone();
        let (shares, start) = (this.borrow().shares.clone(), this.borrow().start);
        this.borrow_mut().is_taking = true;
        async move {
            let portion = portion(&store, &line, &shares, start, wanted, now).await;
            warm_up.borrow_mut().taken(portion, &line, now);
        }
    }

    fn taken(&mut self, portion: Result<Portion>, line: &LineId, now: UnixMs) {
        self.is_taking = false;
        match portion {
            Ok(portion) => {
                self.retry_at = None;
                self.apply(portion, line);
            }
            Err(error) => {
                if self.retry_at.is_none() {
                    warn!(line.id = %line, %error, "the share of the day of the line's warm-up could not be read");
                }
                self.retry_at = Some(now.after(RETRY_AFTER));
            }
        }
    }
}

async fn portion(
    store: &Store,
    line: &LineId,
    shares: &[u32],
    start: Option<UnixMs>,
    wanted: u32,
    now: UnixMs,
) -> Result<Portion> {
    let start = match start {
        Some(start) => start,
        None => store.begin_warm_up(line, now).await?,
    };
    let Some(day) = warm_up::day(shares, start, now) else { return Ok(Portion { start, taken: None }) };
    let n = store.take_warm_up(line, day.number, day.share, wanted).await?;
    Ok(Portion { start, taken: Some((day, n)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::tests::line;

    const START: UnixMs = UnixMs(1_795_984_075_312);
    const DAY: Duration = Duration::from_secs(86_400);

    fn taken(warm_up: &mut WarmUp, n: u32, now: UnixMs) {
        let day = warm_up::day(&warm_up.shares, START, now);
        warm_up.apply(Portion { start: START, taken: day.map(|day| (day, n)) }, &"3001".into());
    }

    #[test]
    fn a_line_spends_its_portions_and_waits_for_the_next_day() {
        let line = Line { warm_up: [2, 3].into(), ..line("3001", "2001") };
        let mut warm_up = WarmUp::of(&line).expect("a warm-up");
        assert_eq!(warm_up.grant(START), WarmUpGrant::TakeFirst);
        taken(&mut warm_up, 2, START);
        for _ in 0..2 {
            assert_eq!(warm_up.grant(START), WarmUpGrant::Granted);
            warm_up.spend();
        }
        assert_eq!((warm_up.grant(START), warm_up.unsent()), (WarmUpGrant::TakeFirst, None));
        taken(&mut warm_up, 0, START);
        assert_eq!((warm_up.grant(START), warm_up.spent_until(START)), (WarmUpGrant::Spent, Some(START.after(DAY))));
        warm_up.refund();
        assert_eq!((warm_up.grant(START), warm_up.unsent()), (WarmUpGrant::Granted, Some((0, 1))));
        let second = START.after(DAY);
        assert_eq!(warm_up.grant(second), WarmUpGrant::TakeFirst, "what was left of the first day is lost");
        taken(&mut warm_up, 3, second);
        assert_eq!(warm_up.unsent(), Some((1, 3)));
        assert_eq!(warm_up.grant(START.after(2 * DAY)), WarmUpGrant::Granted, "the warm-up is over");
    }

    #[test]
    fn a_line_without_shares_has_no_warm_up() {
        assert!(WarmUp::of(&line("3001", "2001")).is_none());
    }
}
