//! The set-up: a Redis and a simulator whose clocks can be moved together, and worker processes.

use std::{
    collections::{BTreeMap, HashMap},
    net::TcpListener as Socket,
    time::{Duration, Instant},
};

use deadpool_redis::redis::Script;
use pregon::{
    domain::UnixMs,
    redis::Store,
    sim::{Ledger, MessageRecord, Scenario, Sim, scenario::Target},
};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{
    clock::{self, Clock},
    hooks::APP_SECRET,
    http_client,
    redis::TestRedis,
    server::{Api, Installation, Server, surroundings},
    until, world,
};

/// The roles of the workers: the first serves the API and Meta's webhooks, the others send.
const ROLES: [&str; 3] = ["api,webhook", "dispatch", "dispatch"];

/// A lease long enough that pair spacing is kept even when another worker takes over the line of a dead one.
const LEASE: Duration = Duration::from_secs(10);

/// Adds the jump to the expiry times of leases and workers, which measure real time. ARGV: the jump in ms, the key of
/// the live workers, the names of the running workers.
const SHIFT_LEASES: &str = r#"
local by, workers, running = tonumber(ARGV[1]), ARGV[2], {}
for i = 3, #ARGV do running[ARGV[i]] = true end
for _, key in ipairs(redis.call('KEYS', '*:lease')) do
  local ttl, owner = redis.call('PTTL', key), redis.call('GET', key)
  if ttl > 0 and owner and running[owner:match('^%S+')] then redis.call('PEXPIRE', key, ttl + by) end
end
for name in pairs(running) do
  if redis.call('ZSCORE', workers, name) then redis.call('ZINCRBY', workers, by, name) end
end
"#;

/// How often the clocks were moved and processes restarted.
#[derive(Debug, Default)]
pub struct Counts {
    pub jumps: u32,
    /// The total time of the jumps.
    pub jumped: Duration,
    pub kills: u32,
    pub restarts: u32,
}

pub struct Stage {
    pub sim: Sim,
    pub api: Api,
    pub store: Store,
    pub counts: Counts,
    redis: TestRedis,
    /// The last time at which Redis was started again.
    restarted_at: Option<Instant>,
    clock: Clock,
    workers: Vec<Server>,
    installation: Installation,
    /// Environment variables of the workers.
    environment: Vec<(String, String)>,
    http: reqwest::Client,
}

impl Stage {
    /// Starts everything. The workers get the businesses, WABAs and lines of the scenario, but not its frequency caps.
    /// `more`: further keys of `[dispatch]`, and further tables, as TOML.
    pub async fn start(scenario: Scenario, more: &str) -> Self {
        Self::start_with(scenario, more, false).await
    }

    /// Like [`Stage::start`], with the scenario's frequency caps.
    pub async fn start_capped(scenario: Scenario, more: &str) -> Self {
        Self::start_with(scenario, more, true).await
    }

