//! Every system call of the journal fails once, or for a while. No record is lost, doubled, or acknowledged before it
//! is on the disk. Once the fault is gone, the journal goes on by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::folder::DiskFolder;
use super::head::{HeadFolder, LatestRun};
use super::tests::{ROOMY, call, key, meters};
use super::verify::{ExpectedHeads, verify_against};
use super::writer::JournalWriter;
use super::*;
use crate::process::files::faults::Faults;
use crate::process::files::{FileSystem, SystemCall};

/// The error numbers `EIO`, `ENOSPC` and `EMFILE`, and 0, by which reads and writes are only short.
const ERRORS: [i32; 4] = [5, 28, 24, 0];
/// A file size small enough for the records to need three files.
const SMALL: FileRotation = FileRotation {
    bytes: 2_000,
    ..ROOMY
};
const CALLS: usize = 8;
/// The number of the first run. Earlier runs have heads, of which the first is old enough to be removed.
const FIRST: u32 = 9;
/// The number of runs whose heads are kept.
const KEPT: u32 = 8;

/// A journal and the folder of its heads, used by successive processes.
struct Machine {
    folder: tempfile::TempDir,
    clock: Clock,
    faults: Faults,
}

impl Machine {
    fn new(faults: Faults) -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Clock::manual(1_767_225_600_000),
            faults,
        };
        fs::create_dir(machine.state()).unwrap();
        for run in [1, FIRST - 1] {
            fs::write(machine.head(run), "").unwrap();
        }
        machine
    }

    fn head(&self, run: u32) -> PathBuf {
        self.state().join(format!("audit-{run:06}.head"))
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn begin(&self, faults: &Faults) -> io::Result<JournalWriter<DiskFolder>> {
        let files = FileSystem::with(faults);
        files.make_folder(&self.journal())?;
        let disk = DiskFolder::with(files.clone(), &self.journal());
        let heads = HeadFolder::with(files, &self.state());
        JournalWriter::begin(
            disk,
            Some(&heads),
            key(),
            SMALL,
            self.clock.clone(),
            meters(),
        )
    }

    fn write(&self, writer: &mut JournalWriter<DiskFolder>, number: usize) -> io::Result<()> {
        let entry = JournalEntry::Before(call(number));
        let unix_ms = self.clock.unix_ms();
        writer.commit(&[TimedEntry { unix_ms, entry }])
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.journal()).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The number of records of each call.
    fn written(&self) -> BTreeMap<usize, usize> {
        let mut written = BTreeMap::new();
        for file in self.files() {
            let text = fs::read_to_string(file).unwrap();
            for number in 0..=CALLS {
                let key = format!("\"key\":\"trade-{number}\"");
                *written.entry(number).or_default() += text.matches(&key).count();
            }
        }
        written
    }

    /// Whether both the record of a call and its file's name are on the disk.
    fn is_durable(&self, number: usize) -> bool {
        let key = format!("\"key\":\"trade-{number}\"");
        let mut files = self.files().into_iter();
        let file = files.find(|file| fs::read_to_string(file).unwrap().contains(&key));
        file.is_some_and(|file| self.faults.is_durable(&file))
    }
}

/// Makes a run that was killed while it wrote, for the run under test to follow.
fn killed(machine: &Machine) {
    let mut writer = machine.begin(&Faults::none()).unwrap();
    machine.write(&mut writer, CALLS).unwrap();
    drop(writer);
    let file = machine.journal().join("audit-000009-0001.jsonl");
    append(&file, b"{\"run\":9,\"se");
}

fn append(file: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let file = fs::OpenOptions::new().append(true).open(file);
    file.unwrap().write_all(bytes).unwrap();
}

/// A process serves while system calls fail. The faults stop, and the process ends in order. Then another process runs.
fn survives(machine: &Machine) {
    killed(machine);
    let faults = &machine.faults;
    let mut acknowledged = Vec::new();
    // A process that fails to start is started again.
    let mut writer = (0..3).find_map(|_| machine.begin(faults).ok());
    for number in 0..CALLS {
        machine.clock.advance(Duration::from_secs(1));
        let Some(writer) = &mut writer else {
            break;
        };
        if machine.write(writer, number).is_ok() {
            assert!(
                machine.is_durable(number),
                "call {number} was let go too early"
            );
            acknowledged.push(number);
        }
    }
    faults.end();
    let mut writer = writer.unwrap_or_else(|| machine.begin(faults).unwrap());
    machine.clock.advance(Duration::from_mins(2));
    writer.commit(&[]).unwrap();
    writer.end().unwrap();
    drop(writer);
    machine.begin(faults).unwrap().end().unwrap();

    acknowledged.push(CALLS);
    for (number, times) in machine.written() {
        let expected = usize::from(acknowledged.contains(&number));
        assert_eq!(times, expected, "call {number}");
    }
    let kept = HeadFolder::at(&machine.state()).read(&key()).unwrap();
    let known = ExpectedHeads {
        from: FIRST,
        heads: &[],
        kept: Some(&kept),
    };
    let report = verify_against(&DiskFolder::at(&machine.journal()), &key(), &known).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.calls, acknowledged.len() as u64);
    let last = kept.heads.keys().next_back().copied();
    assert_eq!(kept.latest, LatestRun::Known(last.unwrap()));
    let old = kept
        .heads
        .keys()
        .filter(|run| **run + KEPT <= last.unwrap());
    assert_eq!(old.count(), 0, "old heads are removed in the end: {last:?}");
    let older = report.notes.iter().any(|note| note.contains("kept heads"));
    assert!(!older, "{:?}", report.notes);
}

#[test]
fn any_system_call_of_the_journal_may_fail() {
    let mut failed = Vec::new();
    for error in ERRORS {
        // The length of a fault matters. For long faults, the error number does not.
        let lengths = [0, 4, usize::MAX / 2];
        for long in &lengths[..if error == ERRORS[0] { 3 } else { 1 }] {
            let mut first = 0;
            loop {
                let machine =
                    Machine::new(Faults::between(first, first.saturating_add(*long), error));
                let survived = std::panic::AssertUnwindSafe(|| survives(&machine));
                if let Err(panic) = std::panic::catch_unwind(survived) {
                    let calls = machine.faults.failed();
                    eprintln!(
                        "error {error} of calls {first} to {}: {calls:?}",
                        first.saturating_add(*long)
                    );
                    std::panic::resume_unwind(panic);
                }
                if first >= machine.faults.calls() {
                    break;
                }
                failed.extend(machine.faults.failed());
                first += 1;
            }
            assert!(first > 60, "{first} calls");
        }
    }
    for call in [
        SystemCall::Open,
        SystemCall::MakeFolder,
        SystemCall::List,
        SystemCall::Read,
        SystemCall::Write,
        SystemCall::Sync,
        SystemCall::SetLength,
        SystemCall::Metadata,
        SystemCall::Rename,
        SystemCall::Remove,
        SystemCall::Lock,
    ] {
        assert!(failed.contains(&call), "{call:?} never failed");
    }
}
