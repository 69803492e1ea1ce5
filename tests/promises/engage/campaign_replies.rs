//! What an answer to a campaign does is found with the campaign in Redis.

use pregon::{
    domain::{CampaignId, ClaimedRow, Fingerprint, GroupId, OnDoubt, PartId, UnixMs, campaign::ReplyRoute},
    redis::inbound::NewInbound,
};

use super::{Office, chats, text};
use crate::support::{until, world};

impl Office {
    /// Puts a message on the stream of line 3001 that answers a campaign.
    async fn answer(&self, campaign: CampaignId, id: &str, number: &str) {
        let part = PartId { campaign, number: 0 };
        let message = NewInbound {
            fingerprint: Fingerprint::of(id),
            message: serde_json::to_string(&text(id.to_owned(), number, "sí")).expect("JSON"),
            answers: Some((part, ClaimedRow { row: 0, send: 1 })),
        };
        let batch = [("3001".into(), vec![message])];
        self.store.keep_inbound(&batch, world::INBOUND).await.expect("Redis").remove(0).expect("kept");
    }
}

#[tokio::test]
async fn an_answer_goes_to_the_group_that_its_campaign_names() {
    let office = Office::start().await;
    let database = office.database().await;
    let group = GroupId::from("sales");
    database.create_group(&"1001".into(), &group, "Sales", UnixMs(1)).await.expect("PostgreSQL");
    let route = ReplyRoute { group: Some(group.clone()), tags: Vec::new() };
    let routed = world::campaign_with(&office.store, &["3001"], 2, |campaign| campaign.reply = Some(route)).await;
    let other = world::campaign(&office.store, &["3001"], 2, OnDoubt::Hold).await;
    let reader = office.reader("a");
    office.answer(routed, "wamid.1", "5491155550001").await;
    office.answer(other, "wamid.2", "5491155550002").await;
    until("both have a chat", async || chats(&database).await.len() == 2).await;
    let groups: Vec<Option<GroupId>> = {
        let mut all = chats(&database).await;
        all.sort_by_key(|chat| chat.contact.number);
        all.into_iter().map(|chat| chat.group).collect()
    };
    assert_eq!(groups, [Some(group), None]);
    let counts = async |campaign| database.campaign_chats(campaign).await.expect("PostgreSQL");
    assert_eq!((counts(routed).await.opened, counts(other).await.opened), (1, 1));
    reader.stop().await;
}
