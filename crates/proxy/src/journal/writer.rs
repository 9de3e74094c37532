//! Writing: records become lines, lines become durable, or nothing has happened.

use std::io;
use std::time::Duration;

use gatepay_core::{Link, SigningKey};

use super::entry::{self, Entry, Follows, Place, Timed};
use super::folder::{Folder, Medium, Part};
use super::{Meters, Rotation};
use crate::clock::Clock;

/// How often the head is written to the log, where whoever cuts the journal's end cannot reach it.
const TELL: Duration = Duration::from_mins(1);

pub(super) struct Writer<F: Folder> {
    folder: F,
    key: SigningKey,
    rotation: Rotation,
    clock: Clock,
    meters: Meters,
    part: Part,
    file: F::File,
    /// Of the file, what is durable and chained.
    length: u64,
    /// When the file was begun.
    began: Duration,
    /// The last durable record.
    place: Place,
    /// Since when something may stand behind it that does not count.
    failing_since: Option<Duration>,
    text: Vec<u8>,
    told: Option<(Duration, u64)>,
}

impl<F: Folder> Writer<F> {
    /// Begins a run after the last there is.
    pub(super) fn begin(
        folder: F,
        key: SigningKey,
        rotation: Rotation,
        clock: Clock,
        meters: Meters,
    ) -> io::Result<Self> {
        let parts = folder.parts()?;
        let follows = last_run(&folder, &parts, &key)?;
        let mut part = Part {
            run: parts.last().map_or(0, |last| last.run) + 1,
            part: 1,
        };
        let file = loop {
            match folder.create(part) {
                // Another process began at the same moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => part.run += 1,
                made => break made?,
            }
        };
        let mut writer = Self {
            folder,
            key,
            rotation,
            began: clock.elapsed(),
            meters,
            part,
            file,
            length: 0,
            place: Place {
                run: part.run,
                seq: 0,
                link: Link::ORIGIN,
            },
            failing_since: None,
            text: Vec::new(),
            told: None,
            clock,
        };
        let version = env!("CARGO_PKG_VERSION");
        writer.commit(&[writer.now(Entry::Begun { version, follows })])?;
        Ok(writer)
    }

    /// Makes the records durable, all of them or none.
    pub(super) fn commit(&mut self, entries: &[Timed]) -> io::Result<()> {
        if entries.is_empty() && self.failing_since.is_none() {
            return Ok(());
        }
        let written = self.write(entries);
        if written.is_err() {
            self.failing_since.get_or_insert(self.clock.elapsed());
        }
        written
    }

    fn write(&mut self, entries: &[Timed]) -> io::Result<()> {
        let mut place = self.place;
        self.text.clear();
        if let Some(since) = self.failing_since {
            // What was written without becoming durable is taken back first: it was never promised.
            self.file.truncate(self.length)?;
            let after = self.clock.elapsed().saturating_sub(since).as_millis();
            let after_ms = u64::try_from(after).unwrap_or(u64::MAX);
            let resumed = self.now(Entry::Resumed { after_ms });
            entry::append(&mut self.text, &mut place, &self.key, &resumed);
        }
        for timed in entries {
            entry::append(&mut self.text, &mut place, &self.key, timed);
        }
        let added = self.text.len() as u64;
        self.rotate(added)?;
        self.file.append(&self.text)?;
        let timer = self.meters.syncs.start_timer();
        self.file.sync()?;
        timer.observe_duration();
        self.meters.records.inc_by(place.seq - self.place.seq);
        self.length += added;
        self.place = place;
        self.failing_since = None;
        Ok(())
    }

    /// Begins another file if this one would become too large or is too old.
    fn rotate(&mut self, added: u64) -> io::Result<()> {
        let full = self.length > 0 && self.length + added > self.rotation.bytes;
        let old = self.clock.elapsed().saturating_sub(self.began) > self.rotation.age;
        if full || old {
            let part = Part {
                part: self.part.part + 1,
                ..self.part
            };
            self.file = self.folder.create(part)?;
            self.part = part;
            self.length = 0;
            self.began = self.clock.elapsed();
        }
        Ok(())
    }

    /// Writes to the log where the chain ends, if it went on and a while has passed.
    pub(super) fn tell_head(&mut self) {
        let now = self.clock.elapsed();
        let due = self
            .told
            .is_none_or(|(at, seq)| seq != self.place.seq && now.saturating_sub(at) >= TELL);
        if due {
            self.told = Some((now, self.place.seq));
            let Place { run, seq, link } = self.place;
            tracing::info!(head = %format_args!("{run}.{seq}.{link}"), "audit journal");
        }
    }

    /// The last record of the run, and its head.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.commit(&[self.now(Entry::Ended)])?;
        self.told = None;
        self.tell_head();
        Ok(())
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }

    fn now(&self, entry: Entry) -> Timed {
        Timed {
            unix_ms: self.clock.unix_ms(),
            entry,
        }
    }
}

/// How the last run ended: its last record that is whole and follows from the one before it in the same file.
fn last_run(folder: &impl Folder, parts: &[Part], key: &SigningKey) -> io::Result<Option<Follows>> {
    let Some(last) = parts.last() else {
        return Ok(None);
    };
    let mut torn_bytes = 0;
    for part in parts.iter().rev().take_while(|part| part.run == last.run) {
        let text = folder.read(*part)?;
        let (end, whole) = last_record(&text, key);
        torn_bytes += (text.len() - whole) as u64;
        if let Some((seq, link)) = end {
            return Ok(Some(Follows {
                run: last.run,
                seq,
                link: link.to_string(),
                torn_bytes,
            }));
        }
    }
    Ok(Some(Follows {
        run: last.run,
        seq: 0,
        link: Link::ORIGIN.to_string(),
        torn_bytes,
    }))
}

/// The last record of a file that follows from the one before, and how many bytes are whole. The first is taken as it
/// is: `audit verify` looks at all.
fn last_record(text: &[u8], key: &SigningKey) -> (Option<(u64, Link)>, usize) {
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
