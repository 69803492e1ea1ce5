//! An erased person: nothing about the person is left in Redis, the statistics are unchanged, and nothing more is
//! claimed for the person.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        CampaignId, CampaignState, ClaimedRow, Due, EntryId, Fact, Fingerprint, News, OnDoubt, PartId, Person,
        PersonHash, Phone, Settled, SkipReason, State, Suppression, SuppressionReason, SuppressionScope,
        SuppressionSource, UnixMs, Wamid,
    },
    graph::GraphClient,
    intake::CampaignAction,
    redis::{
        Store,
        forgetting::{Forgotten, Surroundings, TAKEN_OVER_AFTER},
        inbound::NewInbound,
        parts::{Claim, PhoneQuery, ToSend},
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    claim_request,
    cutter::Cutter,
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused},
    intake::{World, new_campaign, row, rows},
    redis::TestRedis,
    seed, traces, until,
    world::{self, TestWorker},
};

const KEPT: Duration = Duration::from_secs(60);
/// The two forms of the number of Maria, who is erased. The first is the uploaded one.
const MARIA: [u64; 2] = [5_491_155_550_001, 541_155_550_001];

fn phone(digits: u64) -> Phone {
    Phone::from_digits(digits).expect("a number")
}

fn maria() -> Person {
    phone(MARIA[0]).into()
}

async fn around(store: &Store) -> Surroundings {
    store.surroundings(&[world::line("3001", 80.0)].into_iter().collect(), &["1001".into()]).await.expect("redis")
}

async fn forget(store: &Store, person: Person) -> Forgotten {
    let now = store.time().await.expect("the time");
    store.forget(person, &around(store).await, now).await.expect("forgotten")
}

/// The id that Meta gives to a message, which contains the number.
fn wamid(to: u64) -> Wamid {
    use base64::Engine as _;
    let digits = to.to_string();
    let mut bytes = vec![0x1c, 0x18, digits.len() as u8];
    bytes.extend(digits.as_bytes());
    bytes.extend([0x15, 0x02, 0x00, 0x11, 0x18, 18]);
    bytes.extend(format!("{to:018}").as_bytes());
    bytes.push(0);
    Wamid::from(format!("wamid.{}", base64::engine::general_purpose::STANDARD.encode(bytes)).as_str())
}

/// The forms in which Redis may have a number: those of [`traces::of`], and two digits in each byte.
fn traces(digits: u64) -> Vec<Vec<u8>> {
    let text = digits.to_string();
    let half_bytes = text.as_bytes().chunks_exact(2).map(|pair| (pair[0] - b'0') << 4 | (pair[1] - b'0')).collect();
    [traces::of(phone(digits)), vec![half_bytes]].concat()
}

/// The keys that contain data about Maria.
async fn found_maria(store: &Store) -> Vec<String> {
    let (people, values) = (MARIA.map(phone), MARIA.map(|digits| format!("A-{digits}")));
    traces::found(store, &MARIA.map(traces).concat(), &people, &values).await
}

async fn claim(store: &Store, part: PartId, limit: usize) -> Vec<ClaimedRow> {
    let now = store.time().await.expect("the time");
    match store.claim(part, &claim_request(1, now, limit, now.after(KEPT))).await.expect("a claim") {
        Claim::Rows { rows, .. } => rows.into_iter().map(|ToSend { claimed, .. }| claimed).collect(),
        other => panic!("{other:?}"),
    }
}

async fn settle(store: &Store, part: PartId, outcomes: Vec<(ClaimedRow, Settled)>) {
    let now = store.time().await.expect("the time");
    store.settle(&BTreeMap::from([(part, outcomes)]), 1, now, KEPT).await.expect("settled");
}

/// The part and row of a number in a campaign.
async fn find(store: &Store, id: CampaignId, digits: u64) -> Option<(PartId, u16)> {
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let query =
        PhoneQuery { campaign: id, buckets: record.buckets, indexed_by: record.indexed_by, phone: phone(digits) };
    store.find_phones(&[query]).await.expect("redis").pop().flatten()
}

/// A draft and a running campaign with Maria, by different forms of her number. The draft also rejected a second row
/// with her number. She has written, is suppressed, counts towards the messaging limit, and is in events.
struct Traces {
    world: World,
    store: Store,
    draft: CampaignId,
    running: CampaignId,
}

