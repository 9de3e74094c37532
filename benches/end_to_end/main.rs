//! End to end: the release program and other targets take turns on this machine's loopback. Each request is used once
//! and each answer compared. Every mode prints one table and fails if an answer was wrong.
//!
//! `cargo bench --bench end_to_end` measures time: throughput as a ratio to a bare hyper pass-through, processor time
//! per request, and latency at a fixed rate, from the moment a request was due. Options behind `--`:
//!
//! - `--http2`: callers speak HTTP/2 over TLS to every target, with `--streams` requests in flight on a connection; GatePay
//!   stays plain unless `--tls` is there, too. nginx is among the targets;
//! - `--tls`: TLS on both sides of every target, with nginx among the targets (`--nginx` adds nginx without TLS);
//! - `--rounds`, `--seconds`, `--connections`, `--idle`, `--rate`, `--tenants` and a number;
//! - `count`: instructions and allocations per request, by callgrind, and so the same on a busy machine;
//!   `benches/budget.sh` compares them with a budget;
//! - `calls`: system calls per hundred requests, by strace, for the same budget;
//! - `scale`: the same counts with 1 to 100,000 tenants and 1 to 5,000 connections; time with one worker and with two;
//! - `turns NAME=BINARY …`: processor time per request of several builds of the proxy, in slices by turns and compared
//!   slice by slice with the first; with `--slices`, `--requests` and a number;
//! - `--handshakes`: TLS handshakes, full and resumed, each with a connection of its own, beside nginx;
//! - `memory`: resident memory after a run, and its bound;
//! - `train`: loads a build that counts how often its code runs in every way above, and with payouts and the features that are off by default,
//!   for `config/build.sh`. Nothing is measured.
//!
//! `GATEPAY_PROXY` names a binary other than the one built with this benchmark.

#![expect(
    clippy::print_stdout,
    clippy::panic,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for a terminal, which may not go on without what it asks for"
)]

#[path = "../support/binary.rs"]
#[expect(
    dead_code,
    reason = "it is started beside other programs here, and in their way"
)]
mod binary;
#[path = "../support/ending.rs"]
mod ending;
mod handshakes;
mod http2;
mod load;
mod pass;
mod requests;
mod system_calls;
mod target;
mod training;
mod turns;
mod wire;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use gatepay_proxy::callers::open_files;
use gatepay_proxy::memory_bound;
use load::{Callers, Load, Plan, Seen};
use requests::{Call, Requests, Version};
use target::{Certificate, Kind, Setup, Target};

/// The proxy's allocator, for the pass-through as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// More requests than any target answers in a second.
const FASTEST: usize = 90_000;
/// The number of requests over which instructions are counted.
const COUNTED: usize = 4_000;

/// The command-line options.
#[derive(Clone)]
struct Options {
    numbers: HashMap<&'static str, usize>,
    tls: bool,
    http2: bool,
    nginx: bool,
    /// The operation called. For payouts the proxy has the features that are off by default: journal, store, caps, notifications.
    call: Call,
    mode: String,
    /// Name and path of each build that takes turns.
    builds: Vec<(String, PathBuf)>,
}

impl Options {
    fn read(arguments: &[String]) -> Self {
        let names = [
            ("--rounds", 5),
            ("--seconds", 4),
            ("--connections", 64),
            ("--idle", 0),
            ("--streams", 1),
            ("--rate", 2_000),
            ("--tenants", 1_000),
            ("--slices", 60),
            ("--requests", 4_000),
        ];
        let mut options = Self {
            numbers: names.into(),
            tls: false,
            http2: false,
            nginx: false,
            call: Call::Query,
            mode: "time".to_owned(),
            builds: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo adds this argument.
                "--bench" => {}
                "--tls" => options.tls = true,
                "--http2" => options.http2 = true,
                "--nginx" => options.nginx = true,
                "--handshakes" => "handshakes".clone_into(&mut options.mode),
                "time" | "count" | "calls" | "scale" | "memory" | "train" | "turns" => {
                    options.mode.clone_from(word);
                }
                build if build.contains('=') => {
                    let (name, path) = build.split_once('=').unwrap();
                    let path = std::fs::canonicalize(path).unwrap();
                    options.builds.push((name.to_owned(), path));
                }
                name => {
                    let number = options.numbers.get_mut(name);
                    let number = number.unwrap_or_else(|| panic!("what is {name}?"));
                    *number = words.next().unwrap().parse().unwrap();
                }
            }
        }
        assert!(options.http2 || options.of("--streams") == 1);
        options
    }

    fn of(&self, name: &str) -> usize {
        self.numbers[name]
    }

    fn with(&self, name: &'static str, number: usize) -> Self {
        let mut other = self.clone();
        other.numbers.insert(name, number);
        other
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("pass", rest)) = arguments
        .split_first()
        .map(|(first, rest)| (&**first, rest))
    {
        pass::run(rest);
        return ExitCode::SUCCESS;
    }
    let options = Options::read(&arguments);
    let _room = open_files::room_for_connections();
    if cores() > 1 {
        // The load has a core to itself, so that it takes no time from the target.
        let id = std::process::id().to_string();
        let pin = Command::new("taskset").args(["-pc", "1", &id]).output();
        assert!(pin.unwrap().status.success());
    }
    let wrong = match options.mode.as_str() {
        "count" => count(&options),
        "calls" => system_calls::run(&options),
        "scale" => scale(&options),
        "memory" => memory(&options),
        "train" => training::run(&options),
        "turns" => turns::run(&options),
        "handshakes" => handshakes::run(&options),
        _ => time(&options),
    };
    if wrong == 0 {
        return ExitCode::SUCCESS;
    }
    println!("{wrong} answers were wrong");
    ExitCode::FAILURE
}

