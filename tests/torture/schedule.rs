//! The faults of a round and their times, drawn only from a seed, so that the same seed gives the same schedule.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::index::sample};

pub const LINES: [&str; 3] = ["3001", "3002", "3003"];
/// The lease in a round.
pub const LEASE: Duration = Duration::from_secs(3);
/// `dispatch.doubt_deadline` in a round. It is short, so that a worker can be suspended for longer than its lease and
/// the doubts that follow, but longer than the 2 seconds that a worker waits for a response of Meta.
pub const DOUBT_DEADLINE: Duration = Duration::from_millis(2_500);
/// After this long without its owner, a line has another owner and the first owner's doubts have ended.
const LOST_AFTER: Duration = LEASE.saturating_add(DOUBT_DEADLINE);
/// The shortest suspension or pause of Redis that counts as a stall.
const STALL: Duration = Duration::from_secs(1);
/// An owner stops sending this long before its lease ends, so a clock that jumps ahead by no more makes no second
/// owner.
const LEASE_MARGIN_MS: i64 = LEASE.as_millis() as i64 / 5;

/// Most faults begin between these times after the launch. Without faults, the campaign takes 5 to 8 seconds.
const FIRST_MS: u64 = 300;
const LAST_MS: u64 = 6_500;
/// The least time between a worker fault and a power loss, in either order. By then, the workers have replayed
/// their journals after a power loss, and what a worker wrote before its fault is on disk.
pub const WORKER_FAULT_DISTANCE: Duration = Duration::from_secs(2);
/// The least time between a launch and a power loss, so that upload and launch are on disk.
pub const LAUNCH_SYNCED_AFTER: Duration = Duration::from_millis(1_300);
/// How many people are erased during the faults of a round.
const FORGETS: usize = 16;
/// The approximate duration of a worker's restart.
const RESTART: Duration = Duration::from_millis(700);

/// The `appendfsync` setting of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    Everysec,
    Always,
}

/// A connection that runs through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Between a worker and Redis.
    Redis(usize),
    /// Between a worker and Meta.
    Meta(usize),
    /// From Meta to the workers that take webhooks.
    Webhooks,
}

/// Codes of `failed` statuses that blame the account, a line, the template or the token, not the message or its
/// recipient.
const ACCOUNT_CODES: [u32; 9] = [131_042, 131_031, 368, 131_048, 133_010, THROTTLED, 132_015, 132_016, 190];
/// The only one of these codes whose hold lasts just a second.
pub const THROTTLED: u32 = 130_429;

/// The response of a proxy in Meta's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Html(u16),
    /// Plain text, or an empty body.
    Plain(u16),
}

