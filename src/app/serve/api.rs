//! The role `api`: serves the HTTP API and reads the job stream.

use std::sync::Arc;

use axum::Router;

use super::{Context, ServeError};
use crate::{
    api::{self, ApiState, SyncTemplates},
    graph::GraphClient,
    intake::{Intake, jobs},
    templates,
};

/// Starts reading jobs, and returns the routes of the API.
pub(super) fn start(context: &Context<'_>) -> Result<Router, ServeError> {
    let config = context.config;
    let stopping = context.shutdown.stopping();
    let jobs = jobs::read_jobs(intake(context), context.worker.clone(), stopping.clone(), config.dispatch.lease);
    context.shutdown.core("jobs", jobs);
    Ok(api::router(ApiState {
        store: context.store.clone(),
        clock: context.clock.clone(),
        intake: intake(context),
        lines: context.lines.clone(),
        businesses: config.businesses.iter().map(|business| business.id.clone()).collect(),
        wabas: config.wabas.iter().map(|waba| (waba.id.clone(), waba.business.clone())).collect(),
        lease: config.dispatch.lease,
        keys: config.http.api_keys.clone().into(),
        key_failures_per_minute: config.http.key_failures_per_minute,
        sync_templates: sync_templates(context)?,
        body_bytes_max: config.http.body_bytes_max,
        stall_timeout: config.http.stall_timeout,
        stopping,
    }))
}

fn intake(context: &Context<'_>) -> Intake {
    Intake {
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.lines.clone(),
        is_limited: false,
        recipients_max: context.config.intake.recipients_max,
    }
}

fn sync_templates(context: &Context<'_>) -> Result<SyncTemplates, ServeError> {
    let (store, clock) = (context.store.clone(), context.clock.clone());
    let graph = GraphClient::new(context.config.graph.client())?;
    Ok(Arc::new(move |lines| {
        let (store, graph, now) = (store.clone(), graph.clone(), clock.now());
        Box::pin(async move { templates::sync_all(&store, &graph, lines.wabas(), now).await })
    }))
}