    async fn start_with(mut scenario: Scenario, more: &str, is_capped: bool) -> Self {
        let (redis, clock) = clock::redis().await;
        // A fixed port, so that webhooks reach the process again after it was killed and restarted.
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}/webhooks/meta");
        for waba in &mut scenario.wabas {
            waba.webhook = Some(Target { url: url.clone(), app_secret: APP_SECRET.into() });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let meta = format!("http://{}", listener.local_addr().expect("an address"));
        let text = configuration(&redis, &meta, &scenario, more, is_capped);
        let mut environment = vec![("PREGON__HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}"))];
        environment.extend(scenario.wabas.iter().map(|waba| (token_name(&waba.id), waba.token.clone())));
        let sim = Sim::start(scenario, listener, CancellationToken::new()).await.expect("a simulator");
        let installation = Installation::of(&text);
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let mut stage = Self {
            sim,
            api: Api::at(&format!("http://127.0.0.1:{port}")),
            store,
            counts: Counts::default(),
            redis,
            restarted_at: None,
            clock: clock.expect("a clock that can be set"),
            workers: Vec::new(),
            installation,
            environment,
            http: http_client(),
        };
        for number in 0..ROLES.len() {
            let worker = stage.start_worker(number).await;
            stage.workers.push(worker);
        }
        stage
    }

    async fn start_worker(&self, number: usize) -> Server {
        let environment = self.environment.iter().filter(|(name, _)| number == 0 || name != "PREGON__HTTP__LISTEN");
        let environment: Vec<_> = environment.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.installation.serve_with(&format!("worker-{number}"), ROLES[number], &environment).await
    }

    /// Moves both clocks ahead while all workers are suspended.
    pub async fn jump(&mut self, by: Duration) {
        self.signal_all("STOP");
        let by_ms = i64::try_from(by.as_millis()).expect("some days");
        let workers = self.store.keys.workers();
        let script = Script::new(SHIFT_LEASES);
        let mut shift = script.prepare_invoke();
        shift.arg(by_ms).arg(workers);
        self.workers.iter().for_each(|worker| {
            shift.arg(&worker.worker);
        });
        let () = shift.invoke_async(&mut self.redis.connection().await).await.expect("redis");
        self.sim.advance(by).await;
        self.clock.step(by_ms).await;
        self.signal_all("CONT");
        self.counts.jumps += 1;
        self.counts.jumped += by;
    }

    fn signal_all(&self, name: &str) {
        self.workers.iter().for_each(|worker| worker.signal(name));
    }

    /// Kills a worker with SIGKILL and starts it again.
    pub async fn kill_worker(&mut self, number: usize) {
        self.workers[number].signal("KILL");
        self.workers[number].ended().await;
        self.workers[number] = self.start_worker(number).await;
        self.counts.kills += 1;
    }

    /// Stops Redis cleanly and starts it again.
    pub async fn restart_redis(&mut self) {
        self.redis.stop().await;
        self.start_redis_again().await;
    }

    /// Kills Redis, and removes what was written to its append-only file in the last second.
    pub async fn redis_loses_power(&mut self) {
        let kept = self.redis.written();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.redis.lose_power(kept).await;
        self.start_redis_again().await;
    }

    async fn start_redis_again(&mut self) {
        self.redis.restart().await;
        let api = self.api.clone();
        until("the API answers again", async || api.try_get("lines").await.is_some()).await;
        self.counts.restarts += 1;
        self.restarted_at = Some(Instant::now());
    }

    /// Whether Redis restarted so recently that workers claim no marketing yet.
    pub fn is_in_grace_period(&self) -> bool {
        self.restarted_at.is_some_and(|at| at.elapsed() < LEASE + Duration::from_secs(1))
    }

    /// Calls the control API of the simulator. Panics if it refuses.
    pub async fn meta(&self, what: &str, body: Value) {
        let url = format!("http://{}/sim/{what}", self.sim.addr());
        let answer = self.http.post(url).json(&body).send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{what}: {status} {text}");
    }

    /// An operator lifts the holds whose scope begins with `scope`. Returns how many there were.
    pub async fn lift(&self, scope: &str) -> usize {
        let holds = self.api.get("holds").await;
        let ids = holds["holds"].as_array().into_iter().flatten().filter_map(|hold| hold["id"].as_str());
        let ids: Vec<_> = ids.filter(|id| id.starts_with(scope)).map(|id| id.replace('/', "%2F")).collect();
        for id in &ids {
            // The hold may have ended meanwhile.
            let _ = self.api.call(Method::POST, &format!("holds/{id}/lift"), None).await;
        }
        ids.len()
    }

    /// The time on Redis' clock.
    pub async fn now(&self) -> UnixMs {
        self.store.time().await.expect("the time")
    }

    /// The simulator's ledger.
    pub fn ledger(&self) -> Ledger {
        self.sim.ledger()
    }

    /// The accepted messages of each recipient, in order. The key is the part of the token that identifies the
    /// recipient.
    pub fn messages_by_recipient(&self) -> HashMap<String, Vec<MessageRecord>> {
        let mut by_recipient: HashMap<String, Vec<MessageRecord>> = HashMap::new();
        for message in self.sim.messages() {
            let recipient = message.callback_data.rsplitn(3, '.').last().unwrap_or_default().to_owned();
            by_recipient.entry(recipient).or_default().push(message);
        }
        by_recipient.values_mut().for_each(|messages| messages.sort_by_key(|message| message.accepted_at));
        by_recipient
    }

    /// Waits until no line has sent for `quiet` and the simulator has delivered every webhook that is due.
    pub async fn quiet(&self, quiet: Duration) {
        let mut seen = self.ledger().total.requests;
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let requests = self.ledger().total.requests;
            if requests != seen {
                (seen, since) = (requests, Instant::now());
            }
            if since.elapsed() >= quiet && self.sim.updates_in_flight() == 0 {
                return;
            }
        }
    }

    /// How many sends broke a rule, by line and rule.
    pub fn broken(&self) -> Vec<(String, String, u64)> {
        let lines = self.ledger().lines.into_iter();
        let by_line = lines.flat_map(|(line, tally)| {
            tally.violations.into_iter().map(move |(rule, sends)| (line.clone(), rule, sends))
        });
        by_line.filter(|(_, _, sends)| *sends > 0).collect()
    }

    /// How many sends broke each rule.
    pub fn violations(&self) -> BTreeMap<String, u64> {
        self.ledger().total.violations
    }
}

/// A free port below 32,768, where the ephemeral ports of Linux begin: one of those may be in use by another test
/// before the process listens, or while it is down.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(22_768..32_768);
        if Socket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn token_name(waba: &str) -> String {
    format!("PREGON_TEST_TOKEN_{waba}")
}

fn configuration(redis: &TestRedis, meta: &str, scenario: &Scenario, more: &str, is_capped: bool) -> String {
    let mut text = format!(
        r#"
[redis]
url = "{}"
{}[feed]
enabled = false
[dispatch]
lease = "{}s"
doubt_deadline = "2m"
threads = 1
{more}
[log]
format = "json"
"#,
        redis.url(),
        surroundings(meta),
        LEASE.as_secs()
    );
    let businesses: std::collections::BTreeSet<&str> =
        scenario.wabas.iter().map(|waba| waba.business.as_str()).collect();
    for id in businesses {
        text += &format!("[[business]]\nid = \"{id}\"\n");
        let listed = scenario.businesses.iter().find(|business| business.id == id);
        if let Some(cap) = listed.and_then(|business| business.frequency_cap).filter(|_| is_capped) {
            text += &format!("frequency_cap = {{ messages = {}, days = {} }}\n", cap.messages, cap.days);
        }
    }
    for waba in &scenario.wabas {
        let (id, business, token) = (&waba.id, &waba.business, token_name(&waba.id));
        text +=
            &format!("[[waba]]\nid = \"{id}\"\nbusiness = \"{business}\"\naccess_token = {{ env = \"{token}\" }}\n");
    }
    for line in &scenario.lines {
        let (id, waba) = (&line.id, &line.waba);
        text += &format!("[[line]]\nid = \"{id}\"\nwaba = \"{waba}\"\n");
    }
    text
}
