use std::time::Instant;

use super::{series::Series, *};
use crate::{
    domain::{Hold, HoldScope, LineId},
    telemetry::health::Health,
};

/// The page of `/metrics` after `work`, with its own recorder.
fn page(work: impl FnOnce()) -> String {
    let recorder = recorder().expect("buckets");
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        series::describe();
        work();
    });
    handle.render()
}

fn assert_shows(page: &str, line: &str) {
    assert!(page.lines().any(|shown| shown == line), "{line} is not in:\n{page}");
}

/// The whole page of a process that serves `lines`, reads their chats, and has the duty of housekeeping.
fn whole_page(lines: u32) -> String {
    let recorder = recorder().expect("buckets");
    let (owned, housekeeping) = (OwnedLines::default(), HousekeepingMetrics::default());
    let ids: Vec<LineId> = (0..lines).map(|n| LineId::from(format!("{}", 3_000 + n).as_str())).collect();
    let _series: Vec<LineMetrics> = ids.iter().map(|id| owned.begin(id)).collect();
    let of_lines = ids.iter().flat_map(|id| [chat_inbound_age(id), chat_replies_age(id)]);
    let chats: Vec<DutyGauge> = of_lines.chain([contact_statistics_age(0)]).collect();
    chats.iter().for_each(|age| age.set(0.0));
    let backlog = LineBacklog { waiting: 5, oldest: None, read_at: Instant::now() };
    owned.set_backlogs(&ids.into_iter().map(|id| (id, backlog)).collect());
    let mut read = InstallationGauges {
        messaging_limits: vec![("1001".into(), 250, 7)],
        redis_memory: Some((60, 100)),
        redis_risks: vec![("evicts", false)],
        ..InstallationGauges::default()
    };
    read.set_queue(|_| 0);
    let hold = Hold { code: None, reason: String::new(), since: UnixMs(0), until: None };
    read.set_holds([(&HoldScope::Platform, &hold)].into_iter());
    housekeeping.publish(read);
    housekeeping.publish_unlisted(0);
    let health = Health::starting(&[]);
    health.set_stops_by(Instant::now());
    let _duties = metrics::with_local_recorder(&recorder, || {
        series::describe();
        start_at_zero();
        // Every code that there may be.
        (0..200_000).for_each(|code| meta_error(Some(MetaCode(code))));
        webhook_taken(UnixMs(1_780_000_000_000));
        database(true, 3, 1);
        config_loaded(UnixMs(1_780_000_000_000));
        ForwardMetrics::new("analytics").set_waiting(0);
        let lags: Vec<DutyGauge> = (0..64).map(feed_lag).collect();
        lags.iter().for_each(|lag| lag.set(0.0));
        let subscriber = SubscriberMetrics::new(&"crm".into());
        subscriber.set_lag(Duration::ZERO);
        (lags, subscriber)
    });
    MetricsPage { recorder: recorder.handle(), lines: owned, housekeeping, health }.render()
}

fn samples(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

#[test]
fn known_series_start_at_zero() {
    let page = page(start_at_zero);
    for line in [
        "pregon_attempt_errors_total{outcome=\"throttled\",scope=\"line\"} 0",
        "pregon_webhooks_total{kind=\"statuses\",result=\"taken\"} 0",
        "pregon_statuses_total{status=\"read\",result=\"repeated\"} 0",
        "pregon_api_calls_total{result=\"too_often\"} 0",
        "pregon_http_connections 0",
        "pregon_jobs_total{result=\"dead\"} 0",
        "pregon_leases_total{event=\"lost\"} 0",
        "pregon_doubts_ended_total{result=\"unknown\"} 0",
        "pregon_recounts_total{result=\"different\"} 0",
        "pregon_recipients_total{result=\"rejected\"} 0",
        "pregon_redis_errors_total 0",
        "pregon_redis_operation_duration_seconds_count{operation=\"claim\"} 0",
    ] {
        assert_shows(&page, line);
    }
    assert_shows(&page, &format!("pregon_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_thousand_lines_stay_within_the_bounds_of_series() {
    let page = whole_page(1_000);
    let of_lines = || samples(&page).filter(|sample| sample.contains("line=\""));
    let of_chats = of_lines().filter(|sample| sample.starts_with("pregon_chat_")).count();
    let others = samples(&page).count() - of_lines().count();
    assert!(of_lines().count() - of_chats <= 15 * 1_000, "of lines that it serves: {}", of_lines().count() - of_chats);
    assert!(of_chats <= 2 * 1_000, "of lines whose chats it reads: {of_chats}");
    assert!(others <= 3_000, "{others}");
}

#[test]
fn a_page_shows_every_series_once_with_its_type_and_help() {
    let page = whole_page(2);
    for series in series::ALL {
        let of = |start: &str| page.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(of(&format!("# TYPE {} {}", series.name, series.kind.name())), 1, "{}:\n{page}", series.name);
        assert_eq!(of(&format!("# HELP {} {}", series.name, series.help)), 1, "{}", series.name);
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("# TYPE ")).count(), series::ALL.len());
    let mut names: Vec<&str> =
        samples(&page).filter_map(|sample| sample.rsplit_once(' ')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert!(names.is_sorted_by(|one, next| one < next), "a series is twice on the page");
}

#[test]
fn series_have_the_labels_that_the_table_lists() {
    let page = whole_page(1);
    for sample in samples(&page) {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let name = name.split(' ').next().unwrap_or(name);
        let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        let is_known = |name: &str| series::ALL.iter().any(|series| series.name == name);
        let series = Series::named(of_histogram.filter(|name| is_known(name)).unwrap_or(name));
        let shown: Vec<&str> = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once("=\"")?.0))
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(shown, series.labels, "{sample}");
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
fn the_lag_of_a_disabled_subscriber_is_unknown() {
    let recorder = recorder().expect("buckets");
    let metrics = metrics::with_local_recorder(&recorder, || SubscriberMetrics::new(&"erp".into()));
    metrics.delivery(DeliveryResult::Timeout);
    let page = || {
        let (lines, housekeeping) = (OwnedLines::default(), HousekeepingMetrics::default());
        MetricsPage { recorder: recorder.handle(), lines, housekeeping, health: Health::starting(&[]) }.render()
    };
    let of_erp = |page: &str| -> Vec<String> {
        samples(page).filter(|sample| sample.contains("{subscriber=\"erp\"}")).map(str::to_owned).collect()
    };
    let duty = metrics.hide_at_end();
    metrics.set_lag(Duration::from_secs(3));
    let shown = of_erp(&page());
    assert_eq!(
        shown,
        ["pregon_delivery_lag_seconds{subscriber=\"erp\"} 3", "pregon_subscriber_disabled{subscriber=\"erp\"} 0"]
    );
    metrics.set_disabled();
    assert_eq!(of_erp(&page()), ["pregon_subscriber_disabled{subscriber=\"erp\"} 1"]);
    drop(duty);
    let page = page();
    assert!(of_erp(&page).is_empty(), "{page}");
    assert_shows(&page, "pregon_deliveries_total{subscriber=\"erp\",result=\"delivered\"} 0");
    assert_shows(&page, "pregon_deliveries_total{subscriber=\"erp\",result=\"timeout\"} 1");
}
