//! Statuses without our token that no campaign knows may be about messages of chats.

use pregon::domain::State;
use serde_json::Value;

use crate::support::hooks::{Hooks, status_without_token, statuses};

impl Hooks {
    /// Meta's ids and the states of what the reader of line 3001 finds.
    async fn chat_news(&self) -> Vec<(String, State)> {
        let results = self.store.chat_results(&"3001".into(), 10_000).await.expect("results").into_iter();
        results.map(|one| (one.status.wamid.expect("an id").as_str().to_owned(), one.status.state)).collect()
    }
}

#[tokio::test]
async fn a_status_that_no_campaign_knows_is_kept_for_the_chats_of_the_line() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 1).await;
    let of_campaign = &messages[&"3001".into()][0];
    hooks.accept([of_campaign]).await;
    let known = status_without_token(&of_campaign.wamid(), "failed 131026");
    let reported =
        [known, status_without_token("wamid.1", "failed 131026"), status_without_token("wamid.2", "delivered")];
    assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
    assert!(hooks.chat_news().await.is_empty(), "no message of a chat has left by the line");
    let now = hooks.clock.now();
    hooks.store.put_chats(&"3001".into(), 1, now, &[]).await.expect("redis").expect("the reader");
    assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
    let expected = [("wamid.1".to_owned(), State::Failed), ("wamid.2".to_owned(), State::Delivered)];
    assert_eq!(hooks.chat_news().await, expected);
    hooks.stop().await;
}

#[tokio::test]
async fn statuses_of_another_app_never_fill_a_line() {
    let hooks = Hooks::start().await;
    let now = hooks.clock.now();
    hooks.store.put_chats(&"3001".into(), 1, now, &[]).await.expect("redis").expect("the reader");
    for round in 0..6 {
        let foreign = |n: u32| status_without_token(&format!("wamid.{round}.{n}"), "failed 131026");
        let foreign: Vec<Value> = (0..250).map(foreign).collect();
        assert_eq!(hooks.deliver(&statuses("3001", &foreign)).await, 200);
    }
    let kept = hooks.chat_news().await.len();
    assert!((1_000..1_250).contains(&kept), "{kept}");
    hooks.stop().await;
}
