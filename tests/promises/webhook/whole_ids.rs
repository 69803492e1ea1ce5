//! Whole message ids: the id that Meta gave to a message is stored for its row and send for `id_retention`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use deadpool_redis::redis::cmd;
use pregon::domain::{ClaimedRow, PartId, Settled, Wamid};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::message_ids::index;
use crate::support::{
    self,
    hooks::{self, Hooks, Message, statuses},
};

/// An id as Meta makes it: the recipient's number and 18 random hexadecimal digits.
fn metas_id(rng: &mut StdRng) -> Wamid {
    let number = rng.random_range(5_491_100_000_000_u64..5_491_200_000_000);
    let hex = rng.random_range(0..1_u128 << 72);
    let fields = format!("\x1c\x18\x0d{number}\x15\x02\0\x11\x18\x12{hex:018X}\0");
    format!("wamid.{}", STANDARD.encode(fields)).as_str().into()
}

fn claimed(message: &Message) -> ClaimedRow {
    ClaimedRow { row: message.row, send: message.send }
}

async fn whole_ids(hooks: &Hooks, messages: &[Message]) -> Vec<Option<Wamid>> {
    let rows: Vec<ClaimedRow> = messages.iter().map(claimed).collect();
    hooks.store.wamids(messages[0].part, &rows).await.expect("a store")
}

fn expected(messages: &[Message]) -> Vec<Option<Wamid>> {
    messages.iter().map(|message| Some(message.wamid().as_str().into())).collect()
}

/// The memory of the keys that match `pattern`, in bytes.
async fn memory(hooks: &Hooks, pattern: &str) -> u64 {
    let keys: Vec<String> = hooks.store.query("KEYS", cmd("KEYS").arg(pattern)).await.expect("keys");
    let mut bytes = 0;
    for key in keys {
        let usage = cmd("MEMORY").arg("USAGE").arg(&key).arg("SAMPLES").arg(0).clone();
        bytes += hooks.store.query::<u64>("MEMORY", &usage).await.expect("a key");
    }
    bytes
}

async fn lifetime(hooks: &Hooks, part: PartId) -> i64 {
    hooks.store.query("PTTL", cmd("PTTL").arg(hooks.store.keys.wamids(part))).await.expect("a time")
}

#[tokio::test]
async fn whole_ids_are_given_back_whatever_the_order_of_outcomes() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 1_000).await;
    let messages = &messages[&"3001".into()];
    // Stored as a run, in reverse order, and one row of each of many blocks.
    hooks.accept(&messages[..256]).await;
    hooks.accept(messages[256..500].iter().rev()).await;
    hooks.accept(messages[500..900].iter().step_by(33)).await;
    let stored: Vec<Message> = messages[..500].iter().chain(messages[500..900].iter().step_by(33)).copied().collect();
    assert_eq!(whole_ids(&hooks, &stored).await, expected(&stored));
    let later_send = Message { send: 2, ..messages[7] };
    assert_eq!(whole_ids(&hooks, &[messages[999], later_send]).await, [None, None]);
    hooks.stop().await;
}

#[tokio::test]
async fn an_id_that_a_status_brings_first_is_kept_whole() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 100).await;
    let messages = &messages[&"3001".into()];
    let delivered: Vec<_> = messages.iter().map(|message| hooks.status(message, "delivered")).collect();
    assert_eq!(hooks.deliver(&statuses("3001", &delivered)).await, 200);
    assert_eq!(whole_ids(&hooks, messages).await, expected(messages));
    hooks.accept(messages).await;
    assert_eq!(whole_ids(&hooks, messages).await, expected(messages));
    hooks.stop().await;
}

#[tokio::test]
async fn a_repeated_outcome_or_status_stores_no_id_again() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 100).await;
    let messages = &messages[&"3001".into()];
    let (accepted, sent) = messages.split_at(60);
    let statuses = statuses("3001", &sent.iter().map(|message| hooks.status(message, "sent")).collect::<Vec<_>>());
    let both = async || {
        hooks.accept(accepted).await;
        assert_eq!(hooks.deliver(&statuses).await, 200);
        memory(&hooks, "*:m").await
    };
    assert_eq!(both().await, both().await);
    hooks.stop().await;
}

