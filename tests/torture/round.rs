//! A round: campaigns through the public API and the jobs stream, a schedule of faults during them, and the result
//! of both.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, RwLock, watch},
    task::JoinSet,
};

use crate::{
    backend::JobCampaign,
    chats::{self, Replied, Written},
    check::{self, Verdict},
    forgetting::{self, Forgotten},
    meta::{AccountFault, ChatSends, FaultyMeta, Ledger, LedgerEntry, Troubles},
    schedule::{Fault, Forget, Jobs, LAUNCH_SYNCED_AFTER, LINES, Schedule, WORKER_FAULT_DISTANCE},
    stage::Stage,
    support::{
        clock,
        hooks::{payload, signature},
        hostile::Meta,
        http_client,
        postgres::TestPostgres,
        server::Api,
        until,
    },
};

pub const FIRST: u64 = 5_491_180_000_000;
/// How long the campaigns may take after all faults have ended; the machine may be busy with something else.
const COMPLETE_WITHIN: Duration = Duration::from_secs(180);
/// After all faults have ended, how long counts and statuses may stay unchanged before open recipients count as stuck.
/// A throttled pair of line and recipient waits up to 12 seconds, a line that could not reach Meta up to 15.
const STUCK_AFTER: Duration = Duration::from_secs(45);
/// Pause between two reads of the campaigns.
const READ_EVERY: Duration = Duration::from_millis(100);
/// The longest read of the API.
const READ_MAX: Duration = Duration::from_secs(5);
/// The longest time between a worker's finding that a campaign has no work left and the campaign's completion.
const COMPLETION_DELAY_MAX: Duration = Duration::from_secs(1);

/// How many people whose message failed are erased before the campaign is sent again, and how many while it is.
const FORGOTTEN_FAILED: usize = 4;

/// How long a slow Redis runs between two stops.
const SLOW_RUN: Duration = Duration::from_millis(5);

/// A fault that was injected.
#[derive(Clone, Debug)]
pub struct Event {
    pub fault: Fault,
    pub began: Instant,
    pub ended: Instant,
    /// Bytes that Redis lost.
    pub forgotten: u64,
}

/// A campaign of a round.
pub struct Campaign {
    /// `None` until the API has returned it.
    pub id: Option<String>,
    /// Set if the campaign is submitted as jobs.
    external_id: Option<String>,
    /// The phone numbers of its recipients.
    pub numbers: Range<u64>,
    /// The campaign as the API last returned it.
    pub last: Value,
    /// The phone numbers as the API listed them before the launch. Empty if the campaign is submitted as jobs.
    pub listed: Vec<String>,
    /// When it began to be sent again to those whose message had failed.
    pub retried_at: Option<Instant>,
    /// Times at which the API returned the campaign as running, each with the number of statuses acknowledged before.
    running: Vec<(Instant, usize)>,
}

impl Campaign {
    fn from_api(id: String, numbers: Range<u64>, listed: Vec<String>) -> Self {
        let (id, external_id, running) = (Some(id), None, Vec::new());
        Self { id, external_id, numbers, last: Value::Null, listed, retried_at: None, running }
    }

    fn from_jobs(job_campaign: &JobCampaign) -> Self {
        let (external_id, numbers) = (Some(job_campaign.external_id.clone()), job_campaign.numbers.clone());
        let (listed, running) = (Vec::new(), Vec::new());
        Self { id: None, external_id, numbers, last: Value::Null, listed, retried_at: None, running }
    }

    fn name(&self) -> &str {
        self.external_id.as_deref().unwrap_or("the campaign through the API")
    }