/// A target between the two ends of a load. Its connections are open, and each was used once.
struct Bench {
    target: Target,
    /// The certificate's files, which the target reads again at a reload.
    certificate: Option<Certificate>,
    load: Load,
    tenants: usize,
    signs: bool,
    version: Version,
    call: Call,
    in_flight: usize,
    wrong: usize,
}

impl Bench {
    fn start(kind: Kind, options: &Options, workers: usize, counted: bool) -> Self {
        Self::start_build(kind, options, workers, counted, None)
    }

    /// Like `start`, with this build of the proxy.
    fn start_build(
        kind: Kind,
        options: &Options,
        workers: usize,
        counted: bool,
        program: Option<&Path>,
    ) -> Self {
        // One thread drives both ends, so it cannot wait for its own TLS handshake: a direct connection stays plain.
        let (tls, http2) = match kind {
            Kind::Direct => (false, false),
            _ => (options.tls, options.http2),
        };
        let certificate = (tls || http2).then(Certificate::new);
        let gatepay_tls = certificate.as_ref().filter(|_| tls);
        let load = Load::new(gatepay_tls);
        let setup = Setup {
            gatepay: load.gatepay(),
            tls: certificate.as_ref(),
            gatepay_tls,
            tenants: options.of("--tenants"),
            everything: options.call == Call::Payout,
            workers,
            core: (workers == 1 && cores() > 1).then_some(0),
            counted,
            program,
        };
        let target = Target::start(kind, setup);
        let (busy, idle) = (options.of("--connections"), options.of("--idle"));
        let streams = options.of("--streams");
        let callers = match &certificate {
            None => Callers::Plain,
            Some(of) if http2 => Callers::Http2(&of.chain, streams),
            Some(of) => Callers::Tls(&of.chain),
        };
        let mut bench = Self {
            target,
            certificate: None,
            load,
            tenants: setup.tenants,
            signs: kind == Kind::Proxy,
            version: if http2 {
                Version::Http2
            } else {
                Version::Http1
            },
            call: options.call,
            in_flight: busy.min(64) * streams,
            wrong: 0,
        };
        // Connections open in small groups and are used at once. The accept backlog is limited, and the proxy closes a
        // connection that never sends a request.
        let mut left = busy + idle;
        while left > 0 {
            let some = left.min(64);
            bench.load.connect(bench.target.address, some, callers);
            bench.run(some * streams, None, Duration::from_mins(5));
            left -= some;
        }
        bench.load.rest(busy);
        // From here on the full number may be in flight at the same time.
        bench.in_flight = if counted { busy.min(64) } else { busy } * streams;
        bench.run(2_000, None, Duration::from_mins(1));
        bench.certificate = certificate;
        bench
    }

    fn run(&mut self, count: usize, rate: Option<u32>, time: Duration) -> Seen {
        let requests = Requests::sign(count, self.tenants, self.signs, (self.version, self.call));
        let plan = Plan {
            in_flight: self.in_flight,
            rate,
            time,
        };
        let seen = self.load.run(&requests, plan);
        self.wrong += seen.wrong;
        seen
    }
}

/// One round of one target.
struct Round {
    per_second: f64,
    /// Processor time per request, in microseconds.
    micros: f64,
    /// The used share of a core. Below 1 the load was slower than the target.
    busy: f64,
    /// The 50th, 99th and 99.9th percentile, in microseconds.
    latencies: [f64; 3],
}

