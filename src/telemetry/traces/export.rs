//! Sends spans to a collector: OTLP by HTTP, in JSON.
//!
//! Spans wait in a queue of limited length. While the collector is away, the queue stays full, and further spans are
//! dropped and counted. The encoding is a few types of `span.rs`: the crates of OpenTelemetry would add twelve to the
//! program for it, and their spans cannot begin in one process and end in another.

use std::{mem, time::Duration};

use reqwest::{
    header::{CONTENT_TYPE, HeaderMap},
    redirect::Policy,
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Traces,
    span::{Attribute, Span},
};
use crate::telemetry::metrics::{self, SpanResult};

/// How many spans wait at most: some 5 MB.
const WAITING_MAX: usize = 8_192;

/// How many spans are sent in one request.
const BATCH_MAX: usize = 512;

/// How long spans wait for others that are sent with them.
const GATHER: Duration = Duration::from_secs(1);

/// How long a batch is tried.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits for the export of the last spans. A collector that is away does not use up the grace period.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// `[traces]`, if an endpoint is given.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// The URL of the collector, to which `/v1/traces` is added.
    pub endpoint: String,
    /// Headers of each request, all marked as sensitive.
    pub headers: HeaderMap,
    /// The share of the recipients whose traces are exported, 0 to 1.
    pub share: f64,
}

/// No HTTP client can be made: the system's certificate authorities cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client for traces: are the system's root certificates (ca-certificates) installed?")]
pub struct NoTracesClient(#[from] reqwest::Error);

/// The task that exports spans.
pub struct SpanExport {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts to export the traces of the process `worker`.
pub fn start(config: &TracesConfig, worker: &str) -> Result<(Traces, SpanExport), NoTracesClient> {
    // reqwest uses the crypto provider of the process. An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .user_agent(concat!("pregon/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .timeout(EXPORT_TIMEOUT)
        .default_headers(config.headers.clone())
        .build()?;
    let process = Process {
        attributes: [
            Attribute::text("service.name", "pregon"),
            Attribute::text("service.version", env!("CARGO_PKG_VERSION")),
            Attribute::text("service.instance.id", worker),
        ],
    };
    let collector = Collector { http, url: format!("{}/v1/traces", config.endpoint), process };
    let (sender, spans) = mpsc::channel(WAITING_MAX);
    let stop = CancellationToken::new();
    let task = tokio::spawn(export(collector, spans, stop.clone()));
    Ok((Traces::recording(config.share, sender), SpanExport { stop, task }))
}

/// The process that spans come from.
#[derive(Serialize)]
struct Process {
    attributes: [Attribute; 3],
}

/// Where spans go.
struct Collector {
    http: reqwest::Client,
    url: String,
    process: Process,
}

impl Collector {
    /// Sends spans.
    ///
    /// Errors: the collector did not answer with 2xx. The text has nothing of the URL.
    async fn send(&self, spans: &[Span]) -> Result<(), String> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            resource_spans: [OfProcess<'a>; 1],
        }

        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct OfProcess<'a> {
            resource: &'a Process,
            scope_spans: [OfScope<'a>; 1],
        }

        #[derive(Serialize)]
        struct OfScope<'a> {
            scope: Scope,
            spans: &'a [Span],
        }

        #[derive(Serialize)]
        struct Scope {
            name: &'static str,
        }

        let scope_spans = [OfScope { scope: Scope { name: "pregon" }, spans }];
        let body = Body { resource_spans: [OfProcess { resource: &self.process, scope_spans }] };
        let json = serde_json::to_vec(&body).expect("spans have only numbers and strings");
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "application/json").body(json);
        let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    }
}

impl SpanExport {
    /// Exports the spans that wait, for some seconds and until `deadline` at the latest.
    pub async fn end(self, deadline: Instant) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if timeout_at(deadline.min(Instant::now() + END_TIMEOUT), self.task).await.is_err() {
            abort.abort();
            warn!("the last spans are lost: the collector of traces did not take them in time");
        }
    }
}

/// Exports spans until `stop` is cancelled, and then those that wait.
async fn export(collector: Collector, mut spans: mpsc::Receiver<Span>, stop: CancellationToken) {
    let mut is_failing = false;
    loop {
        let mut batch = Vec::new();
        let gather = async {
            if receive(&mut spans, &mut batch).await > 0 {
                let fill = async { while receive(&mut spans, &mut batch).await > 0 {} };
                let _ = timeout(GATHER, fill).await;
            }
        };
        if stop.run_until_cancelled(gather).await.is_none() {
            // From now on, what waits is received at once, and then nothing.
            spans.close();
            receive(&mut spans, &mut batch).await;
        }
        if batch.is_empty() {
            return;
        }
        let n = batch.len() as u64;
        match collector.send(&batch).await {
            Ok(()) => {
                metrics::spans(SpanResult::Exported, n);
                if mem::take(&mut is_failing) {
                    info!("traces are exported again");
                }
            }
            Err(error) => {
                metrics::spans(SpanResult::Failed, n);
                if !mem::replace(&mut is_failing, true) {
                    warn!(error, "traces cannot be exported: their spans are dropped");
                }
            }
        }
    }
}

/// Waits for spans for which `batch` has room. Returns how many there were; 0 if the batch is full or none will come.
async fn receive(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) -> usize {
    let room = BATCH_MAX - batch.len();
    spans.recv_many(batch, room).await
}
