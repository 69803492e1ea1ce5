//! Reads `[prices]`: the list of prices in the file that it names.

use std::{collections::HashSet, sync::Arc};

use jiff::civil::Date;

use super::reader::Section;
use crate::domain::prices::{CountryPrices, PriceList};

/// The highest price of a message, in the currency.
const PRICE_MAX: f64 = 1_000.0;

/// The maximum number of digits of a prefix: the calling code, with or without an area code.
const PREFIX_DIGITS_MAX: usize = 9;

pub(super) fn read(mut section: Section<'_>) -> Option<Arc<PriceList>> {
    let file = section.file("file");
    section.finish();
    file.map(|file| Arc::new(list(file)))
}

fn list(mut file: Section<'_>) -> PriceList {
    let currency = file.given("currency", "the three letters of a currency, such as USD", |text| {
        (text.len() == 3 && text.bytes().all(|letter| letter.is_ascii_uppercase())).then(|| text.to_owned())
    });
    let valid_from = file.given("valid_from", "a day, such as 2026-10-01", |text| text.parse::<Date>().ok());
    let mut prefixes = HashSet::new();
    let countries = file.list("price").into_iter().map(|section| country(section, &mut prefixes)).collect();
    file.finish();
    PriceList::new(currency.unwrap_or_default(), valid_from.unwrap_or_default(), countries)
}

fn country(mut section: Section<'_>, seen: &mut HashSet<u64>) -> CountryPrices {
    let must = "a list of the first digits of phone numbers, from the calling code on, such as 54 or 1809";
    let texts = section.texts("prefixes", must).unwrap_or_default();
    let prefix = |text: &String| {
        text.parse().ok().filter(|_| (1..=PREFIX_DIGITS_MAX).contains(&text.len()) && !text.starts_with(['0', '+']))
    };
    let prefixes: Vec<u64> = texts.iter().filter_map(prefix).collect();
    if prefixes.is_empty() || prefixes.len() < texts.len() {
        section.problem("prefixes", format!("({}) must be {must}", texts.join(", ")));
    }
    for prefix in prefixes.iter().filter(|prefix| !seen.insert(**prefix)) {
        section.problem("prefixes", format!("({prefix}) occurs twice: remove one, or correct it"));
    }
    let prices = CountryPrices {
        country: section.given("country", "a name", |text| Some(text.to_owned())).unwrap_or_default(),
        prefixes,
        marketing: price(&mut section, "marketing"),
        utility: price(&mut section, "utility"),
        authentication: price(&mut section, "authentication"),
    };
    section.finish();
    prices
}

/// A price in millionths.
fn price(section: &mut Section<'_>, key: &'static str) -> Option<u64> {
    section
        .number(key, "the price of one message, 0..1000", |price| (0.0..=PRICE_MAX).contains(&price))
        .map(|price| (price * 1e6).round() as u64)
}
