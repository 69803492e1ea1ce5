//! Groups recipients whose messages may leave at the same times. A part has recipients of only one group, so a line
//! claims from the part only while they may be sent to.
//!
//! The name of a group consists of the contact hours of its numbers, if any, and the time zones in which the hours must
//! be open. There are at most a few hundred groups, whatever zones the rows name, because most zones keep the same time
//! as a zone in the table of prefixes.

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{Campaign, Phone, Reject, SendWindow, UnixMs, listing::listed, reject::quoted, template::Category},
    rules::{
        contact_hours::ContactHours,
        windows::{Group, Opening, Windows},
        zones,
    },
};

/// How many zones an error message lists.
const ZONES_SHOWN_MAX: usize = 4;

/// The groups of the recipients of a campaign.
pub(super) struct Groups {
    campaign: CampaignHours,
    /// The zones that rows have named, with the zones of their groups.
    named: HashMap<String, &'static str>,
    /// The groups so far, by their zones. Each list has at most one group for each contact hours.
    known: HashMap<&'static str, Vec<KnownGroup>>,
}

/// What decides when the messages of a campaign may leave.
struct CampaignHours {
    send_window: Option<SendWindow>,
    contact_hours: ContactHours,
    is_marketing: bool,
    now: UnixMs,
}

struct KnownGroup {
    /// The name of its contact hours.
    rule: Option<String>,
    /// The group's name, or the rejection of its recipients.
    name: Result<Arc<str>, Reject>,
}

impl Groups {
    pub(super) fn of_campaign(campaign: &Campaign, contact_hours: ContactHours, now: UnixMs) -> Self {
        let is_marketing = campaign.template.category == Category::Marketing;
        let campaign = CampaignHours { send_window: campaign.send_window.clone(), contact_hours, is_marketing, now };
        Self { campaign, named: HashMap::new(), known: HashMap::new() }
    }

    /// Whether recipients of the campaign can have groups.
    pub(super) fn are_used(&self) -> bool {
        self.campaign.is_by_recipient() || !self.campaign.contact_hours.is_empty()
    }

    /// The group of a recipient, by the `zone` of its row, or else by its number; `None` if the recipient's local time
    /// does not matter. Contact hours count even if the template is not marketing: Meta may change its category.
    ///
    /// Errors: `ZoneUnknown` if there is no such zone, and `NeverOpen` if the hours of the campaign are never open in
    /// all zones of the recipient at once.
    pub(super) fn of(&mut self, to: Phone, zone: Option<&str>) -> Result<Option<Arc<str>>, Reject> {
        let named = zone.map(|name| self.named(name)).transpose()?;
        let rule = self.campaign.contact_hours.of_phone(to).map(|rule| rule.name.as_str());
        if rule.is_none() && !self.campaign.is_by_recipient() {
            return Ok(None);
        }
        let zones = named.unwrap_or_else(|| zones::of_phone(to));
        let known = self.known.entry(zones).or_default();
        if let Some(group) = known.iter().find(|group| group.rule.as_deref() == rule) {
            return group.name.clone().map(Some);
        }
        let name = self.campaign.group(Group { rule, zones });
        known.push(KnownGroup { rule: rule.map(str::to_owned), name: name.clone() });
        name.map(Some)
    }

    fn named(&mut self, name: &str) -> Result<&'static str, Reject> {
        // One entry for each zone, in whatever case its name is written.
        let plain = name.trim().to_ascii_lowercase();
        if let Some(zones) = self.named.get(&plain) {
            return Ok(zones);
        }
        let zones = zones::of_name(&plain).ok_or_else(|| Reject::ZoneUnknown(quoted(name.trim())))?;
        self.named.insert(plain, zones);
        Ok(zones)
    }
}

impl CampaignHours {
    fn is_by_recipient(&self) -> bool {
        self.send_window.as_ref().is_some_and(SendWindow::is_by_recipient)
    }

    /// The name of the group.
    ///
    /// Errors: `NeverOpen` if no message of the group may leave within the next weeks.
    fn group(&self, group: Group<'_>) -> Result<Arc<str>, Reject> {
        let name = group.to_string();
        let contact_hours = Some(&self.contact_hours).filter(|_| self.is_marketing);
        let windows = Windows::of_part(self.send_window.as_ref(), Some(&name), contact_hours);
        let is_never_open = |windows: Windows| windows.at(self.now) == Opening::NEVER;
        if windows.is_ok_and(|windows| windows.is_some_and(is_never_open)) {
            return Err(Reject::NeverOpen {
                hours: self.described(group.rule),
                zones: listed(zones::names(group.zones), ZONES_SHOWN_MAX),
            });
        }
        Ok(name.into())
    }

    /// The hours of the campaign for numbers with these contact hours, as text.
    fn described(&self, rule: Option<&str>) -> String {
        let window = self.send_window.as_ref().map(|window| format!("from {window}"));
        let rule = rule.filter(|_| self.is_marketing).map(|name| format!("in the contact hours {name}"));
        let hours: Vec<String> = window.into_iter().chain(rule).collect();
        hours.join(" and ")
    }
}
