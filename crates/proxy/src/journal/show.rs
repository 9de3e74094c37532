//! Search: finds calls, with their records *before* and *after* joined by request id, and events of the proxy itself.

use std::collections::{BTreeSet, HashMap};
use std::io;

use gatepay_core::{ChainLink, SigningKey};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::entry;
use super::folder::{FilePart, JournalFolder};

/// A record as it was read.
pub type JournalRecord = Map<String, Value>;

/// The search criteria. All given criteria must match, and of a list one value must. An empty list matches everything.
#[derive(Debug, Default)]
pub struct CallFilter {
    /// Tenants and operators that made the call, or that a configuration change or an operator's act names.
    pub parties: Vec<String>,
    /// Values of the idempotency key, or of an id that GatePay gave.
    pub keys: Vec<String>,
    /// Request ids.
    pub ids: Vec<String>,
    /// Operations, by their names in the catalogue.
    pub operations: Vec<String>,
    /// Kinds of operations, or [`EVENTS`].
    pub kinds: Vec<String>,
    /// Outcomes of calls, or [`OPEN`].
    pub outcomes: Vec<String>,
    /// The earliest time of the record. For a call, the time of the record *before* counts.
    pub since: Option<Timestamp>,
    /// The time before which the record must be: a record of exactly this time is left out.
    pub until: Option<Timestamp>,
    /// The most results: the last ones are kept.
    pub limit: Option<usize>,
}

/// Records that belong to no call. The search finds each by its record name as kind.
pub const EVENTS: [&str; 6] = [
    "configuration",
    "suspension",
    "notification",
    "approval",
    "settled",
    "refused",
];
/// The outcome of a call without a record *after*: it is in flight, or its outcome was lost with the process.
pub const OPEN: &str = "open";

/// The result of a search.
#[derive(Debug, Default)]
pub struct SearchResult {
    /// All matches, in the order in which they were written.
    pub found: Vec<FoundRecord>,
    /// The names of all operations in the journal.
    pub operations: BTreeSet<String>,
    /// All tenants and operators in the journal.
    pub parties: BTreeSet<String>,
}

/// A match.
#[derive(Debug)]
pub enum FoundRecord {
    /// A call with its records.
    Call(ShownCall),
    /// A configuration change, a suspension, or an order about notifications.
    Event(JournalEvent),
}

impl FoundRecord {
    /// Whether all records of the match are as they were written; `None` without the journal's key.
    pub fn verified(&self) -> Option<bool> {
        match self {
            Self::Call(call) => call.verified,
            Self::Event(event) => event.verified,
        }
    }
}

/// A call: its record *before*, and its record *after* if there is one.
#[derive(Debug)]
pub struct ShownCall {
    /// The record *before*.
    pub before: JournalRecord,
    /// The record *after*.
    pub after: Option<JournalRecord>,
    /// The record that a notification has settled the call, which had no known outcome.
    pub settled: Option<JournalRecord>,
    /// Whether all records are as they were written; `None` without the journal's key.
    pub verified: Option<bool>,
}

/// A change of the configuration, a suspension, or an order about notifications.
#[derive(Debug)]
pub struct JournalEvent {
    /// The event's only record.
    pub record: JournalRecord,
    /// Whether the record is as it was written; `None` without the journal's key.
    pub verified: Option<bool>,
}

/// Finds all matches. Lines that are no records are skipped: [`verify`](super::verify::verify) reports those. With the
/// journal's key, each match states whether its records are as they were written.
pub fn show(
    folder: &impl JournalFolder,
    key: Option<&SigningKey>,
    wanted: &CallFilter,
) -> io::Result<SearchResult> {
    let mut search = RecordSearch {
        wanted,
        shown: SearchResult::default(),
        open: HashMap::new(),
        unknown: HashMap::new(),
    };
    let mut chain = ChainCheck::new(key);
    for part in folder.parts()? {
        chain.begin(part);
        for line in folder.read(part)?.split_inclusive(|byte| *byte == b'\n') {
            let verified = chain.verifies(line);
            if let Ok(Value::Object(record)) = serde_json::from_slice(line) {
                search.take(record, verified);
            }
        }
    }
    let mut shown = search.shown;
    shown.found.retain(|found| wanted.matches_end(found));
    if let Some(limit) = wanted.limit {
        let more = shown.found.len().saturating_sub(limit);
        shown.found.drain(..more);
    }
    Ok(shown)
}

