//! When the send window of a campaign is open, by the local time of one or more time zones.
//!
//! A window is half-open: it is open at `from`, and closed at `to`. It follows the clocks of its zones, so a day on which
//! they are changed may have a shorter or a longer window, and a window within an hour that is skipped does not open on
//! that day. With several zones it is open only while it is open in all of them.

use std::time::Duration;

use jiff::{
    SignedDuration, Timestamp, ToSpan as _,
    civil::{Date, DateTime, Weekday},
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use super::zones;
use crate::domain::{Day, SendWindow, UnixMs};

/// How far ahead an edge is looked for, in days. A window that opens once a week may lose a day to a change of the clocks,
/// and its zone may skip a date.
const DAYS_AHEAD: i32 = 22;

/// How many times [`Windows::elapse`] sees the window open or close.
const OPENINGS_MAX: usize = 1_000;

/// Whether a window is open, and until when; `until` is `None` if that does not change within three weeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Messages may leave.
    pub is_open: bool,
    /// When that changes.
    pub until: Option<UnixMs>,
}

impl Opening {
    /// Closed, for at least three weeks.
    pub const NEVER: Opening = Opening { is_open: false, until: None };
}

/// The tz database has no time zone with this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time zone of the tz database: name one such as America/Bogota")]
pub struct UnknownZone(pub String);

/// A send window in its time zones.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// The first minute of the day, and the first minute after the end.
    minutes: (u16, u16),
    days: Vec<Day>,
    zones: Vec<TimeZone>,
}

impl Windows {
    /// The `window` in `zones`, by their names in the tz database.
    pub fn new<'a>(window: &SendWindow, zones: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownZone> {
        let zone = |name: &str| TimeZone::get(name).map_err(|_| UnknownZone(name.to_owned()));
        Ok(Self {
            minutes: (window.from.minutes(), window.to.minutes()),
            days: window.days.clone(),
            zones: zones.into_iter().map(zone).collect::<Result<_, _>>()?,
        })
    }

    /// The `window` of a part whose numbers are in this group of zones, if they were grouped: see [`zones::of_phone`].
    pub fn of_part(window: &SendWindow, group: Option<&str>) -> Result<Self, UnknownZone> {
        if window.is_by_recipient() {
            Self::new(window, zones::names(group.unwrap_or(zones::UNKNOWN)))
        } else {
            Self::new(window, [window.zone.as_str()])
        }
    }

    /// Whether the window is open at `now`, and until when.
    pub fn at(&self, now: UnixMs) -> Opening {
        let now = timestamp(now);
        let is_open = self.is_open(now);
        let mut edges: Vec<Timestamp> = self.zones.iter().flat_map(|zone| self.edges(zone, now)).collect();
        edges.retain(|edge| *edge > now);
        edges.sort_unstable();
        let until = edges.into_iter().find(|edge| self.is_open(*edge) != is_open);
        Opening { is_open, until: until.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(UnixMs) }
    }

    /// When the window has been open for `time` from `from` on; `None` if that is years away.
    pub fn elapse(&self, from: UnixMs, time: Duration) -> Option<UnixMs> {
        let (mut at, mut left) = (from, time);
        for _ in 0..OPENINGS_MAX {
            match self.at(at) {
                Opening { is_open: true, until: Some(until) } if until.since(at) < left => {
                    left -= until.since(at);
                    at = until;
                }
                Opening { is_open: true, .. } => return Some(at.after(left)),
                Opening { is_open: false, until } => at = until?,
            }
        }
        None
    }

    fn is_open(&self, at: Timestamp) -> bool {
        self.zones.iter().all(|zone| self.is_open_in(zone, at))
    }

    fn is_open_in(&self, zone: &TimeZone, at: Timestamp) -> bool {
        let local = zone.to_datetime(at);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        (self.minutes.0..self.minutes.1).contains(&minute) && self.days.contains(&day(local.date()))
    }

    /// Times at which the window may open or close in `zone`: where a local day reaches `from` or `to`, and where the
    /// clocks are changed.
    fn edges(&self, zone: &TimeZone, now: Timestamp) -> Vec<Timestamp> {
        let today = zone.to_datetime(now).date();
        let mut edges = Vec::new();
        for date in (-1..=DAYS_AHEAD).filter_map(|days| today.checked_add(days.days()).ok()) {
            for minutes in [self.minutes.0, self.minutes.1] {
                edges.extend(date_at(date, minutes).into_iter().flat_map(|local| instants(zone, local)));
            }
        }
        let end = now.checked_add(SignedDuration::from_hours(i64::from(DAYS_AHEAD) * 24)).unwrap_or(Timestamp::MAX);
        edges.extend(zone.following(now).map(|change| change.timestamp()).take_while(|at| *at <= end));
        edges
    }
}

