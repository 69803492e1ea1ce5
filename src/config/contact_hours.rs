//! `[[contact_hours]]`

use std::{collections::HashSet, sync::Arc};

use jiff::civil::Date;

use super::reader::Section;
use crate::{
    domain::{Day, TimeOfDay},
    rules::{
        contact_hours::{ContactHours, ContactRule, Numbers},
        hours::{Holidays, Hours},
    },
};

/// Reads all entries. No two have the same name or prefix.
pub(super) fn read(sections: Vec<Section<'_>>) -> ContactHours {
    let (mut rules, mut names, mut prefixes) = (Vec::new(), HashSet::new(), HashSet::new());
    for mut section in sections {
        let rule = rule(&mut section);
        if !names.insert(rule.name.clone()) {
            section.problem("name", format!("({}) is the name of an earlier entry: give each its own", rule.name));
        }
        for numbers in &rule.numbers {
            if !prefixes.insert(*numbers) {
                section.problem("prefixes", format!("({numbers}) is a prefix of an earlier entry: keep one of them"));
            }
        }
        section.finish();
        rules.push(rule);
    }
    ContactHours::new(rules)
}

fn rule(section: &mut Section<'_>) -> ContactRule {
    let name = section.plain_id("name");
    // Required for readers of the file; not used otherwise.
    section.required("source");
    let numbers = numbers(section);
    let by_day =
        Day::ALL.map(|day| section.parsed(day.name(), "hours such as 09:00-20:00, at most up to 24:00", parse_hours));
    if by_day.iter().all(Option::is_none) {
        section.problem("mon", "must be given, or another day: without hours on any day, nothing would ever leave");
    }
    let (holidays, holidays_until) = calendar(section);
    ContactRule { name, numbers, hours: Arc::new(Hours::new(by_day, holidays)), holidays_until }
}

fn numbers(section: &mut Section<'_>) -> Vec<Numbers> {
    const MUST: &str = "a list of prefixes of phone numbers with their country code and without a plus, such as 57, or * for all \
        other numbers";
    if !section.has("prefixes") {
        section.problem("prefixes", "must be given: the numbers that the hours are for");
    }
    let texts = section.texts("prefixes", MUST).unwrap_or_default();
    let numbers: Option<Vec<Numbers>> = texts.iter().map(|text| Numbers::parse(text)).collect();
    numbers.unwrap_or_else(|| {
        section.problem("prefixes", format!("({}) must be {MUST}", texts.join(", ")));
        Vec::new()
    })
}

fn parse_hours(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (TimeOfDay::parse(from.trim())?, TimeOfDay::parse(to.trim())?);
    (from < to).then_some((from.minutes(), to.minutes()))
}

/// The holidays, and the last day for which they are listed.
fn calendar(section: &mut Section<'_>) -> (Holidays, Option<Date>) {
    const MUST: &str = "a list of dates such as 2026-12-25";
    let texts = section.texts("holidays", MUST).unwrap_or_default();
    let dates: Option<Holidays> = texts.iter().map(|text| text.parse().ok()).collect();
    let until: Option<Date> = section.parsed("holidays_until", "a date such as 2026-12-31", |text| text.parse().ok());
    let Some(dates) = dates else {
        section.problem("holidays", format!("({}) must be {MUST}", texts.join(", ")));
        return (Holidays::new(), until);
    };
    if !dates.is_empty() && until.is_none() {
        section.problem("holidays_until", "must be given with holidays: the last day up to which they are listed");
    }
    if let Some(after) = dates.last().filter(|last| until.is_some_and(|until| **last > until)) {
        section.problem("holidays_until", format!("must not be before the last of the holidays, which is {after}"));
    }
    (dates, until)
}
