//! `pregon person forget`.

use super::*;

#[tokio::test]
async fn people_are_forgotten_individually() {
    let delete = |phone: &str| format!("DELETE /v1/people/{phone}");
    let [maria, other, third] = ["+5491155550001", "+5491155550002", "+5491155550003"];
    let removed = |suppressions: u64, dead_letters: &[&str]| {
        let counts = json!({ "campaigns": 2, "recipients": 3, "skipped": 1, "messages": 1200, "events": 0 });
        let mut removed = counts.as_object().expect("an object").clone();
        removed.insert("suppressions".into(), suppressions.into());
        removed.insert("dead_letters".into(), json!(dead_letters));
        Value::Object(removed)
    };
    let server = Server::start([
        (&delete(maria), Answer::Json(200, removed(1, &["7-0", "8-0"]))),
        (&delete(other), problem(503, "redis is not available")),
        (&delete(third), Answer::Json(200, removed(0, &[]))),
    ])
    .await;
    let ran = server.run(&["person", "forget", maria, other, third]).await;
    let counts = "3 recipients in 2 campaigns (1 skipped), 1,200 messages, 0 events";
    let text = format!(
        "{maria} is forgotten: {counts}; the person stays suppressed; dead letters that still name the number, to be retried \
         or deleted: 7-0 8-0\n{third} is forgotten: {counts}\n"
    );
    assert_eq!((ran.code, &ran.out), (1, &text), "{ran:?}");
    assert_eq!(ran.err, format!("pregon: {other}: redis is not available (HTTP 503)\n"));
    let ran = server.run(&["person", "forget", maria, "--json"]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![removed(1, &["7-0", "8-0"])]));
    assert_eq!(server.run(&["person", "forget"]).await.code, 2);
}
