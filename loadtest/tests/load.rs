//! End-to-end tests of `pregon-load`: a small scenario of each workload, from its file to its report.

use std::{path::Path, process::Stdio};

use pregon_load::{builtin, report::Report, scenario::Scenario};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// The result of a `pregon-load` command.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn load(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pregon-load"));
    // An invalid setting in the caller's environment must not reach the workers.
    command.args(arguments).env("PREGON__HTTP__LISTEN", "nowhere").kill_on_drop(true);
    let output = command.stdin(Stdio::null()).output().await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a scenario and checks that its goals are reached, that the report has exactly the figures of the workload, and
/// that `--out` has the same report and all plots.
async fn run(text: &str) -> (Report, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, out) = (folder.path().join("small.toml"), folder.path().join("out"));
    std::fs::write(&file, text).expect("written");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let ran = load(&[&path(&file), "--out", &path(&out), "--json"]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let report: Report = serde_json::from_str(&ran.stdout).expect("a report");
    let scenario = Scenario::read(&file, text, &[]).expect("a scenario");
    for name in scenario.workload.figures() {
        let figure = report.figures.iter().find(|figure| figure.name == *name);
        let figure = figure.unwrap_or_else(|| panic!("{name} is missing in {}", ran.stdout));
        assert!(figure.value.is_finite() && !figure.rounds.is_empty(), "{figure:?}");
    }
    for figure in &report.figures {
        assert!(scenario.workload.figures().contains(&figure.name.as_str()), "{} is not listed", figure.name);
    }
    let written = std::fs::read_to_string(out.join("report.json")).expect("the report");
    assert_eq!(serde_json::from_str::<Report>(&written).expect("a report").figures, report.figures);
    let page = std::fs::read_to_string(out.join("report.html")).expect("the page");
    assert_eq!(page.matches("<svg").count(), report.plots.len());
    for plot in &report.plots {
        let svg = std::fs::read_to_string(out.join(&plot.name).with_extension("svg")).expect("the plot");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{}", plot.name);
    }
    (report, folder)
}

fn value(report: &Report, name: &str) -> f64 {
    report.figures.iter().find(|figure| figure.name == name).expect("the figure").value
}

#[tokio::test]
async fn dispatch_is_compared_with_the_bare_loop_and_reports_compare() {
    let text = "about = 'small'\n[stage]\nlines = 2\n[dispatch]\nrecipients = 600\nwarm_up = 100\nrounds = 2\nstreams = 4\n\
        [[goal]]\nfigure = 'ratio'\nat_least = 0.000001";
    let (report, folder) = run(text).await;
    assert_eq!(report.scenario, "small");
    assert!(value(&report, "bare_per_second") > 0.0 && report.goals[0].reached);
    assert_eq!(report.figures.iter().find(|figure| figure.name == "ratio").expect("a ratio").rounds.len(), 2);
    let series: Vec<_> = report.plots[0].series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(series, ["bare loop, round 2", "dispatch, round 2"]);

    let json = folder.path().join("out/report.json");
    let json = json.to_str().expect("a plain path");
    let ran = load(&["compare", json, json]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ratio = ran.stdout.lines().find(|line| line.trim_start().starts_with("ratio")).expect("the figure");
    assert!(ratio.ends_with("1.000"), "{ratio}");
}

#[tokio::test]
async fn latency_is_measured_from_due_to_the_wire() {
    let text = "about = ''\n[stage]\nlines = 2\n[latency]\nper_second = 200\nwarm_up = '300ms'\nduration = '1s'";
    let (report, _folder) = run(text).await;
    assert_eq!(value(&report, "offered_per_second"), 200.0);
    assert!(value(&report, "achieved_percent") > 0.0 && value(&report, "first_ms") > 0.0);
    assert!(value(&report, "max_ms") >= value(&report, "p50_ms"));
}

#[tokio::test]
async fn ramp_doubles_the_load_to_the_highest_that_is_kept() {
    // Any load counts as kept.
    let text = "about = ''\n[stage]\nlines = 2\n[ramp]\nfrom = 50\nto = 150\nwarm_up = '200ms'\nduration = '1s'\n\
        achieved_percent = 1\np99_ms = 1e6";
    let (report, _folder) = run(text).await;
    assert_eq!(value(&report, "knee_per_second"), 150.0);
    let loads: Vec<_> = report.figures.iter().filter(|figure| figure.name == "load_p99_ms").collect();
    assert_eq!(loads.iter().map(|figure| figure.case.as_str()).collect::<Vec<_>>(), ["50/s", "100/s", "150/s"]);
}

#[tokio::test]
async fn a_figure_that_is_worse_than_the_baseline_exits_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a plain path").to_owned();
    let (file, good, bad) = (path("small.toml"), path("good.json"), path("bad.json"));
    std::fs::write(&file, "about = ''\n[upload]\nrecipients = 100\nrounds = 1").expect("written");
    let saved = load(&[&file, "--save-baseline", &good]).await;
    assert_eq!(saved.code, Some(0), "{}", saved.stderr);
    let mut report: Report = serde_json::from_slice(&std::fs::read(&good).expect("saved")).expect("a report");
    for figure in &mut report.figures {
        let was_better = if figure.name.ends_with("_per_second") { 1e9 } else { -1e9 };
        (figure.value, figure.rounds) = (was_better, vec![was_better]);
    }
    std::fs::write(&bad, serde_json::to_string(&report).expect("JSON")).expect("written");
    let ran = load(&[&file, "--baseline", &bad, "--save-baseline", &bad]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("WORSE"), "{}", ran.stdout);
    let kept: Report = serde_json::from_slice(&std::fs::read(&bad).expect("kept")).expect("a report");
    assert_eq!(kept.figures, report.figures, "a worse report does not replace the baseline");
    assert_eq!(load(&["compare", &bad, &good]).await.code, Some(0));
    assert_eq!(load(&["compare", &bad, &good, "--threshold", "50"]).await.code, Some(1));
    assert_eq!(load(&["start", "--baseline", &good]).await.code, Some(2), "a report of another scenario");
}

