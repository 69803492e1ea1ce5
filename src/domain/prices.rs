//! What messages cost: a list of prices by country and category.
//!
//! Amounts are whole millionths of the currency, so that sums are exact.

use std::{collections::HashMap, time::Duration};

use jiff::civil::Date;

use super::{Phone, UnixMs, template::Category};

/// The minimum time for which prices are valid. Meta changes them only on the first day of a quarter.
///
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/pricing>, read 2026-09-11.
const VALID_FOR: Duration = Duration::from_hours(92 * 24);

/// The prices of one country or region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountryPrices {
    /// The name, such as `AR` or `Rest of Latin America`.
    pub country: String,
    /// The first digits of its numbers, from the calling code on, such as 54 or 1809.
    pub prefixes: Vec<u64>,
    /// The price of a marketing message, in millionths.
    pub marketing: Option<u64>,
    /// The price of a utility message, in millionths.
    pub utility: Option<u64>,
    /// The price of an authentication message, in millionths.
    pub authentication: Option<u64>,
}

impl CountryPrices {
    /// The price of a message of this category, in millionths, if there is one.
    pub fn of(&self, category: &Category) -> Option<u64> {
        match category {
            Category::Marketing => self.marketing,
            Category::Utility => self.utility,
            Category::Authentication => self.authentication,
            Category::Other(_) => None,
        }
    }
}

/// A list of prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceList {
    currency: String,
    valid_from: Date,
    countries: Vec<CountryPrices>,
    /// The position in `countries` of each prefix.
    by_prefix: HashMap<u64, u16>,
}

impl PriceList {
    /// A list of the prices of `countries` in `currency`, valid from `valid_from` on. No two countries may share a
    /// prefix.
    pub fn new(currency: String, valid_from: Date, countries: Vec<CountryPrices>) -> Self {
        let positions = (0..=u16::MAX).zip(&countries);
        let by_prefix = positions.flat_map(|(n, country)| country.prefixes.iter().map(move |&prefix| (prefix, n)));
        let by_prefix = by_prefix.collect();
        Self { currency, valid_from, countries, by_prefix }
    }

    /// The currency of all prices, such as `USD`.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The first day on which the prices are valid.
    pub fn valid_from(&self) -> Date {
        self.valid_from
    }

    /// Whether the prices are so old at `now` that Meta may have changed them.
    pub fn is_old(&self, now: UnixMs) -> bool {
        UnixMs::parse(&format!("{}T00:00:00Z", self.valid_from)).is_some_and(|from| now.since(from) > VALID_FOR)
    }

    /// The position of the country with the longest prefix of a number.
    pub fn position(&self, phone: Phone) -> Option<u16> {
        let mut prefix = phone.digits();
        while prefix > 0 {
            if let Some(&position) = self.by_prefix.get(&prefix) {
                return Some(position);
            }
            prefix /= 10;
        }
        None
    }

    /// The country at a position.
    pub fn country(&self, position: u16) -> Option<&CountryPrices> {
        self.countries.get(usize::from(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_prices_of_its_longest_prefix() {
        let country = |name: &str, prefixes: &[u64], marketing| CountryPrices {
            country: name.to_owned(),
            prefixes: prefixes.to_vec(),
            marketing: Some(marketing),
            utility: None,
            authentication: None,
        };
        let countries = vec![
            country("AR", &[54], 3),
            country("North America", &[1], 1),
            country("Rest of Latin America", &[1_809, 1_829, 591], 2),
        ];
        let list = PriceList::new("USD".into(), Date::constant(2026, 10, 1), countries);
        for (number, price) in [
            ("+5491155550001", Some(3)),
            ("+12025550123", Some(1)),
            ("+18095550123", Some(2)),
            ("+59171234567", Some(2)),
            ("+442071234567", None),
        ] {
            let position = list.position(number.parse().expect(number));
            let country = position.and_then(|position| list.country(position));
            assert_eq!(country.and_then(|country| country.of(&Category::Marketing)), price, "{number}");
            assert_eq!(country.and_then(|country| country.of(&Category::Utility)), None, "{number}");
        }
    }
}
