//! Webhooks that come faster than Redis takes them: what is too much is answered 503, at once, and delivered again.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use pregon::domain::State;

use crate::{
    PATIENT, keeps_no_file,
    memory::{Memory, mib},
    proxy::Network,
    support::{
        self,
        hooks::{self, Hooks, Message, statuses},
        server::Installation,
    },
    wire,
};

/// Between two deliveries of the same webhook.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// What they may add to the worker's memory: 64 MiB of bodies, what is read from them, and their connections.
const GROWTH_MAX: u64 = 192 << 20;

#[derive(Clone, Copy)]
pub struct Size {
    pub messages: u64,
    pub statuses_each: usize,
    /// How much later everything comes to Redis, and from it.
    pub delay: Duration,
}

pub struct Figures {
    pub webhooks: usize,
    pub bytes: u64,
    pub refused_while_away: usize,
    /// Answers 503 while Redis was slow, before the last was taken.
    pub refused_while_slow: usize,
    pub before: Memory,
    pub after: Memory,
}

/// What one webhook says: the same of some messages.
struct Webhook<'a> {
    says: State,
    of: &'a [Message],
    body: Bytes,
    signature: String,
}

impl<'a> Webhook<'a> {
    fn new(hooks: &Hooks, says: State, of: &'a [Message]) -> Self {
        let said: Vec<_> = of.iter().map(|message| hooks.status(message, says.name())).collect();
        let body = Bytes::from(statuses("3001", &said).to_string());
        Self { says, of, signature: hooks::signature(&body), body }
    }
}

/// Delivers webhooks, each on a connection of its own.
struct Meta {
    http: reqwest::Client,
    url: String,
    refused: AtomicUsize,
}

impl Meta {
    /// Whether it was taken.
    async fn deliver(&self, webhook: &Webhook<'_>) -> bool {
        let request = self.http.post(&self.url).header("x-hub-signature-256", &webhook.signature);
        let status = request.body(webhook.body.clone()).send().await.expect("an answer").status().as_u16();
        assert!(matches!(status, 200 | 503), "{status}");
        if status == 503 {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        status == 200
    }

    async fn deliver_until_taken(&self, webhook: &Webhook<'_>) {
        while !self.deliver(webhook).await {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// All webhooks come at once: first while Redis does not answer, then while it is slow.
pub async fn play(size: Size) -> Figures {
    let (hooks, network) = (Hooks::start().await, Network::start());
    keeps_no_file(&hooks.redis).await;
    let (id, messages) = hooks.campaign(&["3001"], size.messages).await;
    let messages = &messages[&"3001".into()];
    for messages in messages.chunks(1_000) {
        hooks.accept(messages).await;
    }
    let installation = Installation::new(&hooks.redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let wire = wire(&network, &installation, &hooks.redis);
    // Nobody is refused for Redis' silence, but because there is no room.
    let (url, [timeout, lease]) = (wire.url(), PATIENT);
    let environment = [("PREGON__REDIS__URL", url.as_str()), timeout, lease];
    let server = installation.serve_with("webhooks", "webhook", &environment).await;
    let meta = Meta { http: support::http_client(), url: server.webhook(), refused: AtomicUsize::new(0) };
    // From here on it knows the campaign.
    meta.deliver_until_taken(&Webhook::new(&hooks, State::Sent, &messages[..1])).await;
    let webhooks: Vec<Webhook<'_>> = [State::Sent, State::Delivered, State::Read]
        .into_iter()
        .flat_map(|says| messages.chunks(size.statuses_each).map(move |of| (says, of)))
        .map(|(says, of)| Webhook::new(&hooks, says, of))
        .collect();
    let before = Memory::of(server.pid());

    wire.hold();
    let too_much = async {
        // Those for which there is room wait, and have no answer.
        support::until("what is too much is refused", async || {
            meta.refused.load(Ordering::SeqCst) >= webhooks.len() / 5
        })
        .await;
        wire.mend();
    };
    let (taken, ()) = tokio::join!(join_all(webhooks.iter().map(|webhook| meta.deliver(webhook))), too_much);
    let refused_while_away = meta.refused.load(Ordering::SeqCst);
    let of_those = |was_taken| {
        let answered = webhooks.iter().zip(&taken).filter(move |(_, taken)| **taken == was_taken);
        answered.map(|(webhook, _)| webhook).collect::<Vec<_>>()
    };
    let (taken, refused) = (of_those(true), of_those(false));
    println!("{} taken, {refused_while_away} refused", taken.len());
    assert!(!taken.is_empty() && taken.len() < webhooks.len());
    everything_is_there(&hooks, messages, &taken).await;

    wire.slow(size.delay);
    join_all(refused.iter().map(|webhook| meta.deliver_until_taken(webhook))).await;
    wire.mend();
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, size.messages)]));
    let refused_while_slow = meta.refused.load(Ordering::SeqCst) - refused_while_away;
    let after = Memory::of(server.pid());
    println!("then {refused_while_slow} refused; grown by {}", mib(after.grown_since(before)));
    assert!(after.grown_since(before) < GROWTH_MAX, "grown by {}", mib(after.grown_since(before)));
    let bytes = webhooks.iter().map(|webhook| webhook.body.len() as u64).sum();
    hooks.stop().await;
    Figures { webhooks: webhooks.len(), bytes, refused_while_away, refused_while_slow, before, after }
}

/// Each message stands at least where webhooks that were answered 200 have it.
async fn everything_is_there(hooks: &Hooks, messages: &[Message], taken: &[&Webhook<'_>]) {
    let mut told: HashMap<&Message, u8> = HashMap::new();
    for webhook in taken {
        for message in webhook.of {
            let rank = told.entry(message).or_default();
            *rank = webhook.says.rank().max(*rank);
        }
    }
    let mut bytes = HashMap::new();
    for part in messages.iter().map(|message| message.part).collect::<HashSet<_>>() {
        bytes.insert(part, hooks.store.state_bytes(part).await.expect("state bytes"));
    }
    for message in messages {
        let state = State::of(bytes[&message.part][usize::from(message.row)]).expect("a recipient");
        let told = told.get(message).copied().unwrap_or_default();
        assert!(state.rank() >= told, "{message:?} is {state:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_faster_than_redis_are_refused_before_memory_grows_and_none_that_was_taken_is_missing() {
    play(Size { messages: 16_000, statuses_each: 400, delay: Duration::from_millis(5) }).await;
}
