//! The role `api`: serves the HTTP API, reads the job stream, and delivers events to subscribers.

use std::sync::Arc;

use axum::Router;

use super::{Context, ServeError, deliveries::Deliveries};
use crate::{
    api::{self, ApiState, Discover, SyncTemplates, UnpauseFailure, UnpauseTemplate},
    discovery,
    graph::GraphClient,
    http::auth::oidc::Oidc,
    intake::{Intake, MemoryGuard, jobs},
    telemetry::traces::Origin,
    templates::{self, UnpauseError},
};

/// Starts reading jobs and delivering events. Returns the routes of the API, and the deliveries.
pub(super) fn start(context: &Context<'_>) -> Result<(Router, Deliveries), ServeError> {
    let config = context.config;
    let stopping = context.shutdown.stopping();
    let jobs = intake(context, Origin::jobs(context.traces.clone()));
    let jobs = jobs::read_jobs(jobs, context.worker.clone(), stopping.clone(), config.dispatch.lease);
    context.shutdown.core("jobs", jobs);
    let mut deliveries = Deliveries::new(context)?;
    deliveries.change(deliveries.to(&config.subscribers, &[])?, &config.subscribers);
    let router = api::router(ApiState {
        store: context.store.clone(),
        database: context.database.clone(),
        media: context.media.clone(),
        clock: context.clock.clone(),
        intake: intake(context, Origin::calls(context.traces.clone())),
        lines: context.configured.lines.clone(),
        businesses: context.configured.businesses.clone(),
        wabas: context.configured.wabas.clone(),
        prices: context.configured.prices.clone(),
        lease: config.dispatch.lease,
        subscribers: context.configured.subscribers.clone(),
        keys: context.configured.api_keys.clone(),
        key_failures_per_minute: config.http.key_failures_per_minute,
        sessions: config.agents.sessions,
        oidc: config.agents.oidc.clone().map(Oidc::new).transpose()?.map(Arc::new),
        sync_templates: sync_templates(context)?,
        unpause_template: unpause_template(context)?,
        discover: discover(context)?,
        body_bytes_max: config.http.body_bytes_max,
        stall_timeout: config.http.stall_timeout,
        stopping,
    });
    Ok((router, deliveries))
}

fn intake(context: &Context<'_>, origin: Origin) -> Intake {
    Intake {
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        is_limited: false,
        grace_period: context.config.dispatch.lease,
        recipients_max: context.config.intake.recipients_max,
        memory: MemoryGuard::new(context.config.intake.memory_share_max),
        contact_hours: context.configured.contact_hours.clone(),
        origin,
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

fn discover(context: &Context<'_>) -> Result<Discover, ServeError> {
    let graph = GraphClient::new(context.config.graph.client())?;
    Ok(Arc::new(move |lines| {
        let graph = graph.clone();
        Box::pin(async move { discovery::discover(&graph, &lines).await })
    }))
}

fn unpause_template(context: &Context<'_>) -> Result<UnpauseTemplate, ServeError> {
    let (store, lines) = (context.store.clone(), context.configured.lines.clone());
    let graph = GraphClient::new(context.config.graph.client())?;
    Ok(Arc::new(move |waba, name, language| {
        let (store, graph, lines) = (store.clone(), graph.clone(), lines.clone());
        Box::pin(async move {
            let lines = lines.get();
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
