//! Traces: the way of a sampled recipient from its upload or job to its webhooks, exported by OTLP.
//!
//! Whether a recipient is sampled, the id of its trace and the ids of its spans follow from its part and row alone. So
//! any process adds to the same trace at any later time, and nothing is stored. [`export`] sends the spans.
//!
//! If the process dies: the spans that were not exported are lost, and nothing else.
//! Never: waits for the export. A span has no phone number, no value, no error text, and no message id, because Meta's
//! message ids contain the phone number.

pub mod export;
mod origin;
mod span;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use siphasher::sip128::SipHasher13;
use tokio::sync::mpsc;

pub use self::origin::{Origin, Request};
use self::span::{Attribute, Span, SpanContext, SpanId, SpanKind, TraceId};
use super::{
    clock,
    metrics::{self, AttemptOutcome, SpanResult},
};
use crate::domain::{Fact, LineId, MetaCode, News, Outcome, PartId};

/// The key of the hash from which the ids follow. Every release uses the same one.
const KEY: &[u8; 16] = b"pregon trace ids";

/// Of a trace id, the bits that decide whether it is sampled: as in the OpenTelemetry specification, so that a collector
/// that samples by them agrees.
const RANDOM_BITS: u32 = 56;

/// Where the program records spans. Cheap to clone. The default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    /// A trace is sampled if its random bits are at least this number.
    threshold: u64,
    spans: mpsc::Sender<Span>,
}

impl Traces {
    /// Records the spans of `share` of the recipients in `spans`, from 0 to 1.
    fn recording(share: f64, spans: mpsc::Sender<Span>) -> Self {
        let threshold = ((1.0 - share) * (1_u64 << RANDOM_BITS) as f64) as u64;
        Self(Some(Arc::new(Recorder { threshold, spans })))
    }

    /// The trace of a recipient; `None` if it is not sampled.
    pub fn of_recipient(&self, part: PartId, row: u16) -> Option<RecipientTrace> {
        let recorder = self.0.as_ref()?;
        let mut name = [0; 20];
        name[..16].copy_from_slice(&part.campaign.0.to_bytes());
        name[16..18].copy_from_slice(&part.number.to_be_bytes());
        name[18..].copy_from_slice(&row.to_be_bytes());
        let id = u128::from(SipHasher13::new_with_key(KEY).hash(&name));
        let is_sampled = id as u64 & ((1 << RANDOM_BITS) - 1) >= recorder.threshold;
        is_sampled.then(|| RecipientTrace { recorder: recorder.clone(), id: TraceId(id), part, row })
    }
}

impl Recorder {
    /// Queues a span for the export. If the queue is full, the span is dropped and counted.
    fn record(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            metrics::spans(SpanResult::Dropped, 1);
        }
    }
}

/// The trace of a sampled recipient.
#[derive(Clone, Debug)]
pub struct RecipientTrace {
    recorder: Arc<Recorder>,
    id: TraceId,
    part: PartId,
    row: u16,
}

/// The spans of a recipient. Those of a send have its number.
#[derive(Clone, Copy)]
enum SpanName {
    Root,
    Claim(u8),
    Send(u8),
    /// A status may come more than once, so its span has a random id.
    Status(SpanId),
}

impl RecipientTrace {
    /// Begins the claim of one send of the recipient, which was asked for at `asked_at`.
    pub fn claimed(self, send: u8, attempt: u8, line: LineId, asked_at: Instant) -> ClaimTrace {
        ClaimTrace { trace: self, send, attempt, line, asked_at }
    }

    /// Records what Meta reported about the recipient, in a webhook whose commit began at `began`.
    pub fn reported(&self, fact: &Fact, began: SystemTime) {
        let (name, code) = match fact.news {
            News::Sent => ("webhook sent", None),
            News::Delivered => ("webhook delivered", None),
            News::Read => ("webhook read", None),
            News::Replied => ("webhook replied", None),
            News::Failed(reason) | News::Returned(reason) | News::Withheld(reason) => ("webhook failed", reason.code()),
        };
        // Some statuses do not tell the send.
        let parent = if fact.send == 0 { SpanName::Root } else { SpanName::Send(fact.send) };
        let id = SpanName::Status(SpanId::random());
        self.record(id, Some(parent), SpanKind::Consumer, name, began, |span| {
            span.attributes.push(Attribute::text("pregon.status.at", fact.at));
            span.attributes.extend(code.map(code_attribute));
            span.is_error = fact.news.failure().is_some();
        });
    }