impl Traces {
    async fn leave() -> Self {
        let world = World::start().await;
        let store = world.store().clone().with_feed(Some(world::FEED));
        let others = 5_491_100_000_000..5_491_100_000_700;
        let all = |maria: u64| rows(others.clone().take(350).chain([maria]).chain(others.clone().skip(350)));
        let draft = world.draft("order_update/es_AR").await;
        // The second row is a duplicate, whose chunk has her number too.
        world.upload(draft, Some("u1"), &all(MARIA[0])).await.expect("uploaded");
        world
            .upload(draft, Some("u2"), &(rows([MARIA[1]]) + &rows(others.end..others.end + 40)))
            .await
            .expect("uploaded");
        let running = world.draft("order_update/es_AR").await;
        world.upload(running, Some("u"), &all(MARIA[1])).await.expect("uploaded");
        world.intake.act(running, CampaignAction::Launch).await.expect("launched");
        let this = Self { world, store, draft, running };
        this.leave_elsewhere().await;
        this
    }

    async fn leave_elsewhere(&self) {
        let (store, now) = (&self.store, self.store.time().await.expect("the time"));
        let hash = PersonHash::of(maria(), &store.token_key().await.expect("a key").get());
        let (scope, reason, source) = (SuppressionScope::All, SuppressionReason::OptOut, SuppressionSource::Api);
        let entry =
            Suppression { phone: Some(phone(MARIA[0])), scope, reason, source, since: UnixMs(1_795_300_000_000) };
        store.suppress(&"1001".into(), &[(hash, entry)], false).await.expect("suppressed");
        let (business, line) = ("1001".into(), "3001".into());
        let message = (PartId { campaign: self.running, number: 0 }, ClaimedRow { row: 0, send: 1 });
        store.take_places(&business, 100, &line, &[(maria(), message)], now).await.expect("places");
        store.open_windows(&business, &line, &[(phone(7_654_321_000).into(), now)], now).await.expect("windows");
        store.open_windows(&business, &line, &[(maria(), now)], now).await.expect("windows");
        let inbound = |id: u64, number: u64| NewInbound {
            fingerprint: Fingerprint(id.to_be_bytes()),
            message: json!({ "id": format!("wamid.{id}"), "sender": { "number": number.to_string() } }).to_string(),
            answers: None,
        };
        let messages = vec![inbound(1, MARIA[0]), inbound(2, MARIA[0] + 1), inbound(3, MARIA[0])];
        store.keep_inbound(&[(line, messages)], world::INBOUND).await.expect("kept");
        let event = |number: u64| json!({ "id": "1", "to": format!("+{number}") }).to_string();
        let events = [event(MARIA[0]), event(MARIA[0] + 1), event(MARIA[1])];
        store.append_events(None, &events).await.expect("told");
    }
}

