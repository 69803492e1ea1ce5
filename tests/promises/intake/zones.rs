//! Recipients grouped by the time zones of their numbers, for send windows in the recipients' time.

use std::collections::BTreeMap;

use bytes::Bytes;
use deadpool_redis::redis::cmd;
use futures_util::stream;
use jiff::tz;
use pregon::{
    api_types::CampaignChange,
    domain::{CampaignId, template::Category},
    intake::{Format, IntakeError},
};
use serde_json::{Value, json};

use crate::support::{
    intake::{World, body, new_campaign, row, rows},
    world::contact_hours,
};

/// A draft with this send window.
async fn draft(world: &World, window: Value) -> CampaignId {
    let more = json!({ "lines": ["3001", "3002"], "send_window": window });
    world.intake.submit(new_campaign("order_update/es_AR", more)).await.expect("accepted").id
}

fn window(zone: &str) -> Value {
    json!({ "from": "09:00", "to": "20:00", "zone": zone })
}

/// The numbers in each group of time zones, by their last digits.
async fn groups(world: &World, id: CampaignId) -> BTreeMap<String, Vec<u64>> {
    let record = world.store().campaign(id).await.expect("redis").expect("it");
    let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (part, _) in &record.parts {
        let group = record.zones.get(&part.number).cloned().unwrap_or_default();
        let recipients = world.recipients_of(*part).await;
        groups.entry(group).or_default().extend(recipients.iter().map(|recipient| recipient.to.digits()));
    }
    groups.values_mut().for_each(|numbers| numbers.sort_unstable());
    groups.retain(|_, numbers| !numbers.is_empty());
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

/// A row that names its time zone.
fn row_in(zone: &str, number: u64) -> Value {
    let mut row = row(number);
    row["zone"] = json!(zone);
    row
}

fn lines_of(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

#[tokio::test]
async fn a_row_may_name_its_time_zone() {
    let world = World::start().await;
    let id = draft(&world, window("recipient")).await;
    let (madrid, bogota) = (34_911_234_567, 573_001_234_567);
    let csv = format!(
        "to,1,2,zone\n+{madrid},a,b,america/bogota\n+{bogota},a,b,\n+34911234568,a,b,Bogota\n+34911234569,a,b,localtime\n"
    );
    let upload = world.intake.upload(id, Some("list"), Format::Csv, body(&csv)).await.expect("an upload");
    assert_eq!((upload.accepted, upload.rejected[0].code.as_str()), (2, "zone_unknown"));
    assert!(upload.rejected[0].reason.contains("zone is “Bogota”"), "{}", upload.rejected[0].reason);
    assert_eq!(upload.rejected[1].code, "zone_unknown", "the clock of the machine is no place's");
    let more = lines_of([row_in("Europe/Madrid", bogota + 1), row_in("Mars", bogota + 2)]);
    let upload = world.upload(id, None, &more).await.expect("an upload");
    assert_eq!((upload.accepted, upload.rejected[0].code.as_str()), (1, "zone_unknown"));
    let expected = [("America/Bogota", vec![madrid, bogota]), ("Europe/Madrid", vec![bogota + 1])];
    assert_eq!(groups(&world, id).await, expected.map(|(zone, numbers)| (zone.to_owned(), numbers)).into());

    let other = csv.replace("america/bogota", "America/Lima");
    let error = world.intake.upload(id, Some("list"), Format::Csv, body(&other)).await.expect_err("other rows");
    assert!(matches!(error, IntakeError::UploadConflict), "{error}");
}

#[tokio::test]
async fn a_zone_has_no_effect_where_the_window_has_its_own() {
    let world = World::start().await;
    let id = draft(&world, window("America/Bogota")).await;
    let rows = lines_of([row_in("Europe/Madrid", 573_001_234_567), row_in("Mars", 573_001_234_568)]);
    let upload = world.upload(id, None, &rows).await.expect("an upload");
    assert_eq!((upload.accepted, upload.rejected[0].code.as_str()), (1, "zone_unknown"));
    assert_eq!(groups(&world, id).await, BTreeMap::from([(String::new(), vec![573_001_234_567])]));
}

#[tokio::test]
async fn a_recipient_for_whom_the_window_never_opens_is_rejected() {
    let world = World::start().await;
    let id = draft(&world, json!({ "from": "09:00", "to": "10:00", "zone": "recipient" })).await;
    // Numbers of Chihuahua or Mazatlan, of Spain or the Canary Islands, and of no country.
    let (mexico, spain, nowhere) = (526_141_234_567, 34_612_345_678, 999_123_456_789);
    let zoned = row_in("America/Chihuahua", mexico + 1);
    let rows = lines_of([row(mexico), row(spain), row(nowhere), row(573_001_234_567), zoned]);
    let upload = world.upload(id, None, &rows).await.expect("an upload");
    let codes: Vec<(u64, &str)> = upload.rejected.iter().map(|reject| (reject.row, reject.code.as_str())).collect();
    assert_eq!((upload.accepted, codes), (2, vec![(1, "never_open"), (2, "never_open"), (3, "never_open")]));
    let reason = &upload.rejected[0].reason;
    assert!(reason.contains("09:00 to 10:00") && reason.contains("America/Chihuahua, America/Mazatlan"), "{reason}");
    assert!(upload.rejected[2].reason.contains("and 3 more"), "{}", upload.rejected[2].reason);
}

#[tokio::test]
async fn rows_of_all_zones_there_are_make_few_parts() {
    let world = World::start().await;
    let id = draft(&world, window("recipient")).await;
    // Nobody lives in Etc/GMT+12, and the others are no time zones.
    let others = ["Etc/GMT+12", "Factory", "localtime", "posixrules"];
    let all = tz::db().available().map(|name| name.to_string());
    let names: Vec<String> = all.filter(|name| !others.contains(&name.as_str())).collect();
    let rows = (573_000_000_000..573_000_004_000).zip(names.iter().cycle()).map(|(number, zone)| row_in(zone, number));
    assert_eq!(world.upload(id, None, &lines_of(rows)).await.expect("an upload").accepted, 4_000);
    let record = world.store().campaign(id).await.expect("redis").expect("it");
    assert!(names.len() > 400 && record.parts.len() < 2 * 320, "{} of {}", record.parts.len(), names.len());
}

#[tokio::test]
async fn with_very_many_parts_a_group_is_not_spread_over_more_lines() {
    const PARTS: u16 = 32_767;
    let world = World::start().await;
    let id = draft(&world, window("recipient")).await;
    let mut fill = cmd("HSET");
    fill.arg(world.store().keys.campaign(id)).arg("parts").arg(PARTS);
    (0..PARTS).for_each(|part| _ = fill.arg(format!("line:{part}")).arg("3001"));
    let () = fill.query_async(&mut world.redis.connection().await).await.expect("redis");
    let zones = ["America/Bogota", "Europe/Madrid", "Asia/Tokyo"];
    let numbers = 573_000_000_000..573_000_000_600;
    let rows = numbers.zip(zones.iter().cycle()).map(|(number, zone)| row_in(zone, number));
    assert_eq!(world.upload(id, None, &lines_of(rows)).await.expect("an upload").accepted, 600);
    let record = world.store().campaign(id).await.expect("redis").expect("it");
    assert_eq!(record.parts.len(), usize::from(PARTS) + zones.len());
    assert_eq!(record.zones.values().collect::<std::collections::BTreeSet<_>>().len(), zones.len());
}

#[tokio::test]
async fn an_upload_during_which_the_window_begins_to_group_is_repeated() {
    let world = World::start().await;
    let id = draft(&world, window("America/Bogota")).await;
    let change: CampaignChange =
        serde_json::from_value(json!({ "send_window": window("recipient") })).expect("a change");
    let file = rows([573_001_234_567]);
    let changing = stream::once(async {
        assert!(world.intake.amend(id, &change).await.expect("changed").1);
        Ok::<_, IntakeError>(Bytes::from(file.clone()))
    });
    let result = world.intake.upload(id, Some("list"), Format::Ndjson, Box::pin(changing)).await;
    let error = result.expect_err("its recipients are not grouped");
    assert!(error.is_transient() && error.to_string().contains("repeat it"), "{error}");
    assert_eq!(world.upload(id, Some("list"), &file).await.expect("an upload").accepted, 1);
    assert_eq!(groups(&world, id).await, BTreeMap::from([("America/Bogota".to_owned(), vec![573_001_234_567])]));
}

#[tokio::test]
async fn a_window_does_not_begin_to_group_after_recipients_have_arrived() {
    let world = World::start().await;
    let id = draft(&world, window("America/Bogota")).await;
    let record = world.store().campaign(id).await.expect("redis").expect("it");
    world.upload(id, None, &rows([573_001_234_567])).await.expect("an upload");
    let mut grouping = record.campaign.clone();
    grouping.send_window = serde_json::from_value(window("recipient")).expect("a window");
    let now = world.intake.clock.now();
    assert!(!world.store().amend_campaign(&record, &grouping, now).await.expect("redis"));
    let mut other = record.campaign.clone();
    other.send_window = None;
    assert!(world.store().amend_campaign(&record, &other, now).await.expect("redis"));
}

#[tokio::test]
async fn numbers_with_contact_hours_have_groups_whatever_the_template() {
    let mut world = World::start().await;
    world.intake.contact_hours = contact_hours("57", "mon = \"07:00-19:00\"").into();
    let (bogota, madrid) = (573_001_234_567, 34_911_234_567);
    let id = world.draft("order_update/es_AR").await;
    let file = lines_of([row(bogota), row(madrid), row_in("Europe/Madrid", bogota + 1)]);
    assert_eq!(world.upload(id, None, &file).await.expect("an upload").accepted, 3);
    let expected = [("", madrid), ("hours|America/Bogota", bogota), ("hours|Europe/Madrid", bogota + 1)];
    assert_eq!(groups(&world, id).await, expected.map(|(group, number)| (group.to_owned(), vec![number])).into());

    let by_recipient = draft(&world, window("recipient")).await;
    assert_eq!(world.upload(by_recipient, None, &file).await.expect("an upload").accepted, 3);
    let found: Vec<String> = groups(&world, by_recipient).await.into_keys().collect();
    assert_eq!(found, ["Europe/Madrid", "hours|America/Bogota", "hours|Europe/Madrid"]);

    let others = world.draft("order_update/es_AR").await;
    world.upload(others, None, &rows([madrid])).await.expect("an upload");
    let record = world.store().campaign(others).await.expect("redis").expect("it");
    assert_eq!((record.parts.len(), record.zones.len()), (1, 0), "as without contact hours");
}

#[tokio::test]
async fn a_recipient_who_could_never_get_marketing_is_rejected() {
    let mut world = World::start().await;
    world.intake.contact_hours = contact_hours("57", "mon = \"07:00-19:00\"").into();
    let sundays = json!({ "from": "09:00", "to": "20:00", "days": ["sun"], "zone": "America/Bogota" });
    let (utility, marketing) = (draft(&world, sundays.clone()).await, draft(&world, sundays).await);
    world.store().set_category(marketing, &Category::Marketing).await.expect("redis");
    let file = rows([573_001_234_567]);
    assert_eq!(world.upload(utility, None, &file).await.expect("an upload").accepted, 1);
    let upload = world.upload(marketing, None, &file).await.expect("an upload");
    assert_eq!((upload.accepted, upload.rejected[0].code.as_str()), (0, "never_open"));
    assert!(upload.rejected[0].reason.contains("and in the contact hours hours"), "{}", upload.rejected[0].reason);
}
