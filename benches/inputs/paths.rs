//! The hot paths: what is done for each message, each status and each row of an upload, without Redis. Only `send` has a network,
//! and that of this machine.

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use pregon::{
    domain::{Outcome, Recipient, Secret, Token},
    graph::{GraphClient, GraphClientConfig, Permit, answer, body::BodyPlan},
    intake::rows::{Columns, Row, RowReader},
    redis::chunk::{self, CHUNK_ROWS_MAX, Chunk},
    webhook::{
        payload::{Payload, WebhookChange},
        signature::{Signature, Verifier},
    },
};

use super::{csv, form, meta::InstantMeta, ndjson, part, recipient, template, token, token_key, webhook};

const ACCEPTED: &[u8] = include_bytes!("../../tests/fixtures/answers/accepted.json");
const THROTTLED: &[u8] = include_bytes!("../../tests/fixtures/answers/error_130429.json");
const PROXY_ERROR: &[u8] = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// Statuses in the larger webhook.
const MANY: u16 = 100;

/// One hot path, cold.
pub struct Path {
    /// What it does `n` of in a run.
    pub of: &'static str,
    pub n: u64,
    /// Bytes that a run reads or writes, as they are outside of this process.
    pub bytes: u64,
    pub run: Box<dyn FnMut()>,
}

/// Makes one.
pub type Make = fn() -> Path;

/// Every path by its name.
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

/// The path of that name.
pub fn named(name: &str) -> Path {
    let (_, make) =
        PATHS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no path is called {name}"));
    make()
}

/// Uses a result, so that nothing of its making is left out.
fn done<T>(result: T) {
    let _ = black_box(result);
}

/// The recipients of one chunk.
fn recipients() -> Vec<Recipient> {
    (0..CHUNK_ROWS_MAX as u64).map(recipient).collect()
}

/// Builds messages as a claim does: into buffers that are used again.
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
        Token { part: part(), row, send: 1 }.write(&token_key(), &mut self.token);
        self.plan.render(recipient.to, &recipient.values, &self.token, &mut self.body);
        &self.body
    }
}

/// Token and body of each message of a chunk.
fn body() -> Path {
    let (mut builder, recipients) = (Builder::new(), recipients());
    let mut run =
        move || recipients.iter().zip(0..).map(|(to, row)| black_box(builder.body(to, row)).len() as u64).sum();
    let bytes = run();
    Path { of: "message", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(move || done(run())) }
}

/// The messages of a chunk to a Meta on this machine, as many at once as every line may have on their way; and the answers.
fn send() -> Path {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let meta = InstantMeta::start(u64::MAX);
    let graph = GraphClient::new(GraphClientConfig { base_url: meta.url.clone(), ..GraphClientConfig::default() });
    let sender = graph.expect("a client").sender(&"3001".into(), &Secret::new("token")).expect("a sender");
    let mut builder = Builder::new();
    let message = |(to, row): (&Recipient, u16)| Bytes::copy_from_slice(builder.body(to, row));
    let messages: Vec<Bytes> = recipients().iter().zip(0..).map(message).collect();
    let bytes = messages.iter().map(|message| message.len() as u64).sum();
    let run = move || {
        let _answers_until_it_is_dropped = &meta;
        runtime.block_on(async {
            let send = async |body: &Bytes| match sender.permit(Instant::now()) {
                Some(Permit::Open(permit)) => sender.send(permit, body.clone()).await,
                Some(Permit::New(permit)) => {
                    let departure = sender.connect(permit, body.clone()).await.expect("a connection");
                    Some(departure.leave().await)
                }
                None => None,
            };
            let mut waiting: Vec<&Bytes> = messages.iter().collect();
            // In the beginning there are not enough connections.
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

/// What an answer of Meta says.
fn answer(status: u16, body: &'static [u8]) -> Path {
    let known = matches!(
        (status, answer::read(status, body)),
        (200, Outcome::Accepted { .. }) | (400, Outcome::Throttled { .. }) | (502, Outcome::InDoubt(_))
    );
    assert!(known, "the answer means something else");
    let run = move || done(answer::read(black_box(status), black_box(body)));
    Path { of: "answer", n: 1, bytes: body.len() as u64, run: Box::new(run) }
}

/// Our own token as a status brings it back.
fn read_token() -> Path {
    let (key, text) = (token_key(), token(981));
    assert_eq!(Token::read(&key, &text).map(|token| token.row), Some(981));
    let bytes = text.len() as u64;
    let run = move || done(Token::read(&key, black_box(&text)));
    Path { of: "status", n: 1, bytes, run: Box::new(run) }
}

/// Whether a webhook with `n` statuses is Meta's.
fn signature(n: u16) -> Path {
    let body = webhook(n);
    // Not the right one: it takes as long, see `Verifier::accepts`.
    let signature = Signature::read(format!("sha256={}", "5a".repeat(32)).as_bytes()).expect("a signature");
    let verifier = Verifier::new(&[Secret::new("0123456789abcdef0123456789abcdef")]);
    let bytes = body.len() as u64;
    let run = move || done(verifier.accepts(&signature, black_box(&body)));
    Path { of: "webhook", n: 1, bytes, run: Box::new(run) }
}

/// What a webhook with `n` statuses says.
fn read_webhook(n: u16) -> Path {
    let body = webhook(n);
    let payload = Payload::read(&body).expect("a webhook");
    let [WebhookChange::Messages(messages)] = payload.changes.as_slice() else { panic!("{payload:?}") };
    assert_eq!(messages.statuses.len(), usize::from(n));
    drop(payload);
    let bytes = body.len() as u64;
    let run = move || done(Payload::read(black_box(&body)));
    Path { of: "status", n: u64::from(n), bytes, run: Box::new(run) }
}

/// A full chunk, as an upload writes it.
fn encode() -> Path {
    let recipients = recipients();
    let bytes = chunk::encode(recipients.iter()).len() as u64;
    let run = move || done(chunk::encode(black_box(&recipients).iter()));
    Path { of: "recipient", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(run) }
}

/// The same, as a claim reads it.
fn decode() -> Path {
    let chunk = chunk::encode(recipients().iter());
    let read = Chunk::decode(&chunk).expect("a chunk");
    assert!(read.recipients().eq(recipients()), "a chunk comes back as it was");
    let bytes = chunk.len() as u64;
    let run = move || done(Chunk::decode(black_box(&chunk)));
    Path { of: "recipient", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(run) }
}

/// An upload from its bytes to recipients that fit the template.
fn rows(reader: fn() -> RowReader, text: String) -> Path {
    let form = form();
    let bytes = text.len() as u64;
    let run = move || {
        let (mut reader, mut rows) = (reader(), Vec::new());
        reader.push(black_box(text.as_bytes()), &mut rows).expect("rows");
        reader.finish(&mut rows).expect("rows");
        let fit = |row: Row| form.fit(row.recipient.expect("a recipient")).expect("it fits");
        rows.into_iter().map(fit).collect::<Vec<Recipient>>()
    };
    assert!(run() == recipients(), "the rows say who the recipients are");
    Path { of: "row", n: CHUNK_ROWS_MAX as u64, bytes, run: Box::new(move || done(run())) }
}
