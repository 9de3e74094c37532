//! Verifying: whether anything was altered, removed, inserted or reordered since it was written.

use std::collections::HashSet;
use std::fmt;
use std::io;

use gatepay_core::{Link, SigningKey};
use serde::Deserialize;

use super::entry::{self, Follows};
use super::folder::{Folder, Part};

/// Where a chain ended at some time, as the log says it: `run.seq.link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    run: u32,
    seq: u64,
    link: Link,
}

impl std::str::FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split('.');
        let head = (|| {
            Some(Self {
                run: fields.next()?.parse().ok()?,
                seq: fields.next()?.parse().ok()?,
                link: Link::parse(fields.next()?)?,
            })
        })();
        head.filter(|_| fields.next().is_none())
            .ok_or("must be a head as the log has it: run.seq.link")
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Records that are as they were written.
    pub records: u64,
    /// Calls that were written down before they were sent.
    pub calls: u64,
    /// Of those, the ones of which nothing was written down after: in flight, or lost with the process.
    pub open: u64,
    /// What was tampered with, or is missing.
    pub findings: Vec<Finding>,
    /// What looks odd and has an honest reason.
    pub notes: Vec<String>,
    /// Where the last chain ends.
    pub head: Option<String>,
}

/// Something that is not as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file, as far as known.
    pub part: Part,
    /// In which line, counted from 1; 0 if it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.part, self.line, self.what)
    }
}

/// The parts of a record that verifying looks at.
#[derive(Deserialize)]
struct Seen {
    run: u32,
    seq: u64,
    record: String,
    id: Option<String>,
    follows: Option<Follows>,
}

/// How a run reads.
struct Run {
    number: u32,
    /// Links by position: that of record `seq` stands at `seq`.
    links: Vec<Link>,
    ended: bool,
    follows: Option<Follows>,
    /// Where the chain broke, and how many bytes stand from there on.
    broken: Option<Broken>,
}

struct Broken {
    at: Finding,
    bytes: usize,
    /// Whether what follows contains no whole record, as when writing was interrupted.
    torn: bool,
}

/// Verifies everything in `folder`. The first run that must be there is `from`; `heads` are known from elsewhere.
pub fn verify(
    folder: &impl Folder,
    key: &SigningKey,
    from: u32,
    heads: &[Head],
) -> io::Result<Report> {
    let parts: Vec<Part> = folder
        .parts()?
        .into_iter()
        .filter(|part| part.run >= from)
        .collect();
    let mut report = Report::default();
    let mut open = HashSet::new();
    let mut before: Option<Run> = None;
    let mut wanted = from;
    let mut begin = 0;
    while begin < parts.len() {
        let number = parts[begin].run;
        let end = parts[begin..].partition_point(|part| part.run == number) + begin;
        let run = read_run(folder, key, &parts[begin..end], &mut report, &mut open)?;
        let first = parts[begin];
        for missing in wanted..number {
            report.find(first, 0, format!("run {missing} is not here"));
        }
        judge_seam(before.as_ref(), &run, first, &mut report);
        for head in heads.iter().filter(|head| head.run == number) {
            if usize::try_from(head.seq)
                .ok()
                .and_then(|seq| run.links.get(seq))
                != Some(&head.link)
            {
                let what = format!(
                    "record {} is known from its head and is not here as it was: the end of run {number} was cut or altered",
                    head.seq
                );
                report.find(parts[end - 1], 0, what);
            }
        }
        wanted = number + 1;
        begin = end;
        before = Some(run);
    }
    match &before {
        Some(last) => judge_end(last, &mut report),
        None => report.notes.push("there is no journal here".to_owned()),
    }
    for head in heads
        .iter()
        .filter(|head| head.run < from || head.run >= wanted)
    {
        let part = Part {
            run: head.run,
            part: 1,
        };
        report.find(
            part,
            0,
            format!("run {} is known from its head and is not here", head.run),
        );
    }
    report.open = open.len() as u64;
    Ok(report)
}

impl Report {
    fn find(&mut self, part: Part, line: usize, what: String) {
        self.findings.push(Finding { part, line, what });
    }
}

