//! A round: a campaign through the public API, a schedule of faults around it, and what became of both.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, RwLock, watch},
    task::JoinSet,
};

use crate::{
    backend::Wish,
    check::{self, Verdict},
    clock,
    meta::{AccountFault, Ledger, Torturer, Troubles},
    schedule::{APART, Fault, Jobs, LAUNCH_KEPT, LINES, Schedule},
    stage::Stage,
    support::{
        hooks::{payload, signature},
        hostile::Meta,
        http_client,
        server::Api,
    },
};

pub const FIRST: u64 = 5_491_180_000_000;
/// How long the campaigns may take after everything is well again; the machine may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing may change in that time before what is open counts as stuck: a pair that Meta throttled waits up to 12
/// seconds, a line that found Meta out of reach up to 15.
const STUCK_AFTER: Duration = Duration::from_secs(45);
/// Between two looks at the campaigns.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long somebody may be found to have nothing left to do before a campaign is completed.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A Redis that is slow does something for so long at a time.
const BETWEEN_STOPS: Duration = Duration::from_millis(5);

/// A fault that was carried out.
#[derive(Clone, Debug)]
pub struct Event {
    pub fault: Fault,
    pub began: Instant,
    pub ended: Instant,
    /// Bytes that Redis forgot.
    pub forgotten: u64,
}

/// A campaign of a round, as it was last seen.
pub struct Campaign {
    /// None as long as nobody has seen it.
    pub id: Option<String>,
    /// Of one that comes as jobs.
    external_id: Option<String>,
    /// Its recipients.
    pub numbers: Range<u64>,
    /// As the API tells it.
    pub last: Value,
    /// When it was seen to run, and how many statuses had been taken before.
    running: Vec<(Instant, usize)>,
}

impl Campaign {
    fn through_the_api(id: String, numbers: Range<u64>) -> Self {
        Self { id: Some(id), external_id: None, numbers, last: Value::Null, running: Vec::new() }
    }

    fn through_jobs(wish: &Wish) -> Self {
        let (external_id, numbers) = (Some(wish.external_id.clone()), wish.numbers.clone());
        Self { id: None, external_id, numbers, last: Value::Null, running: Vec::new() }
    }

    fn name(&self) -> &str {
        self.external_id.as_deref().unwrap_or("the campaign through the API")
    }