    pub fn recipients(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    pub fn is_retried(&self) -> bool {
        self.retried_at.is_some()
    }

    pub fn has_completed(&self) -> bool {
        self.last["state"] == "completed"
    }

    /// How many statuses were acknowledged while the campaign certainly still ran.
    pub fn n_statuses_while_running(&self) -> usize {
        let Some((last, _)) = self.running.last() else { return 0 };
        let earlier = self.running.iter().rev().find(|(at, _)| *at + COMPLETION_DELAY_MAX <= *last);
        earlier.map_or(0, |(_, n_statuses)| *n_statuses)
    }

    /// Whether the campaign waits for a hold to end.
    fn is_held(&self) -> bool {
        let reasons = self.last["statistics"]["waiting_for"].as_array().into_iter().flatten();
        let holds = ["line_blocked", "template_paused", "token"];
        reasons.filter_map(|waiting| waiting["reason"].as_str()).any(|reason| holds.contains(&reason))
    }

    /// Discards what was read from the API, because Redis may have lost it since.
    fn discard_read(&mut self) {
        self.last = Value::Null;
        if self.external_id.is_some() {
            self.id = None;
        }
    }
}

/// What happened in a round.
pub struct Happened {
    pub events: Vec<Event>,
    pub campaigns: Vec<Campaign>,
    pub forgotten: Vec<Forgotten>,
    /// A line, what people wrote to it, and what agents answered.
    pub line: &'static str,
    pub written: Vec<Written>,
    pub replied: Vec<Replied>,
}

/// The result of a round.
pub struct Outcome {
    pub schedule: Schedule,
    pub launched: Instant,
    pub events: Vec<Event>,
    pub restarts: usize,
    pub verdict: Verdict,
    /// Time from launch until every campaign and status was settled.
    pub took: Duration,
    /// The directory of the logs, if anything was wrong.
    pub logs: Option<PathBuf>,
}

/// The state that the tasks of a round share.
struct Round {
    stage: Stage,
    troubles: Troubles,
    events: Mutex<Vec<Event>>,
    forgotten: Mutex<Vec<Forgotten>>,
    ledger: Ledger,
    /// Serializes the faults of Redis.
    redis: Mutex<()>,
    /// Serializes the faults of Redis' clock.
    clock: Mutex<()>,
    /// Serializes the faults of Meta and of the path to it.
    meta: Mutex<()>,
    /// Serializes the faults of each worker.
    workers: Vec<Mutex<()>>,
    /// Held shared during a fault of a worker, and exclusively during a power loss: see
    /// [`Fault::loses_only_copy_with`].
    worker_lock: RwLock<()>,
    /// Held shared from the launch of a campaign, or the forgetting of a person, until that is on disk, and exclusively
    /// during a power loss. Redis before 7.2 does not report when a write is on disk. Without the lock, it could lose a
    /// campaign of which Meta already has messages, or the fact that a person is erased.
    launch_lock: RwLock<()>,
    /// Whether Redis loses power in this round.
    loses_power: bool,
}

/// Runs the round. `keep`: the directory for the logs of a round with problems.
pub async fn run(schedule: Schedule, keep: &Path) -> Outcome {
    let (ledger, chat_sends, troubles) = (Ledger::default(), ChatSends::default(), Troubles::default());
    let ledgers = (ledger.clone(), chat_sends.clone());
    let faulty_meta = FaultyMeta::new(schedule.seed, schedule.throttles, ledgers, troubles.clone());
    let meta = Meta::start_behind_link(faulty_meta, schedule.seed, schedule.delay_to_meta);
    let round = Arc::new(Round {
        stage: Stage::set(
            schedule.fsync,
            schedule.rates,
            &schedule.roles(),
            meta,
            Some(TestPostgres::start().await),
            |worker| schedule.has_meta_faults_for(worker),
        )
        .await,
        troubles,
        events: Mutex::default(),
        forgotten: Mutex::default(),
        ledger,
        redis: Mutex::default(),
        clock: Mutex::default(),
        meta: Mutex::default(),
        workers: (0..schedule.workers).map(|_| Mutex::default()).collect(),
        worker_lock: RwLock::default(),
        launch_lock: RwLock::default(),
        loses_power: schedule.steps.iter().any(|step| matches!(step.fault, Fault::PowerLoss { .. })),
    });
    let stage = &round.stage;
    let api = Api::at(&stage.front.url());
    let numbers = FIRST..FIRST + schedule.recipients;
    let mut free = numbers.end;
    let job_campaign = |(n, jobs): (usize, &Jobs)| {
        let numbers = free..free + jobs.recipients;
        free = numbers.end;
        // Intake rejects a campaign on a line that its worker does not configure.
        JobCampaign { external_id: format!("jobs-{n}"), lines: schedule.steady_lines(), numbers }
    };
    let job_campaigns: Vec<JobCampaign> = schedule.jobs.iter().enumerate().map(job_campaign).collect();
    // With an external id, so that a request without a response can be repeated.
    let id = api.draft(&LINES, numbers.clone(), json!({"external_id": "api"})).await;
    let listed = api.recipients(&id).await.iter().map(|recipient| check::number(recipient).to_owned()).collect();
    api.post(&format!("campaigns/{id}/launch")).await;
    let launched = Instant::now();
    let mut campaigns = vec![Campaign::from_api(id, numbers, listed)];
    campaigns.extend(job_campaigns.iter().map(Campaign::from_jobs));
    let (healed_tx, healed_rx) = watch::channel(None);
    let settling = {
        let (round, schedule) = (round.clone(), schedule.clone());
        tokio::spawn(async move { round.settle(campaigns, &schedule, healed_rx).await })
    };
    let mut tasks = JoinSet::new();
    for step in schedule.steps.clone() {
        let round = round.clone();
        tasks.spawn(async move {
            tokio::time::sleep_until((launched + step.at).into()).await;
            round.inject(step.fault).await;
        });
    }
    for (job_campaign, jobs) in job_campaigns.iter().cloned().zip(schedule.jobs.clone()) {
        let round = round.clone();
        tasks.spawn(async move {
            tokio::time::sleep_until((launched + jobs.at).into()).await;
            let _until_on_disk = round.launch_lock.read().await;
            round.stage.backend.add(&job_campaign).await;
            if round.loses_power {
                round.stage.backend.all_are_consumed().await;
                tokio::time::sleep(LAUNCH_SYNCED_AFTER).await;
            }
        });
    }
    for Forget { at, person } in schedule.forgets.clone() {
        let round = round.clone();
        tasks.spawn(async move {
            tokio::time::sleep_until((launched + at).into()).await;
            round.forget(&(FIRST + person).to_string()).await;
        });
    }
    let line = schedule.steady_lines()[0];
    let webhooks = format!("{}/webhooks/meta", stage.front.url());
    let people = tokio::spawn(async move { chats::people_write(&webhooks, line).await });
    let front = stage.front.url();
    let agents = tokio::spawn(async move { chats::agents_answer(&front, line).await });
    let mut problems = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            problems.push(format!("a task of the round failed: {error}"));
        }
    }
    stage.heal().await;
    // Jobs are idempotent, so repeating them is safe.
    for job_campaign in &job_campaigns {
        stage.backend.add(job_campaign).await;
    }
    healed_tx.send_replace(Some(Instant::now()));
    let (mut campaigns, unsettled) = settling.await.expect("the task that reads the campaigns does not panic");
    if unsettled.is_empty() {
        round.send_again(&mut campaigns[0], schedule.seed).await;
        healed_tx.send_replace(Some(Instant::now()));
        let (settled, unsettled) = round.settle(campaigns, &schedule, healed_tx.subscribe()).await;
        campaigns = settled;
        problems.extend(unsettled);
    }
    problems.extend(unsettled);
    let took = launched.elapsed();
    problems.extend(stage.problems());
    problems.extend(stage.backend.problems().await);
    let happened = Happened {
        events: round.events.lock().await.clone(),
        campaigns,
        forgotten: round.forgotten.lock().await.clone(),
        line,
        written: people.await.expect("no panic"),
        replied: agents.await.expect("no panic"),
    };
    let verdict =
        check::judge(stage, &schedule, (&round.ledger, &chat_sends, &round.troubles), &happened, problems).await;
    let Happened { events, .. } = happened;
    let logs = (!verdict.is_good()).then(|| {
        let dir = keep.join(schedule.seed.to_string());
        copy(stage.installation.dir(), &dir);
        dir
    });
    if let Some(dir) = &logs {
        copy(stage.redis.lock().await.server.dir(), &dir.join("redis"));
    }
    Outcome { schedule, launched, events, restarts: stage.restarts(), verdict, took, logs }
}

