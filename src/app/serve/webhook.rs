//! The role `webhook`: receives Meta's webhooks.

use axum::Router;

use super::Context;
use crate::{
    domain::Secret,
    webhook::{self, WebhookSettings, WebhookState},
};

/// Starts the task that commits statuses, and returns the route for Meta's requests.
pub(super) fn start(context: &Context<'_>, verify_token: &Secret, app_secret: &Secret) -> Router {
    let config = context.config;
    let previous = config.webhook.app_secret_previous.iter();
    let settings = WebhookSettings {
        verify_token: verify_token.clone(),
        app_secrets: std::iter::once(app_secret).chain(previous).cloned().collect(),
        body_bytes_max: config.webhook.body_bytes_max,
        id_retention: config.id_retention,
        inbound: config.inbound,
        lines: context.lines.clone(),
        health: context.health.clone(),
    };
    let (store, clock, key) = (context.store.clone(), context.clock.clone(), context.token_key.clone());
    let (state, commits) = WebhookState::new(store, clock, key, settings);
    context.shutdown.core("webhook commits", commits);
    webhook::router(state)
}
