//! Every system call of the state folder and of the watermark fails once, for a while, or permanently: no replay memory
//! is used twice, no watermark goes back, no run has the number of another, and once the fault is gone the next start
//! succeeds.

use std::collections::HashSet;
use std::fs;

use super::*;
use crate::process::files::SystemCall;
use crate::process::files::faults::Faults;

/// I/O error; no space; no descriptor; and 0, which only makes reads and writes short.
const ERRORS: [i32; 4] = [5, 28, 24, 0];
const NOW: u64 = 1_767_225_600_000;
const WITHIN: Duration = Duration::from_mins(10);
const FUTURE_MS: u64 = 10_000;

/// The history of consecutive processes on one folder.
struct Runs {
    folder: tempfile::TempDir,
    faults: Faults,
    now_ms: u64,
    /// The replay memories that a start used.
    used: HashSet<Vec<u8>>,
    numbers: HashSet<RunNumber>,
    /// The replay memory that the latest run left, if it came so far.
    left: Option<Vec<u8>>,
    /// The latest stamp that may have been admitted.
    admitted_ms: u64,
}

impl Runs {
    /// Runs a process that starts, serves while the watermark advances, and is killed or ends in order. An error means
    /// that the start failed.
    fn run(&mut self, in_order: bool) -> io::Result<()> {
        let mut state = StateDir::open_with(FileSystem::with(&self.faults), self.folder.path())?;
        let inheritance = state.inherit(WITHIN)?;
        assert!(
            self.numbers.insert(state.run.unwrap()),
            "a number came again"
        );
        let left = self.left.take();
        let is_guarded = match inheritance {
            PreviousRun::HandedOver(memory) => {
                assert_eq!(Some(&memory), left.as_ref(), "not the latest memory");
                assert!(self.used.insert(memory), "a memory was used twice");
                false
            }
            PreviousRun::NeverServed => panic!("nobody said so"),
            PreviousRun::FirstUse => {
                assert_eq!(self.admitted_ms, 0, "stamps were admitted before");
                true
            }
            PreviousRun::Lost => true,
        };
        let watermark = state.watermark()?;
        // A guard lasts at least until the watermark: no earlier admission can repeat.
        assert!(
            watermark.left_ms() >= self.admitted_ms,
            "the mark went back, guarded: {is_guarded}"
        );
        for _ in 0..3 {
            if watermark.advance(self.now_ms, FUTURE_MS).is_ok() {
                self.admitted_ms = self.admitted_ms.max(self.now_ms + FUTURE_MS);
            }
            self.now_ms += 1_000;
        }
        watermark.close();
        if in_order {
            // The run number distinguishes this memory from all others.
            let memory = [&state.run.unwrap()[..], &self.admitted_ms.to_le_bytes()].concat();
            self.left = Some(memory.clone());
            if let Ok(departure) = state.hand_over(&memory) {
                // After a failure the next start may wait longer.
                let _ = departure.touch();
            }
        }
        Ok(())
    }
}

/// A first use that ends in order, a start that takes its memory over and is killed, and two more.
fn survives(runs: &mut Runs) {
    for in_order in [true, false, true, true] {
        // A process that cannot start is started again; it admitted nothing in that time.
        let _ = (0..3).find_map(|_| runs.run(in_order).ok());
        // The next clock may be earlier than the previous one.
        runs.now_ms -= 2_500;
    }
    runs.faults.end();
    for in_order in [true, false] {
        runs.run(in_order).unwrap();
    }
    let names = fs::read_dir(runs.folder.path()).unwrap();
    assert!(names.count() <= names::FILES.len() + 1);
}

#[test]
fn any_system_call_of_the_state_folder_may_fail() {
    let mut failed = Vec::new();
    for error in ERRORS {
        // The length of a fault makes a difference; for long faults the error number does not.
        let lengths = [0, 4, usize::MAX / 2];
        for &long in &lengths[..if error == ERRORS[0] { 3 } else { 1 }] {
            for first in 0.. {
                let faults = Faults::between(first, first.saturating_add(long), error);
                let mut runs = Runs {
                    folder: tempfile::tempdir().unwrap(),
                    faults,
                    now_ms: NOW,
                    used: HashSet::new(),
                    numbers: HashSet::new(),
                    left: None,
                    admitted_ms: 0,
                };
                let survived = std::panic::AssertUnwindSafe(|| survives(&mut runs));
                if let Err(panic) = std::panic::catch_unwind(survived) {
                    let calls = runs.faults.failed();
                    eprintln!("error {error} of {long} calls after {first}: {calls:?}");
                    std::panic::resume_unwind(panic);
                }
                if first >= runs.faults.calls() {
                    assert!(first > 60, "{first} calls");
                    break;
                }
                failed.extend(runs.faults.failed());
            }
        }
    }
    for call in [
        SystemCall::Open,
        SystemCall::MakeFolder,
        SystemCall::Read,
        SystemCall::Write,
        SystemCall::Sync,
        SystemCall::Metadata,
        SystemCall::Rename,
        SystemCall::Remove,
        SystemCall::Lock,
    ] {
        assert!(failed.contains(&call), "{call:?} never failed");
    }
}
