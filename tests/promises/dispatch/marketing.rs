//! What Meta demands of marketing.

use std::{collections::HashMap, time::Duration};

use pregon::{
    domain::{CampaignId, CampaignState, Phone, Recipient, SkipReason, State},
    redis::{
        Store,
        uploads::{Admitted, Batch},
    },
};

use crate::support::{
    hostile::{AcceptAll, Meta},
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
