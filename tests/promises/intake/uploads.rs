//! Uploads: each number is accepted once, an interruption at any point is harmless, and Redis needs little memory.

use std::{collections::HashSet, convert::Infallible, pin::pin, sync::Mutex};

use bytes::Bytes;
use deadpool_redis::redis::{Value, cmd};
use futures_util::{StreamExt as _, stream};
use pregon::{
    api_types::UploadResult,
    domain::{CampaignId, CampaignState, Phone, State},
    intake::{CampaignAction, Format, Intake, IntakeError, MemoryGuard},
    redis::{StoreError, campaigns::CampaignRecord, parts::PhoneQuery},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;

use crate::support::{
    self,
    cutter::Cutter,
    intake::{World, body, intake, new_campaign, row, rows},
    seed,
};

/// An upload with valid rows, duplicates, invalid rows and blank lines.
fn mixed(rng: &mut StdRng, n: u64) -> String {
    let mut text = String::new();
    for _ in 0..n {
        let number = 5_491_100_000_000 + rng.random_range(0..n * 4);
        match rng.random_range(0..20) {
            0 => text.push_str("{\"to\":\"12\"}\n"),
            1 => text.push_str("\nnot json\n"),
            2 => text.push_str(&format!("{{\"to\":\"+{number}\",\"params\":{{\"1\":\"{}\"}}}}\n", "x".repeat(900))),
            _ => text.push_str(&format!("{}\n", row(number))),
        }
    }
    text
}

/// The result of a complete upload into a new campaign, and the numbers that the campaign then has.
async fn expected_result(world: &World, text: &str) -> (UploadResult, Vec<u64>) {
    let id = world.draft("order_update/es_AR").await;
    let result = world.upload(id, Some("u"), text).await.expect("whole");
    (result, world.numbers(id).await)
}

#[tokio::test]
async fn an_upload_that_finds_redis_full_is_continued_when_there_is_room() {
    const FIRST: u64 = 5_491_100_000_000;
    let mut world = World::start().await;
    world.intake.memory = MemoryGuard::new(0.5);
    let id = world.draft("order_update/es_AR").await;
    let sent = Mutex::new(String::new());
    let (redis, all) = (&world.redis, &sent);
    let endless = stream::unfold(FIRST, async |number| {
        if number == FIRST + 10_000 {
            redis.fill_to(0.7).await;
        }
        let text = rows(number..number + 500);
        all.lock().expect("no panic under the lock").push_str(&text);
        Some((Ok::<_, Infallible>(Bytes::from(text)), number + 500))
    });
    let error = world.intake.upload(id, Some("u"), Format::Ndjson, pin!(endless)).await.expect_err("no room");
    assert!(matches!(error, IntakeError::RedisFull { .. }) && error.is_transient(), "{error}");
    let stored = world.numbers(id).await.len() as u64;
    assert!(stored >= 2_048, "{stored} rows stay");

    world.redis.set_memory(0).await;
    let has_room = async || world.store().recent_memory().await.expect("redis").is_none();
    support::until("the memory is read again", has_room).await;
    let text = sent.into_inner().expect("no panic under the lock");
    let result = world.upload(id, Some("u"), &text).await.expect("room");
    assert_eq!((result.accepted, result.rejected_count), (text.lines().count() as u64, 0));
    assert!(result.accepted > stored);
}

#[tokio::test]
async fn a_number_is_accepted_once_within_and_across_uploads() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let numbers = 5_491_100_000_000..5_491_100_003_000;
    let result = world.upload(id, None, &rows(numbers.clone().chain(numbers.clone()))).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (3_000, 3_000));
    assert_eq!(result.rejected.len(), 1_000);
    let in_order = result
        .rejected
        .iter()
        .zip(3_001..)
        .all(|(rejection, row)| rejection.row == row && rejection.code == "duplicate");
    assert!(in_order, "{:?}", &result.rejected[..3]);

    let again = world.upload(id, None, &rows(numbers.start - 100..numbers.end + 100)).await.expect("accepted");
    assert_eq!((again.accepted, again.rejected_count), (200, 3_000));
    assert_eq!(world.numbers(id).await, (numbers.start - 100..numbers.end + 100).collect::<Vec<_>>());
}

