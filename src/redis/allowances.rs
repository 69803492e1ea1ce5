//! Claims to ask Meta what the lines of a WABA may send, so that only one worker asks at a time.
//!
//! Owns: STRING `allowances_read:WABA`, which exists until the next worker has to ask. The answers are stored with the
//! controls of the lines.
//!
//! If a worker dies while it asks, its claim expires, and another worker asks.

use std::time::Duration;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Result, Store, lines::ms};
use crate::domain::WabaId;

impl Store {
    /// Claims to ask Meta about the lines of WABAs. Returns for each WABA whether the caller has to ask, because no
    /// worker has asked or holds a claim. A claim lasts for `claim` unless [`Store::allowances_were_read`] extends it.
    pub async fn claim_allowance_reads(&self, wabas: &[WabaId], claim: Duration) -> Result<Vec<bool>> {
        let mut pipeline = Pipeline::with_capacity(wabas.len());
        for waba in wabas {
            pipeline.cmd("SET").arg(self.keys.allowances_read(waba)).arg("").arg("NX").arg("PX").arg(ms(claim));
        }
        let set: Vec<Option<String>> = self.query_all("SET allowances_read", &pipeline).await?;
        Ok(set.into_iter().map(|set| set.is_some()).collect())
    }

    /// Records that Meta was asked about the lines of a WABA: no worker asks again for `lifetime`. If Meta has reported
    /// a change since the claim, the answer may be older than the change, so Meta is asked again.
    pub async fn allowances_were_read(&self, waba: &WabaId, lifetime: Duration) -> Result<()> {
        let prolong = cmd("PEXPIRE").arg(self.keys.allowances_read(waba)).arg(ms(lifetime)).clone();
        self.query::<u8>("PEXPIRE allowances_read", &prolong).await.map(drop)
    }

    /// Makes workers ask Meta about the lines of a WABA at once, because Meta reported a change.
    pub async fn forget_allowances_read(&self, waba: &WabaId) -> Result<()> {
        self.query::<u8>("DEL allowances_read", cmd("DEL").arg(self.keys.allowances_read(waba))).await.map(drop)
    }
}