#[tokio::test]
async fn each_send_of_a_row_keeps_its_own_id() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 2).await;
    let [first, _] = messages[&"3001".into()][..] else { panic!("two") };
    hooks.accept([&first]).await;
    // Meta returns the message, and the row is sent again.
    assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&first, "failed 131042")])).await, 200);
    let [second] = hooks.claim(first.part).await[..] else { panic!("one") };
    hooks.accept([&second]).await;
    assert_eq!((first.row, first.send, second.row, second.send), (second.row, 1, first.row, 2));
    assert_eq!(whole_ids(&hooks, &[second, first]).await, expected(&[second, first]));
    hooks.stop().await;
}

#[tokio::test]
async fn whole_ids_stay_for_id_retention_after_their_part_ended() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 600).await;
    let messages = &messages[&"3001".into()];
    let part = messages[0].part;
    hooks.accept(messages).await;
    let shorten = cmd("PEXPIRE").arg(hooks.store.keys.wamids(part)).arg(60_000).clone();
    hooks.store.query::<u8>("PEXPIRE", &shorten).await.expect("a store");
    // Each stored id prolongs the lifetime of all.
    hooks.accept(&messages[..1]).await;
    let kept = hooks::ID_RETENTION.as_millis() as i64;
    assert!((kept - 60_000..=kept).contains(&lifetime(&hooks, part).await));
    assert!(hooks.store.complete_if_done(id, hooks.clock.now()).await.expect("a store"));
    index(&hooks).await;
    assert_eq!(whole_ids(&hooks, messages).await, expected(messages));
    hooks.stop().await;
}

#[tokio::test]
async fn no_whole_id_is_left_or_stored_after_the_retention() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 40).await;
    let messages = &messages[&"3001".into()];
    let (accepted, doubtful) = messages.split_at(20);
    hooks.accept(accepted).await;
    let past = hooks.clock.now();
    hooks.settle(doubtful.iter().map(|message| (*message, Settled::InDoubt { until: past }))).await;
    hooks.store.end_doubts(messages[0].part, past, 0).await.expect("a store");
    assert!(hooks.store.complete_if_done(id, past).await.expect("a store"));
    hooks.store.forget_recipients(id).await.expect("a store");
    assert_eq!(memory(&hooks, "*:m").await, 0);
    let delivered: Vec<_> = doubtful.iter().map(|message| hooks.status(message, "delivered")).collect();
    assert_eq!(hooks.deliver(&statuses("3001", &delivered)).await, 200);
    hooks.accept(accepted).await;
    assert_eq!(memory(&hooks, "*:m").await, 0);
    hooks.stop().await;
}

#[tokio::test]
async fn a_message_id_takes_at_most_50_bytes() {
    const N: usize = 20_000;
    let hooks = Hooks::start().await;
    let mut rng = StdRng::seed_from_u64(support::seed());
    let (id, messages) = hooks.campaign(&["3001"], N as u64).await;
    let messages = &messages[&"3001".into()];
    let wamids: Vec<Wamid> = messages.iter().map(|_| metas_id(&mut rng)).collect();
    let settled: Vec<(Message, Settled)> =
        messages.iter().copied().zip(wamids.iter().cloned().map(Settled::Accepted)).collect();
    // In batches as small as those of a slow line.
    for settled in settled.chunks(16) {
        hooks.settle(settled.iter().cloned()).await;
    }
    let each = |bytes: u64| bytes as f64 / N as f64;
    let sending = each(memory(&hooks, "*:i").await + memory(&hooks, "*:m").await);
    assert!(hooks.store.complete_if_done(id, hooks.clock.now()).await.expect("a store"));
    index(&hooks).await;
    let indexed = each(memory(&hooks, "*:ids*").await + memory(&hooks, "*:m").await);
    println!("bytes of a message id: {sending:.1} while its part sends, {indexed:.1} in the index");
    assert!(sending <= 50.0 && indexed <= 50.0, "{sending:.1} and {indexed:.1} bytes");
    assert_eq!(whole_ids(&hooks, messages).await, wamids.into_iter().map(Some).collect::<Vec<_>>());
    hooks.stop().await;
}
