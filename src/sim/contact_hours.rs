//! Contact hours: when marketing may be sent to numbers with certain prefixes. For the referee.

use std::collections::HashMap;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Deserializer, de};

use crate::domain::{Day, Phone, TimeOfDay, UnixMs};

/// The hours of the numbers with a prefix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactHours {
    /// The first digits of the numbers, without a plus.
    pub prefix: String,
    /// The time zone where their owners are.
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub zone: TimeZone,
    /// The hours of each day, such as `07:00-19:00`. On days that are not listed, marketing is forbidden.
    pub days: HashMap<Day, OpenHours>,
    /// Dates on which marketing is forbidden.
    #[serde(default)]
    pub holidays: Vec<Date>,
}

/// Hours of a day: from the first time up to the second, exclusive.
#[derive(Clone, Copy, Debug)]
pub struct OpenHours(TimeOfDay, TimeOfDay);

impl ContactHours {
    /// Whether marketing to this person at this time is outside the hours.
    pub(super) fn forbid(&self, to: Phone, at: UnixMs) -> bool {
        to.digits().to_string().starts_with(&self.prefix) && !self.are_open(at)
    }

    fn are_open(&self, at: UnixMs) -> bool {
        let at = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let Some(local) = at.map(|at| self.zone.to_datetime(at)) else { return false };
        let day = Day::ALL[usize::from(local.weekday().to_monday_zero_offset().unsigned_abs())];
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let hours = self.days.get(&day).filter(|_| !self.holidays.contains(&local.date()));
        hours.is_some_and(|OpenHours(from, to)| (from.minutes()..to.minutes()).contains(&minute))
    }
}

impl<'de> Deserialize<'de> for OpenHours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let times = text.split_once('-').and_then(|(from, to)| Some((TimeOfDay::parse(from)?, TimeOfDay::parse(to)?)));
        let times = times.filter(|(from, to)| from < to);
        times
            .map(|(from, to)| Self(from, to))
            .ok_or_else(|| de::Error::custom("hours are HH:MM-HH:MM, such as 07:00-19:00"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marketing_is_forbidden_outside_the_hours_of_the_prefix() {
        let text = r#"
            prefix = "57"
            zone = "America/Bogota"
            days = { tue = "07:00-19:00", sat = "08:00-15:00" }
            holidays = ["2026-12-08"]
        "#;
        let hours: ContactHours = toml::from_str(text).expect("hours");
        let forbid = |number: &str, time: &str| {
            hours.forbid(number.parse().expect("a number"), UnixMs::parse(time).expect("a time"))
        };
        // From Tuesday, the first of December, 07:00.
        for (time, forbidden) in [
            ("2026-12-01T11:59:59Z", true),
            ("2026-12-01T12:00:00Z", false),
            ("2026-12-01T23:59:59Z", false),
            ("2026-12-02T00:00:00Z", true),
            ("2026-12-02T14:00:00Z", true),
            ("2026-12-05T14:00:00Z", false),
            ("2026-12-08T14:00:00Z", true),
        ] {
            assert_eq!(forbid("+573001234567", time), forbidden, "{time}");
            assert!(!forbid("+5491155550001", time), "{time}");
        }
        assert!(toml::from_str::<ContactHours>(&text.replace("07:00-", "19:00-")).is_err());
        assert!(toml::from_str::<ContactHours>(&text.replace("Bogota", "Bogotá")).is_err());
    }
}
