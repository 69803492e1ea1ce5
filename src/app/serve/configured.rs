//! What the roles read anew whenever they decide something. A reload replaces it.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::{ApiKey, Config, LineConfig},
    domain::{BusinessId, Line, Lines, Live, PriceList, WabaId},
    rules::{contact_hours::ContactHours, stop_words::StopWords},
    subscribers::Subscriber,
};

/// The beginnings of the keys that the fields of [`Configured`] come from.
pub(super) const KEYS: [&str; 8] = [LINE, WABA, BUSINESS, CONTACT_HOURS, STOP_WORDS, PRICES, SUBSCRIBER, API_KEYS];
const LINE: &str = "line[";
const WABA: &str = "waba[";
const BUSINESS: &str = "business[";
const CONTACT_HOURS: &str = "contact_hours[";
const STOP_WORDS: &str = "stop_words[";
const PRICES: &str = "prices.";
/// The beginning of the keys of subscribers.
pub(super) const SUBSCRIBER: &str = "subscriber[";
const API_KEYS: &str = "http.api_keys";

/// Parts of the configuration, as they are now. Clones share them.
#[derive(Clone)]
pub(super) struct Configured {
    pub(super) lines: Live<Lines>,
    pub(super) businesses: Live<Arc<[BusinessId]>>,
    /// The WABAs, with their businesses.
    pub(super) wabas: Live<Arc<HashMap<WabaId, BusinessId>>>,
    pub(super) contact_hours: Live<ContactHours>,
    pub(super) stop_words: Live<StopWords>,
    pub(super) prices: Live<Option<Arc<PriceList>>>,
    pub(super) subscribers: Live<Arc<[Subscriber]>>,
    pub(super) api_keys: Live<Arc<[ApiKey]>>,
}

impl Configured {
    /// Those of `config`.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            lines: lines(config).into(),
            businesses: businesses(config).into(),
            wabas: wabas(config).into(),
            contact_hours: config.contact_hours.clone().into(),
            stop_words: config.stop_words.clone().into(),
            prices: config.prices.clone().into(),
            subscribers: Live::new(config.subscribers.clone().into()),
            api_keys: Live::new(config.http.api_keys.clone().into()),
        }
    }

    /// Replaces by those of `config` what comes from the keys that have `changed`.
    pub(super) fn replace(&self, config: &Config, changed: &[String]) {
        let has_changed = |beginnings: &[&str]| begins_with(changed, beginnings);
        if has_changed(&[LINE, WABA, BUSINESS]) {
            self.businesses.set(businesses(config));
            self.wabas.set(wabas(config));
            self.lines.set(lines(config));
        }
        if has_changed(&[CONTACT_HOURS]) {
            self.contact_hours.set(config.contact_hours.clone());
        }
        if has_changed(&[STOP_WORDS]) {
            self.stop_words.set(config.stop_words.clone());
        }
        if has_changed(&[PRICES]) {
            self.prices.set(config.prices.clone());
        }
        if has_changed(&[SUBSCRIBER]) {
            self.subscribers.set(config.subscribers.clone().into());
        }
        if has_changed(&[API_KEYS]) {
            self.api_keys.set(config.http.api_keys.clone().into());
        }
    }
}

/// Whether one of `keys` begins with one of `beginnings`.
pub(super) fn begins_with(keys: &[String], beginnings: &[&str]) -> bool {
    keys.iter().any(|key| beginnings.iter().any(|beginning| key.starts_with(beginning)))
}

fn businesses(config: &Config) -> Arc<[BusinessId]> {
    config.businesses.iter().map(|business| business.id.clone()).collect()
}

fn wabas(config: &Config) -> Arc<HashMap<WabaId, BusinessId>> {
    Arc::new(config.wabas.iter().map(|waba| (waba.id.clone(), waba.business.clone())).collect())
}

/// The configured lines, each with what it has from its WABA and its business.
pub(in crate::app) fn lines(config: &Config) -> Lines {
    let line = |line: &LineConfig| {
        let waba = config.wabas.iter().find(|waba| waba.id == line.waba)?;
        let business = config.businesses.iter().find(|business| business.id == waba.business)?;
        Some(Line {
            id: line.id.clone(),
            waba: line.waba.clone(),
            business: waba.business.clone(),
            token: waba.access_token.clone(),
            display: line.display.clone(),
            name: line.name.clone(),
            messages_per_second: line.messages_per_second,
            warm_up: line.warm_up.clone(),
            marketing_api: waba.marketing_api,
            frequency_cap: business.frequency_cap,
        })
    };
    config.lines.iter().filter_map(line).collect()
}