impl Round {
    /// Reads the campaigns during the faults. From `healed_rx` on, waits until every campaign has completed and every
    /// status is acknowledged, or until nothing changes any more. Returns the campaigns and the problems.
    async fn settle(
        &self,
        mut campaigns: Vec<Campaign>,
        schedule: &Schedule,
        healed_rx: watch::Receiver<Option<Instant>>,
    ) -> (Vec<Campaign>, Vec<String>) {
        let delay = schedule.delay();
        let (mut seen, mut changed) = (Value::Null, Instant::now());
        let mut healed_at = None;
        loop {
            if healed_at.is_none() {
                healed_at = *healed_rx.borrow();
                campaigns.iter_mut().for_each(Campaign::discard_read);
            }
            if campaigns.iter().any(|campaign| campaign.id.is_none()) {
                self.find(&mut campaigns).await;
            }
            for campaign in campaigns.iter_mut().filter(|campaign| !campaign.has_completed()) {
                let Some(id) = &campaign.id else { continue };
                let n_statuses = self.stage.meta.n_reported();
                if let Some(last) = read(&self.stage.front.url(), &format!("campaigns/{id}")).await {
                    campaign.last = last;
                }
                if campaign.last["state"] == "running" {
                    campaign.running.push((Instant::now(), n_statuses));
                }
            }
            if schedule.has_account_faults() && campaigns.iter().any(Campaign::is_held) {
                self.resume_held().await;
            }
            if healed_at.is_some() && campaigns.iter().all(Campaign::has_completed) && self.stage.meta.is_idle() {
                return (campaigns, Vec::new());
            }
            let of = |campaign: &Campaign| campaign.last["statistics"]["by_state"].clone();
            let now = json!([self.stage.meta.n_reported(), campaigns.iter().map(of).collect::<Vec<_>>()]);
            if now != seen {
                (seen, changed) = (now, Instant::now());
            }
            let too_long = healed_at.is_some_and(|healed_at| healed_at.elapsed() > COMPLETE_WITHIN + delay);
            if too_long || healed_at.is_some_and(|healed_at| changed.max(healed_at).elapsed() > STUCK_AFTER + delay) {
                break;
            }
            tokio::time::sleep(READ_EVERY).await;
        }
        let since = format!(
            "{:?} after all faults had ended",
            healed_at.map(|healed_at| healed_at.elapsed()).unwrap_or_default()
        );
        let open = campaigns.iter().filter(|campaign| !campaign.has_completed());
        let mut wrong: Vec<String> =
            open.map(|campaign| format!("{} not completed {since}: {}", campaign.name(), campaign.last)).collect();
        if !self.stage.meta.is_idle() {
            wrong.push(format!("statuses were not acknowledged {since}"));
        }
        (campaigns, wrong)
    }

