//! A running deployment as the target of a load, with a simulator of Meta (`pregon sim`) beside it.
//!
//! Nothing is started here. The target is driven through its API, and measured by what is visible outside: the messages
//! that the simulator accepted, to the millisecond, its counts of answers, and the metrics of the workers.
//!
//! Before any load, the target has to prove that it sends to the simulator and not to Meta:
//!
//! 1. Each line is a line of the simulator.
//! 2. The simulator counts a read of the WABA's templates each time the API is told to read them. Nothing is sent for this.
//! 3. The simulator accepts one message on each line, to a number that does not exist.
//!
//! After each load, the simulator has to have every message that the target counts as accepted.
//!
//! [`Target::restore`] gives the lines their rates back, and ends the campaign that is running.
//!
//! If this process is killed: the lines keep the rates of the last load, and the last campaign is sent to its end.
//! Never: resets or changes the simulator.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use pregon::{
    api_types::{LineView, NewCampaign, TemplateName},
    client::{self, Client, ControlAction, Known},
    domain::{CampaignId, Form, Language, LineId, UnixMs, WabaId},
    intake::Format,
};
use reqwest::{Body, Url};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use super::{
    arguments::TargetOptions,
    arrivals::Arrivals,
    error::LoadError,
    recipients::Rows,
    report::Findings,
    schedule::{Lateness, Schedule},
    stage::Usage,
    under_test::UnderTest,
    workloads::check_equal,
};

/// How often the target has to read its templates from the simulator, so that a read of somebody else does not count.
const READS: usize = 3;

/// How long to wait until a line may send, and for the message that proves where it sends.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The counter of attempts, in the metrics of a worker.
const ATTEMPTS: &str = "pregon_attempts_total{";

/// A deployment that has proved that it sends to the simulator.
pub struct Target {
    client: Client,
    http: reqwest::Client,
    sim: Url,
    metrics: Vec<Url>,
    lines: Vec<LineId>,
    template: TemplateName,
    /// The columns of a CSV with its recipients, without `to`.
    columns: Vec<String>,
    headroom: f64,
    /// The rates that an operator had set; `None`: none.
    rates: Vec<(LineId, Option<f64>)>,
    /// The campaign that was created last.
    campaign: Option<CampaignId>,
    seed: u64,
    drafted: AtomicU64,
    before: Counts,
}

/// What is counted outside, at one moment: answers of the simulator, and attempts by outcome of the workers.
#[derive(Default)]
struct Counts {
    answers: BTreeMap<String, f64>,
    attempts: BTreeMap<String, f64>,
}

/// The ledger of the simulator, as far as it is used.
#[derive(Deserialize)]
struct Ledger {
    lines: BTreeMap<String, LineTally>,
    template_reads: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize)]
struct LineTally {
    answers: BTreeMap<String, u64>,
}

/// A row of `GET /sim/messages`, as far as it is used.
#[derive(Deserialize)]
struct SimMessage<'m> {
    line: LineId,
    #[serde(borrow)]
    callback_data: &'m str,
    accepted_at: UnixMs,
}

impl Target {
    /// Connects to a target, and makes it prove that it sends to the simulator. Nothing was sent if it is refused by its
    /// lines or its templates, and at most one message if it is refused by a line that sends elsewhere.
    pub async fn connect(options: TargetOptions, seed: u64) -> Result<Self, LoadError> {
        let TargetOptions { target, api_key, lines, template, sim, metrics } = options;
        let target = target.ok_or_else(|| LoadError::Failed("--target is missing".into()))?;
        let client = Client::new(target, api_key, None)?;
        let http = client::http().build().map_err(LoadError::of)?;
        let (name, language) = template.split_once('/').unwrap_or((&template, ""));
        let mut target = Self {
            http,
            sim,
            metrics,
            template: TemplateName { name: name.into(), language: language.into() },
            columns: Vec::new(),
            headroom: 0.0,
            rates: Vec::with_capacity(lines.len()),
            campaign: None,
            seed,
            drafted: AtomicU64::new(0),
            before: Counts::default(),
            client,
            lines,
        };
        let waba = target.read_lines().await?;
        target.check_reads(&waba).await?;
        target.read_template(&waba).await?;
        for line in target.lines.clone() {
            target.check_receipt(&line).await?;
        }
        target.before = target.counts().await?;
        Ok(target)
    }

