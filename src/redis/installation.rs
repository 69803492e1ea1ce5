//! What an installation shares besides its campaigns: the key of its tokens, and the templates that Meta told it of.

use std::{collections::HashMap, sync::OnceLock};

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};

use super::{Result, Store, StoreError, read, sending_failed};
use crate::domain::{SharedTokenKey, TokenKey, UnixMs, WabaId, template::Template};

/// The field that says when the templates of a WABA were read. No template can have this name.
const SYNCED_AT: &str = "synced_at";

/// What a process knows of its installation and writes again where a new incarnation of Redis has lost it.
#[derive(Default)]
pub(super) struct Installation {
    /// Proposed by this process until it is read from Redis.
    token_key: OnceLock<SharedTokenKey>,
    /// The incarnation of Redis in which the installation was first used.
    pub(super) born: OnceLock<String>,
}

impl Store {
    /// The key of the check in tokens, made by the first process of the installation. It is read again in each new incarnation of
    /// Redis.
    pub async fn token_key(&self) -> Result<SharedTokenKey> {
        let propose = || SharedTokenKey::new(TokenKey::new(rand::random()));
        let key = self.installation.token_key.get_or_init(propose).clone();
        self.refresh_token_key().await?;
        Ok(key)
    }

    /// Reads the key of tokens again: another process may have made a new one a moment ago.
    pub async fn refresh_token_key(&self) -> Result<()> {
        loop {
            let incarnation = self.incarnations.newest();
            self.share_token_key(None).await?;
            // A newer incarnation may have set another key in the meantime.
            if self.incarnations.newest() == incarnation {
                return Ok(());
            }
        }
    }

    /// Writes again in `incarnation`, which has just begun, what it lacks of the installation, and reads what is there: whoever
    /// writes first wins.
    pub(super) async fn share_again(&self, incarnation: u64) -> Result<()> {
        self.share_token_key(Some(incarnation)).await?;
        if let Some(born) = self.installation.born.get() {
            self.share(Some(incarnation), &self.keys.born(), born.as_bytes()).await?;
        }
        Ok(())
    }

    async fn share_token_key(&self, incarnation: Option<u64>) -> Result<()> {
        let Some(known) = self.installation.token_key.get() else { return Ok(()) };
        let key = self.keys.token_key();
        let secret = self.share(incarnation, &key, known.get().secret()).await?;
        let secret = secret.try_into().map_err(|_| StoreError::Corrupt { key, reason: "it is not 16 bytes".into() })?;
        known.set(TokenKey::new(secret));
        Ok(())
    }

    /// The value of `key`; `known` if there is none, and from then on. In `incarnation`, before everything was repeated in it, or in
    /// the present one.
    async fn share(&self, incarnation: Option<u64>, key: &str, known: &[u8]) -> Result<Vec<u8>> {
        // A write only where it is needed: a replica, or a full Redis, refuses it.
        let get = cmd("GET").arg(key).clone();
        if let Some(value) = self.ask_in::<Option<Vec<u8>>>(incarnation, &get).await? {
            return Ok(value);
        }
        let set = cmd("SET").arg(key).arg(known).arg("NX").clone();
        self.ask_in::<Value>(incarnation, &set).await?;
        Ok(self.ask_in::<Option<Vec<u8>>>(incarnation, &get).await?.unwrap_or_else(|| known.to_owned()))
    }

    async fn ask_in<T: FromRedisValue>(&self, incarnation: Option<u64>, command: &Cmd) -> Result<T> {
        const OPERATION: &str = "installation";
        let Some(incarnation) = incarnation else { return self.query(OPERATION, command).await };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command.clone());
        let values =
            self.servers.send(incarnation, &pipeline).await.map_err(|error| sending_failed(OPERATION, error))?;
        read(OPERATION, values.into_iter().next().unwrap_or_default())
    }

    /// Replaces what is known of the templates of a WABA, at once.
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

    /// The templates of a WABA and when they were read; `None` if they never were.
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

    /// Notes that the templates of a WABA changed at Meta: the worker that keeps house reads them again.
    pub async fn note_changed_templates(&self, waba: &WabaId) -> Result<()> {
        let note = cmd("SADD").arg(self.keys.templates_changed()).arg(waba.as_str()).clone();
        self.query::<u8>("SADD templates_changed", &note).await.map(drop)
    }

    /// The WABAs whose templates changed, and removes them from the note. At most a thousand.
    pub async fn take_changed_templates(&self) -> Result<Vec<WabaId>> {
        let take = cmd("SPOP").arg(self.keys.templates_changed()).arg(1_000).clone();
        let wabas: Vec<String> = self.query("SPOP templates_changed", &take).await?;
        Ok(wabas.iter().map(|waba| WabaId::from(waba.as_str())).collect())
    }

    /// One template of a WABA.
    pub async fn template(&self, waba: &WabaId, name: &str, language: &str) -> Result<Option<Template>> {
        let key = self.keys.templates(waba);
        let json: Option<String> =
            self.query("HGET template", cmd("HGET").arg(&key).arg(field(name, language))).await?;
        json.map(|json| {
            serde_json::from_str(&json).map_err(|error| StoreError::Corrupt { key, reason: error.to_string() })
        })
        .transpose()
    }
}

fn field(name: &str, language: &str) -> String {
    format!("{name}/{language}")
}
