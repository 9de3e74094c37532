//! Journal writer: appends records as lines and syncs them, all of a batch or none.

use std::io;
use std::time::Duration;

use gatepay_core::{ChainLink, SigningKey};

use super::begin::{RunStart, begin};
use super::entry::{self, JournalEntry, TimedEntry};
use super::folder::{FilePart, JournalFile, JournalFolder};
use super::head::{ChainHead, HeadFile, HeadFolder};
use super::meters::{FileRotation, JournalMeters};
use super::place::ChainPosition;
use crate::process::clock::Clock;

/// How often the head is written to the log, where cutting the journal's end does not remove it.
const TELL: Duration = Duration::from_mins(1);
/// The delay before beginning a file is retried after a failure. Each further failure doubles the delay.
const RETRY: Duration = Duration::from_secs(1);
/// The longest retry delay.
const RETRY_AT_MOST: Duration = Duration::from_mins(1);

pub(super) struct JournalWriter<F: JournalFolder> {
    folder: F,
    key: SigningKey,
    rotation: FileRotation,
    clock: Clock,
    meters: JournalMeters,
    part: FilePart,
    file: F::File,
    /// The durable and chained bytes of the file.
    length: u64,
    /// When the file was begun.
    began: Duration,
    /// After a failure to begin another file: the time of the next retry, and the delay until then.
    put_off: Option<(Duration, Duration)>,
    /// The head file. `head_is_kept` is whether the last write to it worked.
    head: Option<HeadFile>,
    head_is_kept: bool,
    /// The last durable record.
    place: ChainPosition,
    /// Since when writing fails, so that invalid bytes may follow the last durable record.
    failing_since: Option<Duration>,
    text: Vec<u8>,
    told: Option<(Duration, u64)>,
}

impl<F: JournalFolder> JournalWriter<F> {
    /// Begins a run after the last run. Without `heads`, a removed last run does not show.
    pub(super) fn begin(
        folder: F,
        heads: Option<&HeadFolder>,
        key: SigningKey,
        rotation: FileRotation,
        clock: Clock,
        meters: JournalMeters,
    ) -> io::Result<Self> {
        let RunStart {
            part,
            file,
            head,
            begun,
        } = begin(&folder, heads, &key)?;
        let mut writer = Self {
            folder,
            key,
            rotation,
            began: clock.elapsed(),
            put_off: None,
            head,
            head_is_kept: true,
            meters,
            part,
            file,
            length: 0,
            place: ChainPosition {
                run: part.run,
                seq: 0,
                link: ChainLink::ORIGIN,
            },
            failing_since: None,
            text: Vec::new(),
            told: None,
            clock,
        };
        writer.commit(&[writer.now(begun)])?;
        writer.sync_head()?;
        Ok(writer)
    }

    /// Makes all records durable or none. Without records, checks that the journal's file is still in place.
    pub(super) fn commit(&mut self, entries: &[TimedEntry]) -> io::Result<()> {
        let written = if entries.is_empty() && self.failing_since.is_none() {
            self.is_in_place()
        } else {
            self.write(entries)
        };
        if written.is_err() {
            self.failing_since.get_or_insert(self.clock.elapsed());
        }
        written
    }

    fn write(&mut self, entries: &[TimedEntry]) -> io::Result<()> {
        let mut place = self.place;
        self.text.clear();
        if let Some(since) = self.failing_since {
            // Bytes that did not become durable are truncated first: no caller was told that they are on the disk.
            self.file.truncate(self.length)?;
            let after = self.clock.elapsed().saturating_sub(since).as_millis();
            let after_ms = u64::try_from(after).unwrap_or(u64::MAX);
            let resumed = self.now(JournalEntry::Resumed { after_ms });
            entry::append(&mut self.text, &mut place, &self.key, &resumed);
        }
        for timed in entries {
            entry::append(&mut self.text, &mut place, &self.key, timed);
        }
        let added = self.text.len() as u64;
        self.rotate(added);
        self.file.append(&self.text)?;
        let timer = self.meters.syncs.start_timer();
        self.file.sync()?;
        timer.observe_duration();
        // Records in a file that was moved or removed do not count as written.
        self.is_in_place()?;
        self.meters.records.inc_by(place.seq - self.place.seq);
        self.length += added;
        self.place = place;
        self.failing_since = None;
        self.keep_head();
        Ok(())
    }

