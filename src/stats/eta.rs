//! The estimated end of a campaign, from the rates of its lines, its retries, and holds that end. The caller adds the
//! delay by the messaging limit of the business.

use std::time::Duration;

use super::line::LineWork;
use crate::{
    api_types::{WaitReason, Waiting},
    domain::UnixMs,
};

/// When a campaign that waits for `waiting_for` at `now` starts to send. `None` if that is unknown, because a person or
/// a new release has to end the wait.
pub fn starts_at(waiting_for: &[Waiting], now: UnixMs) -> Option<UnixMs> {
    waiting_for.iter().try_fold(now, |latest, waiting| match waiting {
        Waiting { reason: WaitReason::NewerRelease, .. } => None,
        waiting if is_limit(waiting) => Some(latest),
        Waiting { line: Some(_), .. } => Some(latest),
        Waiting { line: None, until, .. } => Some(latest.max((*until)?)),
    })
}

/// When the first message leaves, if a campaign that waits for `waiting_for` is launched at `from`. `None` if that is
/// unknown, or nothing is left to send.
pub fn first_send(waiting_for: &[Waiting], work: &[LineWork], from: UnixMs) -> Option<UnixMs> {
    let limit = waiting_for.iter().find(|waiting| is_limit(waiting)).and_then(|waiting| waiting.until);
    let from = starts_at(waiting_for, from)?.max(limit.unwrap_or(from));
    let first = |work: &LineWork| {
        let at = work.due_from(work.now.sends_from(from).filter(|_| work.to_send() > 0)?);
        work.closing(at).map_or(Some(at), |closing| closing.until)
    };
    work.iter().filter_map(first).min()
}

/// Whether the campaign waits for the messaging limit of the business. The limit slows a campaign instead of stopping
/// it: see `Store::places_free_at`.
fn is_limit(waiting: &Waiting) -> bool {
    waiting.reason == WaitReason::PortfolioLimit && waiting.line.is_none()
}

/// When the last message of a campaign leaves, by the rates and the retries alone, if the campaign sends from `from`
/// on. `weight`: its priority. `ceiling`: its maximum rate on a line, if it sets a rate. `None` if a line with work
/// does not send.
pub fn end_by_rate(work: &[LineWork], weight: u8, ceiling: Option<f64>, from: UnixMs) -> Option<UnixMs> {
    let end = |work: &LineWork| {
        let by_line = work.ours(weight).with_those_before(&work.others) / work.now.nominal_rate()?;
        let seconds = ceiling.map_or(by_line, |ceiling| by_line.max(work.to_send() as f64 / ceiling));
        let sent = work.elapse(work.now.sends_from(from)?, Duration::try_from_secs_f64(seconds).ok()?)?;
        Some(work.schedule.last_due.map_or(sent, |due| sent.max(due)))
    };
    work.iter().try_fold(from, |latest, work| Some(latest.max(end(work)?)))
}

