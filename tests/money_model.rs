//! A model of money: under any order of calls, crashes, clock steps, restored folders and faults of GatePay, the stated
//! outcome of a call is true, and no call is executed twice.
//!
//! A scenario is a few random steps; a real proxy runs these steps before a sandbox whose books record every execution.
//! A scenario that breaks a promise is shrunk, and printed with its seed.

mod control;
mod found;
mod history;
mod mishap;
mod processes;
mod run;
mod scenario;
mod tally;
mod world;

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::say;
use gatepay_proxy::process::clock;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use scenario::{Scenario, scenarios};
use tally::Tally;
use world::World;

/// Set to a printed seed, this variable repeats the scenarios of that thread.
const SEED: &str = "MONEY_MODEL_SEED";
/// Most of a scenario's time is waiting, so there are more threads than cores.
const THREADS: u32 = 16;

/// Events that must occur; a run without them proves nothing.
const WANTED: &[(&str, &[&str])] = &[
    (
        "outcome",
        &[
            "executed",
            "no answer",
            "not-executed",
            "refused",
            "unknown",
        ],
    ),
    (
        "refusal",
        &[
            "outcome_unknown",
            "rate_limited",
            "replayed",
            "stale_timestamp",
            "starting",
        ],
    ),
    ("end", &["Crash", "CutShort", "Drain", "Overlap"]),
    (
        "state",
        &[
            "Away", "Copied", "Emptied", "Fresh", "Moved", "Restored", "Stays",
        ],
    ),
];

/// Events too rare for a short run.
const RARE: &[(&str, &[&str])] = &[
    ("outcome", &["found"]),
    ("refusal", &["journal_unavailable", "upstream_unreachable"]),
];

#[test]
fn every_answer_about_money_is_true_in_random_scenarios() {
    let tally = hold(500);
    tally.is_not_vacuous(WANTED);
    println!("{tally}");
}

#[test]
#[ignore = "takes minutes: ten thousand scenarios"]
fn every_answer_about_money_is_true_in_ten_thousand_scenarios() {
    let tally = hold(10_000);
    tally.is_not_vacuous(WANTED);
    tally.is_not_vacuous(RARE);
    say(tally);
}

/// Runs this many scenarios, and fails with the first that breaks a promise, shrunk.
fn hold(scenarios: u32) -> Tally {
    let tally = Mutex::new(Tally::default());
    let failed = AtomicBool::new(false);
    let given = std::env::var(SEED).ok().map(|seed| {
        let bytes = hex::decode(seed).expect("hexadecimal digits");
        <[u8; 32]>::try_from(bytes).expect("64 digits")
    });
    let seeds = given.map_or_else(
        || (0..THREADS).map(|_| clock::random()).collect(),
        |seed| vec![seed],
    );
    let each = scenarios.div_ceil(THREADS);
    let found: Vec<_> = thread::scope(|scope| {
        let (told, stop) = (&tally, &failed);
        let start = |seed| scope.spawn(move || hold_on_a_thread(each, seed, told, stop));
        let threads: Vec<_> = seeds.into_iter().map(start).collect();
        let found = threads.into_iter().map(thread::ScopedJoinHandle::join);
        found
            .filter_map(|found| found.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    tally.into_inner().expect("no thread panicked")
}

/// The broken promise of this thread, if any. The thread stops when another thread has found a broken promise.
fn hold_on_a_thread(
    cases: u32,
    seed: [u8; 32],
    tally: &Mutex<Tally>,
    failed: &AtomicBool,
) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let world = runtime.block_on(World::new());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 3_000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let own = Cell::new(false);
    let law = |scenario: Scenario| {
        if failed.load(Ordering::Relaxed) && !own.get() {
            return Ok(());
        }
        let report = runtime.block_on(run::run(&world, &scenario));
        let mut tally = tally.lock().expect("no thread panicked");
        tally.add("all", "scenarios");
        tally.merge(report.tally);
        if report.violations.is_empty() {
            return Ok(());
        }
        own.set(true);
        failed.store(true, Ordering::Relaxed);
        let broken: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
        let told = format!("{}\n{}", broken.join("\n"), report.story);
        Err(TestCaseError::fail(told))
    };
    match runner.run(&scenarios(), law) {
        Ok(()) => None,
        Err(TestError::Fail(why, scenario)) => Some(format!(
            "{why}in\n{scenario:?}{SEED}={} repeats it",
            hex::encode(seed)
        )),
        Err(TestError::Abort(why)) => Some(why.to_string()),
    }
}
