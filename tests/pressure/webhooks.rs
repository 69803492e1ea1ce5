//! Webhooks that arrive faster than Redis can store them: the worker answers those above its limit with 503 at once,
//! and Meta delivers them again.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use pregon::domain::State;

use crate::{
    LONG_TIMEOUTS, disable_persistence,
    memory::{Memory, mib},
    proxy::Network,
    redis_proxy,
    support::{
        self,
        hooks::{self, Hooks, Message, statuses},
        server::Installation,
    },
};

/// Pause between two deliveries of the same webhook.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The most bytes of memory that the webhooks may add to the worker: 64 MiB of bodies, their parsed form, and their
/// connections.
const GROWTH_MAX: u64 = 192 << 20;

#[derive(Clone, Copy)]
pub struct Size {
    pub messages: u64,
    pub statuses_each: usize,
    /// Delay of the connection to Redis, each way.
    pub delay: Duration,
}

pub struct Figures {
    pub webhooks: usize,
    pub bytes: u64,
    /// Responses with 503 while Redis did not answer.
    pub refused_while_away: usize,
    /// Responses with 503 while Redis was slow.
    pub refused_while_slow: usize,
    pub before: Memory,
    pub after: Memory,
}

/// A webhook with the same status for several messages.
struct Webhook<'a> {
    state: State,
    of: &'a [Message],
    body: Bytes,
    signature: String,
}

impl<'a> Webhook<'a> {
    fn new(hooks: &Hooks, state: State, of: &'a [Message]) -> Self {
        let reported: Vec<_> = of.iter().map(|message| hooks.status(message, state.name())).collect();
        let body = Bytes::from(statuses("3001", &reported).to_string());
        Self { state, of, signature: hooks::signature(&body), body }
    }
}

/// Delivers webhooks as Meta does.
struct Meta {
    http: reqwest::Client,
    url: String,
    refused: AtomicUsize,
}

impl Meta {
    /// Delivers a webhook once. Returns whether it was accepted.
    async fn deliver(&self, webhook: &Webhook<'_>) -> bool {
        let request = self.http.post(&self.url).header("x-hub-signature-256", &webhook.signature);
        let status = request.body(webhook.body.clone()).send().await.expect("an answer").status().as_u16();
        assert!(matches!(status, 200 | 503), "{status}");
        if status == 503 {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        status == 200
    }

    async fn deliver_until_accepted(&self, webhook: &Webhook<'_>) {
        while !self.deliver(webhook).await {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// Delivers all webhooks at once while Redis does not answer. Then delivers the refused ones again, until all are
/// accepted, while Redis is slow.
pub async fn run(size: Size) -> Figures {
    let (hooks, network) = (Hooks::start().await, Network::start());
    disable_persistence(&hooks.redis).await;
    let (id, messages) = hooks.campaign(&["3001"], size.messages).await;
    let messages = &messages[&"3001".into()];
    for messages in messages.chunks(1_000) {
        hooks.accept(messages).await;
    }
    let installation = Installation::new(&hooks.redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let redis_proxy = redis_proxy(&network, &installation, &hooks.redis);
    // With long timeouts, webhooks are refused only because of the limit, not because Redis does not answer.
    let (url, [timeout, lease]) = (redis_proxy.url(), LONG_TIMEOUTS);
    let environment = [("PREGON__REDIS__URL", url.as_str()), timeout, lease];
    let server = installation.serve_with("webhooks", "webhook", &environment).await;
    let meta = Meta { http: support::http_client(), url: server.webhook(), refused: AtomicUsize::new(0) };
    // After this webhook, the receiver has the campaign in its cache.
    meta.deliver_until_accepted(&Webhook::new(&hooks, State::Sent, &messages[..1])).await;
    let webhooks: Vec<Webhook<'_>> = [State::Sent, State::Delivered, State::Read]
        .into_iter()
        .flat_map(|state| messages.chunks(size.statuses_each).map(move |of| (state, of)))
        .map(|(state, of)| Webhook::new(&hooks, state, of))
        .collect();
    let before = Memory::of(server.pid());

    redis_proxy.hold();
    let refusals = async {
        // Webhooks within the limit get no response until Redis answers again.
        support::until("webhooks above the limit are refused", async || {
            meta.refused.load(Ordering::SeqCst) >= webhooks.len() / 5
        })
        .await;
        redis_proxy.restore();
    };
    let (accepted, ()) = tokio::join!(join_all(webhooks.iter().map(|webhook| meta.deliver(webhook))), refusals);
    let refused_while_away = meta.refused.load(Ordering::SeqCst);
    let delivered_with = |was_accepted| {
        let answered = webhooks.iter().zip(&accepted).filter(move |(_, accepted)| **accepted == was_accepted);
        answered.map(|(webhook, _)| webhook).collect::<Vec<_>>()
    };
    let (accepted, refused) = (delivered_with(true), delivered_with(false));
    println!("{} accepted, {refused_while_away} refused", accepted.len());
    assert!(!accepted.is_empty() && accepted.len() < webhooks.len());
    check_states(&hooks, messages, &accepted).await;

    redis_proxy.slow(size.delay);
    join_all(refused.iter().map(|webhook| meta.deliver_until_accepted(webhook))).await;
    redis_proxy.restore();
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, size.messages)]));
    let refused_while_slow = meta.refused.load(Ordering::SeqCst) - refused_while_away;
    let after = Memory::of(server.pid());
    println!("then {refused_while_slow} refused; grown by {}", mib(after.grown_since(before)));
    assert!(after.grown_since(before) < GROWTH_MAX, "grown by {}", mib(after.grown_since(before)));
    let bytes = webhooks.iter().map(|webhook| webhook.body.len() as u64).sum();
    hooks.stop().await;
    Figures { webhooks: webhooks.len(), bytes, refused_while_away, refused_while_slow, before, after }
}

/// Checks that no message has a state of a lower rank than an accepted webhook reported for it.
async fn check_states(hooks: &Hooks, messages: &[Message], accepted: &[&Webhook<'_>]) {
    let mut reported: HashMap<&Message, u8> = HashMap::new();
    for webhook in accepted {
        for message in webhook.of {
            let rank = reported.entry(message).or_default();
            *rank = webhook.state.rank().max(*rank);
        }
    }
    let mut bytes = HashMap::new();
    for part in messages.iter().map(|message| message.part).collect::<HashSet<_>>() {
        bytes.insert(part, hooks.store.state_bytes(part).await.expect("state bytes"));
    }
    for message in messages {
        let state = State::of(bytes[&message.part][usize::from(message.row)]).expect("a recipient");
        let reported = reported.get(message).copied().unwrap_or_default();
        assert!(state.rank() >= reported, "{message:?} is {state:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_faster_than_redis_are_refused_and_none_is_lost() {
    run(Size { messages: 16_000, statuses_each: 400, delay: Duration::from_millis(5) }).await;
}
