//! Which holds follow from others, and what lifts a hold.

use std::{collections::HashMap, time::Duration};

use crate::domain::{BusinessId, Hold, HoldScope, Lifter, Lines, MetaCode, UnixMs, policy::TEMPLATE_PAUSED};

/// Meta restricts sending from a line.
const LINE_RESTRICTED: MetaCode = MetaCode(131_048);

/// How many lines of a business have to be restricted until the business is held. Meta has no error code for the
/// messaging limit of a business, and reports it line by line.
const LINES_RESTRICTED: usize = 2;
/// How long the business is held because of its restricted lines.
const LINES_RESTRICTED_FOR: Duration = Duration::from_secs(3_600);

/// How many templates of a business have to be paused within [`TEMPLATES_PAUSED_WITHIN`] until the business is held:
/// Meta reviews the whole portfolio then.
const TEMPLATES_PAUSED: usize = 3;
const TEMPLATES_PAUSED_WITHIN: Duration = Duration::from_secs(3_600);

/// What can lift `hold` on `scope`.
pub fn lifters(scope: &HoldScope, hold: &Hold) -> Vec<Lifter> {
    use Lifter::{Person, Probe, Time, Webhook};
    let own: &[Lifter] = match scope {
        HoldScope::Line(_) | HoldScope::Token(_) => &[Probe, Person],
        HoldScope::Waba(_) | HoldScope::Template { .. } => &[Probe, Webhook, Person],
        HoldScope::Utility(_) => &[Webhook, Person],
        HoldScope::Country { .. } | HoldScope::Business(_) | HoldScope::Platform => &[Person],
    };
    // Holds with an end are not probed.
    let ends = hold.until.is_some();
    ends.then_some(Time).into_iter().chain(own.iter().copied().filter(|lifter| !ends || *lifter != Probe)).collect()
}

/// The holds on businesses that follow from `holds`, the holds in force at `now`. The `since` of each is that of the
/// last hold that led to it.
pub fn implied(holds: &HashMap<HoldScope, Hold>, lines: &Lines, now: UnixMs) -> Vec<(HoldScope, Hold)> {
    let mut by_business: HashMap<&BusinessId, (Vec<UnixMs>, Vec<UnixMs>)> = HashMap::new();
    for (scope, hold) in holds {
        let Some(business) = scope.business(lines) else { continue };
        let (restricted, paused) = by_business.entry(business).or_default();
        match scope {
            HoldScope::Line(_) if hold.code == Some(LINE_RESTRICTED) => restricted.push(hold.since),
            HoldScope::Template { .. }
                if hold.code == Some(TEMPLATE_PAUSED) && now.since(hold.since) < TEMPLATES_PAUSED_WITHIN =>
            {
                paused.push(hold.since);
            }
            _ => {}
        }
    }
    let mut implied = Vec::new();
    for (business, (restricted, paused)) in by_business {
        // The hold that a person has to lift comes first, because a business that is held already gets no second hold.
        let rules = [
            (paused, TEMPLATES_PAUSED, TEMPLATE_PAUSED, None, "templates were paused within an hour"),
            (restricted, LINES_RESTRICTED, LINE_RESTRICTED, Some(LINES_RESTRICTED_FOR), "lines are restricted"),
        ];
        for (causes, least, code, wait, what) in rules {
            let Some(since) = causes.iter().copied().max().filter(|_| causes.len() >= least) else { continue };
            let reason = format!("{} {what}: {}", causes.len(), advice(wait));
            let hold = Hold { code: Some(code), reason, since, until: wait.map(|wait| since.after(wait)) };
            if hold.is_active(now) {
                implied.push((HoldScope::Business(business.clone()), hold));
            }
        }
    }
    implied
}