const FOREIGN_RESPONSES: [Foreign; 8] = [
    Foreign::Html(502),
    Foreign::Html(503),
    Foreign::Html(504),
    Foreign::Html(403),
    Foreign::Html(404),
    Foreign::Plain(200),
    Foreign::Plain(401),
    Foreign::Plain(429),
];

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL to a worker; another process replaces it after `down`.
    WorkerKilled { worker: usize, down: Duration },
    /// SIGSTOP to a worker, and SIGCONT after `asleep`.
    WorkerAsleep { worker: usize, asleep: Duration },
    /// SIGTERM to each worker in turn, each after the previous one has restarted.
    RollingRestart,
    /// Like `RollingRestart`, but each worker comes back without this one of [`LINES`]. After `without` they are
    /// restarted again, with all lines.
    LinesChanged { line: usize, without: Duration },
    /// SIGKILL to Redis, and a start after `down`.
    RedisKilled { down: Duration },
    /// Like `RedisKilled`, and the append-only file loses what was written to it in the last `forgets`.
    PowerLoss { forgets: Duration, down: Duration },
    /// SIGSTOP to Redis, and SIGCONT after `asleep`.
    RedisAsleep { asleep: Duration },
    /// For the time `slow`, SIGSTOP to Redis and SIGCONT after `by`, again and again, so that most responses are late.
    RedisSlow { by: Duration, slow: Duration },
    /// CLIENT PAUSE: for the time `paused`, Redis accepts commands and runs none.
    RedisPaused { paused: Duration },
    /// `maxmemory` is below the used memory and nothing is evicted, so no script may write.
    RedisFull { full: Duration },
    /// SCRIPT FLUSH: Redis drops the scripts that it has cached.
    ScriptsFlushed,
    /// SIGKILL to PostgreSQL, and a start after `down`.
    PostgresKilled { down: Duration },
    /// Redis' clock is moved by this much, ahead or back, for good.
    ClockSet { by_ms: i64 },
    /// Redis' clock is moved by this much, and back after `wrong`.
    ClockWrong { by_ms: i64, wrong: Duration },
    /// Every connection ends, and bytes on their way are lost.
    Cut { wire: Wire },
    /// Bytes are held back, then passed on.
    Held { wire: Wire, held: Duration },
    /// Every chunk is delayed.
    Slow { wire: Wire, by: Duration, slow: Duration },
    /// Meta accepts every message, then returns it by a `failed` status with this code: on this one of [`LINES`] if
    /// the code blames a line, otherwise on all of them.
    AccountBlocked { code: u32, line: usize, lasts: Duration },
    /// A proxy answers every request to Meta with this response.
    PathBroken { foreign: Foreign, lasts: Duration },
}

