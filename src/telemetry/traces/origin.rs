//! Where recipients come from: the calls and jobs that bring them, and the traces of those who make them.

use std::time::SystemTime;

use super::{
    Traces, clock,
    span::{Attribute, Span, SpanContext, SpanId, SpanKind, TraceParent},
};
use crate::domain::PartId;

/// The kind of request that recipients come by.
#[derive(Clone, Copy, Debug, Default)]
enum RequestKind {
    #[default]
    Call,
    Job,
}

/// What brings recipients: the calls of the API, the jobs, or one request of them. Cheap to clone. The default records
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    traces: Traces,
    kind: RequestKind,
    /// The request, in the trace of its caller.
    request: Option<SpanContext>,
}

impl Origin {
    /// The calls of the API.
    pub fn calls(traces: Traces) -> Self {
        Self { traces, ..Self::default() }
    }

    /// The jobs.
    pub fn jobs(traces: Traces) -> Self {
        Self { traces, kind: RequestKind::Job, request: None }
    }

    /// Whether the origin records anything.
    pub fn is_recording(&self) -> bool {
        self.traces.0.is_some()
    }

    /// Begins the request `name`, whose caller gave `traceparent` in the format of W3C Trace Context; `None` if it is not
    /// valid.
    pub fn request(&self, name: String, traceparent: &str) -> Option<Request> {
        if !self.is_recording() {
            return None;
        }
        let caller = traceparent.parse().ok()?;
        Some(Request { origin: self.clone(), name, caller, id: SpanId::random(), began: clock::system_time() })
    }

    /// Records the roots of the traces of recipients that were stored: `rows` of `part`, in a batch that began at `began`.
    pub fn admitted(&self, part: PartId, rows: impl Iterator<Item = u16>, began: SystemTime) {
        if !self.is_recording() {
            return;
        }
        let name = match self.kind {
            RequestKind::Call => "upload",
            RequestKind::Job => "job",
        };
        for trace in rows.filter_map(|row| self.traces.of_recipient(part, row)) {
            trace.admitted(name, self.request, began);
        }
    }
}

/// A request whose caller has a trace. It has a span there if the caller records its own.
#[derive(Clone, Debug)]
pub struct Request {
    origin: Origin,
    name: String,
    caller: TraceParent,
    id: SpanId,
    began: SystemTime,
}

impl Request {
    /// What the recipients of the request link to: the span of the request, or else that of the caller.
    pub fn origin(&self) -> Origin {
        let request = if self.caller.is_sampled { self.context() } else { self.caller.context };
        Origin { request: Some(request), ..self.origin.clone() }
    }

    /// Records the request, which has ended; a call with the status of its response.
    pub fn ended(self, status: Option<u16>, is_error: bool) {
        let Some(recorder) = self.origin.traces.0.as_ref().filter(|_| self.caller.is_sampled) else { return };
        let kind = match self.origin.kind {
            RequestKind::Call => SpanKind::Server,
            RequestKind::Job => SpanKind::Consumer,
        };
        let caller = self.caller.context.span_id;
        let mut span = Span::new(self.context(), Some(caller), kind, self.name.as_str(), self.began);
        span.attributes.extend(status.map(|status| Attribute::number("http.response.status_code", status)));
        span.is_error = is_error;
        recorder.record(span);
    }

    fn context(&self) -> SpanContext {
        SpanContext { trace_id: self.caller.context.trace_id, span_id: self.id }
    }
}
