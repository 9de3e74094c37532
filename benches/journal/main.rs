//! Journal: the cost of recording money calls before they are sent, with the real binary on a real disk.
//!
//! `cargo bench -p gatepay-proxy --bench journal` takes two minutes. Two proxies that differ in `[audit]` alone take
//! turns under the same load: refunds, each new and signed by its tenant, from 64 connections and then from 512. Around
//! every round with the journal an `fdatasync` in the journal's folder is timed. The printed figures are medians over
//! the rounds.
//!
//! It fails if a call fails, if GatePay received another number of calls than were answered, if the journal does not
//! verify or holds another number of calls, or if calls do not share syncs.
//!
//! `JOURNAL_DIR` is the parent folder of the journal (default: beside the build), `JOURNAL_SECONDS` the length of a
//! round. `GATEPAY_PROXY` names another binary.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may not go on without what it asks for"
)]

#[path = "../support/binary.rs"]
mod binary;
mod callers;
mod disk;
#[path = "../support/ending.rs"]
mod ending;
mod http;
mod program;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use callers::Callers;
use program::Program;
use upstream::Upstream;

const CONNECTIONS: [usize; 2] = [64, 512];
const ROUNDS: usize = 5;
/// The least calls per sync that count as group commit.
const SHARED: f64 = 4.0;

fn main() {
    let seconds = std::env::var("JOURNAL_SECONDS").map_or(5.0, |text| text.parse().unwrap());
    let round = Duration::from_secs_f64(seconds);
    let beside: PathBuf = std::env::var_os("JOURNAL_DIR").map_or_else(
        || env!("CARGO_TARGET_TMPDIR").into(),
        |folder| PathBuf::from(&folder),
    );
    std::fs::create_dir_all(&beside).unwrap();
    let folder = tempfile::tempdir_in(&beside).unwrap();
    println!("journal on {}", disk::describe(&beside));
    println!("{ROUNDS} rounds of {round:?} each, medians; two proxies of one binary take turns\n");

    let upstream = Upstream::start();
    let without = Program::serve(&folder.path().join("without"), upstream.address, false);
    let with = Program::serve(&folder.path().join("with"), upstream.address, true);
    let journal = folder.path().join("with/audit");
    println!(
        "{:>11}  {:<7} {:>10} {:>8} {:>8} {:>11} {:>10} {:>10} {:>13} {:>7}",
        "connections",
        "journal",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU us/call",
        "calls/sync",
        "sync ms",
        "fdatasync ms",
        "failed"
    );
    let mut wrong = Vec::new();
    let (mut answered, mut written) = (0, 0);
    for connections in CONNECTIONS {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for number in 0..ROUNDS {
            // The order alternates, so that neither proxy always has the warmer machine.
            for journaled in [number % 2 == 0, number % 2 == 1] {
                let (proxy, seen) = if journaled {
                    (&with, &mut on)
                } else {
                    (&without, &mut off)
                };
                seen.push(Round::run(proxy, connections, round, &journal));
            }
        }
        let calls = |rounds: &[Round]| rounds.iter().map(|round| round.answered).sum::<usize>();
        answered += calls(&off) + calls(&on);
        written += calls(&on);
        for (name, rounds) in [("without", &off), ("with", &on)] {
            print(connections, name, rounds);
            wrong.extend(rounds.iter().flat_map(|round| round.failed.clone()));
        }
        let per_second = |rounds: &[Round]| median(rounds, |round| round.per_second);
        println!(
            "{:>11}  with / without: {:.2}\n",
            "",
            per_second(&on) / per_second(&off)
        );
        let shared = median(&on, |round| round.shared);
        if shared < SHARED {
            wrong.push(format!(
                "{connections} connections: {shared:.1} calls share a sync, fewer than {SHARED}"
            ));
        }
    }
    without.end();
    with.end();
    if upstream.calls() != answered {
        let calls = upstream.calls();
        wrong.push(format!(
            "GatePay was sent {calls} calls, of {answered} that were answered"
        ));
    }
    match program::verify(&folder.path().join("with")) {
        Ok(report) if report.contains(&format!(", {written} calls, 0 of them without")) => {
            println!("audit verify: {}", report.trim().replace('\n', "; "));
        }
        Ok(report) => wrong.push(format!("the journal has not all {written} calls: {report}")),
        Err(report) => wrong.push(report),
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    println!("{answered} calls, each answered, sent once and, with the journal, written down once");
}

/// The measurements of one proxy in one round.
struct Round {
    answered: usize,
    failed: Vec<String>,
    per_second: f64,
    p50: f64,
    p99: f64,
    /// The proxy's processor time per call, in microseconds.
    cpu: f64,
    /// Calls per sync.
    shared: f64,
    /// The program's average wait for a sync, in milliseconds.
    sync: f64,
    /// The time of an `fdatasync` on the otherwise idle disk, before and after, in milliseconds.
    fdatasync: f64,
}

impl Round {
    fn run(
        proxy: &Program,
        connections: usize,
        length: Duration,
        journal: &std::path::Path,
    ) -> Self {
        let journaled = proxy.journaled;
        let mut probes = Vec::new();
        if journaled {
            probes.extend(disk::syncs(journal));
        }
        let before = proxy.counts();
        let (mut took, failed, elapsed) = Callers::run(proxy.address, connections, length);
        let after = proxy.counts();
        if journaled {
            probes.extend(disk::syncs(journal));
        }
        took.sort_by(f64::total_cmp);
        probes.sort_by(f64::total_cmp);
        let at = |sorted: &[f64], part: usize| sorted.get(sorted.len() * part / 100).copied();
        let calls = number(took.len());
        let syncs = after.syncs - before.syncs;
        Self {
            answered: took.len(),
            failed,
            per_second: calls / elapsed.as_secs_f64(),
            p50: at(&took, 50).unwrap_or_default(),
            p99: at(&took, 99).unwrap_or_default(),
            cpu: (after.cpu - before.cpu) * 1e6 / calls,
            shared: calls / syncs,
            sync: (after.sync_seconds - before.sync_seconds) * 1e3 / syncs,
            fdatasync: at(&probes, 50).unwrap_or_default(),
        }
    }
}

fn print(connections: usize, name: &str, rounds: &[Round]) {
    let median = |of: fn(&Round) -> f64| median(rounds, of);
    let failed: usize = rounds.iter().map(|round| round.failed.len()).sum();
    print!(
        "{connections:>11}  {name:<7} {:>10.0} {:>8.2} {:>8.2} {:>11.1} ",
        median(|round| round.per_second),
        median(|round| round.p50),
        median(|round| round.p99),
        median(|round| round.cpu),
    );
    if name == "with" {
        print!(
            "{:>10.1} {:>10.2} {:>13.2} ",
            median(|round| round.shared),
            median(|round| round.sync),
            median(|round| round.fdatasync),
        );
    } else {
        print!("{:>10} {:>10} {:>13} ", "-", "-", "-");
    }
    println!("{failed:>7}");
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "counts to divide")]
fn number(count: usize) -> f64 {
    count as f64
}