impl Fault {
    /// The name of the kind of fault, for the report.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::WorkerKilled { .. } => "worker: SIGKILL",
            fault if fault.loses_lines() => "worker: SIGSTOP, longer than its lease and the doubt deadline",
            Fault::WorkerAsleep { asleep, .. } if *asleep > LEASE => "worker: SIGSTOP, longer than its lease",
            Fault::WorkerAsleep { .. } => "worker: SIGSTOP, shorter than its lease",
            Fault::RollingRestart => "workers: SIGTERM, one after the other",
            Fault::LinesChanged { .. } => "workers: SIGTERM, one after the other, with other lines",
            Fault::RedisKilled { down } if *down > LEASE => "Redis: SIGKILL, away longer than a lease",
            Fault::RedisKilled { .. } => "Redis: SIGKILL, away shorter than a lease",
            Fault::PowerLoss { .. } => "Redis: power loss, up to 1 s lost",
            Fault::RedisAsleep { asleep } if *asleep >= STALL => "Redis: SIGSTOP, for 1 to 4 s",
            Fault::RedisAsleep { .. } => "Redis: SIGSTOP, for less than a second",
            Fault::RedisSlow { .. } => "Redis: slow",
            Fault::RedisPaused { paused } if *paused >= STALL => "Redis: CLIENT PAUSE, for 1 to 4 s",
            Fault::RedisPaused { .. } => "Redis: CLIENT PAUSE, for less than a second",
            Fault::RedisFull { .. } => "Redis: full",
            Fault::ScriptsFlushed => "Redis: SCRIPT FLUSH",
            Fault::PostgresKilled { .. } => "PostgreSQL: SIGKILL",
            Fault::ClockSet { by_ms: ..0 } => "Redis' clock: set back by seconds",
            Fault::ClockSet { by_ms: 0..=LEASE_MARGIN_MS } => "Redis' clock: set ahead by a fifth of a lease at most",
            Fault::ClockSet { .. } => "Redis' clock: set ahead by seconds or minutes",
            Fault::ClockWrong { by_ms: ..0, .. } => "Redis' clock: set back by minutes, and right again",
            Fault::ClockWrong { .. } => "Redis' clock: set ahead by seconds, and right again",
            Fault::Cut { wire } => match wire {
                Wire::Redis(_) => "worker to Redis: cut",
                Wire::Meta(_) => "worker to Meta: cut",
                Wire::Webhooks => "Meta to webhooks: cut",
            },
            Fault::Held { wire, .. } => match wire {
                Wire::Redis(_) => "worker to Redis: held back, then late",
                Wire::Meta(_) => "worker to Meta: held back, then late",
                Wire::Webhooks => "Meta to webhooks: held back, then late",
            },
            Fault::Slow { wire, .. } => match wire {
                Wire::Redis(_) => "worker to Redis: slow",
                Wire::Meta(_) => "worker to Meta: slow",
                Wire::Webhooks => "Meta to webhooks: slow",
            },
            fault if fault.blames_a_line() => "Meta: failed statuses that blame a line",
            Fault::AccountBlocked { code, .. } => match code {
                132_015 | 132_016 => "Meta: failed statuses that blame the template",
                190 => "Meta: failed statuses that blame the token",
                _ => "Meta: failed statuses that blame the account",
            },
            Fault::PathBroken { foreign, .. } => match foreign {
                Foreign::Html(_) => "path to Meta: a proxy answers everything with HTML",
                Foreign::Plain(_) => "path to Meta: a proxy answers everything with plain text or nothing",
            },
        }
    }

    /// The approximate duration.
    pub fn length(&self, workers: usize) -> Duration {
        match *self {
            Fault::WorkerKilled { down, .. } => down + RESTART,
            Fault::RollingRestart => 2 * RESTART * workers as u32,
            Fault::LinesChanged { without, .. } => 4 * RESTART * workers as u32 + without,
            Fault::RedisKilled { down } | Fault::PowerLoss { down, .. } => down + RESTART,
            Fault::PostgresKilled { down } => down + RESTART,
            Fault::WorkerAsleep { asleep, .. } | Fault::RedisAsleep { asleep } => asleep,
            Fault::RedisPaused { paused } => paused,
            Fault::ClockWrong { wrong, .. } => wrong,
            Fault::RedisFull { full } => full,
            Fault::Held { held, .. } => held,
            Fault::Slow { slow, .. } | Fault::RedisSlow { slow, .. } => slow,
            Fault::AccountBlocked { lasts, .. } | Fault::PathBroken { lasts, .. } => lasts,
            Fault::ScriptsFlushed | Fault::ClockSet { .. } | Fault::Cut { .. } => Duration::ZERO,
        }
    }

    /// Whether a worker is suspended for so long that its lines get another owner and its doubts end.
    fn loses_lines(&self) -> bool {
        matches!(self, Fault::WorkerAsleep { asleep, .. } if *asleep > LOST_AFTER)
    }

    fn changes(&self, which: usize) -> bool {
        matches!(self, Fault::LinesChanged { line, .. } if *line == which)
    }

    /// Whether the fault kills, stops or suspends a worker.
    pub fn is_of_a_worker(&self) -> bool {
        matches!(
            self,
            Fault::WorkerKilled { .. }
                | Fault::WorkerAsleep { .. }
                | Fault::RollingRestart
                | Fault::LinesChanged { .. }
        )
    }

    /// Whether the fault can delay a take-over.
    pub fn delays_a_take_over(&self) -> bool {
        match self {
            Fault::ScriptsFlushed | Fault::Cut { .. } | Fault::PostgresKilled { .. } => false,
            Fault::Held { wire, .. } | Fault::Slow { wire, .. } => *wire != Wire::Webhooks,
            _ => true,
        }
    }

    /// Whether the fault is an account fault that blames one line.
    pub fn blames_a_line(&self) -> bool {
        matches!(self, Fault::AccountBlocked { code: 131_048 | 133_010 | THROTTLED, .. })
    }

    /// Whether the fault is one of Meta, or of a proxy in its place. Lines may stay stopped for seconds after the end
    /// of such a fault: until an operator resumes them, or until they probe Meta again.
    pub fn is_of_meta(&self) -> bool {
        matches!(self, Fault::AccountBlocked { .. } | Fault::PathBroken { .. })
    }

    /// The jumps of Redis' clock, in ms: ahead if positive, back if negative.
    fn jumps_ms(&self) -> [i64; 2] {
        match *self {
            Fault::ClockSet { by_ms } => [by_ms, 0],
            Fault::ClockWrong { by_ms, .. } => [by_ms, -by_ms],
            _ => [0, 0],
        }
    }

    /// Whether the fault expires leases in Redis on which their owners still rely.
    pub fn ends_leases(&self) -> bool {
        self.jumps_ms().into_iter().any(|jump| jump > LEASE_MARGIN_MS)
    }

    fn is_of_redis(&self) -> bool {
        matches!(
            self,
            Fault::RedisKilled { .. }
                | Fault::PowerLoss { .. }
                | Fault::RedisAsleep { .. }
                | Fault::RedisSlow { .. }
                | Fault::RedisPaused { .. }
                | Fault::RedisFull { .. }
                | Fault::ScriptsFlushed
        )
    }

    pub fn is_of_the_clock(&self) -> bool {
        matches!(self, Fault::ClockSet { .. } | Fault::ClockWrong { .. })
    }

    /// Whether the fault needs a steady clock, or moves it. CLIENT PAUSE ends by the clock: a clock that is set back
    /// would make the pause minutes long.
    fn needs_steady_clock(&self) -> bool {
        self.is_of_the_clock() || matches!(self, Fault::RedisPaused { .. })
    }

    fn wire(&self) -> Option<Wire> {
        match self {
            Fault::Cut { wire } | Fault::Held { wire, .. } | Fault::Slow { wire, .. } => Some(*wire),
            _ => None,
        }
    }

    fn worker(&self) -> Option<usize> {
        match self {
            Fault::WorkerKilled { worker, .. } | Fault::WorkerAsleep { worker, .. } => Some(*worker),
            _ => None,
        }
    }

    /// Whether both faults affect the same component and must not overlap.
    fn conflicts_with(&self, other: &Fault) -> bool {
        let workers = self.is_of_a_worker() && other.is_of_a_worker();
        let one_worker = self.worker().is_none() || other.worker().is_none() || self.worker() == other.worker();
        (workers && one_worker)
            || (self.is_of_redis() && other.is_of_redis())
            || (self.needs_steady_clock() && other.needs_steady_clock())
            || (self.is_of_meta() && other.is_of_meta())
            || (self.wire().is_some() && self.wire() == other.wire())
    }

    /// Whether the two faults together may destroy the only copies of a fact: one in a worker that ends, the other
    /// in the writes that Redis loses. Pregón does not promise to survive that.
    fn loses_only_copy_with(&self, other: &Fault) -> bool {
        let forgets = |fault: &Fault| matches!(fault, Fault::PowerLoss { .. });
        (forgets(self) && other.is_of_a_worker()) || (forgets(other) && self.is_of_a_worker())
    }

    fn draw(rng: &mut StdRng, workers: usize, may_forget: bool) -> Self {
        let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(rng.random_range(range));
        let (short, long, outage) = (ms(300..2_500), ms(3_200..5_000), ms(100..4_500));
        let (lost_after, moment, stall) = (LOST_AFTER + ms(300..2_500), ms(100..1_000), ms(1_000..4_000));
        let (paused, slow, by, forgets) = (ms(300..3_000), ms(1_000..2_500), ms(5..60), ms(0..1_000));
        let mut ms = |range: std::ops::Range<i64>| rng.random_range(range);
        let (margin, seconds, minutes) = (ms(50..LEASE_MARGIN_MS), ms(1_000..8_000), ms(10_000..180_000));
        let ahead = if rng.random_bool(0.5) { seconds } else { minutes };
        let (worker, line) = (rng.random_range(0..workers), rng.random_range(0..LINES.len()));
        let code = ACCOUNT_CODES[rng.random_range(0..ACCOUNT_CODES.len())];
        let foreign = FOREIGN_RESPONSES[rng.random_range(0..FOREIGN_RESPONSES.len())];
        let wire = match rng.random_range(0..5) {
            0..2 => Wire::Redis(worker),
            2..4 => Wire::Meta(worker),
            _ => Wire::Webhooks,
        };
        match rng.random_range(0..166) {
            100..102 => Fault::ClockSet { by_ms: margin },
            102..105 => Fault::ClockSet { by_ms: ahead },
            105..108 => Fault::ClockSet { by_ms: -seconds },
            108..110 => Fault::ClockWrong { by_ms: seconds, wrong: paused },
            110..113 => Fault::ClockWrong { by_ms: -minutes, wrong: paused },
            113..116 => Fault::RedisSlow { by, slow },
            116..124 => Fault::WorkerAsleep { worker, asleep: lost_after },
            124..131 => Fault::RedisAsleep { asleep: stall },
            131..134 => Fault::RedisPaused { paused: stall },
            134..142 => Fault::LinesChanged { line, without: short },
            142..154 => Fault::AccountBlocked { code, line, lasts: stall },
            154..166 => Fault::PathBroken { foreign, lasts: stall },
            0..18 => Fault::WorkerKilled { worker, down: outage },
            18..24 => Fault::WorkerAsleep { worker, asleep: short },
            24..32 => Fault::WorkerAsleep { worker, asleep: long },
            32..40 => Fault::RollingRestart,
            40..48 => Fault::RedisKilled { down: outage },
            48..60 if may_forget => Fault::PowerLoss { forgets, down: outage },
            48..60 => Fault::RedisKilled { down: short },
            60..65 => Fault::RedisAsleep { asleep: moment },
            65..68 => Fault::RedisPaused { paused: moment },
            68..72 => Fault::RedisFull { full: paused },
            72..76 => Fault::ScriptsFlushed,
            76..84 => Fault::Cut { wire },
            84..94 => Fault::Held { wire, held: outage },
            _ => Fault::Slow { wire, by, slow },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A fault and its time after the launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub at: Duration,
    pub fault: Fault,
}

/// A campaign submitted through the jobs stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jobs {
    /// Its time after the launch of the first campaign.
    pub at: Duration,
    pub recipients: u64,
}