fn advice(wait: Option<Duration>) -> &'static str {
    match wait {
        Some(_) => "the business may have reached its limit of people in 24 hours",
        None => "Meta may be reviewing the business; look at its quality in WhatsApp Manager before you lift this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Line, line::tests::line};

    const NOW: UnixMs = UnixMs(10_000_000);

    fn lines() -> Lines {
        let other = Line { business: "1002".into(), ..line("3009", "2009") };
        [line("3001", "2001"), line("3002", "2001"), line("3003", "2002"), other].into_iter().collect()
    }

    fn held(code: u32, minutes_ago: u64) -> Hold {
        let since = UnixMs(NOW.0 - minutes_ago * 60_000);
        Hold { code: Some(MetaCode(code)), reason: String::new(), since, until: None }
    }

    fn on_line(id: &str) -> HoldScope {
        HoldScope::Line(id.into())
    }

    fn on_template(waba: &str, name: &str) -> HoldScope {
        HoldScope::of_template(&waba.into(), name, &"es_AR".into())
    }

    fn implied_by(holds: &[(HoldScope, Hold)]) -> Vec<(String, UnixMs, Option<UnixMs>)> {
        let holds = holds.iter().cloned().collect();
        let implied = implied(&holds, &lines(), NOW);
        implied.into_iter().map(|(scope, hold)| (scope.to_string(), hold.since, hold.until)).collect()
    }

    #[test]
    fn two_restricted_lines_hold_their_business_for_an_hour() {
        let restricted = |id, ago| (on_line(id), held(131_048, ago));
        assert_eq!(implied_by(&[restricted("3001", 5)]), []);
        assert_eq!(implied_by(&[restricted("3001", 5), restricted("3009", 5)]), [], "of two businesses");
        assert_eq!(implied_by(&[restricted("3001", 5), (on_line("3002"), held(131_045, 5))]), [], "of another code");
        let since = UnixMs(NOW.0 - 5 * 60_000);
        let both = [restricted("3001", 20), restricted("3003", 5)];
        assert_eq!(implied_by(&both), [("business:1001".into(), since, Some(since.after(LINES_RESTRICTED_FOR)))]);
        assert_eq!(implied_by(&[restricted("3001", 90), restricted("3003", 70)]), [], "the hour is over");
    }

    #[test]
    fn three_templates_paused_within_an_hour_hold_their_business_until_a_person_lifts_it() {
        let paused = |waba, name, ago| (on_template(waba, name), held(132_015, ago));
        let two = [paused("2001", "a", 5), paused("2002", "b", 59)];
        assert_eq!(implied_by(&two), []);
        let business = |holds: &[_]| implied_by(&[&two[..], holds].concat());
        assert_eq!(business(&[paused("2001", "c", 61)]), [], "more than an hour ago");
        assert_eq!(business(&[paused("2009", "c", 1)]), [], "of another business");
        assert_eq!(business(&[(on_template("2001", "c"), held(132_016, 1))]), [], "disabled, not paused");
        let since = UnixMs(NOW.0 - 60_000);
        assert_eq!(business(&[paused("2001", "c", 1)]), [("business:1001".into(), since, None)]);
        let (scope, hold) = paused("2001", "c", 1);
        let ends = Hold { until: Some(NOW.after(TEMPLATES_PAUSED_WITHIN)), ..hold };
        assert_eq!(business(&[(scope, ends)]), [("business:1001".into(), since, None)], "pauses that end count too");
        let restricted = ["3001", "3002"].map(|id| (on_line(id), held(131_048, 1)));
        let both = business(&[&[paused("2001", "c", 1)][..], &restricted].concat());
        assert_eq!(
            both.iter().map(|(_, _, until)| until.is_none()).collect::<Vec<_>>(),
            [true, false],
            "the first counts"
        );
    }

    #[test]
    fn every_hold_can_be_lifted_by_a_person_and_by_something_else_or_has_an_end() {
        let scopes = HoldScope::of_line(&line("3001", "2001"));
        let scopes = scopes.into_iter().chain([
            on_template("2001", "a"),
            HoldScope::Utility("2001".into()),
            HoldScope::Country { waba: "2001".into(), code: "54".parse().expect("a code") },
        ]);
        for scope in scopes {
            let open = held(1, 0);
            let ending = Hold { until: Some(NOW), ..open.clone() };
            assert_eq!(lifters(&scope, &open).last(), Some(&Lifter::Person), "{scope}");
            let lifters = lifters(&scope, &ending);
            assert_eq!((lifters.first(), lifters.last()), (Some(&Lifter::Time), Some(&Lifter::Person)), "{scope}");
            assert!(!lifters.contains(&Lifter::Probe), "{scope}");
        }
    }
}
