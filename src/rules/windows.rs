//! When messages may leave according to the send window of a campaign and to contact hours, in the local time of one or
//! more time zones.
//!
//! Hours are half-open: open at their start, and closed at their end. They follow local clocks, so a window may be
//! shorter or longer on the day of a clock change, and a window within a skipped hour does not open on that day. With
//! several zones a window is open only while it is open in all of them. With contact hours it is open only while they
//! are open too.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    contact_hours::ContactHours,
    hours::{Hours, LocalHours, UnknownZone, in_zones, timestamp},
    zones,
};
use crate::domain::{SendWindow, UnixMs};

/// How many days ahead the next change is searched: first where most changes are, then as far as a window can stay
/// closed. A window that opens once a week may stay closed for several weeks because of holidays, clock changes or a
/// date that its zone skips.
const DAYS_AHEAD: [i32; 2] = [9, 36];

/// Maximum number of times that [`Windows::elapse`] follows a window opening or closing.
const OPENINGS_MAX: usize = 1_000;

/// Whether a window is open, and until when. `until` is `None` if that does not change within five weeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Messages may leave.
    pub is_open: bool,
    /// When `is_open` changes.
    pub until: Option<UnixMs>,
}

impl Opening {
    /// Closed, for at least five weeks.
    pub const NEVER: Opening = Opening { is_open: false, until: None };
}

/// The group of the recipients of a part. As text, it is `zones` or `rule|zones`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'g> {
    /// The name of the contact hours that apply to the recipients' numbers.
    pub rule: Option<&'g str>,
    /// The time zones of the recipients: names in the tz database, joined by `+`.
    pub zones: &'g str,
}

impl<'g> Group<'g> {
    /// Parses its text.
    pub fn parse(text: &'g str) -> Self {
        match text.split_once('|') {
            Some((rule, zones)) => Self { rule: Some(rule), zones },
            None => Self { rule: None, zones: text },
        }
    }
}

impl fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Group { rule, zones } = self;
        rule.map_or(Ok(()), |rule| write!(f, "{rule}|"))?;
        f.write_str(zones)
    }
}

/// What closes a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed<'w> {
    /// The send window of the campaign.
    SendWindow,
    /// The contact hours of this name.
    ContactHours(&'w str),
    /// The contact hours of this name, which are missing in the configuration.
    UnknownHours(&'w str),
}

/// The contact hours of a part.
#[derive(Clone, Debug, PartialEq)]
struct RuleHours {
    name: String,
    /// The hours in each zone; `None`: there are no contact hours of this name, so nothing may leave.
    local: Option<Vec<LocalHours>>,
}

/// When messages may leave: within a send window, contact hours, or both.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// The send window in its zones; empty if there is none.
    window: Vec<LocalHours>,
    rule: Option<RuleHours>,
}