#[tokio::test]
async fn the_examples_of_the_help_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = load(&["--help"]).await.stdout;
    let (_, examples) = help.split_once("Examples:\n").expect("examples");
    for example in examples.lines() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pregon-load"));
        command.args(example.split_whitespace().skip(1)).current_dir(folder.path()).kill_on_drop(true);
        let output = command.stdin(Stdio::null()).output().await.expect("it runs");
        // A debug build misses the goals of the scenario.
        let (code, text) = (output.status.code(), String::from_utf8_lossy(&output.stdout));
        assert!(code == Some(0) || (code == Some(1) && text.contains("MISSED")), "{example}: {output:?}");
    }
}

#[tokio::test]
async fn rates_measures_the_use_and_worst_second_of_each_line() {
    let text = "about = ''\n[rates]\nwarm_up = '300ms'\nduration = '1s'\n\
        case = [{ workers = 2, lines = 3, messages_per_second = 50 }]\n\
                [[goal]]\nfigure = 'worst_second_beyond'\nat_most = 1000";
    let (report, _folder) = run(text).await;
    assert_eq!(report.figures[0].case, "50/s, 2 workers, 3 lines");
    assert!(value(&report, "use_percent") > 0.0 && value(&report, "worst_second_percent") > 0.0);
    assert_eq!(report.plots[0].series[0].points.len(), 3, "a point for each line");
}

#[tokio::test]
async fn growth_measures_cost_and_memory_by_size() {
    let text = "about = ''\n[stage]\nlines = 2\n[growth]\n\
        case = [{ recipients = 200, times = 2 }, { recipients = 50, campaigns = 3 }]";
    let (report, _folder) = run(text).await;
    let cases: Vec<_> = report.figures.iter().filter(|figure| figure.name == "worker_memory_mb").collect();
    assert_eq!(cases.len(), 2);
    assert!(cases.iter().all(|figure| figure.value > 1.0), "{cases:?}");
    assert_eq!(cases[1].case, "3 campaigns of 50 recipients");
}

#[tokio::test]
async fn webhooks_run_with_and_without_a_schedule() {
    let closed = "about = ''\n[stage]\nlines = 2\n[webhooks]\nrecipients = 120\nbatch = 7\nconnections = 4";
    let (report, _folder) = run(closed).await;
    assert!(value(&report, "statuses_per_second") > 0.0 && value(&report, "baseline_per_second") > 0.0);
    assert_eq!(report.figures.iter().find(|figure| figure.name == "ratio").expect("a ratio").rounds.len(), 3);

    let open = "about = ''\n[stage]\nlines = 2\n[webhooks]\nrecipients = 100\nconnections = 4\n\
        per_second = 200\nduration = '1s'\nsending = 20";
    let (report, _folder) = run(open).await;
    assert_eq!(value(&report, "offered_per_second"), 200.0);
    assert!(value(&report, "sent_per_second") > 0.0 && value(&report, "max_ms") >= value(&report, "p50_ms"));
}

