//! The programs of `examples/`, run as a customer runs them: against a Redis, the simulator and `pregon serve` with
//! `examples/pregon.toml`. The results are compared with the ledger of the simulator.
//!
//! They need curl, jq, python3 with two packages, node, redis-cli and TypeScript's compiler: `make examples-tools`
//! installs what is missing.

mod events;

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::support::{
    self,
    hooks::{APP_SECRET, VERIFY_TOKEN},
    redis::TestRedis,
    server::{Api, Installation, KEY, Server},
};
use deadpool_redis::redis::cmd;
use pregon::sim::{Scenario, Sim, scenario::Target};
use serde_json::Value;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Recipients that each example sends to. One further row is rejected, because its number lacks the plus.
const ACCEPTED: u64 = 3;
const REJECTED_ROW: &str = "not_e164: `to` is …0003: the plus in front is missing";

/// The roles of the worker.
const ROLES: &str = "api,webhook,dispatch";

/// TypeScript's compiler, where `make examples-tools` puts it.
const TYPESCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples/node_modules/.bin/tsc");

/// The packages of Python, where `make examples-tools` puts them.
const PYTHON_PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples/python");

/// What the examples need to run: Redis, the simulator and a worker. Fields are dropped in this order, the worker
/// first.
struct Stage {
    server: Server,
    front: Front,
    sim: Sim,
    /// The TCP address of Redis, which a restart changes.
    redis_url: String,
    redis: TestRedis,
    installation: Installation,
    environment: Vec<(&'static str, String)>,
    _stop: DropGuard,
}

/// The address of the API and of the webhooks, which stays the same when the worker is started again.
struct Front {
    url: String,
    worker: watch::Sender<Option<SocketAddr>>,
}

impl Front {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (worker, now) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                let Some(worker) = *now.borrow() else { continue };
                tokio::spawn(async move {
                    // Both ends notice a broken connection themselves.
                    if let Ok(mut worker) = TcpStream::connect(worker).await {
                        let _ = copy_bidirectional(&mut caller, &mut worker).await;
                    }
                });
            }
        });
        Self { url, worker }
    }

    /// Leads to `server` from now on.
    fn lead_to(&self, server: &Server) {
        let address = server.url().strip_prefix("http://").and_then(|address| address.parse().ok());
        self.worker.send_replace(Some(address.expect("an address")));
    }
}

impl Stage {
    async fn start() -> Self {
        Self::start_with("calm", &[]).await
    }

