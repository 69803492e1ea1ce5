//! Stores a campaign of the shared recipients in Redis.

use std::time::Duration;

use deadpool_redis::redis::{Client, aio::MultiplexedConnection};
use pregon::{
    domain::{Campaign, CampaignId, CampaignState, LineId, PartId},
    redis::{
        Address, Store,
        campaigns::StateChange,
        uploads::{Admitted, Batch, Upload},
    },
};

use super::{recipient, template};

/// Rows per commit of an upload, as in the intake.
pub const BATCH_ROWS: u64 = 2_048;

/// The address of a private Redis at `url`.
pub fn address(url: &str) -> Address {
    Address {
        url: url.to_owned(),
        certificates: Default::default(),
        namespace: "pregon".to_owned(),
        timeout: Duration::from_secs(10),
        connections: 4,
    }
}

/// A connection besides those of the store, to inspect Redis.
pub async fn connection(url: &str) -> MultiplexedConnection {
    let client = Client::open(url).expect("a URL of the redis crate");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

/// A draft without recipients.
pub async fn draft(store: &Store, lines: &[&str]) -> CampaignId {
    let now = store.time().await.expect("the time");
    let id = CampaignId(ulid::Ulid::from_parts(now.0, rand::random()));
    let lines = lines.iter().map(|line| LineId::from(*line)).collect();
    let campaign = Campaign::new(id, "measured", template(), lines, now);
    store.create_campaign(&campaign).await.expect("a campaign").0
}

/// Opens the upload of a campaign.
pub async fn begin_upload(store: &Store, id: CampaignId, lines: &[&str]) -> Upload {
    let weights = lines.iter().map(|line| (LineId::from(*line), 1.0)).collect();
    let opened = store.begin_upload(id, "u", weights, "%d".to_owned(), Duration::from_secs(60)).await;
    opened.expect("an upload").expect("a campaign").0
}

/// Commits recipients `from..until` of the upload.
pub async fn admit(upload: &mut Upload, from: u64, until: u64) {
    let recipients = (from..until).map(|n| (n as u32, recipient(n))).collect();
    let batch = Batch { recipients, taken: until, ..Batch::default() };
    assert_eq!(
        upload.admit(batch.pack(upload.packing())).await.expect("a batch"),
        Admitted::Done { accepted: until - from }
    );
}

/// A running campaign of `n` recipients, and its parts.
pub async fn running(store: &Store, lines: &[&str], n: u64) -> (CampaignId, Vec<PartId>) {
    let id = draft(store, lines).await;
    let mut upload = begin_upload(store, id, lines).await;
    for from in (0..n).step_by(BATCH_ROWS as usize) {
        admit(&mut upload, from, n.min(from + BATCH_ROWS)).await;
    }
    (id, launch(store, id).await)
}

/// Launches a campaign, and returns its parts.
pub async fn launch(store: &Store, id: CampaignId) -> Vec<PartId> {
    let now = store.time().await.expect("the time");
    let change = store.change_campaign(id, &[CampaignState::Draft], CampaignState::Running, now, None).await;
    assert_eq!(change.expect("a launch"), StateChange::Done);
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    record.parts.into_iter().map(|(part, _)| part).collect()
}
