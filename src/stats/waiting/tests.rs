use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::{
    domain::{MetaCode, SendWindow, Template, campaign::PauseReason, line::tests::line},
    redis::{pages::Schedule, phone_index::IndexedBy, places::Places},
    rules::{
        contact_hours::{ContactHours, ContactRule, Numbers},
        hours::{Holidays, Hours},
        windows::Windows,
    },
    stats::{
        line::{
            LineSnapshot,
            tests::{hold, sending},
        },
        share::LineShare,
    },
};

const NOW: UnixMs = UnixMs(1_000_000);
const LATER: UnixMs = UnixMs(1_060_000);

fn record(state: CampaignState) -> CampaignRecord {
    let template: Template = serde_json::from_value(serde_json::json!({
        "name": "spring", "language": "es_AR", "status": "APPROVED", "category": "MARKETING", "components": []
    }))
    .expect("a template");
    let id = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    let lines = vec!["3001".into(), "3002".into()];
    let campaign = Campaign { start_at: Some(LATER), ..Campaign::new(id, "spring", template, lines, UnixMs(0)) };
    CampaignRecord {
        campaign,
        state,
        version: 1,
        changes: 0,
        applied: 1,
        reason: None,
        changed_at: UnixMs(0),
        started_at: None,
        ended_at: None,
        parts: Vec::new(),
        zones: HashMap::new(),
        numbers: 1,
        buckets: 1,
        indexed_by: IndexedBy::Person,
        grouping: 0,
        forgotten: false,
        retry: None,
    }
}

fn work(line: &str, pending: u64, retrying: u64, now: LineSnapshot) -> LineWork {
    LineWork {
        line: line.into(),
        pending,
        retrying,
        schedule: Schedule::default(),
        sends_in_grace_period: false,
        now,
        others: Vec::new(),
        windows: Vec::new(),
    }
}

/// The reason, line, end and code of each thing that a campaign waits for.
type Found = Vec<(WaitReason, Option<String>, Option<UnixMs>, Option<MetaCode>)>;

fn found(record: &CampaignRecord, holds: &[(HoldScope, Hold)], lines: &[LineWork]) -> Found {
    let stops = Stops { holds: holds.iter().cloned().collect(), ..Stops::default() };
    let waiting = waiting_for(record, Some(&line("3001", "2001")), &stops, lines, NOW);
    assert!(waiting.iter().all(|waiting| !waiting.text.is_empty()), "{waiting:?}");
    let short =
        |waiting: Waiting| (waiting.reason, waiting.line.map(|line| line.to_string()), waiting.until, waiting.code);
    waiting.into_iter().map(short).collect()
}