/// Numbers of five people. The first four have two forms of a number, each given here.
const FORMS: [u64; 9] = [
    5_491_155_550_001,
    541_155_550_001,
    551_187_654_321,
    5_511_987_654_321,
    5_215_512_345_678,
    525_512_345_678,
    5_492_215_550_001,
    542_215_550_001,
    12_025_550_123,
];

#[tokio::test]
async fn a_person_with_two_forms_of_a_number_is_accepted_once() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let result = world.upload(id, None, &rows(FORMS[..6].iter().copied())).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (3, 3));
    let rejected: Vec<_> = result.rejected.iter().map(|rejection| (rejection.row, rejection.code.as_str())).collect();
    assert_eq!(rejected, [(2, "duplicate"), (4, "duplicate"), (6, "duplicate")]);
    // The other form of a number of an earlier upload.
    let result = world.upload(id, None, &rows([FORMS[1], FORMS[6], FORMS[8]])).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (2, 1));
    let mut uploaded = [FORMS[0], FORMS[2], FORMS[4], FORMS[6], FORMS[8]];
    uploaded.sort_unstable();
    assert_eq!(world.numbers(id).await, uploaded, "what is sent is what was uploaded");
}

#[tokio::test]
async fn a_campaign_of_0_1_0_keeps_its_index_by_number() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let (store, key) = (world.store(), world.store().keys.campaign(id));
    assert_eq!(store.query::<u8>("HDEL", cmd("HDEL").arg(&key).arg("index")).await.expect("redis"), 1);
    let numbers = FORMS;
    let result = world.upload(id, None, &rows(numbers)).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (9, 0));
    // A later upload and a search find every entry of the index.
    let result = world.upload(id, None, &rows(numbers)).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (0, 9));
    let CampaignRecord { buckets, indexed_by, .. } = store.campaign(id).await.expect("redis").expect("the campaign");
    let phone = |number| Phone::from_digits(number).expect("a number");
    let queries = numbers.map(|number| PhoneQuery { campaign: id, buckets, indexed_by, phone: phone(number) });
    let found: HashSet<_> = store.find_phones(&queries).await.expect("redis").into_iter().collect();
    assert_eq!((found.len(), found.contains(&None)), (9, false));
}

#[tokio::test]
async fn concurrent_uploads_accept_each_number_once() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let numbers: Vec<u64> = (5_491_100_000_000..5_491_100_012_000).collect();
    let uploads = (0..4).map(|_| {
        let mut mine: Vec<u64> = numbers.iter().copied().filter(|_| rng.random_bool(0.6)).collect();
        mine.shuffle(&mut rng);
        mine
    });
    let uploads: Vec<Vec<u64>> = uploads.collect();
    let union: HashSet<u64> = uploads.iter().flatten().copied().collect();
    let results = futures_util::future::join_all(uploads.iter().map(|mine| async {
        let other = intake(world.redis.url()).await;
        other.upload(id, None, Format::Ndjson, body(&rows(mine.iter().copied()))).await.expect("accepted")
    }));
    let results = results.await;
    assert_eq!(results.iter().map(|result| result.accepted).sum::<u64>(), union.len() as u64);
    for (result, mine) in results.iter().zip(&uploads) {
        assert_eq!(result.accepted + result.rejected_count, mine.len() as u64);
    }
    let mut expected: Vec<u64> = union.into_iter().collect();
    expected.sort_unstable();
    assert_eq!(world.numbers(id).await, expected);
}

#[tokio::test]
async fn a_repeat_completes_an_upload_whose_body_was_cut() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::start().await;
    for _ in 0..12 {
        let n = rng.random_range(1..9_000);
        let text = mixed(&mut rng, n);
        let expected = expected_result(&world, &text).await;
        let id = world.draft("order_update/es_AR").await;
        for _ in 0..3 {
            let cut = rng.random_range(0..text.len());
            let pieces = text.as_bytes()[..cut].chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
            let broken = stream::iter(pieces.collect::<Vec<_>>()).chain(stream::iter([Err("reset by peer")]));
            let error = world.intake.upload(id, Some("u"), Format::Ndjson, broken).await.expect_err("cut");
            assert!(matches!(error, IntakeError::Interrupted(_)), "{error}");
        }
        assert_eq!((world.upload(id, Some("u"), &text).await.expect("repeated"), world.numbers(id).await), expected);
        // Repeated once more, as after a lost response.
        assert_eq!((world.upload(id, Some("u"), &text).await.expect("repeated"), world.numbers(id).await), expected);
    }
}

