//! The gauges of the duties of this process: how late the events of the feed are, those of a subscriber, and what waits
//! in the chats of a line.
//!
//! A gauge is shown from its first value until its duty ends, or until it has had no new value for a minute: Redis does
//! not answer then, and nobody knows the value. The recorder cannot remove a gauge, so they are not in it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    AGE_MAX,
    series::{CHAT_INBOUND_AGE, CHAT_REPLIES_AGE, CONTACT_STATISTICS_AGE, DELIVERY_LAG, FEED_LAG, SUBSCRIBER_DISABLED},
    text::MetricsText,
};

/// The values by series and label, each with the time at which it was set.
type Values = BTreeMap<(&'static str, String), (Instant, f64)>;

static VALUES: Mutex<Values> = Mutex::new(Values::new());

/// A gauge of a duty. It is not shown any more once the value is dropped.
#[derive(Debug)]
pub struct DutyGauge {
    series: &'static str,
    label: String,
}

impl DutyGauge {
    /// The gauge of `series` with the value `label` of its only label. It is not shown before it is set.
    pub(super) fn new(series: &'static str, label: impl Into<String>) -> Self {
        Self { series, label: label.into() }
    }

    /// Sets the value.
    pub fn set(&self, value: f64) {
        values().insert(self.key(), (Instant::now(), value));
    }

    /// Shows no value until it is set again.
    pub fn hide(&self) {
        values().remove(&self.key());
    }

    fn key(&self) -> (&'static str, String) {
        (self.series, self.label.clone())
    }
}

impl Drop for DutyGauge {
    fn drop(&mut self) {
        self.hide();
    }
}

/// Writes the gauges that were set lately, as of `now`.
pub(super) fn write(text: &mut MetricsText, now: Instant) {
    let values = values();
    for series in
        [FEED_LAG, DELIVERY_LAG, SUBSCRIBER_DISABLED, CHAT_INBOUND_AGE, CHAT_REPLIES_AGE, CONTACT_STATISTICS_AGE]
    {
        let is_shown = |(key, (at, _)): &(&(&str, String), &(Instant, f64))| {
            key.0 == series && now.saturating_duration_since(*at) <= AGE_MAX
        };
        text.add(series, values.iter().filter(is_shown).map(|((_, label), (_, value))| ([label.as_str()], *value)));
    }
}

/// Ignores poisoning, because nothing panics while the lock is held.
fn values() -> MutexGuard<'static, Values> {
    VALUES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The value of the delivery lag of `subscriber` on a page of `now`.
    fn shown(subscriber: &str, now: Instant) -> Option<String> {
        let mut text = MetricsText::default();
        write(&mut text, now);
        let start = format!("{DELIVERY_LAG}{{subscriber=\"{subscriber}\"}} ");
        text.into_string().lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }

    #[test]
    fn a_gauge_is_shown_from_its_first_value_to_the_end_of_its_duty() {
        let gauge = DutyGauge::new(DELIVERY_LAG, "ended");
        assert_eq!(shown("ended", Instant::now()), None);
        gauge.set(2.5);
        assert_eq!(shown("ended", Instant::now()).as_deref(), Some("2.5"));
        drop(gauge);
        assert_eq!(shown("ended", Instant::now()), None);
    }

    #[test]
    fn a_value_that_was_set_long_ago_is_not_shown() {
        let gauge = DutyGauge::new(DELIVERY_LAG, "stale");
        gauge.set(0.0);
        let now = Instant::now();
        assert!(shown("stale", now + AGE_MAX / 2).is_some());
        assert_eq!(shown("stale", now + AGE_MAX + Duration::from_secs(1)), None);
        gauge.set(1.0);
        assert!(shown("stale", Instant::now()).is_some());
    }
}