fn on_line(work: LineWork) -> (WaitReason, Option<UnixMs>, Option<MetaCode>) {
    let found = found(&record(CampaignState::Running), &[], &[work]);
    let [(reason, Some(line), until, code)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(line, "3001");
    (*reason, *until, *code)
}

#[test]
fn a_campaign_that_is_not_running_has_at_most_one_reason() {
    let lines = [work("3001", 5, 0, sending(72.0))];
    for state in [CampaignState::Draft, CampaignState::Completed, CampaignState::Cancelled] {
        assert_eq!(found(&record(state), &[], &lines), [], "{state}");
    }
    let scheduled = found(&record(CampaignState::Scheduled), &[], &lines);
    assert_eq!(scheduled, [(WaitReason::Schedule, None, Some(LATER), None)]);
    let mut paused = record(CampaignState::Paused);
    assert_eq!(found(&paused, &[], &lines), [(WaitReason::Paused, None, None, None)]);
    paused.reason = Some(PauseReason { code: Some(MetaCode(132_000)), details: "parameters do not match".into() });
    assert_eq!(found(&paused, &[], &lines), [(WaitReason::Paused, None, None, Some(MetaCode(132_000)))]);
}

#[test]
fn a_forecast_waits_for_the_start_and_for_what_stops_it_then() {
    let reasons = |record: &CampaignRecord, lines: &[LineWork], now| {
        let waiting = would_wait_for(record, None, &Stops::default(), lines, now);
        waiting.into_iter().map(|waiting| (waiting.reason, waiting.until, waiting.since)).collect::<Vec<_>>()
    };
    let (runs, unserved) = (work("3001", 5, 0, sending(72.0)), work("3002", 5, 0, LineSnapshot::default()));
    let (draft, scheduled) = (record(CampaignState::Draft), record(CampaignState::Scheduled));
    let lines = [runs, unserved];
    let no_worker = (WaitReason::NoWorker, None, None);
    assert_eq!(reasons(&draft, &lines, NOW), [(WaitReason::Schedule, Some(LATER), None), no_worker]);
    let since = Some(scheduled.changed_at);
    assert_eq!(reasons(&scheduled, &lines, NOW), [(WaitReason::Schedule, Some(LATER), since), no_worker]);
    let started = reasons(&draft, &lines, LATER);
    assert_eq!(started.iter().map(|found| found.0).collect::<Vec<_>>(), [WaitReason::LineRate, WaitReason::NoWorker]);
}

#[test]
fn campaign_wide_holds_hide_the_reasons_of_lines() {
    let template = HoldScope::of_template(&"2001".into(), "spring", &"es_AR".into());
    let other = HoldScope::of_template(&"2001".into(), "autumn", &"es_AR".into());
    let lines = [work("3001", 5, 0, sending(72.0))];
    let running = record(CampaignState::Running);
    let holds = [
        (template, hold(Some(132_015), Some(LATER))),
        (HoldScope::Token("2001".into()), hold(Some(190), None)),
        (HoldScope::Waba("2001".into()), hold(None, None)),
        (other.clone(), hold(Some(132_015), None)),
        (HoldScope::Token("2002".into()), hold(Some(190), None)),
    ];
    let expected = [
        (WaitReason::TemplatePaused, None, Some(LATER), Some(MetaCode(132_015))),
        (WaitReason::Token, None, None, Some(MetaCode(190))),
        (WaitReason::LineBlocked, None, None, None),
    ];
    assert_eq!(found(&running, &holds, &lines), expected);
    let line_rate = (WaitReason::LineRate, Some("3001".to_owned()), None, None);
    assert_eq!(found(&running, &[(other, hold(Some(132_015), None))], &lines), [line_rate], "another template");
}

#[test]
fn a_spent_messaging_limit_stops_the_campaign_until_a_place_frees() {
    let lines = [work("3001", 5, 0, sending(72.0))];
    let spent_places = Places { used: 250, left: 0, frees_at: Some(LATER), spent_since: Some(NOW) };
    let spent = |business: &str| Stops {
        limited: [(business.into(), LimitedPlaces { limit: 250, places: spent_places })].into(),
        ..Stops::default()
    };
    let found = |stops: &Stops| {
        let waiting = waiting_for(&record(CampaignState::Running), Some(&line("3001", "2001")), stops, &lines, NOW);
        waiting.into_iter().map(|waiting| (waiting.reason, waiting.until, waiting.line.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(found(&spent("1001")), [(WaitReason::PortfolioLimit, Some(LATER), false)]);
    assert_eq!(found(&spent("1002")), [(WaitReason::LineRate, None, true)], "of another business");
    let unknown = LineSnapshot { limit_unknown: true, ..sending(72.0) };
    assert_eq!(on_line(work("3001", 5, 0, unknown)), (WaitReason::PortfolioLimit, None, None));
}

#[test]
fn a_closed_window_stops_the_campaign_until_it_opens() {
    // The window opens at 00:30 UTC. The time is 00:16:40.
    let window = |from: &str| {
        let window = json!({ "from": from, "to": "20:00", "zone": "UTC" });
        serde_json::from_value::<SendWindow>(window).expect("a window")
    };
    let mut running = record(CampaignState::Running);
    running.campaign.send_window = Some(window("00:30"));
    let windows = |from| vec![Some(Windows::new(&window(from), ["UTC"]).expect("a zone"))];
    let closed = LineWork { windows: windows("00:30"), ..work("3001", 5, 0, sending(72.0)) };
    let open = LineWork { windows: windows("00:15"), ..work("3002", 5, 0, sending(72.0)) };
    let until = Some(UnixMs(30 * 60_000));
    assert_eq!(found(&running, &[], std::slice::from_ref(&closed)), [(WaitReason::SendWindow, None, until, None)]);
    let expected = [
        (WaitReason::SendWindow, Some("3001".to_owned()), until, None),
        (WaitReason::LineRate, Some("3002".to_owned()), None, None),
    ];
    assert_eq!(found(&running, &[], &[closed, open]), expected);
}

#[test]
fn contact_hours_are_named_until_they_open() {
    // The contact hours begin at 00:30 UTC. The time is 00:16:40.
    let hours = Hours::new([Some((30, 1_440)); 7], Holidays::new());
    let rule =
        ContactRule { name: "co".into(), numbers: vec![Numbers::Others], hours: hours.into(), holidays_until: None };
    let hours = ContactHours::new(vec![rule]);
    let windows = |group: &str| Windows::of_part(None, Some(group), Some(&hours)).expect("a zone");
    let on_line = |windows: &[Option<Windows>]| {
        let work = LineWork { windows: windows.to_vec(), ..work("3001", 5, 0, sending(72.0)) };
        waiting_for(&record(CampaignState::Running), None, &Stops::default(), &[work], NOW).remove(0)
    };
    let closed = on_line(&[windows("co|Etc/UTC"), windows("mx|Etc/UTC")]);
    assert_eq!((closed.reason, closed.until, closed.line), (WaitReason::ContactHours, Some(UnixMs(30 * 60_000)), None));
    assert_eq!(closed.text, "marketing leaves only in the contact hours co");
    let unknown = on_line(&[windows("mx|Etc/UTC")]);
    assert_eq!((unknown.reason, unknown.until), (WaitReason::ContactHours, None));
    assert!(unknown.text.contains("mx, which are not in the configuration"), "{}", unknown.text);
    let several = on_line(&[windows("mx|Etc/UTC"), windows("ar|Etc/UTC"), windows("mx|Etc/GMT+6")]);
    assert!(several.text.contains("hours ar, mx, which are not in the configuration"), "{}", several.text);
    let partly = on_line(&[windows("co|Etc/UTC"), None]);
    assert_eq!(partly.reason, WaitReason::LineRate, "some of its messages leave at all hours");
}

#[test]
fn each_line_with_work_has_one_reason() {
    assert_eq!(on_line(work("3001", 5, 0, sending(72.0))), (WaitReason::LineRate, None, None));
    let mut own_rate = record(CampaignState::Running);
    own_rate.campaign.rate = Some(20.0);
    let own = waiting_for(&own_rate, None, &Stops::default(), &[work("3001", 5, 0, sending(72.0))], NOW);
    assert_eq!(own[0].reason, WaitReason::CampaignRate);
    assert_eq!(own[0].text, "the campaign sends at most 10 a second on line 3001", "half of it on each of two lines");
    own_rate.campaign.rate = Some(200.0);
    assert_eq!(found(&own_rate, &[], &[work("3001", 5, 0, sending(72.0))])[0].0, WaitReason::LineRate);
    let mut paused = sending(72.0);
    paused.control.paused = true;
    assert_eq!(on_line(work("3001", 5, 0, paused)), (WaitReason::Paused, None, None));
    let held = LineSnapshot {
        holds: vec![(HoldScope::Line("3001".into()), hold(Some(131_031), Some(LATER)))],
        ..sending(72.0)
    };
    assert_eq!(on_line(work("3001", 5, 0, held)), (WaitReason::LineBlocked, Some(LATER), Some(MetaCode(131_031))));
    assert_eq!(on_line(work("3001", 5, 0, LineSnapshot::default())), (WaitReason::NoWorker, None, None));
    let mut unreachable = sending(72.0);
    let report = unreachable.report.as_mut().expect("a report");
    (report.unreachable, report.unreachable_because) = (true, Some("connection refused".to_owned()));
    assert_eq!(on_line(work("3001", 0, 5, unreachable.clone())), (WaitReason::BackingOff, None, None));
    let mut broken = sending(72.0);
    broken.report.as_mut().expect("a report").path_broken = Some("HTTP 503 with 312 bytes".to_owned());
    assert_eq!(on_line(work("3001", 5, 0, broken.clone())), (WaitReason::PathBroken, None, None));
    let mut warming_up = sending(72.0);
    warming_up.report.as_mut().expect("a report").warm_up_until = Some(LATER);
    assert_eq!(on_line(work("3001", 5, 0, warming_up)), (WaitReason::WarmUp, Some(LATER), None));
    for (now, expected) in [
        (unreachable, "Meta can't be reached: connection refused"),
        (broken, "the path to Meta is broken: HTTP 503 with 312 bytes"),
    ] {
        let lines = [work("3001", 5, 0, now)];
        let waits = waiting_for(&record(CampaignState::Running), None, &Stops::default(), &lines, NOW);
        assert_eq!(waits[0].text, expected);
    }

    let lines = [
        work("3001", 5, 0, sending(72.0)),
        work("3002", 0, 0, LineSnapshot::default()),
        work("3003", 1, 0, LineSnapshot::default()),
    ];
    let waits: Vec<_> = found(&record(CampaignState::Running), &[], &lines).into_iter().map(|found| found.1).collect();
    assert_eq!(waits, [Some("3001".to_owned()), Some("3003".to_owned())], "a line without work waits for nothing");
}

#[test]
fn a_line_without_a_worker_has_the_remedy_that_fits() {
    let waiting = |now: LineSnapshot| {
        let work = work("3001", 5, 0, now);
        let waiting = waiting_for(&record(CampaignState::Running), None, &Stops::default(), &[work], NOW).remove(0);
        (waiting.reason, waiting.until, waiting.text)
    };
    let unserved = LineSnapshot::default();
    assert_eq!(waiting(unserved.clone()), (WaitReason::NoWorker, None, "no worker serves line 3001".into()));
    let (reason, until, text) = waiting(LineSnapshot { unlisted: true, ..unserved });
    assert_eq!((reason, until), (WaitReason::LineUnlisted, None));
    assert!(text.starts_with("no process lists line 3001: list the line again"), "{text}");
    let silence = Some(Silence { since: NOW, until: LATER });
    let (reason, until, text) = waiting(LineSnapshot { silence, ..sending(72.0) });
    assert_eq!((reason, until), (WaitReason::NoWorker, Some(LATER)));
    assert!(text.contains("another worker takes the line over"), "{text}");
}

#[test]
fn a_line_at_its_rate_says_how_many_campaigns_share_it() {
    let waiting = |others: &[u64], throttled: bool| {
        let others = others.iter().map(|work| LineShare { work: *work, weight: 5 }).collect();
        let mut work = LineWork { others, ..work("3001", 5, 0, sending(72.0)) };
        work.now.report.as_mut().expect("a report").throttled = throttled;
        let waiting = waiting_for(&record(CampaignState::Running), None, &Stops::default(), &[work], NOW).remove(0);
        (waiting.other_campaigns, waiting.text)
    };
    let alone = "line 3001 may send 72 a second";
    assert_eq!(waiting(&[], false), (None, alone.into()));
    assert_eq!(waiting(&[0], false), (None, alone.into()), "the other campaign has nothing left to send");
    assert_eq!(
        waiting(&[9, 0], false),
        (Some(1), format!("{alone}, which this campaign shares with another campaign"))
    );
    assert_eq!(
        waiting(&[9, 9], false),
        (Some(2), format!("{alone}, which this campaign shares with 2 other campaigns"))
    );
    let (others, text) = waiting(&[9], true);
    assert_eq!(
        (others, text.ends_with("a second now, which this campaign shares with another campaign")),
        (Some(1), true)
    );
}

#[test]
fn work_that_is_not_due_waits_for_its_time() {
    let later = |rows| Schedule { rows, next_due: Some(LATER), last_due: Some(LATER) };
    let backing_off = LineWork { schedule: later(5), ..work("3001", 0, 5, sending(72.0)) };
    assert_eq!(on_line(backing_off.clone()), (WaitReason::BackingOff, Some(LATER), None));
    let spaced = LineWork { schedule: later(5), ..work("3001", 5, 0, sending(72.0)) };
    assert_eq!(on_line(spaced.clone()), (WaitReason::PairSpacing, Some(LATER), None));
    let fresh = LineWork { schedule: later(5), ..work("3001", 1, 5, sending(72.0)) };
    assert_eq!(on_line(fresh).0, WaitReason::LineRate, "one was not attempted yet");
    let due = LineWork { schedule: Schedule { rows: 5, next_due: Some(NOW), last_due: Some(LATER) }, ..backing_off };
    assert_eq!(on_line(due).0, WaitReason::LineRate, "one is due");
    let mut throttled = spaced;
    throttled.now.report.as_mut().expect("a report").throttled = true;
    assert_eq!(on_line(throttled).0, WaitReason::Throttled, "the whole line is throttled");
}

#[test]
fn a_line_waits_for_a_worker_with_the_features() {
    let mut newer = record(CampaignState::Running);
    newer.campaign.requires = vec!["quiet_hours".into(), "quotas".into()];
    let mut line = work("3001", 5, 0, sending(72.0));
    assert_eq!(found(&newer, &[], &[line.clone()])[0].0, WaitReason::NewerRelease);
    line.now.report.as_mut().expect("a report").features = newer.campaign.requires.clone();
    assert_eq!(found(&newer, &[], &[line.clone()])[0].0, WaitReason::LineRate);
    line.now.control.paused = true;
    line.now.report.as_mut().expect("a report").features.pop();
    assert_eq!(found(&newer, &[], &[line])[0].0, WaitReason::Paused, "a newer release would not send either");
}

#[test]
fn what_is_not_sent_after_a_restart_of_redis_waits_for_it() {
    let period = GracePeriod { since: UnixMs(NOW.0 - 1_000), until: LATER };
    let limited =
        LimitedPlaces { limit: 250, places: Places { used: 0, left: 250, frees_at: None, spent_since: None } };
    let stops = |limited: Option<LimitedPlaces>| Stops {
        grace_period: Some(period),
        limited: limited.map(|limited| ("1001".into(), limited)).into_iter().collect(),
        ..Stops::default()
    };
    let found = |record: &CampaignRecord, stops: &Stops, work: &LineWork, now| {
        let waiting =
            waiting_for(record, Some(&line("3001", "2001")), stops, std::slice::from_ref(work), now).remove(0);
        (waiting.reason, waiting.until, waiting.line.is_some())
    };
    let (campaign_wide, of_line) =
        ((WaitReason::RedisRestarted, Some(LATER), false), (WaitReason::RedisRestarted, Some(LATER), true));
    let unclaimed = LineWork { sends_in_grace_period: true, ..work("3001", 5, 0, sending(72.0)) };
    let marketing = record(CampaignState::Running);
    let mut utility = marketing.clone();
    utility.campaign.template.category = Category::Utility;
    assert_eq!(found(&marketing, &stops(None), &unclaimed, NOW), campaign_wide);
    assert_eq!(found(&marketing, &stops(None), &unclaimed, LATER).0, WaitReason::LineRate, "the grace period is over");
    assert_eq!(found(&utility, &stops(None), &unclaimed, NOW).0, WaitReason::LineRate);
    assert_eq!(found(&utility, &stops(Some(limited)), &unclaimed, NOW), campaign_wide);
    assert_eq!(
        found(&utility, &stops(None), &work("3001", 0, 5, sending(72.0)), NOW),
        of_line,
        "only retries are left"
    );
    let paused = LineWork { now: LineSnapshot::default(), ..unclaimed };
    assert_eq!(found(&utility, &stops(None), &paused, NOW).0, WaitReason::NoWorker);
}

#[test]
fn reasons_have_the_names_of_the_contract() {
    let waiting = Waiting { line: Some("3001".into()), ..Waiting::new(WaitReason::LineRate, "as fast as it may") };
    let json = serde_json::to_value(waiting).expect("an object");
    assert_eq!(json, serde_json::json!({ "reason": "line_rate", "line": "3001", "text": "as fast as it may" }));
    let names = [
        (WaitReason::Schedule, "schedule"),
        (WaitReason::Paused, "paused"),
        (WaitReason::WarmUp, "warm_up"),
        (WaitReason::PairSpacing, "pair_spacing"),
        (WaitReason::BackingOff, "backing_off"),
        (WaitReason::PathBroken, "path_broken"),
        (WaitReason::TemplatePaused, "template_paused"),
        (WaitReason::LineBlocked, "line_blocked"),
        (WaitReason::Token, "token"),
        (WaitReason::NoWorker, "no_worker"),
        (WaitReason::LineUnlisted, "line_unlisted"),
        (WaitReason::NewerRelease, "newer_release"),
        (WaitReason::Redis, "redis"),
        (WaitReason::RedisRestarted, "redis_restarted"),
        (WaitReason::RedisFull, "redis_full"),
        (WaitReason::Throttled, "throttled"),
    ];
    for (reason, name) in names {
        assert_eq!(serde_json::to_value(reason).expect("a string"), name);
    }
}

#[test]
fn a_pause_of_everything_stops_a_campaign_without_a_configured_line() {
    let pauses = [PauseScope::Installation, PauseScope::Business("1001".into())];
    let pauses = pauses.into_iter().map(|scope| Pause { scope, since: UnixMs(0) }).collect();
    let stops = Stops { pauses, ..Stops::default() };
    let waits = |line: Option<&Line>| {
        let record = record(CampaignState::Running);
        let waiting = waiting_for(&record, line, &stops, &[work("3001", 5, 0, sending(72.0))], NOW);
        waiting.into_iter().map(|waiting| (waiting.reason, waiting.line)).collect::<Vec<_>>()
    };
    let all = (WaitReason::AllPaused, None);
    assert_eq!(waits(Some(&line("3001", "2001"))), [all.clone(), all.clone()]);
    assert_eq!(waits(None), [all]);
}
