//! Formats results as tables for people: at most 100 columns wide, numbers aligned to the right.

use std::{collections::HashMap, ops::Deref};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};

use super::words;
use crate::{
    api_types::{
        AgentView, BusinessView, CampaignView, DeadJobView, DiscoveredBusiness, DiscoveredLine, DiscoveredWaba,
        FailureCount, GroupView, HoldView, LineView, RecipientView, Rejection, SkipCount, Statistics, SuppressionView,
        TemplateName, TemplateView, WorkerView,
    },
    domain::{LineId, UnixMs},
};

/// How many of the lines of a worker, or of the rows with the same reason, a table names.
const NAMED_MAX: usize = 4;

/// The maximum width of a table.
const COLUMNS: u16 = 100;

/// A table with `header`. A column whose name begins with `>` has numbers, which are aligned to the right and never
/// wrapped. A column whose name begins with `=` has values that people copy, which are never wrapped.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS)
        .set_header(header.map(|name| name.trim_start_matches(['>', '='])))
        .add_rows(rows);
    for (column, name) in table.column_iter_mut().zip(header) {
        if name.starts_with(['>', '=']) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A table of names and values. Leaves out empty values.
pub fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS);
    table.add_rows(fields.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| [name.into(), value]));
    table.trim_fmt()
}

/// A table of suppressions.
pub fn suppressions<S: Deref<Target = SuppressionView>>(people: &[S]) -> String {
    let row = |person: &S| {
        [
            person.phone.map_or_else(|| "forgotten".to_owned(), |phone| phone.to_string()),
            person.scope.name().to_owned(),
            person.reason.name().to_owned(),
            words::time(person.since),
            person.source.name().to_owned(),
        ]
    };
    table(["=phone", "=scope", "=reason", "=since", "source"], people.iter().map(row))
}

/// A table of agents.
pub fn agents<A: Deref<Target = AgentView>>(agents: &[A]) -> String {
    let row = |agent: &A| {
        [
            agent.id.to_string(),
            words::printable(&agent.name),
            words::printable(agent.email.as_deref().unwrap_or("removed")),
            agent.role.clone(),
            agent.presence.clone(),
            words::count(agent.chats.into()),
            groups_of(agent),
        ]
    };
    table(["=id", "name", "email", "role", "presence", ">chats", "groups"], agents.iter().map(row))
}

/// One agent.
pub fn agent(agent: &AgentView) -> String {
    fields([
        ("id", agent.id.to_string()),
        ("business", agent.business.to_string()),
        ("name", words::printable(&agent.name)),
        ("email", words::printable(agent.email.as_deref().unwrap_or_default())),
        ("role", agent.role.clone()),
        ("groups", groups_of(agent)),
        ("presence", agent.presence.clone()),
        ("chats", format!("{} of at most {}", agent.chats, agent.capacity)),
        ("password", if agent.has_password { "set".to_owned() } else { "not set yet".to_owned() }),
        ("created", words::time(agent.created_at)),
        ("removed", agent.removed_at.map(words::time).unwrap_or_default()),
    ])
}

fn groups_of(agent: &AgentView) -> String {
    let groups: Vec<_> = agent.groups.iter().map(|group| group.as_str()).collect();
    groups.join(", ")
}

/// A table of groups.
pub fn groups<G: Deref<Target = GroupView>>(groups: &[G]) -> String {
    let row = |group: &G| {
        [
            group.id.to_string(),
            group.business.to_string(),
            words::printable(&group.name),
            words::count(group.agents.into()),
            words::count(group.queued.into()),
        ]
    };
    table(["=id", "=business", "name", ">agents", ">queued"], groups.iter().map(row))
}

/// A table of campaigns.
pub fn campaigns<C: Deref<Target = CampaignView>>(campaigns: &[C]) -> String {
    let row = |campaign: &C| {
        [
            campaign.id.to_string(),
            campaign.external_id.clone().unwrap_or_default(),
            campaign.name.clone(),
            campaign.state.to_string(),
            template(campaign),
            created(campaign),
        ]
    };
    table(["=id", "external id", "name", "=state", "template", "=created"], campaigns.iter().map(row))
}

