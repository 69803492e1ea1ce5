//! What processes use of the machine, as `/proc` has it: Linux only.

use std::{fs, io, path::PathBuf, time::Duration};

/// The unit of `/proc/PID/stat` and `/proc/stat`: the kernel gives hundredths of a second on every architecture.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Time on the processor of a process so far: of its threads, and of its children that have ended, such as those in which
/// Redis writes its file anew.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let path = of(pid, "stat");
    let text = fs::read_to_string(&path)?;
    // The second field is a name in brackets, and may hold anything.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
    let ticks: Option<u32> =
        fields.get(11..15).and_then(|times| times.iter().map(|ticks| ticks.parse::<u32>().ok()).sum());
    Ok(TICK * ticks.ok_or_else(|| unreadable(&path))?)
}

/// Time on the processors of everything on this machine.
pub fn cpu_of_all() -> io::Result<Duration> {
    let path = PathBuf::from("/proc/stat");
    let text = fs::read_to_string(&path)?;
    let fields: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    // user, nice, system, then idle and waiting, then interrupts; what a guest used is in user already.
    let used = [1, 2, 3, 6, 7].map(|at| fields.get(at).and_then(|ticks| ticks.parse::<u32>().ok()));
    Ok(TICK * used.into_iter().sum::<Option<u32>>().ok_or_else(|| unreadable(&path))?)
}

/// The most memory that a process has had at once, in bytes, since [`forget_peak`].
pub fn peak_bytes(pid: u32) -> io::Result<u64> {
    let path = of(pid, "status");
    let text = fs::read_to_string(&path)?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| unreadable(&path))? * 1024)
}

/// From now on the peak is counted anew.
pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(of(pid, "clear_refs"), "5")
}

fn of(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn unreadable(path: &std::path::Path) -> io::Error {
    io::Error::other(format!("{} is not of the form that Linux documents", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_time_and_memory_and_others_do_too() {
        let pid = std::process::id();
        let before = (cpu(pid).expect("ours"), cpu_of_all().expect("all"));
        let mut n = 0u64;
        while cpu(pid).expect("ours") < before.0 + TICK * 3 {
            n = std::hint::black_box(n + 1);
        }
        assert!(cpu_of_all().expect("all") > before.1);
        let many = std::hint::black_box(vec![1u8; 32 << 20]);
        let peak = peak_bytes(pid).expect("ours");
        assert!(peak > many.len() as u64 && peak < 64 << 30, "{peak}");
        drop(many);
        forget_peak(pid).expect("our own");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(cpu(u32::MAX).is_err() && peak_bytes(u32::MAX).is_err());
    }
}
