//! Retries of dead letters: the job takes effect once, as if it came in its first entry, or becomes a new dead letter.

use std::{collections::HashMap, ops::Range};

use pregon::{
    domain::{CampaignState, EntryId, State},
    intake::IntakeError,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::jobs::{Backend, Reader, apply_through_kills, campaign, find, recipients};
use crate::support::{
    intake::{World, row},
    seed,
};

const NUMBERS: Range<u64> = 5_491_100_000_000..5_491_100_000_003;

impl Backend {
    /// The ids and codes of the dead letters, oldest first.
    async fn dead_codes(&mut self) -> Vec<(String, String)> {
        let letters: Vec<(String, HashMap<String, String>)> =
            self.redis(&["XRANGE", "pregon:jobs:dead", "-", "+"]).await;
        letters.into_iter().map(|(id, mut letter)| (id, letter.remove("code").expect("a code"))).collect()
    }
}

/// Retries a dead letter, and returns the entry of the retry.
async fn retry(world: &World, id: &str) -> String {
    world.intake.retry_dead_letter(id.parse().expect("an id")).await.expect("a dead letter").to_string()
}

/// Adds a job that pauses the campaign `spring`, before the job that creates and launches it. Returns the dead letter
/// of the pause, once the reader has stopped.
async fn dead_pause(world: &World, backend: &mut Backend) -> String {
    let reader = Reader::start(&world.intake, "w1");
    let pause = backend.add(&json!({ "type": "pause", "external_id": "spring" })).await;
    backend.add(&campaign("spring", json!({ "recipients": [row(NUMBERS.start)], "launch": true }))).await;
    backend.drained().await;
    reader.stop().await;
    pause
}

fn pair(id: &str, code: &str) -> (String, String) {
    (id.to_owned(), code.to_owned())
}

#[tokio::test]
async fn a_retried_job_takes_effect_and_its_dead_letter_is_gone() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    let upload = backend.add(&recipients("spring", None, NUMBERS)).await;
    let launch = backend.add(&json!({ "type": "launch", "external_id": "spring" })).await;
    backend.add(&campaign("spring", json!({}))).await;
    backend.drained().await;
    let expected = [pair(&upload, "campaign-not-found"), pair(&launch, "campaign-not-found")];
    assert_eq!(backend.dead_codes().await, expected);

    retry(&world, &upload).await;
    retry(&world, &launch).await;
    backend.drained().await;
    let record = find(&world, "spring").await;
    assert_eq!((record.state, record.numbers), (CampaignState::Running, 3));
    assert_eq!(backend.dead_codes().await, []);
    reader.stop().await;
}

#[tokio::test]
async fn a_job_that_fails_again_is_a_new_dead_letter() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    let job = json!({ "type": "launch", "external_id": "spring" });
    let first = backend.add(&job).await;
    backend.drained().await;
    backend.add(&campaign("spring", json!({}))).await;
    let second = retry(&world, &first).await;
    backend.drained().await;
    let third = retry(&world, &second).await;
    backend.drained().await;
    assert_eq!(backend.dead_codes().await, [pair(&third, "campaign-empty")]);
    let letter = backend.dead().await.remove(0);
    assert_eq!((&letter["id"], &letter["job"]), (&first, &job.to_string()), "the entry of the job");
    reader.stop().await;
}

/// The retry uses the id of the job's first entry. Otherwise the campaign would be created again, and its rows would be
/// duplicates.
#[tokio::test]
async fn a_retry_repeats_what_its_job_did_before_without_conflict() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    let with_bad_row = |first: u64| json!([row(first), { "to": "12" }, row(first + 1)]);
    let mut job = campaign("", json!({ "recipients": with_bad_row(NUMBERS.start), "launch": true }));
    job.as_object_mut().expect("an object").remove("external_id");
    let campaign_entry = backend.add(&job).await;
    backend.add(&campaign("summer", json!({}))).await;
    let mut job = recipients("summer", None, NUMBERS);
    job["recipients"] = with_bad_row(NUMBERS.start);
    let upload_entry = backend.add(&job).await;
    backend.drained().await;

    let (mut campaign_letter, mut upload_letter) = (campaign_entry.clone(), upload_entry.clone());
    for _ in 0..2 {
        campaign_letter = retry(&world, &campaign_letter).await;
        upload_letter = retry(&world, &upload_letter).await;
        backend.drained().await;
    }
    let code = "recipients-rejected";
    assert_eq!(backend.dead_codes().await, [pair(&campaign_letter, code), pair(&upload_letter, code)]);
    for letter in backend.dead().await {
        let rejected: Value = serde_json::from_str(&letter["rejected"]).expect("JSON");
        let rows = rejected.as_array().expect("a list");
        assert_eq!((rows.len(), &rows[0]["row"], &rows[0]["code"]), (1, &json!(2), &json!("not_e164")), "{rejected}");
    }
    assert_eq!(world.store().newest_campaigns(None, 10).await.expect("campaigns").len(), 2);
    let launched = find(&world, &format!("job:{campaign_entry}")).await;
    assert_eq!((launched.state, launched.numbers), (CampaignState::Running, 2));
    assert_eq!(find(&world, "summer").await.numbers, 2);
    reader.stop().await;
}

