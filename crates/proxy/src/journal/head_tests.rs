//! The journal against the heads that are kept beside it: tampering that a chain alone does not show.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::DiskFolder;
use super::head::HeadFolder;
use super::tests::{ROOMY, call, key, meters};
use super::verify::{ExpectedHeads, VerifyReport, verify_against};
use super::writer::JournalWriter;
use super::*;

/// A journal and the folder of its heads.
struct Kept(tempfile::TempDir);

impl Kept {
    /// A journal with this number of runs that ended in order.
    fn after(runs: usize) -> Self {
        let kept = Self(tempfile::tempdir().unwrap());
        (0..runs).for_each(|_| kept.run());
        kept
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn begin(&self) -> JournalWriter<DiskFolder> {
        let disk = DiskFolder::open(&self.journal()).unwrap();
        let heads = HeadFolder::at(&self.state());
        let clock = Clock::manual(1_767_225_600_000);
        let mut writer =
            JournalWriter::begin(disk, Some(&heads), key(), ROOMY, clock, meters()).unwrap();
        for number in 0..3 {
            let entry = JournalEntry::Before(call(number));
            writer.commit(&[TimedEntry { unix_ms: 0, entry }]).unwrap();
        }
        writer
    }

    fn run(&self) {
        self.begin().end().unwrap();
    }

    fn file(&self, run: u32) -> PathBuf {
        self.journal().join(format!("audit-{run:06}-0001.jsonl"))
    }

    fn verify(&self) -> VerifyReport {
        let kept = HeadFolder::at(&self.state()).read(&key()).unwrap();
        let known = ExpectedHeads {
            from: 1,
            heads: &[],
            kept: Some(&kept),
        };
        verify_against(&DiskFolder::at(&self.journal()), &key(), &known).unwrap()
    }

    /// The change shows now, and also after another run, which does not reuse a run number.
    #[track_caller]
    fn shows(&self, last: u32, changed: &str) {
        assert_ne!(self.verify().findings, [], "{changed}");
        self.run();
        assert!(self.file(last + 1).exists(), "{changed}: its number");
        assert_ne!(self.verify().findings, [], "{changed}, and then a run");
    }
}

fn append(file: &Path, bytes: &[u8]) {
    let mut text = fs::read(file).unwrap();
    text.extend(bytes);
    fs::write(file, text).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn an_orderly_ended_journal_agrees_with_its_heads() {
    let report = Kept::after(3).verify();
    assert_eq!(report.findings, []);
    assert_eq!(report.notes, Vec::<String>::new());
}

#[test]
fn the_files_of_the_last_runs_are_missed() {
    for gone in 1..=3 {
        let kept = Kept::after(3);
        for run in 4 - gone..=3 {
            fs::remove_file(kept.file(run)).unwrap();
        }
        kept.shows(3, &format!("the last {gone} runs were removed"));
    }
    let kept = Kept::after(2);
    fs::remove_dir_all(kept.journal()).unwrap();
    kept.shows(2, "the folder was removed");
}

#[test]
fn the_end_of_the_last_run_is_missed_wherever_it_is_cut() {
    let whole = Kept::after(2);
    let text = fs::read(whole.file(2)).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    for left in 0..lines.len() {
        let kept = Kept::after(2);
        let text = fs::read(kept.file(2)).unwrap();
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        fs::write(kept.file(2), lines[..left].concat()).unwrap();
        kept.shows(2, &format!("{left} records are left"));
    }
    // The same holds while a run goes on, or after it was killed.
    let kept = Kept::after(1);
    drop(kept.begin());
    let text = fs::read(kept.file(2)).unwrap();
    let last = text[..text.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n');
    fs::write(kept.file(2), &text[..=last.unwrap()]).unwrap();
    kept.shows(2, "the last record of a run that was killed");
}

#[test]
fn bytes_behind_the_end_of_a_run_are_found() {
    for bytes in [b"\n".as_slice(), b"\0", b"{\"run\":2,", b"garbage\n"] {
        for run in [1, 2] {
            let kept = Kept::after(2);
            append(&kept.file(run), bytes);
            kept.shows(2, &format!("{bytes:?} behind run {run}"));
            let kept = Kept::after(2);
            let part = kept.journal().join(format!("audit-{run:06}-0002.jsonl"));
            fs::write(part, bytes).unwrap();
            kept.shows(2, &format!("{bytes:?} in another file of run {run}"));
        }
    }
}

#[test]
fn bytes_that_were_torn_are_compared_with_what_the_next_run_found() {
    let torn = b"{\"run\":1,\"seq\":";
    let killed = || {
        let kept = Kept::after(0);
        drop(kept.begin());
        append(&kept.file(1), torn);
        kept.run();
        assert_eq!(kept.verify().findings, []);
        kept
    };
    let kept = killed();
    append(&kept.file(1), b"5");
    kept.shows(2, "a byte came");
    let kept = killed();
    let text = fs::read(kept.file(1)).unwrap();
    fs::write(kept.file(1), &text[..text.len() - torn.len()]).unwrap();
    kept.shows(2, "all went");
}

#[test]
fn a_run_that_still_ends_as_the_next_begins_may_write_on() {
    let kept = Kept::after(1);
    let mut draining = kept.begin();
    let mut next = kept.begin();
    append(&kept.file(2), b"{\"run\":2,");
    drop(draining.commit(&[]));
    drop(draining);
    next.end().unwrap();
    assert_eq!(kept.verify().findings, [], "it was killed as it wrote");
}

#[test]
fn older_and_exchanged_files_are_found() {
    let kept = Kept::after(2);
    let mut writer = kept.begin();
    let older = fs::read(kept.file(3)).unwrap();
    writer.end().unwrap();
    fs::write(kept.file(3), older).unwrap();
    kept.shows(3, "the last file is an older copy");

    let kept = Kept::after(3);
    let texts = [1, 2].map(|run| fs::read(kept.file(run)).unwrap());
    fs::write(kept.file(1), &texts[1]).unwrap();
    fs::write(kept.file(2), &texts[0]).unwrap();
    kept.shows(3, "two runs were exchanged");

    let kept = Kept::after(2);
    let text = fs::read_to_string(kept.file(2)).unwrap();
    fs::write(kept.file(2), text.replace("trade-1", "trade-7")).unwrap();
    kept.shows(2, "a record in the middle was altered");
}

#[test]
fn a_journal_from_a_backup_is_older_than_its_heads() {
    let kept = Kept::after(2);
    let backup = kept.0.path().join("backup");
    copy(&kept.journal(), &backup);
    kept.run();
    fs::remove_dir_all(kept.journal()).unwrap();
    copy(&backup, &kept.journal());
    kept.shows(3, "the journal came from a backup");
}

#[test]
fn heads_from_a_backup_are_noted_and_give_no_number_twice() {
    let kept = Kept::after(1);
    let backup = kept.0.path().join("backup");
    copy(&kept.state(), &backup);
    kept.run();
    kept.run();
    fs::remove_dir_all(kept.state()).unwrap();
    copy(&backup, &kept.state());
    let report = kept.verify();
    assert_eq!(report.findings, []);
    assert!(report.notes[0].contains("the kept heads do not have the end of run 3"));
    kept.run();
    assert!(kept.file(4).exists());
    let report = kept.verify();
    assert_eq!((report.findings, report.notes), (Vec::new(), Vec::new()));
}

#[test]
fn a_head_that_was_altered_is_found() {
    let kept = Kept::after(2);
    let head = kept.state().join("audit-000002.head");
    let text = fs::read(&head).unwrap();
    // An authentic head of another run does not count in this run's head file.
    fs::copy(kept.state().join("audit-000001.head"), &head).unwrap();
    assert_ne!(kept.verify().findings, []);
    let altered: Vec<u8> = text.iter().map(|byte| byte ^ 1).collect();
    fs::write(&head, altered).unwrap();
    kept.shows(2, "a head was altered");
}

#[test]
fn a_number_that_was_taken_and_not_used_is_no_gap() {
    let kept = Kept::after(1);
    fs::write(kept.state().join("audit-000002.head"), "").unwrap();
    // This start made its file, and wrote a part of a record.
    fs::write(kept.file(3), "{\"run\":3").unwrap();
    kept.run();
    assert!(kept.file(4).exists());
    assert_eq!(kept.verify().findings, []);
    fs::remove_file(kept.file(1)).unwrap();
    kept.shows(4, "the run before it was removed");
}

#[test]
fn the_last_run_is_missed_although_its_head_is_gone_too() {
    for gone in 1..=2 {
        let kept = Kept::after(3);
        for run in 4 - gone..=3 {
            fs::remove_file(kept.file(run)).unwrap();
            fs::remove_file(kept.state().join(format!("audit-{run:06}.head"))).unwrap();
        }
        let said = format!("{:?}", kept.verify().findings);
        assert!(said.contains("run 3 is known to have begun"), "{said}");
        kept.shows(
            3,
            &format!("the last {gone} runs were removed with their heads"),
        );
    }
    let kept = Kept::after(1);
    fs::remove_dir_all(kept.journal()).unwrap();
    fs::remove_file(kept.state().join("audit-000001.head")).unwrap();
    kept.shows(1, "the only run was removed with its head");
}

#[test]
fn the_number_of_the_latest_run_cannot_be_altered_and_need_not_be_there() {
    let latest = |kept: &Kept| kept.state().join("audit-latest");
    for text in ["", "latest 1", "latest 2 00\n", "latest 9 00\n"] {
        let kept = Kept::after(2);
        fs::write(latest(&kept), text).unwrap();
        let said = format!("{:?}", kept.verify().findings);
        assert!(
            said.contains("latest run is not as it was written"),
            "{said}"
        );
    }
    // Earlier versions kept no number of the latest run.
    let kept = Kept::after(2);
    fs::remove_file(latest(&kept)).unwrap();
    assert_eq!(kept.verify().findings, []);
    kept.run();
    assert_eq!(kept.verify().findings, []);
    assert!(latest(&kept).exists());
}

/// A start that was killed after it took a run number leaves a number without a run.
#[test]
fn a_number_that_a_killed_start_took_is_no_run_that_was_removed() {
    let kept = Kept::after(1);
    HeadFolder::at(&kept.state()).claim(2, &key()).unwrap();
    assert_eq!(kept.verify().findings, []);
    kept.run();
    assert!(kept.file(3).exists());
    assert_eq!(kept.verify().findings, []);
}

/// A user who can make names in the folders must not get the proxy to write, empty or read another file by a link.
#[test]
fn no_link_is_followed_to_what_is_not_the_journals() {
    for is_hard in [false, true] {
        let link = |to: &Path, at: &Path| {
            if is_hard {
                fs::hard_link(to, at).unwrap();
            } else {
                std::os::unix::fs::symlink(to, at).unwrap();
            }
        };
        let kept = Kept::after(1);
        let precious = kept.0.path().join("precious");
        fs::write(&precious, "keep me").unwrap();
        for name in ["audit-000002.head", "audit-latest.unfinished"] {
            link(&precious, &kept.state().join(name));
        }
        link(&precious, &kept.file(3));
        // Run numbers that are taken are skipped, and a second file that is not the journal's is not written.
        let clock = Clock::manual(1_767_225_600_000);
        let disk = DiskFolder::open(&kept.journal()).unwrap();
        let heads = HeadFolder::at(&kept.state());
        let mut writer =
            JournalWriter::begin(disk, Some(&heads), key(), ROOMY, clock.clone(), meters())
                .unwrap();
        link(&precious, &kept.journal().join("audit-000004-0002.jsonl"));
        clock.advance(ROOMY.age + Duration::from_secs(1));
        let entry = JournalEntry::Before(call(1));
        writer.commit(&[TimedEntry { unix_ms: 0, entry }]).unwrap();
        writer.end().unwrap();
        assert!(kept.file(4).exists(), "hard: {is_hard}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
        let text = fs::read_to_string(kept.file(4)).unwrap();
        assert!(
            text.contains("trade-1") && text.contains("\"ended\""),
            "{text}"
        );
    }
}

/// A start must neither wait for a pipe without a writer nor read a device for ever.
#[test]
fn a_name_of_the_journals_that_is_no_file_is_an_error_and_no_wait() {
    let kept = Kept::after(1);
    let zero = kept.file(2);
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    let disk = DiskFolder::open(&kept.journal()).unwrap();
    let heads = HeadFolder::at(&kept.state());
    let clock = Clock::manual(1_767_225_600_000);
    let begun = JournalWriter::begin(disk, Some(&heads), key(), ROOMY, clock, meters());
    let error = begun.err().unwrap().to_string();
    assert!(error.contains("no regular file"), "{error}");
}
