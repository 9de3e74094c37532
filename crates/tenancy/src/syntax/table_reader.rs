//! Takes a table of a file apart, key by key: each value typed, each fault a problem with its place, no key unread.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::syntax::document::{ConfigTable, ConfigValue, SpannedValue, TableEntry};
use crate::syntax::problem::{Problems, closest};
use crate::syntax::schema_recorder::{AcceptedValues, KeyRecorder, RecordedShape};

/// The file that is read, and where its problems go.
#[derive(Clone)]
pub(crate) struct SourceFile<'a> {
    /// The name that problems show.
    pub(crate) name: Rc<Path>,
    pub(crate) problems: &'a Problems,
}

/// Reads one table. It remembers which keys it was asked for; [`finish`](Self::finish) reports all others.
#[must_use]
pub(crate) struct TableReader<'a> {
    file: SourceFile<'a>,
    /// The path of the table itself, empty at the top.
    path: String,
    line: Option<u32>,
    table: &'a ConfigTable,
    known: Vec<&'static str>,
    /// Recording mode: no file is read; requested keys are collected for the JSON Schema.
    asked: Option<Rc<KeyRecorder>>,
}

/// Where something stands, for problems elsewhere that refer to it.
#[derive(Debug, Clone)]
pub(crate) struct SourceLocation {
    file: Rc<Path>,
    line: Option<u32>,
    /// Only where there is no line.
    key: String,
}

/// Why a value will not do. Never repeats the value.
pub(crate) type ValueFault = Cow<'static, str>;

static EMPTY: ConfigTable = ConfigTable::new();

impl<'a> TableReader<'a> {
    /// Reads a file from its top.
    pub(crate) fn new(file: SourceFile<'a>, table: &'a ConfigTable) -> Self {
        Self {
            file,
            path: String::new(),
            line: None,
            table,
            known: Vec::new(),
            asked: None,
        }
    }

    /// A reader in recording mode.
    pub(crate) fn recording(file: SourceFile<'a>, asked: Rc<KeyRecorder>) -> Self {
        Self {
            asked: Some(asked),
            ..Self::new(file, &EMPTY)
        }
    }

