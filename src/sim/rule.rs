//! The rules that the simulator referees, and the counts of their violations.

use std::{collections::BTreeMap, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::contact_hours::ContactHours;
use crate::domain::{Phone, UnixMs};

/// The tolerance of the referee, and the contact hours that it checks.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Referee {
    /// How long after a webhook POST was answered 200, or after a response with 131049, a send may still ignore it,
    /// because it was already on its way.
    #[serde(with = "friendly")]
    pub grace: Duration,
    /// By how much two sends to one person may arrive closer than 6 s, because the network delays them differently.
    #[serde(with = "friendly")]
    pub jitter: Duration,
    /// The hours in which marketing may be sent to numbers with a prefix. A send that arrives within [`Referee::grace`]
    /// after their end counts as already on its way.
    pub contact_hours: Vec<ContactHours>,
    /// Count messages without a template to people outside their service window.
    pub window: bool,
}

impl Default for Referee {
    fn default() -> Self {
        let (grace, jitter) = (Duration::from_secs(2), Duration::from_millis(200));
        Self { grace, jitter, contact_hours: Vec::new(), window: true }
    }
}

impl Referee {
    /// Whether marketing to this person at this time is outside the hours for its number.
    pub(super) fn is_out_of_hours(&self, to: Phone, at: UnixMs) -> bool {
        let before = UnixMs(at.0.saturating_sub(u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX)));
        let times = [before, at, at.after(self.jitter)];
        self.contact_hours.iter().any(|hours| times.iter().all(|at| hours.forbid(to, *at)))
    }
}

/// A rule that a sender has to follow by itself. Meta refuses or drops some of the sends that break it, and restricts
/// businesses that break it often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// No more messages in a second than the line admits, inbound and outbound together.
    Rate,
    /// 6 s between two sends of a line to a person. Bursts that Meta tolerates break the rule too.
    Pair,
    /// No more people outside service windows than the messaging limit of the business.
    PortfolioLimit,
    /// No template that Meta has not approved, or has paused or disabled.
    TemplateNotApproved,
    /// Nothing that a restriction or a ban of the WABA or its business forbids.
    Restricted,
    /// No marketing to a person within 24 hours after 131049.
    Resend131049,
    /// No marketing to a person who has stopped it.
    AfterStop,
    /// No marketing to numbers of the USA.
    UsMarketing,
    /// No marketing outside the contact hours of a number.
    ContactHours,
    /// No marketing to a person beyond the frequency cap of the business.
    FrequencyCap,
    /// No message without a template to a person who has not written to the line within 24 hours.
    Window,
}

impl Rule {
    const ALL: [Rule; 11] = [
        Rule::Rate,
        Rule::Pair,
        Rule::PortfolioLimit,
        Rule::TemplateNotApproved,
        Rule::Restricted,
        Rule::Resend131049,
        Rule::AfterStop,
        Rule::UsMarketing,
        Rule::ContactHours,
        Rule::FrequencyCap,
        Rule::Window,
    ];

    /// The key in [`super::Tally::violations`].
    fn name(self) -> &'static str {
        match self {
            Rule::Rate => "rate",
            Rule::Pair => "pair",
            Rule::PortfolioLimit => "portfolio_limit",
            Rule::TemplateNotApproved => "template_not_approved",
            Rule::Restricted => "restricted",
            Rule::Resend131049 => "resend_131049",
            Rule::AfterStop => "after_stop",
            Rule::UsMarketing => "us_marketing",
            Rule::ContactHours => "contact_hours",
            Rule::FrequencyCap => "frequency_cap",
            Rule::Window => "window",
        }
    }
}

/// The number of sends that broke each rule.
#[derive(Clone, Default)]
pub(super) struct Violations([u64; Rule::ALL.len()]);

impl Violations {
    pub(super) fn count(&mut self, rule: Rule) {
        self.0[rule as usize] += 1;
    }

    pub(super) fn count_if(&mut self, rule: Rule, is_broken: bool) {
        self.0[rule as usize] += u64::from(is_broken);
    }

    /// All rules, including those that no send broke.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        Rule::ALL.iter().map(|rule| (rule.name().to_owned(), self.0[*rule as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_count() {
        for rule in Rule::ALL {
            let mut violations = Violations::default();
            violations.count(rule);
            let counts = violations.by_name();
            assert_eq!((counts.len(), counts[rule.name()], counts.values().sum()), (Rule::ALL.len(), 1, 1u64));
        }
    }
}