    fn is_in_place(&self) -> io::Result<()> {
        if self.folder.is_in_place(self.part, &self.file)? {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} was moved, removed or replaced: put it back, or restart to begin another run",
            self.part
        )))
    }

    /// Writes the chain's head to the head file. The records are on the disk already, so calls go on if this fails.
    fn keep_head(&mut self) {
        let Some(head) = &mut self.head else {
            return;
        };
        let kept = head.write(&self.place, self.part, &self.key);
        self.say_of_head(kept);
    }

    fn say_of_head(&mut self, kept: io::Result<()>) {
        let is_kept = kept.is_ok();
        match kept {
            Err(error) if self.head_is_kept => tracing::error!(
                %error,
                "the audit journal's head cannot be written: until it can, a cut end may go unnoticed"
            ),
            Ok(()) if !self.head_is_kept => {
                tracing::info!("the audit journal's head can be written again");
            }
            _ => {}
        }
        self.head_is_kept = is_kept;
    }

    fn sync_head(&self) -> io::Result<()> {
        match &self.head {
            Some(_) if !self.head_is_kept => Err(io::Error::other("its head cannot be written")),
            Some(head) => head.sync(),
            None => Ok(()),
        }
    }

    /// Begins another file if this file would become too large or is too old. If that fails, the writer goes on with
    /// this file and retries later: no call is refused for want of a new file.
    fn rotate(&mut self, added: u64) {
        let now = self.clock.elapsed();
        let full = self.length > 0 && self.length + added > self.rotation.bytes;
        let old = now.saturating_sub(self.began) > self.rotation.age;
        if !(full || old) || self.put_off.is_some_and(|(until, _)| now < until) {
            return;
        }
        let part = FilePart {
            part: self.part.part + 1,
            ..self.part
        };
        match self.make(part) {
            Ok(file) => {
                self.file = file;
                self.part = part;
                self.length = 0;
                self.began = now;
                if self.put_off.take().is_some() {
                    tracing::info!(file = %part, "the next file of the audit journal was created");
                }
            }
            Err(error) => {
                let put_off = self.put_off.map_or(RETRY, |(_, wait)| wait * 2);
                let put_off = put_off.min(RETRY_AT_MOST);
                if self.put_off.is_none() {
                    tracing::error!(%error, file = %part, "the next file of the audit journal cannot be created: records go to the current file");
                }
                self.put_off = Some((now + put_off, put_off));
            }
        }
    }

    /// Makes the file, or reopens it if an earlier attempt left it.
    fn make(&self, part: FilePart) -> io::Result<F::File> {
        match self.folder.create(part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.folder.reopen(part),
            made => made,
        }
    }

    /// Logs the chain's head, if it is new and `TELL` has passed since the last time. Returns it then.
    pub(super) fn tell_head(&mut self) -> Option<ChainHead> {
        let now = self.clock.elapsed();
        let due = self
            .told
            .is_none_or(|(at, seq)| seq != self.place.seq && now.saturating_sub(at) >= TELL);
        due.then(|| {
            self.told = Some((now, self.place.seq));
            let head = self.place.head();
            tracing::info!(%head, "audit journal");
            if self.head_is_kept {
                let synced = self.sync_head();
                self.say_of_head(synced);
            }
            head
        })
    }

    /// Writes the last record of the run, and logs the head.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.commit(&[self.now(JournalEntry::Ended)])?;
        self.told = None;
        self.tell_head();
        Ok(())
    }

    pub(super) fn meters(&self) -> &JournalMeters {
        &self.meters
    }

    fn now(&self, entry: JournalEntry) -> TimedEntry {
        TimedEntry {
            unix_ms: self.clock.unix_ms(),
            entry,
        }
    }
}
