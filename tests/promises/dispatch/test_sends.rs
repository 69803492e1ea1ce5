//! Test sends: the message of a campaign to a few numbers, without effect on the campaign.

use std::time::Duration;

use pregon::{
    api_types::NewTest,
    domain::{CampaignId, CampaignState, Phone, State},
    intake::{CampaignAction, IntakeError},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::support::{
    cutter::Cutter,
    hostile::{AcceptAll, Meta},
    intake::{World, intake, minutes_from, new_campaign, row},
    seed,
    world::{self, TestWorker, line, settings},
};

/// A draft that starts in a day, with the recipients `5491100000001` to `549110000000n`.
async fn draft(world: &World, n: u64) -> CampaignId {
    let recipients: Vec<_> = (1..=n).map(|n| row(5_491_100_000_000 + n)).collect();
    let start_at = minutes_from(world.intake.clock.now(), 24 * 60);
    let window = json!({ "from": "03:00", "to": "03:01", "days": ["mon"], "zone": "UTC" });
    let more = json!({ "recipients": recipients, "start_at": start_at, "send_window": window, "rate": 0.01 });
    world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("a campaign").id
}

fn test(to: &[&str], external_id: Option<&str>) -> NewTest {
    let to = to.iter().map(|number| number.parse().expect("a number")).collect();
    NewTest { to, external_id: external_id.map(str::to_owned) }
}

/// The numbers of a campaign with their values.
async fn values(world: &World, id: CampaignId) -> Vec<(Phone, Vec<String>)> {
    let recipients = world.recipients(id).await;
    recipients.into_iter().map(|(_, recipient)| (recipient.to, recipient.values)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_arrives_once_with_the_values_of_the_first_recipients() {
    let world = World::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let id = draft(&world, 2).await;
    let before = world.store().campaign(id).await.expect("redis").expect("a campaign");
    let test = test(&["+5491155550001", "+5491155550002", "+5491155550003"], Some("test-1"));
    let sent = world.intake.send_test(id, &test).await.expect("a test");
    assert!(sent.created && sent.upload.accepted == 3, "{sent:?}");
    let again = world.intake.send_test(id, &test).await.expect("the same test");
    assert_eq!((again.id, again.created, again.upload), (sent.id, false, sent.upload));

    let record = world.store().campaign(sent.id).await.expect("redis").expect("a campaign");
    let campaign = &record.campaign;
    assert_eq!((campaign.test_of, campaign.priority, campaign.name.as_str()), (Some(id), 10, "Test of Spring"));
    assert_eq!((campaign.start_at, campaign.rate, &campaign.send_window), (None, None, &None));
    let (samples, tests) = (values(&world, id).await, values(&world, sent.id).await);
    let number = |index: usize| test.to[index];
    let expected = [0, 1, 2].map(|index| (number(index), samples[index % 2].1.clone()));
    assert_eq!(tests, expected, "a third number begins again with the first recipient");

    let worker =
        TestWorker::start("w1", &world.redis, &meta.url(), &[line("3001", 100.0), line("3002", 100.0)], settings())
            .await;
    let record = world::wait_for_state(world.store(), sent.id, CampaignState::Completed).await;
    assert_eq!(world::counts(world.store(), &record).await.by_state[&State::Accepted], 3);
    let mut arrived: Vec<String> = meta.arrivals().into_iter().map(|arrival| format!("+{}", arrival.to)).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, ["+5491155550001", "+5491155550002", "+5491155550003"]);
    let again = world.intake.send_test(id, &test).await.expect("the same test, after its end");
    assert_eq!((again.id, again.state), (sent.id, CampaignState::Completed));
    worker.stop().await;

    let after = world.store().campaign(id).await.expect("redis").expect("a campaign");
    assert_eq!((after.state, after.version, after.numbers), (before.state, before.version, before.numbers));
    assert_eq!(world::count(world.store(), id, State::Pending).await, 2, "its own recipients have not got it");
}

#[tokio::test]
async fn a_test_that_cannot_be_sent_says_why() {
    let world = World::start().await;
    let refused = async |id: CampaignId, test: NewTest| {
        let error = world.intake.send_test(id, &test).await.expect_err("a refusal");
        (error.kind(), error.to_string())
    };
    let one = || test(&["+5491155550001"], None);
    let empty = world.draft("order_update/es_AR").await;
    assert_eq!(
        refused(empty, one()).await,
        ("campaign-empty", format!("campaign {empty} has no recipients: upload some first"))
    );
    let forgotten = draft(&world, 1).await;
    let store = world.store();
    let around = store.surroundings(&world.intake.lines.get(), &[]).await.expect("redis");
    let person: Phone = "+5491100000001".parse().expect("a number");
    store.forget(person.into(), &around, world.intake.clock.now()).await.expect("redis");
    let (kind, text) = refused(forgotten, one()).await;
    let expected = format!("all recipients of campaign {forgotten} were forgotten, and a test needs the values of one");
    assert!(kind == "campaign-empty" && text.starts_with(&expected), "{text}");
    assert_eq!(store.newest_campaigns(None, 10).await.expect("redis").len(), 2, "no test is left as a draft");
    let id = draft(&world, 1).await;
    assert_eq!(refused(id, test(&[], None)).await, ("invalid", "to has 0 numbers: it must have 1 to 10".to_owned()));
    let many: Vec<String> = (0..11).map(|n| format!("+54911555500{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(id, test(&many, None)).await.0, "invalid");
    let twice = refused(id, test(&["+5491155550001", "+541155550001"], None)).await;
    assert_eq!(twice, ("invalid", "to names a person twice: leave one of the numbers out".to_owned()));

    let other = draft(&world, 1).await;
    let sent = world.intake.send_test(other, &test(&["+5491155550001"], Some("t"))).await.expect("a test").id;
    let (kind, text) = refused(id, test(&["+5491155550001"], Some("t"))).await;
    let expected =
        format!("campaign {sent} has the external_id t already, and its test_of is {other} there and {id} here");
    assert!(kind == "campaign-conflict" && text.starts_with(&expected), "{text}");
    let (kind, text) = refused(other, test(&["+5491155550002"], Some("t"))).await;
    assert!(kind == "campaign-conflict" && text.contains("its numbers are others"), "{text}");

    world.intake.act(id, CampaignAction::Cancel).await.expect("cancelled");
    assert_eq!(
        refused(id, one()).await,
        ("campaign-state", format!("campaign {id} is cancelled: it can't be tested any more"))
    );
    let unknown: CampaignId = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
    assert!(matches!(world.intake.send_test(unknown, &one()).await, Err(IntakeError::NotFound(_))));
}

#[tokio::test]
async fn a_repeat_completes_a_test_cut_off_from_redis_at_any_byte() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let cutter = Cutter::before(world.redis.url());
    let cut_off = intake(&cutter.url()).await;
    let id = draft(&world, 1).await;
    let test = |n: usize| test(&["+5491155550001"], Some(&format!("test-{n}")));
    let all = i64::MAX / 2;
    cutter.cut_after(all);
    cut_off.send_test(id, &test(0)).await.expect("not cut yet");
    let bytes = cutter.used_of(all);
    let mut cuts = 0;
    for turn in 1..=30 {
        cutter.cut_after(rng.random_range(0..bytes));
        cuts += usize::from(cut_off.send_test(id, &test(turn)).await.is_err());
        cutter.restore();
        let sent = world.intake.send_test(id, &test(turn)).await.expect("repeated");
        assert_eq!((sent.state, sent.upload.accepted), (CampaignState::Running, 1));
        assert_eq!(world.numbers(sent.id).await, [5_491_155_550_001]);
    }
    assert!(cuts >= 20, "{cuts} cuts");
}
