//! Recipients grouped by the time zones of their numbers, for a send window that goes by their clocks.

use std::collections::BTreeMap;

use pregon::{api_types::CampaignChange, domain::CampaignId, intake::IntakeError};
use serde_json::{Value, json};

use crate::support::intake::{World, new_campaign, row, rows};

/// A draft with this window.
async fn draft(world: &World, window: Value) -> CampaignId {
    let more = json!({ "lines": ["3001", "3002"], "send_window": window });
    world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("accepted").id
}

fn window(zone: &str) -> Value {
    json!({ "from": "09:00", "to": "20:00", "zone": zone })
}

/// The last digits of the numbers in each group of time zones.
async fn groups(world: &World, id: CampaignId) -> BTreeMap<String, Vec<u64>> {
    let record = world.store().campaign(id).await.expect("redis").expect("it");
    let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (part, _) in &record.parts {
        let group = record.zones.get(&part.number).cloned().unwrap_or_default();
        let recipients = world.recipients_of(*part).await;
        groups.entry(group).or_default().extend(recipients.iter().map(|recipient| recipient.to.digits()));
    }
    groups.values_mut().for_each(|numbers| numbers.sort_unstable());
    groups
}

#[tokio::test]
async fn each_part_has_numbers_of_one_group_of_zones() {
    let world = World::start().await;
    let id = draft(&world, window("recipient")).await;
    let argentina = 5_491_155_550_001..=5_491_155_550_200;
    let (bogota, tijuana, mixed) = (573_001_234_567, 526_641_234_567, 526_141_234_567);
    let numbers = argentina.clone().chain([bogota, tijuana, mixed, 573_001_234_568]);
    assert_eq!(world.upload(id, None, &rows(numbers)).await.expect("an upload").accepted, 204);
    let more = world.upload(id, None, &rows([573_001_234_569])).await.expect("another upload");
    assert_eq!(more.accepted, 1);
    let expected = [
        ("America/Argentina/Buenos_Aires", argentina.collect()),
        ("America/Bogota", vec![bogota, 573_001_234_568, 573_001_234_569]),
        ("America/Chihuahua+America/Mazatlan", vec![mixed]),
        ("America/Tijuana", vec![tijuana]),
    ];
    let expected: BTreeMap<String, Vec<u64>> =
        expected.into_iter().map(|(group, numbers)| (group.to_owned(), numbers)).collect();
    assert_eq!(groups(&world, id).await, expected);
}

#[tokio::test]
async fn rejections_are_in_the_order_of_the_rows_also_if_the_recipients_are_not() {
    let world = World::start().await;
    let id = draft(&world, window("recipient")).await;
    let numbers = [573_001_234_567, 5_491_155_550_001, 573_001_234_567, 12, 5_491_155_550_001];
    let upload = world.upload(id, None, &rows(numbers)).await.expect("an upload");
    assert_eq!((upload.accepted, upload.rejected_count), (2, 3));
    assert_eq!(upload.rejected.iter().map(|rejection| rejection.row).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test]
async fn a_campaign_without_recipient_zones_has_no_groups() {
    let world = World::start().await;
    let id = draft(&world, window("America/Bogota")).await;
    world.upload(id, None, &rows([573_001_234_567, 5_491_155_550_001])).await.expect("an upload");
    let expected = [(String::new(), vec![573_001_234_567, 5_491_155_550_001])];
    assert_eq!(groups(&world, id).await, BTreeMap::from(expected));
}

#[tokio::test]
async fn only_a_campaign_without_recipients_can_begin_to_group_them() {
    let world = World::start().await;
    let change = |zone: &str| -> CampaignChange {
        serde_json::from_value(json!({ "send_window": window(zone) })).expect("a change")
    };
    let empty = draft(&world, window("America/Bogota")).await;
    assert!(world.intake.amend(empty, &change("recipient")).await.expect("changed").1);
    let more = json!({ "recipients": [row(573_001_234_567)], "send_window": window("recipient") });
    let full = world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("accepted").id;
    assert!(world.intake.amend(full, &change("America/Bogota")).await.expect("changed").1);
    let error = world.intake.amend(full, &change("recipient")).await.expect_err("its recipients may not be grouped");
    assert!(matches!(&error, IntakeError::Invalid(_)) && error.to_string().contains("make a new campaign"), "{error}");
}
