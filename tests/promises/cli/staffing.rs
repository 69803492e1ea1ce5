//! `pregon agent` and `pregon group`.

use super::*;

const ANA: &str = "01KBCNYG3T8R7Q6P5N4M3K2J1H";
const BEA: &str = "01KBCNYG3T8R7Q6P5N4M3K2J1J";

fn agent(id: &str, email: &str) -> Value {
    json!({
        "id": id, "business": "1001", "email": email, "name": "Ana Gómez", "role": "agent", "capacity": 5,
        "presence": "away", "groups": ["sales"], "chats": 2, "has_password": false,
        "created_at": "2026-11-22T09:00:00Z",
    })
}

fn invited() -> Value {
    let mut invited = agent(ANA, "ana@example.com");
    invited["invitation"] = "the-invitation".into();
    invited["invitation_until"] = "2026-11-25T09:00:00Z".into();
    invited
}

fn done() -> Answer {
    Answer::Text("text/plain", String::new(), false)
}

#[tokio::test]
async fn agents_are_listed_and_found_by_their_email_addresses() {
    let page = |agent: Value, next: Option<&str>| Answer::Json(200, json!({ "agents": [agent], "next": next }));
    let shown = format!("GET /v1/agents/{ANA}");
    let server = Server::start([
        ("GET /v1/agents", page(agent(BEA, "bea@example.com"), Some("c1"))),
        ("GET /v1/agents?cursor=c1", page(agent(ANA, "ana@example.com"), None)),
        ("GET /v1/agents?removed=true", page(agent(BEA, "bea@example.com"), None)),
        (&*shown, Answer::Json(200, agent(ANA, "ana@example.com"))),
    ])
    .await;
    let ran = server.run(&["agent", "list"]).await;
    assert!(ran.code == 0 && ran.out.contains("ana@example.com") && ran.out.contains("sales"), "{ran:?}");
    let ran = server.run(&["agent", "list", "--removed", "--json"]).await;
    assert_eq!(ran.json(), [json!({ "agents": [agent(BEA, "bea@example.com")] })]);
    for name in ["Ana@example.com", ANA] {
        let ran = server.run(&["agent", "show", name]).await;
        assert!(ran.code == 0 && ran.out.contains("2 of at most 5") && ran.out.contains("not set yet"), "{ran:?}");
    }
    let ran = server.run(&["agent", "show", "eva@example.com"]).await;
    assert_eq!((ran.code, ran.err.contains("there is no agent with the email address eva@example.com")), (1, true));
    assert_eq!(server.run(&["agent", "show", "ana"]).await.code, 2);
}

#[tokio::test]
async fn an_agent_is_created_changed_and_invited() {
    let [change, invite] = [format!("PATCH /v1/agents/{ANA}"), format!("POST /v1/agents/{ANA}/invitation")];
    let server = Server::start([
        ("POST /v1/agents", Answer::Json(201, invited())),
        (&*change, Answer::Json(200, agent(ANA, "ana@example.com"))),
        (&*invite, Answer::Json(200, invited())),
    ])
    .await;
    let new = ["ana@example.com", "--name", "Ana Gómez", "--business", "1001", "--role", "manager", "--group", "sales"];
    let ran = server.run(&[&["agent", "create"], new.as_slice()].concat()).await;
    let invitation = "Invitation, until 2026-11-25T09:00:00Z, shown only now: the-invitation\n";
    assert!(ran.code == 0 && ran.out.ends_with(invitation), "{ran:?}");
    let ran = server.run(&["agent", "change", ANA, "--capacity", "0", "--group", "a", "--group", "b"]).await;
    assert!(ran.code == 0 && ran.out.contains("away"), "{ran:?}");
    let ran = server.run(&["agent", "invite", ANA, "--json"]).await;
    assert_eq!(ran.json(), [invited()]);
    let calls = server.calls();
    assert_eq!(calls[0].json()["groups"], json!(["sales"]));
    assert_eq!((&calls[0].json()["business"], &calls[0].json()["role"]), (&json!("1001"), &json!("manager")));
    assert_eq!((&calls[1].json()["capacity"], &calls[1].json()["groups"]), (&json!(0), &json!(["a", "b"])));
    for bad in [["change", ANA].as_slice(), &["change", ANA, "--role", "boss"], &["create", "ana@example.com"]] {
        let ran = server.run(&[&["agent"], bad].concat()).await;
        assert_eq!(ran.code, 2, "{ran:?}");
    }
}

#[tokio::test]
async fn one_agent_who_is_not_found_does_not_stop_the_others() {
    let presence = |id: &str| format!("PUT /v1/agents/{id}/presence");
    let [sessions, removal] = [format!("DELETE /v1/agents/{ANA}/sessions"), format!("DELETE /v1/agents/{ANA}")];
    let server = Server::start([
        (&*presence(BEA), problem(404, "there is no such agent")),
        (&*presence(ANA), Answer::Json(200, agent(ANA, "ana@example.com"))),
        (&*sessions, done()),
        (&*removal, done()),
    ])
    .await;
    let ran = server.run(&["agent", "presence", "away", BEA, ANA]).await;
    assert_eq!((ran.code, ran.out), (1, format!("{ANA} is away\n")));
    assert_eq!(ran.err, format!("pregon: {BEA}: there is no such agent (HTTP 404)\n"));
    assert_eq!(server.calls()[1].json(), json!({ "presence": "away" }));
    assert_eq!(server.run(&["agent", "logout", ANA]).await.out, format!("{ANA} is logged out\n"));
    let ran = server.run(&["agent", "remove", ANA, "--json"]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![json!({ "agent": ANA, "removed": true })]));
    assert_eq!(server.run(&["agent", "presence", "busy", ANA]).await.code, 2);
}

#[tokio::test]
async fn groups_are_created_renamed_listed_and_removed() {
    let group = |name: &str| {
        json!({
            "id": "sales", "business": "1001", "name": name, "agents": 3, "queued": 7,
            "created_at": "2026-11-22T09:00:00Z",
        })
    };
    let server = Server::start([
        ("POST /v1/groups", Answer::Json(201, group("Ventas"))),
        ("PATCH /v1/groups/sales?business=1001", Answer::Json(200, group("Sales"))),
        ("GET /v1/groups", Answer::Json(200, json!({ "groups": [group("Sales")], "next": null }))),
        ("DELETE /v1/groups/sales", done()),
    ])
    .await;
    let ran = server.run(&["group", "create", "sales", "Ventas"]).await;
    assert!(ran.code == 0 && ran.out.contains("Ventas"), "{ran:?}");
    assert_eq!(server.calls()[0].json(), json!({ "business": null, "id": "sales", "name": "Ventas" }));
    let ran = server.run(&["group", "rename", "sales", "Sales", "--business", "1001", "--json"]).await;
    assert_eq!(ran.json(), [group("Sales")]);
    let ran = server.run(&["group", "list"]).await;
    assert!(ran.code == 0 && ran.out.contains("Sales") && ran.out.contains('7'), "{ran:?}");
    assert_eq!(server.run(&["group", "remove", "sales"]).await.out, "group sales is removed\n");
}