#[tokio::test]
async fn a_repeat_completes_an_upload_cut_off_from_redis_at_any_byte() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let text = mixed(&mut rng, 2_500);
    let expected = expected_result(&world, &text).await;
    let cutter = Cutter::before(world.redis.url());
    let cut_off = intake(&cutter.url()).await;

    let all = i64::MAX / 2;
    cutter.cut_after(all);
    let id = world.draft("order_update/es_AR").await;
    upload(&cut_off, id, &text).await.expect("not cut yet");
    let bytes = cutter.used_of(all);

    let mut cuts = 0;
    for turn in 0..60 {
        let id = world.draft("order_update/es_AR").await;
        // An upload ends with many short commands. Half of the cuts are among them.
        let from = if turn % 2 == 0 { 0 } else { bytes - 4_000 };
        cutter.cut_after(rng.random_range(from..bytes));
        let result = upload(&cut_off, id, &text).await;
        cutter.restore();
        cuts += u32::from(matches!(result, Err(IntakeError::Store(StoreError::OutcomeUnknown(_)))));
        match turn % 3 {
            0 => {
                assert_eq!(
                    (world.upload(id, Some("u"), &text).await.expect("repeated"), world.numbers(id).await),
                    expected
                );
            }
            // Not repeated: the admitted recipients are sent or cancelled, wherever the upload was cut.
            1 => {
                let launched = world.intake.act(id, CampaignAction::Launch).await;
                let n = world.numbers(id).await.len() as u64;
                assert_eq!(world.count(id, State::Pending).await, n);
                assert_eq!(launched.is_ok(), n > 0, "{launched:?}");
            }
            _ => {
                world.intake.act(id, CampaignAction::Cancel).await.expect("cancelled");
                let n = world.numbers(id).await.len() as u64;
                assert_eq!(world.count(id, State::Cancelled).await, n);
            }
        }
    }
    assert!(cuts >= 50, "{cuts} cuts");
}

/// All keys in Redis, sorted, except fences, which are written while waiting for durability.
async fn keys(world: &World) -> Vec<String> {
    let mut keys: Vec<String> = world.store().query("KEYS", cmd("KEYS").arg("*")).await.expect("redis");
    // There is one fence for each server, and fences expire.
    keys.retain(|key| !key.contains(":fence:"));
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_campaign_deleted_during_an_upload_leaves_no_key() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let new = || new_campaign("order_update/es_AR", json!({ "external_id": "spring-1" }));
    let mut text = rows(5_491_100_000_000..5_491_100_003_500);
    text.push_str("not json\n");
    // Creates and deletes a campaign, to learn which keys remain without one.
    let id = world.intake.submit(new()).await.expect("a draft").id;
    world.intake.delete(id).await.expect("deleted");
    let before = keys(&world).await;
    assert!(before.iter().all(|key| !key.contains(&id.to_string()) && !key.contains("spring-1")), "{before:?}");

    let cutter = Cutter::before(world.redis.url());
    let held = intake(&cutter.url()).await;
    let all = i64::MAX / 2;
    cutter.cut_after(all);
    let id = world.intake.submit(new()).await.expect("a draft").id;
    upload(&held, id, &text).await.expect("not held yet");
    let bytes = cutter.used_of(all);
    assert!(keys(&world).await.len() > before.len() + 10);
    world.intake.delete(id).await.expect("deleted");
    assert_eq!(keys(&world).await, before, "after deleting a draft with recipients");

    for turn in 0..60 {
        let next = world.intake.submit(new()).await.expect("a draft").id;
        assert_ne!(next, id, "the external id is free");
        // The commands after the commit are short. Half of the pauses are among them.
        let from = if turn % 2 == 0 { 0 } else { bytes - 1_500 };
        cutter.hold_after(rng.random_range(from..bytes - 1));
        let delete = async { world.intake.delete(next).await.expect("deleted") };
        let uploaded = cutter.held(upload(&held, next, &text), delete).await;
        let is_gone = matches!(uploaded, Ok(_) | Err(IntakeError::NotFound(_) | IntakeError::State { .. }));
        assert!(is_gone, "turn {turn}: {uploaded:?}");
        assert_eq!(keys(&world).await, before, "turn {turn}, {uploaded:?}");
    }
}

