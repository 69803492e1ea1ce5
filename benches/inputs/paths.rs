//! The hot paths: the work for each message, status and row of an upload, without Redis. Only `send` uses the network,
//! over loopback.

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use pregon::{
    domain::{ClaimedRow, Outcome, Recipient, Secret, Token},
    graph::{Edge, GraphClient, GraphClientConfig, Permit, SendRequest, answer, body::BodyPlan},
    intake::rows::{Columns, Row, RowReader},
    redis::chunk::{self, CHUNK_ROWS_MAX, Chunk},
    webhook::{
        fields::WebhookChange,
        payload::Payload,
        signature::{Signature, Verifier},
    },
};

use super::{csv, form, meta::InstantMeta, ndjson, part, recipient, template, token, token_key, webhook};

const ACCEPTED: &[u8] = include_bytes!("../../tests/fixtures/answers/accepted.json");
const THROTTLED: &[u8] = include_bytes!("../../tests/fixtures/answers/error_130429.json");
const PROXY_ERROR: &[u8] = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// Statuses in the larger webhook.
const MANY: u16 = 100;

/// One hot path. The first run is cold.
pub struct Path {
    /// The item that a run processes.
    pub of: &'static str,
    /// Items per run.
    pub n: u64,
    /// Bytes that a run reads or writes: the size on the wire or in Redis.
    pub bytes: u64,
    pub run: Box<dyn FnMut()>,
}

/// Builds a path.
pub type Make = fn() -> Path;

/// Every path, with its name.
pub const PATHS: [(&str, Make); 14] = [
    ("body", body),
    ("send", send),
    ("answer", || answer(200, ACCEPTED)),
    ("answer of an error", || answer(400, THROTTLED)),
    ("answer of a proxy", || answer(502, PROXY_ERROR)),
    ("token", read_token),
    ("signature", || signature(1)),
    ("signature of many", || signature(MANY)),
    ("webhook", || read_webhook(1)),
    ("webhook of many", || read_webhook(MANY)),
    ("encode", encode),
    ("decode", decode),
    ("ndjson", || rows(RowReader::ndjson, ndjson(CHUNK_ROWS_MAX as u64))),
    ("csv", || rows(|| RowReader::csv(Columns::of(&form(), &[])), csv(CHUNK_ROWS_MAX as u64))),
];

/// Builds the path with this name.
pub fn named(name: &str) -> Path {
    let (_, make) =
        PATHS.iter().find(|(candidate, _)| *candidate == name).unwrap_or_else(|| panic!("no path is called {name}"));
    make()
}

/// Uses a result, so that the compiler cannot remove its computation.
fn done<T>(result: T) {
    let _ = black_box(result);
}

/// The recipients of one full chunk, the unit in which Redis stores recipients.
fn recipients() -> Vec<Recipient> {
    (0..CHUNK_ROWS_MAX as u64).map(recipient).collect()
}

/// Builds messages as a claim does: into reused buffers.
struct Builder {
    plan: BodyPlan,
    token: String,
    body: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self { plan: BodyPlan::new(&template(), &form()), token: String::new(), body: Vec::new() }
    }

    fn body(&mut self, recipient: &Recipient, row: u16) -> &[u8] {
        self.token.clear();
        self.body.clear();
        Token::Campaign { part: part(), claimed: ClaimedRow { row, send: 1 } }.write(&token_key(), &mut self.token);
        self.plan.render(recipient.to, &recipient.values, &self.token, &mut self.body);
        &self.body
    }
}

/// Builds the token and the body of each message of a chunk.
fn body() -> Path {
    let (mut builder, recipients) = (Builder::new(), recipients());
    let mut run =
        move || recipients.iter().zip(0..).map(|(to, row)| black_box(builder.body(to, row)).len() as u64).sum();
    let bytes = run();
    Path { of: "message", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(move || done(run())) }
}

