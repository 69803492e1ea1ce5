//! Contact hours: the hours in which marketing may leave to numbers with certain prefixes, by the law or custom of a
//! country. [`super::windows`] computes when they are open.

use std::{collections::HashMap, fmt, sync::Arc};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::hours::{Hours, timestamp};
use crate::domain::{Phone, UnixMs};

/// How many days before the end of its holiday calendar a rule is reported as outdated.
const OUTDATED_DAYS_AHEAD: i64 = 30;

/// The contact hours of an installation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ContactHours(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    all: Vec<ContactRule>,
    /// The index of the rule of each prefix.
    by_prefix: HashMap<u64, usize>,
    /// The index of the rule for all other phone numbers.
    of_others: Option<usize>,
}

/// A rule: the contact hours of numbers with certain prefixes.
#[derive(Clone, Debug, PartialEq)]
pub struct ContactRule {
    /// Its name, unique. Groups of recipients refer to it.
    pub name: String,
    /// The numbers that it covers.
    pub numbers: Vec<Numbers>,
    /// The weekly hours. They are closed on holidays.
    pub hours: Arc<Hours>,
    /// The last day of the calendar of holidays; `None` if the rule has none.
    pub holidays_until: Option<Date>,
}

/// Numbers that a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// Numbers that begin with these digits, of which the first is not 0. Of the prefixes of all rules that match a
    /// number, the longest counts.
    Prefix(u64),
    /// Numbers that match no prefix of any rule.
    Others,
}

impl Numbers {
    /// Parses digits, or `*` for all other numbers.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Others);
        }
        let is_prefix = (1..=15).contains(&text.len()) && !text.starts_with('0');
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
        digits.flatten().filter(|_| is_prefix).map(Self::Prefix)
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numbers::Prefix(digits) => write!(f, "{digits}"),
            Numbers::Others => f.write_str("*"),
        }
    }
}

impl ContactHours {
    /// Whether `other` is a clone of these contact hours.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The contact hours with these rules. Of two rules with the same name or numbers, the first counts.
    pub fn new(all: Vec<ContactRule>) -> Self {
        let (mut by_prefix, mut of_others) = (HashMap::new(), None);
        for (number, rule) in all.iter().enumerate() {
            for numbers in &rule.numbers {
                match numbers {
                    Numbers::Prefix(prefix) => _ = by_prefix.entry(*prefix).or_insert(number),
                    Numbers::Others => _ = of_others.get_or_insert(number),
                }
            }
        }
        Self(Arc::new(Rules { all, by_prefix, of_others }))
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.0.all.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.all.is_empty()
    }

    /// The rule for a number, if one covers it.
    pub fn of_phone(&self, phone: Phone) -> Option<&ContactRule> {
        let mut prefix = phone.digits();
        while prefix > 0 && !self.is_empty() {
            if let Some(number) = self.0.by_prefix.get(&prefix) {
                return self.0.all.get(*number);
            }
            prefix /= 10;
        }
        self.0.all.get(self.0.of_others?)
    }

    /// The rule with this name.
    pub fn by_name(&self, name: &str) -> Option<&ContactRule> {
        self.0.all.iter().find(|rule| rule.name == name)
    }

    /// A warning for each rule whose holiday calendar has ended at `now` or ends within a month.
    pub fn outdated(&self, now: UnixMs) -> Vec<String> {
        let now = timestamp(now);
        let sentence = |rule: &ContactRule| {
            let until = rule.holidays_until.filter(|until| days_left(*until, now) < OUTDATED_DAYS_AHEAD)?;
            let name = &rule.name;
            Some(format!(
                "the holidays of the contact hours {name} are listed up to {until}: marketing leaves on holidays after that day; \
                list them, and set contact_hours.holidays_until"
            ))
        };
        self.0.all.iter().filter_map(sentence).collect()
    }
}

/// The number of days from `now` to the day `until`.
fn days_left(until: Date, now: Timestamp) -> i64 {
    let today = now.to_zoned(TimeZone::UTC).date();
    until.since(today).map_or(0, |span| i64::from(span.get_days()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, numbers: &[&str], holidays_until: Option<&str>) -> ContactRule {
        ContactRule {
            name: name.to_owned(),
            numbers: numbers.iter().map(|text| Numbers::parse(text).expect("numbers")).collect(),
            hours: Arc::default(),
            holidays_until: holidays_until.map(|date| date.parse().expect("a date")),
        }
    }

    #[test]
    fn the_longest_prefix_of_a_number_has_its_rule() {
        let name_of = |hours: &ContactHours, number: &str| {
            hours.of_phone(number.parse().expect("a number")).map(|rule| rule.name.clone()).unwrap_or_default()
        };
        let mut rules = vec![rule("co", &["57"], None), rule("br", &["55"], None), rule("ce", &["5585", "5588"], None)];
        let hours = ContactHours::new(rules.clone());
        let numbers = ["+573001234567", "+5511987654321", "+5585987654321", "+34612345678"];
        assert_eq!(numbers.map(|number| name_of(&hours, number)), ["co", "br", "ce", ""]);
        rules.push(rule("others", &["*"], None));
        assert_eq!(name_of(&ContactHours::new(rules), "+34612345678"), "others");
        assert_eq!(name_of(&ContactHours::default(), "+34612345678"), "");
    }

    #[test]
    fn numbers_are_a_prefix_or_all_others() {
        assert_eq!(Numbers::parse("5585"), Some(Numbers::Prefix(5585)));
        assert_eq!(Numbers::parse("*"), Some(Numbers::Others));
        for bad in ["", "057", "+57", "5a", "1234567890123456"] {
            assert_eq!(Numbers::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_calendar_that_ends_within_a_month_is_announced() {
        let hours = ContactHours::new(vec![rule("co", &["57"], Some("2026-12-31")), rule("mx", &["52"], None)]);
        let at = |time: &str| hours.outdated(UnixMs::parse(time).expect("a time"));
        assert_eq!(at("2026-12-01T12:00:00Z"), [""; 0]);
        for time in ["2026-12-02T12:00:00Z", "2026-12-31T12:00:00Z", "2027-06-01T00:00:00Z"] {
            let sentences = at(time);
            assert!(sentences.len() == 1 && sentences[0].contains("co are listed up to 2026-12-31"), "{sentences:?}");
        }
    }
}
