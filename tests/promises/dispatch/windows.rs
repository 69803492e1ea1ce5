//! Send windows, obeyed by real workers.

use std::time::Duration;

use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignId, CampaignState, Day, Live, OnDoubt, SendWindow, State, UnixMs, template::Category},
    redis::Store,
    rules::contact_hours::ContactHours,
};
use serde_json::{Value, json};

use crate::support::{
    hostile::{AcceptAll, Meta},
    intake::{self, new_campaign, row},
    redis::TestRedis,
    seed,
    server::Installation,
    until,
    world::{self, TestWorker, address, line, settings},
};

/// A window of all hours of some days, by UTC.
fn on(days: &[Day]) -> SendWindow {
    serde_json::from_value(json!({ "from": "00:00", "to": "24:00", "days": days, "zone": "UTC" })).expect("a window")
}

/// A window that is closed at `now` and stays so for at least a day.
fn closed(now: UnixMs) -> SendWindow {
    on(&[day_after_next(now)])
}

/// A day that begins at least a day after `now` in every time zone, and ends within a week.
fn day_after_next(now: UnixMs) -> Day {
    // The first of January 1970 was a Thursday.
    let today = (now.0 / 86_400_000 + 3) % 7;
    Day::ALL[(today as usize + 3) % 7]
}

/// Contact hours of numbers that begin with 57, which are closed at `now` and stay so for at least a day.
fn closed_hours(now: UnixMs) -> ContactHours {
    world::contact_hours("57", &format!("{} = \"00:00-24:00\"", day_after_next(now).name()))
}

/// Launches a campaign to 20 numbers of Colombia and 20 of Argentina.
async fn two_countries(stored: &intake::World, category: Category) -> CampaignId {
    let recipients: Vec<Value> = (0..20).flat_map(|n| [row(573_001_230_000 + n), row(5_491_155_550_000 + n)]).collect();
    let new = json!({ "lines": ["3001"], "recipients": recipients });
    let id = stored.intake.submit(new_campaign("order_update/es_AR", new)).await.expect("accepted").id;
    stored.intake.store.set_category(id, &category).await.expect("redis");
    world::launch(&stored.intake.store, id).await;
    id
}

