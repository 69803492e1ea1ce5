//! `event tail`: prints the event feed, and resumes where it stopped.

use super::*;
use crate::support;

fn feed_event(position: &str, id: &str) -> (String, Value) {
    let json =
        json!({ "id": id, "type": "line.state", "at": "2026-11-22T18:00:00Z", "line": "3001", "state": "paused" });
    (format!("id: {position}\nevent: line.state\ndata: {json}\n\n"), json)
}

/// A stream that ends after `text`.
fn stream(text: String) -> Answer {
    Answer::Text("text/event-stream", text, false)
}

#[tokio::test]
async fn tail_continues_behind_the_last_position() {
    let (first, first_json) = feed_event("5-1", "a");
    let (second, second_json) = feed_event("5-9", "b");
    let query = format!("types=line.state,hold.began&campaign={ID}");
    let call = |after: &str| format!("GET /v1/events?after={after}&{}", query.replace(',', "%2C"));
    let cut_off = "id: 5-9\nevent: line.state\ndata: {\"id";
    let server = Server::start([
        (&*call("0"), stream(format!("id: 4-7\n\n:\n\n{first}id: 5-8\n\n{cut_off}"))),
        (&*call("5-8"), problem(503, "redis is not available")),
        (&*call("5-8"), stream(second)),
        (&*call("5-9"), problem(400, "the position is of another feed")),
    ])
    .await;
    let command =
        ["event", "tail", "--after", "0", "--type", "line.state", "--type", "hold.began", "--campaign", ID, "--json"];
    let ran = server.run(&command).await;
    assert_eq!(ran.json(), [first_json, second_json]);
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: the position is of another feed (HTTP 400)\n"));
    assert_eq!(server.targets(), ["0", "5-8", "5-8", "5-9"].map(call));
}

#[tokio::test]
async fn tail_prints_a_line_for_each_event() {
    let (event, _) = feed_event("5-1", "a");
    let server = Server::start([("GET /v1/events", stream(event))]).await;
    let ran = server.run(&["event", "tail"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, "2026-11-22T18:00:00Z line.state          line=3001 state=paused\n"));
}

/// Runs `event tail` until it has printed an event and waits for more.
async fn tail(server: &Server) -> tokio::process::Child {
    let environment = [("PREGON_SERVER", server.url.as_str()), ("PREGON_API_KEY", "good-key")];
    let child = program(&["event", "tail", "--json"], &environment).spawn().expect("the program");
    support::until("it reconnects", async || server.targets().len() == 2).await;
    child
}

#[tokio::test]
async fn a_signal_ends_tail_with_its_position() {
    let (event, json) = feed_event("5-1", "a");
    for signal in ["INT", "TERM"] {
        let server =
            Server::start([("GET /v1/events", stream(event.clone())), ("GET /v1/events?after=5-1", Answer::Never)])
                .await;
        let child = tail(&server).await;
        let pid = child.id().expect("it runs").to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid]).status().await;
        assert!(sent.expect("a shell").success());
        let ended = child.wait_with_output().await.expect("an exit status");
        assert_eq!(ended.status.code(), Some(0), "SIG{signal}");
        assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("{json}\n"));
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "pregon: to continue from here: --after 5-1\n");
    }
}

#[tokio::test]
async fn tail_ends_quietly_when_its_reader_closes_the_pipe() {
    let (first, _) = feed_event("5-1", "a");
    let (second, _) = feed_event("5-2", "b");
    let server = Server::start([
        ("GET /v1/events", stream(first)),
        ("GET /v1/events?after=5-1", problem(503, "redis is not available")),
        ("GET /v1/events?after=5-1", stream(second)),
    ])
    .await;
    let mut child = tail(&server).await;
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.expect("an exit status");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test]
async fn an_unknown_type_is_a_usage_error() {
    let ran = run(&["event", "tail", "--type", "recipient.opened"], &[], "").await;
    assert!(ran.code == 2 && ran.err.contains("recipient.read"), "{ran:?}");
}
