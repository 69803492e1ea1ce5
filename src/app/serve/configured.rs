//! What the roles read anew whenever they decide something. A reload replaces it, and the lines that are discovered
//! extend it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    config::{ApiKey, BusinessConfig, Config, LineConfig},
    domain::{BusinessId, Line, Lines, Live, MetaLine, PriceList, WabaId},
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
    /// Notified of each reload.
    pub(super) reloaded: Arc<Notify>,
    roster: Arc<Mutex<Roster>>,
}

/// What the lines and WABAs come from: the configuration, and what businesses with `include` have at Meta.
struct Roster {
    config: Config,
    found: Found,
}

/// The lines that businesses have at Meta.
pub(in crate::app) type Found = BTreeMap<BusinessId, Vec<MetaLine>>;

impl Configured {
    /// Those of `config`.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            lines: lines(config, &Found::new()).into(),
            businesses: businesses(config).into(),
            wabas: wabas(config, &Found::new()).into(),
            contact_hours: config.contact_hours.clone().into(),
            stop_words: config.stop_words.clone().into(),
            prices: config.prices.clone().into(),
            subscribers: Live::new(config.subscribers.clone().into()),
            api_keys: Live::new(config.http.api_keys.clone().into()),
            reloaded: Arc::default(),
            roster: Arc::new(Mutex::new(Roster { config: config.clone(), found: Found::new() })),
        }
    }

    /// The businesses with `include`.
    pub(super) fn including(&self) -> Vec<BusinessConfig> {
        let is_including = |business: &&BusinessConfig| !business.include.is_empty();
        self.roster().config.businesses.iter().filter(is_including).cloned().collect()
    }

    /// Whether the lines that a business has at Meta are known.
    pub(super) fn has_found(&self, business: &BusinessId) -> bool {
        self.roster().found.contains_key(business)
    }

    /// Sets the lines that a business has at Meta.
    pub(super) fn set_found(&self, business: &BusinessId, lines: Vec<MetaLine>) {
        let mut roster = self.roster();
        if roster.found.get(business) != Some(&lines) {
            roster.found.insert(business.clone(), lines);
            self.set_lines(&roster);
        }
    }

    fn set_lines(&self, roster: &Roster) {
        self.wabas.set(wabas(&roster.config, &roster.found));
        self.lines.set(lines(&roster.config, &roster.found));
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces by those of `config` what comes from the keys that have `changed`.
    pub(super) fn replace(&self, config: &Config, changed: &[String]) {
        let has_changed = |beginnings: &[&str]| begins_with(changed, beginnings);
        if has_changed(&[LINE, WABA, BUSINESS]) {
            self.businesses.set(businesses(config));
            let mut roster = self.roster();
            roster.config = config.clone();
            self.set_lines(&roster);
        }
        self.reloaded.notify_one();
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

fn wabas(config: &Config, found: &Found) -> Arc<HashMap<WabaId, BusinessId>> {
    let configured = config.wabas.iter().map(|waba| (waba.id.clone(), waba.business.clone()));
    let included = included(config, found).map(|line| (line.waba, line.business));
    // What is configured wins.
    Arc::new(included.chain(configured).collect())
}

/// The configured lines, each with what it has from its WABA and its business, and those of `found` that are included.
pub(in crate::app) fn lines(config: &Config, found: &Found) -> Lines {
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
    config.lines.iter().filter_map(line).chain(included(config, found)).collect()
}

/// The lines of `found` that are included and not configured. Each has the settings of its WABA, if that is configured.
fn included<'a>(config: &'a Config, found: &'a Found) -> impl Iterator<Item = Line> + use<'a> {
    let mut taken: HashSet<&str> = config.lines.iter().map(|line| line.id.as_str()).collect();
    let of_business = config.businesses.iter().filter_map(|business| Some((business, found.get(&business.id)?)));
    let candidates = of_business.flat_map(|(business, lines)| lines.iter().map(move |line| (business, line)));
    candidates.filter_map(move |(business, line)| {
        let is_chosen = business.include.iter().any(|entry| line.is_chosen_by(entry));
        if !is_chosen || !taken.insert(line.id.as_str()) {
            return None;
        }
        let waba = config.wabas.iter().find(|waba| waba.id == line.waba);
        let owner = waba.map_or(business, |waba| {
            config.businesses.iter().find(|owner| owner.id == waba.business).unwrap_or(business)
        });
        Some(Line {
            id: line.id.clone(),
            waba: line.waba.clone(),
            business: owner.id.clone(),
            token: waba.map(|waba| &waba.access_token).or(business.access_token.as_ref())?.clone(),
            display: line.display.clone(),
            name: line.id.to_string(),
            messages_per_second: None,
            warm_up: Arc::default(),
            marketing_api: waba.is_some_and(|waba| waba.marketing_api),
            frequency_cap: owner.frequency_cap,
        })
    })
}