async fn set_window(store: &Store, id: CampaignId, send_window: Option<SendWindow>) {
    world::amend(store, id, |campaign| campaign.send_window = send_window).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_while_the_window_is_closed() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let now = store.time().await.expect("redis");
    let waits = world::campaign(&store, &["3001"], 30, OnDoubt::Hold).await;
    set_window(&store, waits, Some(closed(now))).await;
    world::launch(&store, waits).await;
    let open = world::campaign(&store, &["3001"], 30, OnDoubt::Hold).await;
    set_window(&store, open, Some(on(&Day::ALL))).await;
    world::launch(&store, open).await;

    let installation = Installation::new(&redis, &meta.url(), &[("3001", 200.0)], "");
    let serving = installation.serve("w1", "api,dispatch").await;
    world::wait_for_state(&store, open, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 30, "only the campaign whose window is open");
    assert_eq!(world::count(&store, waits, State::Pending).await, 30);
    let mut statistics = Value::Null;
    until("it is known when the last message leaves", async || {
        statistics = serving.api().get(&format!("campaigns/{waits}")).await["statistics"].take();
        statistics["eta"].is_string()
    })
    .await;
    let waiting = &statistics["waiting_for"];
    assert_eq!((&waiting[0]["reason"], waiting.as_array().map(Vec::len)), (&json!("send_window"), Some(1)));
    let opens = waiting[0]["until"].as_str();
    assert!(opens.is_some() && statistics["eta"].as_str() > opens, "{statistics}");

    set_window(&store, waits, None).await;
    world::wait_for_state(&store, waits, CampaignState::Completed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_by_recipients_opens_for_each_zone_by_itself() {
    let stored = intake::World::start().await;
    let (redis, intake) = (&stored.redis, &stored.intake);
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let now = intake.clock.now();
    // Colombia is 5 hours behind UTC, India 5½ ahead. The window is open from one hour before to one hour after the
    // present time in Colombia or, if that is close to midnight, in India. In Japan or Hawaii, respectively, it is
    // closed: the clocks there differ by more than eight hours.
    let minute = |minutes_ahead: u64| (now.0 / 60_000 + minutes_ahead) % 1_440;
    let colombia = minute(1_440 - 300);
    let (here, open, closed) = match (60..1_380).contains(&colombia) {
        true => (colombia, 573_001_230_000, 819_012_340_000),
        false => (minute(330), 919_812_340_000, 18_081_230_000),
    };
    let time = |minutes: u64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let window = json!({ "from": time(here - 60), "to": time(here + 60), "zone": "recipient" });
    let recipients: Vec<Value> = (0..20).flat_map(|n| [row(open + n), row(closed + n)]).collect();
    let new = json!({ "lines": ["3001"], "send_window": window, "recipients": recipients, "launch": true });
    let id = intake.submit(new_campaign("order_update/es_AR", new)).await.expect("accepted").id;

    let worker = TestWorker::start("w1", redis, &meta.url(), &[line("3001", 200.0)], settings()).await;
    until("the open zone has its messages", async || world::count(&intake.store, id, State::Accepted).await == 20)
        .await;
    let other = world::campaign(&intake.store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&intake.store, other).await;
    world::wait_for_state(&intake.store, other, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 21);
    let is_open = |to: &str| to.trim_start_matches('+').starts_with(&open.to_string()[..6]);
    assert_eq!(meta.arrivals().iter().filter(|arrival| is_open(&arrival.to)).count(), 20);
    assert_eq!(world::count(&intake.store, id, State::Pending).await, 20);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_when_the_window_closes_goes_back_with_its_attempt() {
    const RECIPIENTS: u64 = 2_000;
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(20) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let now = store.time().await.expect("redis");
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 400.0)], settings()).await;
    let id = world::campaign(&store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
    set_window(&store, id, Some(on(&Day::ALL))).await;
    world::launch(&store, id).await;
    until("messages are sent", async || meta.requests() > 100).await;

    set_window(&store, id, Some(closed(now))).await;
    // Another campaign, as a signal that the line has read the new window.
    let other = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&store, other).await;
    world::wait_for_state(&store, other, CampaignState::Completed).await;
    until("nothing is in flight", async || world::count(&store, id, State::InFlight).await == 0).await;
    let sent = meta.requests() as u64 - 1;
    assert!(sent < RECIPIENTS, "{sent}");
    assert_eq!(world::count(&store, id, State::Accepted).await, sent);
    assert_eq!(world::count(&store, id, State::Pending).await, RECIPIENTS - sent);
    let record = store.campaign(id).await.expect("redis").expect("it");
    let rows = store.part_rows(record.parts[0].0).await.expect("rows");
    assert!(rows.tries.is_empty(), "no attempt is used up: {:?}", rows.tries);

    set_window(&store, id, Some(on(&Day::ALL))).await;
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(meta.requests() as u64, RECIPIENTS + 1, "nobody got two messages");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_marketing_waits_for_contact_hours() {
    let mut stored = intake::World::start().await;
    let hours = closed_hours(stored.intake.clock.now());
    stored.intake.contact_hours = hours.clone().into();
    let (redis, store) = (&stored.redis, stored.intake.store.clone());
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let marketing = two_countries(&stored, Category::Marketing).await;
    let utility = two_countries(&stored, Category::Utility).await;

    let with_hours = DispatchSettings { contact_hours: hours.into(), ..settings() };
    let worker = TestWorker::start("w1", redis, &meta.url(), &[line("3001", 200.0)], with_hours).await;
    world::wait_for_state(&store, utility, CampaignState::Completed).await;
    until("Argentina has its messages", async || world::count(&store, marketing, State::Accepted).await == 20).await;
    assert_eq!(meta.requests(), 60);
    assert_eq!(world::count(&store, marketing, State::Pending).await, 20);
    let record = store.campaign(marketing).await.expect("redis").expect("it");
    for (part, _) in &record.parts {
        let rows = store.part_rows(*part).await.expect("rows");
        assert!(rows.tries.is_empty(), "no attempt is used up: {:?}", rows.tries);
    }

    // Meta takes the template for utility again.
    store.set_category(marketing, &Category::Utility).await.expect("redis");
    world::wait_for_state(&store, marketing, CampaignState::Completed).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_becomes_marketing_waits_for_contact_hours() {
    let mut stored = intake::World::start().await;
    let hours = closed_hours(stored.intake.clock.now());
    stored.intake.contact_hours = hours.clone().into();
    let (redis, store) = (&stored.redis, stored.intake.store.clone());
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    // At a low rate, so that most messages are not sent yet when the category changes.
    let recipients: Vec<Value> = (0..200).map(|n| row(573_001_230_000 + n)).collect();
    let new = json!({ "lines": ["3001"], "recipients": recipients, "launch": true, "rate": 5.0 });
    let id = stored.intake.submit(new_campaign("order_update/es_AR", new)).await.expect("accepted").id;
    let with_hours = DispatchSettings { contact_hours: hours.into(), ..settings() };
    let worker = TestWorker::start("w1", redis, &meta.url(), &[line("3001", 200.0)], with_hours).await;
    until("messages are sent", async || meta.requests() > 0).await;

    store.set_category(id, &Category::Marketing).await.expect("redis");
    // Another campaign, as a signal that the line has read the new category.
    let other = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&store, other).await;
    world::wait_for_state(&store, other, CampaignState::Completed).await;
    until("nothing is in flight", async || world::count(&store, id, State::InFlight).await == 0).await;
    let sent = meta.requests() as u64 - 1;
    assert!(sent < 200, "{sent}");
    assert_eq!(world::count(&store, id, State::Pending).await, 200 - sent);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_sends_no_marketing_of_a_part_until_it_has_its_contact_hours() {
    let mut stored = intake::World::start().await;
    stored.intake.contact_hours = world::contact_hours("57", "mon = \"00:00-24:00\"").into();
    let (redis, store) = (&stored.redis, stored.intake.store.clone());
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let marketing = two_countries(&stored, Category::Marketing).await;
    let hours = Live::<ContactHours>::default();
    let without_hours = DispatchSettings { contact_hours: hours.clone(), ..settings() };
    let worker = TestWorker::start("w1", redis, &meta.url(), &[line("3001", 200.0)], without_hours).await;
    until("Argentina has its messages", async || world::count(&store, marketing, State::Accepted).await == 20).await;
    let utility = two_countries(&stored, Category::Utility).await;
    world::wait_for_state(&store, utility, CampaignState::Completed).await;
    assert_eq!((meta.requests(), world::count(&store, marketing, State::Pending).await), (60, 20));

    // A reload gives the worker the entry, while it sends.
    let always: String = Day::ALL.map(|day| format!("{} = \"00:00-24:00\"\n", day.name())).concat();
    hours.set(world::contact_hours("57", &always));
    world::wait_for_state(&store, marketing, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 80);
    worker.stop().await;
}
