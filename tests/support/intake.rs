//! An intake on a private Redis, with the templates of `fixtures/templates` and a few lines.

use std::{convert::Infallible, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use pregon::{
    api_types::{NewCampaign, UploadResult},
    domain::{CampaignId, Line, LineId, Live, PartId, Recipient, State, Template, UnixMs},
    intake::{Format, Intake, IntakeError, MemoryGuard},
    redis::{Address, Store, clock::Clock},
};
use serde_json::{Value, json};

use super::{redis::TestRedis, world::line};

/// A Redis and an intake. The WABA 2001 has the lines 3001 (80 per second) and 3002 (240 per second) and the
/// templates. The WABA 2002 has the line 4001, and its templates were never fetched.
pub struct World {
    pub redis: TestRedis,
    pub intake: Intake,
}

impl World {
    pub async fn start() -> Self {
        let redis = TestRedis::start().await;
        let intake = intake(redis.url()).await;
        intake.store.put_templates(&"2001".into(), &templates(), intake.clock.now()).await.expect("templates");
        Self { redis, intake }
    }

    pub fn store(&self) -> &Store {
        &self.intake.store
    }

    /// Creates a draft of a campaign.
    pub async fn draft(&self, template: &str) -> CampaignId {
        self.intake.submit(new_campaign(template, json!({}))).await.expect("a campaign").id
    }

    /// Uploads NDJSON.
    pub async fn upload(
        &self,
        id: CampaignId,
        upload_id: Option<&str>,
        rows: &str,
    ) -> Result<UploadResult, IntakeError> {
        self.intake.upload(id, upload_id, Format::Ndjson, body(rows)).await
    }

    /// Every recipient of a campaign, by part and row, after checking that state bytes and counters agree.
    pub async fn recipients(&self, id: CampaignId) -> Vec<(LineId, Recipient)> {
        let record = self.store().campaign(id).await.expect("redis").expect("the campaign");
        let mut all = Vec::new();
        for (part, line) in record.parts {
            let states = self.store().state_bytes(part).await.expect("state bytes");
            let counts = self.store().part_counts(&[part]).await.expect("counts").remove(0);
            for state in State::ALL {
                let n = states.iter().filter(|&&byte| State::of(byte) == Some(state)).count() as u64;
                assert_eq!(counts.by_state[&state], n, "{state:?} in part {part}");
            }
            let n = states.iter().filter(|&&byte| byte != 0).count() as u64;
            assert_eq!(counts.recipients, n, "recipients of part {part}");
            all.extend(self.recipients_of(part).await.into_iter().map(|recipient| (line.clone(), recipient)));
            assert!(counts.recipients <= 65_536, "part {part}");
        }
        assert_eq!(record.numbers, all.len() as u64, "the index of numbers and the recipients");
        all
    }

    /// Every recipient of a part, by row.
    pub async fn recipients_of(&self, part: PartId) -> Vec<Recipient> {
        let states = self.store().state_bytes(part).await.expect("state bytes");
        let mut all = Vec::new();
        for start in self.store().chunk_starts(part).await.expect("chunks") {
            let chunk = self.store().chunks(part, &[start]).await.expect("a chunk").remove(0);
            let rows = chunk.recipients().zip(usize::from(start)..);
            let admitted = rows.filter(|(_, row)| states.get(*row).is_some_and(|&byte| byte != 0));
            all.extend(admitted.map(|(recipient, _)| recipient));
        }
        all
    }

    /// The phone numbers of a campaign, sorted.
    pub async fn numbers(&self, id: CampaignId) -> Vec<u64> {
        let mut numbers: Vec<u64> =
            self.recipients(id).await.iter().map(|(_, recipient)| recipient.to.digits()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The number of recipients in `state`.
    pub async fn count(&self, id: CampaignId, state: State) -> u64 {
        let record = self.store().campaign(id).await.expect("redis").expect("the campaign");
        let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
        let counts = self.store().part_counts(&parts).await.expect("counts");
        counts.iter().map(|counts| counts.by_state[&state]).sum()
    }
}

/// An intake on the Redis at `url`, as another process would have it.
pub async fn intake(url: &str) -> Intake {
    intake_at(&Address {
        url: url.to_owned(),
        certificates: Default::default(),
        namespace: "pregon".to_owned(),
        timeout: Duration::from_secs(20),
        connections: 8,
    })
    .await
}

/// An intake on the Redis at `address`.
pub async fn intake_at(address: &Address) -> Intake {
    let store = Store::connect(address).await.expect("a store");
    let clock = Arc::new(Clock::start(&store).await.expect("Redis' time"));
    let other = Line { waba: "2002".into(), ..line("4001", 80.0) };
    let lines = [line("3001", 80.0), line("3002", 240.0), other].into_iter().collect();
    Intake {
        store,
        clock,
        lines,
        is_limited: false,
        grace_period: Duration::from_secs(10),
        recipients_max: u64::from(u32::MAX),
        memory: MemoryGuard::new(1.0),
        contact_hours: Live::default(),
        origin: Default::default(),
    }
}

/// Every template of the fixtures.
pub fn templates() -> Vec<Template> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    let files = fs::read_dir(dir).expect("the fixtures").map(|file| file.expect("a file").path());
    files.map(|file| serde_json::from_slice(&fs::read(file).expect("a file")).expect("a template")).collect()
}

/// The body of a submission. `template`: `name/language`. `more`: fields to add or replace.
pub fn new_campaign(template: &str, more: Value) -> NewCampaign {
    serde_json::from_value(campaign_json(template, more)).expect("a submission")
}

/// The body of a submission as JSON; see [`new_campaign`].
pub fn campaign_json(template: &str, more: Value) -> Value {
    let (name, language) = template.split_once('/').expect("name/language");
    let mut campaign = json!({
        "name": "Spring",
        "template": { "name": name, "language": language },
        "lines": ["3001", "3002"],
    });
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    campaign.as_object_mut().expect("an object").extend(more);
    campaign
}

/// A body in chunks of 777 bytes.
pub fn body(text: &str) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
    stream::iter(text.as_bytes().chunks(777).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>())
}

/// A row that fits the template `order_update`.
pub fn row(number: u64) -> Value {
    json!({ "to": format!("+{number}"), "params": { "1": format!("María {}", number % 50), "2": format!("A-{number}") } })
}

/// Rows that fit the template `order_update`, as NDJSON.
pub fn rows(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("{}\n", row(number))).collect()
}

/// A time some minutes from now, or before now.
pub fn minutes_from(now: UnixMs, minutes: i64) -> UnixMs {
    UnixMs(now.0.saturating_add_signed(minutes * 60_000))
}
