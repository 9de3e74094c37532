//! Beginning a run: its number, its first file, and its first record's statement about earlier runs.

use std::io;

use gatepay_core::{ChainLink, SigningKey};

use super::entry::{self, JournalEntry, PreviousEnd};
use super::folder::{FilePart, JournalFolder};
use super::head::{ChainHead, HeadFile, HeadFolder, KeptHead, KeptHeads, LatestRun};

/// A run that has a number and a file, but no record yet.
pub(super) struct RunStart<F: JournalFolder> {
    pub(super) part: FilePart,
    pub(super) file: F::File,
    pub(super) head: Option<HeadFile>,
    /// The run's first record.
    pub(super) begun: JournalEntry,
}

/// Takes the number after all known numbers: those of the journal's files, of the kept heads and of the latest run.
pub(super) fn begin<F: JournalFolder>(
    folder: &F,
    heads: Option<&HeadFolder>,
    key: &SigningKey,
) -> io::Result<RunStart<F>> {
    let kept = heads.map(|heads| heads.read(key)).transpose()?;
    let kept = kept.unwrap_or_default();
    let parts = folder.parts()?;
    let follows = last_run(folder, &parts, key)?;
    let missing = missing(folder, &kept, &parts, key)?;
    let last = parts.last().map(|last| last.run);
    tell_of_latest(&kept, last);
    let last = last.max(kept.last());
    let mut run = last.unwrap_or(0);
    let (part, file, head) = loop {
        run += 1;
        let part = FilePart { run, part: 1 };
        match claim(folder, heads, key, part) {
            // Another process began at the same moment.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            taken => {
                let (file, head) = taken?;
                break (part, file, head);
            }
        }
    };
    if let Some(heads) = heads {
        heads.prune(&kept, run);
    }
    let begun = JournalEntry::Begun {
        version: env!("CARGO_PKG_VERSION"),
        follows,
        missing,
        unused: unused(&kept, &parts),
    };
    Ok(RunStart {
        part,
        file,
        head,
        begun,
    })
}

fn claim<F: JournalFolder>(
    folder: &F,
    heads: Option<&HeadFolder>,
    key: &SigningKey,
    part: FilePart,
) -> io::Result<(F::File, Option<HeadFile>)> {
    let head = heads.map(|heads| heads.claim(part.run, key)).transpose()?;
    Ok((folder.create(part)?, head))
}

/// Logs an error if the latest known run is gone together with its head. The number is not given again, so that the gap
/// stays visible.
fn tell_of_latest(kept: &KeptHeads, last: Option<u32>) {
    match kept.latest {
        LatestRun::Known(run) if Some(run) > last && !kept.heads.contains_key(&run) => {
            tracing::error!(
                run,
                "the audit journal's latest run and its head were removed; run `audit verify`"
            );
        }
        LatestRun::Altered => {
            tracing::error!("the kept number of the audit journal's latest run was altered");
        }
        LatestRun::Known(_) | LatestRun::Unknown => {}
    }
}

/// Run numbers that were taken by starts that made no journal file.
fn unused(kept: &KeptHeads, parts: &[FilePart]) -> Vec<u32> {
    let has_file = |run: u32| parts.iter().any(|part| part.run == run);
    let claimed = kept
        .heads
        .iter()
        .filter(|(_, kept)| **kept == KeptHead::Claimed);
    claimed
        .map(|(run, _)| *run)
        .filter(|run| !has_file(*run))
        .collect()
}

/// The latest kept head, if the journal does not have its record.
fn missing(
    folder: &impl JournalFolder,
    kept: &KeptHeads,
    parts: &[FilePart],
    key: &SigningKey,
) -> io::Result<Option<ChainHead>> {
    for run in kept
        .heads
        .iter()
        .filter(|(_, kept)| **kept == KeptHead::Altered)
    {
        tracing::error!(
            run = run.0,
            "the kept head of the audit journal's run was altered"
        );
    }
    let latest = kept.heads.values().rev().find_map(|kept| match kept {
        KeptHead::At(head, part) => Some((*head, *part)),
        _ => None,
    });
    let Some((head, part)) = latest else {
        return Ok(None);
    };
    let is_there = parts.contains(&part) && has_record(&folder.read(part)?, &head, key);
    if is_there {
        return Ok(None);
    }
    tracing::error!(
        %head,
        file = %part,
        "the audit journal lacks its last known record: its end was cut, removed or replaced, or it came from a backup; run `audit verify`"
    );
    Ok(Some(head))
}

/// Whether a file has the record, made by the journal's key.
fn has_record(text: &[u8], head: &ChainHead, key: &SigningKey) -> bool {
    let mut before = None;
    for line in text.split(|byte| *byte == b'\n') {
        let Some((record, link)) = entry::split(line) else {
            return false;
        };
        // The record before a file's first record is not known here.
        if before.is_some_and(|before: ChainLink| before.next(key, record) != link) {
            return false;
        }
        if link == head.link {
            return entry::seq(line) == Some(head.seq);
        }
        before = Some(link);
    }
    false
}

/// The end of the last run that has a record: its last record that is whole and follows from the record before it in
/// the same file.
fn last_run(
    folder: &impl JournalFolder,
    parts: &[FilePart],
    key: &SigningKey,
) -> io::Result<Option<PreviousEnd>> {
    let mut torn_bytes = 0;
    for (index, part) in parts.iter().enumerate().rev() {
        let text = folder.read(*part)?;
        let (end, whole) = last_record(&text, key);
        // Torn bytes of a later run without a record do not count for this run.
        if parts.get(index + 1).is_none_or(|next| next.run != part.run) {
            torn_bytes = 0;
        }
        torn_bytes += (text.len() - whole) as u64;
        if let Some((seq, link)) = end {
            let last = parts.iter().rev().find(|last| last.run == part.run);
            return Ok(Some(PreviousEnd {
                run: part.run,
                seq,
                link: link.to_string(),
                torn_bytes,
                running: folder.is_written(*last.unwrap_or(part))?,
            }));
        }
    }
    Ok(None)
}

/// The last record of a file that follows from the record before it, and the number of bytes up to its end. The first
/// record is taken unverified: `audit verify` checks all records.
fn last_record(text: &[u8], key: &SigningKey) -> (Option<(u64, ChainLink)>, usize) {
    let (mut end, mut whole) = (None, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let parsed = line.strip_suffix(b"\n").and_then(|line| {
            let (record, link) = entry::split(line)?;
            Some((record, link, entry::seq(line)?))
        });
        match (parsed, end) {
            (Some((_, link, seq)), None) => end = Some((seq, link)),
            (Some((record, link, seq)), Some((_, before))) if before.next(key, record) == link => {
                end = Some((seq, link));
            }
            _ => break,
        }
        whole += line.len();
    }
    (end, whole)
}
