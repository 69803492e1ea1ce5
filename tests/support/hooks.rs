//! A webhook receiver on a real port and a real Redis, and webhooks as Meta sends them.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use pregon::{
    domain::{
        CampaignId, ClaimedRow, LineId, Live, OnDoubt, PartId, Secret, Settled, SharedTokenKey, State,
        SuppressionScope, Token, TokenKey, UnixMs,
    },
    redis::{
        Store,
        campaigns::CampaignRecord,
        clock::Clock,
        feed::FeedLimits,
        parts::{Claim, PartCounts},
    },
    rules::stop_words::StopWords,
    telemetry::health::Health,
    webhook::{self, WebhookSecrets, WebhookSettings, WebhookState, forward::Forwards},
};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{redis::TestRedis, world};

pub const APP_SECRET: &str = "app-secret-for-tests";
pub const VERIFY_TOKEN: &str = "verify-me";
/// The lines of the receiver, all of WABA 2001.
pub const LINES: [&str; 3] = ["3001", "3002", "3003"];
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long message ids are kept.
pub const ID_RETENTION: Duration = Duration::from_secs(3_600);

/// A message that was claimed for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub part: PartId,
    pub row: u16,
    pub send: u8,
}

impl Message {
    /// The message id that Meta assigns in these tests.
    pub fn wamid(&self) -> String {
        format!("wamid.{}.{}.{}", self.part, self.row, self.send)
    }
}

/// A running receiver.
pub struct Hooks {
    pub redis: TestRedis,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub key: SharedTokenKey,
    pub url: String,
    pub client: reqwest::Client,
    end: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    task: JoinHandle<Result<(), Infallible>>,
}

impl Hooks {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a receiver. If `feed` is given, changes are recorded for a feed.
    pub async fn start_with(feed: Option<FeedLimits>) -> Self {
        Self::start_forwarding(feed, Vec::new()).await
    }

    /// Starts a receiver that forwards each webhook. If `feed` is given, changes are recorded for a feed.
    pub async fn start_forwarding(feed: Option<FeedLimits>, forwards: Vec<Forwards>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redis = TestRedis::start().await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store").with_feed(feed);
        let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
        let key = store.token_key().await.expect("a key");
        let settings = WebhookSettings {
            secrets: Live::new(Arc::new(WebhookSecrets::new(&Secret::new(VERIFY_TOKEN), [&Secret::new(APP_SECRET)]))),
            body_bytes_max: BODY_BYTES_MAX,
            id_retention: ID_RETENTION,
            inbound: world::INBOUND,
            lines: LINES.iter().map(|id| world::line(id, 80.0)).collect(),
            health: Health::default(),
            forwards,
            stop_words: StopWords::new([("stop", SuppressionScope::Marketing), ("stop all", SuppressionScope::All)])
                .into(),
            traces: Default::default(),
        };
        let (state, task) = WebhookState::new(store.clone(), clock.clone(), key.clone(), settings);
        let task = tokio::spawn(task);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/webhooks/meta", listener.local_addr().expect("an address"));
        let end = CancellationToken::new();
        let router = webhook::router(state);
        let serving = axum::serve(listener, router).with_graceful_shutdown(end.clone().cancelled_owned());
        let server = tokio::spawn(async { serving.await });
        Self { redis, store, clock, key, url, client: reqwest::Client::new(), end, server, task }
    }

    /// Stops the receiver, and waits until its background task has ended.
    pub async fn stop(self) {
        self.end.cancel();
        drop(self.client);
        self.server.await.expect("no panic").expect("a clean end");
        self.task.await.expect("no panic").expect("a clean end");
    }

    /// Delivers a signed webhook. Returns the HTTP status.
    pub async fn deliver(&self, body: &Value) -> u16 {
        self.deliver_bytes(&serde_json::to_vec(body).expect("JSON")).await
    }

    pub async fn deliver_bytes(&self, body: &[u8]) -> u16 {
        self.deliver_with(&signature(body), body).await
    }

    pub async fn deliver_with(&self, signature: &str, body: &[u8]) -> u16 {
        let request = self.client.post(&self.url).header("x-hub-signature-256", signature).body(body.to_vec());
        request.send().await.expect("an answer").status().as_u16()
    }

    /// Creates and launches a campaign with `n` recipients, and claims all of them. Returns the messages by line.
    pub async fn campaign(&self, lines: &[&str], n: u64) -> (CampaignId, HashMap<LineId, Vec<Message>>) {
        let id = world::campaign(&self.store, lines, n, OnDoubt::Hold).await;
        (id, self.launch(id, n).await)
    }

    /// Launches a campaign that has `n` recipients, and claims all of them. Returns the messages by line.
    pub async fn launch(&self, id: CampaignId, n: u64) -> HashMap<LineId, Vec<Message>> {
        world::launch(&self.store, id).await;
        let mut messages: HashMap<LineId, Vec<Message>> = HashMap::new();
        for (part, line) in self.record(id).await.parts {
            let claimed = self.claim(part).await;
            messages.entry(line).or_default().extend(claimed);
        }
        assert_eq!(messages.values().map(Vec::len).sum::<usize>() as u64, n);
        messages
    }

