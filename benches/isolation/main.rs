//! Isolation: one tenant attacks the release binary within its limits, beside another tenant's refunds.
//!
//! `cargo bench -p gatepay-proxy --bench isolation`. Acme refunds a hundred times a second on a fixed schedule; a
//! refund's latency counts from when it was due. Globex attacks in slices of half a second, with a quiet slice before
//! each, so both see the same moments of a noisy machine. The table has the latencies of both kinds of slices, and the
//! median of the ratios of their 90th percentiles. The run fails if one refund was not executed, if that ratio is above
//! a quarter of the control's, or if an attack did not take place.
//!
//! The first row is the control: the proxy is stopped (SIGSTOP) for 200 ms of every slice.
//!
//! The proxy has one processor to itself, and so one worker that attacks and refunds share. All other processes share
//! the rest, where the attacker runs only when no other process wants to (`SCHED_IDLE`). `ISOLATION_SLICES` is the
//! number of slices of each kind, 12 by default. `ISOLATION_ONLY` is a part of the name of the attacks to run.
//! `GATEPAY_PROXY` names another binary.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may not go on without what it asks for"
)]

mod attacks;
#[path = "../support/binary.rs"]
mod binary;
#[path = "../support/honest.rs"]
mod honest;
#[path = "../exhaustion/machine.rs"]
#[expect(dead_code, reason = "exhaustion measures more of the machine")]
mod machine;
#[path = "../exhaustion/memory_limit.rs"]
#[expect(dead_code, reason = "nothing is limited here")]
mod memory_limit;
mod setup;
#[path = "../support/signed.rs"]
mod signed;

use std::env;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Attack};
use binary::Running;
use honest::{Calls, Honest, Plan};
use machine::Processors;
use setup::{ACME, GatePay, JSON};
use signed::Signer;

const SLICE: Duration = Duration::from_millis(500);
/// How long the control stops the proxy in a slice.
const STOP: Duration = Duration::from_millis(200);
/// The limit of an attack's ratio, as a part of the control's. A tenant may use its part of a processor: a body of a
/// megabyte takes milliseconds to verify. It may not delay another tenant as if the proxy were stopped.
const PART: f64 = 0.25;
/// The least ratio of the control. Below it the machine was too busy for the run to prove anything.
const LEAST: f64 = 8.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, number, address] = arguments.as_slice()
        && first == "attack"
    {
        println!(
            "{}",
            attacks::run(number.parse().unwrap(), address.parse().unwrap(), SLICE)
        );
        return ExitCode::SUCCESS;
    }
    let slices = env::var("ISOLATION_SLICES").map_or(12, |text| text.parse().unwrap());
    let only = env::var("ISOLATION_ONLY").unwrap_or_default();
    let processors = Processors::shared_out();
    let folder = tempfile::tempdir().unwrap();
    let gatepay = GatePay::start();
    setup::configure(folder.path(), gatepay.address());
    let (proxy, address) = machine::serve(folder.path(), &processors, None);
    let paid = gatepay.paid_order(address);
    let acme = Signer::new(ACME.client_id, ACME.secret);
    let honest = Honest::calling(Plan {
        address,
        from: "127.0.0.9",
        every: Duration::from_millis(10),
        expects: r#""status":"success""#,
        request: Box::new(move |number| acme.post(setup::REFUND, JSON, &refund(number, &paid))),
    });
    println!(
        "{}; {slices} slices of {SLICE:?} of each kind",
        processors.say()
    );
    println!(
        "\n{:<34} {:>7} {:>6} {:>16} {:>16} {:>6}",
        "", "", "", "median ms", "p99 ms", ""
    );
    println!(
        "{:<34} {:>7} {:>6} {:>7} {:>8} {:>7} {:>8} {:>6}  the attack",
        "beside", "refunds", "failed", "quiet", "during", "quiet", "during", "ratio"
    );
    let control = Row::of(&honest, slices, || stop(&proxy));
    control.print("control: stopped for 200 ms");
    let mut faults = Vec::new();
    if control.ratio < LEAST {
        faults.push("the control was not found: this run proves nothing".to_owned());
    }
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(&only)) {
        gatepay.misbehave(attack);
        let row = Row::of(&honest, slices, || slice_of(attack, address));
        gatepay.behave();
        row.print(attack.name);
        faults.extend(row.faults(attack.name, control.ratio * PART));
    }
    if faults.is_empty() {
        println!(
            "\npassed: every refund was executed, none had to wait for another tenant, the control was found"
        );
        ExitCode::SUCCESS
    } else {
        println!("\nFAILED:\n{}", faults.join("\n"));
        ExitCode::FAILURE
    }
}

