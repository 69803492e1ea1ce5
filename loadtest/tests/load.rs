//! `pregon-load` as people use it: a small scenario of each play, from its file to its report.

use std::{path::Path, process::Stdio};

use pregon_load::{report::Report, scenario::Scenario};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// A command of `pregon-load`, and what came of it.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn load(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pregon-load"));
    // What the caller's environment says is not for what is measured.
    command.args(arguments).env("PREGON__HTTP__LISTEN", "nowhere").kill_on_drop(true);
    let output = command.stdin(Stdio::null()).output().await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Plays a scenario; all its goals are reached. The report has every figure that the play is known for, and so has its
/// folder.
async fn play(text: &str) -> (Report, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, out) = (folder.path().join("small.toml"), folder.path().join("out"));
    std::fs::write(&file, text).expect("written");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let ran = load(&[&path(&file), "--out", &path(&out), "--json"]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let report: Report = serde_json::from_str(&ran.stdout).expect("a report");
    let scenario = Scenario::read(&file, text).expect("a scenario");
    for name in scenario.play.figures() {
        let figure = report.figures.iter().find(|figure| figure.name == *name);
        let figure = figure.unwrap_or_else(|| panic!("{name} is missing in {}", ran.stdout));
        assert!(figure.value.is_finite() && !figure.rounds.is_empty(), "{figure:?}");
    }
    for figure in &report.figures {
        assert!(scenario.play.figures().contains(&figure.name.as_str()), "{} is not announced", figure.name);
    }
    let written = std::fs::read_to_string(out.join("report.json")).expect("the report");
    assert_eq!(serde_json::from_str::<Report>(&written).expect("a report").figures, report.figures);
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
async fn dispatch_is_measured_against_a_bare_loop_and_two_reports_are_compared() {
    let text = "about = 'small'\n[stage]\nlines = 2\n[dispatch]\nrecipients = 600\nwarm_up = 100\nrounds = 2\nstreams = 4\n\
                [[goal]]\nfigure = 'ratio'\nat_least = 0.000001";
    let (report, folder) = play(text).await;
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
async fn every_line_is_measured_while_it_sends_at_its_rate() {
    let text = "about = ''\n[rates]\nwarm_up = '300ms'\nduration = '1s'\n\
                case = [{ workers = 2, lines = 3, messages_per_second = 50 }]\n\
                [[goal]]\nfigure = 'worst_second_beyond'\nat_most = 1000";
    let (report, _folder) = play(text).await;
    assert_eq!(report.figures[0].case, "50/s, 2 workers, 3 lines");
    assert!(value(&report, "use_percent") > 0.0 && value(&report, "worst_second_percent") > 0.0);
    assert_eq!(report.plots[0].series[0].points.len(), 3, "a point for each line");
}

#[tokio::test]
async fn cost_and_memory_are_measured_by_size() {
    let text = "about = ''\n[stage]\nlines = 2\n[growth]\n\
                case = [{ recipients = 200, times = 2 }, { recipients = 50, campaigns = 3 }]";
    let (report, _folder) = play(text).await;
    let cases: Vec<_> = report.figures.iter().filter(|figure| figure.name == "worker_memory_mb").collect();
    assert_eq!(cases.len(), 2);
    assert!(cases.iter().all(|figure| figure.value > 1.0), "{cases:?}");
    assert_eq!(cases[1].case, "3 campaigns of 50 recipients");
}

#[tokio::test]
async fn statuses_are_taken_as_fast_as_they_can_and_by_a_clock() {
    let closed = "about = ''\n[stage]\nlines = 2\n[webhooks]\nrecipients = 120\nbatch = 7\nconnections = 4";
    let (report, _folder) = play(closed).await;
    assert!(value(&report, "statuses_per_second") > 0.0 && value(&report, "baseline_per_second") > 0.0);
    assert_eq!(report.figures.iter().find(|figure| figure.name == "ratio").expect("a ratio").rounds.len(), 3);

    let open = "about = ''\n[stage]\nlines = 2\n[webhooks]\nrecipients = 100\nconnections = 4\n\
                per_second = 200\nduration = '1s'\nsending = 20";
    let (report, _folder) = play(open).await;
    assert_eq!(value(&report, "offered_per_second"), 200.0);
    assert!(value(&report, "sent_per_second") > 0.0 && value(&report, "max_ms") >= value(&report, "p50_ms"));
}

#[tokio::test]
async fn an_upload_is_measured_and_its_duplicates_are_found() {
    let text = "about = ''\n[upload]\nrecipients = 5000\nduplicate_every = 10\nrounds = 2";
    let (report, _folder) = play(text).await;
    assert!(value(&report, "recipients_per_second") > 0.0 && value(&report, "worker_memory_mb") > 1.0);
}

#[tokio::test]
async fn what_a_recipient_takes_of_redis_is_measured_until_it_is_dropped() {
    let (report, _folder) = play("about = ''\n[bytes]\nrecipients = 20000").await;
    let (pending, kept) = (value(&report, "pending_bytes"), value(&report, "kept_bytes"));
    assert!(pending > 15.0 && pending < 200.0, "values, and a number in the index: {pending}");
    assert!(kept < pending / 2.0, "{kept} of {pending} are kept");
}

#[tokio::test]
async fn the_first_message_after_a_start_and_after_a_launch_is_waited_for() {
    let text = "about = ''\n[stage]\nlines = 2\nmessages_per_second = 80\n[start]\nrounds = 1";
    let (report, _folder) = play(text).await;
    assert!(value(&report, "start_to_first_send_ms") > 0.0);
}

#[tokio::test]
async fn a_missed_goal_is_told_and_ends_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("small.toml");
    let text = "about = ''\n[upload]\nrecipients = 100\nrounds = 1\n[[goal]]\nfigure = 'recipients_per_second'\nat_least = 1e15";
    std::fs::write(&file, text).expect("written");
    let ran = load(&[file.to_str().expect("a plain path")]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("MISSED"), "{}", ran.stdout);
}

#[tokio::test]
async fn what_is_no_scenario_ends_with_2_and_all_its_problems() {
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
    assert_eq!(load(&[]).await.code, Some(2), "a scenario is needed");
}

#[tokio::test]
async fn the_bare_loop_sends_over_http2_and_trusts_the_stand_in_alone() {
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
    let mut said = BufReader::new(meta.stdout.take().expect("its output")).lines();
    let url = said.next_line().await.expect("read").expect("its address");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let sizes = ["--messages", "50", "--warm-up", "5", "--streams", "4", "--lines", "3"];
    let ran = load(&[["bare", &url, "--ca", ca].as_slice(), &sizes].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("took"), "{}", ran.stdout);
    let ran = load(&[["bare", &url].as_slice(), &sizes].concat()).await;
    assert_eq!(ran.code, Some(1), "nobody knows that certificate");
    drop(meta.stdin.take());
    assert!(meta.wait().await.expect("its end").success(), "it ends with whoever started it");
}

#[test]
fn every_scenario_that_comes_with_the_program_can_be_played() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("the scenarios") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let scenario = Scenario::read(&path, &text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.goals.is_empty() && text.starts_with("# "), "{}: what it shows, and goals", path.display());
        n += 1;
    }
    assert!(n >= 10, "{n} scenarios");
}
