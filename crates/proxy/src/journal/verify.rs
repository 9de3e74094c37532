//! Verification: whether records were altered, removed, inserted or reordered since they were written.

use std::collections::HashSet;
use std::fmt;
use std::io;

use gatepay_core::{ChainLink, SigningKey};
use serde::Deserialize;

use super::entry::{self, PreviousEnd};
use super::folder::{FilePart, JournalFolder};
use super::head::{KeptHead, KeptHeads, LatestRun};

pub use super::head::ChainHead;

/// The result of a verification.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Records that are as they were written.
    pub records: u64,
    /// Calls that were written down before they were sent.
    pub calls: u64,
    /// Calls without a record *after*: in flight, or lost with the process.
    pub open: u64,
    /// Records or files that were tampered with or are missing.
    pub findings: Vec<JournalFinding>,
    /// Oddities that have a harmless explanation.
    pub notes: Vec<String>,
    /// The head of the last chain.
    pub head: Option<String>,
}

/// A part of the journal that is not as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct JournalFinding {
    /// The file, as far as known.
    pub part: FilePart,
    /// The line, counted from 1; 0 for the whole file.
    pub line: usize,
    /// The fault in words.
    pub what: String,
}

impl fmt::Display for JournalFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.part, self.line, self.what)
    }
}

/// The members of a record that verification reads.
#[derive(Deserialize)]
struct VerifiedParts {
    run: u32,
    seq: u64,
    record: String,
    id: Option<String>,
    follows: Option<PreviousEnd>,
    missing: Option<String>,
    #[serde(default)]
    unused: Vec<u32>,
}

/// A run as read from its files.
struct VerifiedRun {
    number: u32,
    /// Links by record number: the link of record `seq` is at index `seq`.
    links: Vec<ChainLink>,
    ended: bool,
    follows: Option<PreviousEnd>,
    /// A kept head whose record this run did not find in the journal at its start.
    missing: Option<ChainHead>,
    /// Run numbers that were taken but became no run.
    unused: Vec<u32>,
    /// The break of the chain, if it broke.
    broken: Option<BrokenRecord>,
}

struct BrokenRecord {
    at: JournalFinding,
    bytes: usize,
    /// Whether the bytes from the break on contain no whole record, as after an interrupted write.
    torn: bool,
}

/// The heads and runs that a journal is compared with.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedHeads<'a> {
    /// The first run that must be in the journal.
    pub from: u32,
    /// Heads from the log.
    pub heads: &'a [ChainHead],
    /// Heads that were kept beside the journal; `None` if their folder is not known.
    pub kept: Option<&'a KeptHeads>,
}

/// Verifies everything in `folder` from run `from` on, which must be there. `heads` are heads from the log.
pub fn verify(
    folder: &impl JournalFolder,
    key: &SigningKey,
    from: u32,
    heads: &[ChainHead],
) -> io::Result<VerifyReport> {
    let kept = None;
    verify_against(folder, key, &ExpectedHeads { from, heads, kept })
}