/// One campaign: its fields, its recipients by state, the funnel, the failures, and why it waits.
pub fn campaign(campaign: &CampaignView, now: UnixMs) -> String {
    let lines: Vec<_> = campaign.lines.iter().map(|line| line.as_str()).collect();
    let mut parts = vec![fields([
        ("id", campaign.id.to_string()),
        ("external id", campaign.external_id.clone().unwrap_or_default()),
        ("test of", campaign.test_of.map(|id| id.to_string()).unwrap_or_default()),
        ("name", campaign.name.clone()),
        ("state", campaign.state.to_string()),
        ("template", template(campaign)),
        ("lines", lines.join(", ")),
        ("created", created(campaign)),
        ("starts", campaign.start_at.map(words::time).unwrap_or_default()),
        ("expires", campaign.expires_at.map(words::time).unwrap_or_default()),
        ("window", campaign.send_window.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("rate", campaign.rate.map(|rate| format!("at most {rate} a second")).unwrap_or_default()),
        ("cap", campaign.frequency_cap.map(|cap| format!("at most {cap} a person")).unwrap_or_default()),
        ("answers go to", campaign.reply.as_ref().map(ToString::to_string).unwrap_or_default()),
    ])];
    if let Some(of) = &campaign.statistics {
        parts.push(statistics(of));
        if of.open() > 0 {
            let left = words::left(of, now).map(|left| format!(", {left}")).unwrap_or_default();
            parts.push(format!(" {:.1} messages per second{left}", of.rate_per_second));
        }
        parts.extend(words::held(of).map(|held| format!(" {held}")));
        parts.extend(words::chats(of).map(|chats| format!(" {chats}")));
        let waits: Vec<_> = words::waiting_for(&of.waiting_for).iter().map(|wait| format!(" {wait}")).collect();
        parts.push(waits.join("\n"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn template(campaign: &CampaignView) -> String {
    let TemplateName { name, language } = &campaign.template;
    if name.is_empty() { String::new() } else { format!("{name}/{language}") }
}

/// Empty if the server did not return it.
fn created(campaign: &CampaignView) -> String {
    campaign.created_at.map_or_else(String::new, words::time)
}

/// The states that have recipients, the funnel, the failures and the skips.
pub fn statistics(statistics: &Statistics) -> String {
    let of_all = |(name, n): (&str, u64)| [name.into(), words::count(n), words::share(n, statistics.recipients)];
    let states = statistics.by_state.each().into_iter().filter(|(_, n)| *n > 0);
    let all = ("all", statistics.recipients);
    let mut tables = vec![
        table(["state", ">recipients", ">share"], states.chain([all]).map(of_all)),
        table(["reached", ">recipients", ">share"], statistics.funnel.each().map(of_all)),
    ];
    if !statistics.failures.is_empty() {
        let row = |failure: &FailureCount| {
            [failure.code.map_or(0, |code| code.0).to_string(), failure.title.clone(), words::count(failure.count)]
        };
        tables.push(table([">code", "reason", ">recipients"], statistics.failures.iter().map(row)));
    }
    if !statistics.skips.is_empty() {
        let row = |skip: &SkipCount| [skip.reason.clone(), words::count(skip.count)];
        tables.push(table(["skipped because", ">recipients"], statistics.skips.iter().map(row)));
    }
    tables.join("\n\n")
}

/// A table of lines.
pub fn lines<L: Deref<Target = LineView>>(lines: &[L]) -> String {
    let row = |line: &L| {
        [
            line.id.to_string(),
            line_name(line),
            unless_id(line, &line.display),
            line_state(line),
            rate(line.messages_per_second),
            rate(line.accepted_per_second),
            words::count(line.backlog),
        ]
    };
    table(["=id", "name", "number", "state", ">rate", ">now", ">backlog"], lines.iter().map(row))
}

/// One line: its fields, the pauses of the installation and of its business that stop it, and its holds.
pub fn line(line: &LineView) -> String {
    let configured = Some(line.configured).filter(|rate| *rate > 0.0 && *rate != line.messages_per_second);
    let configured = configured.map(|value| format!(" (configured: {})", rate(value))).unwrap_or_default();
    let mut text = fields([
        ("id", line.id.to_string()),
        ("name", line_name(line)),
        ("number", unless_id(line, &line.display)),
        ("state", line_state(line)),
        ("because", because(line)),
        ("rate", format!("{}{configured}", rate(line.messages_per_second))),
        ("rate source", line.rate_source.to_string()),
        ("Meta allows", line.allowance.map(rate).unwrap_or_default()),
        ("campaigns may send", line.allowed_now.map(rate).unwrap_or_default()),
        ("accepted", rate(line.accepted_per_second)),
        ("in flight", words::count(line.in_flight)),
        ("backlog", words::count(line.backlog)),
        ("worker", line.owner.clone().unwrap_or_default()),
        ("warm-up until", line.warm_up_until.map(words::time).unwrap_or_default()),
    ]);
    for pause in &line.pauses {
        text += &format!("\n\n{}", words::pause(pause));
    }
    if !line.holds.is_empty() {
        text += &format!("\n\n{}", holds(&line.holds.iter().collect::<Vec<_>>()));
    }
    text
}

/// Why a line does not get through to Meta, and since when; empty if it does.
fn because(line: &LineView) -> String {
    let Some(cause) = line.path_broken.as_ref().or(line.unreachable.as_ref()) else { return String::new() };
    let since = line.since.map(|at| format!(" (since {})", words::time(at))).unwrap_or_default();
    words::printable(cause) + &since
}

/// A table of businesses.
pub fn businesses<B: Deref<Target = BusinessView>>(businesses: &[B]) -> String {
    let count = |n: Option<u64>| n.map(words::count).unwrap_or_default();
    let row = |business: &B| {
        let wabas: Vec<String> = business.wabas.iter().map(ToString::to_string).collect();
        let held = business.holds.first().map(|hold| words::printable(&hold.reason)).unwrap_or_default();
        [
            business.id.to_string(),
            wabas.join(", "),
            limit(business),
            count(business.used_24h),
            count(business.remaining),
            business.frees_at.map(words::time).unwrap_or_default(),
            held,
        ]
    };
    let header = ["=id", "wabas", ">limit", ">used", ">places left", "=next place at", "held because"];
    table(header, businesses.iter().map(row))
}

fn limit(business: &BusinessView) -> String {
    match business.limit {
        Some(limit) => words::count(limit.into()),
        None if business.limit_known => "no limit".to_owned(),
        None => "not known yet".to_owned(),
    }
}

/// A table of the lines that businesses have at Meta. A WABA without lines has a row, too.
pub fn discovery(businesses: &[DiscoveredBusiness]) -> String {
    let text = |value: &Option<String>| value.as_deref().map(words::printable).unwrap_or_default();
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let row = |waba: &DiscoveredWaba, line: Option<&DiscoveredLine>| {
        [
            waba.id.to_string(),
            line.map(|line| line.id.to_string()).unwrap_or_default(),
            line.map(|line| words::printable(&line.display)).unwrap_or_default(),
            line.map(|line| text(&line.verified_name)).unwrap_or_default(),
            line.map(|line| text(&line.status)).unwrap_or_default(),
            line.map(|line| text(&line.quality)).unwrap_or_default(),
            line.map(|line| text(&line.messaging_limit)).unwrap_or_default(),
            waba.subscribed.map(yes).unwrap_or_default(),
            yes(line.map_or(waba.configured, |line| line.configured)),
        ]
    };
    let wabas = businesses.iter().flat_map(|business| &business.wabas);
    let rows = wabas.flat_map(|waba| {
        let lines = waba.lines.iter().map(move |line| row(waba, Some(line)));
        waba.lines.is_empty().then(|| row(waba, None)).into_iter().chain(lines)
    });
    table(["=waba", "=line", "=number", "name", "status", "quality", "limit", "webhooks", "configured"], rows)
}

/// A table of holds.
pub fn holds<H: Deref<Target = HoldView>>(holds: &[H]) -> String {
    let row = |hold: &H| {
        let code = hold.code.map(|code| code.to_string()).unwrap_or_default();
        let reason = words::printable(&hold.reason);
        [words::printable(&hold.scope), code, reason, words::time(hold.since), words::end_of_hold(hold)]
    };
    table(["=hold", ">code", "reason", "=since", "lifted by"], holds.iter().map(row))
}

/// A table of recipients.
pub fn recipients<R: Deref<Target = RecipientView>>(recipients: &[R]) -> String {
    let row = |recipient: &R| {
        [
            recipient.to.map_or_else(|| "forgotten".to_owned(), |to| to.to_string()),
            recipient.state.replace('_', " "),
            recipient.code.map(|code| code.to_string()).unwrap_or_default(),
            words::printable(recipient.reason.as_deref().unwrap_or_default()),
            recipient.attempts.to_string(),
            recipient.line.to_string(),
            recipient.times.updated_at.map(words::time).unwrap_or_default(),
        ]
    };
    table(["=to", "=state", ">code", "reason", ">attempts", "=line", "=changed"], recipients.iter().map(row))
}

/// A table of templates.
pub fn templates<T: Deref<Target = TemplateView>>(templates: &[T]) -> String {
    let row = |view: &T| {
        [
            template_id(view),
            view.template.category.to_string(),
            view.template.status.to_string(),
            words::printable(&view.template.quality_score),
            if view.usable { "yes" } else { "no" }.to_owned(),
        ]
    };
    table(["template", "=category", "=status", "quality", "usable"], templates.iter().map(row))
}

/// `2001/order_update/es_AR`: the form in which commands take a template.
pub fn template_id(view: &TemplateView) -> String {
    words::printable(&format!("{}/{}/{}", view.waba, view.template.name, view.template.language))
}

/// A table of workers.
pub fn workers<W: Deref<Target = WorkerView>>(workers: &[W]) -> String {
    let row = |worker: &W| {
        [
            words::printable(&worker.id),
            worker.version.as_deref().map_or_else(|| "0.1.0".to_owned(), words::printable),
            words::printable(&worker.roles.join(", ")),
            named(worker.lines.iter().map(LineId::to_string)),
            worker.since.map(words::time).unwrap_or_default(),
        ]
    };
    table(["=worker", "=version", "roles", "lines", "=since"], workers.iter().map(row))
}

/// `3001, 3002, 3003, 3004 and 7 more`
pub fn named(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let named: Vec<String> = all.take(NAMED_MAX).collect();
    named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// The name of a line; empty if the configuration has none, so that the id stands for it.
pub fn line_name(line: &LineView) -> String {
    unless_id(line, &line.name)
}

/// The text, unless it only repeats the id of the line.
fn unless_id(line: &LineView, text: &str) -> String {
    if text == line.id.as_str() { String::new() } else { text.to_owned() }
}

/// The state of a line, in words.
pub fn line_state(line: &LineView) -> String {
    line.state.replace('_', " ")
}

/// `79.6/s`; whole numbers without a fraction.
pub fn rate(per_second: f64) -> String {
    format!("{}/s", (per_second * 10.0).round() / 10.0)
}

/// A table of dead letters.
pub fn dead_jobs<J: Deref<Target = DeadJobView>>(jobs: &[J]) -> String {
    let row = |job: &J| {
        let what = [job.r#type.as_deref(), job.external_id.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        [job.id.to_string(), failed_at(job), words::printable(&what.join(" ")), words::printable(&job.reason)]
    };
    table(["=id", "=failed", "job", "reason"], jobs.iter().map(row))
}

/// One dead letter: its fields, the rejected recipients, and the job.
pub fn dead_job(job: &DeadJobView) -> String {
    let mut parts = vec![fields([
        ("id", job.id.to_string()),
        ("entry", job.entry.to_string()),
        ("failed", failed_at(job)),
        ("code", words::printable(&job.code)),
        ("reason", words::printable(&job.reason)),
        ("bytes", words::count(job.job_bytes)),
    ])];
    if !job.rejected.is_empty() {
        parts.push(rejections(&same_reason(&job.rejected)));
    }
    parts.extend(job.job.as_deref().map(|text| text.lines().map(words::printable).collect::<Vec<_>>().join("\n")));
    parts.join("\n\n")
}

/// Empty if the server did not return it.
fn failed_at(job: &DeadJobView) -> String {
    job.at.map_or_else(String::new, words::time)
}

/// A table of rejected rows: one for all that were rejected for the same reason.
pub fn rejections(groups: &[Vec<&Rejection>]) -> String {
    let row = |group: &Vec<&Rejection>| [places(group), group[0].code.clone(), group[0].reason.clone()];
    table(["where", "code", "reason"], groups.iter().map(row))
}

/// The rejected rows by code and reason, in the order of the first row of each group.
pub fn same_reason(rejections: &[Rejection]) -> Vec<Vec<&Rejection>> {
    let mut groups: Vec<Vec<&Rejection>> = Vec::new();
    let mut places = HashMap::new();
    for rejection in rejections {
        let new = groups.len();
        let place = *places.entry((&rejection.code, &rejection.reason)).or_insert(new);
        if place == new {
            groups.push(Vec::new());
        }
        groups[place].push(rejection);
    }
    groups
}

/// `line 4`, `lines 4, 5, 6 and 17 more`; rows in place of lines if the lines of the file are not known.
fn places(group: &[&Rejection]) -> String {
    let noun = if group.iter().all(|rejection| rejection.line.is_some()) { "line" } else { "row" };
    let number = |rejection: &&Rejection| match rejection.line.filter(|_| noun == "line") {
        Some(line) => line.to_string(),
        None => words::count(rejection.row),
    };
    match group {
        [one] => format!("{noun} {}", number(one)),
        _ => format!("{noun}s {}", named(group.iter().map(number))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A running campaign, as the API returns it.
    fn running() -> CampaignView {
        serde_json::from_value(json!({
            "id": "01JD8Z2V3W4X5Y6Z7A8B9C0D1E", "external_id": "crm-77", "name": "spring sale", "state": "running",
            "template": {"name": "spring_sale", "language": "es_AR"}, "lines": ["3001", "3002"], "priority": 5,
            "created_at": "2026-11-22T17:00:00.25Z",
            "statistics": {
                "recipients": 100_000,
                "by_state": {"pending": 54_392, "in_flight": 8, "retrying": 0, "in_doubt": 0, "accepted": 12, "sent": 300,
                    "delivered": 20_000, "read": 24_600, "failed": 600, "skipped": 80, "expired": 0, "cancelled": 0, "unknown": 8},
                "funnel": {"attempted": 45_520, "accepted": 44_912, "sent": 44_900, "delivered": 44_600, "read": 24_600, "replied": 0},
                "failures": [{"code": 131_026, "title": "undeliverable", "count": 600}],
                "rate_per_second": 79.6, "eta": "1970-01-01T00:12:05Z",
                "waiting_for": [{"reason": "line_rate", "line": "3001"}, {"reason": "line_rate", "line": "3002"}],
            },
        }))
        .expect("a campaign")
    }

    #[test]
    fn a_campaign_is_shown_with_all_its_statistics() {
        let text = campaign(&running(), UnixMs(0));
        let wanted = "
 id           01JD8Z2V3W4X5Y6Z7A8B9C0D1E
 external id  crm-77
 name         spring sale
 state        running
 template     spring_sale/es_AR
 lines        3001, 3002
 created      2026-11-22T17:00:00Z

 state      recipients    share
────────────────────────────────
 pending        54,392   54.4 %
 in flight           8    0.0 %
 accepted           12    0.0 %
 sent              300    0.3 %
 delivered      20,000   20.0 %
 read           24,600   24.6 %
 failed            600    0.6 %
 skipped            80    0.1 %
 unknown             8    0.0 %
 all           100,000  100.0 %

 reached    recipients   share
───────────────────────────────
 attempted      45,520  45.5 %
 accepted       44,912  44.9 %
 sent           44,900  44.9 %
 delivered      44,600  44.6 %
 read           24,600  24.6 %
 replied             0   0.0 %

   code  reason         recipients
───────────────────────────────────
 131026  undeliverable         600

 79.6 messages per second, 12m 5s left

 On lines 3001, 3002: the campaign sends as fast as the rate allows.";
        assert_eq!(format!("\n{text}"), wanted);
    }

    #[test]
    fn a_campaign_without_statistics_has_only_its_fields() {
        let bare = CampaignView { statistics: None, external_id: None, ..running() };
        let text = campaign(&bare, UnixMs(0));
        assert!(text.ends_with("2026-11-22T17:00:00Z") && !text.contains("external id"), "{text}");
    }

    #[test]
    fn a_table_is_at_most_100_columns_wide() {
        let mut long = running();
        long.name = "the name of a campaign that somebody thought about for a whole afternoon ".repeat(3);
        long.template.name = "spring_sale_".repeat(20);
        let reason = "parameter greeting is too long: 1,234 characters, at most 1,024; ".repeat(4);
        let rejection = Rejection { row: 17, line: None, code: "too_long".into(), reason };
        for text in [campaigns(&[&running(), &long]), campaign(&long, UnixMs(0)), rejections(&[vec![&rejection]])] {
            for line in text.lines() {
                assert!(line.chars().count() <= usize::from(COLUMNS), "{line}");
            }
        }
        let text = campaigns(&[&long]);
        assert!(text.contains("crm-77"), "an external id names a campaign in every command: {text}");
        assert!(text.contains("01JD8Z2V3W4X5Y6Z7A8B9C0D1E"), "an id is never wrapped, because people copy it: {text}");
    }

    #[test]
    fn a_rejected_row_is_shown_with_its_line_or_row_and_reason() {
        let rejection =
            |row, line, code: &str, reason: &str| Rejection { row, line, code: code.into(), reason: reason.into() };
        let mut rejected = vec![
            rejection(3, Some(17), "not_e164", "`to` is not a phone number in E.164"),
            rejection(1_700, None, "duplicate", "the number …0001 is already in the campaign"),
        ];
        let no_scope = |row| rejection(row, Some(row + 1), "scope_missing", "the row has no scope");
        rejected.extend((1..=20).map(no_scope));
        let wanted = "
 where                         code           reason
──────────────────────────────────────────────────────────────────────────────────────────
 line 17                       not_e164       `to` is not a phone number in E.164
 row 1,700                     duplicate      the number …0001 is already in the campaign
 lines 2, 3, 4, 5 and 16 more  scope_missing  the row has no scope";
        assert_eq!(format!("\n{}", rejections(&same_reason(&rejected))), wanted);
    }

    /// A dead letter, as the API returns it.
    fn dead() -> DeadJobView {
        serde_json::from_value(json!({
            "id": "1795339609001-0", "entry": "1795339607800-0", "at": "2026-11-22T09:26:47.894Z",
            "code": "recipients-rejected", "reason": "1 of 2 recipients were rejected, the others were accepted",
            "rejected": [{"row": 2, "code": "duplicate", "reason": "the number …0001 is already in the campaign"}],
            "type": "recipients", "external_id": "spring\u{1b}[2J", "job": "{\"type\":\n\u{1b}[2J}", "job_bytes": 1_234,
        }))
        .expect("a dead letter")
    }

    #[test]
    fn dead_letters_are_listed_with_job_and_reason() {
        let wanted = "
 id               failed                job                         reason
──────────────────────────────────────────────────────────────────────────────────────────────
 1795339609001-0  2026-11-22T09:26:47Z  recipients spring\\u{1b}[2J  1 of 2 recipients were
                                                                    rejected, the others were
                                                                    accepted";
        assert_eq!(format!("\n{}", dead_jobs(&[&dead()])), wanted);
    }

    #[test]
    fn a_dead_letter_is_shown_with_its_rejections_and_job() {
        let wanted = "
 id      1795339609001-0
 entry   1795339607800-0
 failed  2026-11-22T09:26:47Z
 code    recipients-rejected
 reason  1 of 2 recipients were rejected, the others were accepted
 bytes   1,234

 where  code       reason
───────────────────────────────────────────────────────────────
 row 2  duplicate  the number …0001 is already in the campaign

{\"type\":
\\u{1b}[2J}";
        assert_eq!(format!("\n{}", dead_job(&dead())), wanted);
    }

    fn held_line() -> LineView {
        serde_json::from_value(json!({
            "id": "106540352242922", "waba": "2001", "name": "sales", "display": "+54 9 11 5555 0001", "state": "no_worker",
            "messages_per_second": 20.0, "rate_source": "operator", "configured": 80.0, "allowance": 1_000.0, "allowed_now": null, "owner": null, "in_flight": 0,
            "accepted_per_second": 19.64, "throttled": false, "paused": false, "backlog": 54_400,
            "holds": [{"scope": "token:2001", "code": 190, "reason": "the token expired", "since": "2026-11-22T17:00:00Z", "until": null}],
        }))
        .expect("a line")
    }

    #[test]
    fn lines_are_listed_with_rate_and_backlog() {
        let wanted = "
 id               name   number              state      rate     now  backlog
──────────────────────────────────────────────────────────────────────────────
 106540352242922  sales  +54 9 11 5555 0001  no worker  20/s  19.6/s   54,400";
        assert_eq!(format!("\n{}", lines(&[&held_line()])), wanted);
    }

    #[test]
    fn a_line_is_shown_with_its_holds() {
        let text = line(&held_line());
        assert!(text.contains("rate         20/s (configured: 80/s)"), "{text}");
        assert!(text.contains("Meta allows  1000/s") && !text.contains("warm-up"), "{text}");
        assert!(text.contains("the token expired") && text.contains("person"), "{text}");
        assert!(!text.contains("worker     "), "no worker has its lease: {text}");
    }

    #[test]
    fn a_hold_is_listed_with_what_ends_it() {
        let hold = |lifted_by: &[&str], until: Option<&str>| -> HoldView {
            serde_json::from_value(json!({
                "id": "waba:2001", "scope": "waba:2001", "business": "1001", "code": 131_031, "reason": "locked",
                "since": "2026-11-22T17:00:00Z", "until": until, "lifted_by": lifted_by,
            }))
            .expect("a hold")
        };
        let wanted = "
 hold         code  reason  since                 lifted by
───────────────────────────────────────────────────────────────────────────────────
 waba:2001  131031  locked  2026-11-22T17:00:00Z  probe, webhook, person
 waba:2001  131031  locked  2026-11-22T17:00:00Z  its end, at 2026-11-22T18:00:00Z";
        let open = hold(&["probe", "webhook", "person"], None);
        let ending = hold(&["time", "person"], Some("2026-11-22T18:00:00Z"));
        assert_eq!(format!("\n{}", holds(&[&open, &ending])), wanted);
        let template =
            HoldView { scope: format!("template:2001/{}/es_AR", "spring_sale_".repeat(6)), ..hold(&[], None) };
        assert!(holds(&[&template]).contains(&template.scope), "people copy the id");
    }
}
