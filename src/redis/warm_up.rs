//! The warm-up of a line: how much of the day's share its owners have taken.
//!
//! Owns: HASH `{l:line}:warm_up`: `start` (the time of the first message, in ms), `day` (the number of the last day on
//! which a message was sent) and `taken` (the messages of its share that owners have taken). It is permanent: a line
//! warms up once.
//!
//! If the owner dies: what it had taken and not sent counts as sent.
//! If Redis loses its last writes: the day's share can be exceeded by the messages taken in these writes.

use deadpool_redis::redis::{Pipeline, Value};

use super::{Call, Result, Store, read, script};
use crate::domain::{LineId, UnixMs};

impl Store {
    /// When the warm-up of a line began. If it has not begun, it begins at `now`.
    pub async fn begin_warm_up(&self, line: &LineId, now: UnixMs) -> Result<UnixMs> {
        let key = self.keys.warm_up(line);
        let mut pipeline = Pipeline::new();
        pipeline.hset_nx(&key, "start", now.0).hget(&key, "start");
        let mut answers: Vec<Value> = self.query_all("HSETNX warm_up", &pipeline).await?;
        let start: Option<u64> = read("HGET warm_up", answers.pop().unwrap_or_default())?;
        Ok(start.map_or(now, UnixMs))
    }

    /// Takes up to `wanted` messages from the `share` of the day `number` of the line's warm-up. Returns how many it
    /// got: 0 if the share is spent.
    pub async fn take_warm_up(&self, line: &LineId, number: u32, share: u32, wanted: u32) -> Result<u32> {
        self.call(self.warm_up_call(line, number, share, wanted.into())).await
    }

    /// Returns messages that were taken on the day `number` and not sent.
    pub async fn return_warm_up(&self, line: &LineId, number: u32, unsent: u32) -> Result<()> {
        self.call::<u32>(self.warm_up_call(line, number, 0, -i64::from(unsent))).await.map(drop)
    }

    fn warm_up_call(&self, line: &LineId, number: u32, share: u32, change: i64) -> Call {
        Call::new(&script::WARM_UP, &[self.keys.warm_up(line)]).arg(number).arg(share).arg(change)
    }
}
