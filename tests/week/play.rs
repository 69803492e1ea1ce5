//! Runs a plan: launches its campaigns, triggers its events, and skips the time in which nothing is to be sent.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use pregon::domain::UnixMs;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    check,
    plan::{Audience, HOUR, Happening, Moment, People, Plan},
    stage::Stage,
    support::until,
};

/// If no message was sent for this long, there is nothing to send for now. Workers follow Redis' clock within half a
/// second.
const QUIET: Duration = Duration::from_millis(700);
/// The real time within which messages to the same people are sent.
const PAIRS_WITHIN: Duration = Duration::from_secs(8);
/// The real time within which due messages are sent, even on a busy machine. A jump before that could skip the end of
/// the hours in which they may leave, and the worker would notice a moment too late.
const DUE_WITHIN: Duration = Duration::from_secs(5);
/// The jump while messages are in doubt and no campaign says when it continues.
const DOUBT_WAIT: Duration = Duration::from_secs(120);
/// The shortest jump. Retries that are due one after the other continue together, some of them hours late.
const JUMP_MIN: Duration = Duration::from_secs(6 * 3_600);
/// The longest jump, so that webhooks about events at Meta are not delivered too late.
const JUMP_MAX: Duration = Duration::from_secs(12 * 3_600);
/// A time by which every campaign has ended.
const END: Duration = Duration::from_secs(21 * 24 * 3_600);

/// A week that runs or has run.
pub struct Week {
    pub stage: Stage,
    began: Instant,
    start: UnixMs,
    /// The campaigns that have not ended.
    open: Vec<String>,
    pub ended: Vec<Value>,
    /// Every reason for which a campaign waited.
    pub reasons: BTreeSet<String>,
}

/// Runs the week, and checks its result.
pub async fn week(plan: Plan) {
    let stage = Stage::start_capped(plan.scenario, &plan.contact_hours).await;
    let start = stage.now().await;
    let mut week =
        Week { stage, began: Instant::now(), start, open: Vec::new(), ended: Vec::new(), reasons: BTreeSet::new() };
    for moment in &plan.moments {
        week.pass_until(moment.at).await;
        week.play(moment).await;
    }
    week.pass_until(END).await;
    week.deliver_all().await;
    week.print(plan.seed).await;
    check::all(&week).await;
}

impl Week {
    async fn play(&mut self, moment: &Moment) {
        let submitted = join_all(moment.campaigns.iter().map(|audience| submit(&self.stage, audience))).await;
        let before = self.stage.ledger().total.requests;
        let launched = join_all(submitted.iter().flatten().map(|(id, _)| launch(&self.stage, id))).await;
        self.open.extend(launched);
        let recipients: u64 = submitted.iter().flatten().map(|(_, n)| n).sum();
        for (share, happening) in &moment.meanwhile {
            let sent = before + (recipients as f64 * share) as u64;
            self.wait_for_sends(sent).await;
            println!("{:>7.1} h, {:>5.1} s: {happening:?}", self.hours().await, self.began.elapsed().as_secs_f64());
            happen(&mut self.stage, happening).await;
        }
    }

