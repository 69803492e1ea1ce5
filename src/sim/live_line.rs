//! The properties of a line that can change while the simulator runs. Callers pass the time.

use std::time::Duration;

use super::{
    line_status,
    scenario::{self, Limits},
};

/// The rate of a line whose number is also used in the WhatsApp Business app, in messages per second.
/// Source: developers.facebook.com/docs/whatsapp/throughput, read in a copy of 11 Sep 2026.
const COEXISTENCE_RATE: u32 = 20;

#[derive(Clone)]
pub(super) struct LiveLine {
    status: String,
    pub(super) quality_rating: String,
    messages_per_second: u32,
    pub(super) is_on_biz_app: bool,
    /// The end of an upgrade of the rate, during which every send is refused.
    pub(super) upgraded_at: Option<Duration>,
    limits: Limits,
    /// The code of the status, see [`line_status::code`].
    status_code: Option<u32>,
    admits_in_1s: usize,
}

impl LiveLine {
    pub(super) fn of(spec: &scenario::Line, limits: &Limits) -> Self {
        let mut live = Self {
            status: String::new(),
            quality_rating: spec.quality_rating.clone(),
            messages_per_second: spec.messages_per_second,
            is_on_biz_app: false,
            upgraded_at: None,
            limits: limits.clone(),
            status_code: None,
            admits_in_1s: 0,
        };
        live.set_status(spec.status.clone());
        live.set_on_biz_app(spec.is_on_biz_app);
        live
    }

    pub(super) fn status(&self) -> &str {
        &self.status
    }

    pub(super) fn set_status(&mut self, status: String) {
        self.status_code = line_status::code(&status);
        self.status = status;
    }

    /// The rate limit, in messages per second.
    pub(super) fn messages_per_second(&self) -> u32 {
        if self.is_on_biz_app { self.messages_per_second.min(COEXISTENCE_RATE) } else { self.messages_per_second }
    }

    pub(super) fn set_rate(&mut self, messages_per_second: u32) {
        self.messages_per_second = messages_per_second;
        self.admits_in_1s = admits_in_1s(self.messages_per_second(), &self.limits);
    }

    pub(super) fn set_on_biz_app(&mut self, is_on_biz_app: bool) {
        self.is_on_biz_app = is_on_biz_app;
        self.set_rate(self.messages_per_second);
    }

    /// The number of messages admitted in any one-second window.
    pub(super) fn admits_in_1s(&self) -> usize {
        self.admits_in_1s
    }

    /// The code with which the line refuses every send now; `None` if it can send.
    pub(super) fn refuses(&self, now: Duration) -> Option<u32> {
        self.status_code.or_else(|| self.upgraded_at.filter(|end| now < *end).map(|_| 131_057))
    }
}

/// The sum of rate, tolerance and burst, in messages per second.
fn admits_in_1s(messages_per_second: u32, limits: &Limits) -> usize {
    // The rate is below 2^32 and the tolerance at most 1, so the product fits. Truncation to whole messages is
    // intended.
    let tolerated = (f64::from(messages_per_second) * limits.rate_tolerance).floor() as u64;
    usize::try_from(u64::from(messages_per_second) + tolerated + u64::from(limits.rate_burst)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::Scenario;

    #[test]
    fn a_number_in_the_business_app_is_limited_to_20_a_second() {
        let scenario = Scenario::named("calm").expect("it comes with the program");
        let exact = Limits { rate_tolerance: 0.0, rate_burst: 0, ..Limits::default() };
        let mut line = LiveLine::of(&scenario.lines[0], &exact);
        assert_eq!((line.messages_per_second(), line.admits_in_1s()), (1_000, 1_000));
        line.set_on_biz_app(true);
        assert_eq!((line.messages_per_second(), line.admits_in_1s()), (20, 20));
        line.set_rate(10);
        assert_eq!(line.admits_in_1s(), 10);
        line.set_rate(80);
        line.set_on_biz_app(false);
        assert_eq!(line.admits_in_1s(), 80);
    }

    #[test]
    fn a_line_refuses_sends_by_its_status_and_during_an_upgrade() {
        let scenario = Scenario::named("calm").expect("it comes with the program");
        let mut line = LiveLine::of(&scenario.lines[0], &Limits::default());
        let second = Duration::from_secs(1);
        line.upgraded_at = Some(2 * second);
        assert_eq!([line.refuses(second), line.refuses(2 * second)], [Some(131_057), None]);
        for (status, code) in [("FLAGGED", None), ("RESTRICTED", Some(131_048)), ("DISCONNECTED", Some(133_010))] {
            line.set_status(status.into());
            assert_eq!((line.status(), line.refuses(2 * second)), (status, code));
        }
    }
}