/// A person of the campaign submitted through the API who is erased.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forget {
    /// Its time after the launch of the campaign.
    pub at: Duration,
    /// The number of the person among the recipients, from 0.
    pub person: u64,
}

/// The schedule of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub seed: u64,
    pub fsync: Fsync,
    pub workers: usize,
    /// Recipients of the campaign submitted through the API.
    pub recipients: u64,
    /// The campaigns submitted as jobs during the faults.
    pub jobs: Vec<Jobs>,
    /// The people who are erased during the faults.
    pub forgets: Vec<Forget>,
    /// Messages per second of each of [`LINES`].
    pub rates: [u64; 3],
    /// Meta throttles some messages.
    pub throttles: bool,
    /// The one-way delay of the link between the workers and Meta.
    pub delay_to_meta: Duration,
    pub steps: Vec<Step>,
}

impl Schedule {
    /// Draws the schedule of `seed`.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let fsync = if rng.random_bool(0.6) { Fsync::Everysec } else { Fsync::Always };
        let workers = rng.random_range(2..=3);
        let recipients = rng.random_range(1_000..=2_000);
        let seconds = rng.random_range(5..=8);
        // 60 to 160 per second. At these rates, the lines together send the campaign in at most about `seconds`.
        let mean = recipients / (3 * seconds);
        let rates = LINES.map(|_| (mean * rng.random_range(80..=120) / 100).max(60));
        let mut throttles = rng.random_bool(0.4);
        let delay_to_meta = Duration::from_millis(match rng.random_range(0..100) {
            0..15 => 75,
            15..30 => 150,
            _ => 0,
        });
        let n_faults = rng.random_range(3..=6);
        let mut steps: Vec<Step> = Vec::new();
        if rng.random_bool(0.15) {
            // The only fault of the round, so that the take-over can be measured.
            let at = Duration::from_millis(rng.random_range(FIRST_MS..LAST_MS / 2));
            let fault = Fault::WorkerKilled { worker: rng.random_range(0..workers), down: LEASE };
            let (jobs, forgets, steps) = (Vec::new(), draw_forgets(seed, recipients), vec![Step { at, fault }]);
            let throttles = false;
            return Self { seed, fsync, workers, recipients, jobs, forgets, rates, throttles, delay_to_meta, steps };
        }
        if fsync == Fsync::Everysec && rng.random_bool(0.4) {
            // A power loss is drawn first. It must keep a distance from worker faults, so if drawn later, it would
            // seldom fit.
            let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(rng.random_range(range));
            let (at, forgets, down) = (ms(FIRST_MS..LAST_MS).max(LAUNCH_SYNCED_AFTER), ms(0..1_000), ms(100..4_500));
            steps.push(Step { at, fault: Fault::PowerLoss { forgets, down } });
        }
        // A fault that overlaps another of the same component is drawn again, a few times.
        for _ in 0..10 * n_faults {
            if steps.len() == n_faults {
                break;
            }
            let mut at = Duration::from_millis(rng.random_range(FIRST_MS..LAST_MS));
            let fault = Fault::draw(&mut rng, workers, fsync == Fsync::Everysec);
            if matches!(fault, Fault::PowerLoss { .. }) {
                // The launch was acknowledged, and is on disk within a second.
                at = at.max(LAUNCH_SYNCED_AFTER);
            }
            if fault.loses_lines() {
                // So late that the lines of the worker are done when it wakes, while other lines still send. Throttling
                // makes some lines take longer.
                at = Duration::from_millis(seconds * 1_000 - rng.random_range(0..3_000));
                throttles = true;
            }
            if matches!(fault, Fault::AccountBlocked { .. }) && rng.random_bool(0.4) {
                // Some statuses arrive after the campaign has ended.
                at = Duration::from_millis(seconds * 1_000 - 1_500 + rng.random_range(0..3_000));
            }
            let step = Step { at, fault };
            if !steps.iter().any(|other| step.overlaps(other, workers)) {
                steps.push(step);
            }
        }
        // In addition to the others, because it touches nothing that they touch.
        steps.push(draw_postgres_kill(seed));
        steps.sort_by_key(|step| step.at);
        let changed = steps.iter().filter(|step| matches!(step.fault, Fault::LinesChanged { .. })).count();
        let n_jobs = if changed < LINES.len() { rng.random_range(1..=3) } else { 0 };
        let mut add = || {
            let at = Duration::from_millis(rng.random_range(0..LAST_MS));
            Jobs { at, recipients: rng.random_range(20..=150) }
        };
        let jobs = std::iter::repeat_with(&mut add).take(n_jobs).collect();
        let forgets = draw_forgets(seed, recipients);
        Self { seed, fsync, workers, recipients, jobs, forgets, rates, throttles, delay_to_meta, steps }
    }

    /// Whether the schedule has a fault or a link with `name` in its name.
    pub fn has(&self, name: &str) -> bool {
        let link = self.link().is_some_and(|link| link.contains(name));
        link || self.steps.iter().any(|step| step.fault.name().contains(name))
    }

    /// The name of the slow link to Meta, if there is one.
    pub fn link(&self) -> Option<&'static str> {
        match self.delay_to_meta.as_millis() {
            0 => None,
            75 => Some("link to Meta of 75 ms each way"),
            _ => Some("link to Meta of 150 ms each way"),
        }
    }

    /// Whether Meta returns messages because of an account fault.
    pub fn has_account_faults(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.fault, Fault::AccountBlocked { .. }))
    }

    /// Recipients of all campaigns.
    pub fn all_recipients(&self) -> u64 {
        self.recipients + self.jobs.iter().map(|jobs| jobs.recipients).sum::<u64>()
    }

    /// Whether this round has faults on the worker's connection to Meta.
    pub fn has_meta_faults_for(&self, worker: usize) -> bool {
        self.steps.iter().any(|step| step.fault.wire() == Some(Wire::Meta(worker)))
    }

    /// Whether two workers may own a line for a moment, because Redis' clock jumps ahead, in all, by more than the
    /// margin of a lease.
    pub fn lets_owners_overlap(&self) -> bool {
        let ahead = self.steps.iter().flat_map(|step| step.fault.jumps_ms()).filter(|jump| *jump > 0);
        ahead.sum::<i64>() > LEASE_MARGIN_MS
    }

    /// How far Redis' clock is set back in all: due times and deadlines may come this much later.
    pub fn delay(&self) -> Duration {
        let back = self.steps.iter().map(|step| match step.fault {
            Fault::ClockSet { by_ms } => (-by_ms).max(0),
            Fault::ClockWrong { by_ms, .. } => by_ms.max(0),
            _ => 0,
        });
        Duration::from_millis(back.sum::<i64>().unsigned_abs())
    }

    /// The lines that every worker configures throughout the round.
    pub fn steady_lines(&self) -> Vec<&'static str> {
        let changes = |line| self.steps.iter().any(|step| step.fault.changes(line));
        LINES.into_iter().enumerate().filter(|(line, _)| !changes(*line)).map(|(_, id)| id).collect()
    }

    /// The roles of each worker. The second one takes no requests.
    pub fn roles(&self) -> Vec<&'static str> {
        let roles = |worker| if worker == 1 { "dispatch,engage" } else { "api,webhook,dispatch,engage" };
        (0..self.workers).map(roles).collect()
    }
}

