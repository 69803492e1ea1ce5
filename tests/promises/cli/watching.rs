//! `campaign watch`: a campaign is followed to its end.

use super::*;

/// A server whose campaign is read by one, then by both; its stream of events breaks in between.
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
async fn a_campaign_is_followed_through_a_broken_connection_to_its_end() {
    let ran = two_recipients().await.run(&["campaign", "watch", ID]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let lines: Vec<_> = ran.out.lines().take_while(|line| !line.is_empty()).collect();
    for (line, done) in lines.iter().zip(["0 of 2 · 0.0 %", "1 of 2 · 50.0 %", "2 of 2 · 100.0 %"]) {
        assert!(line.contains(done) && line.contains("Line 3001 may send 0.5 a second."), "{line}");
    }
    assert_eq!(lines.len(), 3, "each change once: {ran:?}");
    assert!(ran.out.contains("state     completed"), "and how it ended: {ran:?}");
}

#[tokio::test]
async fn a_program_gets_one_object_for_each_change() {
    let ran = two_recipients().await.run(&["campaign", "watch", ID, "--json"]).await;
    let read: Vec<_> = ran.json().iter().map(|statistics| statistics["by_state"]["read"].clone()).collect();
    assert_eq!((ran.code, read), (0, vec![json!(0), json!(1), json!(2)]));
    assert_eq!(ran.json()[2], statistics(2), "all of the statistics, and nothing else");
}

#[tokio::test]
async fn a_campaign_that_is_not_there_is_not_waited_for() {
    let server = Server::start([(&format!("GET /v1/campaigns/{ID}"), problem(404, "there is no campaign x"))]).await;
    let ran = server.run(&["campaign", "watch", ID]).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: there is no campaign x (HTTP 404)\n"));
}
