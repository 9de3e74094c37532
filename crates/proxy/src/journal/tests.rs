//! The journal over a simulated disk that loses power, runs full and is tampered with.

use std::collections::BTreeMap;
use std::sync::Weak;

use gatepay_core::amount::BodyAmounts;
use gatepay_core::{SecretKey, Signature};
use proptest::prelude::*;

use super::folder::{FilePart, JournalFile};
use super::show::{CallFilter, FoundRecord, ShownCall, show};
use super::verify::{VerifyReport, verify};
use super::*;
use prometheus::{Histogram, IntCounter, IntGauge};

/// A simulated disk: synced bytes survive a power cut, and bytes that were only written may be lost.
#[derive(Clone, Default)]
struct SimulatedDisk(Arc<Mutex<Platters>>);

#[derive(Default)]
struct Platters {
    files: BTreeMap<FilePart, File>,
    full: bool,
    /// New files get a name but cannot be opened.
    no_new_files: bool,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

struct Handle(SimulatedDisk, FilePart);

impl SimulatedDisk {
    fn lock(&self) -> MutexGuard<'_, Platters> {
        self.0.lock()
    }

    fn full(&self, full: bool) {
        self.lock().full = full;
    }

    /// The disk after a power cut: the synced bytes of each file, and a part of its other bytes.
    fn after_power_cut(&self, percent_that_made_it: usize) -> Self {
        let mut platters = Platters::default();
        for (part, file) in &self.lock().files {
            let rest = (file.bytes.len() - file.synced) * percent_that_made_it / 100;
            let bytes = file.bytes[..file.synced + rest].to_vec();
            let synced = bytes.len();
            platters.files.insert(*part, File { bytes, synced });
        }
        Self(Arc::new(Mutex::new(platters)))
    }

    /// A copy in which one file was changed.
    fn tampered(&self, change: impl FnOnce(&mut BTreeMap<FilePart, File>)) -> Self {
        let mut files = self.lock().files.clone();
        change(&mut files);
        Self(Arc::new(Mutex::new(Platters {
            files,
            ..Platters::default()
        })))
    }

    fn durable_text(&self) -> String {
        let durable = self.after_power_cut(0);
        let platters = durable.lock();
        platters
            .files
            .values()
            .map(|file| String::from_utf8_lossy(&file.bytes).into_owned())
            .collect()
    }

    fn verify(&self) -> VerifyReport {
        verify(self, &key(), 1, &[]).unwrap()
    }
}

impl JournalFolder for SimulatedDisk {
    type File = Handle;

    fn parts(&self) -> io::Result<Vec<FilePart>> {
        Ok(self.lock().files.keys().copied().collect())
    }

    fn read(&self, part: FilePart) -> io::Result<Vec<u8>> {
        Ok(self.lock().files[&part].bytes.clone())
    }

