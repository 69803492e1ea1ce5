//! The recorded series, and what promtool finds in them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::http_client;

/// How many scrapes a state lasts before the alerts are evaluated.
pub(super) const LASTING: usize = 10;

/// The time from one scrape to the next, in the minutes of the evaluation.
const MINUTES: usize = 4;

const EVERY: Duration = Duration::from_millis(150);

/// The queries of dashboards that show nothing here: the simulator limits no business.
const SILENT: &str = "pregon_messaging_limit";

/// The beginnings of the names of series that need a database, which the walkthrough does without.
const OF_DATABASE: [&str; 2] = ["pregon_database_", "pregon_chat_"];

/// What was recorded.
#[derive(Default)]
pub(super) struct Recording(Mutex<Recorded>);

/// Values, each with the scrape from which on it holds; `None`: the series is not there.
type Values = Vec<(usize, Option<String>)>;

#[derive(Default)]
struct Recorded {
    /// The number of scrapes.
    n: usize,
    series: BTreeMap<String, Values>,
    /// The alerts that fire at some scrapes.
    expected: Vec<(usize, Vec<String>)>,
    /// The scrape at which the dashboards are evaluated.
    sent_at: usize,
}

/// Scrapes the workers, each with its number and its port, until the task is aborted.
pub(super) async fn record(recording: Arc<Recording>, workers: Vec<(u16, u16)>) {
    let http = http_client();
    loop {
        let mut scraped = BTreeMap::new();
        for &(worker, port) in &workers {
            let page = scrape(&http, port).await.unwrap_or_default();
            scraped.append(&mut samples(&page, worker));
        }
        recording.lock().add(scraped);
        tokio::time::sleep(EVERY).await;
    }
}

/// The page of a worker; `None` if it does not answer.
async fn scrape(http: &reqwest::Client, port: u16) -> Option<String> {
    let request = http.get(format!("http://127.0.0.1:{port}/metrics")).timeout(Duration::from_secs(5));
    request.send().await.ok()?.text().await.ok()
}

/// The samples of a page, with a label for the worker.
fn samples(page: &str, worker: u16) -> BTreeMap<String, String> {
    let lines = page.lines().filter(|line| line.starts_with("pregon_"));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.strip_suffix('}').and_then(|series| series.split_once('{')).unwrap_or((series, ""));
        Some((format!("{name}{{instance=\"worker-{worker}\",{labels}}}"), value.to_owned()))
    };
    lines.filter_map(sample).collect()
}

impl Recording {
    /// The number of scrapes.
    pub(super) fn len(&self) -> usize {
        self.lock().n
    }

    /// Expects that these alerts fire at the newest scrape, and no others.
    pub(super) fn expect(&self, alerts: Vec<String>) {
        let mut recorded = self.lock();
        let newest = recorded.n - 1;
        recorded.expected.push((newest, alerts));
    }

    /// Evaluates the dashboards at the newest scrape, at which a campaign was just sent.
    pub(super) fn show_dashboards(&self) {
        let mut recorded = self.lock();
        recorded.sent_at = recorded.n - 1;
    }

    /// Evaluates the alerts and the dashboards on the recorded series, with files in `dir`.
    pub(super) fn check(&self, dir: &Path) {
        let Some(promtool) = promtool() else {
            println!("alerts and dashboards are not evaluated, because promtool is not there: make package-check");
            return;
        };
        let file = dir.join("recorded.yml");
        fs::write(&file, self.lock().test().to_string()).expect("a file");
        let output = Command::new(promtool).args(["test", "rules"]).arg(&file).output().expect("promtool runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{text}");
    }

    /// Ignores poisoning, because nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn add(&mut self, mut scraped: BTreeMap<String, String>) {
        for (series, values) in &mut self.series {
            let value = scraped.remove(series);
            if values.last().is_none_or(|(_, last)| *last != value) {
                values.push((self.n, value));
            }
        }
        for (series, value) in scraped {
            self.series.insert(series, vec![(0, None), (self.n, Some(value))]);
        }
        self.n += 1;
    }

    /// The input of `promtool test rules`, as JSON, which is YAML.
    fn test(&self) -> Value {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let series = |(series, values): (&String, &Values)| json!({"series": series, "values": self.values(values)});
        let at = |scrape: usize| format!("{}m", scrape * MINUTES);
        let alerts = self.expected.iter().map(|(scrape, alerts)| {
            let sample = |alert: &String| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1});
            json!({
                "expr": "group by (alertname) (ALERTS{alertstate=\"firing\"})",
                "eval_time": at(*scrape),
                "exp_samples": alerts.iter().map(sample).collect::<Vec<_>>(),
            })
        });
        let queries = queries(root).into_iter().map(|query| {
            json!({
                "expr": format!("count({query}) > bool 0"),
                "eval_time": at(self.sent_at),
                "exp_samples": [{"labels": "{}", "value": 1}],
            })
        });
        json!({
            "rule_files": [root.join("config/prometheus/alerts.yml")],
            "evaluation_interval": format!("{MINUTES}m"),
            "tests": [{
                "interval": format!("{MINUTES}m"),
                "input_series": self.series.iter().map(series).collect::<Vec<_>>(),
                "promql_expr_test": alerts.chain(queries).collect::<Vec<_>>(),
            }],
        })
    }

    /// Values in the notation of promtool: `1x9` is ten times 1, `_x9` nine times nothing.
    fn values(&self, values: &[(usize, Option<String>)]) -> String {
        let ends = values.iter().skip(1).map(|(from, _)| *from).chain([self.n]);
        let runs =
            values.iter().zip(ends).filter(|((from, _), end)| from < end).map(|((from, value), end)| match value {
                Some(value) => format!("{value}x{}", end - from - 1),
                // Prometheus notices the end of a series at the next scrape.
                None if *from > 0 && end - from == 1 => "stale".to_owned(),
                None if *from > 0 => format!("stale _x{}", end - from - 1),
                None => format!("_x{}", end - from),
            });
        runs.collect::<Vec<_>>().join(" ")
    }
}

/// The queries of all dashboards, for all values of their variables.
fn queries(root: &Path) -> Vec<String> {
    let mut queries = Vec::new();
    for name in ["fleet", "line", "campaigns"] {
        let text = fs::read_to_string(root.join(format!("config/grafana/{name}.json"))).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels").iter();
        let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
        queries.extend(targets.map(|target| target["expr"].as_str().expect("a query").to_owned()));
    }
    assert!(queries.len() > 30, "{} queries", queries.len());
    queries.retain(|query| !query.contains(SILENT) && !OF_DATABASE.iter().any(|prefix| query.contains(prefix)));
    let put = |query: String| {
        // Long enough for what was sent within the last seconds of the run.
        let query = query.replace("$__rate_interval", "90m");
        ["$worker", "$line", "$business"].iter().fold(query, |query, variable| query.replace(variable, ".*"))
    };
    queries.into_iter().map(put).collect()
}

/// promtool, from PATH or from where `make package-check` puts it.
fn promtool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package-check/prometheus/usr/bin");
    std::env::split_paths(&path).chain([fetched]).map(|folder| folder.join("promtool")).find(|file| file.exists())
}