/// Sends the messages of a chunk to a fake Meta, 16 at once, and parses the answers.
fn send() -> Path {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let meta = InstantMeta::start(u64::MAX);
    let graph = GraphClient::new(GraphClientConfig { base_url: meta.url.clone(), ..GraphClientConfig::default() });
    let sender = graph.expect("a client").sender(&"3001".into(), &Secret::new("token")).expect("a sender");
    let mut builder = Builder::new();
    let message = |(to, row): (&Recipient, u16)| SendRequest {
        edge: Edge::Messages,
        body: Bytes::copy_from_slice(builder.body(to, row)),
    };
    let messages: Vec<SendRequest> = recipients().iter().zip(0..).map(message).collect();
    let bytes = messages.iter().map(|message| message.body.len() as u64).sum();
    let run = move || {
        let _answers_until_it_is_dropped = &meta;
        runtime.block_on(async {
            let send = async |message: &SendRequest| match sender.permit(Instant::now()) {
                Some(Permit::Open(permit)) => sender.send(permit, message.clone()).await,
                Some(Permit::New(permit)) => {
                    let departure = sender.connect(permit, message.clone()).await.expect("a connection");
                    Some(departure.leave().await)
                }
                None => None,
            };
            let mut waiting: Vec<&SendRequest> = messages.iter().collect();
            // At first there are too few connections, so some sends get no permit and are repeated.
            while !waiting.is_empty() {
                let mut attempts = stream::iter(std::mem::take(&mut waiting))
                    .map(async |body| (body, send(body).await))
                    .buffer_unordered(16);
                while let Some((body, outcome)) = attempts.next().await {
                    match outcome {
                        Some(outcome) => assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}"),
                        None => waiting.push(body),
                    }
                }
            }
        });
    };
    Path { of: "message", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(run) }
}

/// Parses an answer of Meta.
fn answer(status: u16, body: &'static [u8]) -> Path {
    let as_expected = matches!(
        (status, answer::read(status, body)),
        (200, Outcome::Accepted { .. }) | (400, Outcome::Throttled { .. }) | (502, Outcome::InDoubt(_))
    );
    assert!(as_expected, "the answer has another outcome");
    let run = move || done(answer::read(black_box(status), black_box(body)));
    Path { of: "answer", n: 1, bytes: body.len() as u64, run: Box::new(run) }
}

/// Verifies and parses the token of a status.
fn read_token() -> Path {
    let (key, text) = (token_key(), token(981));
    assert!(matches!(Token::read(&key, &text), Some(Token::Campaign { claimed: ClaimedRow { row: 981, .. }, .. })));
    let bytes = text.len() as u64;
    let run = move || done(Token::read(&key, black_box(&text)));
    Path { of: "status", n: 1, bytes, run: Box::new(run) }
}

/// Verifies the signature of a webhook with `n` statuses.
fn signature(n: u16) -> Path {
    let body = webhook(n);
    // The signature is wrong. Rejecting it takes as long as accepting it, see `Verifier::accepts`.
    let signature = Signature::read(format!("sha256={}", "5a".repeat(32)).as_bytes()).expect("a signature");
    let verifier = Verifier::new(&[Secret::new("0123456789abcdef0123456789abcdef")]);
    let bytes = body.len() as u64;
    let run = move || done(verifier.accepts(&signature, black_box(&body)));
    Path { of: "webhook", n: 1, bytes, run: Box::new(run) }
}

/// Parses a webhook with `n` statuses.
fn read_webhook(n: u16) -> Path {
    let body = webhook(n);
    let payload = Payload::read(&body).expect("a webhook");
    let [WebhookChange::Messages(messages)] = &*payload.entries[0].changes else { panic!("{payload:?}") };
    assert_eq!(messages.statuses.len(), usize::from(n));
    drop(payload);
    let bytes = body.len() as u64;
    let run = move || done(Payload::read(black_box(&body)));
    Path { of: "status", n: u64::from(n), bytes, run: Box::new(run) }
}

/// Encodes a full chunk, as an upload does.
fn encode() -> Path {
    let recipients = recipients();
    let bytes = chunk::encode(recipients.iter()).len() as u64;
    let run = move || done(chunk::encode(black_box(&recipients).iter()));
    Path { of: "recipient", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(run) }
}

/// Decodes a full chunk, as a claim does.
fn decode() -> Path {
    let chunk = chunk::encode(recipients().iter());
    let read = Chunk::decode(&chunk).expect("a chunk");
    assert!(read.recipients().eq(recipients()), "decoding returns what was encoded");
    let bytes = chunk.len() as u64;
    let run = move || done(Chunk::decode(black_box(&chunk)));
    Path { of: "recipient", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(run) }
}

/// Parses an upload from its bytes to recipients that fit the template.
fn rows(reader: fn() -> RowReader, text: String) -> Path {
    let form = form();
    let bytes = text.len() as u64;
    let run = move || {
        let (mut reader, mut rows) = (reader(), Vec::new());
        reader.push(black_box(text.as_bytes()), &mut rows).expect("rows");
        reader.finish(&mut rows).expect("rows");
        let fit = |row: Row| form.fit(row.content.expect("a recipient")).expect("it fits");
        rows.into_iter().map(fit).collect::<Vec<Recipient>>()
    };
    assert!(run() == recipients(), "the rows parse to the recipients they were written from");
    Path { of: "row", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(move || done(run())) }
}