#[tokio::test]
async fn late_housekeeping_leaves_no_key_of_a_deleted_campaign() {
    let world = World::start().await;
    let new = || new_campaign("order_update/es_AR", json!({ "recipients": [row(5_491_155_550_001)] }));
    let deleted = async || {
        let id = world.intake.submit(new()).await.expect("a draft").id;
        world.intake.delete(id).await.expect("deleted");
        id
    };
    deleted().await;
    let before = keys(&world).await;

    let cutter = Cutter::before(world.redis.url());
    let held = intake(&cutter.url()).await;
    let now = held.clock.now();
    let all = i64::MAX / 2;
    cutter.cut_after(all);
    let id = world.intake.submit(new()).await.expect("a draft").id;
    held.store.follow(id, now).await.expect("followed");
    let bytes = cutter.used_of(all);
    world.intake.delete(id).await.expect("deleted");
    for at in (1..bytes - 1).step_by(40) {
        let id = world.intake.submit(new()).await.expect("a draft").id;
        cutter.hold_after(at);
        let delete = async { world.intake.delete(id).await.expect("deleted") };
        let followed = cutter.held(held.store.follow(id, now), delete).await;
        followed.expect("nothing to follow");
        assert_eq!(keys(&world).await, before, "held after {at} bytes");
    }
    let id = deleted().await;
    world.store().retire_campaign(id, now, now).await.expect("nothing to retire");
    assert_eq!(keys(&world).await, before, "after retiring a deleted campaign");
}

async fn upload(intake: &Intake, id: CampaignId, text: &str) -> Result<UploadResult, IntakeError> {
    intake.upload(id, Some("u"), Format::Ndjson, body(text)).await
}

#[tokio::test]
async fn an_upload_does_not_continue_on_a_restarted_redis() {
    let mut world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let text = rows(5_491_100_000_000..5_491_100_010_000);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, &str>>(1);
    let body = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let other = world.intake.clone();
    let task = tokio::spawn(async move { other.upload(id, Some("u"), Format::Ndjson, Box::pin(body)).await });
    let half = text.len() / 2;
    sender.send(Ok(Bytes::copy_from_slice(&text.as_bytes()[..half]))).await.expect("it reads");
    support::until("a batch is committed", async || {
        world.store().campaign(id).await.expect("redis").expect("it").numbers > 0
    })
    .await;
    world.redis.stop().await;
    world.redis.restart().await;
    world.intake = intake(world.redis.url()).await;
    // The pool has new connections. The upload must not continue on one.
    let rest = sender.send(Ok(Bytes::copy_from_slice(&text.as_bytes()[half..]))).await;
    drop(sender);
    let error = task.await.expect("no panic").expect_err("cut");
    assert!(matches!(error, IntakeError::Store(StoreError::OutcomeUnknown(_))), "{error} {rest:?}");
    assert_eq!(world.upload(id, Some("u"), &text).await.expect("repeated").accepted, 10_000);
    assert_eq!(world.numbers(id).await.len(), 10_000);
}

