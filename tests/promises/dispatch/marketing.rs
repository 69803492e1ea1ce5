//! Meta's rules for marketing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pregon::{
    domain::{CampaignId, CampaignState, Line, MetaCode, Phone, Recipient, SkipReason, State},
    redis::{
        Store,
        uploads::{Admitted, Batch},
    },
};

use crate::support::{
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed,
    world::{self, TestWorker, address, line, recipient, settings},
};

/// Adds recipients with these numbers to a draft.
async fn add(store: &Store, id: CampaignId, numbers: &[&str]) {
    let weights = vec![("3001".into(), 1.0)];
    let begun = store.begin_upload(id, "more", weights, "{\"row\":%d}".to_owned(), Duration::from_secs(60)).await;
    let (mut upload, _) = begun.expect("redis").expect("a draft");
    let to = |number: &str| number.parse::<Phone>().expect(number);
    let rows = numbers.iter().zip(0..).map(|(number, row)| (row, Recipient { to: to(number), ..recipient(0) }));
    let (recipients, taken) = (rows.collect(), numbers.len() as u64);
    let batch = Batch { recipients, taken, done: true, ..Batch::default() };
    let admitted = upload.admit(batch.pack(upload.packing())).await.expect("redis");
    assert_eq!(admitted, Admitted::Done { accepted: taken });
}

#[tokio::test(flavor = "multi_thread")]
async fn marketing_to_numbers_of_the_usa_is_skipped_before_sending() {
    const US: [&str; 3] = ["+12025550123", "+14155552671", "+19075550100"];
    const OTHERS: [&str; 4] = ["+14165550100", "+18765550100", "+17875550100", "+5491155550001"];
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 200.0)], settings()).await;
    for (category, skipped) in [("MARKETING", 3), ("UTILITY", 0)] {
        let id = world::campaign_of(&store, category, &["3001"], 0).await;
        add(&store, id, &[&US[..], &OTHERS[..]].concat()).await;
        let before = meta.requests() as u64;
        world::launch(&store, id).await;
        let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
        let counts = world::counts(&store, &record).await;
        assert_eq!((counts.by_state[&State::Skipped], counts.by_state[&State::Accepted]), (skipped, 7 - skipped));
        let skips = if skipped > 0 { HashMap::from([(SkipReason::MarketingUs, skipped)]) } else { HashMap::new() };
        assert_eq!(counts.skips.into_iter().collect::<HashMap<_, _>>(), skips, "{category}");
        assert_eq!(meta.requests() as u64, before + 7 - skipped);
    }
    worker.stop().await;
}

const RECIPIENTS: u64 = 40;

/// A fake Meta that accepts messages only through the Marketing Messages API, and none if `is_closed`. Counts the sends
/// to each endpoint.
#[derive(Clone, Default)]
struct MarketingApi {
    /// Whether the Marketing Messages API refuses everything too.
    is_closed: bool,
    messages: Arc<AtomicU64>,
    marketing_messages: Arc<AtomicU64>,
}

impl MarketingApi {
    /// The sends to `/messages` and to `/marketing_messages`.
    fn sends(&self) -> [u64; 2] {
        [&self.messages, &self.marketing_messages].map(|sends| sends.load(Ordering::Relaxed))
    }
}

impl Conduct for MarketingApi {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let sends = if sent.is_marketing_api { &self.marketing_messages } else { &self.messages };
        sends.fetch_add(1, Ordering::Relaxed);
        let answer = match sent.is_marketing_api && !self.is_closed {
            true => accepted(&sent.to, &wamid(&sent.to, 1)),
            false => refused(400, 131_063),
        };
        Reply::of(answer, Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waba_that_refuses_marketing_switches_to_the_marketing_api_and_loses_no_attempt() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let conduct = MarketingApi::default();
    let meta = Meta::start(conduct.clone(), seed());
    let lines = [line("3001", 500.0)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let launched = async || {
        let id = world::campaign_of(&store, "MARKETING", &["3001"], RECIPIENTS).await;
        world::launch(&store, id).await;
        world::wait_for_state(&store, id, CampaignState::Completed).await
    };
    let record = launched().await;
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Accepted], RECIPIENTS);
    let rows = store.part_rows(record.parts[0].0).await.expect("rows");
    assert!(rows.tries.is_empty(), "no attempt is used up: {:?}", rows.tries);
    let [refused, taken] = conduct.sends();
    assert!((1..=RECIPIENTS).contains(&refused), "{refused} were refused");
    assert_eq!(taken, RECIPIENTS);

    // All workers know it by now, so no other message is refused.
    worker.stop().await;
    let worker = TestWorker::start("w2", &redis, &meta.url(), &lines, settings()).await;
    launched().await;
    assert_eq!(conduct.sends(), [refused, 2 * RECIPIENTS]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_waba_sends_marketing_and_nothing_else_through_the_marketing_api() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let conduct = MarketingApi::default();
    let meta = Meta::start(conduct.clone(), seed());
    let lines = [Line { marketing_api: true, ..line("3001", 500.0) }];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let id = world::campaign_of(&store, "MARKETING", &["3001"], RECIPIENTS).await;
    world::launch(&store, id).await;
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(conduct.sends(), [0, RECIPIENTS]);

    // For other messages than marketing, 131063 is a normal error that pauses the campaign.
    let id = world::campaign_of(&store, "UTILITY", &["3001"], RECIPIENTS).await;
    world::launch(&store, id).await;
    let record = world::wait_for_state(&store, id, CampaignState::Paused).await;
    assert_eq!(record.reason.and_then(|reason| reason.code), Some(MetaCode(131_063)));
    let [refused, taken] = conduct.sends();
    assert!((5..=RECIPIENTS).contains(&refused), "{refused}");
    assert_eq!(taken, RECIPIENTS);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waba_that_refuses_marketing_either_way_pauses_the_campaign() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let conduct = MarketingApi { is_closed: true, ..MarketingApi::default() };
    let meta = Meta::start(conduct.clone(), seed());
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 500.0)], settings()).await;
    let id = world::campaign_of(&store, "MARKETING", &["3001"], RECIPIENTS).await;
    world::launch(&store, id).await;
    let record = world::wait_for_state(&store, id, CampaignState::Paused).await;
    assert_eq!(record.reason.and_then(|reason| reason.code), Some(MetaCode(131_063)));
    let [_, refused] = conduct.sends();
    assert!((5..=RECIPIENTS).contains(&refused), "{refused}");
    worker.stop().await;
}
