use super::*;
use crate::domain::{Cause, ErrorScope};

/// The page of `/metrics` after `work`, with its own recorder.
fn page(work: impl FnOnce()) -> String {
    let recorder = recorder().expect("buckets");
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        describe();
        work();
    });
    handle.render()
}

fn assert_shows(page: &str, line: &str) {
    assert!(page.lines().any(|shown| shown == line), "{line} is not in:\n{page}");
}

#[test]
fn known_series_start_at_zero() {
    let page = page(|| start_at_zero(&["3001".into()]));
    for line in [
        "pregon_attempts_total{line=\"3001\",outcome=\"accepted\"} 0",
        "pregon_attempts_total{line=\"3001\",outcome=\"in_doubt\"} 0",
        "pregon_attempt_duration_seconds_count{line=\"3001\"} 0",
        "pregon_in_flight_attempts{line=\"3001\"} 0",
        "pregon_line_rate{line=\"3001\"} 0",
        "pregon_held_seconds{line=\"3001\"} 0",
        "pregon_lines_owned 0",
        "pregon_queue_messages{state=\"pending\"} 0",
        "pregon_queue_messages{state=\"in_doubt\"} 0",
        "pregon_queue_oldest_age_seconds 0",
        "pregon_webhooks_total{kind=\"statuses\",result=\"taken\"} 0",
        "pregon_statuses_total{status=\"read\",result=\"repeated\"} 0",
        "pregon_api_calls_total{result=\"too_often\"} 0",
        "pregon_http_connections 0",
        "pregon_jobs_total{result=\"dead\"} 0",
        "pregon_recipients_total{result=\"rejected\"} 0",
        "pregon_redis_errors_total 0",
    ] {
        assert_shows(&page, line);
    }
    assert_shows(&page, &format!("pregon_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    assert!(!page.contains("state=\"read\"") && !page.contains("state=\"accepted\""), "{page}");
}

#[test]
fn an_attempt_is_counted_by_its_outcome_and_timed() {
    let cause = || Cause::Unanswered("time-out".into());
    let outcomes = [
        ("accepted", Outcome::Accepted { wamid: "wamid.1".into(), held: false }),
        ("held", Outcome::Accepted { wamid: "wamid.2".into(), held: true }),
        ("throttled", Outcome::Throttled { scope: ErrorScope::Line, wait: UPKEEP, cause: cause() }),
        ("retry", Outcome::Retry { wait: None, cause: cause() }),
        ("in_doubt", Outcome::InDoubt(cause())),
        ("failed", Outcome::Failed { pause_after: None, cause: cause() }),
        ("blocked", Outcome::Blocked { scope: ErrorScope::Token, wait: None, cause: cause() }),
    ];
    for (label, outcome) in outcomes {
        let page = page(|| LineMetrics::new(&"3001".into()).attempt(&outcome, Duration::from_millis(250)));
        assert_shows(&page, &format!("pregon_attempts_total{{line=\"3001\",outcome=\"{label}\"}} 1"));
        let counted = page.lines().filter(|line| line.contains("outcome=") && !line.ends_with(" 0"));
        assert_eq!(counted.count(), 1, "{label}:\n{page}");
        assert_shows(&page, "pregon_attempt_duration_seconds_bucket{line=\"3001\",le=\"0.2\"} 0");
        assert_shows(&page, "pregon_attempt_duration_seconds_bucket{line=\"3001\",le=\"0.3\"} 1");
        assert_shows(&page, "pregon_attempt_duration_seconds_sum{line=\"3001\"} 0.25");
    }
}

#[test]
fn every_series_has_a_help_text() {
    let page = page(|| {
        start_at_zero(&["3001".into()]);
        meta_error(Some(MetaCode(131_026)));
        redis_operation("claim").record(0.0004);
        SubscriberMetrics::new(&"crm".into());
        ForwardMetrics::new("analytics").set_waiting(0);
        QueueMetrics::new().set_messaging_limit(&"1001".into(), 250, 7);
    });
    let named: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(named.len(), 32, "{named:?}");
    for (name, _) in named {
        assert!(name.starts_with("pregon_"), "{name}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no HELP");
    }
}

#[test]
fn a_code_outside_the_table_adds_no_series() {
    let page = page(|| {
        meta_error(Some(MetaCode(131_026)));
        meta_error(Some(MetaCode(424_242)));
        meta_error(None);
    });
    assert_shows(&page, "pregon_meta_errors_total{code=\"131026\"} 1");
    assert_shows(&page, "pregon_meta_errors_total{code=\"other\"} 2");
    assert!(!page.contains("42424"), "{page}");
}

#[test]
fn the_series_of_a_subscriber_start_at_zero_and_are_reset() {
    let page = page(|| {
        let metrics = SubscriberMetrics::new(&"crm".into());
        metrics.delivery(DeliveryResult::Timeout);
        let reset = metrics.reset_at_end();
        metrics.set_lag(UPKEEP);
        metrics.set_disabled(true);
        drop(reset);
    });
    for line in [
        "pregon_deliveries_total{subscriber=\"crm\",result=\"delivered\"} 0",
        "pregon_deliveries_total{subscriber=\"crm\",result=\"timeout\"} 1",
        "pregon_delivery_lag_seconds{subscriber=\"crm\"} 0",
        "pregon_subscriber_disabled{subscriber=\"crm\"} 0",
    ] {
        assert_shows(&page, line);
    }
}

#[test]
fn the_queue_shows_each_open_state() {
    let page = page(|| QueueMetrics::new().set(|state| u64::from(state.code()) * 10));
    for (state, n) in [("pending", 10), ("retrying", 20), ("in_flight", 30), ("in_doubt", 40)] {
        assert_shows(&page, &format!("pregon_queue_messages{{state=\"{state}\"}} {n}"));
    }
}