struct RecordSearch<'w> {
    wanted: &'w CallFilter,
    shown: SearchResult,
    /// The positions in `found` of calls without a record *after* so far, by request id.
    open: HashMap<String, usize>,
    /// The same of calls whose record *after* states no outcome.
    unknown: HashMap<String, usize>,
}

impl RecordSearch<'_> {
    fn take(&mut self, record: JournalRecord, verified: Option<bool>) {
        match text(&record, "record") {
            Some("before") => self.take_before(record, verified),
            Some("after") => self.take_after(record, verified),
            // Of another instance's call, or of one that was left out, it is an event of its own.
            Some("settled") if self.is_of_known_call(&record) => {
                self.take_settled(record, verified);
            }
            Some(event) if EVENTS.contains(&event) && self.wanted.matches_event(&record, event) => {
                let found = FoundRecord::Event(JournalEvent { record, verified });
                self.shown.found.push(found);
            }
            _ => {}
        }
    }

    fn take_before(&mut self, before: JournalRecord, verified: Option<bool>) {
        note(&mut self.shown.operations, text(&before, "operation"));
        note(&mut self.shown.parties, text(&before, "party"));
        if let Some(id) = text(&before, "id")
            && self.wanted.matches_before(&before)
        {
            self.open.insert(id.to_owned(), self.shown.found.len());
            self.shown.found.push(FoundRecord::Call(ShownCall {
                before,
                after: None,
                settled: None,
                verified,
            }));
        }
    }

    fn take_after(&mut self, after: JournalRecord, verified: Option<bool>) {
        let position = text(&after, "id").and_then(|id| self.open.remove(id));
        if let Some((id, position)) = text(&after, "id").zip(position)
            && text(&after, "outcome") == Some("unknown")
        {
            self.unknown.insert(id.to_owned(), position);
        }
        let found = position.and_then(|position| self.shown.found.get_mut(position));
        if let Some(FoundRecord::Call(call)) = found {
            call.after = Some(after);
            call.verified = call.verified.zip(verified).map(|(one, other)| one && other);
        }
    }

    /// Whether the journal has the call that a record settles, as a match or as none.
    fn is_of_known_call(&self, settled: &JournalRecord) -> bool {
        let id = text(settled, "id").unwrap_or_default();
        self.unknown.contains_key(id) || self.open.contains_key(id)
    }

    fn take_settled(&mut self, settled: JournalRecord, verified: Option<bool>) {
        let id = text(&settled, "id").unwrap_or_default();
        let position = self.unknown.get(id).or_else(|| self.open.get(id));
        let found = position.and_then(|position| self.shown.found.get_mut(*position));
        if let Some(FoundRecord::Call(call)) = found {
            call.settled = Some(settled);
            call.verified = call.verified.zip(verified).map(|(one, other)| one && other);
        }
    }
}

fn note(names: &mut BTreeSet<String>, name: Option<&str>) {
    if let Some(name) = name
        && !names.contains(name)
    {
        names.insert(name.to_owned());
    }
}

impl CallFilter {
    /// Whether the record *before* matches the criteria that it can answer.
    fn matches_before(&self, before: &JournalRecord) -> bool {
        has(&self.parties, text(before, "party"))
            && has(&self.ids, text(before, "id"))
            && has(&self.operations, text(before, "operation"))
            && has(&self.kinds, text(before, "kind"))
            && self.matches_time(before)
    }

