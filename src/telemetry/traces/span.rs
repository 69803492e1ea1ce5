//! A span, and its form in OTLP: the JSON of
//! <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>, read 2026-11-30.

use std::{
    fmt::{self, Display},
    str::FromStr,
    time::SystemTime,
};

use serde::{Serialize, Serializer};

use crate::telemetry::clock;

/// The id of a trace; not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId(pub(super) u128);

/// The id of a span; not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanId(u64);

impl SpanId {
    /// The id with this number. 0 is no id, and becomes 1.
    pub(super) fn new(number: u64) -> Self {
        Self(number.max(1))
    }

    pub(super) fn random() -> Self {
        Self::new(rand::random())
    }
}

impl Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which span of which trace. Also the form of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpanContext {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
}

/// The span of a caller, as the header `traceparent` of W3C Trace Context names it.
///
/// Source: <https://www.w3.org/TR/trace-context/#traceparent-header>, read 2026-11-30.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) context: SpanContext,
    /// Whether the caller records its trace.
    pub(super) is_sampled: bool,
}

/// The text is not a valid `traceparent`.
#[derive(Debug)]
pub(super) struct BadTraceParent;

impl FromStr for TraceParent {
    type Err = BadTraceParent;

    fn from_str(text: &str) -> Result<Self, BadTraceParent> {
        let mut fields = text.trim().split('-');
        let mut field = |digits: usize| {
            let field = fields.next().filter(|field| field.len() == digits).ok_or(BadTraceParent)?;
            // `from_str_radix` by itself would also accept a sign and upper case.
            let is_hex = field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(field, 16).ok().filter(|_| is_hex).ok_or(BadTraceParent)
        };
        let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        // Later versions may have further fields.
        let is_known = version < 0xff && (version > 0 || fields.next().is_none());
        if !is_known || trace == 0 || span == 0 {
            return Err(BadTraceParent);
        }
        let context = SpanContext { trace_id: TraceId(trace), span_id: SpanId::new(span as u64) };
        Ok(Self { context, is_sampled: flags & 1 == 1 })
    }
}

/// The role of a span. The numbers are those of OTLP.
#[derive(Clone, Copy, Debug)]
pub(super) enum SpanKind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// An attribute of a span or a process.
#[derive(Debug, Serialize)]
pub(super) struct Attribute {
    key: &'static str,
    value: AttributeValue,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum AttributeValue {
    StringValue(String),
    /// Numbers with 64 bits are texts in this JSON.
    IntValue(String),
}

impl Attribute {
    pub(super) fn text(key: &'static str, text: impl Display) -> Self {
        Self { key, value: AttributeValue::StringValue(text.to_string()) }
    }

    pub(super) fn number(key: &'static str, number: impl Into<i64>) -> Self {
        Self { key, value: AttributeValue::IntValue(number.into().to_string()) }
    }
}

/// A span that has ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span {
    #[serde(flatten)]
    context: SpanContext,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<SpanId>,
    name: String,
    #[serde(serialize_with = "kind_number")]
    kind: SpanKind,
    #[serde(rename = "startTimeUnixNano", serialize_with = "nanoseconds")]
    began: SystemTime,
    #[serde(rename = "endTimeUnixNano", serialize_with = "nanoseconds")]
    ended: SystemTime,
    pub(super) attributes: Vec<Attribute>,
    pub(super) links: Vec<SpanContext>,
    #[serde(rename = "status", serialize_with = "status")]
    pub(super) is_error: bool,
}

impl Span {
    /// A span that ends now.
    pub(super) fn new(
        context: SpanContext,
        parent: Option<SpanId>,
        kind: SpanKind,
        name: impl Into<String>,
        began: SystemTime,
    ) -> Self {
        Self {
            context,
            parent_span_id: parent,
            name: name.into(),
            kind,
            began,
            ended: clock::system_time(),
            attributes: Vec::new(),
            links: Vec::new(),
            is_error: false,
        }
    }
}

fn kind_number<S: Serializer>(kind: &SpanKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*kind as u8)
}

fn nanoseconds<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos())
}

/// The status of a span: unset, or an error (2).
fn status<S: Serializer>(is_error: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Status {
        code: u8,
    }

    Status { code: if *is_error { 2 } else { 0 } }.serialize(serializer)
}
