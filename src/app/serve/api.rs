//! The role `api`: serves the HTTP API, reads the job stream, and delivers events to subscribers.

use std::{sync::Arc, time::Duration};

use axum::Router;
use tokio::sync::watch;

use super::{Context, ServeError};
use crate::{
    api::{self, ApiState, SyncTemplates, UnpauseFailure, UnpauseTemplate},
    config::ApiKey,
    domain::RetryPolicy,
    graph::GraphClient,
    intake::{Intake, MemoryGuard, jobs},
    subscribers::{Delivery, DeliverySettings},
    templates::{self, UnpauseError},
};

/// The timeout of an attempt to deliver events. The specification of Standard Webhooks recommends 15 to 30 s.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);

/// The waits after failed deliveries: the upper limit of the first wait, the factor by which it grows, and the upper
/// limit of every wait.
const DELIVERY_RETRY: (Duration, f64, Duration) = (Duration::from_secs(5), 2.0, Duration::from_secs(600));

/// How often a worker looks for events to deliver. Each look costs Redis a few microseconds for each subscriber.
const DELIVERY_POLL: Duration = Duration::from_millis(200);

/// Starts reading jobs and delivering events, and returns the routes of the API.
pub(super) fn start(context: &Context<'_>, keys: watch::Receiver<Arc<[ApiKey]>>) -> Result<Router, ServeError> {
    let config = context.config;
    let stopping = context.shutdown.stopping();
    let jobs = jobs::read_jobs(intake(context), context.worker.clone(), stopping.clone(), config.dispatch.lease);
    context.shutdown.core("jobs", jobs);
    start_deliveries(context)?;
    Ok(api::router(ApiState {
        store: context.store.clone(),
        clock: context.clock.clone(),
        intake: intake(context),
        lines: context.lines.clone(),
        businesses: config.businesses.iter().map(|business| business.id.clone()).collect(),
        wabas: config.wabas.iter().map(|waba| (waba.id.clone(), waba.business.clone())).collect(),
        prices: config.prices.clone(),
        lease: config.dispatch.lease,
        subscribers: config.subscribers.clone().into(),
        keys,
        key_failures_per_minute: config.http.key_failures_per_minute,
        sync_templates: sync_templates(context)?,
        unpause_template: unpause_template(context)?,
        body_bytes_max: config.http.body_bytes_max,
        stall_timeout: config.http.stall_timeout,
        stopping,
    }))
}

/// Starts a task for each subscriber, so that no subscriber delays another.
fn start_deliveries(context: &Context<'_>) -> Result<(), ServeError> {
    let config = context.config;
    let (initial, multiplier, max) = DELIVERY_RETRY;
    let settings = DeliverySettings {
        lease: config.dispatch.lease,
        timeout: DELIVERY_TIMEOUT,
        retry: RetryPolicy::new(initial, multiplier, max, RetryPolicy::ATTEMPTS_MAX)?,
        poll: DELIVERY_POLL,
        // Shorter than the grace period, so that a slow subscriber cannot turn a clean stop into a late one.
        stop_timeout: config.shutdown.grace * 3 / 4,
    };
    for subscriber in &config.subscribers {
        let name = format!("deliveries to {}", subscriber.id);
        let (store, clock) = (context.store.clone(), context.clock.clone());
        let delivery = Delivery::new(subscriber.clone(), store, clock, context.worker.clone(), settings.clone())?;
        context.shutdown.core(name, delivery.run(context.shutdown.stopping()));
    }
    Ok(())
}

fn intake(context: &Context<'_>) -> Intake {
    Intake {
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.lines.clone(),
        is_limited: false,
        grace_period: context.config.dispatch.lease,
        recipients_max: context.config.intake.recipients_max,
        memory: MemoryGuard::new(context.config.intake.memory_share_max),
        contact_hours: context.config.contact_hours.clone(),
    }
}

fn sync_templates(context: &Context<'_>) -> Result<SyncTemplates, ServeError> {
    let (store, clock) = (context.store.clone(), context.clock.clone());
    let graph = GraphClient::new(context.config.graph.client())?;
    Ok(Arc::new(move |lines| {
        let (store, graph, now) = (store.clone(), graph.clone(), clock.now());
        Box::pin(async move { templates::sync_all(&store, &graph, &lines, lines.wabas(), now).await })
    }))
}

fn unpause_template(context: &Context<'_>) -> Result<UnpauseTemplate, ServeError> {
    let (store, lines) = (context.store.clone(), context.lines.clone());
    let graph = GraphClient::new(context.config.graph.client())?;
    Ok(Arc::new(move |waba, name, language| {
        let (store, graph, lines) = (store.clone(), graph.clone(), lines.clone());
        Box::pin(async move {
            let Some(line) = lines.of_waba(&waba).next() else {
                return Err(UnpauseFailure::Missing(format!("no line of waba {waba} is configured")));
            };
            let unpaused = templates::unpause(&store, &graph, (&waba, &line.token), &name, &language).await;
            unpaused.map_err(|error| match error {
                UnpauseError::Missing { .. } => UnpauseFailure::Missing(error.to_string()),
                UnpauseError::NotPaused { .. } => UnpauseFailure::NotPaused(error.to_string()),
                UnpauseError::Refused(_) => UnpauseFailure::Refused(error.to_string()),
                UnpauseError::Graph(_) => UnpauseFailure::NoAnswer(error.to_string()),
                UnpauseError::Store(error) => UnpauseFailure::Store(error),
            })
        })
    }))
}
