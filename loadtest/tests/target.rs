//! `pregon-load --target`: a running deployment, with a simulator beside it.

use std::{path::Path, process::Stdio};

use pregon_load::report::Report;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

const API_KEY: &str = "key-of-the-target";

/// A program beside `pregon-load`.
fn program(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_pregon-load")).with_file_name(name));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A simulator with the scenario `calm`, without its webhook.
async fn simulator(folder: &Path) -> (Child, String) {
    let calm = include_str!("../../config/sim/calm.toml");
    let quiet: Vec<&str> = calm.lines().filter(|line| !line.starts_with("webhook = ")).collect();
    let scenario = folder.join("quiet.toml");
    std::fs::write(&scenario, quiet.join("\n")).expect("written");
    let mut command = program("pregon");
    command.arg("sim").arg("--config").arg(scenario).args(["--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = lines.next_line().await.expect("read").expect("its address");
    let url = line.split(' ').find(|word| word.starts_with("http://")).expect("an address");
    (child, url.to_owned())
}

/// A worker on a Redis of its own, which sends to the simulator at `meta`.
struct Deployment {
    child: Child,
    api: String,
    metrics: String,
    _folder: TempDir,
}

impl Deployment {
    async fn start(meta: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ready = folder.path().join("ready.json");
        let config = include_str!("../../examples/pregon.toml");
        std::fs::write(folder.path().join("pregon.toml"), config).expect("written");
        let mut command = program("pregon");
        command.arg("serve").arg("--config").arg(folder.path().join("pregon.toml")).arg("--ready-file").arg(&ready);
        let redis = format!("spawn:{}", folder.path().join("redis").display());
        let settings = [
            ("PREGON_API_KEY", API_KEY),
            ("PREGON_VERIFY_TOKEN", "verify"),
            ("PREGON_APP_SECRET", "sim-app-secret"),
            ("PREGON_TOKEN", "sim-token-2001"),
            ("PREGON__REDIS__URL", redis.as_str()),
            ("PREGON__GRAPH__BASE_URL", meta),
            ("PREGON__HTTP__LISTEN", "127.0.0.1:0"),
            ("PREGON__OPS__LISTEN", "127.0.0.1:0"),
            ("PREGON__SHUTDOWN__DRAIN", "0s"),
        ];
        let child = command.envs(settings).stderr(Stdio::null()).spawn().expect("it starts");
        let ready: Value = loop {
            // The file appears complete when the worker serves.
            let json = std::fs::read(&ready).ok().and_then(|json| serde_json::from_slice(&json).ok());
            match json {
                Some(json) => break json,
                None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        let address = |name: &str| ready[name].as_str().expect("an address").to_owned();
        let (api, metrics) = (format!("http://{}", address("http")), format!("http://{}/metrics", address("ops")));
        Self { child, api, metrics, _folder: folder }
    }

    /// The rate of line 3001, and where it comes from.
    async fn rate(&self) -> (f64, String) {
        let url = format!("{}/v1/lines/3001", self.api);
        let response = pregon::client::http().build().expect("a client").get(url).bearer_auth(API_KEY).send().await;
        let line: Value =
            serde_json::from_str(&response.expect("an answer").text().await.expect("text")).expect("JSON");
        (line["messages_per_second"].as_f64().expect("a rate"), line["rate_source"].as_str().expect("text").to_owned())
    }

    async fn stop(mut self) {
        assert_eq!(terminate(&mut self.child).await, Some(0));
    }
}

/// Sends SIGTERM to a process. Returns its exit code.
async fn terminate(child: &mut Child) -> Option<i32> {
    let pid = child.id().expect("it runs").to_string();
    let kill = Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &pid]).status();
    assert!(kill.await.expect("kill").success());
    child.wait().await.expect("its end").code()
}

/// The command that offers a load to a target for `duration`.
fn load_command(deployment: &Deployment, sim: &str, duration: &str) -> Command {
    let mut command = program("pregon-load");
    command.args(["latency", "--set", "latency.per_second=50", "--set", "latency.warm_up=300ms"]);
    command.args(["--set", &format!("latency.duration={duration}"), "--json"]);
    command.args(["--target", &deployment.api, "--line", "3001", "--sim", sim, "--metrics", &deployment.metrics]);
    command.env("PREGON_API_KEY", API_KEY);
    command
}

/// Runs a small load on a target. Returns the exit code, and both outputs.
async fn load(deployment: &Deployment, sim: &str) -> (Option<i32>, String, String) {
    let output = load_command(deployment, sim, "1s").output().await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_target_is_measured_from_outside_and_gets_its_rates_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_sim, sim) = simulator(folder.path()).await;
    let deployment = Deployment::start(&sim).await;
    let before = deployment.rate().await;
    let (code, stdout, stderr) = load(&deployment, &sim).await;
    // A busy machine may miss the goals of the scenario.
    assert!(matches!(code, Some(0 | 1)), "{stdout}{stderr}");
    let report: Report = serde_json::from_str(&stdout).expect("a report");
    let value = |name: &str| report.figures.iter().find(|figure| figure.name == name).expect("the figure").value;
    assert_eq!(value("offered_per_second"), 50.0);
    assert!(value("achieved_percent") > 0.0);
    assert_eq!(value("counted_answers"), value("counted_attempts"), "the simulator and the metrics agree");
    assert_eq!(deployment.rate().await, before);
    deployment.stop().await;
}

#[tokio::test]
async fn an_interrupted_load_gives_the_target_its_rates_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_sim, sim) = simulator(folder.path()).await;
    let deployment = Deployment::start(&sim).await;
    let before = deployment.rate().await;
    let mut load = load_command(&deployment, &sim, "10m").stdout(Stdio::null()).spawn().expect("it starts");
    while deployment.rate().await == before {
        assert!(load.try_wait().expect("its state").is_none(), "it runs");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(terminate(&mut load).await, Some(1));
    assert_eq!(deployment.rate().await, before);
    deployment.stop().await;
}

#[tokio::test]
async fn a_target_that_may_send_to_meta_is_refused_and_sends_nothing() {
    let (ours, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (_ours, ours) = simulator(ours.path()).await;
    let (_elsewhere, elsewhere) = simulator(elsewhere.path()).await;
    let deployment = Deployment::start(&elsewhere).await;
    let (code, stdout, stderr) = load(&deployment, &ours).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("no load is sent to a target that may send to Meta"), "{stderr}");
    let ledger = pregon::client::http().build().expect("a client").get(format!("{elsewhere}/sim/ledger")).send().await;
    let ledger: Value = serde_json::from_str(&ledger.expect("an answer").text().await.expect("text")).expect("JSON");
    assert_eq!(ledger["total"]["requests"], 0);
    deployment.stop().await;
}
