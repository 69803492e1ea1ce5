//! A Redis that came back empty: processes that outlived it work together as before.

mod support;

use std::collections::HashMap;

use pregon::{domain::State, store::Store};
use support::{
    hooks::{self, Hooks, Message, statuses},
    world,
};

/// Statuses of a new campaign, signed by the process of `sender`, count at the process of the webhooks.
async fn statuses_count(hooks: &Hooks, sender: &Store) {
    let (id, messages) = hooks.campaign(&["3001"], 4).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let key = sender.token_key().await.expect("a key").get();
    let status = |message: &Message| {
        let mut status = hooks::nameless(&message.wamid(), "delivered");
        status["biz_opaque_callback_data"] = hooks::token(&key, message).into();
        status
    };
    let all: Vec<_> = ours.iter().map(status).collect();
    assert_eq!(hooks.deliver(&statuses("3001", &all)).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 4)]));
}

#[tokio::test]
async fn statuses_count_whichever_process_writes_the_key_of_tokens_again() {
    let mut hooks = Hooks::start().await;
    let sender = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let first = sender.token_key().await.expect("a key").get();
    statuses_count(&hooks, &sender).await;

    // A process that was there before is the first: it writes the key that all of them know.
    hooks.redis.lose_all().await;
    sender.time().await.expect("redis");
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let key = newcomer.token_key().await.expect("a key").get();
    assert_eq!(key.secret(), first.secret(), "the old key is in use again");
    statuses_count(&hooks, &newcomer).await;

    // A process that starts asks at the same time as those that were there: whichever is first, all use its key.
    hooks.redis.lose_all().await;
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let key = newcomer.token_key().await.expect("a key").get();
    statuses_count(&hooks, &newcomer).await;
    sender.time().await.expect("redis");
    assert_eq!(sender.token_key().await.expect("a key").get().secret(), key.secret());
    hooks.stop().await;
}

#[tokio::test]
async fn a_token_of_a_new_key_counts_at_once() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    // As where Redis lost the key, and this process does not know of it yet.
    let mut redis = hooks.redis.connection().await;
    let secret = [9; 16];
    let key = hooks.store.keys.token_key();
    let () = deadpool_redis::redis::cmd("SET").arg(key).arg(&secret).query_async(&mut redis).await.expect("redis");
    let mut status = hooks::nameless(&message.wamid(), "read");
    status["biz_opaque_callback_data"] = hooks::token(&pregon::domain::TokenKey::new(secret), &message).into();
    assert_eq!(hooks.deliver(&statuses("3001", &[status])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_process_that_starts_on_an_emptied_redis_knows_that_it_has_a_past() {
    let mut hooks = Hooks::start().await;
    hooks.redis.lose_all().await;
    hooks.store.time().await.expect("redis");
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    assert!(newcomer.is_young(std::time::Duration::from_secs(60)), "others may still repeat what they know");
    hooks.stop().await;
}
