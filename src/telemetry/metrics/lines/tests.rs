use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::domain::Cause;

/// What a page shows of `lines` at `now`.
fn shown(lines: &OwnedLines, now: Instant) -> Vec<String> {
    let mut text = MetricsText::default();
    lines.write(&mut text, now);
    text.into_string().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[track_caller]
fn assert_shows(lines: &OwnedLines, now: Instant, series: &str) {
    let shown = shown(lines, now);
    assert!(shown.iter().any(|line| line == series), "{series} is not in {shown:#?}");
}

fn of_a_line(series: &str) -> bool {
    series.contains("line=\"")
}

#[test]
fn an_attempt_is_counted_by_its_outcome_and_timed() {
    let cause = || Cause::Unanswered("time-out".into());
    let outcomes = [
        ("accepted", Outcome::Accepted { wamid: "wamid.1".into(), held: false }),
        ("held", Outcome::Accepted { wamid: "wamid.2".into(), held: true }),
        ("throttled", Outcome::Throttled { scope: ErrorScope::Line, wait: Duration::ZERO, cause: cause() }),
        ("retry", Outcome::Retry { wait: None, cause: cause() }),
        ("in_doubt", Outcome::InDoubt(cause())),
        ("failed", Outcome::Failed { pause_after: None, cause: cause() }),
        ("blocked", Outcome::Blocked { scope: ErrorScope::Token, wait: None, cause: cause() }),
    ];
    for (label, outcome) in outcomes {
        let (lines, now) = (OwnedLines::default(), Instant::now());
        let line = lines.begin(&"3001".into());
        line.attempt(&outcome, Duration::from_millis(250));
        assert_shows(&lines, now, &format!("pregon_attempts_total{{line=\"3001\",outcome=\"{label}\"}} 1"));
        let counted = shown(&lines, now).into_iter().filter(|line| line.contains("outcome=") && !line.ends_with(" 0"));
        assert_eq!(counted.count(), 1, "{label}");
        assert_shows(&lines, now, "pregon_attempt_duration_seconds_bucket{le=\"0.2\"} 0");
        assert_shows(&lines, now, "pregon_attempt_duration_seconds_bucket{le=\"0.3\"} 1");
        assert_shows(&lines, now, "pregon_attempt_duration_seconds_sum 0.25");
    }
}

#[test]
fn an_attempt_that_was_not_accepted_is_counted_by_its_scope() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let lines = OwnedLines::default();
        let line = lines.begin(&"3001".into());
        let failed = |code| Outcome::Failed {
            pause_after: None,
            cause: Cause::Meta { code: crate::domain::MetaCode(code), details: String::new() },
        };
        line.attempt(&failed(131_026), Duration::ZERO);
        line.attempt(&failed(424_242), Duration::ZERO);
        line.attempt(&Outcome::InDoubt(Cause::Unanswered("time-out".into())), Duration::ZERO);
    });
    let page = recorder.handle().render();
    for series in [
        "pregon_attempt_errors_total{outcome=\"failed\",scope=\"recipient\"} 1",
        "pregon_attempt_errors_total{outcome=\"failed\",scope=\"none\"} 1",
        "pregon_attempt_errors_total{outcome=\"in_doubt\",scope=\"none\"} 1",
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not in:\n{page}");
    }
}

#[test]
fn the_series_of_a_line_end_when_its_runner_ends() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let line = lines.begin(&"3001".into());
    let other = lines.begin(&"3002".into());
    line.attempt(&Outcome::InDoubt(Cause::Unanswered("time-out".into())), Duration::from_secs(1));
    assert_shows(&lines, now, "pregon_lines_owned 2");
    drop(line);
    assert!(!shown(&lines, now).iter().any(|series| series.contains("3001")));
    assert_shows(&lines, now, "pregon_lines_owned 1");
    assert_shows(&lines, now, "pregon_attempt_duration_seconds_count 1");
    drop(other);
    assert!(!shown(&lines, now).iter().any(|series| of_a_line(series)));
}