    /// Records the root of the trace: the batch of an upload or of a job in which the recipient was stored, from `began` on.
    /// `cause` is the call or job that it came by.
    fn admitted(&self, name: &str, cause: Option<SpanContext>, began: SystemTime) {
        self.record(SpanName::Root, None, SpanKind::Producer, name, began, |span| span.links.extend(cause));
    }

    fn record(
        &self,
        span: SpanName,
        parent: Option<SpanName>,
        kind: SpanKind,
        name: &str,
        began: SystemTime,
        complete: impl FnOnce(&mut Span),
    ) {
        let context = SpanContext { trace_id: self.id, span_id: self.span_id(span) };
        let mut span = Span::new(context, parent.map(|parent| self.span_id(parent)), kind, name, began);
        span.attributes = vec![
            Attribute::text("pregon.campaign.id", self.part.campaign),
            Attribute::number("pregon.part", self.part.number),
            Attribute::number("pregon.row", self.row),
        ];
        complete(&mut span);
        self.recorder.record(span);
    }

    fn span_id(&self, span: SpanName) -> SpanId {
        let (kind, send) = match span {
            SpanName::Root => (0, 0),
            SpanName::Claim(send) => (1, send),
            SpanName::Send(send) => (2, send),
            SpanName::Status(id) => return id,
        };
        let mut name = [0; 18];
        name[..16].copy_from_slice(&self.id.0.to_be_bytes());
        name[16..].copy_from_slice(&[kind, send]);
        SpanId::new(SipHasher13::new_with_key(KEY).hash(&name).h1)
    }
}

/// A sampled message that was claimed and has not left. If it is dropped, nothing is recorded.
#[derive(Clone, Debug)]
pub struct ClaimTrace {
    trace: RecipientTrace,
    send: u8,
    attempt: u8,
    line: LineId,
    asked_at: Instant,
}

impl ClaimTrace {
    /// Records the claim. The message leaves at `now`.
    pub fn left(self, now: Instant) -> SendTrace {
        let began = since(self.asked_at);
        let span = SpanName::Claim(self.send);
        self.trace.record(span, Some(SpanName::Root), SpanKind::Internal, "claim", began, |span| {
            span.attributes.extend(self.attributes());
        });
        SendTrace { claim: self, left_at: now }
    }

    fn attributes(&self) -> [Attribute; 3] {
        [
            Attribute::text("pregon.line.id", &self.line),
            Attribute::number("pregon.send", self.send),
            Attribute::number("pregon.attempt", self.attempt),
        ]
    }
}

/// A sampled message that has left. If it is dropped, it was certainly not sent, and nothing is recorded.
#[derive(Clone, Debug)]
pub struct SendTrace {
    claim: ClaimTrace,
    left_at: Instant,
}

impl SendTrace {
    /// Records the attempt, which has ended now.
    pub fn ended(self, outcome: &Outcome) {
        let Self { claim, left_at } = self;
        let (span, parent) = (SpanName::Send(claim.send), SpanName::Claim(claim.send));
        claim.trace.record(span, Some(parent), SpanKind::Client, "send", since(left_at), |span| {
            span.attributes.extend(claim.attributes());
            span.attributes.push(Attribute::text("pregon.outcome", AttemptOutcome::of(outcome).label()));
            span.attributes.extend(outcome.cause().and_then(|cause| cause.code()).map(code_attribute));
            span.is_error = !matches!(outcome, Outcome::Accepted { .. });
        });
    }
}

fn code_attribute(code: MetaCode) -> Attribute {
    Attribute::number("pregon.meta.code", code.0)
}

/// The time of an instant in the past.
fn since(at: Instant) -> SystemTime {
    clock::system_time() - at.elapsed()
}

#[cfg(test)]
mod tests;
