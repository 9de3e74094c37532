//! Exhaustion: an honest tenant beside attackers, before the real binary, with a verdict.
//!
//! `benches/exhaustion/run.sh` is the one command: it installs what is missing and runs the release binary. An honest
//! tenant calls 200 times a second on a fixed schedule; a call's latency counts from when it was due, so that a stall
//! shows in every call it delays. Each phase is an attack between two quiet times. The run fails if one call ever
//! failed, if the median during an attack is more than twice that of the quiet around it, if the process ever held more
//! memory than `check` says, or if the attack did not take place. Where the run may make a control group, the kernel ends the
//! proxy if it needs more than the `memory limit` that `check` prints for its pod or unit.
//!
//! The run measures the proxy and not the scheduler. The proxy has one processor to itself, so that honest calls and
//! attacks meet in its only worker: with more workers it would do better. Tenant, emulator and attackers have the other
//! processors. Attackers run there only when no other process wants to (`SCHED_IDLE`), as if they were on another
//! machine. They have a thousand connections from one address, more than a default configuration allows, and together
//! an uplink of 100 Mbit/s.
//!
//! `EXHAUSTION_SECONDS` is the length of an attack, 10 by default; a quiet time is half as long. `EXHAUSTION_ONLY` is a
//! part of the name of the phases to run. `GATEPAY_PROXY` names another binary.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program for a terminal, which may not go on without what it asks for"
)]

#[path = "../../tests/support/abuse.rs"]
mod abuse;
mod attackers;
#[path = "../support/binary.rs"]
mod binary;
#[path = "../support/honest.rs"]
mod honest;
mod machine;
mod memory_limit;
#[path = "../support/signed.rs"]
mod signed;

use std::env;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use abuse::ATTACKS;
use attackers::SLOW;
use binary::Running;
use honest::{Calls, Honest, Plan};
use machine::Processors;
use memory_limit::MemoryLimit;
use signed::Signer;

const QUERY: &str = "/v1/pay/order/query";
const BODY: &[u8] = br#"{"merchantTradeNo":"tea-0001"}"#;
const JSON: &str = "application/json";
/// The honest tenant's address; slowhttptest calls from 127.0.0.1.
const HONEST: &str = "127.0.0.9";
const ABUSER: &str = "127.0.0.8";
/// The number of an attack's connections.
const CONNECTIONS: usize = 1_000;
/// How many connections have to be open at the same time, if the proxy does not close them at once.
const HELD: usize = 900;
/// The most open descriptors after an attack has been cleaned up, and the time limit of the cleanup.
const SETTLED: usize = 100;
const SETTLES: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, told @ ..] = arguments.as_slice()
        && first == "abuse"
    {
        println!("{}", attackers::abuse_as_told(told));
        return ExitCode::SUCCESS;
    }
    let seconds = env::var("EXHAUSTION_SECONDS").map_or(10, |text| text.parse().unwrap());
    let only = env::var("EXHAUSTION_ONLY").unwrap_or_default();
    let processors = Processors::shared_out();
    let folder = tempfile::tempdir().unwrap();
    let gatepay = machine::free_address();
    machine::configure(folder.path(), gatepay);
    let (bound, limit) = machine::bound_and_limit(folder.path());
    let limit = MemoryLimit::of(limit);
    if let Err(fault) = &limit {
        println!(
            "SKIPPED: without the kernel's own limit, which takes root and control groups ({fault})"
        );
    }
    let limit = limit.ok();
    let _gatepay = machine::sandbox(folder.path(), gatepay);
    let (proxy, address) = machine::serve(folder.path(), &processors, limit.as_ref());
    println!("{}; attacks of {seconds} s", processors.say());
    println!(
        "\n{:<28} {:>6} {:>6} {:>18} {:>18} {:>6} {:>6} {:>8} {:>7}",
        "", "", "", "median ms", "p99 ms", "", "CPU %", "RSS MiB", ""
    );
    println!(
        "{:<28} {:>6} {:>6} {:>8} {:>9} {:>8} {:>9} {:>6} {:>6} {:>8} {:>7}  what became of the attack",
        "phase",
        "calls",
        "failed",
        "quiet",
        "during",
        "quiet",
        "during",
        "ratio",
        "during",
        "most",
        "sockets"
    );
    let acme = Signer::new("client-acme", "fake-acme-secret");
    let mut trial = Trial {
        honest: Honest::calling(Plan {
            address,
            from: HONEST,
            every: Duration::from_millis(5),
            // GatePay does not know this order, so any answer body is accepted.
            expects: "",
            request: Box::new(move |_| acme.post(QUERY, JSON, BODY)),
        }),
        before: None,
        proxy,
        bound,
        time: Duration::from_secs(seconds),
        faults: Vec::new(),
    };
    let mut phase = |name: &str, held: bool, attack: &dyn Fn(Duration) -> String| {
        if name.contains(&only) {
            trial.phase(name, held, attack);
        }
    };
    phase("nothing", false, &|time| {
        thread::sleep(time);
        String::new()
    });
    for slow in SLOW {
        phase(slow.name, true, &|time| slow.attack(address, time));
    }
    for kind in ATTACKS {
        let name = format!("HTTP/2 {kind:?}");
        phase(&name, !kind.is_flood(), &|time| {
            attackers::abuse(kind, address, time)
        });
    }
    if let Some(limit) = &limit {
        println!("\n{}", limit.report());
    }
    if trial.faults.is_empty() {
        println!("\npassed: no call failed, no median more than doubled, memory within its bound");
        ExitCode::SUCCESS
    } else {
        println!("\nFAILED:\n{}", trial.faults.join("\n"));
        ExitCode::FAILURE
    }
}

