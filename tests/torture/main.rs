//! Campaigns under faults of every kind. A *round* runs a few campaigns under one schedule of faults, which is drawn
//! from a seed. It checks that no recipient is lost or gets two messages, that every count is exact, and that no line
//! exceeds its rate. People write meanwhile, and agents answer them: no message of either is lost, shown twice or sent
//! twice.
//!
//! `cargo test` runs a few rounds; `make torture ROUNDS=200` runs the given number, several in parallel.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod backend;
mod chats;
mod check;
mod clock;
mod feed;
mod forgetting;
mod meta;
mod proxy;
mod report;
mod round;
mod schedule;
mod schemathesis;
mod stage;
mod turns;

use std::{collections::VecDeque, path::PathBuf, str::FromStr, sync::Mutex, thread, time::Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use round::Outcome;
use schedule::Schedule;

/// The number of recipients of each campaign with one repeated fault: see [`turns`].
const IN_TURN: u64 = 12_000;

/// An environment variable, parsed.
fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs rounds, `jobs` of them in parallel. The first round uses `seed` itself, so that a single round can be
/// repeated. If `fault` is given, the other rounds are only those whose schedule has a fault, or a slow link, with
/// `fault` in its name. Returns the outcomes, and the seeds of rounds that panicked.
fn run(seed: u64, rounds: usize, jobs: usize, fault: Option<&str>) -> (Vec<Outcome>, Vec<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let has_fault = |seed: &u64| fault.is_none_or(|name| Schedule::draw(*seed).has(name));
    let others = std::iter::repeat_with(|| rng.random::<u32>().into()).filter(has_fault);
    let seeds = Mutex::new(std::iter::once(seed).chain(others).take(rounds).collect::<VecDeque<u64>>());
    let results = Mutex::new((Vec::new(), Vec::new()));
    let one = |seed| {
        // On a separate thread, so that a panic ends only this round and everything that it started.
        let round = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let keep = report::dir().join("wrong");
            runtime.expect("a runtime").block_on(round::run(Schedule::draw(seed), &keep))
        });
        match round.join() {
            Ok(outcome) => {
                report::print(&outcome);
                results.lock().expect("no panic under the lock").0.push(outcome);
            }
            Err(_) => {
                println!("seed {seed}: panicked\n  again: {}", report::command(seed));
                results.lock().expect("no panic under the lock").1.push(seed);
            }
        }
    };
    let next = || seeds.lock().expect("no panic under the lock").pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    one(seed);
                }
            });
        }
    });
    results.into_inner().expect("no panic under the lock")
}

fn failed_seeds(outcomes: &[Outcome], panicked: &[u64]) -> Vec<u64> {
    let failed = outcomes.iter().filter(|outcome| !outcome.verdict.is_good()).map(|outcome| outcome.schedule.seed);
    failed.chain(panicked.iter().copied()).collect()
}

#[test]
fn three_rounds_of_faults_lose_and_repeat_no_message() {
    let (outcomes, panicked) = run(support::seed(), 3, 3, None);
    let failed = failed_seeds(&outcomes, &panicked);
    assert!(failed.is_empty(), "rounds {failed:?} failed: see above");
}

/// Run by `make torture`. Settings: `PREGON_TORTURE_ROUNDS`, `PREGON_TORTURE_JOBS`, `PREGON_TORTURE_FAULT`,
/// `PREGON_TORTURE_DOCUMENT`, `PREGON_TEST_SEED`.
#[test]
#[ignore = "takes minutes: make torture"]
fn many_rounds_of_faults_lose_and_repeat_no_message() {
    let (rounds, jobs) = (setting("PREGON_TORTURE_ROUNDS").unwrap_or(20), setting("PREGON_TORTURE_JOBS").unwrap_or(3));
    let (seed, began) = (support::seed(), Instant::now());
    let fault = setting::<String>("PREGON_TORTURE_FAULT");
    let (outcomes, panicked) = run(seed, rounds, jobs, fault.as_deref());
    // These campaigns are not run when a single round is repeated, or a single kind of fault is investigated.
    let (campaigns, panicked_campaigns) =
        if rounds > 1 && fault.is_none() { turns::run_all(IN_TURN) } else { Default::default() };
    let text = report::markdown(seed, &outcomes, &campaigns, jobs, began.elapsed());
    println!("\n{text}");
    let failed = failed_seeds(&outcomes, &panicked);
    for seed in &failed {
        println!("failed: {}", report::command(*seed));
    }
    // Written before the assertions, so that the document shows every run.
    report::write(&text, setting::<PathBuf>("PREGON_TORTURE_DOCUMENT").as_deref());
    assert!(failed.is_empty(), "{} of {rounds} rounds failed: see above", failed.len());
    assert_eq!(panicked_campaigns, 0, "campaigns with one repeated fault panicked: see above");
}
