//! Laws about a running program.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::Builder;

/// Tries a law for this many cases, one after the other.
pub(crate) fn holds<S: Strategy>(
    cases: u32,
    given: &S,
    law: impl AsyncFn(S::Value) -> Result<(), TestCaseError>,
) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(given, |value| runtime.block_on(law(value)))
        .unwrap_or_else(|error| panic!("{error}"));
}
