//! Health and metrics endpoints for orchestrators and Prometheus.
//!
//! They have their own listener (`ops.listen`), so that they respond while the API is busy or stopping.
//!
//! - `/healthz` is 200 while every core task runs, else 503.
//! - `/readyz` is 200 while the process can do its work, else 503 with the reasons. Its `warnings` need an operator's
//!   attention, but do not stop the process from working.
//! - `/metrics` is the page for Prometheus.
//!
//! Never: calls Redis or another service. The tasks update [`Health`] themselves.

use std::{convert::Infallible, time::Duration};

use ::metrics::Gauge;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::listener::{self, ConnectionLimits};
use crate::telemetry::{
    health::{Health, NotReady, Warning},
    metrics::MetricsPage,
};

/// Sized for a few probes and scrapers. The responses are short.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections_max: 64,
    header_bytes_max: 16 * 1024,
    header_timeout: Duration::from_secs(75),
    stall_timeout: Duration::from_secs(10),
    stop_timeout: Duration::from_secs(1),
};

/// Serves `/healthz`, `/readyz` and `/metrics` on `listener` until `end`. Cancel `end` after everything else has
/// stopped.
pub async fn serve(listener: TcpListener, metrics: MetricsPage, end: CancellationToken) -> Result<(), Infallible> {
    listener::serve(listener, router(metrics), LIMITS, None, Gauge::noop(), end).await
}

fn router(metrics: MetricsPage) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(metrics.health.clone())
        .route("/metrics", get(metrics_page).with_state(metrics))
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<NotReady>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

async fn healthz(State(health): State<Health>) -> Response {
    match health.reasons().contains(&NotReady::Failed) {
        false => (StatusCode::OK, "ok\n").into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "a core task ended\n").into_response(),
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let reasons = health.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reasons.is_empty(), reasons, warnings: health.warnings() };
    let json = serde_json::to_string(&readiness).expect("it has only words and a flag");
    (status, [(header::CONTENT_TYPE, "application/json")], json + "\n").into_response()
}

async fn metrics_page(State(metrics): State<MetricsPage>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::telemetry::metrics::{HousekeepingMetrics, OwnedLines};

    struct Ops {
        health: Health,
        url: String,
        end: CancellationToken,
        server: tokio::task::JoinHandle<Result<(), Infallible>>,
    }

    impl Ops {
        async fn start(reasons: &[NotReady]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let recorder = PrometheusBuilder::new().build_recorder();
            metrics::with_local_recorder(&recorder, || metrics::counter!("pregon_test_total").increment(3));
            let (health, end) = (Health::starting(reasons), CancellationToken::new());
            let page = MetricsPage {
                recorder: recorder.handle(),
                lines: OwnedLines::default(),
                housekeeping: HousekeepingMetrics::default(),
                health: health.clone(),
            };
            let server = tokio::spawn(serve(listener, page, end.clone()));
            Self { health, url, end, server }
        }

        async fn get(&self, path: &str) -> (u16, String) {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let answer = reqwest::get(format!("{}{path}", self.url)).await.expect("an answer");
            (answer.status().as_u16(), answer.text().await.expect("a body"))
        }
    }

    #[tokio::test]
    async fn a_process_is_ready_once_it_has_no_reasons_left() {
        let ops = Ops::start(&[NotReady::Redis, NotReady::Leases]).await;
        assert_eq!(
            ops.get("/readyz").await,
            (503, concat!(r#"{"ready":false,"reasons":["redis","leases"]}"#, "\n").into())
        );
        let (_, page) = ops.get("/metrics").await;
        for series in
            ["pregon_ready 0", "pregon_not_ready{reason=\"redis\"} 1", "pregon_not_ready{reason=\"failed\"} 0"]
        {
            assert!(page.lines().any(|line| line == series), "{series} is not in:\n{page}");
        }
        ops.health.clear(NotReady::Redis);
        assert_eq!(ops.get("/readyz").await, (503, concat!(r#"{"ready":false,"reasons":["leases"]}"#, "\n").into()));
        ops.health.clear(NotReady::Leases);
        assert_eq!(ops.get("/readyz").await, (200, concat!(r#"{"ready":true,"reasons":[]}"#, "\n").into()));
        ops.health.set(NotReady::Stopping);
        assert_eq!(ops.get("/readyz").await, (503, concat!(r#"{"ready":false,"reasons":["stopping"]}"#, "\n").into()));
    }

    #[tokio::test]
    async fn a_warning_does_not_change_readiness() {
        let ops = Ops::start(&[]).await;
        ops.health.warn(Warning::WebhooksRefused);
        let shown = concat!(r#"{"ready":true,"reasons":[],"warnings":["webhooks_refused"]}"#, "\n");
        assert_eq!(ops.get("/readyz").await, (200, shown.into()));
        ops.health.clear_warning(Warning::WebhooksRefused);
        assert_eq!(ops.get("/readyz").await, (200, concat!(r#"{"ready":true,"reasons":[]}"#, "\n").into()));
    }

    #[tokio::test]
    async fn a_process_is_alive_until_a_core_task_ends() {
        let ops = Ops::start(&[NotReady::Redis]).await;
        ops.health.set(NotReady::Stopping);
        assert_eq!(ops.get("/healthz").await.0, 200, "not ready is not dead");
        ops.health.set(NotReady::Failed);
        assert_eq!(ops.get("/healthz").await.0, 503);
    }

    #[tokio::test]
    async fn metrics_are_served_and_the_listener_ends_cleanly() {
        let ops = Ops::start(&[]).await;
        let (status, page) = ops.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(page.contains("pregon_test_total 3"), "{page}");
        assert!(page.contains("pregon_ready 1\n") && !page.contains("pregon_stop_grace_left_seconds"), "{page}");
        ops.end.cancel();
        ops.server.await.expect("no panic").expect("a clean end");
    }
}
