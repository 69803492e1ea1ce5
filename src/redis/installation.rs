//! Data that all processes of an installation share, besides campaigns: the token key, the first incarnation, and the
//! templates as Meta returned them.

use std::{collections::HashMap, sync::OnceLock};

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};

use super::{Result, Store, StoreError, read, sending_failed};
use crate::domain::{SharedTokenKey, TokenKey, UnixMs, WabaId, template::Template};

/// The field with the time of the last sync of a WABA's templates. The fields of templates have a slash.
const SYNCED_AT: &str = "synced_at";

/// Shared values that this process writes again if a new incarnation of Redis lacks them.
#[derive(Default)]
pub(super) struct Installation {
    /// A random proposal of this process, until the key is read from Redis.
    token_key: OnceLock<SharedTokenKey>,
    /// Run id of the Redis in which the installation was first used.
    pub(super) first_incarnation: OnceLock<String>,
    /// Set once this process has checked and raised the version of the data.
    pub(super) data_is_open: OnceLock<()>,
}

/// A template in the stored list of its WABA.
#[derive(Clone, Debug)]
pub enum StoredTemplate {
    /// The list was never synced, so nothing is known about the template.
    NotSynced,
    /// The list does not contain the template.
    Missing,
    /// The template as it was at the last sync.
    Found(Box<Template>),
}

impl Store {
    /// The key that signs tokens. The first process of the installation creates it. It is read again in each new
    /// incarnation of Redis.
    pub async fn token_key(&self) -> Result<SharedTokenKey> {
        let propose = || SharedTokenKey::new(TokenKey::new(rand::random()));
        let key = self.installation.token_key.get_or_init(propose).clone();
        self.refresh_token_key().await?;
        Ok(key)
    }

    /// Reads the token key again, in case another process has replaced it.
    pub async fn refresh_token_key(&self) -> Result<()> {
        loop {
            let incarnation = self.incarnations.newest();
            self.sync_token_key(None).await?;
            // A newer incarnation may have another key by now.
            if self.incarnations.newest() == incarnation {
                return Ok(());
            }
        }
    }

    /// Writes the shared values that `incarnation`, which has just begun, lacks, and reads those that it has. The
    /// first process to write a value wins.
    pub(super) async fn restore_shared(&self, incarnation: u64) -> Result<()> {
        self.restore_data_version(incarnation).await?;
        self.sync_token_key(Some(incarnation)).await?;
        if let Some(first_incarnation) = self.installation.first_incarnation.get() {
            self.get_or_set(Some(incarnation), &self.keys.first_incarnation(), first_incarnation.as_bytes()).await?;
        }
        Ok(())
    }

    async fn sync_token_key(&self, incarnation: Option<u64>) -> Result<()> {
        let Some(shared) = self.installation.token_key.get() else { return Ok(()) };
        let key = self.keys.token_key();
        let secret = self.get_or_set(incarnation, &key, shared.get().secret()).await?;
        let secret = secret.try_into().map_err(|_| StoreError::Corrupt { key, reason: "it is not 16 bytes".into() })?;
        shared.set(TokenKey::new(secret));
        Ok(())
    }

    /// The value of `key`, which is set to `default` if it is missing. `incarnation` is that of a replay in progress;
    /// `None` waits for the replay as other commands do.
    async fn get_or_set(&self, incarnation: Option<u64>, key: &str, default: &[u8]) -> Result<Vec<u8>> {
        // Writes only if needed, because a replica or a full Redis refuses writes.
        let get = cmd("GET").arg(key).clone();
        if let Some(value) = self.query_in::<Option<Vec<u8>>>(incarnation, &get).await? {
            return Ok(value);
        }
        let set = cmd("SET").arg(key).arg(default).arg("NX").clone();
        self.query_in::<Value>(incarnation, &set).await?;
        Ok(self.query_in::<Option<Vec<u8>>>(incarnation, &get).await?.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) async fn query_in<T: FromRedisValue>(&self, incarnation: Option<u64>, command: &Cmd) -> Result<T> {
        const OPERATION: &str = "installation";
        let Some(incarnation) = incarnation else { return self.query(OPERATION, command).await };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command.clone());
        let values =
            self.servers.send(incarnation, &pipeline).await.map_err(|error| sending_failed(OPERATION, error))?;
        read(OPERATION, values.into_iter().next().unwrap_or_default())
    }

