//! Groups recipients whose messages may leave at the same times. A part has only recipients of one group, so that a line
//! claims from it only while they may.
//!
//! A group has a name: the time zones in which the window has to be open. There are at most a few hundred, whatever the rows
//! say, because most zones have the clocks of one that the table of prefixes has.

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{Campaign, Phone, Reject, SendWindow, UnixMs, reject::redacted},
    rules::{
        windows::{Opening, Windows},
        zones,
    },
};

/// How many zones an error message lists.
const ZONES_SHOWN_MAX: usize = 4;

/// The groups of the recipients of a campaign.
pub(super) struct Groups {
    /// The send window, if it goes by the recipients.
    window: Option<SendWindow>,
    now: UnixMs,
    /// The zones that rows have named, with their groups.
    named: HashMap<String, &'static str>,
    /// The groups so far, by their zones.
    known: HashMap<&'static str, Result<Arc<str>, Reject>>,
}

impl Groups {
    pub(super) fn of_campaign(campaign: &Campaign, now: UnixMs) -> Self {
        let window = campaign.send_window.clone().filter(SendWindow::is_by_recipient);
        Self { window, now, named: HashMap::new(), known: HashMap::new() }
    }

    /// Whether the recipients of the campaign are grouped.
    pub(super) fn are_used(&self) -> bool {
        self.window.is_some()
    }

    /// The group of a recipient, by the `zone` of its row, or else by its number; `None` if the recipients are not grouped.
    ///
    /// Errors: `ZoneUnknown` if there is no such zone, and `NeverOpen` if the window never is open in all zones of the
    /// recipient.
    pub(super) fn of(&mut self, to: Phone, zone: Option<&str>) -> Result<Option<Arc<str>>, Reject> {
        let named = zone.map(|name| self.named(name)).transpose()?;
        let Some(window) = &self.window else { return Ok(None) };
        let zones = named.unwrap_or_else(|| zones::of_phone(to));
        let group = self.known.entry(zones).or_insert_with(|| group(window, zones, self.now));
        group.clone().map(Some)
    }

    fn named(&mut self, name: &str) -> Result<&'static str, Reject> {
        // One entry for each zone, however its name is written.
        let plain = name.trim().to_ascii_lowercase();
        if let Some(zones) = self.named.get(&plain) {
            return Ok(zones);
        }
        let zones = zones::of_name(&plain).ok_or_else(|| Reject::ZoneUnknown(redacted(name)))?;
        self.named.insert(plain, zones);
        Ok(zones)
    }
}

/// The group of recipients in these zones.
fn group(window: &SendWindow, zones: &str, now: UnixMs) -> Result<Arc<str>, Reject> {
    let opens = Windows::of_part(window, Some(zones)).is_ok_and(|windows| windows.at(now) != Opening::NEVER);
    let never = || Reject::NeverOpen { hours: format!("from {window}"), zones: listed(zones) };
    opens.then(|| Arc::from(zones)).ok_or_else(never)
}

/// The names of the zones as text.
fn listed(zones: &str) -> String {
    let names: Vec<&str> = zones::names(zones).collect();
    let shown = names[..names.len().min(ZONES_SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(ZONES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