    /// Waits until Meta has got this many requests, or until no more are sent.
    async fn wait_for_sends(&self, requests: u64) {
        tokio::select! {
            () = self.stage.quiet(2 * QUIET) => {}
            () = async {
                while self.stage.ledger().total.requests < requests {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
    }

    /// Lets the campaigns run until this time of the week. If `at` is [`END`], stops as soon as all have ended.
    async fn pass_until(&mut self, at: Duration) {
        let target = self.start.after(at);
        let mut sending_since = Instant::now();
        let mut jumped_at = Instant::now();
        let mut requests = 0;
        loop {
            self.stage.quiet(QUIET).await;
            let waiting = self.read_campaigns().await;
            let now = self.stage.now().await;
            if now >= target || (at == END && self.open.is_empty()) {
                assert!(at != END || self.open.is_empty(), "never ended: {:?}", self.open);
                return;
            }
            let sent = self.stage.ledger().total.requests;
            if sent != requests {
                (requests, sending_since) = (sent, Instant::now());
            }
            if waiting.has_pairs && sending_since.elapsed() < PAIRS_WITHIN {
                continue;
            }
            if self.stage.is_in_grace_period() {
                continue;
            }
            if waiting.has_due && jumped_at.max(sending_since).elapsed() < DUE_WITHIN {
                continue;
            }
            let next = match &waiting.until {
                _ if self.open.is_empty() => target,
                Some((until, _)) => (*until).max(now.after(JUMP_MIN)),
                None if waiting.has_doubts => now.after(DOUBT_WAIT),
                None => now.after(JUMP_MIN),
            };
            let by = next.min(target).since(now).min(JUMP_MAX);
            println!(
                "{:>7.2} h, {:>5.1} s: jump of {} s, {} campaigns open, {sent} sends, {:?}, broken {:?}",
                self.hours().await,
                self.began.elapsed().as_secs_f64(),
                by.as_secs(),
                self.open.len(),
                waiting.until,
                self.stage.broken(),
            );
            self.stage.jump(by).await;
            jumped_at = Instant::now();
        }
    }

    /// Reads the open campaigns, and moves those that have ended to `ended`.
    async fn read_campaigns(&mut self) -> Waiting {
        let api = &self.stage.api;
        let campaigns =
            join_all(self.open.iter().map(async |id| (id.clone(), api.get(&format!("campaigns/{id}")).await))).await;
        let mut waiting = Waiting { has_pairs: false, has_due: false, has_doubts: false, until: None };
        let now = self.stage.now().await;
        self.open.clear();
        for (id, campaign) in campaigns {
            if campaign["state"] == "completed" {
                self.ended.push(campaign);
                continue;
            }
            assert_eq!(campaign["state"], "running", "{campaign}");
            waiting.has_doubts |= campaign["statistics"]["by_state"]["in_doubt"] != 0;
            for reason in campaign["statistics"]["waiting_for"].as_array().into_iter().flatten() {
                let word = reason["reason"].as_str().unwrap_or_default();
                self.reasons.insert(word.to_owned());
                waiting.has_pairs |= word == "pair_spacing";
                let until = reason["until"].as_str().and_then(|until| until.parse::<jiff::Timestamp>().ok());
                let until = until.and_then(|until| u64::try_from(until.as_millisecond()).ok()).map(UnixMs);
                let until = until.filter(|until| *until > now).map(|until| (until, word.to_owned()));
                waiting.has_due |= until.is_none() && ["line_rate", "throttled", "backing_off"].contains(&word);
                waiting.until = waiting.until.into_iter().chain(until).min();
            }
            self.open.push(id);
        }
        waiting
    }

    /// Lets the simulator deliver all its pending webhooks.
    async fn deliver_all(&mut self) {
        while self.stage.ledger().webhooks_pending > 0 {
            self.stage.quiet(QUIET).await;
            self.stage.jump(JUMP_MAX).await;
        }
        let ended = std::mem::take(&mut self.ended);
        for campaign in ended {
            let id = campaign["id"].as_str().expect("an id");
            self.ended.push(self.stage.api.get(&format!("campaigns/{id}")).await);
        }
    }

    /// The hours since the beginning of the week.
    async fn hours(&self) -> f64 {
        self.stage.now().await.since(self.start).as_secs_f64() / HOUR.as_secs_f64()
    }

    async fn print(&self, seed: u64) {
        let (counts, ledger) = (&self.stage.counts, self.stage.ledger());
        println!(
            "seed {seed}: {} campaigns, {} sends, {} accepted in {:.1} h, of which {:.1} h in {} jumps; {:.0} s of real time; \
             {} kills of workers, {} restarts of Redis; waited for {:?}; answers {:?}; violations {:?}",
            self.ended.len(),
            ledger.total.requests,
            ledger.total.accepted,
            self.hours().await,
            counts.jumped.as_secs_f64() / HOUR.as_secs_f64(),
            counts.jumps,
            self.began.elapsed().as_secs_f64(),
            counts.kills,
            counts.restarts,
            self.reasons,
            ledger.total.answers,
            ledger.total.violations,
        );
    }
}

/// What the open campaigns are waiting for.
struct Waiting {
    /// Some campaigns wait for the spacing of pairs, which passes in real time.
    has_pairs: bool,
    /// Some campaigns have messages that could be sent now.
    has_due: bool,
    /// Some campaigns have messages in doubt.
    has_doubts: bool,
    /// The earliest time at which a campaign says that it continues, and the reason why it waits until then.
    until: Option<(UnixMs, String)>,
}

/// Creates a campaign and uploads its recipients. Returns its id and their number; `None` if there are none.
async fn submit(stage: &Stage, audience: &Audience) -> Option<(String, u64)> {
    let people: Vec<u64> = match &audience.people {
        People::Numbers(range) => range.clone().collect(),
        People::Withheld => withheld(stage, audience).await,
    };
    let n = people.len() as u64;
    if n == 0 {
        return None;
    }
    let new = json!({
        "name": audience.template,
        "template": {"name": audience.template, "language": "es_AR"},
        "lines": audience.lines,
        "send_window": audience.send_window,
    });
    let mut id = String::new();
    // Repeated: workers read the templates from Meta just after the start, and a paused template is refused.
    until("a campaign is accepted", async || {
        let (status, body) = stage.api.call(Method::POST, "campaigns", Some(new.clone())).await;
        id = body["id"].as_str().unwrap_or_default().to_owned();
        [200, 201].contains(&status)
    })
    .await;
    let params =
        if audience.template == "login_code" { json!({"1": "482913"}) } else { json!({"1": "Ana", "2": "A-1"}) };
    let row = |to: &u64| format!("{}\n", json!({"to": format!("+{to}"), "params": params}));
    let rows: String = people.iter().map(row).collect();
    until("the recipients are accepted", async || {
        let (status, body) = stage.api.upload(&id, "all", rows.clone()).await;
        assert!(status == 503 || body["accepted"] == n, "{status} {body}");
        status == 200
    })
    .await;
    Some((id, n))
}

/// Launches a campaign. Returns its id.
async fn launch(stage: &Stage, id: &str) -> String {
    stage.api.post(&format!("campaigns/{id}/launch")).await;
    id.to_owned()
}

/// The people from whom Meta withheld marketing on the lines of this campaign, more than a day ago.
async fn withheld(stage: &Stage, audience: &Audience) -> Vec<u64> {
    let day_ago = UnixMs(stage.now().await.0.saturating_sub(25 * HOUR.as_millis() as u64));
    let messages = stage.sim.messages().into_iter().filter(|message| {
        let is_old = message.failed_at.is_some_and(|failed_at| failed_at < day_ago);
        let is_marketing = message.template.as_deref() == Some(audience.template);
        message.code == Some(131_049) && is_old && is_marketing && audience.lines.contains(&message.line.to_string())
    });
    messages.map(|message| message.to.digits()).collect::<BTreeSet<_>>().into_iter().collect()
}

async fn happen(stage: &mut Stage, happening: &Happening) {
    match happening {
        Happening::Red { waba, template } => {
            stage.meta("template", json!({"waba": waba, "name": template, "quality": "RED"})).await;
        }
        Happening::Yellow { waba, template, line } => {
            stage.meta("template", json!({"waba": waba, "name": template, "quality": "YELLOW"})).await;
            stage.meta("line", json!({"id": line, "quality_rating": "YELLOW"})).await;
        }
        Happening::Unpause { waba, template } => {
            stage.api.post(&format!("templates/{waba}/{template}/es_AR/unpause")).await;
        }
        Happening::Restrict { waba } => {
            let restrictions = ["RESTRICTED_BIZ_INITIATED_MESSAGING"];
            let change =
                json!({"waba": waba, "event": "ACCOUNT_RESTRICTION", "restrictions": restrictions, "for": "24h"});
            stage.meta("account", change).await;
        }
        Happening::Ban { business } => {
            stage.meta("account", json!({"business": business, "event": "DISABLED_UPDATE", "state": "DISABLE"})).await;
        }
        Happening::Reinstate { business } => {
            stage
                .meta("account", json!({"business": business, "event": "DISABLED_UPDATE", "state": "REINSTATE"}))
                .await;
        }
        Happening::RaiseLimit { business } => {
            stage.meta("business", json!({"id": business, "limit": 2_000})).await;
        }
        Happening::Upgrade { line } => {
            stage.meta("line", json!({"id": line, "messages_per_second": 1_000})).await;
        }
        Happening::Throttle { line, share } => {
            stage.meta("scenario", json!({"line": line, "faults": {"throttle": share}})).await;
        }
        Happening::Write { line, text, people } => {
            for person in people.clone() {
                stage.meta("inbound", json!({"line": line, "from": person.to_string(), "text": text})).await;
            }
        }
        Happening::Stop { line, people } => {
            for person in people.clone() {
                let stop = json!({"line": line, "from": person.to_string(), "value": "stop"});
                stage.meta("preference", stop).await;
            }
        }
        Happening::KillWorker(number) => stage.kill_worker(*number).await,
        Happening::RestartRedis => stage.restart_redis().await,
        Happening::RedisLosesPower => stage.redis_loses_power().await,
    }
}
