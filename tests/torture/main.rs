//! Campaigns in a world in which everything fails, by schedules drawn from a seed: nothing lost, nothing twice, counts
//! exact, no line too fast.
//!
//! `cargo test` plays a few rounds; `make torture ROUNDS=200` as many as it is told, several side by side.
#![allow(unreachable_pub, reason = "a file of tests is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod backend;
mod check;
mod clock;
mod meta;
mod proxy;
mod report;
mod round;
mod schedule;
mod stage;
mod turns;

use std::{collections::VecDeque, path::PathBuf, str::FromStr, sync::Mutex, thread, time::Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use round::Outcome;
use schedule::Schedule;

/// Recipients of a campaign that has one fault again and again.
const IN_TURN: u64 = 12_000;

/// A number from the environment.
fn set<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays rounds, `jobs` of them side by side. The first has the seed itself, so that a single round can be repeated; of the
/// others only those are played whose schedule has a fault with `fault` in its name, if one is given. Gives what they came to, and the seeds of those that broke off.
fn play(seed: u64, rounds: usize, jobs: usize, fault: Option<&str>) -> (Vec<Outcome>, Vec<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let has_fault = |seed: &u64| fault.is_none_or(|name| Schedule::draw(*seed).has(name));
    let others = std::iter::repeat_with(|| rng.random::<u32>().into()).filter(has_fault);
    let seeds = Mutex::new(std::iter::once(seed).chain(others).take(rounds).collect::<VecDeque<u64>>());
    let played = Mutex::new((Vec::new(), Vec::new()));
    let one = |seed| {
        // On a thread of its own, so that it may break off alone; with it ends all that it started.
        let round = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let keep = report::dir().join("wrong");
            runtime.expect("a runtime").block_on(round::play(Schedule::draw(seed), &keep))
        });
        match round.join() {
            Ok(outcome) => {
                report::tell(&outcome);
                played.lock().expect("no panic under the lock").0.push(outcome);
            }
            Err(_) => {
                println!("seed {seed}: broke off\n  again: {}", report::command(seed));
                played.lock().expect("no panic under the lock").1.push(seed);
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
    played.into_inner().expect("no panic under the lock")
}

fn wrong(outcomes: &[Outcome], broken: &[u64]) -> Vec<u64> {
    let wrong = outcomes.iter().filter(|outcome| !outcome.verdict.is_good()).map(|outcome| outcome.schedule.seed);
    wrong.chain(broken.iter().copied()).collect()
}

#[test]
fn nothing_is_lost_and_nothing_goes_twice_in_three_rounds_of_faults() {
    let (outcomes, broken) = play(support::seed(), 3, 3, None);
    let wrong = wrong(&outcomes, &broken);
    assert!(wrong.is_empty(), "rounds {wrong:?} went wrong: see above");
}

/// `make torture`: set by `PREGON_TORTURE_ROUNDS`, `PREGON_TORTURE_JOBS`, `PREGON_TORTURE_FAULT`, `PREGON_TORTURE_DOCUMENT`,
/// `PREGON_TEST_SEED`.
#[test]
#[ignore = "takes minutes: make torture"]
fn nothing_is_lost_and_nothing_goes_twice_in_many_rounds_of_faults() {
    let (rounds, jobs) = (set("PREGON_TORTURE_ROUNDS").unwrap_or(20), set("PREGON_TORTURE_JOBS").unwrap_or(3));
    let (seed, began) = (support::seed(), Instant::now());
    let fault = set::<String>("PREGON_TORTURE_FAULT");
    let (outcomes, broken) = play(seed, rounds, jobs, fault.as_deref());
    // One round alone is one that is repeated; one fault alone is looked into.
    let (campaigns, broken_campaigns) =
        if rounds > 1 && fault.is_none() { turns::play(IN_TURN) } else { Default::default() };
    let text = report::markdown(seed, &outcomes, &campaigns, jobs, began.elapsed());
    println!("\n{text}");
    let wrong = wrong(&outcomes, &broken);
    for seed in &wrong {
        println!("wrong: {}", report::command(*seed));
    }
    // A document shows what a whole run came to, as it came.
    report::write(&text, set::<PathBuf>("PREGON_TORTURE_DOCUMENT").as_deref());
    assert!(wrong.is_empty(), "{} of {rounds} rounds went wrong: see above", wrong.len());
    assert_eq!(broken_campaigns, 0, "campaigns with one fault again and again broke off: see above");
}
