//! Weekly opening hours in the local time of a time zone. [`super::windows`] combines them.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{
    SignedDuration, Timestamp, ToSpan as _,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use super::zones;
use crate::domain::{Day, SendWindow, UnixMs};

/// Dates on which hours are closed all day.
pub type Holidays = BTreeSet<Date>;

/// The tz database has no time zone with this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time zone of the tz database: name one such as America/Bogota")]
pub struct UnknownZone(pub String);

/// Weekly hours in local time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hours {
    /// For each day from Monday on, the minutes of the day at which it opens and closes; `None`: closed all day.
    by_day: [Option<(u16, u16)>; 7],
    /// Dates on which the hours are closed all day.
    holidays: Holidays,
}

impl Hours {
    /// The hours of each day from Monday on: the minutes after midnight at which they open and close.
    pub fn new(by_day: [Option<(u16, u16)>; 7], holidays: Holidays) -> Self {
        Self { by_day, holidays }
    }

    /// The hours of a send window.
    pub(super) fn of_window(window: &SendWindow) -> Self {
        let minutes = (window.from.minutes(), window.to.minutes());
        Self::new(Day::ALL.map(|day| window.days.contains(&day).then_some(minutes)), Holidays::new())
    }

    fn contain(&self, local: DateTime) -> bool {
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        self.on(local.date()).is_some_and(|(from, to)| (from..to).contains(&minute))
    }

    fn on(&self, date: Date) -> Option<(u16, u16)> {
        let day = date.weekday().to_monday_zero_offset().unsigned_abs();
        self.by_day[usize::from(day)].filter(|_| !self.holidays.contains(&date))
    }
}

/// Hours in the local time of one zone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LocalHours {
    hours: Arc<Hours>,
    zone: TimeZone,
}

impl LocalHours {
    pub(super) fn is_open(&self, at: Timestamp) -> bool {
        self.hours.contain(self.zone.to_datetime(at))
    }

    /// Times at which the hours may open or close: their start and end on each local day, and the clock changes.
    pub(super) fn edges(&self, now: Timestamp, days_ahead: i32) -> Vec<Timestamp> {
        let today = self.zone.to_datetime(now).date();
        let mut edges = Vec::new();
        for date in (-1..=days_ahead).filter_map(|days| today.checked_add(days.days()).ok()) {
            let minutes = self.hours.on(date).into_iter().flat_map(|(from, to)| [from, to]);
            let locals = minutes.filter_map(|minutes| date_at(date, minutes));
            edges.extend(locals.flat_map(|local| instants(&self.zone, local)));
        }
        let end = now.checked_add(SignedDuration::from_hours(i64::from(days_ahead) * 24)).unwrap_or(Timestamp::MAX);
        edges.extend(self.zone.following(now).map(|change| change.timestamp()).take_while(|at| *at <= end));
        edges
    }
}

/// The `hours` in each of `zones`.
///
/// Errors: the tz database lacks one of the zones.
pub(super) fn in_zones<'a>(
    hours: Arc<Hours>,
    zones: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<LocalHours>, UnknownZone> {
    let zone = |name: &str| zones::of_database(name).ok_or_else(|| UnknownZone(name.to_owned()));
    zones.into_iter().map(|name| Ok(LocalHours { hours: hours.clone(), zone: zone(name)? })).collect()
}

pub(super) fn timestamp(at: UnixMs) -> Timestamp {
    let ms = i64::try_from(at.0).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

fn date_at(date: Date, minutes: u16) -> Option<DateTime> {
    date.at(0, 0, 0, 0).checked_add(i64::from(minutes).minutes()).ok()
}

/// The instants that a local time may stand for in `zone`: two if the local time occurs twice, or is skipped by a clock
/// change.
fn instants(zone: &TimeZone, local: DateTime) -> impl Iterator<Item = Timestamp> {
    let offsets: [Option<Offset>; 2] = match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
    };
    offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(local).ok())
}