#[tokio::test]
async fn nothing_of_a_forgotten_person_is_left_and_the_statistics_stay() {
    let Traces { world, store, draft, running } = Traces::leave().await;
    let (part, row) = find(&store, running, MARIA[0]).await.expect("she is in it");
    // All messages of the part are accepted, and Maria's is delivered.
    let rows = claim(&store, part, 1_000).await;
    let id_of =
        |claimed: &ClaimedRow| if claimed.row == row { MARIA[1] } else { 5_491_100_000_000 + u64::from(claimed.row) };
    settle(&store, part, rows.iter().map(|row| (*row, Settled::Accepted(wamid(id_of(row))))).collect()).await;
    let now = store.time().await.expect("the time");
    let delivered = Fact { row, send: 1, news: News::Delivered, at: now, message: None };
    store.apply(&[(part, vec![delivered])], KEPT).await.expect("applied");
    let job = json!({ "type": "recipients", "recipients": [{ "to": format!("+{}", MARIA[0]) }] }).to_string();
    let letter = cmd("XADD").arg(store.keys.dead_jobs()).arg("7-0").arg("job").arg(job).take();
    store.query::<String>("XADD", &letter).await.expect("redis");

    let before = found_maria(&store).await;
    let kinds =
        [":c", ":m", ":n:", ":suppressed", ":people", ":windows", ":undelivered", ":inbound", ":events", ":dead"];
    for kind in kinds {
        assert!(before.iter().any(|key| key.contains(kind)), "she is in {kind}: {before:?}");
    }
    let record = store.campaign(running).await.expect("redis").expect("a campaign");
    let counts_before = world::counts(&store, &record).await;
    let business = "1001".into();
    let places_before = store.places(&business, 100, now).await.expect("redis").used;

    let forgotten = forget(&store, maria()).await;
    let dead: EntryId = "7-0".parse().expect("an id");
    let expected = Forgotten {
        campaigns: 2,
        recipients: 2,
        skipped: 1,
        messages: 2,
        events: 2,
        suppressions: 1,
        suppressed_numbers: 1,
        dead_letters: vec![dead],
    };
    assert_eq!(forgotten, expected);
    assert_eq!(found_maria(&store).await, [store.keys.dead_jobs()], "the dead letter is reported");
    assert!(store.delete_dead_letter(dead).await.expect("redis"));
    let again = forget(&store, maria()).await;
    let still = Forgotten { suppressions: 1, ..Forgotten::default() };
    assert_eq!((again, found_maria(&store).await), (still, Vec::new()));

    // A later status about her message still counts.
    let counts = world::counts(&store, &record).await;
    assert_eq!(counts, counts_before);
    assert_eq!(counts.by_state, world::recount(&store, &record).await);
    let read = Fact { row, send: 1, news: News::Read, at: now, message: Some(wamid(MARIA[0])) };
    store.apply(&[(part, vec![read])], KEPT).await.expect("applied");
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Read], 1);
    assert_eq!(found_maria(&store).await, Vec::<String>::new());

    assert_eq!(find(&store, running, MARIA[0]).await, None);
    assert_eq!(world.count(draft, State::Skipped).await, 1);
    assert_eq!(world.count(draft, State::Pending).await, 740);
    assert_eq!(store.places(&business, 100, now).await.expect("redis").used, places_before, "Meta counts her");
    let hash = PersonHash::of(maria(), &store.token_key().await.expect("a key").get());
    let suppressed =
        store.suppressions(&business, &[hash]).await.expect("redis").pop().flatten().expect("she still is");
    assert_eq!((suppressed.phone, suppressed.scope), (None, SuppressionScope::All));
}