    /// Claims everything of a part that is due.
    pub async fn claim(&self, part: PartId) -> Vec<Message> {
        let now = self.clock.now();
        let mut messages = Vec::new();
        loop {
            let claim = self
                .store
                .claim(part, &super::claim_request(1, now, 1_000, now.after(ID_RETENTION)))
                .await
                .expect("a claim");
            let Claim::Rows { rows, .. } = claim else { panic!("{claim:?}") };
            if rows.is_empty() {
                return messages;
            }
            messages.extend(rows.into_iter().map(|row| Message { part, row: row.claimed.row, send: row.claimed.send }));
        }
    }

    pub async fn settle(&self, outcomes: impl IntoIterator<Item = (Message, Settled)>) {
        let mut by_part: BTreeMap<PartId, Vec<_>> = BTreeMap::new();
        for (message, settled) in outcomes {
            let claimed = ClaimedRow { row: message.row, send: message.send };
            by_part.entry(message.part).or_default().push((claimed, settled));
        }
        self.store.settle(&by_part, 1, self.clock.now(), ID_RETENTION).await.expect("settled");
    }

    /// Settles `messages` as accepted.
    pub async fn accept(&self, messages: impl IntoIterator<Item = &Message>) {
        self.settle(messages.into_iter().map(|message| (*message, accepted(message)))).await;
    }

    pub async fn record(&self, id: CampaignId) -> CampaignRecord {
        self.store.campaign(id).await.expect("a store").expect("a campaign")
    }

    /// The counters of a campaign, without states that are empty, after checking that they equal its state bytes.
    pub async fn counts(&self, id: CampaignId) -> PartCounts {
        let record = self.record(id).await;
        // Counters and bytes are read one after the other, so both are read again if a status arrived in between.
        let (mut counts, bytes, held) = loop {
            let before = world::counts(&self.store, &record).await;
            let bytes = world::recount(&self.store, &record).await;
            let held = world::recount_held(&self.store, &record).await;
            if world::counts(&self.store, &record).await == before {
                break (before, bytes, held);
            }
        };
        assert_eq!(counts.held, held, "counter and bits of held messages");
        assert_eq!(counts.by_state, bytes, "counters and state bytes");
        assert_eq!(counts.by_state.values().sum::<u64>(), counts.recipients);
        counts.by_state.retain(|_, n| *n > 0);
        counts
    }

    /// The number of recipients in each non-empty state.
    pub async fn by_state(&self, id: CampaignId) -> HashMap<State, u64> {
        self.counts(id).await.by_state
    }

    /// Pregón's token for the message.
    pub fn token(&self, message: &Message) -> String {
        token(&self.key.get(), message)
    }

    /// A status as Meta sends it, with Pregón's token.
    pub fn status(&self, message: &Message, word: &str) -> Value {
        let mut status = status_without_token(&message.wamid(), word);
        status["biz_opaque_callback_data"] = self.token(message).into();
        status
    }
}

pub fn accepted(message: &Message) -> Settled {
    Settled::Accepted(message.wamid().as_str().into())
}

pub fn token(key: &TokenKey, message: &Message) -> String {
    let mut text = String::new();
    let claimed = ClaimedRow { row: message.row, send: message.send };
    Token::Campaign { part: message.part, claimed }.write(key, &mut text);
    text
}

/// A status without a token. `failed` with its code: `failed 131026`.
pub fn status_without_token(wamid: &str, word: &str) -> Value {
    let (word, code) = word.split_once(' ').unwrap_or((word, ""));
    let mut status = json!({
        "id": wamid,
        "status": word,
        "timestamp": now().seconds().to_string(),
        "recipient_id": "5491155550101",
    });
    if let Ok(code) = code.parse::<u32>() {
        let details = format!("details of {code}");
        status["errors"] = json!([{"code": code, "title": "t", "message": "m", "error_data": {"details": details}}]);
    }
    status
}

/// A webhook with statuses of messages on `line`, in one entry of `changes`.
pub fn statuses(line: &str, statuses: &[Value]) -> Value {
    payload(&[json!({"field": "messages", "value": {"metadata": {"phone_number_id": line}, "statuses": statuses}})])
}

/// A webhook with messages from people to `line`.
pub fn inbound(line: &str, messages: &[Value]) -> Value {
    payload(&[json!({"field": "messages", "value": {"metadata": {"phone_number_id": line}, "messages": messages}})])
}

pub fn payload(changes: &[Value]) -> Value {
    json!({"object": "whatsapp_business_account", "entry": [{"id": "2001", "changes": changes}]})
}

/// `X-Hub-Signature-256` of a body.
pub fn signature(body: &[u8]) -> String {
    signature_with(APP_SECRET, body)
}

/// `X-Hub-Signature-256` with another secret.
pub fn signature_with(app_secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).expect("a key").chain_update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

pub fn now() -> UnixMs {
    pregon::telemetry::clock::now()
}