#[tokio::test]
async fn upload_measures_its_rate_and_finds_the_duplicates() {
    let text = "about = ''\n[upload]\nrecipients = 5000\nduplicate_every = 10\nrounds = 2";
    let (report, _folder) = run(text).await;
    assert!(value(&report, "recipients_per_second") > 0.0 && value(&report, "worker_memory_mb") > 1.0);
}

#[tokio::test]
async fn bytes_measures_redis_memory_of_a_recipient_until_retirement() {
    let (report, _folder) = run("about = ''\n[bytes]\nrecipients = 20000").await;
    let (pending, kept) = (value(&report, "pending_bytes"), value(&report, "kept_bytes"));
    assert!(pending > 15.0 && pending < 200.0, "values, and an index entry: {pending}");
    assert!(kept < pending / 2.0, "{kept} of {pending} bytes are left");
}

#[tokio::test]
async fn start_measures_the_time_to_the_first_message() {
    let text = "about = ''\n[stage]\nlines = 2\nmessages_per_second = 80\n[start]\nrounds = 1";
    let (report, _folder) = run(text).await;
    assert!(value(&report, "start_to_first_send_ms") > 0.0);
}

#[tokio::test]
async fn a_missed_goal_is_reported_with_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("small.toml");
    let text = "about = ''\n[upload]\nrecipients = 100\nrounds = 1\n[[goal]]\nfigure = \
        'recipients_per_second'\nat_least = 1e15";
    std::fs::write(&file, text).expect("written");
    let ran = load(&[file.to_str().expect("a plain path")]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("MISSED"), "{}", ran.stdout);
}

#[tokio::test]
async fn an_invalid_scenario_exits_with_2_and_lists_all_problems() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[stage]\nworkers = 0\n[upload]\nrecipient = 5").expect("written");
    let ran = load(&[file.to_str().expect("a plain path")]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    for problem in
        ["about: is missing", "stage.workers: must be from 1", "upload.recipients: is missing", "upload.recipient: "]
    {
        assert!(ran.stderr.contains(problem), "{problem}: {}", ran.stderr);
    }
    assert_eq!(load(&[]).await.code, Some(2), "a scenario is required");
}

#[tokio::test]
async fn the_bare_loop_uses_http2_and_trusts_only_the_given_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    let ca = ca.to_str().expect("a plain path");
    let mut meta = Command::new(env!("CARGO_BIN_EXE_pregon-load"))
        .args(["meta", "--ca", ca, "--threads", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(meta.stdout.take().expect("its output")).lines();
    let url = lines.next_line().await.expect("read").expect("its address");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let sizes = ["--messages", "50", "--warm-up", "5", "--streams", "4", "--lines", "3"];
    let ran = load(&[["bare", &url, "--ca", ca].as_slice(), &sizes].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("took"), "{}", ran.stdout);
    let ran = load(&[["bare", &url].as_slice(), &sizes].concat()).await;
    assert_eq!(ran.code, Some(1), "without --ca the certificate is not trusted");
    drop(meta.stdin.take());
    assert!(meta.wait().await.expect("its end").success(), "it exits when its standard input ends");
}

#[test]
fn every_scenario_is_built_in_listed_in_the_readme_valid_and_has_goals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("the document");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.join("scenarios")).expect("the scenarios") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = builtin::text(&name).unwrap_or_else(|| panic!("{name} is not built in"));
        let scenario = Scenario::read(&path, text, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.goals.is_empty() && text.starts_with("# "), "{name}: what it shows, and goals");
        assert!(readme.contains(&format!("[{name}](scenarios/{name}.toml)")), "{name} is not in the README");
        files.push(name);
    }
    assert_eq!(files.len(), builtin::SCENARIOS.len());
}

#[tokio::test]
async fn a_scenario_runs_by_name_with_another_size_and_seed() {
    let list = load(&["list"]).await;
    assert!(list.stdout.contains("dispatch-http2") && list.stdout.contains("a million messages"), "{}", list.stdout);
    let small = ["upload", "--set", "upload.recipients=1e3", "--set", "upload.rounds=1", "--seed", "4711", "--json"];
    let ran = load(&small).await;
    let report: Report = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    assert_eq!((report.scenario.as_str(), report.seed), ("upload", 4711));
    assert!(ran.stderr.contains("seed 4711"), "{}", ran.stderr);
    let unknown = load(&["uplaod"]).await;
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("pregon-load list"), "{}", unknown.stderr);
}
