//! Changing the values of campaigns that were submitted.

use pregon::{
    api_types::CampaignChange,
    domain::{CampaignId, CampaignState, Late, UnixMs},
    intake::{CampaignAction, IntakeError},
    redis::{campaigns::StateChange, parts::Claim},
};
use serde_json::{Value, json};

use crate::support::{
    claim_request,
    intake::{World, minutes_from, new_campaign, row},
};

/// A campaign with one recipient in `state`. A draft or scheduled campaign starts in ten minutes.
async fn campaign_in(world: &World, state: CampaignState) -> CampaignId {
    use CampaignState::{Cancelled, Completed, Draft, Paused, Running, Scheduled};
    let start_at = matches!(state, Draft | Scheduled).then(|| minutes_from(world.intake.clock.now(), 10));
    let more = json!({ "recipients": [row(5_491_155_550_001)], "start_at": start_at, "launch": state != Draft });
    let id = world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("accepted").id;
    if matches!(state, Paused | Completed | Cancelled) {
        let now = world.intake.clock.now();
        let changed = world.store().change_campaign(id, &[Running], state, now, None).await;
        assert_eq!(changed.expect("redis"), StateChange::Done);
    }
    assert_eq!(world.store().campaign(id).await.expect("redis").expect("it").state, state);
    id
}

fn change(values: Value) -> CampaignChange {
    serde_json::from_value(values).expect("a change")
}

#[tokio::test]
async fn a_scheduled_campaign_that_was_paused_waits_for_its_start_again() {
    let world = World::start().await;
    let id = campaign_in(&world, CampaignState::Scheduled).await;
    let (paused, _) = world.intake.act(id, CampaignAction::Pause).await.expect("paused");
    assert_eq!((paused.state, paused.started_at), (CampaignState::Paused, None));
    assert_eq!(world.intake.act(id, CampaignAction::Resume).await.expect("resumed").0.state, CampaignState::Scheduled);

    world.intake.act(id, CampaignAction::Pause).await.expect("paused");
    world.intake.amend(id, &change(json!({ "start_at": null }))).await.expect("changed");
    assert_eq!(world.intake.act(id, CampaignAction::Resume).await.expect("resumed").0.state, CampaignState::Running);
}

#[tokio::test]
async fn a_change_replaces_only_the_values_that_it_names() {
    let world = World::start().await;
    let now = world.intake.clock.now();
    let (start_at, expires_at) = (minutes_from(now, 10), minutes_from(now, 60));
    let more = json!({ "external_id": "spring", "start_at": start_at, "expires_at": expires_at });
    let submitted = new_campaign("order_update/es_AR", more);
    let id = world.intake.submit(submitted.clone()).await.expect("accepted").id;

    let later = minutes_from(now, 90);
    let values = change(json!({ "expires_at": later, "priority": 9 }));
    let (record, changed) = world.intake.amend(id, &values).await.expect("changed");
    assert!(changed);
    assert_eq!((record.campaign.start_at, record.campaign.expires_at), (Some(start_at), Some(later)));
    assert_eq!((record.campaign.priority, record.changes, record.applied), (9, 1, record.version));
    let definition = world.store().definitions(&[id]).await.expect("redis").pop().flatten().expect("it");
    assert_eq!((definition.campaign, definition.changes), (record.campaign.clone(), 1));

    let (again, changed) = world.intake.amend(id, &values).await.expect("nothing to change");
    assert_eq!((changed, again.version), (false, record.version), "a repeated call changes nothing");
    let removed = change(json!({ "start_at": null, "expires_at": null }));
    let (record, _) = world.intake.amend(id, &removed).await.expect("changed");
    assert_eq!((record.campaign.start_at, record.campaign.expires_at), (None, None));
    assert_eq!(record.campaign.priority, 9);
    assert_eq!(world.intake.submit(submitted).await.expect("it can still be repeated").id, id);
}

#[tokio::test]
async fn a_change_with_invalid_values_changes_nothing() {
    let world = World::start().await;
    let now = world.intake.clock.now();
    let id = campaign_in(&world, CampaignState::Scheduled).await;
    let before = world.store().campaign(id).await.expect("redis").expect("it");
    for (values, text) in [
        (json!({ "start_at": minutes_from(now, -1) }), "name a later time, or null"),
        (json!({ "expires_at": minutes_from(now, -1) }), "which is over"),
        (json!({ "expires_at": minutes_from(now, 5) }), "expires_at must be after start_at"),
        (json!({ "priority": 11 }), "priority is 11: it must be 1 to 10"),
        (json!({ "send_window": { "from": "20:00", "to": "09:00", "zone": "UTC" } }), "later on the same day"),
        (json!({ "send_window": { "from": "09:00", "to": "20:00", "zone": "Bogota" } }), "no time zone"),
        (json!({ "rate": 0 }), "rate is 0: it must be 0.01 to 1000000"),
    ] {
        let error = world.intake.amend(id, &change(values)).await.expect_err(text);
        assert!(matches!(error, IntakeError::Invalid(_)) && error.to_string().contains(text), "{error}");
    }
    assert_eq!(world.store().campaign(id).await.expect("redis").expect("it").version, before.version);
}