    /// Reads the lines, which have to be lines of the simulator. Returns their WABA.
    async fn read_lines(&mut self) -> Result<WabaId, LoadError> {
        let ledger = self.ledger().await?;
        let mut waba = None;
        for line in &self.lines {
            if !ledger.lines.contains_key(line.as_str()) {
                return Err(self.refused(&format!("line {line} is not a line of the simulator")));
            }
            let (view, allowed) = self.sendable(line).await?;
            self.headroom = (1.0 - allowed / view.messages_per_second).max(0.0);
            let operators = (view.rate_source == "operator").then_some(view.messages_per_second);
            self.rates.push((line.clone(), operators));
            if waba.get_or_insert_with(|| view.waba.clone()) != &view.waba {
                return Err(LoadError::Failed("all lines of a load have to be of one WABA".into()));
            }
        }
        waba.ok_or_else(|| LoadError::Failed("--line is missing".into()))
    }

    /// A line, and what campaigns may send on it. A worker that has just started has not reported that yet.
    async fn sendable(&self, line: &LineId) -> Result<(Known<LineView>, f64), LoadError> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let view = self.client.line(line).await?;
            if let Some(allowed) = view.allowed_now {
                return Ok((view, allowed));
            }
            if Instant::now() > deadline {
                return Err(LoadError::Failed(format!("line {line} sends nothing now: it is {}", view.state)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Checks that the target reads its templates from the simulator.
    async fn check_reads(&self, waba: &WabaId) -> Result<(), LoadError> {
        for _ in 0..READS {
            let before = self.template_reads(waba).await?;
            self.client.sync_templates().await?;
            if self.template_reads(waba).await? <= before {
                let what = format!("the target reads the templates of WABA {waba} from somewhere else");
                return Err(self.refused(&what));
            }
        }
        Ok(())
    }

    async fn template_reads(&self, waba: &WabaId) -> Result<u64, LoadError> {
        Ok(self.ledger().await?.template_reads.get(waba.as_str()).copied().unwrap_or(0))
    }

    async fn read_template(&mut self, waba: &WabaId) -> Result<(), LoadError> {
        let TemplateName { name, language } = &self.template;
        let view = self.client.template(waba, name, &Language::from(language.as_str())).await?;
        let columns = Form::of(&view.template).map_err(LoadError::of)?.columns();
        let required = columns.into_iter().filter(|column| column.is_required && column.name != "to");
        self.columns = required.map(|column| column.name).collect();
        Ok(())
    }

    /// Sends one message on a line, which has to arrive at the simulator.
    async fn check_receipt(&mut self, line: &LineId) -> Result<(), LoadError> {
        let id = self.draft(std::slice::from_ref(line), 1).await?;
        self.client.change_campaign(id, ControlAction::Launch).await?;
        let deadline = Instant::now() + TIMEOUT;
        while self.arrivals(id).await?.is_empty() {
            if Instant::now() > deadline {
                self.restore().await?;
                return Err(self.refused(&format!("the simulator did not accept the message on line {line}")));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// When the simulator accepted the messages of a campaign.
    async fn arrivals(&self, id: CampaignId) -> Result<Arrivals, LoadError> {
        let url = self.sim.join("/sim/messages").map_err(LoadError::of)?;
        let mut response = self.http.get(url).send().await.map_err(LoadError::of)?;
        let (mut arrivals, mut rest, of_campaign) = (Arrivals::default(), Vec::new(), format!(".{id}."));
        while let Some(chunk) = response.chunk().await.map_err(LoadError::of)? {
            rest.extend_from_slice(&chunk);
            let whole = memchr::memrchr(b'\n', &rest).map_or(0, |at| at + 1);
            for row in rest[..whole].split(|byte| *byte == b'\n').filter(|row| !row.is_empty()) {
                let message: SimMessage<'_> = serde_json::from_slice(row).map_err(LoadError::of)?;
                if message.callback_data.contains(&of_campaign) {
                    arrivals.record(message.line.as_str(), message.accepted_at.0 * 1_000);
                }
            }
            rest.drain(..whole);
        }
        Ok(arrivals)
    }

    fn refused(&self, why: &str) -> LoadError {
        let remedy = "set graph.base_url of the target to its address, or --sim to the simulator that the target uses";
        LoadError::Failed(format!("no load is sent to a target that may send to Meta: {why} ({}); {remedy}", self.sim))
    }

    async fn ledger(&self) -> Result<Ledger, LoadError> {
        let text = self.get(self.sim.join("/sim/ledger").map_err(LoadError::of)?).await?;
        parse(&text).map_err(|_| self.refused("what answers there is no `pregon sim` of this version"))
    }

    async fn get(&self, url: Url) -> Result<String, LoadError> {
        let response = self.http.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status);
        let text = match response {
            Ok(response) => response.text().await,
            Err(error) => Err(error),
        };
        text.map_err(|error| LoadError::Failed(format!("{url}: {error}")))
    }

    /// Adds what was counted outside since the connection: answers of the simulator, and attempts of the workers.
    pub async fn count(&self, findings: &mut Findings) -> Result<(), LoadError> {
        let Counts { answers, attempts } = self.counts().await?;
        let pairs =
            [("counted_answers", answers, &self.before.answers), ("counted_attempts", attempts, &self.before.attempts)];
        for (figure, after, before) in pairs {
            for (case, count) in after {
                // The counter of a line that has moved to another worker starts at 0 there.
                let count = (count - before.get(&case).copied().unwrap_or(0.0)).max(0.0);
                if count > 0.0 {
                    findings.one(figure, &case, count);
                }
            }
        }
        Ok(())
    }

    async fn counts(&self) -> Result<Counts, LoadError> {
        let mut counts = Counts::default();
        let mut ledger = self.ledger().await?;
        for line in &self.lines {
            for (answer, count) in ledger.lines.remove(line.as_str()).unwrap_or_default().answers {
                *counts.answers.entry(answer).or_default() += count as f64;
            }
        }
        for url in &self.metrics {
            for (outcome, count) in attempts(&self.get(url.clone()).await?) {
                *counts.attempts.entry(outcome.to_owned()).or_default() += count;
            }
        }
        Ok(counts)
    }

    /// Ends the campaign that is running, and gives the lines the rates that they had.
    pub async fn restore(&self) -> Result<(), LoadError> {
        if let Some(id) = self.campaign {
            // A campaign that has ended cannot be cancelled.
            let _ = self.client.change_campaign(id, ControlAction::Cancel).await;
        }
        for (line, rate) in &self.rates {
            self.client.set_rate(line, *rate).await?;
        }
        Ok(())
    }
}

impl UnderTest for Target {
    fn client(&self) -> &Client {
        &self.client
    }

    fn lines(&self) -> &[LineId] {
        &self.lines
    }

    fn headroom(&self) -> f64 {
        self.headroom
    }

    async fn draft(&mut self, lines: &[LineId], recipients: u64) -> Result<CampaignId, LoadError> {
        let new = NewCampaign {
            name: "pregon-load".into(),
            template: self.template.clone(),
            lines: lines.to_vec(),
            ..NewCampaign::default()
        };
        let id = self.client.create(&new).await?.id;
        self.campaign = Some(id);
        let skipped = self.drafted.fetch_add(recipients, Ordering::Relaxed);
        let rows = Rows { skipped, seed: self.seed, ..Rows::unique(recipients) }.csv(&self.columns);
        let uploaded = self.client.upload(id, "load", &Format::Csv.into(), None, Body::wrap_stream(rows)).await?;
        check_equal("recipients accepted", uploaded.accepted, recipients)?;
        Ok(id)
    }

    async fn lateness(&mut self, id: CampaignId, schedule: &Schedule) -> Result<Lateness, LoadError> {
        // Asked first: what was accepted by then has to be at the simulator.
        let accepted = self.client.campaign(id).await?.statistics.as_ref().map_or(0, |of| of.funnel.accepted);
        let arrivals = self.arrivals(id).await?;
        let arrived = arrivals.len() as u64;
        if arrived < accepted {
            return Err(self.refused(&format!("of {accepted} accepted messages, only {arrived} are at the simulator")));
        }
        Ok(schedule.lateness(arrivals))
    }

    async fn forget(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn usage(&self) -> Result<Option<Usage>, LoadError> {
        Ok(None)
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text)
}

/// The attempts in the metrics of a worker, by outcome, once for each line.
fn attempts(metrics: &str) -> impl Iterator<Item = (&str, f64)> {
    metrics.lines().filter_map(|series| {
        let (labels, value) = series.strip_prefix(ATTEMPTS)?.split_once("} ")?;
        let (_, outcome) = labels.split_once("outcome=\"")?;
        Some((outcome.split('"').next()?, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_read_by_outcome() {
        let text = "# TYPE pregon_attempts_total counter\n\
            pregon_attempts_total{line=\"3001\",outcome=\"accepted\"} 12\n\
            pregon_attempts_total{line=\"3001\",outcome=\"in_doubt\"} 0\n\
            pregon_in_flight_attempts{line=\"3001\"} 3\n";
        assert_eq!(attempts(text).collect::<Vec<_>>(), [("accepted", 12.0), ("in_doubt", 0.0)]);
    }
}