    pub fn recipients(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    pub fn has_completed(&self) -> bool {
        self.last["state"] == "completed"
    }

    /// So many of the statuses that were taken had been taken while it still ran.
    pub fn told_while_it_ran(&self) -> usize {
        let Some((last, _)) = self.running.last() else { return 0 };
        let earlier = self.running.iter().rev().find(|(at, _)| *at + ENDS_WITHIN <= *last);
        earlier.map_or(0, |(_, told)| *told)
    }

    /// A hold is what it waits for.
    fn is_held(&self) -> bool {
        let reasons = self.last["statistics"]["waiting_for"].as_array().into_iter().flatten();
        let holds = ["line_blocked", "template_paused", "token"];
        reasons.filter_map(|waiting| waiting["reason"].as_str()).any(|reason| holds.contains(&reason))
    }

    /// What was seen of it may have been forgotten.
    fn unsee(&mut self) {
        self.last = Value::Null;
        if self.external_id.is_some() {
            self.id = None;
        }
    }
}

/// What became of a round.
pub struct Outcome {
    pub schedule: Schedule,
    pub launched: Instant,
    pub events: Vec<Event>,
    pub restarts: usize,
    pub verdict: Verdict,
    /// From the launch until everything was known.
    pub took: Duration,
    /// Where the logs are, if anything was wrong.
    pub kept: Option<PathBuf>,
}

/// What the tasks of a round share.
struct Play {
    stage: Stage,
    troubles: Troubles,
    events: Mutex<Vec<Event>>,
    /// Faults of Redis happen one after the other.
    redis: Mutex<()>,
    /// Those of its clock happen one after the other.
    clock: Mutex<()>,
    /// Those of Meta, and of the path to it, happen one after the other.
    meta: Mutex<()>,
    /// Those of a worker happen one after the other.
    workers: Vec<Mutex<()>>,
    /// Held by a worker that ends, shared, and by a Redis that forgets, alone: see [`Fault::would_be_blamed`].
    blame: RwLock<()>,
    /// Held by a campaign that is launched, shared, until that is on the disk, and by a Redis that forgets, alone. A server before
    /// Redis 7.2 does not tell when it is, and would forget a campaign of which Meta has messages.
    launches: RwLock<()>,
    /// Redis is to lose power in this round.
    forgetful: bool,
}

/// Plays the round. `keep`: where the logs of a round go in which something was wrong.
pub async fn play(schedule: Schedule, keep: &Path) -> Outcome {
    let (ledger, troubles) = (Ledger::default(), Troubles::default());
    let torturer = Torturer::new(schedule.seed, schedule.throttles, ledger.clone(), troubles.clone());
    let meta = Meta::start_far(torturer, schedule.seed, schedule.delay_to_meta);
    let play = Arc::new(Play {
        stage: Stage::set(schedule.fsync, schedule.rates, &schedule.roles(), meta, |worker| {
            schedule.harms_the_way_to_meta_of(worker)
        })
        .await,
        troubles,
        events: Mutex::default(),
        redis: Mutex::default(),
        clock: Mutex::default(),
        meta: Mutex::default(),
        workers: (0..schedule.workers).map(|_| Mutex::default()).collect(),
        blame: RwLock::default(),
        launches: RwLock::default(),
        forgetful: schedule.steps.iter().any(|step| matches!(step.fault, Fault::PowerLoss { .. })),
    });
    let stage = &play.stage;
    let api = Api::at(&stage.front.url());
    let numbers = FIRST..FIRST + schedule.recipients;
    let mut free = numbers.end;
    let wish = |(n, jobs): (usize, &Jobs)| {
        let numbers = free..free + jobs.recipients;
        free = numbers.end;
        // A campaign on a line that the reader of the jobs does not list is refused.
        Wish { external_id: format!("jobs-{n}"), lines: schedule.steady_lines(), numbers }
    };
    let wishes: Vec<Wish> = schedule.jobs.iter().enumerate().map(wish).collect();
    // With an id of ours, so that what Redis did not answer in time can be repeated.
    let id = api.draft(&LINES, numbers.clone(), json!({"external_id": "api"})).await;
    api.post(&format!("campaigns/{id}/launch")).await;
    let launched = Instant::now();
    let mut campaigns = vec![Campaign::through_the_api(id, numbers)];
    campaigns.extend(wishes.iter().map(Campaign::through_jobs));
    let (well, healed) = watch::channel(None);
    let settled = {
        let (play, schedule) = (play.clone(), schedule.clone());
        tokio::spawn(async move { play.settles(campaigns, &schedule, healed).await })
    };
    let mut todo = JoinSet::new();
    for step in schedule.steps.clone() {
        let play = play.clone();
        todo.spawn(async move {
            tokio::time::sleep_until((launched + step.at).into()).await;
            play.carry_out(step.fault).await;
        });
    }
    for (wish, jobs) in wishes.iter().cloned().zip(schedule.jobs.clone()) {
        let play = play.clone();
        todo.spawn(async move {
            tokio::time::sleep_until((launched + jobs.at).into()).await;
            let _unforgotten = play.launches.read().await;
            play.stage.backend.add(&wish).await;
            if play.forgetful {
                play.stage.backend.all_are_taken().await;
                tokio::time::sleep(LAUNCH_KEPT).await;
            }
        });
    }
    let mut problems = Vec::new();
    while let Some(ended) = todo.join_next().await {
        if let Err(error) = ended {
            problems.push(format!("what was to be done could not be done: {error}"));
        }
    }
    stage.heal().await;
    // Repeating is safe at any time.
    for wish in &wishes {
        stage.backend.add(wish).await;
    }
    well.send_replace(Some(Instant::now()));
    let (campaigns, unsettled) = settled.await.expect("the campaigns are looked at");
    problems.extend(unsettled);
    let took = launched.elapsed();
    problems.extend(stage.problems());
    problems.extend(stage.backend.problems().await);
    let events = play.events.lock().await.clone();
    let verdict = check::judge(stage, &schedule, (&ledger, &play.troubles), &events, &campaigns, problems).await;
    let kept = (!verdict.is_good()).then(|| {
        let dir = keep.join(schedule.seed.to_string());
        copy(stage.installation.dir(), &dir);
        dir
    });
    if let Some(dir) = &kept {
        copy(stage.redis.lock().await.server.dir(), &dir.join("redis"));
    }
    Outcome { schedule, launched, events, restarts: stage.restarts(), verdict, took, kept }
}

impl Play {
    /// Looks at the campaigns while things fail, and from `healed` on waits until every one has completed and every status is
    /// taken, or until nothing changes any more. Gives the campaigns, and what is wrong then.
    async fn settles(
        &self,
        mut campaigns: Vec<Campaign>,
        schedule: &Schedule,
        healed: watch::Receiver<Option<Instant>>,
    ) -> (Vec<Campaign>, Vec<String>) {
        let delay = schedule.delay();
        let (mut seen, mut changed) = (Value::Null, Instant::now());
        let mut well = None;
        loop {
            if well.is_none() {
                well = *healed.borrow();
                campaigns.iter_mut().for_each(Campaign::unsee);
            }
            if campaigns.iter().any(|campaign| campaign.id.is_none()) {
                self.find(&mut campaigns).await;
            }
            for campaign in campaigns.iter_mut().filter(|campaign| !campaign.has_completed()) {
                let Some(id) = &campaign.id else { continue };
                let told = self.stage.meta.n_reported();
                if let Some(last) = look(&self.stage.front.url(), &format!("campaigns/{id}")).await {
                    campaign.last = last;
                }
                if campaign.last["state"] == "running" {
                    campaign.running.push((Instant::now(), told));
                }
            }
            if schedule.has_account_faults() && campaigns.iter().any(Campaign::is_held) {
                self.lets_go().await;
            }
            if well.is_some() && campaigns.iter().all(Campaign::has_completed) && self.stage.meta.is_idle() {
                return (campaigns, Vec::new());
            }
            let of = |campaign: &Campaign| campaign.last["statistics"]["by_state"].clone();
            let now = json!([self.stage.meta.n_reported(), campaigns.iter().map(of).collect::<Vec<_>>()]);
            if now != seen {
                (seen, changed) = (now, Instant::now());
            }
            let too_long = well.is_some_and(|well| well.elapsed() > PATIENCE + delay);
            if too_long || well.is_some_and(|well| changed.max(well).elapsed() > STUCK_AFTER + delay) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let since =
            format!("{:?} after everything was well again", well.map(|well| well.elapsed()).unwrap_or_default());
        let open = campaigns.iter().filter(|campaign| !campaign.has_completed());
        let mut wrong: Vec<String> =
            open.map(|campaign| format!("{} not completed {since}: {}", campaign.name(), campaign.last)).collect();
        if !self.stage.meta.is_idle() {
            wrong.push(format!("statuses were not taken {since}"));
        }
        (campaigns, wrong)
    }

    /// As an operator does once the account is well again: lets go what was held because of it. What late statuses hold again
    /// is let go when that is seen.
    async fn lets_go(&self) {
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
        // Whoever does not answer is asked again at the next look.
        let _ = tokio::time::timeout(LOOK_MAX, async {
            let _ = webhook.send().await;
            for line in LINES.into_iter().take_while(|_| is_well()) {
                Api::at(&front).attempt(&format!("lines/{line}/resume")).await;
            }
        })
        .await;
    }

    /// SIGTERM to each worker in turn. `before`: what is done before one starts again.
    async fn restart_in_turn(&self, before: impl Fn(usize)) {
        for (number, turn) in self.workers.iter().enumerate() {
            let _in_turn = turn.lock().await;
            self.stage.stop_worker(number).await;
            before(number);
            self.stage.start_worker(number).await;
        }
    }

    /// Finds out the ids of campaigns that came as jobs.
    async fn find(&self, campaigns: &mut [Campaign]) {
        let Some(list) = look(&self.stage.front.url(), "campaigns?limit=100").await else { return };
        for campaign in campaigns.iter_mut().filter(|campaign| campaign.id.is_none()) {
            let is_it = |found: &&Value| found["external_id"].as_str() == campaign.external_id.as_deref();
            let found = list["campaigns"].as_array().into_iter().flatten().find(is_it);
            campaign.id = found.and_then(|found| found["id"].as_str()).map(str::to_owned);
        }
    }

    async fn carry_out(&self, fault: Fault) {
        let stage = &self.stage;
        if fault.is_of_the_clock() && !clock::CAN_BE_SET {
            return;
        }
        // First of all: whoever waits for a turn may not keep the one from going on who has it.
        let shared = if fault.is_of_a_worker() { Some(self.blame.read().await) } else { None };
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
            _ => Some(self.redis.lock().await),
        };
        let alone = match fault {
            Fault::PowerLoss { .. } => Some((self.launches.write().await, self.blame.write().await)),
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
            Fault::WorkerAsleep { worker, asleep } => stage.put_worker_to_sleep(worker, asleep).await,
            Fault::RollingRestart => self.restart_in_turn(|_| {}).await,
            Fault::LinesChanged { line, without } => {
                self.restart_in_turn(|number| stage.lists_all_but(number, Some(LINES[line]))).await;
                tokio::time::sleep(without).await;
                self.restart_in_turn(|number| stage.lists_all_but(number, None)).await;
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
                    tokio::time::sleep(BETWEEN_STOPS).await;
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
                stage.redis.lock().await.says(&["CLIENT", "PAUSE", &ms, "ALL"]).await;
                tokio::time::sleep(paused).await;
            }
            Fault::RedisFull { full } => {
                let disk = stage.redis.lock().await;
                disk.says(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
                tokio::time::sleep(full).await;
                disk.says(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::ScriptsFlushed => stage.redis.lock().await.says(&["SCRIPT", "FLUSH"]).await,
            Fault::Cut { wire } => stage.wire(wire).cut(),
            Fault::Held { wire, held } => {
                stage.wire(wire).hold();
                tokio::time::sleep(held).await;
                stage.wire(wire).mend();
            }
            Fault::Slow { wire, by, slow } => {
                stage.wire(wire).slow(by);
                tokio::time::sleep(slow).await;
                stage.wire(wire).mend();
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
        if self.forgetful && (shared.is_some() || alone.is_some()) {
            tokio::time::sleep(APART).await;
        }
    }
}

/// What the API tells, if anybody answers.
async fn look(front: &str, path: &str) -> Option<Value> {
    // A client of its own each time: a connection to a worker that was killed is of no use.
    let api = Api::at(front);
    tokio::time::timeout(LOOK_MAX, api.ask(path)).await.ok()?
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
