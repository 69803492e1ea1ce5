//! A send window: the hours of the day and the days of the week in which a campaign sends.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The hours and days in which a campaign sends. [`crate::rules::windows`] computes when the window is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendWindow {
    /// The first minute in which messages leave.
    pub from: TimeOfDay,
    /// The end: the first minute in which no message leaves any more.
    pub to: TimeOfDay,
    /// The days on which messages leave, by the local date.
    #[serde(default = "every_day")]
    pub days: Vec<Day>,
    /// The name of a time zone in the tz database, such as `America/Bogota`, or [`SendWindow::RECIPIENT`].
    pub zone: String,
}

fn every_day() -> Vec<Day> {
    Day::ALL.to_vec()
}

/// A time of the day in minutes after midnight, up to 24:00. On the wire it is `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Midnight at the end of a day.
    pub const END_OF_DAY: TimeOfDay = TimeOfDay(24 * 60);

    /// Parses `HH:MM`, from 00:00 to 24:00.
    pub fn parse(text: &str) -> Option<Self> {
        let [h1, h2, b':', m1, m2] = *text.as_bytes() else { return None };
        let number = |tens: u8, ones: u8| {
            (tens.is_ascii_digit() && ones.is_ascii_digit())
                .then(|| u16::from(tens - b'0') * 10 + u16::from(ones - b'0'))
        };
        let (hour, minute) = (number(h1, h2)?, number(m1, m2)?);
        let time = TimeOfDay(hour * 60 + minute);
        (minute < 60 && time <= TimeOfDay::END_OF_DAY).then_some(time)
    }

    /// Minutes after midnight, 0 to 1,440.
    pub fn minutes(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        TimeOfDay::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("a time of the day is HH:MM, from 00:00 to 24:00, such as 09:00"))
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// Every day, from Monday on.
    pub const ALL: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        }
    }
}

impl SendWindow {
    /// The zone of a window that follows the local time of each recipient.
    pub const RECIPIENT: &str = "recipient";

    /// Whether the window follows the local time of each recipient.
    pub fn is_by_recipient(&self) -> bool {
        self.zone == SendWindow::RECIPIENT
    }

    /// What is wrong with the hours and the days, as sentences.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.from >= self.to {
            problems.push(format!(
                "send_window is from {} to {}: `to` must be later on the same day, at most 24:00",
                self.from, self.to
            ));
        }
        if self.days.is_empty() {
            problems.push("send_window has no days: name at least one, or leave `days` out for every day".to_owned());
        }
        problems
    }
}

impl fmt::Display for SendWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SendWindow { from, to, days, zone } = self;
        write!(f, "{from} to {to}")?;
        if Day::ALL.iter().any(|day| !days.contains(day)) {
            let names: Vec<&str> = days.iter().map(|day| day.name()).collect();
            write!(f, " on {}", names.join(", "))?;
        }
        if self.is_by_recipient() { write!(f, ", where the recipient is") } else { write!(f, " ({zone})") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_of_the_day_has_hours_and_minutes() {
        let minutes = |text| TimeOfDay::parse(text).map(TimeOfDay::minutes);
        assert_eq!(["00:00", "09:05", "23:59", "24:00"].map(minutes), [Some(0), Some(545), Some(1_439), Some(1_440)]);
        for bad in ["", "9:00", "09:60", "24:01", "0900", "09:00:00", "+9:00", "ab:cd", "99:00"] {
            assert_eq!(minutes(bad), None, "{bad}");
        }
        assert_eq!(TimeOfDay(545).to_string(), "09:05");
    }

    #[test]
    fn a_window_without_days_is_open_every_day() {
        let window: SendWindow =
            serde_json::from_value(json!({ "from": "09:00", "to": "20:00", "zone": "America/Bogota" })).expect("one");
        assert_eq!(window.days, Day::ALL);
        assert_eq!(window.to_string(), "09:00 to 20:00 (America/Bogota)");
        assert!(window.problems().is_empty());
        let workdays = SendWindow { days: vec![Day::Mon, Day::Sat], ..window.clone() };
        assert_eq!(workdays.to_string(), "09:00 to 20:00 on mon, sat (America/Bogota)");
        let wrong = SendWindow { days: Vec::new(), to: window.from, ..window };
        assert_eq!(wrong.problems().len(), 2);
        for bad in [json!({ "from": "9", "to": "20:00", "zone": "x" }), json!({ "from": "09:00", "to": "20:00" })] {
            assert!(serde_json::from_value::<SendWindow>(bad).is_err());
        }
    }
}
