//! What the messages of a campaign would cost, by a list of prices.

use std::{cmp::Reverse, collections::BTreeMap};

use super::people::Country;
use crate::{
    api_types::{CostRow, PreflightCost},
    domain::{PriceList, template::Category},
};

/// The cost of messages of this category, and the countries for which the list has no price, those with the most
/// messages first. `messages` is the number of messages by country.
pub fn of(prices: &PriceList, category: &Category, messages: &BTreeMap<Country, u64>) -> (PreflightCost, Vec<String>) {
    let (mut rows, mut total, mut lacking) = (Vec::new(), 0, Vec::new());
    for (country, &n) in messages {
        let (country, price) = priced(prices, category, *country);
        let Some(price) = price else {
            lacking.push((n, country));
            continue;
        };
        let cost = n.saturating_mul(price);
        total += cost;
        let category = category.to_string();
        rows.push((cost, CostRow { country, category, messages: n, price: units(price), cost: units(cost) }));
    }
    lacking.sort_by_key(|(n, _)| Reverse(*n));
    let without_price = lacking.iter().map(|(n, _)| n).sum();
    rows.sort_by_key(|(cost, _)| Reverse(*cost));
    let cost = PreflightCost {
        currency: prices.currency().to_owned(),
        valid_from: prices.valid_from().to_string(),
        total: units(total),
        by_country: rows.into_iter().map(|(_, row)| row).collect(),
        without_price,
    };
    (cost, lacking.into_iter().map(|(_, country)| country).collect())
}

/// The name of a country, or its calling code such as `+44`, and the price of a message to it in millionths, if the
/// list has one.
fn priced(prices: &PriceList, category: &Category, country: Country) -> (String, Option<u64>) {
    match country {
        Country::Other(code) => (format!("+{code}"), None),
        Country::Listed(position) => prices
            .country(position)
            .map_or_else(Default::default, |country| (country.country.clone(), country.of(category))),
    }
}

/// Millionths as a decimal number.
fn units(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;
    use crate::domain::prices::CountryPrices;

    #[test]
    fn the_sum_is_exact_and_leaves_out_what_has_no_price() {
        let country = |name: &str, prefix, marketing, utility| CountryPrices {
            country: name.to_owned(),
            prefixes: vec![prefix],
            marketing: Some(marketing),
            utility,
            authentication: None,
        };
        let countries = vec![country("AR", 54, 100_100, None), country("BR", 55, 62_500, Some(6_800))];
        let list = PriceList::new("USD".into(), Date::constant(2026, 10, 1), countries);
        let other = Country::Other("44".parse().expect("a code"));
        let messages = [(Country::Listed(0), 3), (Country::Listed(1), 1_000), (other, 7)].into();
        let (cost, lacking) = of(&list, &Category::Marketing, &messages);
        assert_eq!(lacking, ["+44"]);
        assert_eq!((cost.total, cost.without_price, cost.valid_from.as_str()), (62.8003, 7, "2026-10-01"));
        let rows: Vec<_> = cost.by_country.iter().map(|row| (row.country.as_str(), row.messages, row.cost)).collect();
        assert_eq!(rows, [("BR", 1_000, 62.5), ("AR", 3, 0.3003)]);
        let (cost, lacking) = of(&list, &Category::Utility, &messages);
        assert_eq!(lacking, ["+44", "AR"], "the one with the most messages first");
        assert_eq!((cost.total, cost.without_price), (6.8, 10));
    }
}
