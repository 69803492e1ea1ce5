//! The state machine as mathematics: a model of a part ([`spec`]), and the scripts beside it.
//!
//! Both go through the same random histories ([`history`]): claims, outcomes and statuses in any order, doubled and told
//! again, retries, take-overs, doubts, pauses, cancels, and a Redis that forgets its last moments and is told them again.
//! After each thing that happens ([`drive`]) answers, state bytes, counters, schedules and codes are those of the model.
//! And whatever the model says ([`watch`]): the counters are a recount and add up; no rank falls but by the way back;
//! nobody is handed out again without a certain negative, or is lost; in the end everybody is in a final state.
//!
//! `PREGON_TEST_SEED` chooses the first seed, `PREGON_HISTORIES` multiplies the number of histories.

mod drive;
mod history;
mod real;
mod spec;
mod watch;

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use drive::{Facts, Figures, drive};
use pregon::redis::{Address, Store};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use real::Real;

use crate::support::{self, redis::TestRedis, world};

/// Histories of one test.
const HISTORIES: u64 = 150;

/// How long the smallest history that fails is looked for.
const SHRINK_MS: u32 = 30_000;

/// Drives model and scripts through random histories, each from its seed. The first that fails is told in its smallest form.
fn agree_in_histories(facts: Facts) {
    let times: u64 = std::env::var("PREGON_HISTORIES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let first = support::seed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let redis = runtime.block_on(TestRedis::start());
    // No answer is late here, however busy the machine is: none would be a failure.
    let address = Address { timeout: Duration::from_secs(60), ..world::address(&redis) };
    let store = runtime.block_on(Store::connect(&address)).expect("a store");
    let (figures, parts) = (RefCell::new(Figures::default()), Cell::new(0));
    for seed in (0..HISTORIES * times).map(|n| first.wrapping_add(n)) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: 1, failure_persistence: None, max_shrink_time: SHRINK_MS, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let ran = runner.run(&history::any(), |history| {
            // Each on a part of its own.
            parts.set(parts.get() + 1);
            let real = Real::new(&store, parts.get());
            let mut trace = Vec::new();
            let driven = runtime.block_on(drive(&history, facts, &real, &mut trace, &mut figures.borrow_mut()));
            driven.map_err(|broken| TestCaseError::fail(format!("{broken}\n\n{}", trace.join("\n"))))
        });
        match ran {
            Ok(()) => {}
            Err(TestError::Fail(reason, history)) => panic!("PREGON_TEST_SEED={seed}: {reason}\n\n{history:?}"),
            Err(TestError::Abort(reason)) => panic!("PREGON_TEST_SEED={seed}: {reason}"),
        }
    }
    let figures = figures.into_inner();
    println!("{facts:?}: {figures:?}");
    let Figures { histories, hand_outs, facts, forgotten, reopened, .. } = figures;
    assert!(hand_outs > histories && facts > hand_outs && forgotten > 0 && reopened > 0, "too little happened");
}

#[test]
fn the_scripts_do_what_the_model_says_whatever_they_are_told() {
    agree_in_histories(Facts::Any);
}

#[test]
fn what_is_true_is_known_in_the_end_and_nobody_gets_two_messages() {
    agree_in_histories(Facts::True);
}