fn round(kind: Kind, options: &Options, workers: usize) -> (Round, usize) {
    let mut bench = Bench::start(kind, options, workers, false);
    let seconds = options.of("--seconds");
    let time = Duration::from_secs(seconds as u64);
    bench.run(FASTEST / 2, None, Duration::from_secs(1));
    let before = bench.target.used();
    let fast = bench.run(FASTEST * seconds, None, time);
    let used = bench.target.used().as_secs_f64() - before.as_secs_f64();
    let rate = options.of("--rate");
    let steady = bench.run(rate * seconds, u32::try_from(rate).ok(), time);
    let at = |permille: usize| {
        let all = &steady.latencies;
        all.get(all.len() * permille / 1_000)
            .map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
    };
    let elapsed = fast.elapsed.as_secs_f64();
    let round = Round {
        per_second: fast.good as f64 / elapsed,
        micros: used * 1e6 / fast.good as f64,
        busy: used / elapsed,
        latencies: [500, 990, 999].map(at),
    };
    (round, bench.wrong)
}

/// Throughput, processor time and latency of all targets, in turn.
fn time(options: &Options) -> usize {
    let mut kinds = vec![Kind::Direct, Kind::Pass, Kind::Proxy];
    if options.tls || options.http2 || options.nginx {
        kinds.insert(2, Kind::Nginx);
    }
    if options.http2 {
        // Both ends of the load speak HTTP/1.1 to each other.
        kinds.remove(0);
    }
    let mut rounds: Vec<(Vec<Round>, usize)> = kinds.iter().map(|_| (Vec::new(), 0)).collect();
    for _ in 0..options.of("--rounds") {
        for (kind, (rounds, wrong)) in kinds.iter().zip(&mut rounds) {
            let (round, bad) = round(*kind, options, 1);
            rounds.push(round);
            *wrong += bad;
        }
    }
    let median = |kind: Kind, of: &dyn Fn(&Round) -> f64| {
        let at = kinds.iter().position(|other| *other == kind).unwrap();
        middle(rounds[at].0.iter().map(of).collect())
    };
    let names = [
        "rounds",
        "seconds",
        "connections",
        "idle",
        "streams",
        "rate",
        "tenants",
    ];
    let said = names.map(|name| format!("{} {name}", options.of(&format!("--{name}"))));
    let tls = match (options.http2, options.tls) {
        (false, false) => "plain",
        (false, true) => "TLS 1.3 on both sides",
        (true, false) => "HTTP/2 over TLS 1.3 from callers, plain HTTP/1.1 to GatePay",
        (true, true) => "HTTP/2 from callers, HTTP/1.1 to GatePay, TLS 1.3 on both sides",
    };
    println!("{}, {tls}; medians\n", said.join(", "));
    println!(
        "| target | requests/s | to pass | to nginx | CPU µs | core | p50 µs | p99 µs | p99.9 µs | wrong |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (kind, (_, wrong)) in kinds.iter().zip(&rounds) {
        let per_second = median(*kind, &|round| round.per_second);
        let to = |other| {
            let other = kinds
                .contains(&other)
                .then(|| median(other, &|round| round.per_second));
            other.map_or("-".to_owned(), |other| format!("{:.2}", per_second / other))
        };
        let [p50, p99, p999] =
            [0, 1, 2].map(|at| median(*kind, &|round: &Round| round.latencies[at]));
        println!(
            "| {kind:?} | {per_second:.0} | {} | {} | {:.1} | {:.0} % | {p50:.0} | {p99:.0} | {p999:.0} | {wrong} |",
            to(Kind::Pass),
            to(Kind::Nginx),
            median(*kind, &|round| round.micros),
            median(*kind, &|round| round.busy) * 100.0,
        );
    }
    rounds.iter().map(|(_, wrong)| wrong).sum()
}

/// Instructions and allocations per request.
struct Counted {
    instructions: f64,
    allocations: f64,
    wrong: usize,
}

fn counted(options: &Options, workers: usize) -> Counted {
    let mut bench = Bench::start(Kind::Proxy, options, workers, true);
    bench.target.settle();
    bench.target.count(true);
    let good = bench.run(COUNTED, None, Duration::from_mins(10)).good;
    // The access-line writer wakes every few milliseconds: wait until it has written its lines.
    thread::sleep(Duration::from_millis(500));
    bench.target.count(false);
    let text = bench.target.counted();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.unwrap().trim().parse().unwrap();
    Counted {
        instructions: total as f64 / good as f64,
        allocations: allocations(&text) as f64 / good as f64,
        wrong: bench.wrong,
    }
}