/// One process and one tenant through all phases.
struct Trial {
    honest: Honest,
    /// The latest quiet time.
    before: Option<Calls>,
    proxy: Running,
    /// The memory bound, in MiB.
    bound: u64,
    time: Duration,
    faults: Vec<String>,
}

impl Trial {
    /// Runs an attack between two quiet times. `held` marks an attack whose connections stay open.
    fn phase(&mut self, name: &str, held: bool, attack: &dyn Fn(Duration) -> String) {
        let before = self.before.take().unwrap_or_else(|| self.quiet());
        let (begun, spent) = (Instant::now(), self.proxy.spent());
        let (note, memory, sockets) = self.watch(|| attack(self.time));
        let busy = (self.proxy.spent() - spent) / begun.elapsed().as_secs_f64() * 100.0;
        let during = self.honest.due(begun..Instant::now());
        let settled = self.settles();
        let after = self.quiet();
        let quiet = before.and(&after);
        self.before = Some(after);

        let ratio = during.median() / quiet.median();
        println!(
            "{name:<28} {:>6} {:>6} {:>8.2} {:>9.2} {:>8.2} {:>9.2} {ratio:>6.2} {busy:>6.0} {memory:>8} {sockets:>7}  {note}",
            during.number(),
            during.failures + quiet.failures,
            quiet.median(),
            during.median(),
            quiet.percentile(99),
            during.percentile(99),
        );
        let mut fault = |is: bool, what: String| {
            if is {
                self.faults.push(format!("{name}: {what}"));
            }
        };
        let failures = during.failures + quiet.failures;
        fault(failures > 0, format!("{failures} calls failed"));
        fault(
            ratio.is_nan() || ratio > 2.0,
            format!("{ratio:.2} times the quiet median"),
        );
        fault(
            memory > self.bound,
            format!("{memory} MiB, more than {}", self.bound),
        );
        fault(
            held && sockets < HELD,
            format!("only {sockets} sockets were open"),
        );
        fault(!settled, "its connections were not let go of".to_owned());
    }

    fn quiet(&self) -> Calls {
        let begun = Instant::now();
        thread::sleep(self.time / 2);
        self.honest.due(begun..Instant::now())
    }

    /// Runs the attack. Returns its report, the process's peak memory in MiB, and its peak number of descriptors.
    fn watch(&self, attack: impl FnOnce() -> String) -> (String, u64, usize) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let (mut memory, mut sockets) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    memory = memory.max(self.proxy.resident());
                    sockets = sockets.max(self.proxy.open());
                    thread::sleep(Duration::from_millis(100));
                }
                (memory, sockets)
            });
            let note = attack();
            over.store(true, Ordering::Relaxed);
            let (memory, sockets) = watching.join().unwrap();
            (note, memory, sockets)
        })
    }

    /// Waits until the attack's connections are closed. Returns whether that was soon enough.
    fn settles(&self) -> bool {
        let begun = Instant::now();
        thread::sleep(Duration::from_millis(500));
        while self.proxy.open() > SETTLED && begun.elapsed() < SETTLES {
            thread::sleep(Duration::from_millis(50));
        }
        self.proxy.open() <= SETTLED
    }
}
