//! `demo`: the whole of Pregón against a Meta with which a little of everything goes wrong.

use super::*;

#[tokio::test]
async fn a_demonstration_ends_with_statistics_that_equal_the_ledger() {
    let ran = run(&["demo", "--recipients", "1000", "--json"], &[], "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let [verdict] = ran.json().try_into().expect("one object");
    assert_eq!((&verdict["lost"], &verdict["twice"], &verdict["differing"]), (&json!(0), &json!(0), &json!(0)));
    let counted: u64 =
        verdict["states"].as_object().expect("states").values().filter_map(|both| both[0].as_u64()).sum();
    assert_eq!(counted, 1_000, "{verdict}");
}