fn refund(number: u32, paid: &str) -> Vec<u8> {
    format!(r#"{{"refundRequestId":"R-{number:08}","prepayId":"{paid}","refundAmount":"0.01"}}"#)
        .into_bytes()
}

/// Attacks for one slice, from another process, and returns how many requests or connections it made.
fn slice_of(attack: &Attack, address: std::net::SocketAddr) -> u64 {
    let own = env::current_exe().unwrap();
    let number = ATTACKS.iter().position(|one| one.name == attack.name);
    let output = Command::new("chrt")
        .args(["--idle", "0", own.to_str().unwrap(), "attack"])
        .args([number.unwrap().to_string(), address.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("there is a chrt (util-linux)");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap_or_default()
}

/// Stops the proxy for a part of the slice.
fn stop(proxy: &Running) -> u64 {
    let signal = |name: &str| {
        let id = proxy.0.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.unwrap().success());
    };
    thread::sleep(SLICE.saturating_sub(STOP));
    signal("-STOP");
    thread::sleep(STOP);
    signal("-CONT");
    1
}

/// The refunds' results beside one attack.
struct Row {
    quiet: Calls,
    during: Calls,
    /// The median of the slices' ratios of 90th percentiles.
    ratio: f64,
    /// The number of the attacker's requests or connections.
    done: u64,
}

impl Row {
    fn of(honest: &Honest, slices: usize, mut attack: impl FnMut() -> u64) -> Self {
        let (mut quiet, mut during) = (Vec::new(), Vec::new());
        let mut done = 0;
        for _ in 0..slices {
            let begun = Instant::now();
            thread::sleep(SLICE);
            quiet.push(honest.due(begun..Instant::now()));
            let begun = Instant::now();
            done += attack();
            during.push(honest.due(begun..Instant::now()));
        }
        let ratio = |(quiet, during): (&Calls, &Calls)| match during.failures {
            0 => during.percentile(90) / quiet.percentile(90),
            _ => f64::INFINITY,
        };
        let mut ratios: Vec<f64> = quiet.iter().zip(&during).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let all = |slices: Vec<Calls>| slices.into_iter().reduce(|all, one| all.and(&one)).unwrap();
        Self {
            ratio: ratios[slices / 2],
            quiet: all(quiet),
            during: all(during),
            done,
        }
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<34} {:>7} {:>6} {:>7.2} {:>8.2} {:>7.2} {:>8.2} {:>6.2}  {}",
            self.during.number(),
            self.during.failures + self.quiet.failures,
            self.quiet.median(),
            self.during.median(),
            self.quiet.percentile(99),
            self.during.percentile(99),
            self.ratio,
            self.done
        );
    }

    fn faults(&self, name: &str, most: f64) -> Vec<String> {
        let failures = self.during.failures + self.quiet.failures;
        let mut faults = Vec::new();
        if failures > 0 {
            faults.push(format!("{name}: {failures} refunds were not executed"));
        }
        if self.ratio > most || self.ratio.is_nan() {
            faults.push(format!(
                "{name}: {:.2} times the quiet 90th percentile",
                self.ratio
            ));
        }
        if self.done == 0 {
            faults.push(format!("{name}: the attack did not take place"));
        }
        faults
    }
}