    /// Erases a person, and waits until that is on disk.
    async fn forget(&self, to: &str) {
        let _until_on_disk = self.launch_lock.read().await;
        let forgotten = forgetting::forget(&self.stage.front.url(), to).await;
        self.forgotten.lock().await.push(forgotten);
        if self.loses_power {
            tokio::time::sleep(LAUNCH_SYNCED_AFTER).await;
        }
    }

    /// The people of a campaign whose message failed, and who are not erased: some of them, drawn from `seed`.
    async fn failed_people(&self, campaign: &Campaign, seed: u64) -> Vec<String> {
        let forgotten = self.forgotten.lock().await;
        let ledger = self.ledger.lock().expect("no panic");
        let has_failed = |to: &String| {
            ledger.get(to).is_some_and(LedgerEntry::has_failed) && !forgotten.iter().any(|person| person.to == *to)
        };
        let mut people: Vec<String> = campaign.numbers.clone().map(|to| to.to_string()).filter(has_failed).collect();
        people.shuffle(&mut StdRng::seed_from_u64(seed));
        people.truncate(2 * FORGOTTEN_FAILED);
        people
    }

    /// Sends a completed campaign again to those whose message failed, while a worker and Redis are killed. Some of
    /// those people are erased before, and some meanwhile.
    async fn send_again(self: &Arc<Self>, campaign: &mut Campaign, seed: u64) {
        let mut people = self.failed_people(campaign, seed).await;
        for to in people.split_off(people.len() / 2) {
            self.forget(&to).await;
        }
        let Some(id) = &campaign.id else { return };
        let path = format!("campaigns/{id}/retry");
        let retry = json!({"states": ["failed"], "external_id": "again"});
        let worker = seed as usize % self.workers.len();
        let faults = [
            Fault::WorkerKilled { worker, down: Duration::from_millis(seed % 700) },
            Fault::RedisKilled { down: Duration::from_millis(seed % 400) },
        ];
        let mut tasks = JoinSet::new();
        for (n, fault) in faults.into_iter().enumerate() {
            let round = self.clone();
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis((seed >> (8 * n)) % 500)).await;
                round.inject(fault).await;
            });
        }
        for (n, to) in people.into_iter().enumerate() {
            let round = self.clone();
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis((seed >> n) % 700)).await;
                round.forget(&to).await;
            });
        }
        campaign.retried_at = Some(Instant::now());
        // With an external id, so that a call without a response can be repeated.
        until("the campaign is sent again", async || {
            Api::at(&self.stage.front.url()).try_post_json(&path, &retry).await.is_some()
        })
        .await;
        tasks.join_all().await;
        self.stage.heal().await;
        campaign.last = Value::Null;
    }

    /// Resumes the held lines and template, as an operator does once the account works again. Late statuses may hold
    /// them again; the next call then resumes them.
    async fn resume_held(&self) {
        let is_well = || self.troubles.lock().account.is_none();
        if !is_well() {
            return;
        }
        let front = self.stage.front.url();
        let change = json!({"field": "message_template_status_update", "value": {
            "event": "APPROVED", "message_template_name": "order_update", "message_template_language": "es_AR"}});
        let approved = payload(&[change]).to_string();
        let webhook = http_client().post(format!("{front}/webhooks/meta"));
        let webhook = webhook.header("x-hub-signature-256", signature(approved.as_bytes())).body(approved);
        // If there is no response, the next read tries again.
        let _ = tokio::time::timeout(READ_MAX, async {
            let _ = webhook.send().await;
            for line in LINES.into_iter().take_while(|_| is_well()) {
                Api::at(&front).try_post(&format!("lines/{line}/resume")).await;
            }
        })
        .await;
    }

    /// Restarts each worker in turn with SIGTERM. `before`: called before each start.
    async fn restart_in_turn(&self, before: impl Fn(usize)) {
        for (number, turn) in self.workers.iter().enumerate() {
            let _in_turn = turn.lock().await;
            self.stage.stop_worker(number).await;
            before(number);
            self.stage.start_worker(number).await;
        }
    }

    /// Finds the ids of campaigns that were submitted as jobs.
    async fn find(&self, campaigns: &mut [Campaign]) {
        let Some(list) = read(&self.stage.front.url(), "campaigns?limit=100").await else { return };
        for campaign in campaigns.iter_mut().filter(|campaign| campaign.id.is_none()) {
            let is_it = |found: &&Value| found["external_id"].as_str() == campaign.external_id.as_deref();
            let found = list["campaigns"].as_array().into_iter().flatten().find(is_it);
            campaign.id = found.and_then(|found| found["id"].as_str()).map(str::to_owned);
        }
    }

    async fn inject(&self, fault: Fault) {
        let stage = &self.stage;
        if fault.is_of_the_clock() && !clock::CAN_BE_SET {
            return;
        }
        // Taken before the other locks, so that a task that waits here holds no lock that the current holder needs.
        let shared = if fault.is_of_a_worker() { Some(self.worker_lock.read().await) } else { None };
        let in_turn = match fault {
            Fault::WorkerKilled { worker, .. } | Fault::WorkerAsleep { worker, .. } => {
                Some(self.workers[worker].lock().await)
            }
            Fault::RollingRestart
            | Fault::LinesChanged { .. }
            | Fault::Cut { .. }
            | Fault::Held { .. }
            | Fault::Slow { .. } => None,
            Fault::ClockSet { .. } | Fault::ClockWrong { .. } => Some(self.clock.lock().await),
            Fault::AccountBlocked { .. } | Fault::PathBroken { .. } => Some(self.meta.lock().await),
            // It waits for nothing but its own lock.
            Fault::PostgresKilled { .. } => None,
            _ => Some(self.redis.lock().await),
        };
        let exclusive = match fault {
            Fault::PowerLoss { .. } => Some((self.launch_lock.write().await, self.worker_lock.write().await)),
            _ => None,
        };
        let mut forgotten = 0;
        let mut began = Instant::now();
        match fault {
            Fault::WorkerKilled { worker, down } => {
                began = stage.kill_worker(worker).await.unwrap_or(began);
                tokio::time::sleep(down).await;
                stage.start_worker(worker).await;
            }
            Fault::WorkerAsleep { worker, asleep } => stage.suspend_worker(worker, asleep).await,
            Fault::RollingRestart => self.restart_in_turn(|_| {}).await,
            Fault::LinesChanged { line, without } => {
                self.restart_in_turn(|number| stage.omit_line(number, Some(LINES[line]))).await;
                tokio::time::sleep(without).await;
                self.restart_in_turn(|number| stage.omit_line(number, None)).await;
            }
            Fault::RedisKilled { down } => forgotten = stage.kill_redis(None, down).await,
            Fault::PowerLoss { forgets, down } => forgotten = stage.kill_redis(Some(forgets), down).await,
            Fault::RedisAsleep { asleep } => {
                let disk = stage.redis.lock().await;
                disk.signal("STOP");
                tokio::time::sleep(asleep).await;
                disk.signal("CONT");
            }
            Fault::RedisSlow { by, slow } => {
                let disk = stage.redis.lock().await;
                while began.elapsed() < slow {
                    disk.signal("STOP");
                    tokio::time::sleep(by).await;
                    disk.signal("CONT");
                    tokio::time::sleep(SLOW_RUN).await;
                }
            }
            Fault::ClockSet { by_ms } => stage.step_clock(by_ms).await,
            Fault::ClockWrong { by_ms, wrong } => {
                stage.step_clock(by_ms).await;
                tokio::time::sleep(wrong).await;
                stage.step_clock(-by_ms).await;
            }
            Fault::RedisPaused { paused } => {
                let ms = paused.as_millis().to_string();
                stage.redis.lock().await.run(&["CLIENT", "PAUSE", &ms, "ALL"]).await;
                tokio::time::sleep(paused).await;
            }
            Fault::RedisFull { full } => {
                let disk = stage.redis.lock().await;
                disk.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
                tokio::time::sleep(full).await;
                disk.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::PostgresKilled { down } => stage.kill_postgres(down).await,
            Fault::ScriptsFlushed => stage.redis.lock().await.run(&["SCRIPT", "FLUSH"]).await,
            Fault::Cut { wire } => stage.wire(wire).cut(),
            Fault::Held { wire, held } => {
                stage.wire(wire).hold();
                tokio::time::sleep(held).await;
                stage.wire(wire).restore();
            }
            Fault::Slow { wire, by, slow } => {
                stage.wire(wire).slow(by);
                tokio::time::sleep(slow).await;
                stage.wire(wire).restore();
            }
            Fault::AccountBlocked { code, line, lasts } => {
                let line = fault.blames_a_line().then_some(LINES[line]);
                self.troubles.lock().account = Some(AccountFault { code, line });
                tokio::time::sleep(lasts).await;
                self.troubles.lock().account = None;
            }
            Fault::PathBroken { foreign, lasts } => {
                self.troubles.lock().break_path(foreign);
                tokio::time::sleep(lasts).await;
                self.troubles.lock().path = None;
            }
        }
        let event = Event { fault, began, ended: Instant::now(), forgotten };
        self.events.lock().await.push(event);
        drop(in_turn);
        if self.loses_power && (shared.is_some() || exclusive.is_some()) {
            tokio::time::sleep(WORKER_FAULT_DISTANCE).await;
        }
    }
}

/// The API's response, if a worker answers.
async fn read(front: &str, path: &str) -> Option<Value> {
    // A new client each time, because a connection to a killed worker is of no use.
    let api = Api::at(front);
    tokio::time::timeout(READ_MAX, api.try_get(path)).await.ok()?
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
        }
    }
}