#[tokio::test]
async fn a_start_that_has_passed_and_an_ended_campaign_are_not_changed() {
    let world = World::start().await;
    let start_at = json!({ "start_at": minutes_from(world.intake.clock.now(), 10) });
    for (state, values) in [
        (CampaignState::Running, start_at.clone()),
        (CampaignState::Paused, start_at),
        (CampaignState::Running, json!({ "late": "hold" })),
        (CampaignState::Completed, json!({ "priority": 1 })),
        (CampaignState::Cancelled, json!({ "priority": 1 })),
    ] {
        let id = campaign_in(&world, state).await;
        let error = world.intake.amend(id, &change(values)).await.expect_err("refused");
        assert!(matches!(error, IntakeError::State { .. }), "{error}");
    }
    let id = campaign_in(&world, CampaignState::Running).await;
    assert!(world.intake.amend(id, &change(json!({ "priority": 1 }))).await.expect("changed").1);
}

#[tokio::test]
async fn a_changed_campaign_requires_what_its_new_values_need() {
    let world = World::start().await;
    let id = campaign_in(&world, CampaignState::Scheduled).await;
    let window = json!({ "from": "09:00", "to": "20:00", "days": ["mon"], "zone": "America/Bogota" });
    let (record, _) = world.intake.amend(id, &change(json!({ "send_window": window }))).await.expect("changed");
    assert_eq!(serde_json::to_value(&record.campaign.send_window).expect("JSON"), window);
    assert_eq!(record.campaign.requires, ["send_window"]);
    world.intake.amend(id, &change(json!({ "send_window": null }))).await.expect("changed");
    let (record, _) = world.intake.amend(id, &change(json!({ "rate": 50, "late": "hold" }))).await.expect("changed");
    assert_eq!((record.campaign.rate, record.campaign.late), (Some(50.0), Late::Hold));
    assert_eq!(record.campaign.requires, ["rate", "late"]);
    let (record, _) = world.intake.amend(id, &change(json!({ "rate": null, "late": "send" }))).await.expect("changed");
    assert_eq!((record.campaign.rate, record.campaign.requires), (None, Vec::<String>::new()));
}

#[tokio::test]
async fn a_new_expiry_reaches_the_parts_of_a_running_campaign() {
    let world = World::start().await;
    let id = campaign_in(&world, CampaignState::Running).await;
    let (part, _) = world.store().campaign(id).await.expect("redis").expect("it").parts[0];
    let now = world.intake.clock.now();
    let at = minutes_from(now, 30);
    let claim = async |number, now: UnixMs| {
        world.store().claim(part, &claim_request(1, now, number, now)).await.expect("a claim")
    };
    world.intake.amend(id, &change(json!({ "expires_at": at }))).await.expect("changed");
    assert!(matches!(claim(1, at).await, Claim::Expired { .. }));
    world.intake.amend(id, &change(json!({ "expires_at": null }))).await.expect("changed");
    assert!(matches!(claim(2, at).await, Claim::Rows { .. }));
}

#[tokio::test]
async fn concurrent_changes_of_a_campaign_all_succeed() {
    let world = World::start().await;
    let id = campaign_in(&world, CampaignState::Scheduled).await;
    let now = world.intake.clock.now();
    let (start_at, expires_at) = (minutes_from(now, 20), minutes_from(now, 90));
    let changes = [json!({ "start_at": start_at }), json!({ "expires_at": expires_at }), json!({ "priority": 3 })];
    let calls = changes.map(|values| {
        let intake = world.intake.clone();
        async move { intake.amend(id, &change(values)).await.expect("changed") }
    });
    futures_util::future::join_all(calls).await;
    let campaign = world.store().campaign(id).await.expect("redis").expect("it").campaign;
    assert_eq!((campaign.start_at, campaign.expires_at, campaign.priority), (Some(start_at), Some(expires_at), 3));
}

#[tokio::test]
async fn new_values_are_no_new_state_for_the_event_feed() {
    let world = World::start().await;
    let id = campaign_in(&world, CampaignState::Running).await;
    let told = async || world.store().told_versions(&[id]).await.expect("redis")[0];
    let version = world.store().campaign(id).await.expect("redis").expect("it").version;
    world.store().set_told_version(id, version).await.expect("redis");
    let (record, _) = world.intake.amend(id, &change(json!({ "priority": 2 }))).await.expect("changed");
    assert_eq!(told().await, Some(record.version));

    world.store().set_told_version(id, version).await.expect("redis");
    world.intake.amend(id, &change(json!({ "priority": 3 }))).await.expect("changed");
    assert_eq!(told().await, Some(version), "a state that was not told is not skipped");
}
