//! Tags of chats, canned replies and inbound links.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    agents::{LINE, agent, group, start},
    chats::write,
    harness::{Answer, Api, answer},
};
async fn create_tag(api: &Api, id: &str, rules: Value) -> Answer {
    let tag = json!({ "business": "1001", "id": id, "name": id, "colour": "#2E7D32", "rules": rules });
    api.post_json("/v1/tags", &tag).await
}

async fn put(api: &Api, path: &str, body: &Value) -> Answer {
    answer(api.request(Method::PUT, path).json(body)).await
}

/// The only chat.
async fn chat(api: &Api) -> Value {
    api.read("/v1/chats").await["chats"][0].clone()
}

async fn count(api: &Api, query: &str) -> usize {
    api.read(&format!("/v1/chats?{query}")).await["chats"].as_array().expect("chats").len()
}

#[tokio::test]
async fn a_chat_has_the_tags_that_were_set_and_is_found_by_them() {
    let (api, _postgres, database) = start().await;
    write(&database, LINE, 1, "hola", api.now()).await;
    for id in ["renewal", "vip"] {
        let created = create_tag(&api, id, json!([])).await;
        assert_eq!((created.status, &created.body["colour"]), (StatusCode::CREATED, &json!("#2e7d32")));
    }
    create_tag(&api, "vip", json!([])).await.problem(409, "tag-exists");
    for (id, colour) in [("unanswered", "#000000"), ("No", "#000000"), ("x", "green")] {
        let tag = json!({ "business": "1001", "id": id, "name": id, "colour": colour });
        api.post_json("/v1/tags", &tag).await.problem(422, "invalid");
    }
    let path = format!("/v1/chats/{}/tags", chat(&api).await["id"].as_str().expect("an id"));
    let tagged = put(&api, &path, &json!({ "tags": ["vip", "renewal", "vip"] })).await;
    assert_eq!(tagged.body["tags"], json!(["renewal", "vip", "unanswered"]), "{}", tagged.body);
    put(&api, &path, &json!({ "tags": ["unknown"] })).await.problem(422, "invalid");
    put(&api, &path, &json!({ "tags": ["unanswered"] })).await.problem(422, "invalid");
    assert_eq!((count(&api, "tag=vip").await, count(&api, "tag=none").await), (1, 0));
    let tags = api.read("/v1/tags").await["tags"].clone();
    let counts: Vec<(&Value, &Value)> =
        tags.as_array().expect("tags").iter().map(|tag| (&tag["id"], &tag["chats"])).collect();
    let expected = [("renewal", 1), ("vip", 1), ("unanswered", 1), ("attended", 0), ("window_closing", 0)];
    let expected = expected.map(|(id, chats)| (json!(id), json!(chats)));
    assert_eq!(counts, expected.iter().map(|(id, chats)| (id, chats)).collect::<Vec<_>>());

    let of_vip = "/v1/tags/vip?business=1001";
    assert_eq!(api.patch_json(of_vip, &json!({ "name": "VIP" })).await.body["name"], "VIP");
    assert_eq!(answer(api.request(Method::DELETE, of_vip)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(chat(&api).await["tags"], json!(["renewal", "unanswered"]), "a tag that is removed is gone everywhere");
    answer(api.request(Method::DELETE, of_vip)).await.problem(404, "tag-not-found");
    answer(api.request_of("1002", Method::DELETE, "/v1/tags/renewal")).await.problem(404, "tag-not-found");
    assert_eq!(api.get_of("1002", "/v1/tags").await["tags"][0]["id"], "unanswered", "only the derived ones");
}

#[tokio::test]
async fn derived_tags_follow_the_chat() {
    let (api, postgres, database) = start().await;
    write(&database, LINE, 1, "hola", api.now()).await;
    let path = format!("/v1/chats/{}", chat(&api).await["id"].as_str().expect("an id"));
    assert_eq!(chat(&api).await["tags"], json!(["unanswered"]));
    let text = json!({ "type": "text", "body": "¿En qué puedo ayudar?" });
    assert_eq!(api.post_json(&format!("{path}/messages"), &text).await.status, StatusCode::CREATED);
    assert_eq!(chat(&api).await["tags"], json!(["attended"]));
    assert_eq!((count(&api, "tag=attended").await, count(&api, "tag=unanswered").await), (1, 0));
    write(&database, LINE, 1, "precio", api.now()).await;
    assert_eq!(chat(&api).await["tags"], json!(["unanswered"]));
    api.post(&format!("{path}/close")).await;
    assert_eq!(chat(&api).await["tags"], json!([]), "closed without an answer");
    write(&database, LINE, 2, "hola", api.now()).await;
    assert_eq!(count(&api, "tag=window_closing").await, 0);
    postgres.execute("update chats set last_inbound_at = last_inbound_at - 23 * 3600000 where owner = 1").await;
    assert_eq!(count(&api, "tag=window_closing").await, 1);
    let closing = api.read("/v1/chats?tag=window_closing").await["chats"][0]["tags"].clone();
    assert_eq!(closing, json!(["unanswered", "window_closing"]));
}

#[tokio::test]
async fn rules_set_and_remove_tags_when_something_happens() {
    let (api, _postgres, database) = start().await;
    let when = |event: &str, then: &str| json!({ "when": { "event": event }, "then": then });
    let price = json!([{ "when": { "event": "message", "words": ["cuánto cuesta"] }, "then": "add" }]);
    for (id, rules) in [("new", json!([when("opened", "add"), when("closed", "remove")])), ("price", price)] {
        assert_eq!(create_tag(&api, id, rules).await.status, StatusCode::CREATED);
    }
    create_tag(&api, "x", json!([{ "when": { "event": "song" }, "then": "add" }])).await.problem(400, "malformed-body");
    write(&database, LINE, 1, "hola", api.now()).await;
    assert_eq!(chat(&api).await["tags"], json!(["new", "unanswered"]));
    write(&database, LINE, 1, "¿CUANTO cuesta?", api.now()).await;
    assert_eq!(chat(&api).await["tags"], json!(["new", "price", "unanswered"]));
    let path = format!("/v1/chats/{}", chat(&api).await["id"].as_str().expect("an id"));
    api.post(&format!("{path}/close")).await;
    assert_eq!(chat(&api).await["tags"], json!(["price"]));
    let told: Vec<Value> = api.read(&format!("{path}/messages")).await["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .rev()
        .filter(|message| message["body"]["why"] == "tags")
        .map(|message| json!([message["body"]["added"], message["body"]["removed"]]))
        .collect();
    assert_eq!(told, [json!([["new"], []]), json!([["price"], []]), json!([[], ["new"]])]);
}

#[tokio::test]
async fn a_canned_reply_is_filled_in_for_a_chat() {
    let (api, _postgres, database) = start().await;
    write(&database, LINE, 1, "hola", api.now()).await;
    let chat = chat(&api).await["id"].clone();
    group(&api, "sales").await;
    group(&api, "help").await;
    let reply = |shortcut: &str, body: &str, group: Option<&str>| json!({ "business": "1001", "shortcut": shortcut, "title": "Saludo", "body": body, "group": group });
    let hola = reply("hola", "Hola {{contact.name}}, soy {{agent.name}}{{contact.username|default:'.'}}", None);
    let created = api.post_json("/v1/replies", &hola).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let path = format!("/v1/replies/{}", created.body["id"].as_str().expect("an id"));
    let filled = api.post_json(&format!("{path}/fill-in"), &json!({ "chat": chat })).await;
    assert_eq!(filled.body, json!({ "text": "Hola Person 1, soy test." }));
    api.post_json(&format!("{path}/fill-in"), &json!({ "chat": "77" })).await.problem(404, "chat-not-found");
    for (bad, problem) in [
        (reply("hola", "x", None), (409, "reply-exists")),
        (reply("dos palabras", "x", None), (422, "invalid")),
        (reply("x", "{{contact.age}}", None), (422, "invalid")),
        (reply("x", "x", Some("unknown")), (422, "invalid")),
    ] {
        api.post_json("/v1/replies", &bad).await.problem(problem.0, problem.1);
    }
    let of_help = api.post_json("/v1/replies", &reply("reset", "x", Some("help"))).await;
    let of_help = format!("/v1/replies/{}", of_help.body["id"].as_str().expect("an id"));
    let ana = agent(&api, "ana", "agent", &["sales"]).await;
    assert_eq!(ana.get(&api, "/v1/replies").await.body["replies"].as_array().expect("replies").len(), 1);
    ana.call(&api, Method::POST, &format!("{of_help}/fill-in"), &json!({ "chat": chat }))
        .await
        .problem(404, "reply-not-found");
    for (method, path) in [(Method::POST, "/v1/replies"), (Method::POST, "/v1/tags"), (Method::DELETE, &path)] {
        let body = if path == "/v1/tags" {
            json!({ "id": "x", "name": "x", "colour": "#000000" })
        } else {
            reply("y", "y", None)
        };
        ana.call(&api, method, path, &body).await.problem(403, "forbidden");
    }
    let changed = api.patch_json(&path, &json!({ "body": "Buenas" })).await;
    assert_eq!((&changed.body["body"], &changed.body["shortcut"]), (&json!("Buenas"), &json!("hola")));
    api.patch_json(&path, &json!({ "shortcut": "reset" })).await.problem(409, "reply-exists");
    answer(api.request_of("1002", Method::DELETE, &path)).await.problem(404, "reply-not-found");
    assert_eq!(answer(api.request(Method::DELETE, &path)).await.status, StatusCode::NO_CONTENT);
    api.patch_json(&path, &json!({})).await.problem(404, "reply-not-found");
}

#[tokio::test]
async fn a_chat_that_a_link_opens_has_its_group_and_tags() {
    let (api, _postgres, database) = start().await;
    group(&api, "sales").await;
    create_tag(&api, "flyer", json!([])).await;
    let link = |line: &str, opening: &str, group: &str, tag: &str| json!({ "line": line, "name": "Flyer", "opening": opening, "group": group, "tags": [tag] });
    let created = api.post_json("/v1/inbound-links", &link("3001", "Hola, quiero información", "sales", "flyer")).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let path = format!("/v1/inbound-links/{}", created.body["id"].as_str().expect("an id"));
    for (bad, problem) in [
        (link("9", "x", "sales", "flyer"), (404, "line-not-found")),
        (link("3001", "👋", "sales", "flyer"), (422, "invalid")),
        (link("3001", "x", "unknown", "flyer"), (422, "invalid")),
        (link("3001", "x", "sales", "unknown"), (422, "invalid")),
    ] {
        api.post_json("/v1/inbound-links", &bad).await.problem(problem.0, problem.1);
    }
    write(&database, LINE, 1, "¡hola! quiero INFORMACION del plan", api.now()).await;
    let opened = chat(&api).await;
    assert_eq!((&opened["group"], &opened["tags"]), (&json!("sales"), &json!(["flyer", "unanswered"])));
    let messages = api.read(&format!("/v1/chats/{}/messages", opened["id"].as_str().expect("an id"))).await;
    let activity = &messages["messages"][0]["body"];
    assert_eq!((&activity["why"], &activity["link"]), (&json!("link"), &created.body["id"]), "{activity}");
    write(&database, LINE, 1, "Hola, quiero información", api.now()).await;
    write(&database, LINE, 2, "Quiero información", api.now()).await;
    write(&database, ("3002", "1001"), 3, "Hola, quiero información", api.now()).await;
    let list = api.read("/v1/inbound-links").await["inbound_links"].clone();
    assert_eq!((&list[0]["opened"], &list[0]["opening"]), (&json!(1), &json!("Hola, quiero información")));
    assert_eq!(count(&api, "group=sales").await, 1, "neither an open chat, another text nor another line");

    let url = list[0]["url"].as_str().expect("the line has a number");
    assert!(url.starts_with("https://wa.me/") && url.ends_with("?text=Hola%2C%20quiero%20informaci%C3%B3n"), "{url}");
    let code = api.request(Method::GET, &format!("{path}/qr.svg")).send().await.expect("an answer");
    assert_eq!(code.headers()["content-type"], "image/svg+xml");
    assert!(code.text().await.expect("a body").starts_with("<svg"));
    let changed = api.patch_json(&path, &json!({ "opening": "Buenas", "tags": [] })).await;
    assert_eq!((&changed.body["tags"], &changed.body["group"]), (&json!([]), &json!("sales")), "{}", changed.body);
    answer(api.request_of("1002", Method::GET, &format!("{path}/qr.svg"))).await.problem(404, "link-not-found");
    assert_eq!(answer(api.request(Method::DELETE, &path)).await.status, StatusCode::NO_CONTENT);
    api.patch_json(&path, &json!({})).await.problem(404, "link-not-found");
}
