//! Training: loads a build of the proxy that counts how often its code runs, and ends it in order: then it writes its counts.
//!
//! Code that no run below reaches is laid out as rarely used. So there is a run for each kind of caller, and one with the features that
//! are off by default.

use std::time::Duration;

use crate::requests::Call;
use crate::target::Kind;
use crate::{Bench, Options};

/// The number of requests in each run.
const REQUESTS: usize = 20_000;

/// Returns the number of wrong answers.
pub(crate) fn run(options: &Options) -> usize {
    let plain = options.clone();
    let ways = [
        Options {
            tls: true,
            ..plain.clone()
        },
        Options {
            http2: true,
            ..plain.with("--streams", 8)
        },
        Options {
            call: Call::Payout,
            ..plain.clone()
        },
        plain,
    ];
    let wrong = ways.iter().map(|way| {
        let mut bench = Bench::start(Kind::Proxy, way, 1, false);
        bench.run(REQUESTS, None, Duration::from_mins(5));
        bench.target.reload();
        bench.target.metrics();
        bench.target.end();
        bench.wrong
    });
    wrong.sum()
}
