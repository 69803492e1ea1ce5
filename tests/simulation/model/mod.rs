//! A reference model of a part ([`spec`]), compared with the Lua scripts on a real Redis.
//!
//! Both run the same random histories ([`history`]): claims, outcomes and statuses in any order, duplicated and
//! redelivered, retries, take-overs, doubts, pauses, cancellations, and a Redis that loses its last writes and
//! receives them again. After each step ([`drive`]), responses, state bytes, counters, schedules and error codes
//! must equal those of the model.
//!
//! What Pregón promises is also checked without the model ([`watch`]): the counters equal a recount and add up; a
//! rank falls only when an attempt certainly failed; no row is handed out again unless its earlier messages certainly
//! did not arrive, or the campaign resends messages in doubt; no row is lost; every row reaches a final state.
//!
//! A *claim* hands rows out to the line's owner, who sends them; a row's claims are numbered. The owner claims in the
//! *epoch* of its lease, which is higher than that of every earlier owner. A *fact* is what is learned later about a
//! claim: its outcome, or a status from Meta. Each process keeps a *journal* of what it wrote, and *replays* it to a
//! Redis that may have lost writes. During the *grace period* after a restart of Redis, no new owner may claim, because
//! the previous owner may still have to replay. The *gate* of a part says whether its rows may be claimed.
//!
//! `PREGON_TEST_SEED` sets the first seed, `PREGON_HISTORIES` multiplies the number of histories.

mod drive;
mod history;
mod real;
mod spec;
mod watch;

use std::{
    cell::{Cell, RefCell},
    thread,
    time::Duration,
};

use drive::{Facts, Figures, drive};
use pregon::redis::{Address, Store};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use real::Real;

use crate::support::{self, redis::TestRedis, world};

/// Histories per test.
const HISTORIES: u64 = 150;

/// How long to shrink a failing history.
const SHRINK_MS: u32 = 30_000;

/// The stack of a thread that runs histories. In a debug build, the futures of a step are too large for that of a test.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Runs the model and the scripts through random histories, one per seed. Panics with the smallest form of the
/// first history that fails.
fn agree_in_histories(facts: Facts) {
    let histories = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || run_histories(facts));
    if let Err(panic) = histories.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_histories(facts: Facts) {
    let multiplier: u64 =
        std::env::var("PREGON_HISTORIES").ok().and_then(|multiplier| multiplier.parse().ok()).unwrap_or(1);
    let first = support::seed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let redis = runtime.block_on(TestRedis::start());
    // Long enough for a busy machine: here, a timeout would be a test failure.
    let address = Address { timeout: Duration::from_secs(60), ..world::address(&redis) };
    let store = runtime.block_on(Store::connect(&address)).expect("a store");
    let (figures, parts) = (RefCell::new(Figures::default()), Cell::new(0));
    for seed in (0..HISTORIES * multiplier).map(|n| first.wrapping_add(n)) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: 1, failure_persistence: None, max_shrink_time: SHRINK_MS, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let ran = runner.run(&history::any(), |history| {
            // Each history uses a separate part.
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
    let Figures { histories, hand_outs, facts, forgotten, reopened, held, retried, .. } = figures;
    let rarer = [forgotten, reopened, held, retried];
    assert!(hand_outs > histories && facts > hand_outs && !rarer.contains(&0), "too little happened");
}

#[test]
fn the_scripts_agree_with_the_model_on_arbitrary_facts() {
    agree_in_histories(Facts::Any);
}

#[test]
fn true_facts_are_stored_and_no_recipient_gets_two_messages() {
    agree_in_histories(Facts::True);
}
