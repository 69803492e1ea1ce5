//! `demo`: all of Pregón against the simulator with a few faults of every kind.

use super::*;

#[tokio::test]
async fn the_demo_ends_with_statistics_equal_to_the_ledger_and_whole_chats() {
    let ran = run(&["demo", "--recipients", "1000", "--json"], &[], "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let [verdict] = ran.json().try_into().expect("one object");
    assert_eq!((&verdict["lost"], &verdict["twice"], &verdict["differing"]), (&json!(0), &json!(0), &json!(0)));
    let counted: u64 =
        verdict["states"].as_object().expect("states").values().filter_map(|both| both[0].as_u64()).sum();
    assert_eq!(counted, 1_000, "{verdict}");
    let chats = &verdict["conversations"];
    assert!(chats["written"].as_u64() > Some(0) && chats["answers"].as_u64() > Some(0), "{verdict}");
    for fault in ["missing", "shown_twice", "answers_lost", "answers_twice", "answers_open"] {
        assert_eq!(chats[fault], 0, "{fault}: {verdict}");
    }
}