/// Rounds up to a whole second, so that an estimate stays the same while sending goes as planned.
pub fn whole_second(at: UnixMs) -> UnixMs {
    UnixMs(at.0.div_ceil(1000).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::HoldScope,
        redis::pages::Schedule,
        stats::line::{
            LineSnapshot, Silence,
            tests::{hold, sending},
        },
    };

    const NOW: UnixMs = UnixMs(10_100);
    const LATER: UnixMs = UnixMs(70_000);

    fn work(pending: u64, now: LineSnapshot) -> LineWork {
        LineWork {
            line: "3001".into(),
            pending,
            retrying: 0,
            schedule: Schedule::default(),
            sends_in_grace_period: false,
            now,
            others: Vec::new(),
            windows: Vec::new(),
        }
    }

    fn end(work: &[LineWork]) -> Option<u64> {
        end_by_rate(work, 5, None, NOW).map(|end| whole_second(end).0)
    }

    #[test]
    fn the_slowest_line_decides_in_whole_seconds() {
        assert_eq!(end(&[work(100, sending(100.0)), work(100, sending(40.0))]), Some(13_000));
        assert_eq!(end(&[work(9, sending(10.0))]), Some(11_000));
        assert_eq!(end(&[work(9, LineSnapshot::default())]), None, "nobody serves it");
        assert_eq!(end(&[work(9, sending(0.0))]), None);
        let with_ceiling = |ceiling| end_by_rate(&[work(100, sending(100.0))], 5, Some(ceiling), NOW);
        assert_eq!(with_ceiling(10.0), Some(UnixMs(NOW.0 + 10_000)));
        assert_eq!(with_ceiling(500.0), Some(UnixMs(NOW.0 + 1_000)), "the line is slower");
    }

    #[test]
    fn a_hold_that_ends_and_a_retry_delay_the_end() {
        let held = |until| LineSnapshot {
            holds: vec![(HoldScope::Line("3001".into()), hold(Some(131_057), until))],
            ..sending(10.0)
        };
        assert_eq!(end(&[work(10, held(Some(LATER)))]), Some(71_000));
        assert_eq!(end(&[work(10, held(None))]), None);
        let silence = Some(Silence { since: NOW, until: LATER });
        let silent = LineSnapshot { silence, ..sending(10.0) };
        assert_eq!(end(&[work(10, silent)]), Some(71_000), "when another worker takes the line over");
        let mut retrying = work(10, sending(10.0));
        retrying.schedule = Schedule { rows: 1, next_due: Some(NOW), last_due: Some(LATER) };
        assert_eq!(end(&[retrying]), Some(70_000));
    }

    #[test]
    fn the_first_message_leaves_on_the_first_line_that_sends() {
        let held = |until| LineSnapshot {
            holds: vec![(HoldScope::Line("3001".into()), hold(Some(131_057), until))],
            ..sending(10.0)
        };
        let first = |work: &[LineWork], waiting_for: &[Waiting]| first_send(waiting_for, work, NOW);
        assert_eq!(first(&[work(9, held(Some(LATER))), work(9, sending(1.0))], &[]), Some(NOW));
        assert_eq!(first(&[work(9, held(Some(LATER))), work(0, sending(1.0))], &[]), Some(LATER));
        assert_eq!(first(&[work(9, held(None))], &[]), None);
        assert_eq!(first(&[], &[]), None);
        let schedule = Schedule { rows: 9, next_due: Some(LATER), last_due: Some(LATER) };
        let waiting = |pending| LineWork { schedule, ..work(pending, sending(1.0)) };
        assert_eq!(first(&[waiting(9)], &[]), Some(LATER), "all wait for their next attempt");
        assert_eq!(
            first_send(&[], &[waiting(9)], UnixMs(LATER.0 + 1)),
            Some(UnixMs(LATER.0 + 1)),
            "the start is later"
        );
        assert_eq!(first(&[waiting(10)], &[]), Some(NOW), "one does not wait");
        let limit = Waiting { until: Some(LATER), ..Waiting::new(WaitReason::PortfolioLimit, "") };
        assert_eq!(first(&[work(9, sending(1.0))], &[limit]), Some(LATER));
    }

    #[test]
    fn what_stops_the_whole_campaign_delays_it_until_its_end() {
        let waiting = |reason, until| Waiting { until, ..Waiting::new(reason, "") };
        let template = waiting(WaitReason::TemplatePaused, Some(LATER));
        assert_eq!(starts_at(std::slice::from_ref(&template), NOW), Some(LATER));
        assert_eq!(starts_at(&[template, waiting(WaitReason::Token, None)], NOW), None);
        assert_eq!(starts_at(&[waiting(WaitReason::AllPaused, None)], NOW), None);
        assert_eq!(starts_at(&[waiting(WaitReason::PortfolioLimit, Some(LATER))], NOW), Some(NOW));
        let of_line = |reason| Waiting { line: Some("3001".into()), ..waiting(reason, None) };
        assert_eq!(starts_at(&[of_line(WaitReason::LineRate)], NOW), Some(NOW));
        assert_eq!(starts_at(&[of_line(WaitReason::NewerRelease)], NOW), None);
    }
}
