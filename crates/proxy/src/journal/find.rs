//! Search for one id: a request id, an idempotency key, an id of GatePay's, or the id of a notification.

use std::collections::BTreeSet;
use std::io;

use gatepay_core::SigningKey;
use memchr::memmem::Finder;
use serde_json::Value;

use super::folder::JournalFolder;
use super::show::{CallFilter, EVENTS, FoundRecord, JournalRecord, SearchResult, show};

/// How far a search is: files read, of all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanProgress {
    /// Files that were read.
    pub read: usize,
    /// All files.
    pub all: usize,
}

/// Finds the calls and events that state an id. A line is parsed only if the id stands in it, so that a large journal is
/// read at the pace of the disk; then the matches are read with their whole records, and verified as by [`show`].
pub fn find(
    folder: &impl JournalFolder,
    key: Option<&SigningKey>,
    id: &str,
    mut progress: impl FnMut(ScanProgress),
) -> io::Result<SearchResult> {
    let (calls, has_events) = named(folder, id, &mut progress)?;
    let mut result = SearchResult::default();
    if !calls.is_empty() {
        let wanted = CallFilter {
            ids: calls.into_iter().collect(),
            ..CallFilter::default()
        };
        result = show(folder, key, &wanted)?;
    }
    if has_events {
        let wanted = CallFilter {
            kinds: EVENTS.map(str::to_owned).to_vec(),
            ..CallFilter::default()
        };
        let events = show(folder, key, &wanted)?.found.into_iter();
        let is_named = |found: &FoundRecord| match found {
            FoundRecord::Event(event) => names(&event.record, id),
            FoundRecord::Call(_) => false,
        };
        result.found.extend(events.filter(is_named));
    }
    Ok(result)
}

/// The request ids of the calls that state the id, and whether events do.
fn named(
    folder: &impl JournalFolder,
    id: &str,
    progress: &mut impl FnMut(ScanProgress),
) -> io::Result<(BTreeSet<String>, bool)> {
    let written = Value::from(id).to_string();
    let finder = Finder::new(written.as_bytes());
    let parts = folder.parts()?;
    let (mut calls, mut has_events) = (BTreeSet::new(), false);
    for (read, part) in parts.iter().enumerate() {
        let all = parts.len();
        progress(ScanProgress { read, all });
        let bytes = folder.read(*part)?;
        for at in finder.find_iter(&bytes) {
            let begin = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            let Ok(Value::Object(record)) = serde_json::from_slice(&bytes[begin..end]) else {
                continue;
            };
            if names(&record, id) {
                let call = record.get("id").and_then(Value::as_str);
                calls.extend(call.map(str::to_owned));
                has_events |= is_event(&record);
            }
        }
    }
    let all = parts.len();
    progress(ScanProgress { read: all, all });
    Ok((calls, has_events))
}

fn is_event(record: &JournalRecord) -> bool {
    let kind = record.get("record").and_then(Value::as_str);
    kind.is_some_and(|kind| EVENTS.contains(&kind))
}

/// Whether a field of the record that holds an id has this one.
fn names(record: &JournalRecord, id: &str) -> bool {
    let is = |name: &str| record.get(name).and_then(Value::as_str) == Some(id);
    let ids = record.get("ids").and_then(Value::as_object);
    let given = ids.is_some_and(|ids| ids.values().any(|value| value.as_str() == Some(id)));
    given || ["id", "key", "event"].into_iter().any(is)
}
