//! Reloads the configuration while the service runs: on SIGHUP, and when the file or one that it names has changed.
//!
//! All or nothing: if the new configuration has a problem, or changes a key that needs a restart, everything stays as
//! it was, and the log names each such key.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{signal::unix::Signal, task, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    changes,
    configured::{self, Configured},
    deliveries::Deliveries,
    webhook,
};
use crate::{
    config::{Config, ConfigError, Role, Settings},
    domain::Live,
    endpoint::NoEndpointClient,
    http::tls::{Certificate, Tls, TlsError},
    telemetry::{
        clock,
        logging::{self, BadLevel, RELOAD},
        metrics,
    },
    webhook::WebhookSecrets,
};

/// How often the files are compared with the loaded ones. Reading them takes a millisecond.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The beginnings of the keys that a reload can change, besides those of [`Configured`]. Further keys of `http.tls` can
/// change if HTTPS is served already.
const LIVE: [&str; 3] = ["webhook.verify_token", "webhook.app_secret", "log.level"];
const TLS: &str = "http.tls.";

/// The parts of a running service that a reload replaces. Each exists only if a role of the process uses it.
#[derive(Default)]
pub(super) struct LiveParts {
    pub(super) webhook_secrets: Option<Live<Arc<WebhookSecrets>>>,
    pub(super) tls: Option<Tls>,
    pub(super) deliveries: Option<Deliveries>,
}

/// Reloads the configuration of a service.
pub(super) struct Reload {
    pub(super) config: Config,
    pub(super) roles: Vec<Role>,
    pub(super) configured: Configured,
    pub(super) live: LiveParts,
}

/// Why a configuration was not reloaded.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("these keys need a restart: {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Endpoint(#[from] NoEndpointClient),
    #[error(transparent)]
    Level(#[from] BadLevel),
}

impl Reload {
    /// Reloads at each signal on `hangups` and when a file has changed, until `stop` is cancelled.
    pub(super) async fn run(mut self, mut hangups: Signal, stop: CancellationToken) -> Result<(), Infallible> {
        metrics::config_loaded(clock::now());
        // The files as they were last seen, so that a problem in them is reported once.
        let mut seen = Ok(self.config.settings.clone());
        loop {
            let is_asked_for = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangups.recv() => true,
                () = time::sleep(LOOK_EVERY) => false,
            };
            let loaded = self.load().await;
            let found = loaded.as_ref().map(|config| config.settings.clone()).map_err(Clone::clone);
            if is_asked_for || found != seen {
                self.reload(loaded);
            }
            seen = found;
        }
    }

    async fn load(&self) -> Result<Config, ConfigError> {
        let config = self.config.clone();
        // Files may be on a slow disk.
        task::spawn_blocking(move || config.load_again()).await.unwrap_or_else(|_| Ok(self.config.clone()))
    }

    fn reload(&mut self, loaded: Result<Config, ConfigError>) {
        match loaded.map_err(ReloadError::from).and_then(|config| self.apply(config)) {
            Ok(changed) => {
                metrics::config_loaded(clock::now());
                info!(target: RELOAD, changed, config = %self.config.settings, "configuration reloaded");
            }
            Err(error) => {
                metrics::reload_refused();
                error!(target: RELOAD, %error, "configuration not reloaded; everything stays as it was");
            }
        }
    }

    /// Applies `config`. Returns what has changed, in words.
    fn apply(&mut self, config: Config) -> Result<String, ReloadError> {
        let changed = Settings::changed(&self.config.settings, &config.settings);
        config.check_roles(&self.roles)?;
        let fixed: Vec<String> = changed.iter().filter(|key| !self.is_live(key, &config)).cloned().collect();
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let tls = self.live.tls.as_ref().zip(config.http.tls.as_ref());
        let certificate = tls.map(|(tls, files)| Ok::<_, TlsError>((tls, Certificate::read(files)?))).transpose()?;
        let deliveries = match &self.live.deliveries {
            Some(deliveries) if configured::begins_with(&changed, &[configured::SUBSCRIBER]) => {
                Some(deliveries.to(&config.subscribers, &changed)?)
            }
            _ => None,
        };
        // Apply this change first: it is the only one that can fail.
        if config.log.level != self.config.log.level {
            logging::set_level(&config.log.level)?;
        }
        if let Some((tls, certificate)) = certificate {
            tls.replace(certificate);
        }
        if let Some((live, secrets)) = self.live.webhook_secrets.as_ref().zip(webhook::secrets(&config)) {
            live.set(secrets);
        }
        self.configured.replace(&config, &changed);
        if let Some((live, deliveries)) = self.live.deliveries.as_mut().zip(deliveries) {
            live.change(deliveries, &config.subscribers);
        }
        let described = changes::describe(&self.config, &config, &changed);
        self.config = config;
        Ok(described)
    }

    fn is_live(&self, key: &str, config: &Config) -> bool {
        let serves_tls = self.live.tls.is_some() && config.http.tls.is_some();
        // The order of a list matters to none of the keys that need a restart.
        key.ends_with("[]")
            || LIVE.iter().chain(&configured::KEYS).any(|live| key.starts_with(live))
            || key.starts_with(TLS) && serves_tls
    }
}