/// The number of calls into the allocator from outside the allocator.
fn allocations(callgrind: &str) -> u64 {
    const WAYS_IN: [&str; 6] = [
        "mi_malloc",
        "mi_malloc_aligned",
        "mi_zalloc",
        "mi_zalloc_aligned",
        "mi_realloc",
        "mi_realloc_aligned",
    ];
    // Callgrind writes a name behind its number once, and then the number alone.
    let mut names = HashMap::new();
    let mut name = |text: &str| {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        if !name.is_empty() {
            names.insert(number.to_owned(), name.to_owned());
        }
        names.get(number).cloned().unwrap_or_default()
    };
    let (mut caller, mut callee, mut calls) = (String::new(), String::new(), 0);
    for line in callgrind.lines() {
        if let Some(text) = line.strip_prefix("fn=") {
            caller = name(text);
        } else if let Some(text) = line.strip_prefix("cfn=") {
            callee = name(text);
        } else if let Some(text) = line.strip_prefix("calls=")
            && WAYS_IN.contains(&&*callee)
            && !caller.trim_start_matches('_').starts_with("mi_")
        {
            let number = text.split(' ').next().unwrap();
            calls += number.parse::<u64>().unwrap();
        }
    }
    calls
}

/// The counts that are compared with the budgets.
fn count(options: &Options) -> usize {
    let counted = counted(options, 1);
    println!("instructions per request: {:.0}", counted.instructions);
    println!("allocations per request: {:.1}", counted.allocations);
    counted.wrong
}

/// How the cost of a request depends on the number of tenants, connections and workers.
fn scale(options: &Options) -> usize {
    let mut wrong = 0;
    println!("| tenants | connections | workers | instructions | allocations | wrong |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    let sizes = [(1, 64, 1), (1_000, 64, 1), (100_000, 64, 1), (1_000, 1, 1)];
    let more = [(1_000, 500, 1), (1_000, 5_000, 1), (1_000, 64, 2)];
    for (tenants, connections, workers) in sizes.into_iter().chain(more) {
        let options = options.with("--tenants", tenants);
        let counted = counted(&options.with("--connections", connections), workers);
        println!(
            "| {tenants} | {connections} | {workers} | {:.0} | {:.1} | {} |",
            counted.instructions, counted.allocations, counted.wrong
        );
        wrong += counted.wrong;
    }
    println!("\n| workers | requests/s | CPU µs | wrong |");
    println!("| ---: | ---: | ---: | ---: |");
    for workers in [1, 2] {
        let rounds = (0..options.of("--rounds")).map(|_| round(Kind::Proxy, options, workers));
        let (rounds, bad): (Vec<_>, Vec<_>) = rounds.unzip();
        let bad: usize = bad.into_iter().sum();
        println!(
            "| {workers} | {:.0} | {:.1} | {bad} |",
            middle(rounds.iter().map(|round| round.per_second).collect()),
            middle(rounds.iter().map(|round| round.micros).collect()),
        );
        wrong += bad;
    }
    wrong
}

/// Resident memory after a run, and its bound.
fn memory(options: &Options) -> usize {
    let mut bench = Bench::start(Kind::Proxy, options, 1, false);
    let before = bench.target.resident();
    let seconds = options.of("--seconds");
    let time = Duration::from_secs(seconds as u64);
    bench.run(FASTEST * seconds, None, time);
    // Time to write the waiting access lines, and for freed memory to return to the system.
    thread::sleep(Duration::from_secs(3));
    let after = bench.target.resident();
    let metrics = bench.target.metrics();
    let series = metrics
        .lines()
        .filter(|line| line.starts_with("gatepay_proxy"))
        .count();
    let nonces = metrics.lines().find_map(|line| {
        line.strip_prefix("gatepay_proxy_replay_entries ")?
            .parse::<f64>()
            .ok()
    });
    let nonces = nonces.unwrap();
    let mib = f64::from(1 << 20);
    let stamps = nonces * memory_bound::STAMP as f64;
    let may = (stamps + (memory_bound::USUAL + series * memory_bound::SERIES) as f64) / mib;
    let check = bench.target.check();
    for line in check.lines().filter(|line| line.contains("MiB")) {
        println!("check: {line}");
    }
    println!("resident before the run: {:.1} MiB", before as f64 / mib);
    println!("resident after the run: {:.1} MiB", after as f64 / mib);
    println!("{nonces} nonces, {series} series: it may be {may:.1} MiB");
    assert!(after as f64 / mib <= may, "more is resident than may be");
    bench.wrong
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn cores() -> usize {
    // Count the machine's cores, because this thread itself may be pinned to one core.
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let all = all.lines().filter(|line| line.starts_with("processor"));
    all.count()
}
