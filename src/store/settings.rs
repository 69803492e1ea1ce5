//! What an installation shares besides its campaigns: the key of its tokens, and the templates that Meta told it of.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Result, Store, StoreError};
use crate::domain::{TokenKey, UnixMs, WabaId, template::Template};

/// The field that says when the templates of a WABA were read. No template can have this name.
const SYNCED_AT: &str = "synced_at";

impl Store {
    /// The key of the check in tokens; made by the first worker of the installation.
    pub async fn token_key(&self) -> Result<TokenKey> {
        let key = self.keys.token_key();
        let secret: [u8; 16] = rand::random();
        self.query::<Option<String>>("SET token_key", cmd("SET").arg(&key).arg(&secret).arg("NX")).await?;
        let secret: Vec<u8> = self.query("GET token_key", cmd("GET").arg(&key)).await?;
        let secret = secret.try_into().map_err(|_| StoreError::Corrupt { key, reason: "it is not 16 bytes".into() })?;
        Ok(TokenKey::new(secret))
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
        self.query_all::<deadpool_redis::redis::Value>("MULTI templates", &pipeline).await.map(drop)
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
