//! Leases and pacing of several workers in virtual time: thousands of schedules of faults, each drawn from a seed.
//!
//! The code under test is the real one: `dispatch::leases` decides which leases each worker keeps, and
//! `dispatch::line::clearance` when a message may leave. The tests drive both, and model Redis and the faults.
//!
//! Checked in every schedule: two owners never send on one line at once, and no line gets more than its rate, plus one
//! message and 1 %, in any sliding second. The schedules delay and lose messages between workers and Redis; stop, kill,
//! start and shut down workers at any point; let clocks drift; set Redis' clock back; and let Redis lose its last
//! seconds. Once the faults have ended, every line has one owner, and the workers share the lines equally.
//!
//! If Redis' clock jumps ahead by more than a fifth of a lease, a line may have two owners for a moment. Pregón does
//! not promise to prevent that; these tests measure how long it lasts. A lease also cannot stop a process that is
//! suspended between checking the lease and writing: when it resumes, it writes what its pacer had already allowed, at
//! most 2 messages and 1 % of the line's rate.
//!
//! Each lease has an *epoch*, a number higher than that of every earlier lease of the line. Redis refuses a claim of
//! an epoch lower than that of the last claim. Each restart of Redis begins a new *incarnation* with a *grace period*
//! of one lease: until then, other workers may still have to replay writes that Redis lost, so a line's rows cannot be
//! claimed in a newer epoch than that of the last claim.
//!
//! `PREGON_TEST_SEED` sets the first seed, `PREGON_SCHEDULES` multiplies the number of schedules.

mod plan;
mod real;
mod rules;
mod runner;
mod watch;
mod worker;
mod world;

use std::time::Duration;

use plan::{Fault, Plan};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use watch::Watch;
use world::{Event, World};

use crate::support;

/// Faults under which every promise must hold.
const FAULTS: [Fault; 12] = [
    Fault::Stop,
    Fault::TaskStalls,
    Fault::RunnersStall,
    Fault::Die,
    Fault::Start,
    Fault::Leave,
    Fault::Cut,
    Fault::RedisStops,
    Fault::RedisRestarts { forgets: Duration::ZERO },
    Fault::ClockBack,
    Fault::NoWork,
    Fault::Rate,
];

fn schedules(n: u64) -> impl Iterator<Item = u64> {
    let multiplier = std::env::var("PREGON_SCHEDULES").ok().and_then(|multiplier| multiplier.parse().ok()).unwrap_or(1);
    let first = support::seed();
    (0..n * multiplier).map(move |i| first.wrapping_add(i))
}

/// Runs a schedule. If it breaks a promise, runs it again with a trace, and panics with the trace.
fn keeps_its_promises(plan: &Plan) -> Watch {
    keeps_its_promises_in(plan, World::run)
}

/// Like [`keeps_its_promises`], in a world that `run` runs.
fn keeps_its_promises_in(plan: &Plan, run: impl Fn(World) -> Watch) -> Watch {
    let run = |traced| run(World::new(plan.clone(), traced));
    let watch = run(false);
    if let Some(broken) = &watch.broken {
        let trace: Vec<String> = run(true).trace.into();
        panic!("PREGON_TEST_SEED={}: {broken}\n{plan:?}\n{}", plan.seed, trace.join("\n"));
    }
    watch
}

fn any_plan(seed: u64) -> Plan {
    let mut rng = StdRng::seed_from_u64(!seed);
    let lease = Duration::from_millis(rng.random_range(1_000..5_000));
    let rates: Vec<f64> = (0..rng.random_range(1..4)).map(|_| [0.5, 3.0, 10.0, 20.0][rng.random_range(0..4)]).collect();
    Plan {
        faults: FAULTS.to_vec(),
        fault_every: lease.mul_f64(rng.random_range(0.1..3.0)),
        length: lease * 10,
        trouble: [0, 100, 20, 5][rng.random_range(0..4)],
        drift: 1_000,
        throttled: [0, 50][rng.random_range(0..2)],
        ..Plan::calm(seed, lease, rng.random_range(1..5), &rates)
    }
}

fn add(figures: &mut (u64, u64, u64), watch: &Watch) {
    figures.0 += 1;
    figures.1 += watch.messages;
    figures.2 += watch.owners.iter().map(|owners| owners.len().saturating_sub(1) as u64).sum::<u64>();
}

#[test]
fn no_schedule_lets_two_owners_send_on_one_line_at_once() {
    let mut figures = (0, 0, 0);
    for seed in schedules(1_000) {
        add(&mut figures, &keeps_its_promises(&any_plan(seed)));
    }
    let (n, messages, take_overs) = figures;
    println!("{n} schedules, {messages} messages, {take_overs} take-overs");
    assert!(messages > 10 * n && take_overs > n, "too little happened");
}

#[test]
fn no_sliding_second_exceeds_the_rate_by_more_than_one_percent() {
    let mut figures = (0, 0, 0);
    for seed in schedules(100) {
        let rate = [0.5, 30.0, 80.0, 250.0, 1_000.0][seed as usize % 5];
        let plan = Plan { length: Duration::from_secs(10), rates: vec![rate, rate / 2.0], ..any_plan(seed) };
        add(&mut figures, &keeps_its_promises(&plan));
    }
    println!("{} schedules, {} messages, {} take-overs", figures.0, figures.1, figures.2);
}

