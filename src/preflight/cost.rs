//! What the messages of a campaign would cost, by a list of prices.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    api_types::{CostRow, PreflightCost},
    domain::{PriceList, template::Category},
};

/// What messages of this category cost. `messages` has their number by the position of their country in the list; `None`
/// stands for numbers of no country in it.
pub fn of(prices: &PriceList, category: &Category, messages: &BTreeMap<Option<u16>, u64>) -> PreflightCost {
    let (mut rows, mut total, mut without_price) = (Vec::new(), 0, 0);
    for (position, &n) in messages {
        let country = position.and_then(|position| prices.country(position));
        let Some((country, price)) = country.and_then(|country| Some((&country.country, country.of(category)?))) else {
            without_price += n;
            continue;
        };
        let cost = n.saturating_mul(price);
        total += cost;
        let (country, category) = (country.clone(), name(category));
        rows.push((cost, CostRow { country, category, messages: n, price: units(price), cost: units(cost) }));
    }
    rows.sort_by_key(|(cost, _)| Reverse(*cost));
    PreflightCost {
        currency: prices.currency().to_owned(),
        valid_from: prices.valid_from().to_string(),
        total: units(total),
        by_country: rows.into_iter().map(|(_, row)| row).collect(),
        without_price,
    }
}

/// The category as Meta writes it.
pub fn name(category: &Category) -> String {
    match category {
        Category::Marketing => "MARKETING".to_owned(),
        Category::Utility => "UTILITY".to_owned(),
        Category::Authentication => "AUTHENTICATION".to_owned(),
        Category::Other(name) => name.clone(),
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
        let messages = [(Some(0), 3), (Some(1), 1_000), (None, 7)].into();
        let cost = of(&list, &Category::Marketing, &messages);
        assert_eq!((cost.total, cost.without_price, cost.valid_from.as_str()), (62.8003, 7, "2026-10-01"));
        let rows: Vec<_> = cost.by_country.iter().map(|row| (row.country.as_str(), row.messages, row.cost)).collect();
        assert_eq!(rows, [("BR", 1_000, 62.5), ("AR", 3, 0.3003)]);
        let cost = of(&list, &Category::Utility, &messages);
        assert_eq!((cost.total, cost.without_price), (6.8, 10));
    }
}
