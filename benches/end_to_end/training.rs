//! Training: loads a build of the proxy that counts what of it runs, and ends it in order, upon which it writes its counts.
//!
//! What no way below runs is laid out as code that hardly ever runs. So there is one for each kind of caller, and one with what is
//! off by default.

use std::time::Duration;

use crate::requests::Call;
use crate::target::Kind;
use crate::{Bench, Options};

/// How many requests are sent in each way: a hundred times what makes the counts differ by less than a hundredth.
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