/// Verifies everything in `folder` from the first expected run on, and that the records of all known heads are there.
pub fn verify_against(
    folder: &impl JournalFolder,
    key: &SigningKey,
    known: &ExpectedHeads<'_>,
) -> io::Result<VerifyReport> {
    let from = known.from;
    let mut parts = folder.parts()?;
    parts.retain(|part| part.run >= from);
    let heads = known.all_heads();
    let mut report = VerifyReport::default();
    let mut open = HashSet::new();
    let mut before: Option<VerifiedRun> = None;
    let (mut empty, mut gaps) = (Vec::new(), Vec::new());
    let mut wanted = from;
    for parts in parts.chunk_by(|one, other| one.run == other.run) {
        let (first, last) = (parts[0], parts[parts.len() - 1]);
        let run = read_run(folder, key, parts, &mut report, &mut open)?;
        gaps.extend((wanted..run.number).map(|missing| (missing, first)));
        wanted = run.number + 1;
        judge_heads(&heads, &run, last, &mut report);
        if run.is_empty() {
            // The run was interrupted as it began: the next run follows the run before this one.
            report.note_empty(&run);
            empty.push(run.number);
            continue;
        }
        gaps.retain(|(missing, _)| !run.unused.contains(missing));
        // Earlier versions wrote `follows` for runs without a record too.
        let is_after_empty =
            |follows: &PreviousEnd| follows.seq == 0 && empty.contains(&follows.run);
        if !run.follows.as_ref().is_some_and(is_after_empty) {
            judge_seam(before.as_ref(), &run, first, &mut report);
        }
        before = Some(run);
    }
    match &before {
        Some(last) => judge_end(last, &mut report),
        None if parts.is_empty() => {
            let part = FilePart { run: from, part: 1 };
            report.find(part, 0, "there is no journal here".to_owned());
        }
        None => {}
    }
    for (missing, before) in gaps {
        report.find(before, 0, format!("run {missing} is not here"));
    }
    let absent = |head: &&ChainHead| head.run < from || head.run >= wanted;
    for head in heads.iter().filter(absent) {
        let part = FilePart {
            run: head.run,
            part: 1,
        };
        let what = format!("run {} is known from its head and is not here", head.run);
        report.find(part, 0, what);
    }
    judge_kept(known, before.as_ref(), &mut report);
    judge_latest(known, wanted, &mut report);
    report.open = open.len() as u64;
    Ok(report)
}

impl ExpectedHeads<'_> {
    /// The heads from the log, and the kept heads of runs that must be there.
    fn all_heads(&self) -> Vec<ChainHead> {
        let kept = self.kept.into_iter().flat_map(|kept| &kept.heads);
        let kept = kept.filter_map(|(run, kept)| match kept {
            KeptHead::At(head, _) if *run >= self.from => Some(*head),
            _ => None,
        });
        let mut heads = self.heads.to_vec();
        heads.extend(kept);
        heads
    }
}

/// Reports heads whose record is not in their run.
fn judge_heads(heads: &[ChainHead], run: &VerifiedRun, last: FilePart, report: &mut VerifyReport) {
    for head in heads.iter().filter(|head| head.run == run.number) {
        if !run.has(head) {
            let what = format!(
                "record {} is known from its head and is not here as it was: the end of run {} was cut or altered",
                head.seq, run.number
            );
            report.find(last, 0, what);
        }
    }
}

/// Reports altered kept heads, and notes kept heads that are older than the journal.
fn judge_kept(known: &ExpectedHeads<'_>, last: Option<&VerifiedRun>, report: &mut VerifyReport) {
    let Some(kept) = known.kept else {
        return;
    };
    for (run, _) in kept
        .heads
        .iter()
        .filter(|(_, kept)| **kept == KeptHead::Altered)
    {
        let part = FilePart { run: *run, part: 1 };
        let what = format!("the kept head of run {run} is not as it was written");
        report.find(part, 0, what);
    }
    let Some(last) = last else {
        return;
    };
    let is_older = match kept.heads.get(&last.number) {
        None | Some(KeptHead::Claimed) => true,
        Some(KeptHead::At(head, _)) => last.ended && last.seq() > head.seq,
        Some(KeptHead::Altered) => false,
    };
    if is_older {
        report.notes.push(format!(
            "the kept heads do not have the end of run {}: they are of another journal or older than it (the machine lost \
             power, or a backup was put back), so that a cut end does not show by them",
            last.number
        ));
    }
}

/// Reports the latest run that is known to have begun if neither its files nor its head exist. `wanted` is the number
/// after the last run in the journal.
fn judge_latest(known: &ExpectedHeads<'_>, wanted: u32, report: &mut VerifyReport) {
    let Some(kept) = known.kept else {
        return;
    };
    let what = match kept.latest {
        LatestRun::Known(run) if run >= wanted && !kept.heads.contains_key(&run) => {
            format!("run {run} is known to have begun, and neither its files nor its head are here")
        }
        LatestRun::Altered => {
            "the kept number of the latest run is not as it was written".to_owned()
        }
        LatestRun::Known(_) | LatestRun::Unknown => return,
    };
    let part = FilePart {
        run: wanted,
        part: 1,
    };
    report.find(part, 0, what);
}