    /// Replaces the stored templates of a WABA, in one transaction.
    pub async fn put_templates(&self, waba: &WabaId, templates: &[Template], now: UnixMs) -> Result<()> {
        let key = self.keys.templates(waba);
        let mut pipeline = Pipeline::new();
        pipeline.atomic().del(&key).hset(&key, SYNCED_AT, now.0);
        for template in templates {
            let json = serde_json::to_string(template).expect("a template has only strings, numbers and lists");
            pipeline.hset(&key, field(&template.name, template.language.as_str()), json);
        }
        self.query_all::<Value>("MULTI templates", &pipeline).await.map(drop)
    }

    /// The templates of a WABA and the time of their last sync; `None` if they were never synced.
    pub async fn templates(&self, waba: &WabaId) -> Result<Option<(Vec<Template>, UnixMs)>> {
        let key = self.keys.templates(waba);
        let mut fields: HashMap<String, String> = self.query("HGETALL templates", cmd("HGETALL").arg(&key)).await?;
        let Some(at) = fields.remove(SYNCED_AT).and_then(|at| at.parse().ok()) else { return Ok(None) };
        let read = |json: &String| {
            serde_json::from_str(json)
                .map_err(|error| StoreError::Corrupt { key: key.clone(), reason: error.to_string() })
        };
        Ok(Some((fields.values().map(read).collect::<Result<_>>()?, UnixMs(at))))
    }

    /// When the templates of WABAs were synced last, in the order of `wabas`; `None` if they never were.
    pub async fn templates_synced_at(&self, wabas: &[WabaId]) -> Result<Vec<Option<UnixMs>>> {
        let mut pipeline = Pipeline::with_capacity(wabas.len());
        for waba in wabas {
            pipeline.hget(self.keys.templates(waba), SYNCED_AT);
        }
        let times: Vec<Option<u64>> = self.query_all("HGET synced_at", &pipeline).await?;
        Ok(times.into_iter().map(|at| at.map(UnixMs)).collect())
    }

    /// Notes that the templates of a WABA changed at Meta, so that housekeeping syncs them.
    pub async fn note_changed_templates(&self, waba: &WabaId) -> Result<()> {
        let note = cmd("SADD").arg(self.keys.templates_changed()).arg(waba.as_str()).clone();
        self.query::<u8>("SADD templates_changed", &note).await.map(drop)
    }

    /// Removes and returns the WABAs whose templates changed, at most a thousand.
    pub async fn take_changed_templates(&self) -> Result<Vec<WabaId>> {
        let take = cmd("SPOP").arg(self.keys.templates_changed()).arg(1_000).clone();
        let wabas: Vec<String> = self.query("SPOP templates_changed", &take).await?;
        Ok(wabas.iter().map(|waba| WabaId::from(waba.as_str())).collect())
    }

    /// Looks one template up in the stored list of a WABA. One command reads the template and whether there is a list,
    /// so a sync in the meantime cannot make a template look missing.
    pub async fn template(&self, waba: &WabaId, name: &str, language: &str) -> Result<StoredTemplate> {
        let key = self.keys.templates(waba);
        let read = cmd("HMGET").arg(&key).arg(SYNCED_AT).arg(field(name, language)).clone();
        let (synced_at, json): (Option<String>, Option<String>) = self.query("HMGET template", &read).await?;
        match (synced_at, json) {
            (None, _) => Ok(StoredTemplate::NotSynced),
            (Some(_), None) => Ok(StoredTemplate::Missing),
            (Some(_), Some(json)) => serde_json::from_str(&json)
                .map(|template| StoredTemplate::Found(Box::new(template)))
                .map_err(|error| StoreError::Corrupt { key, reason: error.to_string() }),
        }
    }
}

fn field(name: &str, language: &str) -> String {
    format!("{name}/{language}")
}