/// Draws whom to erase, apart from the faults.
fn draw_forgets(seed: u64, recipients: u64) -> Vec<Forget> {
    let mut rng = StdRng::seed_from_u64(!seed);
    let people = sample(&mut rng, recipients as usize, FORGETS);
    let mut forget = |person| Forget { at: Duration::from_millis(rng.random_range(0..LAST_MS)), person: person as u64 };
    people.into_iter().map(&mut forget).collect()
}

/// Draws when PostgreSQL is killed, apart from the other faults.
fn draw_postgres_kill(seed: u64) -> Step {
    let mut rng = StdRng::seed_from_u64(seed.rotate_left(32));
    let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(rng.random_range(range));
    Step { at: ms(FIRST_MS..LAST_MS), fault: Fault::PostgresKilled { down: ms(0..3_000) } }
}

impl Step {
    fn overlaps(&self, other: &Step, workers: usize) -> bool {
        let apart = if self.fault.loses_only_copy_with(&other.fault) { WORKER_FAULT_DISTANCE } else { Duration::ZERO };
        let overlaps = self.at < other.at + other.fault.length(workers) + apart
            && other.at < self.at + self.fault.length(workers) + apart;
        overlaps && (self.fault.conflicts_with(&other.fault) || apart > Duration::ZERO)
    }
}

#[test]
fn a_seed_gives_the_same_schedule_every_time() {
    for seed in 0..200 {
        let schedule = Schedule::draw(seed);
        assert_eq!(schedule, Schedule::draw(seed));
        assert!(!schedule.steps.is_empty(), "{schedule:?}");
        assert!(schedule.rates.iter().all(|rate| (60..=160).contains(rate)), "{schedule:?}");
        let together = |a: &Step, b: &Step| a.fault.loses_only_copy_with(&b.fault) && a.overlaps(b, schedule.workers);
        assert!(!schedule.steps.iter().any(|a| schedule.steps.iter().any(|b| together(a, b))), "{schedule:?}");
    }
}
