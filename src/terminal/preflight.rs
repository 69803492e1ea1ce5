//! The preflight of a campaign, for people.

use super::{table, words};
use crate::api_types::{
    CostRow, LineView, Preflight, PreflightBudget, PreflightCost, PreflightProblem, PreflightRejects,
};

/// The report: whether the campaign is ready, its problems, its figures, the rejected rows of its uploads, its lines
/// and its cost.
pub(super) fn text(preflight: &Preflight) -> String {
    let mut parts = vec![verdict(preflight), fields(preflight)];
    if !preflight.rejects.by_reason.is_empty() {
        let rows = preflight.rejects.by_reason.iter().map(|(reason, n)| [reason.clone(), words::count(*n)]);
        parts.push(table::table(["rejected because", ">rows"], rows));
    }
    if !preflight.lines.is_empty() {
        parts.push(table::table(["=id", "name", "state", ">will send", ">backlog"], preflight.lines.iter().map(line)));
    }
    parts.extend(preflight.cost.as_ref().map(cost));
    parts.join("\n\n")
}

fn verdict(preflight: &Preflight) -> String {
    let verdict = if preflight.ready { "ready" } else { "not ready" };
    let mut text = format!("Campaign {} is {verdict}.", preflight.campaign);
    for PreflightProblem { blocking, text: problem, .. } in &preflight.problems {
        let kind = if *blocking { "problem" } else { "warning" };
        text += &format!("\n {kind}: {}", words::printable(problem));
    }
    text
}

fn fields(preflight: &Preflight) -> String {
    let about = if preflight.estimated { "about " } else { "" };
    let count = |n: u64| format!("{about}{}", words::count(n));
    let skips = preflight.skips.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {}", count(*n)));
    let template = &preflight.template;
    let status = template.status.as_deref().unwrap_or("not known");
    let quality = template.quality.as_ref().map(|score| format!(", quality {score}")).unwrap_or_default();
    table::fields([
        ("state", preflight.state.to_string()),
        ("recipients", words::count(preflight.recipients)),
        ("not sent yet", words::count(preflight.left)),
        ("would be skipped", skips.collect::<Vec<_>>().join(", ")),
        ("would be sent", count(preflight.to_send)),
        ("rejected", rejected(&preflight.rejects)),
        (
            "template",
            format!(
                "{}/{}, {}, {status}{quality}",
                template.template.name, template.template.language, template.category
            ),
        ),
        ("limit", preflight.budget.as_ref().map(budget).unwrap_or_default()),
        ("rate", preflight.rate.map(|rate| format!("at most {rate} a second")).unwrap_or_default()),
        ("window", preflight.send_window.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("starts", preflight.starts_at.map_or("not known".to_owned(), words::time)),
        ("ends", preflight.ends_at.map_or("not known".to_owned(), words::time)),
    ])
}

/// A line with the rate at which it would send. If a line cannot send now, only its limit is known.
fn line(line: &LineView) -> [String; 5] {
    let allowed = line.allowed_now.map(table::rate);
    let rate = allowed.unwrap_or_else(|| format!("up to {}", table::rate(line.messages_per_second)));
    let (id, name, state) = (line.id.to_string(), table::line_name(line), table::line_state(line));
    [id, name, state, rate, words::count(line.backlog)]
}

fn rejected(rejects: &PreflightRejects) -> String {
    let more = if rejects.complete { "" } else { ", and perhaps more" };
    if rejects.count == 0 && rejects.complete { String::new() } else { words::count(rejects.count) + more }
}

fn budget(budget: &PreflightBudget) -> String {
    match (budget.limit, budget.remaining) {
        (Some(limit), Some(remaining)) => format!(
            "business {}: {} people in 24 hours, {} more now",
            budget.business,
            words::count(limit.into()),
            words::count(remaining)
        ),
        _ => String::new(),
    }
}

fn cost(cost: &PreflightCost) -> String {
    let amount = |amount: f64| format!("{amount:.2}");
    let row = |row: &CostRow| {
        let of = [words::printable(&row.country), row.category.clone(), words::count(row.messages)];
        let [country, category, messages] = of;
        [country, category, messages, row.price.to_string(), amount(row.cost)]
    };
    let header = ["country", "category", ">messages", ">price", ">cost"];
    let mut text = table::table(header, cost.by_country.iter().map(row));
    let without = match cost.without_price {
        0 => String::new(),
        1 => ", without 1 message that has no price".to_owned(),
        n => format!(", without {} messages that have no price", words::count(n)),
    };
    text += &format!("\n\n {} {} by the prices of {}{without}", cost.currency, amount(cost.total), cost.valid_from);
    text
}
