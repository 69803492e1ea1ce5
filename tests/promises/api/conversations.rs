//! What is counted for contacts, and the conversations of chats, as the API shows them.

use pregon::{
    domain::{CampaignId, MessageFate, PartId, UnixMs},
    postgres::{Database, campaign_results::CampaignResult},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use ulid::Ulid;

use super::{
    agents::{LINE, agent, start},
    chats::{number, write},
    harness::{Api, answer},
};

const CAMPAIGN: CampaignId = CampaignId(Ulid(7));

/// A message of a campaign reached person `n`.
async fn reach(database: &Database, n: u64, at: UnixMs) {
    let result = CampaignResult {
        part: PartId { campaign: CAMPAIGN, number: 0 },
        row: u32::try_from(n).expect("small"),
        send: 1,
        business: LINE.1.into(),
        line: LINE.0.into(),
        to: Some(format!("+{}", number(n)).parse().expect("a number")),
        fate: MessageFate::Received,
        at,
    };
    let place = database.feed_place().await.expect("PostgreSQL");
    database.store_results(&place, &[result], &format!("{n}-1"), at).await.expect("PostgreSQL");
}

/// The rows of a list, of all its pages.
async fn rows(api: &Api, name: &str, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/v1/{name}?limit=2&{query}&cursor={cursor}")).await;
        all.extend(page[name].as_array().expect("rows").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

#[tokio::test]
async fn contacts_have_statistics_and_are_listed_by_each_of_them() {
    let (api, _postgres, database) = start().await;
    for n in 1..=3 {
        reach(&database, n, api.now()).await;
    }
    for n in [2, 3, 4] {
        write(&database, LINE, n, "hola", api.now()).await;
    }
    let order = async |sort: &str| {
        let contacts = rows(&api, "contacts", &format!("business=1001&sort={sort}")).await;
        let last_digit = |contact: &Value| contact["phone"].as_str().expect("a number")[13..].to_owned();
        contacts.iter().map(last_digit).collect::<Vec<String>>()
    };
    assert_eq!(order("-received").await, ["3", "2", "1", "4"]);
    assert_eq!(order("received").await, ["4", "1", "2", "3"]);
    assert_eq!(order("-conversations_by_client").await, ["4", "3", "2", "1"]);
    assert_eq!(order("conversations_by_business&search=person").await, ["4", "2", "3"]);
    for sort in ["last_interaction", "cancelled", "replies", "failures"] {
        assert_eq!(order(sort).await.len(), 4, "{sort}");
    }
    let fourth = api.read(&format!("/v1/contacts/+{}?business=1001", number(4))).await;
    assert_eq!(fourth["statistics"]["conversations_by_client"], 1);
    assert_eq!(fourth["statistics"]["received"], 0);
    assert!(fourth["statistics"]["last_interaction"].is_string());
    let added = json!({ "business": "1001", "phone": "+5491155550009" });
    assert_eq!(api.post_json("/v1/contacts", &added).await.body["statistics"]["last_interaction"], Value::Null);
}

#[tokio::test]
async fn conversations_are_listed_and_counted_by_line_and_campaign() {
    let (api, _postgres, database) = start().await;
    for n in 1..=3 {
        reach(&database, n, api.now()).await;
    }
    write(&database, LINE, 3, "hola", api.now()).await;
    write(&database, LINE, 4, "hola", api.now()).await;
    let all = rows(&api, "conversations", "business=1001").await;
    assert_eq!(all.len(), 4, "{all:?}");
    let by = |who: &str| all.iter().filter(|one| one["opened_by"] == who).count();
    assert_eq!((by("client"), by("business")), (1, 3));
    let of_client = all.iter().find(|one| one["opened_by"] == "client").expect("one");
    let chat = of_client["chat"].as_str().expect("a chat").to_owned();
    assert_eq!((&of_client["ended_at"], &of_client["campaign"]), (&Value::Null, &Value::Null));
    let of_campaign = rows(&api, "conversations", &format!("business=1001&campaign={CAMPAIGN}")).await;
    assert_eq!(of_campaign.len(), 3);
    for query in ["line=3002", "from=2100-01-01T00:00:00Z", "to=2020-01-01T00:00:00Z", "contact=999"] {
        assert_eq!(rows(&api, "conversations", &format!("business=1001&{query}")).await, [] as [Value; 0], "{query}");
    }
    for query in ["from=now", "campaign=x", "contact=x", "cursor=x", "by=line"] {
        api.get(&format!("/v1/conversations?business=1001&{query}")).await.problem(400, "invalid-query");
    }
    assert_eq!(answer(api.request(Method::POST, &format!("/v1/chats/{chat}/close"))).await.status, StatusCode::OK);
    let closed = rows(&api, "conversations", &format!("chat={chat}")).await;
    assert_eq!((closed.len(), &closed[0]["ended_by"]), (1, &json!("closed")));
    assert!(closed[0]["ended_at"].is_string());

    let counts =
        async |by: &str| api.read(&format!("/v1/conversations/counts?business=1001&by={by}")).await["counts"].clone();
    assert_eq!(counts("line").await, json!([{ "line": "3001", "client": 1, "business": 3 }]));
    assert_eq!(counts("campaign").await, json!([{ "campaign": CAMPAIGN, "client": 0, "business": 3 }]));
    api.get("/v1/conversations/counts?business=1001&by=day").await.problem(400, "invalid-query");

    // Agents see those of the chats that they see.
    let group = json!({ "business": "1001", "id": "sales", "name": "Sales" });
    api.post_json("/v1/groups", &group).await;
    let ana = agent(&api, "ana", "agent", &[]).await;
    ana.get(&api, "/v1/conversations").await.problem(403, "forbidden");
    ana.get(&api, "/v1/conversations/counts").await.problem(403, "forbidden");
    assert_eq!(ana.get(&api, &format!("/v1/conversations?chat={chat}")).await.status, StatusCode::OK);
    let moved = api.post_json(&format!("/v1/chats/{chat}/assign"), &json!({ "group": "sales" })).await;
    assert_eq!(moved.status, StatusCode::OK, "{}", moved.body);
    ana.get(&api, &format!("/v1/conversations?chat={chat}")).await.problem(404, "chat-not-found");
    answer(api.request_of("1002", Method::GET, &format!("/v1/conversations?chat={chat}")))
        .await
        .problem(404, "chat-not-found");
    let other = answer(api.request_of("1002", Method::GET, "/v1/conversations")).await;
    assert_eq!(other.body["conversations"], json!([]));
}