impl VerifiedRun {
    /// Whether the run has no record, as when only its file was made.
    fn is_empty(&self) -> bool {
        self.links.len() == 1 && self.broken.as_ref().is_none_or(|broken| broken.torn)
    }

    fn has(&self, head: &ChainHead) -> bool {
        let seq = usize::try_from(head.seq).ok();
        seq.and_then(|seq| self.links.get(seq)) == Some(&head.link)
    }

    /// The number of the run's last record.
    fn seq(&self) -> u64 {
        self.links.len() as u64 - 1
    }
}

impl VerifyReport {
    fn find(&mut self, part: FilePart, line: usize, what: String) {
        self.findings.push(JournalFinding { part, line, what });
    }

    fn note_empty(&mut self, run: &VerifiedRun) {
        let bytes = run.broken.as_ref().map_or(0, |broken| broken.bytes);
        self.notes.push(format!(
            "run {} has no record and {bytes} bytes: it was interrupted as it began",
            run.number
        ));
    }
}

/// Follows the chain of a run through its files until the chain breaks.
fn read_run(
    folder: &impl JournalFolder,
    key: &SigningKey,
    parts: &[FilePart],
    report: &mut VerifyReport,
    open: &mut HashSet<String>,
) -> io::Result<VerifiedRun> {
    let mut run = VerifiedRun {
        number: parts[0].run,
        links: vec![ChainLink::ORIGIN],
        ended: false,
        follows: None,
        missing: None,
        unused: Vec::new(),
        broken: None,
    };
    for (index, part) in parts.iter().enumerate() {
        let place = u32::try_from(index).map_or(u32::MAX, |index| index + 1);
        if part.part != place && run.broken.is_none() {
            let what = format!("file {place} of run {} is not here", part.run);
            run.broken = Some(BrokenRecord {
                at: JournalFinding {
                    part: *part,
                    line: 0,
                    what,
                },
                bytes: 0,
                torn: false,
            });
        }
        let text = folder.read(*part)?;
        if let Some(broken) = &mut run.broken {
            // A run writes nothing after a torn end, so later bytes are not an interrupted write.
            broken.torn &= text.is_empty();
            broken.bytes += text.len();
            continue;
        }
        read_part(*part, &text, key, &mut run, report, open);
    }
    Ok(run)
}

fn read_part(
    part: FilePart,
    text: &[u8],
    key: &SigningKey,
    run: &mut VerifiedRun,
    report: &mut VerifyReport,
    open: &mut HashSet<String>,
) {
    let mut read = 0;
    for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match record(line, key, run) {
            Ok((seen, link)) => {
                run.links.push(link);
                report.records += 1;
                report.head = Some(format!("{}.{}.{link}", run.number, seen.seq));
                match (seen.record.as_str(), seen.id) {
                    ("before", Some(id)) => report.calls += u64::from(open.insert(id)),
                    ("after", Some(id)) => _ = open.remove(&id),
                    _ => {}
                }
                if seen.seq == 1 {
                    run.follows = seen.follows;
                    run.missing = seen.missing.and_then(|head| head.parse().ok());
                    run.unused = seen.unused;
                }
                run.ended = seen.record == "ended";
            }
            Err(what) => {
                let rest = &text[read..];
                run.broken = Some(BrokenRecord {
                    at: JournalFinding {
                        part,
                        line: index + 1,
                        what: what.to_owned(),
                    },
                    bytes: rest.len(),
                    torn: !rest
                        .split_inclusive(|byte| *byte == b'\n')
                        .filter_map(|line| line.strip_suffix(b"\n"))
                        .any(|line| entry::split(line).is_some()),
                });
                return;
            }
        }
        read += line.len();
    }
}

/// The record in a line, if it is the next record of the chain.
fn record(
    line: &[u8],
    key: &SigningKey,
    run: &VerifiedRun,
) -> Result<(VerifiedParts, ChainLink), &'static str> {
    const NONE: &str = "is not a whole record";
    let line = line.strip_suffix(b"\n").ok_or(NONE)?;
    let (record, link) = entry::split(line).ok_or(NONE)?;
    let last = run.links.last().copied().unwrap_or(ChainLink::ORIGIN);
    if last.next(key, record) != link {
        return Err(
            "does not follow from the record before it: altered, removed, inserted or reordered, or another key",
        );
    }
    let seen: VerifiedParts = serde_json::from_slice(line).map_err(|_| NONE)?;
    if seen.run != run.number || usize::try_from(seen.seq).ok() != Some(run.links.len()) {
        return Err("stands in another place than it was written to");
    }
    Ok((seen, link))
}