/// Follows the chain of one run through its files, as far as it holds.
fn read_run(
    folder: &impl Folder,
    key: &SigningKey,
    parts: &[Part],
    report: &mut Report,
    open: &mut HashSet<String>,
) -> io::Result<Run> {
    let mut run = Run {
        number: parts[0].run,
        links: vec![Link::ORIGIN],
        ended: false,
        follows: None,
        broken: None,
    };
    for (index, part) in parts.iter().enumerate() {
        let place = u32::try_from(index).map_or(u32::MAX, |index| index + 1);
        if part.part != place && run.broken.is_none() {
            let what = format!("file {place} of run {} is not here", part.run);
            run.broken = Some(Broken {
                at: Finding {
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
            // Nothing that was written after a torn end was written by the same run.
            broken.torn &= text.is_empty();
            broken.bytes += text.len();
            continue;
        }
        read_part(*part, &text, key, &mut run, report, open);
    }
    Ok(run)
}

fn read_part(
    part: Part,
    text: &[u8],
    key: &SigningKey,
    run: &mut Run,
    report: &mut Report,
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
                }
                run.ended = seen.record == "ended";
            }
            Err(what) => {
                let rest = &text[read..];
                run.broken = Some(Broken {
                    at: Finding {
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

/// The record in a line, if it is the one that has to come next.
fn record(line: &[u8], key: &SigningKey, run: &Run) -> Result<(Seen, Link), &'static str> {
    const NONE: &str = "is not a whole record";
    let line = line.strip_suffix(b"\n").ok_or(NONE)?;
    let (record, link) = entry::split(line).ok_or(NONE)?;
    let last = run.links.last().copied().unwrap_or(Link::ORIGIN);
    if last.next(key, record) != link {
        return Err(
            "does not follow from the record before it: altered, removed, inserted or reordered, or another key",
        );
    }
    let seen: Seen = serde_json::from_slice(line).map_err(|_| NONE)?;
    if seen.run != run.number || usize::try_from(seen.seq).ok() != Some(run.links.len()) {
        return Err("stands in another place than it was written to");
    }
    Ok((seen, link))
}

/// Whether a run says of the one before it what is there.
fn judge_seam(before: Option<&Run>, run: &Run, first: Part, report: &mut Report) {
    let Some(before) = before else {
        return;
    };
    let follows = run
        .follows
        .as_ref()
        .filter(|follows| follows.run == before.number);
    let known = follows.is_some_and(|follows| {
        let seq = usize::try_from(follows.seq).ok();
        let link = seq.and_then(|seq| before.links.get(seq));
        link.is_some_and(|link| link.to_string() == follows.link)
    });
    match (known, &before.broken) {
        (true, Some(broken)) if broken.torn => report.notes.push(format!(
            "{}: {} bytes were being written when run {} was interrupted",
            broken.at, broken.bytes, before.number
        )),
        (true, None) => {
            if !before.ended {
                report.notes.push(format!(
                    "run {} has no end: it was killed, or is still ending",
                    before.number
                ));
            }
        }
        (_, Some(broken)) => report.findings.push(broken.at.copy()),
        (_, None) if run.broken.is_some() && run.links.len() == 1 => {
            // Its first record is the finding.
        }
        (_, None) => report.find(
            first,
            1,
            format!(
                "run {} does not end as this run found it: its end was cut or altered",
                before.number
            ),
        ),
    }
}

/// The last run may still be running.
fn judge_end(last: &Run, report: &mut Report) {
    match &last.broken {
        Some(broken) if broken.torn => report.notes.push(format!(
            "{}: {} bytes are no whole record: being written, or interrupted",
            broken.at, broken.bytes
        )),
        Some(broken) => report.findings.push(broken.at.copy()),
        None if !last.ended => report.notes.push(format!(
            "run {} has no end: it is running, was killed, or its end was cut; give --head from its log to know",
            last.number
        )),
        None => {}
    }
}

impl Finding {
    fn copy(&self) -> Self {
        Self {
            part: self.part,
            line: self.line,
            what: self.what.clone(),
        }
    }
}
