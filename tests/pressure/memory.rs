//! How much memory a process has.

/// In bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    /// The most that it has had so far.
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

    /// Other systems tell of another process only what it has now.
    #[cfg(not(target_os = "linux"))]
    pub fn of(pid: u32) -> Self {
        let told = std::process::Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output();
        let told = String::from_utf8(told.expect("ps").stdout).expect("a number");
        let now = told.trim().parse::<u64>().expect("the process runs") << 10;
        Self { now, peak: now }
    }

    /// How far its peak is above what it had then.
    pub fn grown_since(self, then: Memory) -> u64 {
        self.peak.saturating_sub(then.now)
    }
}

/// For people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