#[tokio::test]
async fn an_upload_id_with_other_rows_is_a_conflict() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let text = rows(5_491_100_000_000..5_491_100_002_100);
    let first = world.upload(id, Some("u"), &text).await.expect("accepted");
    let before = world.numbers(id).await;
    let longer = format!("{text}{}", rows([5_491_100_009_999]));
    let shorter = rows(5_491_100_000_000..5_491_100_002_099);
    let other = text.replacen("María 0", "Mario 0", 1);
    for (what, text) in [("longer", longer), ("shorter", shorter), ("other values", other), ("empty", String::new())] {
        let error = world.upload(id, Some("u"), &text).await.expect_err(what);
        assert!(matches!(error, IntakeError::UploadConflict), "{what}: {error}");
    }
    assert_eq!(world.numbers(id).await, before);

    // The same rows with other line breaks, when the campaign no longer accepts uploads.
    world.intake.act(id, CampaignAction::Launch).await.expect("launched");
    assert_eq!(world.upload(id, Some("u"), &text.replace('\n', "\r\n\r\n")).await.expect("the same rows"), first);
    let error = world.upload(id, Some("v"), &text).await.expect_err("it runs");
    assert!(matches!(error, IntakeError::State { state: CampaignState::Running, .. }), "{error}");

    for bad in ["", "with blank", "ñ", &"x".repeat(129)] {
        let error = world.upload(id, Some(bad), &text).await.expect_err(bad);
        assert!(matches!(error, IntakeError::Invalid(_)), "{bad}: {error}");
    }
}

#[tokio::test]
async fn a_callers_upload_id_never_clashes_with_an_internal_one() {
    let world = World::start().await;
    let new = new_campaign("order_update/es_AR", json!({ "recipients": [row(5_491_155_550_001)] }));
    let id = world.intake.submit(new).await.expect("accepted").id;
    let result = world.upload(id, Some("create"), &rows([5_491_155_550_002])).await.expect("another upload");
    assert_eq!(result.accepted, 1);
}

#[tokio::test]
async fn concurrent_requests_with_one_upload_id_are_one_upload() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let text = mixed(&mut rng, 7_000);
    let expected = expected_result(&world, &text).await;
    let id = world.draft("order_update/es_AR").await;
    let other = intake(world.redis.url()).await;
    let until_taken = async |intake: &Intake| loop {
        match upload(intake, id, &text).await {
            Ok(result) => return result,
            Err(IntakeError::UploadInProgress) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (one, two) = tokio::join!(until_taken(&world.intake), until_taken(&other));
    assert_eq!((one, world.numbers(id).await), expected);
    assert_eq!(two, expected.0);
}

#[tokio::test]
async fn the_first_thousand_rejections_are_returned_in_row_order() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let (mut text, mut expected, mut seen) = (String::new(), Vec::new(), HashSet::new());
    for number in 1..=6_000u64 {
        let phone = 5_491_100_000_000 + rng.random_range(0..3_000);
        if rng.random_bool(0.2) {
            text.push_str("{}\n");
            expected.push((number, "malformed".to_owned()));
        } else {
            text.push_str(&format!("{}\n", row(phone)));
            if !seen.insert(phone) {
                expected.push((number, "duplicate".to_owned()));
            }
        }
    }
    let id = world.draft("order_update/es_AR").await;
    let result = world.upload(id, None, &text).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (seen.len() as u64, expected.len() as u64));
    expected.truncate(1_000);
    let rejections: Vec<_> = result.rejected.into_iter().map(|rejection| (rejection.row, rejection.code)).collect();
    assert_eq!(rejections, expected);
}

#[tokio::test]
async fn small_uploads_are_distributed_by_the_rates_of_the_lines() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    for start in (0..8_000).step_by(20) {
        world.upload(id, None, &rows((start..start + 20).map(|n| 5_491_100_000_000 + n))).await.expect("accepted");
    }
    let recipients = world.recipients(id).await;
    let slow = recipients.iter().filter(|(line, _)| line.as_str() == "3001").count();
    // 80 of 320 messages a second.
    assert!((1_900..=2_100).contains(&slow), "{slow} of {}", recipients.len());
}

#[tokio::test]
async fn an_upload_of_duplicates_stores_nothing() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let text = rows(5_491_100_000_000..5_491_100_003_000);
    world.upload(id, None, &text).await.expect("accepted");
    let chunks = async || {
        let record = world.store().campaign(id).await.expect("redis").expect("it");
        let mut n = 0;
        for (part, _) in record.parts {
            n += world.store().chunk_starts(part).await.expect("chunks").len();
        }
        n
    };
    let before = chunks().await;
    assert_eq!(world.upload(id, None, &text).await.expect("accepted").accepted, 0);
    assert_eq!(chunks().await, before);
}