#[tokio::test]
async fn a_dead_letter_that_is_retried_twice_takes_effect_once() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let pause = dead_pause(&world, &mut backend).await;
    retry(&world, &pause).await;
    backend.add_action("resume", "spring").await;
    retry(&world, &pause).await;
    let reader = Reader::start(&world.intake, "w2");
    backend.drained().await;
    let record = find(&world, "spring").await;
    assert_eq!((record.state, record.version), (CampaignState::Running, 3), "launched, paused, resumed");
    assert_eq!(backend.dead_codes().await, []);
    reader.stop().await;
}

#[tokio::test]
async fn a_deleted_dead_letter_is_not_retried() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let pause = dead_pause(&world, &mut backend).await;
    let id: EntryId = pause.parse().expect("an id");
    retry(&world, &pause).await;
    world.intake.delete_dead_letter(id).await.expect("deleted");
    let reader = Reader::start(&world.intake, "w2");
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Running);
    assert_eq!(backend.dead_codes().await, []);
    for gone in [world.intake.retry_dead_letter(id).await.map(drop), world.intake.delete_dead_letter(id).await] {
        assert!(matches!(gone, Err(IntakeError::NoDeadLetter(gone)) if gone == id), "{gone:?}");
    }
    assert_eq!(backend.redis::<u64>(&["XLEN", "pregon:jobs"]).await, 0, "nothing was added to the stream");
    reader.stop().await;
}

/// A process of release 0.1.0 does not know retries, and makes dead letters of them.
#[tokio::test]
async fn a_retry_that_became_a_dead_letter_names_the_one_to_retry() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    let launch = backend.add(&json!({ "type": "launch", "external_id": "spring" })).await;
    backend.drained().await;
    let job = json!({ "type": "retry", "dead_letter": launch }).to_string();
    let EntryId { ms, number } = launch.parse().expect("an id");
    let of_old_release = EntryId { ms, number: number + 1 }.to_string();
    let add = ["XADD", "pregon:jobs:dead", &of_old_release, "code", "job-unreadable", "job", &job];
    backend.redis::<String>(&add).await;
    let retried = retry(&world, &of_old_release).await;
    let unreadable = backend.add(&json!({ "type": "retry", "dead_letter": "yesterday" })).await;
    backend.drained().await;
    let expected =
        [pair(&launch, "campaign-not-found"), pair(&retried, "invalid"), pair(&unreadable, "job-unreadable")];
    assert_eq!(backend.dead_codes().await, expected);
    let reason = &backend.dead().await[1]["reason"];
    assert!(reason.ends_with(&format!("of the dead letter {launch}: retry that one")), "{reason}");
    reader.stop().await;
}

