//! What an answer to a campaign does, and what becomes of the chats of those who answer.

use pregon::{
    domain::{CampaignId, UnixMs, campaign::ReplyRoute, chat::Identity},
    postgres::{
        Database,
        inbound::{AnsweredCampaign, Author, ReceivedMessage},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use ulid::Ulid;

use super::{
    agents::{LINE, agent, start},
    chats::{number, write},
    harness::{Api, answer, campaign},
};

const CAMPAIGN: CampaignId = CampaignId(Ulid(7));

/// Person `n` answers the campaign.
async fn reply(database: &Database, n: u64, text: &str, route: Option<&ReplyRoute>, now: UnixMs) {
    let answers = AnsweredCampaign { id: CAMPAIGN, route: route.cloned() };
    let message = ReceivedMessage {
        wamid: format!("wamid.{n}.{text}"),
        at: now,
        person: Author { identity: Identity::new(Some(&number(n)), None), ..Author::default() },
        body: json!({ "content": { "text": text }, "recipient": format!("{CAMPAIGN}.0.{n}.1") }).to_string(),
        is_echo: false,
        answers: Some(answers),
        mark: None,
        file: None,
    };
    database.store_inbound(&LINE.0.into(), &LINE.1.into(), &[message], None, now).await.expect("stored");
}

async fn chat_of(api: &Api, n: u64) -> Value {
    let chats = api.read(&format!("/v1/chats?search={}", number(n))).await;
    chats["chats"][0].clone()
}

async fn why(api: &Api, chat: &Value) -> Vec<Value> {
    let messages = api.read(&format!("/v1/chats/{}/messages", chat["id"].as_str().expect("an id"))).await;
    let activities = messages["messages"].as_array().expect("messages").iter().rev();
    activities.filter(|message| message["kind"] == "activity").map(|activity| activity["body"]["why"].clone()).collect()
}

async fn define(api: &Api) -> ReplyRoute {
    let group = json!({ "business": "1001", "id": "sales", "name": "Sales" });
    assert_eq!(api.post_json("/v1/groups", &group).await.status, StatusCode::CREATED);
    let tag = json!({ "business": "1001", "id": "renewal", "name": "Renewal", "colour": "#112233" });
    assert_eq!(api.post_json("/v1/tags", &tag).await.status, StatusCode::CREATED);
    ReplyRoute { group: Some("sales".into()), tags: vec!["renewal".into()] }
}

#[tokio::test]
async fn an_answer_goes_to_the_group_of_the_campaign_with_its_tags() {
    let (api, _postgres, database) = start().await;
    let route = define(&api).await;
    reply(&database, 1, "sí", Some(&route), api.now()).await;
    let chat = chat_of(&api, 1).await;
    assert_eq!(
        (&chat["group"], &chat["tags"][0], &chat["owner"]),
        (&json!("sales"), &json!("renewal"), &json!("queue"))
    );
    assert_eq!(why(&api, &chat).await, ["campaign", "tags"]);
    // Who removes a tag does not find it again with the next answer.
    let path = format!("/v1/chats/{}/tags", chat["id"].as_str().expect("an id"));
    assert_eq!(answer(api.request(Method::PUT, &path).json(&json!({ "tags": [] }))).await.status, StatusCode::OK);
    reply(&database, 1, "gracias", Some(&route), api.now()).await;
    assert!(!chat_of(&api, 1).await["tags"].as_array().expect("tags").contains(&json!("renewal")));

    // A chat that is open stays where it is, and gets the tags.
    write(&database, LINE, 2, "hola", api.now()).await;
    reply(&database, 2, "sí", Some(&route), api.now()).await;
    let open = chat_of(&api, 2).await;
    assert_eq!((&open["group"], &open["tags"][0]), (&Value::Null, &json!("renewal")));

    // A group that is there no longer, and a campaign without a route.
    let gone = ReplyRoute { group: Some("gone".into()), tags: vec!["gone".into()] };
    reply(&database, 3, "sí", Some(&gone), api.now()).await;
    reply(&database, 4, "sí", None, api.now()).await;
    for n in [3, 4] {
        let chat = chat_of(&api, n).await;
        assert_eq!((&chat["group"], &chat["tags"]), (&Value::Null, &json!(["unanswered"])), "{n}");
    }
    assert_eq!(why(&api, &chat_of(&api, 4).await).await, ["inbound"]);
}

#[tokio::test]
async fn the_chats_of_those_who_answer_are_counted_once_with_what_becomes_of_them() {
    let (api, _postgres, database) = start().await;
    let counts = async || {
        let chats = database.campaign_chats(CAMPAIGN).await.expect("PostgreSQL");
        [chats.answered, chats.opened, chats.assigned, chats.attended]
    };
    write(&database, LINE, 1, "hola", api.now()).await;
    for n in [1, 2, 3] {
        reply(&database, n, "sí", None, api.now()).await;
        reply(&database, n, "sí", None, api.now()).await;
        reply(&database, n, "gracias", None, api.now()).await;
    }
    assert_eq!(counts().await, [3, 2, 0, 0]);
    let ana = agent(&api, "ana", "agent", &[]).await;
    let path = |chat: &Value, what: &str| format!("/v1/chats/{}/{what}", chat["id"].as_str().expect("an id"));
    let [first, second] = [chat_of(&api, 1).await, chat_of(&api, 2).await];
    let taken = ana.call(&api, Method::POST, &path(&first, "take"), &json!({})).await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.body);
    assert_eq!(counts().await, [3, 2, 1, 0]);
    let text = json!({ "type": "text", "body": "¿En qué puedo ayudar?" });
    let sent = ana.call(&api, Method::POST, &path(&second, "messages"), &text).await;
    assert!(sent.status.is_success(), "{}", sent.body);
    assert_eq!(counts().await, [3, 2, 2, 1]);
}

#[tokio::test]
async fn a_campaign_says_what_an_answer_does() {
    let (api, _postgres, _) = start().await;
    define(&api).await;
    let of = |reply: Value| {
        let mut new = campaign("Renewal", &["3001"]);
        new["reply"] = reply;
        new
    };
    let route = json!({ "group": "sales", "tags": ["renewal"] });
    let created = api.post_json("/v1/campaigns", &of(route.clone())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let id = created.body["id"].as_str().expect("an id");
    let shown = api.read(&format!("/v1/campaigns/{id}")).await;
    assert_eq!(shown["reply"], route);
    assert_eq!(shown["statistics"]["chats"], json!({ "answered": 0, "opened": 0, "assigned": 0, "attended": 0 }));
    for wrong in [json!({ "group": "none" }), json!({ "tags": ["none"] }), json!({ "tags": ["unanswered"] }), json!({})]
    {
        let refused = api.post_json("/v1/campaigns", &of(wrong.clone())).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {}", refused.body);
    }
    let unknown = api.post_json("/v1/campaigns", &of(json!({ "flow": "IPF" }))).await;
    assert!(unknown.status.is_client_error(), "{}", unknown.body);
    let without = Api::start().await;
    without.post_json("/v1/campaigns", &of(route)).await.problem(409, "no-database");
}
