//! The memory of a process.

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    /// The maximum so far.
    pub peak: u64,
}

impl Memory {
    #[cfg(target_os = "linux")]
    pub fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of proc(5)");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
        };
        Self { now: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }

    /// Systems other than Linux report only the current memory of another process. It is also used as the peak.
    #[cfg(not(target_os = "linux"))]
    pub fn of(pid: u32) -> Self {
        let output = std::process::Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output();
        let output = String::from_utf8(output.expect("ps").stdout).expect("a number");
        let now = output.trim().parse::<u64>().expect("the process runs") << 10;
        Self { now, peak: now }
    }

    /// By how many bytes the peak exceeds the current memory of the earlier measurement `then`.
    pub fn grown_since(self, then: Memory) -> u64 {
        self.peak.saturating_sub(then.now)
    }
}

/// Bytes as MiB, for reports.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