impl Windows {
    /// The `window` in `zones`, by their names in the tz database.
    pub fn new<'a>(window: &SendWindow, zones: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownZone> {
        Ok(Self { window: in_zones(Arc::new(Hours::of_window(window)), zones)?, rule: None })
    }

    /// When messages of a part whose recipients have this `group` may leave; `None`: at all hours. `hours`: the contact
    /// hours of the installation, passed only for marketing.
    ///
    /// Errors: the tz database lacks a zone.
    pub fn of_part(
        window: Option<&SendWindow>,
        group: Option<&str>,
        hours: Option<&ContactHours>,
    ) -> Result<Option<Self>, UnknownZone> {
        let group = group.map(Group::parse);
        let zones = group.map_or(zones::UNKNOWN, |group| group.zones);
        let window = match window {
            None => Vec::new(),
            Some(window) if window.is_by_recipient() => Self::new(window, zones::names(zones))?.window,
            Some(window) => Self::new(window, [window.zone.as_str()])?.window,
        };
        let rule = match hours.zip(group.and_then(|group| group.rule)) {
            None => None,
            Some((hours, name)) => {
                let rule = hours.by_name(name);
                let local = rule.map(|rule| in_zones(rule.hours.clone(), zones::names(zones))).transpose()?;
                Some(RuleHours { name: name.to_owned(), local })
            }
        };
        Ok((!window.is_empty() || rule.is_some()).then_some(Self { window, rule }))
    }

    /// What closes the window at `now`, if it is closed.
    pub fn closed_by(&self, now: UnixMs) -> Option<Closed<'_>> {
        let now = timestamp(now);
        if !self.window.iter().all(|local| local.is_open(now)) {
            return Some(Closed::SendWindow);
        }
        let RuleHours { name, local } = self.rule.as_ref()?;
        match local {
            None => Some(Closed::UnknownHours(name)),
            Some(local) => (!local.iter().all(|local| local.is_open(now))).then_some(Closed::ContactHours(name)),
        }
    }

    /// Whether the window is open at `now`, and until when.
    pub fn at(&self, now: UnixMs) -> Opening {
        let now = timestamp(now);
        if self.rule.as_ref().is_some_and(|rule| rule.local.is_none()) {
            return Opening::NEVER;
        }
        let is_open = self.is_open(now);
        let until = DAYS_AHEAD.into_iter().find_map(|days| self.change(now, is_open, days));
        Opening { is_open, until: until.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(UnixMs) }
    }

    /// When the window opens or closes next, within `days_ahead`.
    fn change(&self, now: Timestamp, is_open: bool, days_ahead: i32) -> Option<Timestamp> {
        let mut edges: Vec<Timestamp> = self.local().flat_map(|local| local.edges(now, days_ahead)).collect();
        edges.retain(|edge| *edge > now);
        edges.sort_unstable();
        edges.into_iter().find(|edge| self.is_open(*edge) != is_open)
    }

    /// When the window has been open for a total of `time` since `from`; `None` if that is years away.
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
        self.local().all(|local| local.is_open(at))
    }

    /// All hours that have to be open at the same time.
    fn local(&self) -> impl Iterator<Item = &LocalHours> {
        self.window.iter().chain(self.rule.iter().filter_map(|rule| rule.local.as_ref()).flatten())
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{Day, TimeOfDay},
        rules::{
            contact_hours::{ContactRule, Numbers},
            hours::Holidays,
        },
    };

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
        let error = Windows::new(&window("09:00", "20:00", &Day::ALL), ["localtime"]).expect_err("no zone of a place");
        assert_eq!(error, UnknownZone("localtime".into()));
    }

    /// Contact hours `co`: from Monday to Friday 07:00 to 19:00, on Saturdays 08:00 to 15:00, and not on these dates.
    fn colombia(holidays: &[&str]) -> ContactHours {
        let workday = Some((7 * 60, 19 * 60));
        let by_day = [workday, workday, workday, workday, workday, Some((8 * 60, 15 * 60)), None];
        let holidays = holidays.iter().map(|date| date.parse().expect("a date")).collect();
        contact_hours(Hours::new(by_day, holidays))
    }

    fn contact_hours(hours: Hours) -> ContactHours {
        let (numbers, hours) = (vec![Numbers::Prefix(57)], Arc::new(hours));
        ContactHours::new(vec![ContactRule { name: "co".into(), numbers, hours, holidays_until: None }])
    }

    #[test]
    fn contact_hours_have_hours_for_each_day_and_none_on_holidays() {
        let hours = colombia(&["2026-12-08"]);
        let windows = Windows::of_part(None, Some("co|America/Bogota"), Some(&hours)).expect("a zone").expect("hours");
        let found = |time: &str| (opening(&windows, time), windows.closed_by(at(time)));
        let closed = Some(Closed::ContactHours("co"));
        // A Saturday afternoon, until Monday. Tuesday is a holiday.
        let (saturday, monday, tuesday) = ("2026-12-05T19:59:59Z", "2026-12-07T12:00:00Z", "2026-12-08T14:00:00Z");
        assert_eq!(found(saturday), ((true, Some("2026-12-05T20:00:00Z".to_owned())), None));
        assert_eq!(found("2026-12-05T20:00:00Z"), ((false, Some(monday.to_owned())), closed));
        assert_eq!(found(monday), ((true, Some("2026-12-08T00:00:00Z".to_owned())), None));
        assert_eq!(found(tuesday), ((false, Some("2026-12-09T12:00:00Z".to_owned())), closed));
    }

    #[test]
    fn with_a_send_window_both_have_to_be_open() {
        let (hours, window) = (colombia(&[]), window("09:00", "20:00", &Day::ALL));
        let of = |group, hours| Windows::of_part(Some(&window), Some(group), hours).expect("a zone").expect("hours");
        let both = of("co|America/Bogota", Some(&hours));
        // The window is in UTC: it is open until 15:00 in Bogota, where the contact hours begin at 07:00.
        assert_eq!(opening(&both, "2026-12-01T11:00:00Z"), (false, Some("2026-12-01T12:00:00Z".to_owned())));
        assert_eq!(both.closed_by(at("2026-12-01T11:00:00Z")), Some(Closed::ContactHours("co")));
        assert_eq!(opening(&both, "2026-12-01T12:00:00Z"), (true, Some("2026-12-01T20:00:00Z".to_owned())));
        assert_eq!(both.closed_by(at("2026-12-01T20:00:00Z")), Some(Closed::SendWindow));
        // Contact hours do not apply to other categories, nor to numbers without contact hours.
        for other in [of("co|America/Bogota", None), of("America/Bogota", Some(&hours))] {
            assert_eq!(opening(&other, "2026-12-01T11:00:00Z"), (true, Some("2026-12-01T20:00:00Z".to_owned())));
        }
        let none = Windows::of_part(None, Some("America/Bogota"), Some(&hours)).expect("a zone");
        assert_eq!(none, None, "at all hours");
    }

    #[test]
    fn contact_hours_that_are_not_configured_never_open() {
        let windows = Windows::of_part(None, Some("mx|America/Tijuana"), Some(&colombia(&[]))).expect("a zone");
        let windows = windows.expect("hours");
        assert_eq!(windows.at(at("2026-12-01T15:00:00Z")), Opening::NEVER);
        assert_eq!(windows.closed_by(at("2026-12-01T15:00:00Z")), Some(Closed::UnknownHours("mx")));
    }

    #[test]
    fn weeks_of_holidays_are_waited_for() {
        let hours = colombia(&["2026-12-07", "2026-12-14", "2026-12-21", "2026-12-28"]);
        let mondays = window("09:00", "20:00", &[Day::Mon]);
        let windows = Windows::of_part(Some(&mondays), Some("co|America/Bogota"), Some(&hours)).expect("a zone");
        let found = opening(&windows.expect("hours"), "2026-12-01T12:00:00Z");
        assert_eq!(found, (false, Some("2027-01-04T12:00:00Z".to_owned())));
    }

    #[test]
    fn a_group_is_read_as_it_is_written() {
        for text in ["America/Bogota", "co|America/Bogota", "br-ce|America/Fortaleza+America/Recife"] {
            assert_eq!(Group::parse(text).to_string(), text);
        }
        assert_eq!(Group::parse("co|Asia/Tokyo"), Group { rule: Some("co"), zones: "Asia/Tokyo" });
    }

    /// Zones with clock changes of an hour, of half an hour, of two hours, and twice around Ramadan, and one that
    /// skipped a date.
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

    /// Times from 2011 to 2037, many of them close to a clock change of a zone.
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

    /// Checks that the windows are open at `now` (ms) if `shown` says so, and that they open or close next at the time
    /// that `Windows::at` returns, or not within some days if it returns none.
    fn opens_as_shown(
        windows: &Windows,
        now: u64,
        days: u64,
        shown: impl Fn(u64) -> bool,
    ) -> Result<(), TestCaseError> {
        let Opening { is_open, until } = windows.at(UnixMs(now));
        prop_assert_eq!(is_open, shown(now));
        let end = until.map_or(now + days * 1_440 * MINUTE, |until| until.0);
        // Checks every whole minute up to the change. All edges and clock changes are at whole minutes.
        let mut minute = (now / MINUTE + 1) * MINUTE;
        while minute < end {
            prop_assert_eq!(shown(minute), is_open, "at {}", UnixMs(minute));
            minute += MINUTE;
        }
        if until.is_some() {
            prop_assert_ne!(shown(end), is_open);
        }
        Ok(())
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
            opens_as_shown(&windows, seconds * 1_000 + 500, 8, shown)?;
        }

        #[test]
        fn contact_hours_are_open_exactly_while_local_clocks_show_them(
            (zone, seconds) in times(),
            by_day in prop::array::uniform7(prop::option::of((0_u16..1_440, 1_u16..1_440))),
            holidays in prop::collection::btree_set(-2_i64..12, 0..6),
            window in prop::option::of(0_u16..1_439),
        ) {
            let tz = TimeZone::get(zone).expect("a zone");
            let by_day = by_day.map(|hours| hours.map(|(from, len)| (from, (from + len).min(1_440))));
            let today = Timestamp::from_second(seconds as i64).expect("a time").to_zoned(tz.clone()).date();
            let holidays: Holidays =
                holidays.into_iter().map(|days| today.checked_add(jiff::Span::new().days(days)).expect("a date")).collect();
            let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
            let window = window.map(|from| self::window(&time(from), "24:00", &Day::ALL));
            let shown = |ms: u64| {
                let now = Timestamp::from_millisecond(ms as i64).expect("a time");
                let minute_in = |tz: &TimeZone| {
                    let local = now.to_zoned(tz.clone());
                    (local.date(), local.hour() as u16 * 60 + local.minute() as u16)
                };
                let (date, minute) = minute_in(&tz);
                let hours = by_day[date.weekday().to_monday_zero_offset() as usize];
                let (_, by_utc) = minute_in(&TimeZone::UTC);
                hours.is_some_and(|(from, to)| from <= minute && minute < to)
                    && !holidays.contains(&date)
                    && window.as_ref().is_none_or(|window| window.from.minutes() <= by_utc)
            };
            let hours = contact_hours(Hours::new(by_day, holidays.clone()));
            let windows = Windows::of_part(window.as_ref(), Some(&format!("co|{zone}")), Some(&hours));
            let windows = windows.expect("a zone").expect("hours");
            let now = seconds * 1_000 + 500;
            opens_as_shown(&windows, now, 14, shown)?;
            prop_assert_eq!(windows.closed_by(UnixMs(now)).is_none(), shown(now));
        }
    }
}
