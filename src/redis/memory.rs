//! How full Redis is: the memory that counts against its `maxmemory`.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Reach, Result, Store, durability::risks::Risk, fleet::field, read};

/// How to get room in a Redis that is nearly full.
pub const ROOM_REMEDY: &str = "give redis more memory, delete campaigns that have ended, or lower retention";

/// How to get room in a full Redis. What deletes a campaign writes something first, and a full Redis refuses that.
pub const FULL_REMEDY: &str = "give redis more memory; a full redis refuses deletions too";

/// A server counts as full from this many bytes below its limit on. Whether it takes a write there changes from one
/// moment to the next, with the buffers of its clients.
const FULL_WITHIN: u64 = 1 << 20;

/// How long a reading of the memory is used. An upload stores at most about 10 MB in this time.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The newest reading of the memory, and when it was made.
pub(super) type NewestReading = Mutex<Option<(Instant, Option<Memory>)>>;

/// The memory of a Redis server with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that count against the limit.
    pub used: u64,
    /// The limit (`maxmemory`) in bytes, above 0.
    pub max: u64,
}

impl Memory {
    /// The memory in `info`, the answer to INFO; `None` for a server without a limit.
    fn of(info: &str) -> Option<Self> {
        let bytes = |name| field(info, name).parse::<u64>().unwrap_or(0);
        // Redis compares the same difference with its limit: buffers of replicas and of the append-only file are left
        // out.
        let used = bytes("used_memory").saturating_sub(bytes("mem_not_counted_for_evict"));
        let max = bytes("maxmemory");
        (max > 0).then_some(Self { used, max })
    }

    /// The used share of the limit; above 1 if the limit was lowered.
    pub fn share(&self) -> f64 {
        self.used as f64 / self.max as f64
    }

    /// Whether Redis refuses writes that need memory, or is about to.
    pub fn is_full(&self) -> bool {
        self.used.saturating_add(FULL_WITHIN) > self.max
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} of {:.1} MiB", mib(self.used), mib(self.max))
    }
}

impl Store {
    /// As [`Store::memory`], but at most a second old. The clones of a store share one reading.
    pub async fn recent_memory(&self) -> Result<Option<Memory>> {
        let newest = *self.memory_reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, memory)) = newest.filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Ok(memory);
        }
        let memory = self.memory().await?;
        *self.memory_reading.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), memory));
        Ok(memory)
    }

    /// The memory of the master that uses the largest share of its limit; `None` if no master has a limit.
    pub async fn memory(&self) -> Result<Option<Memory>> {
        Ok(self.memory_and_risks().await?.0)
    }

    /// As [`Store::memory`], and the risks in the settings of the masters, in one round trip.
    pub async fn memory_and_risks(&self) -> Result<(Option<Memory>, Vec<Risk>)> {
        let mut info = Pipeline::with_capacity(1);
        info.add_command(cmd("INFO").arg("memory").arg("persistence").clone());
        let (mut fullest, mut risks): (Option<Memory>, Vec<Risk>) = Default::default();
        for answer in self.send_to("INFO memory", &info, Reach::AllMasters).await? {
            let info: String = read("INFO memory", answer)?;
            fullest = fullest.into_iter().chain(Memory::of(&info)).max_by(|a, b| a.share().total_cmp(&b.share()));
            for risk in Risk::of(&info) {
                if !risks.contains(&risk) {
                    risks.push(risk);
                }
            }
        }
        Ok((fullest, risks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_redis_does_not_count_are_left_out() {
        let info = |max| {
            format!(
                "# Memory\r\nused_memory:5242880\r\nused_memory_human:5.00M\r\nmaxmemory:{max}\r\nmem_not_counted_for_evict:1048576\r\n"
            )
        };
        assert_eq!(Memory::of(&info(0)), None, "no limit");
        let memory = Memory::of(&info(8 << 20)).expect("a limit");
        assert_eq!((memory.share(), memory.to_string().as_str()), (0.5, "4.0 of 8.0 MiB"));
    }

    #[test]
    fn a_server_is_full_shortly_before_its_limit() {
        let is_full = |used| Memory { used, max: 100 << 20 }.is_full();
        assert_eq!(
            [98 << 20, 99 << 20, (99 << 20) + 1, 100 << 20, 101 << 20].map(is_full),
            [false, false, true, true, true]
        );
    }
}
