//! Counts the instructions of each hot path with valgrind: `make instructions`.
//!
//! The counts of a binary are the same in every run, however busy the machine is, so small changes are visible. They
//! are compared with the baseline in `instructions.txt` next to this file: a path that exceeds it by more than
//! [`TOLERANCE`] fails. Counts depend on the processor and the compiler, which the baseline names. On another processor
//! nothing is compared.
//!
//! `cargo bench --bench instructions -- --save` rewrites the baseline. The output of valgrind for each path stays in
//! `target/tmp/instructions`, for `callgrind_annotate`.
//!
//! No crate is used, because the existing ones keep their baseline in `target` and need a separate program of the same
//! version.

mod inputs;

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Command, ExitCode},
};

use inputs::paths::{PATHS, Path, named};

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The share of its baseline by which a count may grow. A change elsewhere in the binary moved some counts by 3 %.
const TOLERANCE: f64 = 0.05;

/// Counted runs. As many runs before them warm up, and are not counted.
const RUNS: u64 = 20;

/// The directory for valgrind's output.
const OUTPUT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions");

/// The baseline.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["counted", name] => {
            let mut path = named(name);
            runs(&mut path);
            counted_runs(&mut path);
            ExitCode::SUCCESS
        }
        [] => compare(),
        ["--save"] => save(),
        _ => {
            eprintln!("usage: cargo bench --bench instructions [-- --save]");
            ExitCode::from(2)
        }
    }
}

/// Valgrind counts only the calls from this function, which it finds by name: see `--toggle-collect`.
#[inline(never)]
fn counted_runs(path: &mut Path) {
    runs(path);
}

fn runs(path: &mut Path) {
    for _ in 0..RUNS {
        (path.run)();
    }
}

fn compare() -> ExitCode {
    let (counts, baseline) = (count(), Baseline::read());
    let comparable = baseline.processor() == processor();
    println!("{:<20} {:>12} {:>10} {:>10} {:>8}", "path", "per", "count", "baseline", "change");
    let (mut worse, mut better) = (false, false);
    for Counted { name, of, count } in &counts {
        let before = baseline.counts.get(*name).filter(|_| comparable);
        let change = before.map(|&before| *count as f64 / before as f64 - 1.0);
        let column = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let (before, percent) =
            (column(before.map(u64::to_string)), column(change.map(|by| format!("{:+.1} %", by * 100.0))));
        println!("{name:<20} {of:>12} {count:>10} {before:>10} {percent:>8}");
        worse |= comparable && change.is_none_or(|by| by > TOLERANCE);
        better |= change.is_some_and(|by| by < -TOLERANCE);
    }
    if !comparable {
        println!("\nnothing is compared: the baseline is of {}, this run of {}", baseline.made_by, made_by());
        return ExitCode::SUCCESS;
    }
    if worse || better {
        println!("\nbaseline: {}\nthis run: {}", baseline.made_by, made_by());
        println!("if the change is intended: cargo bench --bench instructions -- --save, and say why in the commit");
    }
    if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn save() -> ExitCode {
    let mut text = format!("{}\n", made_by());
    for Counted { name, count, .. } in count() {
        text.push_str(&format!("{count:>9} {name}\n"));
    }
    fs::write(FILE, &text).unwrap_or_else(|error| panic!("{FILE}: {error}"));
    print!("{text}");
    ExitCode::SUCCESS
}

/// The baseline: a line with the processor and the versions, then a line for each path.
struct Baseline {
    made_by: String,
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    fn read() -> Self {
        let text = fs::read_to_string(FILE).unwrap_or_else(|error| panic!("{FILE}: {error}"));
        let mut lines = text.lines();
        let made_by = lines.next().unwrap_or_default().to_owned();
        let count = |line: &str| {
            let (count, name) = line.trim().split_once(' ')?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        let counts = lines.map(|line| count(line).unwrap_or_else(|| panic!("{FILE}: {line}"))).collect();
        Self { made_by, counts }
    }

    fn processor(&self) -> &str {
        self.made_by.split(", ").next().unwrap_or_default()
    }
}

/// What the counts depend on besides the code: processor, compiler and valgrind.
fn made_by() -> String {
    format!("{}, {}, {}", processor(), version("rustc"), version("valgrind"))
}

/// The architecture, and whether the processor has AVX2: libraries choose their instructions by that.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let avx2 = if is_x86_feature_detected!("avx2") { " with avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let avx2 = "";
    format!("{}{avx2}", env::consts::ARCH)
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = text.split([' ', '-']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    format!("{program} {}", number.unwrap_or("unknown").trim())
}

struct Counted {
    name: &'static str,
    of: &'static str,
    /// Instructions per item.
    count: u64,
}

fn count() -> Vec<Counted> {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        eprintln!("cannot run valgrind ({error}): install it, for example with apt-get install valgrind");
        std::process::exit(1);
    }
    fs::create_dir_all(OUTPUT).unwrap_or_else(|error| panic!("{OUTPUT}: {error}"));
    PATHS.iter().map(|(name, make)| count_path(name, &make())).collect()
}

fn count_path(name: &'static str, path: &Path) -> Counted {
    let output = Command::new("valgrind")
        // Fair scheduling makes the time until a thread gets another thread's answer the same in every run.
        .args(["--tool=callgrind", "--toggle-collect=*counted_runs*", "--fair-sched=try"])
        .arg(format!("--callgrind-out-file={OUTPUT}/{}", name.replace(' ', "-")))
        .arg(env::current_exe().expect("this program"))
        .args(["counted", name])
        .output()
        .expect("valgrind runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {stderr}");
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : "));
    let instructions: u64 = collected.and_then(|(_, n)| n.trim().parse().ok()).unwrap_or(0);
    assert!(instructions > 0, "valgrind counted nothing of {name}: {stderr}");
    Counted { name, of: path.of, count: instructions / (RUNS * path.n) }
}
