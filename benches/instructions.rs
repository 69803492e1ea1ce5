//! The instructions of each hot path, counted by valgrind: `make instructions`.
//!
//! Counts are the same in every run of one binary, whatever else the machine does, so that a small change shows. They are
//! compared with `instructions.txt` beside this file: what takes more than [`TOLERANCE`] over that fails. They depend on
//! the processor and the compiler, which are noted there; on another processor nothing is compared.
//!
//! `cargo bench --bench instructions -- --save` writes that file anew. What valgrind saw of each path stays in
//! `target/tmp/instructions`, for `callgrind_annotate`.
//!
//! Why not a crate for it: they keep what they compare with in `target`, and need a program of the same version beside them.

mod inputs;

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Command, ExitCode},
};

use inputs::paths::{PATHS, Path, named};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Share of the known count by which one may grow. A change elsewhere in the binary moved some by 3 %.
const TOLERANCE: f64 = 0.05;

/// Runs that are counted, after as many that are not.
const RUNS: u64 = 20;

/// What valgrind saw of each path.
const SEEN: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions");

/// The known counts.
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

/// Valgrind counts only what is called from here: it knows this function by its name.
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
    let (counts, known) = (count(), Known::read());
    let comparable = known.processor() == processor();
    println!("{:<20} {:>12} {:>10} {:>10} {:>8}", "path", "for a", "count", "known", "change");
    let (mut worse, mut better) = (false, false);
    for Counted { name, of, count } in &counts {
        let before = known.counts.get(*name).filter(|_| comparable);
        let change = before.map(|&before| *count as f64 / before as f64 - 1.0);
        let column = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let (before, percent) =
            (column(before.map(u64::to_string)), column(change.map(|by| format!("{:+.1} %", by * 100.0))));
        println!("{name:<20} {of:>12} {count:>10} {before:>10} {percent:>8}");
        worse |= comparable && change.is_none_or(|by| by > TOLERANCE);
        better |= change.is_some_and(|by| by < -TOLERANCE);
    }
    if !comparable {
        println!("\nnothing is compared: the known counts are of {}, these of {}", known.made_by, made_by());
        return ExitCode::SUCCESS;
    }
    if worse || better {
        println!("\nknown: {}\nthese: {}", known.made_by, made_by());
        println!("if that is as it should be: cargo bench --bench instructions -- --save, and say why in the commit");
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

/// The known counts: a line that says what they are of, then one for each path.
struct Known {
    made_by: String,
    counts: BTreeMap<String, u64>,
}

impl Known {
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

/// What counts depend on.
fn made_by() -> String {
    format!("{}, {}, {}", processor(), version("rustc"), version("valgrind"))
}

/// Libraries choose their instructions by what the processor has.
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
    /// Instructions for one of those.
    count: u64,
}

fn count() -> Vec<Counted> {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        eprintln!("valgrind can not be run ({error}): install it, as by apt-get install valgrind");
        std::process::exit(1);
    }
    fs::create_dir_all(SEEN).unwrap_or_else(|error| panic!("{SEEN}: {error}"));
    PATHS.iter().map(|(name, make)| count_path(name, &make())).collect()
}

fn count_path(name: &'static str, path: &Path) -> Counted {
    let output = Command::new("valgrind")
        // In fair turns: a thread that waits for another's answer gets it as soon every time.
        .args(["--tool=callgrind", "--toggle-collect=*counted_runs*", "--fair-sched=try"])
        .arg(format!("--callgrind-out-file={SEEN}/{}", name.replace(' ', "-")))
        .arg(env::current_exe().expect("this program"))
        .args(["counted", name])
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let instructions: u64 = collected.and_then(|(_, n)| n.trim().parse().ok()).unwrap_or(0);
    assert!(instructions > 0, "valgrind saw nothing of {name}: {said}");
    Counted { name, of: path.of, count: instructions / (RUNS * path.n) }
}