#[tokio::test]
async fn a_campaign_of_0_1_0_forgets_both_numbers_of_a_person() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let (store, key) = (world.store(), world.store().keys.campaign(id));
    assert_eq!(store.query::<u8>("HDEL", cmd("HDEL").arg(&key).arg("index")).await.expect("redis"), 1);
    let result = world.upload(id, None, &rows([MARIA[0], MARIA[1], MARIA[0] + 1])).await.expect("accepted");
    assert_eq!(result.accepted, 3);
    let forgotten = forget(store, maria()).await;
    assert_eq!((forgotten.campaigns, forgotten.recipients, forgotten.skipped), (1, 2, 2));
    assert_eq!(found_maria(store).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupted_upload_is_searched_too() {
    let world = World::start().await;
    let text = rows(5_491_100_000_000..5_491_100_000_300) + &rows([MARIA[0]]);
    let id = world.draft("order_update/es_AR").await;
    let cutter = Cutter::before(world.redis.url());
    let other = crate::support::intake::intake(&cutter.url()).await;
    let all = i64::MAX / 2;
    cutter.cut_after(all);
    other
        .upload(id, Some("u"), pregon::intake::Format::Ndjson, crate::support::intake::body(&text))
        .await
        .expect("whole");
    let bytes = cutter.used_of(all);
    for at in (0..bytes).step_by(usize::try_from(bytes / 40).expect("a number")) {
        let id = world.draft("order_update/es_AR").await;
        cutter.cut_after(at);
        let body = crate::support::intake::body(&text);
        let _cut = other.upload(id, Some("u"), pregon::intake::Format::Ndjson, body).await;
        cutter.restore();
        forget(world.store(), maria()).await;
        assert_eq!(found_maria(world.store()).await, Vec::<String>::new(), "cut after {at} of {bytes} bytes");
        until("the connection is new", async || other.store.time().await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_message_in_flight_keeps_its_state_and_is_not_sent_again() {
    let world = World::start().await;
    let store = world.store();
    let more = json!({ "recipients": [row(MARIA[0]), row(MARIA[0] + 7)], "launch": true, "lines": ["3001"] });
    let id = world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("a campaign").id;
    let (part, row) = find(store, id, MARIA[0]).await.expect("she is in it");
    let rows = claim(store, part, 2).await;
    let hers = *rows.iter().find(|claimed| claimed.row == row).expect("claimed");
    let forgotten = forget(store, maria()).await;
    assert_eq!((forgotten.recipients, forgotten.skipped), (1, 0));
    assert_eq!(world.count(id, State::InFlight).await, 2);
    // Her message is given back. The next claim says that chunks which were read earlier are out of date.
    settle(store, part, vec![(hers, Settled::Back { at: Due::AtOnce })]).await;
    let now = store.time().await.expect("the time");
    let claimed = store.claim(part, &claim_request(1, now, 2, now.after(KEPT))).await.expect("a claim");
    let Claim::Rows { rows, erased, .. } = claimed else { panic!("{claimed:?}") };
    assert!(erased > 0 && rows.len() == 1 && rows[0].claimed.send == 2, "{rows:?}");
    assert_eq!(store.numbers(part, &[row]).await.expect("redis"), [None]);
    // Meta accepted her message after all. The id is not stored.
    settle(store, part, vec![(rows[0].claimed, Settled::Accepted(wamid(MARIA[0])))]).await;
    assert_eq!(world.count(id, State::Accepted).await, 1);
    assert_eq!(store.wamids(part, &[rows[0].claimed]).await.expect("redis"), [None]);
    assert_eq!(found_maria(store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_forgetting_that_was_interrupted_anywhere_is_finished_by_housekeeping() {
    let Traces { world, store, .. } = Traces::leave().await;
    let cutter = Cutter::before(world.redis.url());
    let address = pregon::redis::Address { url: cutter.url(), ..world::address(&world.redis) };
    let cut = Store::connect(&address).await.expect("a store").with_feed(Some(world::FEED));
    let around = around(&store).await;
    let now = store.time().await.expect("the time");
    let all = i64::MAX / 2;
    cutter.cut_after(all);
    cut.forget(phone(4_477_009_001).into(), &around, now).await.expect("nobody");
    let bytes = cutter.used_of(all);
    let later = now.after(TAKEN_OVER_AFTER + KEPT);
    let (lines, businesses) = ([world::line("3001", 80.0)].into_iter().collect(), ["1001".into()]);
    let mut interrupted = 0;
    for at in (0..2 * bytes).step_by(usize::try_from(bytes / 25).expect("a number")) {
        cutter.cut_after(at);
        let is_done = cut.forget(maria(), &around, now).await.is_ok();
        cutter.restore();
        interrupted += u32::from(!is_done);
        if !is_done && store.forgetting().await.expect("redis").is_empty() {
            // Nothing was erased yet, or everything.
            forget(&store, maria()).await;
        } else if !is_done {
            store.finish_forgetting(&lines, &businesses, now).await.expect("not yet");
            assert!(!store.forgetting().await.expect("redis").is_empty(), "the call may still be at work");
            store.finish_forgetting(&lines, &businesses, later).await.expect("finished");
        }
        assert_eq!(found_maria(&store).await, Vec::<String>::new(), "cut after {at} of {bytes} bytes");
        until("the connection is new", async || cut.time().await.is_ok()).await;
        let id = world.draft("order_update/es_AR").await;
        world.upload(id, None, &rows([MARIA[0]])).await.expect("uploaded");
    }
    assert!(interrupted > 10, "{interrupted}");
}

#[tokio::test]
async fn a_forgotten_person_stays_forgotten_after_redis_lost_power() {
    let mut traces = Traces::leave().await;
    forget(&traces.store, maria()).await;
    let written = traces.world.redis.written();
    traces.world.redis.lose_power(written).await;
    traces.world.redis.restart().await;
    let store = Store::connect(&world::address(&traces.world.redis)).await.expect("a store");
    assert_eq!(found_maria(&store).await, Vec::<String>::new());
    let counts = world::counts(&store, &store.campaign(traces.draft).await.expect("redis").expect("a draft")).await;
    assert_eq!(counts.skips[&SkipReason::Forgotten], 1);
}

/// The `n`th recipient of a campaign of `world`.
fn recipient(n: u64) -> Phone {
    world::recipient(n).to
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_claimed_after_they_were_forgotten() {
    const RECIPIENTS: u64 = 600;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let lines = [world::line("3001", 300.0)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, world::settings()).await;
    let id = world::campaign(&store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
    let (mut unclaimed, mut next) = (HashSet::new(), RECIPIENTS);
    while next > 0 {
        let arrived = meta.requests();
        until("the campaign goes on", async || meta.requests() > arrived + 20).await;
        // Goes backwards from the last row, because rows are claimed from the first on, and stops where the two meet.
        next = next.saturating_sub(60);
        for n in next..next + 5 {
            forget(&store, recipient(n).into()).await;
            let state = store.state_bytes(part).await.expect("redis")[n as usize];
            unclaimed.extend((State::of(state) == Some(State::Skipped)).then_some(n));
        }
        if next < arrived as u64 {
            break;
        }
    }
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    let counts = world::counts(&store, &record).await;
    assert!(!unclaimed.is_empty(), "everybody was claimed before");
    let skipped = counts.skips[&SkipReason::Forgotten];
    assert!(skipped >= unclaimed.len() as u64, "{skipped}");
    assert_eq!(counts.by_state[&State::Accepted], RECIPIENTS - skipped);
    assert_eq!(counts.by_state, world::recount(&store, &record).await);
    let reached: HashSet<String> = meta.arrivals().iter().map(|arrival| arrival.to.clone()).collect();
    assert!(unclaimed.iter().all(|n| !reached.contains(&recipient(*n).digits().to_string())));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_forgotten_while_a_message_is_in_flight_gets_no_second_attempt() {
    /// Answers each first attempt late, with an error after which the message is sent again.
    #[derive(Default)]
    struct Late(HashSet<String>);
    impl Conduct for Late {
        fn send(&mut self, Sent { to, .. }: Sent, _: &Courier) -> Reply {
            let is_first = self.0.insert(to.clone());
            let answer = if is_first { refused(500, 131_000) } else { accepted(&to, "wamid.1") };
            Reply::of(answer, Duration::from_millis(300))
        }
    }
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(Late::default(), seed());
    let lines = [world::line("3001", 300.0)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, world::settings()).await;
    let id = world::campaign(&store, &["3001"], 5, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    until("a message is in flight", async || meta.requests() > 0).await;
    let first = meta.arrivals()[0].to.parse().expect("digits");
    let forgotten = forget(&store, phone(first).into()).await;
    assert_eq!((forgotten.recipients, forgotten.skipped), (1, 0), "it is in flight");
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    let counts = world::counts(&store, &record).await;
    assert_eq!((counts.by_state[&State::Skipped], counts.by_state[&State::Accepted]), (1, 4));
    assert_eq!(counts.skips[&SkipReason::Forgotten], 1);
    let attempts = meta.arrivals().iter().filter(|arrival| arrival.to == first.to_string()).count();
    assert_eq!(attempts, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_finishes_what_a_process_that_died_had_begun() {
    let Traces { world: _world, store, .. } = Traces::leave().await;
    // The entry of a process that died three minutes ago.
    let begun = store.time().await.expect("the time").0 - 180_000;
    let entry = cmd("HSET").arg(store.keys.forgetting()).arg(maria().digits()).arg(begun).take();
    store.query::<u8>("HSET", &entry).await.expect("redis");
    let graph = GraphClient::new(world::graph("http://127.0.0.1:9")).expect("a client");
    let stop = CancellationToken::new();
    let lines = [world::line("3001", 80.0)];
    let housekeeping = tokio::spawn(world::housekeeping(&store, &lines, graph).await.run(stop.clone()));
    until("she is forgotten", async || store.forgetting().await.expect("redis").is_empty()).await;
    assert_eq!(found_maria(&store).await, Vec::<String>::new());
    stop.cancel();
    housekeeping.await.expect("no panic").expect("it ends well");
}
