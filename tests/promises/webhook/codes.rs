//! Every row of Meta's table of error codes, as a `failed` status: what is held, and which state the recipient gets.

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};
use pregon::{domain::State, rules::holds::lifters};

use crate::{
    dispatch::codes::{Row, rows},
    support::hooks::{Hooks, statuses},
};

/// Rows that are tested at the same time.
const ROWS_AT_ONCE: usize = 6;

async fn holds_its_scope_and_nothing_else(row: Row) {
    let hooks = Hooks::start().await;
    let (id, of_line) = hooks.campaign(&["3001"], 1).await;
    let (neighbour, of_neighbour) = hooks.campaign(&["3002"], 1).await;
    let (failing, other) = (&of_line[&"3001".into()][0], &of_neighbour[&"3002".into()][0]);
    hooks.accept([failing, other]).await;
    let before = hooks.clock.now();
    let failed = hooks.status(failing, &format!("failed {}", row.code));
    assert_eq!(hooks.deliver(&statuses("3001", &[failed])).await, 200);
    assert_eq!(hooks.deliver(&statuses("3002", &[hooks.status(other, "delivered")])).await, 200, "{row:?}");

    let holds = hooks.store.holds(before).await.expect("redis");
    let shown: Vec<(String, bool)> =
        holds.iter().map(|(scope, hold)| (scope.to_string(), hold.until.is_some())).collect();
    let held = row.held_by_status();
    let expected: Vec<(String, bool)> = held.into_iter().map(|(scope, ends)| (scope.to_owned(), ends)).collect();
    assert_eq!(shown, expected, "{row:?}");
    for (scope, hold) in &holds {
        assert_eq!(hold.code.map(|code| code.0), Some(row.code), "{row:?}");
        assert!(lifters(scope, hold).len() >= 2, "{row:?}");
    }
    // The recipient fails unless the hold explains the failure. A blocked country is a property of the recipient.
    let fails = held.is_none() || row.action == "block_country";
    let state = if fails { State::Failed } else { State::Pending };
    assert_eq!(hooks.by_state(id).await, HashMap::from([(state, 1)]), "{row:?}");
    assert_eq!(hooks.by_state(neighbour).await, HashMap::from([(State::Delivered, 1)]), "{row:?}");
    for scope in holds.keys() {
        assert!(hooks.store.unhold(scope).await.expect("redis"), "{row:?}");
    }
    hooks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_as_a_status_acts_on_its_scope_only() {
    stream::iter(rows()).for_each_concurrent(ROWS_AT_ONCE, holds_its_scope_and_nothing_else).await;
}
