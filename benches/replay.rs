//! The cost of a replay memory of a million stamps, beside a plain set of the same number of 128-bit numbers in the
//! same run: `cargo bench -p gatepay-proxy --bench replay`. It fails if a stamp takes more than 64 bytes, or an insert
//! more than three times the set's.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Instant;

use gatepay_admission::replay::Replay;
use gatepay_core::Stamp;
use gatepay_core::stamp::StampWindow;
use gatepay_tenancy::ReplayRule;

const STAMPS: u64 = 1_000_000;
const ROUNDS: usize = 9;
const NOW: u64 = 1_767_225_600_000;
const WINDOW: StampWindow = StampWindow {
    past_ms: 300_000,
    future_ms: 10_000,
};
const CLIENT: &str = "5f0c4e1a-70c2-4c4e-8d6f-2a9b7e51c0d4";
/// The limit of memory per stamp, in bytes.
const BYTES: usize = 64;
/// The limit of an insert's time, in multiples of an insert into the set.
const RATIO: f64 = 3.0;

#[expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "figures for whoever runs it"
)]
fn main() -> ExitCode {
    let stamps: Vec<(String, String)> = (0..STAMPS)
        .map(|number| {
            let nonce = hex::encode(random::<16>());
            ((NOW - number % WINDOW.past_ms).to_string(), nonce)
        })
        .collect();
    let numbers: Vec<u128> = (0..STAMPS).map(|_| u128::from_le_bytes(random())).collect();

    let (mut memory_ns, mut record_ns, mut set_ns) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        set_ns.push(per_stamp(|| {
            let mut set = HashSet::new();
            for number in &numbers {
                assert!(set.insert(*number), "they differ");
            }
            set
        }));
        let print = |memory: &Replay, (timestamp, nonce): &(String, String)| {
            let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes());
            memory.fingerprint(CLIENT, &stamp.expect("a good stamp"), ReplayRule::Pair)
        };
        memory_ns.push(per_stamp(|| {
            let memory = memory();
            for stamp in &stamps {
                let recorded = memory.record(print(&memory, stamp), NOW);
                assert_eq!(recorded, Ok(()), "they differ");
            }
            bytes = memory.allocated();
            memory
        }));
        let same = memory();
        let prints: Vec<_> = stamps.iter().map(|stamp| print(&same, stamp)).collect();
        record_ns.push(per_stamp(|| {
            let memory = memory();
            for print in prints {
                assert_eq!(memory.record(print, NOW), Ok(()), "they differ");
            }
            memory
        }));
    }
    let (whole, record, set) = (median(memory_ns), median(record_ns), median(set_ns));
    let each = bytes as f64 / STAMPS as f64;
    println!("{STAMPS} stamps, median of {ROUNDS} rounds");
    println!("HashSet<u128>  {set:6.1} ns an insert");
    println!(
        "replay memory  {record:6.1} ns an insert, {:.2} times the set's",
        record / set
    );
    println!(
        "               {whole:6.1} ns with the fingerprint of the stamp, {:.2} times",
        whole / set
    );
    println!("               {each:6.1} bytes a stamp");
    let fine = whole <= RATIO * set && each <= BYTES as f64;
    if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn memory() -> Replay {
    let capacity = usize::try_from(STAMPS).expect("a million");
    Replay::new(WINDOW, capacity, random(), 0)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// The time per stamp over the million, in nanoseconds; freeing the memory is not counted.
#[expect(clippy::cast_precision_loss, reason = "a time in nanoseconds")]
fn per_stamp<T>(remember: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    let remembered = remember();
    let took = begun.elapsed();
    drop(remembered);
    took.as_nanos() as f64 / STAMPS as f64
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