#[test]
fn a_line_with_work_uses_at_least_97_percent_of_its_rate() {
    for (seed, rate) in schedules(6).zip([0.5f64, 12.0, 80.0, 250.0, 500.0, 1_000.0]) {
        let length = Duration::from_secs(100).div_f64(rate.max(5.0)).max(Duration::from_secs(10)) * 2;
        let plan = Plan { length, ..Plan::calm(seed, Duration::from_secs(10), 2, &[rate]) };
        let watch = keeps_its_promises(&plan);
        let [(_, began)] = watch.owners[0][..] else { panic!("one owner, and not {:?}", watch.owners) };
        let allowed = (length.as_nanos() as f64 / 1e9 - began as f64 / 1e9) * rate;
        println!("{rate}/s: {} of {allowed}", watch.messages);
        assert!(watch.messages as f64 >= 0.97 * allowed.floor(), "{} of {allowed} at {rate}/s", watch.messages);
    }
}

#[test]
fn lines_of_a_killed_worker_resume_within_lease_plus_1_s() {
    let (mut longest, mut n) = (0.0f64, 0);
    for seed in schedules(60) {
        let mut rng = StdRng::seed_from_u64(seed);
        let lease = Duration::from_millis(rng.random_range(3_000..=10_000));
        let killed = lease + Duration::from_millis(rng.random_range(0..3_000));
        let plan = Plan { length: lease * 4, ..Plan::calm(seed, lease, 2, &[20.0; 4]) };
        let mut world = World::new(plan, false);
        world.at(killed.as_nanos() as u64, Event::Killed(0));
        let watch = world.run();
        for owners in &watch.owners {
            let Some((_, again)) = owners.iter().find(|(_, at)| *at > killed.as_nanos() as u64) else { continue };
            let waited = *again as f64 / 1e9 - killed.as_secs_f64() - lease.as_secs_f64();
            longest = longest.max(waited);
            n += 1;
            assert!(waited < 1.0, "PREGON_TEST_SEED={seed}: {waited} s after the lease of {lease:?} had ended");
        }
    }
    println!("{n} lines taken over, at most {longest:.3} s after the lease could have ended");
    assert!(n >= 60, "{n} lines were taken over");
}

#[test]
fn lines_are_shared_equally_once_faults_have_ended() {
    let mut figures = (0, 0, 0);
    for seed in schedules(200) {
        let mut plan = any_plan(seed);
        plan.rates.resize(1 + seed as usize % 7, 3.0);
        (plan.quiet_from, plan.length) = (plan.lease * 5, plan.lease * 15);
        add(&mut figures, &keeps_its_promises_in(&plan, World::run_to_equal_shares));
    }
    println!("{} schedules, {} messages, {} take-overs", figures.0, figures.1, figures.2);
}

#[test]
fn a_redis_that_loses_seconds_does_not_make_two_owners() {
    let mut figures = (0, 0, 0);
    for seed in schedules(500) {
        let mut plan = any_plan(seed);
        // If the clock were also set back, Redis could issue again an epoch that it had lost.
        plan.faults.retain(|fault| *fault != Fault::ClockBack);
        plan.faults.extend([Fault::RedisRestarts { forgets: Duration::from_secs(3) }; 3]);
        let require_claimed_messages = |mut world: World| {
            world.watch.valid_lease_is_overlap = false;
            world.run()
        };
        add(&mut figures, &keeps_its_promises_in(&plan, require_claimed_messages));
    }
    println!("{} schedules, {} messages, {} take-overs", figures.0, figures.1, figures.2);
}

/// Runs schedules in which Redis' clock jumps ahead by `step` leases, with or without other `trouble`. Returns the
/// number of schedules with overlapping owners, the messages sent during overlaps, and the longest overlap in
/// leases.
fn overlaps(n: u64, step: f64, trouble: bool) -> (u64, u64, f64) {
    let mut figures = (0, 0, 0.0f64);
    for seed in schedules(n) {
        let mut plan = any_plan(seed);
        if !trouble {
            plan.faults = vec![Fault::Start, Fault::Leave, Fault::NoWork];
            plan.trouble = 0;
        }
        plan.faults.extend([Fault::ClockForward(plan.lease.mul_f64(step)); 3]);
        let mut world = World::new(plan.clone(), false);
        world.watch.overlaps_are_measured = true;
        let watch = world.run();
        assert_eq!(watch.broken, None, "PREGON_TEST_SEED={seed}");
        let overlap = watch.overlaps.1.as_secs_f64() / plan.lease.as_secs_f64();
        figures = (figures.0 + u64::from(watch.overlaps.0 > 0), figures.1 + watch.overlaps.0, figures.2.max(overlap));
    }
    figures
}

#[test]
fn a_clock_jump_within_the_lease_margin_makes_no_overlap() {
    for trouble in [false, true] {
        assert_eq!(overlaps(150, 0.19, trouble).0, 0, "trouble: {trouble}");
    }
}

#[test]
fn a_larger_clock_jump_overlaps_until_the_next_renewal() {
    let (schedules, messages, longest) = overlaps(200, 10.0, false);
    println!("{schedules} schedules with {messages} messages of two owners, for up to {longest:.2} leases");
    assert!(longest < 0.25, "{longest} of a lease without trouble");
    let (schedules, messages, longest) = overlaps(200, 10.0, true);
    println!("with trouble {schedules} schedules with {messages} messages, for up to {longest:.2} leases");
    assert!(longest < 1.0, "{longest} of a lease");
}