    fn create(&self, part: FilePart) -> io::Result<Handle> {
        let mut platters = self.lock();
        if platters.files.contains_key(&part) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if platters.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platters.files.insert(part, File::default());
        if platters.no_new_files {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        Ok(Handle(self.clone(), part))
    }

    fn reopen(&self, part: FilePart) -> io::Result<Handle> {
        let mut platters = self.lock();
        if platters.no_new_files {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        platters.files.insert(part, File::default());
        Ok(Handle(self.clone(), part))
    }

    fn is_in_place(&self, part: FilePart, _file: &Handle) -> io::Result<bool> {
        Ok(self.lock().files.contains_key(&part))
    }

    fn is_written(&self, _part: FilePart) -> io::Result<bool> {
        Ok(false)
    }
}

impl JournalFile for Handle {
    /// A full disk takes half of the bytes and then fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut platters = self.0.lock();
        let full = platters.full;
        let file = platters.files.get_mut(&self.1).unwrap();
        if full {
            file.bytes.extend(&bytes[..bytes.len() / 2]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.bytes.extend(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platters = self.0.lock();
        let file = platters.files.get_mut(&self.1).unwrap();
        file.synced = file.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut platters = self.0.lock();
        let file = platters.files.get_mut(&self.1).unwrap();
        file.bytes.truncate(usize::try_from(length).unwrap());
        file.synced = file.bytes.len();
        Ok(())
    }
}

/// The error number for no free file descriptor.
const EMFILE: i32 = 24;

pub(super) const ROOMY: FileRotation = FileRotation {
    bytes: 1 << 20,
    age: Duration::from_hours(24),
};

pub(super) fn key() -> SigningKey {
    SigningKey::new(&SecretKey::new("an-audit-key-that-is-visibly-fake".to_owned().into()).unwrap())
}

pub(super) fn meters() -> JournalMeters {
    JournalMeters {
        records: IntCounter::new("records", "records").unwrap(),
        syncs: Histogram::with_opts(prometheus::HistogramOpts::new("syncs", "syncs")).unwrap(),
        available: IntGauge::new("available", "available").unwrap(),
    }
}

fn journal(disk: &SimulatedDisk, rotation: FileRotation) -> Journal {
    let clock = Clock::manual(1_767_225_600_000);
    Journal::start(disk.clone(), None, key(), rotation, &clock, &meters()).unwrap()
}

fn id(number: usize) -> [u8; 32] {
    format!("{number:032}").into_bytes().try_into().unwrap()
}

pub(super) fn call(number: usize) -> CallIntent {
    CallIntent {
        id: id(number),
        party: if number.is_multiple_of(2) {
            "acme"
        } else {
            "globex"
        }
        .to_owned(),
        client_id: "acme-key".to_owned(),
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
        operation: "create_order".to_owned(),
        kind: "money",
        account: Some("2124538349".to_owned()),
        key: Some(format!("trade-{number}")),
        amounts: BodyAmounts::default(),
        timestamp: "1767225600000".to_owned(),
        nonce: format!("nonce-{number}"),
        signature: Signature::parse(&[b'a'; 128]).unwrap(),
        body: Bytes::from_static(b"{\"merchantTradeNo\":\"1\"}"),
    }
}

/// Runs a future to its end on a runtime without drivers.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A journal with this number of runs and calls per run, each run ended in order.
fn written(runs: usize, calls: usize, rotation: FileRotation) -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    for run in 0..runs {
        let journal = journal(&disk, rotation);
        for number in 0..calls {
            let mut open = wait(journal.before(call(run * calls + number))).unwrap();
            open.answered(
                200,
                Some("000000"),
                &Bytes::from_static(b"{\"data\":{\"prepayId\":\"77\"}}"),
            );
            open.outcome("success");
        }
        journal.finish();
    }
    disk
}

#[test]
fn a_call_is_on_the_disk_before_it_may_be_sent() {
    let disk = SimulatedDisk::default();
    let journal = journal(&disk, ROOMY);
    for number in 0..20 {
        let _open = wait(journal.before(call(number))).unwrap();
        let record = format!("{number:032}");
        assert!(disk.durable_text().contains(&record), "{record}");
    }
}

/// The calls that match.
fn found(disk: &SimulatedDisk, wanted: &CallFilter) -> Vec<ShownCall> {
    let shown = show(disk, Some(&key()), wanted).unwrap();
    let calls = shown.found.into_iter().map(|found| match found {
        FoundRecord::Call(call) => call,
        FoundRecord::Event(event) => unreachable!("{event:?}"),
    });
    calls.collect()
}

#[test]
fn written_records_verify_and_are_found() {
    let disk = written(3, 10, ROOMY);
    let report = disk.verify();
    assert_eq!(report.findings, []);
    assert_eq!((report.calls, report.open), (30, 0));
    let wanted = |wanted: CallFilter| found(&disk, &wanted);
    let one = wanted(CallFilter {
        keys: vec!["trade-7".to_owned()],
        ..CallFilter::default()
    });
    assert_eq!(one.len(), 1);
    let after = one[0].after.as_ref().unwrap();
    assert_eq!(after["outcome"], "success");
    assert_eq!(after["ids"]["prepayId"], "77");
    assert_eq!(one[0].before["signature"], "a".repeat(128));
    let acme = wanted(CallFilter {
        parties: vec!["acme".to_owned()],
        ..CallFilter::default()
    });
    assert_eq!(acme.len(), 15);
    let late = CallFilter {
        since: Some("2026-01-02T00:00:00Z".parse().unwrap()),
        ..CallFilter::default()
    };
    assert_eq!(wanted(late).len(), 0);
    assert_eq!(
        wanted(CallFilter {
            keys: vec!["77".to_owned()],
            ..CallFilter::default()
        })
        .len(),
        30
    );
}

/// The digest equals `sha256sum` of the signed string.
#[test]
fn the_digest_is_that_of_the_signed_string() {
    let disk = written(1, 1, ROOMY);
    let calls = found(&disk, &CallFilter::default());
    let signed = b"1767225600000\nnonce-0\n{\"merchantTradeNo\":\"1\"}\n";
    let digest = <sha2::Sha256 as sha2::Digest>::digest(signed);
    assert_eq!(calls[0].before["signed_sha256"], hex::encode(digest));
}

#[test]
fn files_are_rotated_and_the_chain_goes_on_through_them() {
    let small = FileRotation {
        bytes: 2_000,
        ..ROOMY
    };
    let disk = written(2, 10, small);
    assert!(disk.parts().unwrap().len() > 6);
    assert_eq!(disk.verify().findings, []);
    for gone in disk.parts().unwrap() {
        let without = disk.tampered(|files| drop(files.remove(&gone)));
        let last = disk.parts().unwrap().last().copied();
        // Only the head shows that the last file was removed.
        if Some(gone) != last {
            assert_ne!(without.verify().findings, [], "{gone} was removed");
        }
    }
}

#[test]
fn a_file_that_is_old_is_followed_by_another() {
    let (disk, clock) = (SimulatedDisk::default(), Clock::manual(1_767_225_600_000));
    let journal = Journal::start(disk.clone(), None, key(), ROOMY, &clock, &meters()).unwrap();
    for (number, files) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        if files > disk.parts().unwrap().len() {
            clock.advance(ROOMY.age + Duration::from_secs(1));
        }
        let _open = wait(journal.before(call(number))).unwrap();
        assert_eq!(disk.parts().unwrap().len(), files);
    }
    journal.finish();
    assert_eq!(disk.verify().findings, []);
}

/// The file is made, but then no file descriptor is left for opening the folder, which is the next system call.
#[test]
fn a_rotation_that_fails_half_way_refuses_no_call_and_is_made_up_for() {
    let (disk, clock) = (SimulatedDisk::default(), Clock::manual(1_767_225_600_000));
    let small = FileRotation {
        bytes: 1_000,
        ..ROOMY
    };
    let journal = Journal::start(disk.clone(), None, key(), small, &clock, &meters()).unwrap();
    let write = |number| drop(wait(journal.before(call(number))).unwrap());
    disk.lock().no_new_files = true;
    (0..10).for_each(write);
    assert!(journal.is_available());
    let file = FilePart { run: 1, part: 1 };
    let written = |part| disk.lock().files[&part].bytes.len();
    assert!(written(file) > 4_000, "the first file was written on");
    assert_eq!(disk.parts().unwrap().len(), 2);
    disk.lock().no_new_files = false;
    // The rotation is not retried at once, because it failed a moment ago.
    let (before, second) = (written(file), FilePart { run: 1, part: 2 });
    write(10);
    assert!(written(file) > before && written(second) == 0);
    clock.advance(Duration::from_mins(1));
    (11..20).for_each(write);
    assert!(written(second) > 0);
    journal.finish();
    let report = disk.verify();
    assert_eq!(report.findings, []);
    assert_eq!((report.calls, report.open), (20, 0));
}

#[test]
fn the_head_is_told_once_a_minute_if_there_is_another() {
    let clock = Clock::manual(1_767_225_600_000);
    let folder = SimulatedDisk::default();
    let mut writer =
        JournalWriter::begin(folder, None, key(), ROOMY, clock.clone(), meters()).unwrap();
    for (records, seconds, is_told) in [
        (0, 0, true),
        (0, 60, false),
        (1, 0, true),
        (3, 59, false),
        (0, 1, true),
    ] {
        for number in 0..records {
            let entry = JournalEntry::Before(call(number));
            let unix_ms = clock.unix_ms();
            writer.commit(&[TimedEntry { unix_ms, entry }]).unwrap();
        }
        clock.advance(Duration::from_secs(seconds));
        let told = writer.tell_head();
        assert_eq!(
            told.is_some(),
            is_told,
            "after {records} records and {seconds} s"
        );
    }
}

#[test]
fn a_cut_end_shows_against_the_head_in_the_log() {
    let disk = written(1, 5, ROOMY);
    let head = disk.verify().head.unwrap().parse().unwrap();
    let cut = disk.tampered(|files| {
        let file = files.values_mut().next().unwrap();
        let lines: Vec<&[u8]> = file.bytes.split_inclusive(|byte| *byte == b'\n').collect();
        file.bytes = lines[..lines.len() - 3].concat();
    });
    assert_eq!(
        cut.verify().findings,
        [],
        "without the head nobody can tell"
    );
    let findings = verify(&cut, &key(), 1, &[head]).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(verify(&disk, &key(), 1, &[head]).unwrap().findings, []);
}

#[test]
fn a_cut_end_of_an_earlier_run_shows_by_itself() {
    let disk = written(2, 5, ROOMY);
    let cut = disk.tampered(|files| {
        let file = files.values_mut().next().unwrap();
        let lines: Vec<&[u8]> = file.bytes.split_inclusive(|byte| *byte == b'\n').collect();
        file.bytes = lines[..lines.len() - 3].concat();
    });
    assert_ne!(cut.verify().findings, []);
}

#[test]
fn another_key_verifies_nothing() {
    let other = SigningKey::new(&SecretKey::new("another-fake-key".to_owned().into()).unwrap());
    let report = verify(&written(1, 2, ROOMY), &other, 1, &[]).unwrap();
    assert_eq!((report.records, report.findings.len()), (0, 1));
}

#[test]
fn a_full_disk_refuses_calls_and_ends_no_chain() {
    let disk = SimulatedDisk::default();
    let journal = journal(&disk, ROOMY);
    let mut sent = wait(journal.before(call(0))).unwrap();
    disk.full(true);
    assert!(wait(journal.before(call(1))).is_err());
    assert!(!journal.is_available());
    assert!(wait(journal.before(call(2))).is_err());
    sent.outcome("success");
    drop(sent);
    disk.full(false);
    while !journal.is_available() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(wait(journal.before(call(3))).unwrap());
    journal.finish();
    let report = disk.verify();
    assert_eq!(report.findings, []);
    assert_eq!(
        (report.calls, report.open),
        (2, 0),
        "what was refused was not sent, what was sent has its end"
    );
    assert!(disk.durable_text().contains("\"record\":\"resumed\""));
}

#[test]
fn calls_that_come_together_share_a_sync() {
    let disk = SimulatedDisk::default();
    let clock = Clock::manual(1_767_225_600_000);
    let meters = meters();
    let journal = Journal::start(disk, None, key(), ROOMY, &clock, &meters).unwrap();
    wait(async {
        let calls: Vec<_> = (0..64).map(|number| journal.before(call(number))).collect();
        for opened in futures_all(calls).await {
            opened.unwrap();
        }
    });
    journal.finish();
    assert!(
        meters.syncs.get_sample_count() < 64,
        "{}",
        meters.syncs.get_sample_count()
    );
}

#[test]
fn two_processes_never_write_the_same_file() {
    let disk = SimulatedDisk::default();
    let draining = journal(&disk, ROOMY);
    let open = wait(draining.before(call(0))).unwrap();
    let successor = journal(&disk, ROOMY);
    drop(wait(successor.before(call(1))).unwrap());
    drop(open);
    draining.finish();
    successor.finish();
    let report = disk.verify();
    assert_eq!(report.findings, []);
    assert_eq!((report.calls, report.open), (2, 0));
}

/// Polls all futures together, as the callers of a worker are polled.
async fn futures_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any change of any byte shows.
    #[test]
    fn any_altered_byte_shows(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let disk = written(2, 3, ROOMY);
        let mut changed = true;
        let tampered = disk.tampered(|files| {
            let first = files.values_mut().next().unwrap();
            let at = at.index(first.bytes.len());
            changed = first.bytes[at] != with;
            first.bytes[at] = with;
        });
        prop_assert_eq!(tampered.verify().findings.is_empty(), !changed);
    }

    /// Any record that is removed, doubled or moved shows.
    #[test]
    fn any_removed_doubled_or_moved_record_shows(from in 0_usize..7, to in 0_usize..7, how in 0..3) {
        let disk = written(2, 3, ROOMY);
        let tampered = disk.tampered(|files| {
            let first = files.values_mut().next().unwrap();
            let mut lines: Vec<Vec<u8>> =
                first.bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            match how {
                0 => drop(lines.remove(from)),
                1 => lines.insert(to, lines[from].clone()),
                _ => lines.swap(from, to),
            }
            first.bytes = lines.concat();
        });
        prop_assert_eq!(tampered.verify().findings.is_empty(), how == 2 && from == to);
    }

    /// The power is cut, and any part of the unsynced bytes is on the disk afterwards. The journal verifies to its last
    /// whole record, also after the next start, and has every call that was allowed to be sent.
    #[test]
    fn a_power_cut_costs_nothing_that_was_sent(calls in 1_usize..8, made_it in 0_usize..=100) {
        let disk = SimulatedDisk::default();
        let journal = journal(&disk, ROOMY);
        let open: Vec<PendingCall> = (0..calls).map(|number| wait(journal.before(call(number))).unwrap()).collect();
        // Another record is being written when the power is cut.
        disk.full(true);
        let _refused = wait(journal.before(call(calls)));
        let cut = disk.after_power_cut(made_it);
        drop(open);
        let report = cut.verify();
        prop_assert_eq!(&report.findings, &[]);
        prop_assert!(report.calls >= calls as u64);
        let next = self::journal(&cut, ROOMY);
        next.finish();
        prop_assert_eq!(&cut.verify().findings, &[]);
    }
}

/// The journal's thread ends with the journal.
#[test]
fn the_thread_ends_with_the_journal() {
    let journal = journal(&SimulatedDisk::default(), ROOMY);
    let shared: Weak<JournalShared> = Arc::downgrade(&journal.shared);
    drop(journal);
    assert_eq!(shared.strong_count(), 0);
}
