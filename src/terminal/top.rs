//! `pregon top`: a live screen of lines and campaigns, refreshed from the API every second.

use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::StatusCode;
use tokio::{pin, time::sleep};

use super::{
    CommandError, out,
    pages::{all_pages, first_rows},
    reconnect::Reconnect,
    screen::{self, Screen},
    table, words,
};
use crate::{
    api_types::{CampaignView, LineView, WaitReason},
    client::{self, Client, ClientError, Known},
    domain::{CampaignId, CampaignState, UnixMs},
    telemetry::clock,
};

/// The time between two refreshes.
const REFRESH: Duration = Duration::from_secs(1);
/// The maximum number of campaigns that are shown. Each costs an API call.
const CAMPAIGNS_MAX: usize = 20;
/// The maximum number of characters of a name.
const NAME_CHARS_MAX: usize = 24;
/// The states of the campaigns that are shown, in this order.
const STATES: [CampaignState; 3] = [CampaignState::Running, CampaignState::Paused, CampaignState::Scheduled];
/// Rows besides those of lines and campaigns: the first row, two empty ones, and the headers of two tables.
const OTHER_ROWS: usize = 7;

/// Shows lines and campaigns until `stop` is ready or somebody presses q. Without a terminal, prints them once.
///
/// Errors: the server refused a call; it never answered, or has not answered for five minutes.
pub async fn top(client: &Client, stop: impl Future<Output = ()>) -> Result<(), CommandError> {
    let mut reading = Reading::of(client).await?;
    if !screen::is_available() {
        return Ok(out::line(&reading.text(usize::MAX, ""))?);
    }
    let screen = Screen::open()?;
    let mut reconnect = Reconnect::default();
    let mut trouble = String::new();
    let quit = async {
        tokio::select! {
            () = stop => {}
            () = screen::quit_pressed() => {}
        }
    };
    pin!(quit);
    reconnect.heard();
    loop {
        let (rows, columns) = screen.size();
        let end = if trouble.is_empty() { "q ends" } else { &trouble };
        screen.draw(&cut(&reading.text(rows, end), rows, columns))?;
        let next = async {
            sleep(REFRESH).await;
            Reading::of(client).await
        };
        let next = tokio::select! {
            () = &mut quit => return Ok(()),
            next = next => next,
        };
        match next {
            Ok(next) => {
                reconnect.heard();
                (reading, trouble) = (next, String::new());
            }
            Err(error) if reconnect.can_follow(&error) => trouble = words::printable(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The API's responses at one time.
struct Reading {
    at: UnixMs,
    lines: Vec<Known<LineView>>,
    campaigns: Vec<Known<CampaignView>>,
    /// Whether there are more campaigns than are shown.
    has_more: bool,
}

impl Reading {
    async fn of(client: &Client) -> client::Result<Self> {
        let lines = all_pages(async |cursor| client.lines(cursor.as_deref()).await).await?;
        let (mut ids, mut has_more): (Vec<CampaignId>, bool) = (Vec::new(), false);
        for state in STATES {
            let room = CAMPAIGNS_MAX - ids.len();
            let page = async |next: Option<String>| client.campaigns(Some(state), next.as_deref()).await;
            let (campaigns, cut) = first_rows(room, page).await?;
            ids.extend(campaigns.iter().map(|campaign| campaign.id));
            has_more |= cut;
        }
        let campaigns = try_join_all(ids.into_iter().map(|id| existing(client, id))).await?;
        Ok(Self { at: clock::now(), lines, campaigns: campaigns.into_iter().flatten().collect(), has_more })
    }

    /// The whole screen. `rows`: the maximum number of rows. `end`: the text at the end of the first row.
    fn text(&self, rows: usize, end: &str) -> String {
        let room = rows.saturating_sub(OTHER_ROWS);
        let n_campaigns = self.campaigns.len().min(room / 2);
        let mut parts = vec![
            self.summary(end),
            lines(&self.lines, room - n_campaigns),
            campaigns(&self.campaigns, n_campaigns.max(1), self.has_more, self.at),
            self.waits(),
        ];
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    /// The first row.
    fn summary(&self, end: &str) -> String {
        let per_second = self.lines.iter().fold(0.0, |sum, line| sum + line.accepted_per_second);
        let (in_flight, backlog) =
            self.lines.iter().fold((0, 0), |sum, line| (sum.0 + line.in_flight, sum.1 + line.backlog));
        let mut facts = vec![
            words::time(self.at),
            format!("{} accepted", table::rate(per_second)),
            format!("{} in flight", words::count(in_flight)),
            format!("{} to send", words::count(backlog)),
        ];
        facts.extend((!end.is_empty()).then(|| end.to_owned()));
        format!(" {}", facts.join(" · "))
    }

    /// Why campaigns wait, except for the rate of their lines.
    fn waits(&self) -> String {
        let of = |campaign: &Known<CampaignView>| {
            let waits = campaign.statistics.as_ref().map(|of| of.waiting_for.clone()).unwrap_or_default();
            let waits: Vec<_> = waits.into_iter().filter(|wait| wait.reason != WaitReason::LineRate).collect();
            let name = name(&campaign.name);
            words::waiting_for(&waits).into_iter().map(move |why| format!(" {name}: {}", words::printable(&why)))
        };
        self.campaigns.iter().flat_map(of).collect::<Vec<_>>().join("\n")
    }
}

/// The campaign `id`; `None` if it was deleted meanwhile.
async fn existing(client: &Client, id: CampaignId) -> client::Result<Option<Known<CampaignView>>> {
    match client.campaign(id).await {
        Ok(campaign) => Ok(Some(campaign)),
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// At most `shown` lines: idle ones last, otherwise in the order of the configuration.
fn lines(lines: &[Known<LineView>], shown: usize) -> String {
    let mut order: Vec<&Known<LineView>> = lines.iter().collect();
    order.sort_by_key(|line| line.state == "idle");
    let row = |line: &&Known<LineView>| {
        [
            line.id.to_string(),
            name(&table::line_name(line)),
            table::line_state(line),
            table::rate(line.messages_per_second),
            table::rate(line.accepted_per_second),
            words::count(line.in_flight),
            words::count(line.backlog),
        ]
    };
    let header = ["=line", "=name", "=state", ">rate", ">now", ">in flight", ">backlog"];
    let kept = kept(order.len(), shown);
    let mut text = table::table(header, order[..kept].iter().map(row));
    if kept < order.len() {
        text += &format!("\n and {}", words::counted((order.len() - kept) as u64, "more line"));
    }
    text
}

/// At most `shown` campaigns.
fn campaigns(campaigns: &[Known<CampaignView>], shown: usize, has_more: bool, now: UnixMs) -> String {
    if campaigns.is_empty() {
        return " no campaign is running, paused or scheduled".into();
    }
    let row = |campaign: &Known<CampaignView>| {
        let of = campaign.statistics.clone().unwrap_or_default();
        [
            campaign.id.to_string(),
            name(&campaign.name),
            campaign.state.to_string(),
            words::share(of.done(), of.recipients),
            format!("{:.1}/s", of.rate_per_second),
            words::left(&of, now).unwrap_or_default(),
        ]
    };
    let kept = kept(campaigns.len(), shown);
    let mut text =
        table::table(["=campaign", "=name", "=state", ">done", ">rate", "=left"], campaigns[..kept].iter().map(row));
    if has_more || kept < campaigns.len() {
        text += "\n and more: pregon campaign list";
    }
    text
}

/// How many of `n` rows are shown in `shown` rows. If not all fit, the last row is used for a note.
fn kept(n: usize, shown: usize) -> usize {
    if n <= shown { n } else { shown.saturating_sub(1) }
}

/// A name, truncated.
fn name(name: &str) -> String {
    let printable = words::printable(name);
    match printable.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &printable[..end]),
        None => printable,
    }
}

/// The part of `text` that fits into `rows` and `columns`.
fn cut(text: &str, rows: usize, columns: usize) -> String {
    let line = |line: &str| line.chars().take(columns).collect::<String>();
    text.lines().take(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(n_lines: usize, n_campaigns: usize) -> Reading {
        let line = |n: usize| {
            json!({
                "id": format!("30{n:02}"), "waba": "2001", "name": "sales", "state": if n.is_multiple_of(2) { "idle" } else { "sending" },
                "messages_per_second": 80.0, "allowance": null, "allowed_now": 72.0, "owner": "w1", "in_flight": 3,
                "accepted_per_second": 71.94, "backlog": 1_200,
            })
        };
        let campaign = |n: usize| {
            json!({
                "id": format!("01JD8Z2V3W4X5Y6Z7A8B9C0D{n:02}"), "name": "the name of a campaign that is rather long",
                "state": "running", "template": { "name": "spring_sale", "language": "es_AR" }, "lines": ["3001"],
                "statistics": {
                    "recipients": 1_000, "by_state": { "pending": 500, "read": 500 }, "rate_per_second": 71.9,
                    "eta": "1970-01-01T00:00:09Z", "waiting_for": [
                        { "reason": "line_rate", "line": "3001" }, { "reason": "no_worker", "line": "3002" },
                    ],
                },
            })
        };
        let known = |json: serde_json::Value| serde_json::from_str(&json.to_string()).expect("a line");
        let campaigns = (0..n_campaigns).map(campaign);
        let campaigns = campaigns.map(|json| serde_json::from_str(&json.to_string()).expect("a campaign")).collect();
        Reading { at: UnixMs(0), lines: (0..n_lines).map(line).map(known).collect(), campaigns, has_more: false }
    }

    #[test]
    fn a_screen_has_totals_lines_campaigns_and_waits() {
        let wanted = "
 1970-01-01T00:00:00Z · 143.9/s accepted · 6 in flight · 2,400 to send · q ends

 line  name   state    rate     now  in flight  backlog
────────────────────────────────────────────────────────
 3001  sales  sending  80/s  71.9/s          3    1,200
 3000  sales  idle     80/s  71.9/s          3    1,200

 campaign                    name                       state      done    rate  left
─────────────────────────────────────────────────────────────────────────────────────────
 01JD8Z2V3W4X5Y6Z7A8B9C0D00  the name of a campaign t…  running  50.0 %  71.9/s  9s left

 the name of a campaign t…: On line 3002: no worker serves the line; start a worker with `pregon serve`.";
        assert_eq!(format!("\n{}", reading(2, 1).text(usize::MAX, "q ends")), wanted);
        let text = reading(0, 0).text(24, "the connection broke");
        assert!(text.contains("to send · the connection broke\n"), "{text}");
        assert!(text.contains("no campaign is running"), "{text}");
    }

    #[test]
    fn a_small_screen_shows_fewer_lines_and_campaigns() {
        let text = reading(40, 20).text(24, "");
        assert!(text.contains(" and 32 more lines\n"), "{text}");
        assert_eq!(text.matches("01JD8Z").count(), 7, "{text}");
        assert!(text.contains(" and more: pregon campaign list"), "{text}");
        let drawn = cut(&text, 24, 60);
        assert_eq!(drawn.lines().count(), 24);
        assert!(drawn.lines().all(|line| line.chars().count() <= 60), "{drawn}");
        assert!(cut(&reading(1, 1).text(2, ""), 2, 10).lines().count() <= 2);
    }
}
