//! The role `webhook`: receives Meta's webhooks.

use std::{sync::Arc, time::Duration};

use axum::Router;

use super::{Context, ServeError};
use crate::{
    config::Config,
    domain::{Live, RetryPolicy},
    webhook::{
        self, WebhookSecrets, WebhookSettings, WebhookState,
        forward::{ForwardSettings, Forwards},
    },
};

/// The timeout of an attempt to forward a webhook.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(15);

/// The waits after failed attempts to forward a webhook: the upper limit of the first wait, the factor by which it
/// grows, and the upper limit of every wait. All attempts together take about eight minutes.
const FORWARD_RETRY: (Duration, f64, Duration) = (Duration::from_secs(1), 2.0, Duration::from_secs(300));
const FORWARD_ATTEMPTS: u8 = 10;

/// The maximum size of all webhooks that wait for one target, in bytes: about 20,000 webhooks.
const FORWARD_BYTES_MAX: usize = 32 << 20;

/// Starts the tasks that commit statuses and forward webhooks, and returns the route for Meta's requests.
pub(super) fn start(context: &Context<'_>, secrets: Live<Arc<WebhookSecrets>>) -> Result<Router, ServeError> {
    let config = context.config;
    let settings = WebhookSettings {
        secrets,
        body_bytes_max: config.webhook.body_bytes_max,
        id_retention: config.id_retention,
        inbound: config.inbound,
        lines: context.configured.lines.clone(),
        health: context.health.clone(),
        forwards: start_forwards(context)?,
        stop_words: context.configured.stop_words.clone(),
        traces: context.traces.clone(),
    };
    let (store, clock, key) = (context.store.clone(), context.clock.clone(), context.token_key.clone());
    let (state, commits) = WebhookState::new(store, clock, key, settings);
    context.shutdown.core("webhook commits", commits);
    Ok(webhook::router(state))
}

/// The secrets with which webhooks are verified; `None` if `config` does not set them.
pub(super) fn secrets(config: &Config) -> Option<Arc<WebhookSecrets>> {
    let webhook = &config.webhook;
    let app_secrets = [webhook.app_secret.as_ref()?].into_iter().chain(&webhook.app_secret_previous);
    Some(Arc::new(WebhookSecrets::new(webhook.verify_token.as_ref()?, app_secrets)))
}

/// Starts a task for each target, so that no target delays another.
fn start_forwards(context: &Context<'_>) -> Result<Vec<Forwards>, ServeError> {
    let config = context.config;
    let (initial, multiplier, max) = FORWARD_RETRY;
    let settings = ForwardSettings {
        timeout: FORWARD_TIMEOUT,
        retry: RetryPolicy::new(initial, multiplier, max, FORWARD_ATTEMPTS)?,
        bytes_max: FORWARD_BYTES_MAX,
        // Shorter than the grace period, so that a slow target cannot turn a clean stop into a late one.
        stop_timeout: config.shutdown.grace * 3 / 4,
    };
    let mut forwards = Vec::new();
    for target in &config.webhook.forward {
        let name = format!("forwards to {}", target.id);
        let (queue, task) = Forwards::new(target.clone(), settings.clone(), context.shutdown.stopping())?;
        context.shutdown.core(name, task);
        forwards.push(queue);
    }
    Ok(forwards)
}
