//! `campaign watch`: prints the progress of a campaign until it ends.

use super::*;

/// A server with a campaign of two recipients. One reads the message, and later the other does. The event stream breaks
/// in between.
async fn two_recipients() -> Server {
    let one = format!("GET /v1/campaigns/{ID}");
    let events = format!("GET /v1/campaigns/{ID}/events");
    let begins =
        format!(": hello\n\n{}{}", event("state", &json!({ "state": "running" })), event("statistics", &statistics(1)));
    let ends = format!("{}{}", event("state", &json!({ "state": "completed" })), event("statistics", &statistics(2)));
    Server::start([
        (&one, Answer::Json(200, campaign("running", statistics(0)))),
        (&events, Answer::Text("text/event-stream", begins, true)),
        (&one, Answer::Json(200, campaign("running", statistics(1)))),
        (&events, Answer::Text("text/event-stream", ends, false)),
        (&one, Answer::Json(200, campaign("completed", statistics(2)))),
    ])
    .await
}

#[tokio::test]
async fn watch_survives_a_broken_connection() {
    let ran = two_recipients().await.run(&["campaign", "watch", ID]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let lines: Vec<_> = ran.out.lines().take_while(|line| !line.is_empty()).collect();
    for (line, done) in lines.iter().zip(["0 of 2 · 0.0 %", "1 of 2 · 50.0 %", "2 of 2 · 100.0 %"]) {
        assert!(line.contains(done) && line.contains("Line 3001 may send 0.5 a second."), "{line}");
    }
    assert_eq!(lines.len(), 3, "each change is printed once: {ran:?}");
    assert!(ran.out.contains("state     completed"), "the final state is printed: {ran:?}");
}

#[tokio::test]
async fn json_output_is_one_object_per_change() {
    let ran = two_recipients().await.run(&["campaign", "watch", ID, "--json"]).await;
    let read: Vec<_> = ran.json().iter().map(|statistics| statistics["by_state"]["read"].clone()).collect();
    assert_eq!((ran.code, read), (0, vec![json!(0), json!(1), json!(2)]));
    assert_eq!(ran.json()[2], statistics(2), "each object is the statistics");
}

#[tokio::test]
async fn watching_an_unknown_campaign_fails_at_once() {
    let server = Server::start([(&format!("GET /v1/campaigns/{ID}"), problem(404, "there is no campaign x"))]).await;
    let ran = server.run(&["campaign", "watch", ID]).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: there is no campaign x (HTTP 404)\n"));
}