    fn matches_event(&self, record: &JournalRecord, event: &str) -> bool {
        let of_calls = [&self.keys, &self.ids, &self.operations, &self.outcomes];
        let names = |party: &String| names_party(record, party);
        of_calls.iter().all(|values| values.is_empty())
            && has(&self.kinds, Some(event))
            && (self.parties.is_empty() || self.parties.iter().any(names))
            && self.matches_time(record)
    }

    fn matches_time(&self, record: &JournalRecord) -> bool {
        let time = text(record, "time").and_then(|time| time.parse().ok());
        self.since.is_none_or(|since| time >= Some(since))
            && self
                .until
                .is_none_or(|until| time.is_some_and(|time: Timestamp| time < until))
    }

    fn matches_end(&self, found: &FoundRecord) -> bool {
        let FoundRecord::Call(call) = found else {
            return true;
        };
        let has_key = |key: &String| call.has_key(key);
        has(&self.outcomes, Some(call.outcome()))
            && (self.keys.is_empty() || self.keys.iter().any(has_key))
    }
}

/// Whether `values` is empty or contains this value.
fn has(values: &[String], value: Option<&str>) -> bool {
    values.is_empty() || values.iter().any(|one| Some(one.as_str()) == value)
}

/// Whether the record's `party` is this party, or a line of its `changes` names it, such as `~ tenant acme: …`.
fn names_party(record: &JournalRecord, party: &str) -> bool {
    let changes = record.get("changes").and_then(Value::as_array);
    let mut lines = changes.into_iter().flatten().filter_map(Value::as_str);
    let names = |line: &str| {
        let mut words = line.split(' ').skip(1);
        matches!(words.next(), Some("tenant" | "operator"))
            && words.next().map(|word| word.trim_end_matches(':')) == Some(party)
    };
    text(record, "party") == Some(party) || lines.any(names)
}

impl ShownCall {
    /// The call's outcome, or [`OPEN`].
    pub fn outcome(&self) -> &str {
        let after = self.after.as_ref();
        after.map_or(OPEN, |after| text(after, "outcome").unwrap_or_default())
    }

    fn has_key(&self, key: &str) -> bool {
        let ids = self.after.as_ref().and_then(|after| after.get("ids"));
        let ids = ids.and_then(Value::as_object);
        text(&self.before, "key") == Some(key)
            || ids.is_some_and(|ids| ids.values().any(|id| id.as_str() == Some(key)))
    }
}

/// Follows the chain of each run from its first record. Records behind a break count as not verified.
struct ChainCheck<'k> {
    key: Option<&'k SigningKey>,
    part: FilePart,
    seq: u64,
    link: ChainLink,
    whole: bool,
}

impl<'k> ChainCheck<'k> {
    fn new(key: Option<&'k SigningKey>) -> Self {
        Self {
            key,
            part: FilePart { run: 0, part: 0 },
            seq: 0,
            link: ChainLink::ORIGIN,
            whole: false,
        }
    }

    /// Moves to the next file.
    fn begin(&mut self, part: FilePart) {
        if part.run == self.part.run {
            self.whole &= part.part == self.part.part + 1;
        } else {
            (self.seq, self.link) = (0, ChainLink::ORIGIN);
            self.whole = part.part == 1;
        }
        self.part = part;
    }

    fn verifies(&mut self, line: &[u8]) -> Option<bool> {
        let key = self.key?;
        self.whole = self.whole && self.goes_on(key, line).is_some();
        Some(self.whole)
    }

    /// Gives `Some` if the line is the next record of the chain.
    fn goes_on(&mut self, key: &SigningKey, line: &[u8]) -> Option<()> {
        let line = line.strip_suffix(b"\n")?;
        let (record, link) = entry::split(line)?;
        let is_next = self.link.next(key, record) == link
            && entry::numbers(line)? == (self.part.run, self.seq + 1);
        self.seq += 1;
        self.link = link;
        is_next.then_some(())
    }
}

fn text<'a>(record: &'a JournalRecord, name: &str) -> Option<&'a str> {
    record.get(name)?.as_str()
}