/// Compares a run's statement of the previous run's end with that run's files.
fn judge_seam(
    before: Option<&VerifiedRun>,
    run: &VerifiedRun,
    first: FilePart,
    report: &mut VerifyReport,
) {
    let was_missing = |head: &&ChainHead| !before.is_some_and(|before| before.has(head));
    if let Some(head) = run.missing.as_ref().filter(was_missing) {
        let what = format!(
            "as run {} began, record {} of run {} was known and was not here",
            run.number, head.seq, head.run
        );
        report.find(first, 1, what);
    }
    let Some(before) = before else {
        return;
    };
    let follows = run.follows.as_ref().filter(|follows| follows.is_of(before));
    match (follows, &before.broken) {
        (Some(follows), _) => judge_found_end(follows, before, run, first, report),
        (None, Some(broken)) => report.findings.push(broken.finding()),
        (None, None) if run.broken.is_some() && run.links.len() == 1 => {
            // The finding is this run's first record, which breaks its chain.
        }
        (None, None) => report.find(
            first,
            1,
            format!(
                "run {} does not end as this run found it: its end was cut or altered",
                before.number
            ),
        ),
    }
}

/// Compares the end of the previous run as this run found it with the end that is there now.
fn judge_found_end(
    found: &PreviousEnd,
    before: &VerifiedRun,
    run: &VerifiedRun,
    first: FilePart,
    report: &mut VerifyReport,
) {
    let bytes = before
        .broken
        .as_ref()
        .map_or(0, |broken| broken.bytes as u64);
    match &before.broken {
        Some(broken) if !broken.torn => report.findings.push(broken.finding()),
        Some(broken) if before.ended && bytes > 0 => report.findings.push(broken.behind_end()),
        _ if found.seq == before.seq() && !found.running && found.torn_bytes != bytes => {
            let what = format!(
                "as run {} began, {} bytes stood behind the last record of run {}, and now {bytes} do",
                run.number, found.torn_bytes, before.number
            );
            report.find(first, 1, what);
        }
        Some(broken) => report.notes.push(format!(
            "{}: {bytes} bytes were being written when run {} was interrupted",
            broken.at, before.number
        )),
        None if !before.ended => report.notes.push(format!(
            "run {} has no end: it was killed, or is still ending",
            before.number
        )),
        None => {}
    }
}

impl PreviousEnd {
    /// Whether the stated record is in this run with the stated link, at the run's end or before it.
    fn is_of(&self, run: &VerifiedRun) -> bool {
        let link = usize::try_from(self.seq).ok();
        let link = link.and_then(|seq| run.links.get(seq));
        self.run == run.number && link.is_some_and(|link| link.to_string() == self.link)
    }
}

/// Judges the end of the last run, which may still be running.
fn judge_end(last: &VerifiedRun, report: &mut VerifyReport) {
    match &last.broken {
        Some(broken) if last.ended => report.findings.push(broken.behind_end()),
        Some(broken) if broken.torn => report.notes.push(format!(
            "{}: {} bytes are no whole record: being written, or interrupted",
            broken.at, broken.bytes
        )),
        Some(broken) => report.findings.push(broken.finding()),
        None if !last.ended => report.notes.push(format!(
            "run {} has no end: it is running, was killed, or its end was cut; give --head from its log to know",
            last.number
        )),
        None => {}
    }
}

impl BrokenRecord {
    fn finding(&self) -> JournalFinding {
        self.at.copy()
    }

    fn behind_end(&self) -> JournalFinding {
        JournalFinding {
            what: format!(
                "{} bytes stand behind the record with which run {} ended",
                self.bytes, self.at.part.run
            ),
            ..self.at.copy()
        }
    }
}

impl JournalFinding {
    fn copy(&self) -> Self {
        Self {
            part: self.part,
            line: self.line,
            what: self.what.clone(),
        }
    }
}
