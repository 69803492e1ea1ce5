//! Validates a scenario before the simulator starts, and reports all problems together.

use std::{collections::HashSet, time::Duration};

use super::{
    business::DEFAULT_BUSINESS,
    delay::DURATION_MAX,
    requirements::Requirements,
    scenario::{Faults, Outage, Replies, Scenario, Statuses, Webhooks},
    template::Template,
};
use crate::domain::LINE_RATE_MAX;

impl Scenario {
    /// All problems of the scenario, each with the key or item at fault; empty if it is valid.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |valid: bool, problem: &dyn Fn() -> String| {
            if !valid {
                problems.push(problem());
            }
        };
        let limits = &self.limits;
        check([400, 429].contains(&limits.refusal_status), &|| "limits.refusal_status: is neither 400 nor 429".into());
        check((0.0..=1.0).contains(&limits.rate_tolerance), &|| "limits.rate_tolerance: is not within 0 and 1".into());
        check((1..=1000).contains(&self.webhooks.batch_updates_max), &|| {
            "webhooks.batch_updates_max: not 1..=1000".into()
        });
        check((1..=10_000).contains(&self.webhooks.posts_at_once), &|| "webhooks.posts_at_once: not 1..=10000".into());
        check(!self.wabas.is_empty() && !self.lines.is_empty(), &|| "there is no [[waba]] or no [[line]]".into());
        check(self.lines.len() <= usize::from(u16::MAX), &|| "more than 65,535 lines".into());
        check(self.templates.len() < usize::from(u16::MAX), &|| "more than 65,534 templates".into());
        let waba_exists = |id: &str| self.wabas.iter().any(|waba| waba.id == id);
        let mut ids = HashSet::new();
        for business in &self.businesses {
            check(ids.insert(&business.id), &|| format!("business {}: its id is taken", business.id));
            let pacing = business.pacing.as_ref();
            check(pacing.is_none_or(|pacing| pacing.release_after <= DURATION_MAX), &|| {
                format!("business {}: pacing.release_after: is more than 24h", business.id)
            });
        }
        for waba in &self.wabas {
            check(ids.insert(&waba.id), &|| format!("waba {}: its id is taken", waba.id));
            let is_known = |id: &str| id == DEFAULT_BUSINESS || self.businesses.iter().any(|b| b.id == id);
            for business in std::iter::once(&waba.business).chain(&waba.shared_with) {
                check(is_known(business), &|| format!("waba {}: there is no business {business}", waba.id));
            }
        }
        for line in &self.lines {
            check(ids.insert(&line.id), &|| format!("line {}: its id is taken", line.id));
            check(waba_exists(&line.waba), &|| format!("line {}: there is no waba {}", line.id, line.waba));
            let rate = f64::from(line.messages_per_second);
            check((1.0..=LINE_RATE_MAX).contains(&rate), &|| {
                format!("line {}: messages_per_second: not 1..={LINE_RATE_MAX}", line.id)
            });
        }
        let mut names = HashSet::new();
        for template in &self.templates {
            let Template { waba, name, language, .. } = template;
            check(waba_exists(waba), &|| format!("template {name}: there is no waba {waba}"));
            check(names.insert((waba, name, language)), &|| format!("template {name}: twice in {language}"));
            let pacing = template.pacing.as_ref();
            check(pacing.is_none_or(|pacing| pacing.release_after <= DURATION_MAX), &|| {
                format!("template {name}: pacing.release_after: is more than 24h")
            });
            if let Err(problem) = Requirements::of(template.parameter_format, &template.components) {
                check(false, &|| format!("template {name}: {problem}"));
            }
        }
        let Webhooks { batch_window, answer_within, retry_for, .. } = self.webhooks;
        problems.extend(too_long("webhooks.batch_window", batch_window));
        problems.extend(too_long("webhooks.answer_within", answer_within));
        problems.extend(too_long("webhooks.retry_for", retry_for));
        problems.extend(too_long("referee.grace", self.referee.grace));
        problems.extend(too_long("referee.jitter", self.referee.jitter));
        problems.extend(self.outages.iter().flat_map(Outage::problems));
        problems.extend(self.faults.problems());
        problems.extend(self.lines.iter().filter_map(|line| line.faults.as_ref()).flat_map(Faults::problems));
        problems.extend(self.statuses.problems());
        problems.extend(self.replies.problems());
        problems
    }
}

impl Faults {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .odds()
            .filter_map(|(fault, probability)| share(&format!("faults.{}", fault.name()), probability))
            .collect();
        problems.extend(share("faults, all together", self.odds().map(|(_, probability)| probability).sum()));
        problems.extend(share("faults.held_dropped", self.held_dropped));
        problems.extend(too_long("faults.no_answer_for", self.no_answer_for));
        problems
    }
}

impl Outage {
    pub(super) fn problems(&self) -> Vec<String> {
        too_long("outage.at", self.at).into_iter().chain(too_long("outage.for", self.lasts)).collect()
    }
}

impl Replies {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = [
            ("tap", self.tap),
            ("text", self.text),
            ("media", self.media),
            ("reaction", self.reaction),
            ("twice", self.twice),
            ("text, media and reaction together", self.text + self.media + self.reaction),
        ]
        .into_iter()
        .filter_map(|(name, probability)| share(&format!("replies.{name}"), probability))
        .collect();
        if self.words.is_empty() {
            problems.push("replies.words: there are none".into());
        }
        problems
    }
}

impl Statuses {
    pub(super) fn problems(&self) -> Vec<String> {
        let failed = self.failed.0.values().sum();
        [
            ("sent", self.sent),
            ("failed", failed),
            ("sent_before_failed", self.sent_before_failed),
            ("delivered", self.delivered),
            ("read", self.read),
            ("duplicated", self.duplicated),
            ("disordered", self.disordered),
            ("failed_without_token", self.failed_without_token),
            ("read_without_delivered", self.read_without_delivered),
            ("delivered_after_failed", self.delivered_after_failed),
            ("before_answer", self.before_answer),
        ]
        .into_iter()
        .filter_map(|(name, probability)| share(&format!("statuses.{name}"), probability))
        .collect()
    }
}

fn too_long(name: &str, duration: Duration) -> Option<String> {
    (duration > DURATION_MAX).then(|| format!("{name}: is more than 24h"))
}

fn share(name: &str, value: f64) -> Option<String> {
    // Rounding may put a sum of decimal shares slightly above 1.
    (!(0.0..=1.0 + 1e-9).contains(&value)).then(|| format!("{name}: {value} is not within 0 and 1"))
}