#[tokio::test]
async fn a_retry_is_completed_after_a_crash_between_any_two_steps() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    let job = recipients("spring", None, NUMBERS);
    let old = backend.add(&job).await;
    backend.add(&campaign("spring", json!({}))).await;
    backend.drained().await;
    let new = retry(&world, &old).await;
    backend.drained().await;
    reader.stop().await;
    let letter = |id: &str, job: &Value| [id.to_owned(), old.clone(), job.to_string()];
    let other = recipients("spring", None, NUMBERS.end..NUMBERS.end + 1);
    // What a reader leaves if it dies, and the dead letters that must remain.
    let cases = [
        ("the job has been applied", vec![letter(&old, &job)], vec![]),
        ("it failed and its new letter has been written", vec![letter(&old, &other), letter(&new, &other)], vec![&new]),
        ("the old letter has been deleted", vec![letter(&new, &other)], vec![&new]),
        ("the job has been applied and its letter deleted", vec![], vec![]),
    ];
    for (case, letters, left) in cases {
        backend.redis::<u64>(&["DEL", "pregon:jobs", "pregon:jobs:dead"]).await;
        for [id, entry, job] in &letters {
            let add = ["XADD", "pregon:jobs:dead", id, "reason", "r", "code", "c", "id", entry, "at", "t", "job", job];
            backend.redis::<String>(&add).await;
        }
        let retrying = json!({ "type": "retry", "dead_letter": old }).to_string();
        backend.redis::<String>(&["XADD", "pregon:jobs", &new, "job", &retrying]).await;
        backend.redis::<String>(&["XGROUP", "CREATE", "pregon:jobs", "pregon", "0"]).await;
        let _: deadpool_redis::redis::Value =
            backend.redis(&["XREADGROUP", "GROUP", "pregon", "reader", "STREAMS", "pregon:jobs", ">"]).await;
        let reader = Reader::start(&world.intake, "w2");
        backend.drained().await;
        reader.stop().await;
        let ids: Vec<String> = backend.dead_codes().await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), left, "{case}");
        assert_eq!(
            world.numbers(find(&world, "spring").await.campaign.id).await,
            NUMBERS.collect::<Vec<_>>(),
            "{case}"
        );
    }
}

/// If the stream of jobs was lost, its ids start over and may be lower than those of dead letters.
#[tokio::test]
async fn a_retry_with_the_id_of_any_dead_letter_loses_none() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let job = json!({ "type": "launch", "external_id": "spring" }).to_string();
    for retry_id in ["7-0", "8-0", "6-0"] {
        backend.redis::<u64>(&["DEL", "pregon:jobs", "pregon:jobs:dead"]).await;
        for (id, entry) in [("7-0", "1-0"), ("8-0", "2-0")] {
            let add = ["XADD", "pregon:jobs:dead", id, "reason", "r", "code", "c", "id", entry, "at", "t", "job", &job];
            backend.redis::<String>(&add).await;
        }
        let retrying = json!({ "type": "retry", "dead_letter": "7-0" }).to_string();
        backend.redis::<String>(&["XADD", "pregon:jobs", retry_id, "job", &retrying]).await;
        let reader = Reader::start(&world.intake, "w1");
        backend.drained().await;
        reader.stop().await;
        let letters = backend.dead().await;
        let found: Vec<[&str; 3]> =
            letters.iter().map(|letter| ["id", "code", "job"].map(|field| letter[field].as_str())).collect();
        let expected = [["2-0", "c", job.as_str()], ["1-0", "campaign-not-found", job.as_str()]];
        assert_eq!(found, expected, "the entry of the retry is {retry_id}");
    }
}

#[tokio::test]
async fn no_retry_is_lost_or_repeated_when_readers_are_killed() {
    const JOBS: u64 = 40;
    const ROWS: u64 = 25;
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w");
    let (mut letters, mut hopeless) = (Vec::new(), Vec::new());
    for n in 0..JOBS {
        let start = NUMBERS.start + 100 * n;
        letters.push(backend.add(&recipients("spring", None, start..start + ROWS)).await);
        hopeless.push(backend.add(&json!({ "type": "launch", "external_id": format!("nobody-{n}") })).await);
    }
    backend.add(&campaign("spring", json!({}))).await;
    backend.drained().await;
    reader.stop().await;

    let mut failed_again = Vec::new();
    for (letter, hopeless) in letters.iter().zip(&hopeless) {
        retry(&world, letter).await;
        if rng.random_bool(0.3) {
            retry(&world, letter).await;
        }
        failed_again.push(pair(&retry(&world, hopeless).await, "campaign-not-found"));
    }
    apply_through_kills(&world, &mut backend, &mut rng, 20..200).await;
    let record = find(&world, "spring").await;
    assert_eq!(world.numbers(record.campaign.id).await.len() as u64, JOBS * ROWS);
    assert_eq!(world.count(record.campaign.id, State::Pending).await, JOBS * ROWS);
    assert_eq!(backend.dead_codes().await, failed_again);
}
