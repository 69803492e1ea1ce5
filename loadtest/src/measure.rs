//! CPU time and memory of processes, from `/proc`. Linux only.

use std::{fs, io, path::PathBuf, time::Duration};

/// The unit of times in `/proc/PID/stat` and `/proc/stat`: 10 ms on every architecture.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// The CPU time of a process so far: of its threads, and of its children that have ended, such as those in which Redis
/// rewrites its append-only file.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let path = proc_path(pid, "stat");
    let text = fs::read_to_string(&path)?;
    // The second field is a name in parentheses, which may contain spaces and parentheses.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
    let ticks: Option<u32> =
        fields.get(11..15).and_then(|times| times.iter().map(|ticks| ticks.parse::<u32>().ok()).sum());
    Ok(TICK * ticks.ok_or_else(|| bad_format(&path))?)
}

/// The CPU time used by everything on this machine since boot.
pub fn cpu_of_machine() -> io::Result<Duration> {
    let path = PathBuf::from("/proc/stat");
    let text = fs::read_to_string(&path)?;
    let fields: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    // Fields 1 to 7 are user, nice, system, idle, iowait, irq and softirq. Guest time is already part of user time.
    let used = [1, 2, 3, 6, 7].map(|at| fields.get(at).and_then(|ticks| ticks.parse::<u32>().ok()));
    Ok(TICK * used.into_iter().sum::<Option<u32>>().ok_or_else(|| bad_format(&path))?)
}

/// The peak resident memory of a process, in bytes, since its start or the last [`reset_peak`].
pub fn peak_bytes(pid: u32) -> io::Result<u64> {
    let path = proc_path(pid, "status");
    let text = fs::read_to_string(&path)?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| bad_format(&path))? * 1024)
}

/// Resets the peak memory of a process to its current memory.
pub fn reset_peak(pid: u32) -> io::Result<()> {
    fs::write(proc_path(pid, "clear_refs"), "5")
}

fn proc_path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn bad_format(path: &std::path::Path) -> io::Error {
    io::Error::other(format!("{} does not have the documented format", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_peak_memory_are_measured() {
        let pid = std::process::id();
        let before = (cpu(pid).expect("ours"), cpu_of_machine().expect("all"));
        let mut n = 0u64;
        while cpu(pid).expect("ours") < before.0 + TICK * 3 {
            n = std::hint::black_box(n + 1);
        }
        assert!(cpu_of_machine().expect("all") > before.1);
        let many = std::hint::black_box(vec![1u8; 32 << 20]);
        let peak = peak_bytes(pid).expect("ours");
        assert!(peak > many.len() as u64 && peak < 64 << 30, "{peak}");
        drop(many);
        reset_peak(pid).expect("our own");
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(cpu(u32::MAX).is_err() && peak_bytes(u32::MAX).is_err());
    }
}
