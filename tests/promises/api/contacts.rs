//! Contacts and their properties.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    agents::{LINE, agent, start},
    chats::write,
    harness::{Answer, Api, answer},
};

async fn property(api: &Api, key: &str, kind: &str, choices: Value) -> Answer {
    let property = json!({ "business": "1001", "key": key, "label": key, "type": kind, "choices": choices });
    api.post_json("/v1/properties", &property).await
}

/// Creates person `n`, with these properties.
async fn create(api: &Api, n: u64, name: &str, properties: Value) -> Answer {
    let phone = format!("+549115550{n:04}");
    let contact = json!({ "business": "1001", "phone": phone, "name": name, "properties": properties });
    api.post_json("/v1/contacts", &contact).await
}

/// The names of the contacts of a list, of all its pages.
async fn names(api: &Api, query: &str) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/v1/contacts?business=1001&limit=2&{query}&cursor={cursor}")).await;
        let rows = page["contacts"].as_array().expect("contacts").iter();
        all.extend(rows.map(|contact| contact["name"].as_str().unwrap_or_default().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_contact_is_created_once_and_found_by_id_and_number() {
    let (api, _postgres, database) = start().await;
    assert_eq!(property(&api, "city", "text", json!([])).await.status, StatusCode::CREATED);
    let created = create(&api, 1, "Maria", json!({ "city": " Rosario " })).await;
    assert_eq!((created.status, &created.body["properties"]), (StatusCode::CREATED, &json!({ "city": "Rosario" })));
    let id = created.body["id"].as_str().expect("an id");
    let again = create(&api, 1, "María", json!({})).await;
    assert!(again.body["detail"].as_str().is_some_and(|detail| detail.contains(id)), "{}", again.body);
    again.problem(409, "contact-exists");
    for path in [id, "+5491155500001", "5491155500001"] {
        let found = api.read(&format!("/v1/contacts/{path}?business=1001")).await;
        assert_eq!(found, created.body, "{path}");
    }
    for path in ["0", "x", "+5491199999999", "+1x"] {
        api.get(&format!("/v1/contacts/{path}?business=1001")).await.problem(404, "contact-not-found");
    }
    answer(api.request_of("1002", Method::GET, &format!("/v1/contacts/{id}"))).await.problem(404, "contact-not-found");

    // A person who has written is a contact already, and a message keeps what was given.
    write(&database, LINE, 7, "hola", api.now()).await;
    let known = json!({ "business": "1001", "phone": "+5491155550007" });
    api.post_json("/v1/contacts", &known).await.problem(409, "contact-exists");
    let path = "/v1/contacts/+5491155550007?business=1001";
    assert_eq!(api.read(path).await["name"], "Person 7", "the name of the profile");
    let changed = api.patch_json(path, &json!({ "name": "Lucía", "properties": { "city": "Mar del Plata" } })).await;
    assert_eq!(
        (&changed.body["name"], &changed.body["properties"]["city"]),
        (&json!("Lucía"), &json!("Mar del Plata"))
    );
    write(&database, LINE, 7, "otra vez", api.now()).await;
    assert_eq!(api.read(path).await["name"], "Lucía");
    let emptied = api.patch_json(path, &json!({ "properties": { "city": null } })).await;
    assert_eq!((&emptied.body["name"], &emptied.body["properties"]), (&json!("Lucía"), &json!({})));
}

#[tokio::test]
async fn contacts_are_listed_in_an_order_and_by_what_is_known() {
    let (api, _postgres, _) = start().await;
    property(&api, "city", "text", json!([])).await;
    property(&api, "plan", "choice", json!(["Oro", "Plata"])).await;
    let tag = json!({ "business": "1001", "id": "vip", "name": "VIP", "colour": "#112233" });
    api.post_json("/v1/tags", &tag).await;
    for (n, name, city, plan) in [
        (1, "Maria", "Rosario", "Oro"),
        (2, "Ana", "Rosario", "Plata"),
        (3, "Zoe", "Salta", "Oro"),
        (4, "Juan", "Salta", "Oro"),
    ] {
        let created = create(&api, n, name, json!({ "city": city, "plan": plan })).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    }
    assert_eq!(names(&api, "").await, ["Juan", "Zoe", "Ana", "Maria"]);
    assert_eq!(names(&api, "sort=created").await, ["Maria", "Ana", "Zoe", "Juan"]);
    assert_eq!(names(&api, "sort=name").await, ["Ana", "Juan", "Maria", "Zoe"]);
    assert_eq!(names(&api, "sort=-name").await, ["Zoe", "Maria", "Juan", "Ana"]);
    assert_eq!(names(&api, "sort=name&property.city=Salta").await, ["Juan", "Zoe"]);
    assert_eq!(names(&api, "property.city=Salta&property.plan=Plata").await, [] as [&str; 0]);
    assert_eq!(names(&api, "search=mar").await, ["Maria"]);
    let maria = api.read("/v1/contacts?business=1001&search=maria").await["contacts"][0]["id"].clone();
    let path = format!("/v1/contacts/{}", maria.as_str().expect("an id"));
    assert_eq!(api.patch_json(&path, &json!({ "tags": ["vip"] })).await.body["tags"], json!(["vip"]));
    api.patch_json(&path, &json!({ "tags": ["none"] })).await.problem(422, "invalid");
    assert_eq!(names(&api, "tag=vip").await, ["Maria"]);
    answer(api.request(Method::DELETE, "/v1/tags/vip?business=1001")).await;
    assert_eq!(names(&api, "tag=vip").await, [] as [&str; 0]);
    for query in ["sort=age", "cursor=x", "colour=red"] {
        api.get(&format!("/v1/contacts?business=1001&{query}")).await.problem(400, "invalid-query");
    }
    for query in ["property.age=3", "property.plan=Bronce"] {
        api.get(&format!("/v1/contacts?business=1001&{query}")).await.problem(422, "invalid");
    }
    assert_eq!(answer(api.request_of("1002", Method::GET, "/v1/contacts")).await.body["contacts"], json!([]));
}

#[tokio::test]
async fn a_property_has_a_type_that_its_values_keep() {
    let (api, _postgres, _) = start().await;
    for (key, kind, choices) in [
        ("No Key", "text", json!([])),
        ("x", "song", json!([])),
        ("x", "choice", json!([])),
        ("x", "text", json!(["a"])),
    ] {
        property(&api, key, kind, choices).await.problem(422, "invalid");
    }
    for (key, kind) in [("age", "number"), ("born", "date"), ("mail", "email")] {
        assert_eq!(property(&api, key, kind, json!([])).await.status, StatusCode::CREATED);
    }
    property(&api, "age", "text", json!([])).await.problem(409, "property-exists");
    let wrong = create(&api, 1, "Maria", json!({ "age": "old", "born": "2026-02-30", "size": 3 })).await;
    assert_eq!(wrong.body["problems"].as_array().expect("problems").len(), 3, "{}", wrong.body);
    wrong.problem(422, "invalid");
    let good = create(&api, 1, "Maria", json!({ "age": "33", "born": "2026-02-28", "mail": "Ana@Example.com" })).await;
    assert_eq!(good.body["properties"], json!({ "age": 33, "born": "2026-02-28", "mail": "ana@example.com" }));
    let of_age = "/v1/properties/age?business=1001";
    assert_eq!(api.patch_json(of_age, &json!({ "label": "Edad" })).await.body["label"], "Edad");
    api.patch_json(of_age, &json!({ "choices": ["1"] })).await.problem(422, "invalid");
    answer(api.request_of("1002", Method::DELETE, "/v1/properties/age")).await.problem(404, "property-not-found");
    assert_eq!(answer(api.request(Method::DELETE, of_age)).await.status, StatusCode::NO_CONTENT);
    let path = format!("/v1/contacts/{}", good.body["id"].as_str().expect("an id"));
    assert_eq!(api.read(&path).await["properties"], json!({ "born": "2026-02-28", "mail": "ana@example.com" }));
    let ana = agent(&api, "ana", "agent", &[]).await;
    let new = json!({ "key": "y", "label": "y", "type": "text" });
    ana.call(&api, Method::POST, "/v1/properties", &new).await.problem(403, "forbidden");
    assert_eq!(ana.call(&api, Method::PATCH, &path, &json!({ "name": "M" })).await.status, StatusCode::OK);
}

/// Imports a list.
async fn import(api: &Api, query: &str, media_type: &str, list: &str) -> Answer {
    let path = format!("/v1/contacts/import?business=1001&{query}");
    answer(api.request(Method::POST, &path).header("content-type", media_type).body(list.to_owned())).await
}

#[tokio::test]
async fn a_list_is_imported_row_by_row_and_comes_back_as_it_was() {
    let (api, _postgres, database) = start().await;
    property(&api, "city", "text", json!([])).await;
    property(&api, "age", "number", json!([])).await;
    let tag = json!({ "business": "1001", "id": "vip", "name": "VIP", "colour": "#112233" });
    api.post_json("/v1/tags", &tag).await;
    write(&database, LINE, 1, "hola", api.now()).await;
    let csv = "Teléfono;name;Ciudad;age;tags;notes\r\n\
        +5491155550001;María;Rosario;33;vip;x\r\n\
        +5491155550002;=Ana;;;;x\r\n\
        12;Juan;;;;x\r\n\
        +5491155550004;Zoe;;old;;x\r\n\
        +5491155550002;Ana;Salta;;;x\r\n\
        +5491155550005;Eva;;;none;x\r\n";
    let query = "map=Tel%C3%A9fono:phone,Ciudad:city&ignore=notes";
    for _ in 0..2 {
        let done = import(&api, query, "text/csv", csv).await;
        assert_eq!((done.status, &done.body["accepted"]), (StatusCode::OK, &json!(3)), "{}", done.body);
        let rejected = done.body["rejected"].as_array().expect("rows");
        let rows: Vec<&Value> = rejected.iter().map(|row| &row["row"]).collect();
        assert_eq!(rows, [&json!(3), &json!(4), &json!(6)], "{rejected:?}");
        assert!(rejected[1]["reason"].as_str().expect("text").contains("`age` is a number"), "{rejected:?}");
        assert_eq!(names(&api, "sort=name").await, ["Ana", "María"], "everybody once");
    }
    let maria = api.read("/v1/contacts/+5491155550001?business=1001").await;
    assert_eq!((&maria["properties"], &maria["tags"]), (&json!({ "city": "Rosario", "age": 33 }), &json!(["vip"])));
    // What a row does not give stays.
    let lines = "{\"phone\":\"+5491155550001\",\"properties\":{\"age\":null}}\n{\"phone\":\"+5491155550006\",\"name\":\"=1+1\"}\n";
    assert_eq!(import(&api, "", "application/x-ndjson", lines).await.body["accepted"], 2);
    let maria = api.read("/v1/contacts/+5491155550001?business=1001").await;
    assert_eq!((&maria["name"], &maria["properties"]), (&json!("María"), &json!({ "city": "Rosario" })));

    let exported = api.request(Method::GET, "/v1/contacts.csv?business=1001&sort=name").send().await.expect("a file");
    assert_eq!(exported.headers()["content-type"], "text/csv; charset=utf-8");
    let exported = exported.text().await.expect("text");
    let lines: Vec<&str> = exported.lines().collect();
    assert!(lines[0].starts_with("phone,name,tags,age,city,last_interaction,"), "{exported}");
    assert!(lines[1].starts_with("+5491155550006,'=1+1,,,,"), "{exported}");
    assert!(lines[3].starts_with("+5491155550001,María,vip,,Rosario,20"), "{exported}");
    let ignore =
        "ignore=last_interaction,conversations_by_client,conversations_by_business,cancelled,received,replies,failures";
    assert_eq!(import(&api, ignore, "text/csv", &exported).await.body["accepted"], 3);
    assert_eq!(names(&api, "sort=name").await, ["=1+1", "Ana", "María"]);

    import(&api, "", "text/csv", "name\nAna\n").await.problem(422, "upload-unreadable");
    import(&api, "map=x", "text/csv", "phone\n").await.problem(400, "invalid-query");
    let ana = agent(&api, "ana", "agent", &[]).await;
    ana.get(&api, "/v1/contacts.csv").await.problem(403, "forbidden");
    let other = answer(api.request_of("1002", Method::POST, "/v1/contacts/import?business=1001")).await;
    other.problem(404, "business-not-found");
}
