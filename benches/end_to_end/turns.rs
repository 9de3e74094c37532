//! Turns: several builds of the proxy run at the same time, and each in turn is given a slice of requests. A slice is
//! compared with the first build's slice of the same round, so that what slows the machine down for seconds slows both.

use std::time::Duration;

use crate::target::Kind;
use crate::{Bench, Options, middle};

/// Measures the builds; returns the number of wrong answers.
pub(crate) fn run(options: &Options) -> usize {
    let (slices, requests) = (options.of("--slices"), options.of("--requests"));
    let mut benches: Vec<Bench> = options
        .builds
        .iter()
        .map(|(_, path)| Bench::start_build(Kind::Proxy, options, 1, false, Some(path)))
        .collect();
    assert!(!benches.is_empty(), "name builds: turns NAME=BINARY …");
    let mut micros: Vec<Vec<f64>> = vec![Vec::with_capacity(slices); benches.len()];
    for round in 0..slices {
        for turn in 0..benches.len() {
            // Another build is the first of every round.
            let at = (round + turn) % benches.len();
            let bench = &mut benches[at];
            let before = bench.target.used();
            let good = bench.run(requests, None, Duration::from_mins(5)).good;
            let used = bench.target.used().saturating_sub(before);
            micros[at].push(used.as_secs_f64() * 1e6 / good as f64);
        }
    }
    let connections = options.of("--connections");
    println!("{slices} slices of {requests} requests, {connections} connections; medians\n");
    println!("| build | CPU µs | to the first | middle half | wrong |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (((name, _), bench), of) in options.builds.iter().zip(&benches).zip(&micros) {
        let mut ratios: Vec<f64> = of.iter().zip(&micros[0]).map(|(of, to)| of / to).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |quarter: usize| ratios[(ratios.len() - 1) * quarter / 4];
        println!(
            "| {name} | {:.2} | {:.3} | {:.3} to {:.3} | {} |",
            middle(of.clone()),
            at(2),
            at(1),
            at(3),
            bench.wrong
        );
    }
    benches.iter().map(|bench| bench.wrong).sum()
}