    /// A value that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&ConfigValue) -> Result<T, ValueFault>,
    ) -> Option<T> {
        if let Some(asked) = &self.asked {
            let question = AcceptedValues::default();
            asked.key(key, RecordedShape::Value(Arc::clone(&question)));
            return parse(&ConfigValue::Recording(question)).ok();
        }
        let node = self.node(key)?;
        match parse(&node.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.problem(key, fault);
                None
            }
        }
    }

    /// A value, or its default if absent. After a problem the default stands in, so that reading can go on.
    pub(crate) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&ConfigValue) -> Result<T, ValueFault>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A value that must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&ConfigValue) -> Result<T, ValueFault>,
    ) -> Option<T> {
        self.need(key, "is required");
        self.optional(key, parse)
    }

    /// A key that must be there; its value is yet to be asked for.
    pub(crate) fn need(&self, key: &'static str, else_text: &'static str) {
        if let Some(asked) = &self.asked {
            asked.need(key);
        } else if !self.has(key) {
            self.problem(key, else_text);
        }
    }

    /// A table that may be absent.
    pub(crate) fn table(&mut self, key: &'static str) -> Option<TableReader<'a>> {
        if let Some(inner) = self.recording_inner(key, RecordedShape::Table) {
            return Some(inner);
        }
        let node = self.node(key)?;
        let inner = self.inner(node, self.path_to(key));
        if inner.is_none() {
            self.problem(key, "must be a table");
        }
        inner
    }

    /// A table whose absence means that all its keys are absent.
    pub(crate) fn section(&mut self, key: &'static str) -> TableReader<'a> {
        self.table(key).unwrap_or_else(|| TableReader {
            file: self.file.clone(),
            path: self.path_to(key),
            line: None,
            table: &EMPTY,
            known: Vec::new(),
            asked: None,
        })
    }

    /// A list of tables; absence is an empty list, a list of something else is a problem and `None`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Option<Vec<TableReader<'a>>> {
        self.tables_from(key, 0)
    }

    /// As [`tables`](Self::tables), of a piece of a file, before which the list has `first` tables.
    pub(crate) fn tables_from(
        &mut self,
        key: &'static str,
        first: usize,
    ) -> Option<Vec<TableReader<'a>>> {
        if let Some(inner) = self.recording_inner(key, RecordedShape::Tables) {
            return Some(vec![inner]);
        }
        let Some(node) = self.node(key) else {
            return Some(Vec::new());
        };
        let path = self.path_to(key);
        let tables = match &node.value {
            ConfigValue::List(nodes) => nodes
                .iter()
                .zip(first..)
                .map(|(node, index)| self.inner(node, format!("{path}[{index}]")))
                .collect(),
            _ => None,
        };
        if tables.is_none() {
            self.problem(key, "must be a list of tables");
        }
        tables
    }

    /// A list of values that may be absent. Each that will not do is a problem of its own, and there is no list then.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&ConfigValue) -> Result<T, ValueFault>,
    ) -> Option<Vec<T>> {
        if let Some(asked) = &self.asked {
            let question = AcceptedValues::default();
            asked.key(key, RecordedShape::List(Arc::clone(&question)));
            let item = parse(&ConfigValue::Recording(question)).ok();
            return item.map(|item| vec![item]);
        }
        let node = self.node(key)?;
        let ConfigValue::List(nodes) = &node.value else {
            self.problem(key, "must be a list");
            return None;
        };
        let mut values = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            match parse(&node.value) {
                Ok(value) => values.push(value),
                Err(fault) => self.add(node.line, &format!("{key}[{index}]"), fault),
            }
        }
        (values.len() == nodes.len()).then_some(values)
    }

    /// Exactly one of the table's keys may be present; the caller checks it.
    pub(crate) fn one(&self) {
        if let Some(asked) = &self.asked {
            asked.one();
        }
    }

    /// Whether the table has a key, with any value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value under a dotted path; it does not count as read.
    pub(crate) fn peek(&self, path: &str) -> Option<&'a ConfigValue> {
        self.entry(path).map(|entry| &entry.node.value)
    }

    fn entry(&self, path: &str) -> Option<&'a TableEntry> {
        let mut table = self.table;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            let entry = table.get(key)?;
            if keys.peek().is_none() {
                return Some(entry);
            }
            let ConfigValue::Table(inner) = &entry.node.value else {
                return None;
            };
            table = inner;
        }
        None
    }

    /// The line of a key, or of the table if it has no such key.
    fn line_of(&self, path: &str) -> Option<u32> {
        self.entry(path).map_or(self.line, |entry| entry.line)
    }

    /// Where a key stands.
    pub(crate) fn location(&self, key: &str) -> SourceLocation {
        let line = self.line_of(key);
        SourceLocation {
            file: Rc::clone(&self.file.name),
            line,
            key: line.map_or_else(|| self.path_to(key), |_| String::new()),
        }
    }

    /// Reports a problem of a key, or of one further down a dotted path.
    pub(crate) fn problem(&self, path: &str, text: impl Into<String>) {
        self.add(self.line_of(path), path, text);
    }

    /// Reports every unknown key, and every duplicate one.
    pub(crate) fn finish(self) {
        for (key, entry) in self.table {
            if !self.known.contains(&key.as_str()) {
                let mut text = match printable(key) {
                    Some(key) => format!("unknown key \"{key}\""),
                    None => "unknown key, not shown since it may be a secret".to_owned(),
                };
                if let Some(known) = closest(key, self.known.iter().copied()) {
                    let _infallible = write!(text, " (did you mean \"{known}\"?)");
                }
                let SourceFile { name, problems } = &self.file;
                problems.add(name, entry.line, &*self.path, text);
            } else if entry.repeated {
                self.add(entry.line, key, "duplicate key");
            }
        }
    }

    fn add(&self, line: Option<u32>, key: &str, text: impl Into<String>) {
        let SourceFile { name, problems } = &self.file;
        problems.add(name, line, self.path_to(key), text);
    }

    fn node(&mut self, key: &'static str) -> Option<&'a SpannedValue> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key).map(|entry| &entry.node)
    }

    fn inner(&self, node: &'a SpannedValue, path: String) -> Option<TableReader<'a>> {
        let ConfigValue::Table(table) = &node.value else {
            return None;
        };
        Some(TableReader {
            file: self.file.clone(),
            path,
            line: node.line,
            table,
            known: Vec::new(),
            asked: None,
        })
    }

    fn recording_inner(
        &self,
        key: &'static str,
        holds: impl FnOnce(Rc<KeyRecorder>) -> RecordedShape,
    ) -> Option<TableReader<'a>> {
        let asked = self.asked.as_ref()?;
        let inner = Rc::new(KeyRecorder::default());
        asked.key(key, holds(Rc::clone(&inner)));
        Some(Self::recording(self.file.clone(), inner))
    }

    fn path_to(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

/// The name of an unknown key if it looks like one of ours: a secret that slipped into a key's place has digits or
/// capitals, or is longer than any key.
fn printable(key: &str) -> Option<&str> {
    const LONGEST: usize = 24;
    let ours = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (ours && (1..=LONGEST).contains(&key.len())).then_some(key)
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => write!(f, ": {}", self.key),
        }
    }
}