    /// A stage with a scenario of the simulator. `environment`: settings of the worker.
    async fn start_with(scenario: &str, environment: &[(&'static str, &str)]) -> Self {
        assert_tools_are_installed();
        let redis = TestRedis::start().await;
        let redis_url = listen_on_tcp(&redis).await;
        // The simulator's port is bound before the worker starts, and served afterwards: each needs the other's
        // address.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let graph = format!("http://{}", listener.local_addr().expect("an address"));
        let installation = Installation::of(&std::fs::read_to_string(file("pregon.toml")).expect("a configuration"));
        let mut settings = vec![
            ("PREGON_API_KEY", KEY),
            ("PREGON_VERIFY_TOKEN", VERIFY_TOKEN),
            ("PREGON_APP_SECRET", APP_SECRET),
            ("PREGON_TOKEN", "sim-token-2001"),
            ("PREGON__REDIS__URL", redis.url()),
            ("PREGON__GRAPH__BASE_URL", &graph),
            ("PREGON__HTTP__LISTEN", "127.0.0.1:0"),
            ("PREGON__OPS__LISTEN", "127.0.0.1:0"),
            ("PREGON__LOG__FORMAT", "json"),
        ];
        settings.extend(environment);
        let server = installation.serve_with("worker", ROLES, &settings).await;
        let environment = settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        let front = Front::start().await;
        front.lead_to(&server);
        let mut scenario = Scenario::named(scenario).expect("it comes with the program");
        let webhook = format!("{}/webhooks/meta", front.url);
        scenario.wabas[0].webhook = Some(Target { url: webhook, app_secret: APP_SECRET.into() });
        let stop = CancellationToken::new();
        let sim = Sim::start(scenario, listener, stop.clone()).await.expect("the simulator");
        let stage = Self { server, front, sim, redis_url, redis, installation, environment, _stop: stop.drop_guard() };
        support::until("the templates are read", async || {
            stage.api().get("templates").await["templates"].as_array().is_some_and(|templates| !templates.is_empty())
        })
        .await;
        stage
    }

    fn api(&self) -> Api {
        Api::at(&self.front.url)
    }

    /// Kills the worker, and starts it again at another address, to which the front leads.
    async fn restart_worker(&mut self) {
        self.server.signal("KILL");
        self.server.ended().await;
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.server = self.installation.serve_with("worker", ROLES, &environment).await;
        self.front.lead_to(&self.server);
    }

    /// `program` with the settings of the examples; `environment` overrides them.
    fn command(&self, program: impl AsRef<OsStr>, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PREGON_SERVER", &self.front.url)
            .env("PREGON_API_KEY", KEY)
            .env("REDIS_URL", &self.redis_url)
            .env("PYTHONPATH", PYTHON_PACKAGES)
            .env("NODE_NO_WARNINGS", "1") // Node.js 18 warns that fetch is experimental
            .envs(environment.iter().copied())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `program` with the settings of the examples; `environment` overrides them.
    async fn run(&self, program: impl AsRef<OsStr>, arguments: &[&Path], environment: &[(&str, &str)]) -> Ran {
        let output = self.command(program, environment).args(arguments).output().await.expect("a program that starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Waits until the campaign is completed and no webhook is pending, then compares its statistics with the ledger.
    /// Each stage has one campaign, so the whole ledger belongs to it.
    async fn assert_sent_once(&self, external_id: &str) {
        let campaigns = self.api().get("campaigns").await;
        let [campaign] = campaigns["campaigns"].as_array().expect("a list").as_slice() else {
            panic!("one campaign: {campaigns}")
        };
        assert_eq!(campaign["external_id"], external_id);
        let path = format!("campaigns/{}", campaign["id"].as_str().expect("an id"));
        let mut campaign = Value::Null;
        support::until("the campaign is completed", async || {
            campaign = self.api().get(&path).await;
            campaign["state"] == "completed"
        })
        .await;
        self.sim.idle().await;
        let counts = self.api().get(&path).await["statistics"].take();
        let ledger = self.sim.ledger().total;
        assert_eq!((ledger.requests, ledger.accepted, ledger.unique_recipients), (ACCEPTED, ACCEPTED, ACCEPTED));
        assert_eq!(ledger.recipients_reached_twice, 0);
        assert_eq!((&counts["recipients"], &counts["funnel"]["accepted"]), (&ACCEPTED.into(), &ACCEPTED.into()));
        let by_state = ["accepted", "sent", "delivered", "read"].map(|state| counts["by_state"][state].as_u64());
        let told = ledger.told;
        assert_eq!(by_state, [told.accepted, told.sent, told.delivered, told.read].map(Some));
    }

    /// Checks an example of the HTTP API: it reports refusals, and two runs send the campaign once.
    async fn submits_by_http(&self, program: &OsStr, arguments: &[&Path], external_id: &str) {
        let refused = self.run(program, arguments, &[("PREGON_API_KEY", "wrong")]).await;
        assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
        assert!(refused.err.contains("error: unauthorized: send `Authorization: Bearer KEY`"), "{refused:?}");

        let refused = self.run(program, arguments, &[("PREGON_TEMPLATE", "order_updat/es_AR")]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("error: template missing: WABA 2001 has no template order_updat"), "{refused:?}");
        assert_eq!(self.sim.ledger().total.requests, 0);

        // The second run finds the campaign completed.
        for _ in 0..2 {
            let ran = self.run(program, arguments, &[]).await;
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
            let lines: Vec<&str> = ran.out.lines().collect();
            assert!(lines[0].starts_with("campaign 01"), "{ran:?}");
            assert_eq!(lines[1], "3 recipients accepted, 1 rejected");
            assert!(lines[2].starts_with(&format!("  line 4: {REJECTED_ROW}")), "{ran:?}");
            assert!(
                lines.last().is_some_and(|line| line.starts_with("completed: 3 of 3 accepted by Meta (")),
                "{ran:?}"
            );
            self.assert_sent_once(external_id).await;
        }
    }
}

fn assert_tools_are_installed() {
    for program in ["curl", "jq", "python3", "node", "redis-cli", TYPESCRIPT] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Joining an absolute path replaces the directory.
        let is_there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        assert!(is_there, "{program} is missing: run `make examples-tools`");
    }
    for package in ["redis", "standardwebhooks"] {
        let is_there = Path::new(PYTHON_PACKAGES).join(package).is_dir();
        assert!(is_there, "the package {package} of Python is missing: run `make examples-tools`");
    }
}

/// How an example ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A file of `examples/`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Makes `redis` listen on a loopback port besides its socket, because redis-cli accepts no socket URL. Returns the
/// URL.
async fn listen_on_tcp(redis: &TestRedis) -> String {
    let mut connection = redis.connection().await;
    let mut port = 0;
    support::until("Redis listens on a port", async || {
        // Another process may take the port in between. Redis then rejects it, and another port is tried.
        let free = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        port = free.expect("a free port").port();
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("bind").arg("127.0.0.1").arg("port").arg(port);
        set.query_async::<()>(&mut connection).await.is_ok()
    })
    .await;
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test]
async fn submit_sh_sends_once_and_reports_refusals() {
    let stage = Stage::start().await;
    stage.submits_by_http(file("submit.sh").as_os_str(), &[], "example-sh").await;
}

#[tokio::test]
async fn submit_py_sends_once_and_reports_refusals() {
    let stage = Stage::start().await;
    stage.submits_by_http(OsStr::new("python3"), &[&file("submit.py")], "example-py").await;
}

#[tokio::test]
async fn submit_ts_compiles_sends_once_and_reports_refusals() {
    let stage = Stage::start().await;
    let out = tempfile::tempdir().expect("a directory");
    let compiled =
        stage.run(TYPESCRIPT, &[Path::new("--project"), &file(""), Path::new("--outDir"), out.path()], &[]).await;
    assert_eq!(compiled.code, Some(0), "{compiled:?}");
    stage.submits_by_http(OsStr::new("node"), &[&out.path().join("submit.js")], "example-ts").await;
}

#[tokio::test]
async fn redis_sh_sends_once_and_reports_the_result_of_its_job() {
    let stage = Stage::start().await;
    let script = file("redis.sh");
    let refused = stage.run(&script, &[], &[("PREGON_TEMPLATE", "order_updat/es_AR")]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.starts_with("error: template-missing: WABA 2001 has no template order_updat"), "{refused:?}");
    let unreachable = stage.run(&script, &[], &[("REDIS_URL", "redis://127.0.0.1:1")]).await;
    assert_eq!((unreachable.code, unreachable.out.as_str()), (Some(1), ""), "{unreachable:?}");
    assert!(unreachable.err.contains("Could not connect to Redis"), "{unreachable:?}");
    assert_eq!(stage.sim.ledger().total.requests, 0);

    for _ in 0..2 {
        let ran = stage.run(&script, &[], &[]).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let lines: Vec<&str> = ran.out.lines().collect();
        assert!(lines[0].starts_with("job ") && lines[0].ends_with("-0"), "{ran:?}");
        assert_eq!(lines[1], "taken: 1 of 4 recipients were rejected, the others were accepted");
        assert!(lines[2].starts_with(&format!("  row 3: {REJECTED_ROW}")), "{ran:?}");
        stage.assert_sent_once("example-redis").await;
    }
}