#[tokio::test]
async fn a_full_campaign_rejects_more_and_stays_readable() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    // As if all 65,536 parts were in use, and the last part of each line full.
    let fill = "for part = 0, 65535 do redis.call('HSET', KEYS[1], 'line:' .. part, part % 2 == 0 and '3001' or '3002') end
        redis.call('HSET', KEYS[1], 'parts', 65536, 'open:3001', 65534, 'used:3001', 65536, 'open:3002', 65535, 'used:3002', 65536)";
    let fill = cmd("EVAL").arg(fill).arg(1).arg(world.store().keys.campaign(id)).take();
    world.store().query::<Value>("EVAL", &fill).await.expect("filled");
    let error = world.upload(id, None, &rows([5_491_155_550_001])).await.expect_err("full");
    assert!(matches!(error, IntakeError::TooManyRecipients(_)), "{error}");
    assert_eq!(world.store().campaign(id).await.expect("readable").expect("it").parts.len(), 65_536);
}

#[tokio::test]
async fn a_hundred_thousand_recipients_fit_in_100_bytes_each() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let id = world.draft("welcome/en_GB").await;
    let n = 100_000u64;
    let names = ["Ana", "María", "José", "Juan Carlos", "Lucía", "Sofía", "Mateo", "Valentina", "Benjamín", "Martina"];
    let mut numbers = HashSet::new();
    while (numbers.len() as u64) < n {
        numbers.insert(5_491_100_000_000 + rng.random_range(0..99_999_999u64));
    }
    let mut text = String::with_capacity(12 << 20);
    for number in &numbers {
        let name = names[rng.random_range(0..names.len())];
        let params = json!({ "first_name": name, "order_number": format!("A-{}", rng.next_u32() % 1_000_000) });
        text.push_str(&format!("{}\n", json!({ "to": format!("+{number}"), "header": "Acme", "params": params })));
    }
    let result = world.upload(id, None, &text).await.expect("accepted");
    assert_eq!((result.accepted, result.rejected_count), (n, 0));
    world.intake.act(id, CampaignAction::Launch).await.expect("launched");
    assert_eq!(world.recipients(id).await.len() as u64, n);

    let (index, all) = memory(&world, id).await;
    println!("bytes a recipient: index of numbers {:.1}, in all {:.1}", index as f64 / n as f64, all as f64 / n as f64);
    assert!(index <= 20 * n, "{index} bytes for the index of {n} numbers");
    assert!(all <= 100 * n, "{all} bytes for {n} recipients");
}

#[tokio::test]
async fn concurrent_uploads_keep_the_index_of_numbers_small() {
    let world = World::start().await;
    let id = world.draft("order_update/es_AR").await;
    let uploads = (0..12).map(|upload| {
        let world = &world;
        async move {
            let numbers = (0..2_000).map(|n| 5_491_100_000_000 + upload * 2_000 + n);
            world.upload(id, None, &rows(numbers)).await.expect("accepted")
        }
    });
    futures_util::future::join_all(uploads).await;
    let (index, _) = memory(&world, id).await;
    assert!(index <= 20 * 24_000, "{index} bytes for the index of 24000 numbers");
}

/// Redis memory of a campaign in bytes: its index of numbers, and its total.
async fn memory(world: &World, id: CampaignId) -> (u64, u64) {
    let (mut index, mut all) = (0, 0);
    let mut redis = world.redis.connection().await;
    let keys: Vec<String> = cmd("KEYS").arg("*").query_async(&mut redis).await.expect("KEYS");
    for key in keys.iter().filter(|key| key.contains(&id.to_string())) {
        let bytes: u64 = cmd("MEMORY")
            .arg("USAGE")
            .arg(key)
            .arg("SAMPLES")
            .arg(0)
            .query_async(&mut redis)
            .await
            .expect("MEMORY USAGE");
        all += bytes;
        index += if key.contains(":n:") { bytes } else { 0 };
    }
    (index, all)
}