fn timestamp(at: UnixMs) -> Timestamp {
    let ms = i64::try_from(at.0).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

fn date_at(date: Date, minutes: u16) -> Option<DateTime> {
    date.at(0, 0, 0, 0).checked_add(i64::from(minutes).minutes()).ok()
}

/// The instants at which clocks of `zone` may show the local time: two if it occurs twice, or is skipped.
fn instants(zone: &TimeZone, local: DateTime) -> impl Iterator<Item = Timestamp> {
    let offsets: [Option<Offset>; 2] = match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
    };
    offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(local).ok())
}

fn day(date: Date) -> Day {
    match date.weekday() {
        Weekday::Monday => Day::Mon,
        Weekday::Tuesday => Day::Tue,
        Weekday::Wednesday => Day::Wed,
        Weekday::Thursday => Day::Thu,
        Weekday::Friday => Day::Fri,
        Weekday::Saturday => Day::Sat,
        Weekday::Sunday => Day::Sun,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::TimeOfDay;

    const MINUTE: u64 = 60_000;

    fn window(from: &str, to: &str, days: &[Day]) -> SendWindow {
        let time = |text| TimeOfDay::parse(text).expect("a time");
        SendWindow { from: time(from), to: time(to), days: days.to_vec(), zone: "UTC".into() }
    }

    fn at(text: &str) -> UnixMs {
        UnixMs::parse(text).expect("a time")
    }

    /// Whether the window is open at the time, and until when, as texts.
    fn opening(windows: &Windows, time: &str) -> (bool, Option<String>) {
        let Opening { is_open, until } = windows.at(at(time));
        (is_open, until.map(|until| until.to_string()))
    }

    #[test]
    fn a_window_is_open_at_its_start_and_closed_at_its_end() {
        let windows = Windows::new(&window("09:00", "20:00", &Day::ALL), ["America/Bogota"]).expect("a zone");
        let open = (true, Some("2026-12-02T01:00:00Z".to_owned()));
        assert_eq!(opening(&windows, "2026-12-01T14:00:00Z"), open);
        assert_eq!(opening(&windows, "2026-12-02T00:59:59.999Z"), open);
        let closed = (false, Some("2026-12-02T14:00:00Z".to_owned()));
        assert_eq!(opening(&windows, "2026-12-02T01:00:00Z"), closed);
        assert_eq!(opening(&windows, "2026-12-02T13:59:59.999Z"), closed);
    }

    #[test]
    fn a_window_is_closed_on_other_days() {
        use Day::{Fri, Mon, Thu, Tue, Wed};
        let windows = Windows::new(&window("07:00", "19:00", &[Mon, Tue, Wed, Thu, Fri]), ["America/Bogota"]);
        // A Friday evening, until Monday morning.
        let found = opening(&windows.expect("a zone"), "2026-12-05T00:00:00Z");
        assert_eq!(found, (false, Some("2026-12-07T12:00:00Z".to_owned())));
    }

    #[test]
    fn a_window_follows_the_clocks_of_its_zone() {
        let windows = Windows::new(&window("01:30", "03:30", &Day::ALL), ["America/New_York"]).expect("a zone");
        // 02:00 to 03:00 is skipped: the window lasts an hour.
        assert_eq!(opening(&windows, "2026-03-08T06:30:00Z"), (true, Some("2026-03-08T07:30:00Z".to_owned())));
        // 01:00 to 02:00 occurs twice: the window opens, closes as the clocks are set back, and opens again.
        assert_eq!(opening(&windows, "2026-11-01T05:30:00Z"), (true, Some("2026-11-01T06:00:00Z".to_owned())));
        assert_eq!(opening(&windows, "2026-11-01T06:00:00Z"), (false, Some("2026-11-01T06:30:00Z".to_owned())));
        assert_eq!(opening(&windows, "2026-11-01T06:30:00Z"), (true, Some("2026-11-01T08:30:00Z".to_owned())));
        // A window within the skipped hour does not open on that Sunday.
        let skipped = Windows::new(&window("02:00", "02:30", &[Day::Sun]), ["America/New_York"]).expect("a zone");
        assert_eq!(opening(&skipped, "2026-03-08T00:00:00Z"), (false, Some("2026-03-15T06:00:00Z".to_owned())));
    }

    #[test]
    fn with_several_zones_all_have_to_be_open() {
        let hours = window("09:00", "20:00", &Day::ALL);
        let windows = Windows::new(&hours, ["America/Mexico_City", "America/Tijuana"]).expect("zones");
        assert_eq!(opening(&windows, "2026-12-01T15:00:00Z"), (false, Some("2026-12-01T17:00:00Z".to_owned())));
        assert_eq!(opening(&windows, "2026-12-01T17:00:00Z"), (true, Some("2026-12-02T02:00:00Z".to_owned())));
        let never = Windows::new(&window("09:00", "10:00", &Day::ALL), ["America/Lima", "Asia/Tokyo"]).expect("zones");
        assert_eq!(opening(&never, "2026-12-01T15:00:00Z"), (false, None));
    }

    #[test]
    fn a_window_of_all_hours_never_closes() {
        let always = Windows::new(&window("00:00", "24:00", &Day::ALL), ["Europe/Madrid"]).expect("a zone");
        assert_eq!(opening(&always, "2026-03-29T00:30:00Z"), (true, None));
        let mondays = Windows::new(&window("00:00", "24:00", &[Day::Mon]), ["Europe/Madrid"]).expect("a zone");
        assert_eq!(opening(&mondays, "2026-11-29T23:00:00Z"), (true, Some("2026-11-30T23:00:00Z".to_owned())));
    }

    #[test]
    fn time_elapses_only_while_the_window_is_open() {
        let windows = Windows::new(&window("09:00", "20:00", &Day::ALL), ["America/Bogota"]).expect("a zone");
        let after = |hours: u64| {
            let at = windows.elapse(at("2026-12-02T00:00:00Z"), Duration::from_secs(hours * 3_600));
            at.map(|at| at.to_string())
        };
        assert_eq!(after(1), Some("2026-12-02T01:00:00Z".to_owned()));
        assert_eq!(after(2), Some("2026-12-02T15:00:00Z".to_owned()));
        assert_eq!(after(13), Some("2026-12-03T15:00:00Z".to_owned()));
        assert_eq!(after(1_000_000), None);
    }

    #[test]
    fn an_unknown_zone_is_an_error() {
        let error = Windows::new(&window("09:00", "20:00", &Day::ALL), ["America/Bogotá"]).expect_err("no such zone");
        assert_eq!(error, UnknownZone("America/Bogotá".into()));
    }

    /// Zones whose clocks change by an hour, by half an hour, by two, twice around a fast, and one that skipped a date.
    const ZONES: [&str; 9] = [
        "America/Bogota",
        "America/New_York",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "Europe/Dublin",
        "Pacific/Apia",
    ];

    /// Times close to a change of the clocks of a zone, and any others, from 2011 to 2037.
    fn times() -> impl Strategy<Value = (&'static str, u64)> {
        let whenever = 1_293_840_000_u64..2_145_916_800;
        (prop::sample::select(&ZONES[..]), whenever, -26_i64..26, any::<bool>()).prop_map(
            |(zone, at, hours, is_close)| {
                let tz = TimeZone::get(zone).expect("a zone");
                let from = Timestamp::from_second(at as i64).expect("a time");
                let change =
                    tz.following(from).next().filter(|_| is_close).map(|change| change.timestamp().as_second());
                (zone, change.map_or(at, |change| (change + hours * 3_600 + 60 * hours) as u64))
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_window_is_open_exactly_while_local_clocks_show_its_hours(
            (zone, seconds) in times(),
            other in prop::option::of(prop::sample::select(&ZONES[..])),
            from in 0_u16..1_440,
            len in 1_u16..1_440,
            mask in 1_u8..128,
        ) {
            let to = (from + len).min(1_440);
            let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
            let days: Vec<Day> = (0..7).filter(|n| mask >> n & 1 == 1).map(|n| Day::ALL[n]).collect();
            let names: Vec<&str> = [Some(zone), other].into_iter().flatten().collect();
            let windows = Windows::new(&window(&time(from), &time(to), &days), names.iter().copied()).expect("zones");
            let zones: Vec<TimeZone> = names.iter().map(|name| TimeZone::get(name).expect("a zone")).collect();
            let shown = |ms: u64| zones.iter().all(|zone| {
                let local = Timestamp::from_millisecond(ms as i64).expect("a time").to_zoned(zone.clone());
                let minute = local.hour() as u16 * 60 + local.minute() as u16;
                minute >= from && minute < to && days.contains(&Day::ALL[local.weekday().to_monday_zero_offset() as usize])
            });
            let now = seconds * 1_000 + 500;
            let Opening { is_open, until } = windows.at(UnixMs(now));
            prop_assert_eq!(is_open, shown(now));
            let end = until.map_or(now + 8 * 1_440 * MINUTE, |until| until.0);
            // Every minute up to the change, at whole minutes: edges and changes of the clocks are at such.
            let mut minute = (now / MINUTE + 1) * MINUTE;
            while minute < end {
                prop_assert_eq!(shown(minute), is_open, "at {}", UnixMs(minute));
                minute += MINUTE;
            }
            if until.is_some() {
                prop_assert_ne!(shown(end), is_open);
            }
        }
    }
}
