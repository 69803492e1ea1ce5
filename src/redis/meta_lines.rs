//! The lines that businesses have at Meta, as a process last read them. Every process uses them: while Meta does not
//! answer, and so that not each of them asks.

use std::collections::HashMap;

use deadpool_redis::redis::cmd;

use super::{Result, Store};
use crate::domain::{BusinessId, MetaLines};

impl Store {
    /// The lines of each business. What another release wrote and this one cannot read is left out.
    pub async fn meta_lines(&self) -> Result<HashMap<BusinessId, MetaLines>> {
        let fields: HashMap<String, String> =
            self.query("HGETALL meta_lines", cmd("HGETALL").arg(self.keys.meta_lines())).await?;
        let read = |(id, json): (String, String)| Some((BusinessId::from(&*id), serde_json::from_str(&json).ok()?));
        Ok(fields.into_iter().filter_map(read).collect())
    }

    /// Stores the lines of a business.
    pub async fn set_meta_lines(&self, business: &BusinessId, lines: &MetaLines) -> Result<()> {
        let json = serde_json::to_string(lines).expect("lines have only strings, numbers and flags");
        let set = cmd("HSET").arg(self.keys.meta_lines()).arg(business.as_str()).arg(json).clone();
        self.query::<u8>("HSET meta_lines", &set).await.map(drop)
    }
}
