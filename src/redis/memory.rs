//! How full Redis is: the memory that counts against its `maxmemory`.

use std::fmt;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Reach, Result, Store, fleet::field, read};

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
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} of {:.1} MiB", mib(self.used), mib(self.max))
    }
}

impl Store {
    /// The memory of the master that uses the largest share of its limit; `None` if no master has a limit.
    pub async fn memory(&self) -> Result<Option<Memory>> {
        let mut info = Pipeline::with_capacity(1);
        info.add_command(cmd("INFO").arg("memory").clone());
        let mut fullest: Option<Memory> = None;
        for answer in self.send_to("INFO memory", &info, Reach::AllMasters).await? {
            let Some(memory) = Memory::of(&read::<String>("INFO memory", answer)?) else { continue };
            if fullest.is_none_or(|fullest| fullest.share() < memory.share()) {
                fullest = Some(memory);
            }
        }
        Ok(fullest)
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
}