#[test]
fn the_series_of_a_line_end_with_its_lease_and_its_attempts_still_count() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let line = lines.begin(&"3001".into());
    line.end();
    line.attempt(&Outcome::InDoubt(Cause::Unanswered("time-out".into())), Duration::from_secs(1));
    assert!(!shown(&lines, now).iter().any(|series| of_a_line(series)) && lines.ids().is_empty());
    assert_shows(&lines, now, "pregon_lines_owned 0");
    assert_shows(&lines, now, "pregon_attempt_duration_seconds_count 1");
    drop(line);
    assert_shows(&lines, now, "pregon_attempt_duration_seconds_count 1");
}

#[test]
fn a_line_that_comes_back_keeps_its_new_series() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let before = lines.begin(&"3001".into());
    let after = lines.begin(&"3001".into());
    drop(before);
    assert_shows(&lines, now, "pregon_lines_owned 1");
    drop(after);
    assert_shows(&lines, now, "pregon_lines_owned 0");
}

#[test]
fn a_thousand_lines_make_at_most_15_series_each() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let ids: Vec<LineId> = (0..1_000).map(|n| LineId::from(format!("{n}").as_str())).collect();
    let owned: Vec<LineMetrics> = ids.iter().map(|id| lines.begin(id)).collect();
    let backlog = LineBacklog { waiting: 5, oldest: Some(now), read_at: now };
    lines.set_backlogs(&ids.iter().map(|id| (id.clone(), backlog)).collect());
    let shown = shown(&lines, now);
    assert_eq!(shown.iter().filter(|series| of_a_line(series)).count(), 15 * owned.len());
    assert!(shown.iter().filter(|series| !of_a_line(series)).count() < 30);
}

#[test]
fn a_pause_is_not_a_block_and_a_stopped_line_has_no_rate() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let line = lines.begin(&"3001".into());
    let sends = LineGauges { configured_rate: 80.0, rate: 72.0, in_flight: 3, ..LineGauges::default() };
    line.publish(sends);
    let since = |stop: LineStop| {
        let mut stops = sends.stops;
        stops[stop as usize] = Some(now);
        LineGauges { stops, ..sends }
    };
    let later = now + Duration::from_secs(30);
    for (gauges, rate, held, paused) in [
        (sends, 72, 0, 0),
        (since(LineStop::Paused), 0, 0, 30),
        (since(LineStop::Held), 0, 30, 0),
        (since(LineStop::PathBroken), 0, 30, 0),
        (since(LineStop::Unreachable), 0, 0, 0),
        (since(LineStop::WarmUp), 0, 0, 0),
    ] {
        line.publish(gauges);
        assert_shows(&lines, later, &format!("pregon_line_rate{{line=\"3001\"}} {rate}"));
        assert_shows(&lines, later, "pregon_line_rate_configured{line=\"3001\"} 80");
        assert_shows(&lines, later, &format!("pregon_held_seconds{{line=\"3001\"}} {held}"));
        assert_shows(&lines, later, &format!("pregon_paused_seconds{{line=\"3001\"}} {paused}"));
        let reasons = u64::from(rate == 0);
        let stopped: u64 = LineStop::ALL
            .iter()
            .filter(|stop| {
                shown(&lines, later).contains(&format!("pregon_lines_stopped{{reason=\"{}\"}} 1", stop.label()))
            })
            .count() as u64;
        assert_eq!(stopped, reasons);
    }
}

#[test]
fn a_backlog_that_was_read_long_ago_is_not_shown() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let _line = lines.begin(&"3001".into());
    assert!(!shown(&lines, now).iter().any(|series| series.contains("waiting")), "nothing was read yet");
    let backlog = LineBacklog { waiting: 5, oldest: Some(now), read_at: now };
    lines.set_backlogs(&[("3001".into(), backlog)].into());
    let later = now + AGE_MAX;
    assert_shows(&lines, later, "pregon_line_waiting_messages{line=\"3001\"} 5");
    assert_shows(&lines, later, "pregon_line_oldest_age_seconds{line=\"3001\"} 60");
    assert!(!shown(&lines, later + Duration::from_secs(1)).iter().any(|series| series.contains("waiting")));
}

#[test]
fn the_time_waited_for_the_pace_adds_up() {
    let (lines, now) = (OwnedLines::default(), Instant::now());
    let line = lines.begin(&"3001".into());
    line.paced(Duration::from_millis(12));
    line.paced(Duration::from_millis(13));
    assert_shows(&lines, now, "pregon_paced_seconds_total{line=\"3001\"} 0.025");
}
