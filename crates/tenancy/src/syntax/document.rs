//! A configuration file as a tree of values that know their lines, from TOML or JSON alike.
//!
//! Messages of the parsers are taken without the excerpt of the source they like to print: it may hold a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::disk::file_stamp::FilesRead;
use crate::disk::regular_file::RegularFile;
use crate::syntax::schema_recorder::AcceptedValues;
use crate::threads::on_threads;

/// The least bytes of a piece of a long file.
const PIECE: usize = 64 * 1024;
/// Fewer pieces than this are judged by one thread: that takes some milliseconds.
const PIECES_OF_A_THREAD: usize = 16;

/// A value and the line it begins on; JSON knows no lines.
pub(crate) struct SpannedValue {
    pub(crate) line: Option<u32>,
    pub(crate) value: ConfigValue,
}

impl SpannedValue {
    pub(crate) fn table(&self) -> Option<&ConfigTable> {
        match &self.value {
            ConfigValue::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// A value of TOML or JSON.
pub(crate) enum ConfigValue {
    Text(String),
    /// A number beyond 64 bits is the largest or smallest there is, and fails the check of its range.
    Integer(i64),
    Float(f64),
    Flag(bool),
    /// TOML only; in JSON a time is a text.
    Time(String),
    List(Vec<SpannedValue>),
    Table(ConfigTable),
    /// JSON only.
    Null,
    /// Recording mode, in no file: the parser tells the values it accepts.
    Recording(AcceptedValues),
}

impl ConfigValue {
    /// In recording mode, notes the JSON Schema of the values a parser accepts.
    pub(crate) fn record(&self, accepts: impl FnOnce() -> serde_json::Value) {
        if let Self::Recording(question) = self {
            question.get_or_init(accepts);
        }
    }
}

/// Keys in alphabetical order.
pub(crate) type ConfigTable = BTreeMap<String, TableEntry>;

/// The value of a key.
pub(crate) struct TableEntry {
    pub(crate) line: Option<u32>,
    /// JSON allows a duplicate key; which one is meant is undefined.
    pub(crate) repeated: bool,
    pub(crate) node: SpannedValue,
}

/// A fault of syntax.
pub(crate) struct SyntaxFault {
    pub(crate) line: Option<u32>,
    pub(crate) text: String,
}

impl SyntaxFault {
    fn new(line: Option<u32>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { line, text }
    }
}

/// Reads a file: JSON if its name ends in `.json`, else TOML.
pub(crate) fn read(path: &Path) -> Result<ConfigTable, Vec<SyntaxFault>> {
    parse(path, &text_noting(path, &FilesRead::default())?)
}

/// The text of a file that is looked at again later.
pub(crate) fn text_noting(path: &Path, reads: &FilesRead) -> Result<String, Vec<SyntaxFault>> {
    let mut bytes = Vec::new();
    RegularFile::open(path, reads)
        .and_then(|file| file.read(u64::MAX, &mut bytes))
        .map_err(|error| vec![SyntaxFault::new(None, error_text(&error))])?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let line = LineStarts::of(error.as_bytes(), 0).at(place);
        vec![SyntaxFault::new(Some(line), "is not UTF-8")]
    })
}

/// Parses the present or future text of a file.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ConfigTable, Vec<SyntaxFault>> {
    let text = without_mark(text);
    let mut root = if is_json(path) {
        from_json(text).map_err(|fault| vec![fault])?
    } else {
        from_toml(text)?
    };
    // For editors, not for us.
    if self::text(&root, "$schema").is_some() {
        root.remove("$schema");
    }
    Ok(root)
}

fn is_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

/// RFC 8259 lets readers of JSON pass over a byte order mark, and TOML 1.1 says that they do.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A part of a TOML file that is a list of tables: some of these tables. It has its own text, so that the memory of a long
/// file is given back piece by piece while that of its tenants grows.
pub(crate) struct FilePiece {
    text: Box<str>,
    /// How many lines of the file come before the piece.
    lines_before: usize,
}

/// Where a piece may begin and end.
struct PieceSpan<'t> {
    text: &'t str,
    /// The text and the header behind it: no header of the list may follow a list in brackets.
    with_next_header: &'t str,
    lines_before: usize,
}

/// The pieces of a long TOML file that is a list of tables, each with the header `[[word]]`. Read piece by piece the file gives
/// the same tables as whole: a piece begins with a header, and all below a header refers to the last one. `None` for another
/// file, and for one that has a fault.
///
/// A tenant's tree takes six KB, which a hundred thousand of them never take at once.
pub(crate) fn pieces(path: &Path, text: &str, word: &str) -> Option<Vec<FilePiece>> {
    if is_json(path) || text.len() <= PIECE {
        return None;
    }
    let (text, header) = (without_mark(text), format!("\n[[{word}]]"));
    let (mut spans, mut begin, mut lines_before) = (Vec::new(), 0, 0);
    while begin < text.len() {
        let least = text.floor_char_boundary(begin + PIECE);
        let next = text[least..].find(&header).map(|at| least + at + 1);
        let end = next.unwrap_or(text.len());
        spans.push(PieceSpan {
            text: &text[begin..end],
            with_next_header: &text[begin..next.map_or(end, |at| at + header.len() - 1)],
            lines_before,
        });
        lines_before += text[begin..end].matches('\n').count();
        begin = end;
    }
    let are_lists = on_threads(&spans, PIECES_OF_A_THREAD, |span| span.is_list(word));
    let piece = |span: &PieceSpan<'_>| FilePiece {
        text: span.text.into(),
        lines_before: span.lines_before,
    };
    (spans.len() > 1 && !are_lists.contains(&false)).then(|| spans.iter().map(piece).collect())
}

impl PieceSpan<'_> {
    /// Whether the piece has tables under this key, and nothing else. A header within a text of several lines is none: it
    /// would end a piece in the middle of the text.
    fn is_list(&self, word: &str) -> bool {
        let (root, errors) = DeTable::parse_recoverable(self.with_next_header);
        let is_only_key = root.get_ref().keys().all(|key| key.get_ref() == word);
        errors.is_empty() && is_only_key
    }
}

impl FilePiece {
    /// Parses the piece.
    pub(crate) fn parse(&self) -> Result<ConfigTable, Vec<SyntaxFault>> {
        from_toml_behind(&self.text, self.lines_before)
    }
}

/// The tables of a file's tenants, for questions that are no reading.
pub(crate) fn tenants(root: &ConfigTable) -> Vec<&ConfigTable> {
    let tables = tenants_by_position(root).into_iter();
    tables.map(|(_, table)| table).collect()
}

/// The same, each with its place among all items of the list: an item may be no table.
pub(crate) fn tenants_by_position(root: &ConfigTable) -> Vec<(usize, &ConfigTable)> {
    if root.contains_key("tenant") {
        tables_of(root, "tenant")
    } else {
        vec![(0, root)]
    }
}

/// The tables in a list, each with its place among all items.
pub(crate) fn tables_of<'a>(table: &'a ConfigTable, key: &str) -> Vec<(usize, &'a ConfigTable)> {
    let list = table.get(key).map(|entry| &entry.node.value);
    let Some(ConfigValue::List(nodes)) = list else {
        return Vec::new();
    };
    let tables = nodes.iter().map(SpannedValue::table).enumerate();
    tables
        .filter_map(|(position, table)| Some((position, table?)))
        .collect()
}

/// The text under a key, likewise.
pub(crate) fn text<'a>(table: &'a ConfigTable, key: &str) -> Option<&'a str> {
    match &table.get(key)?.node.value {
        ConfigValue::Text(text) => Some(text),
        _ => None,
    }
}

/// An I/O error in an operator's words, without the path the message would otherwise repeat.
pub(crate) fn error_text(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "file not found",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::IsADirectory => "is not a regular file",
        io::ErrorKind::NotADirectory => "folder not found",
        _ => "cannot be read",
    }
}

/// Reads TOML; every fault of syntax at once.
pub(crate) fn from_toml(text: &str) -> Result<ConfigTable, Vec<SyntaxFault>> {
    from_toml_behind(text, 0)
}

/// As [`from_toml`], of a part of a text that begins after this number of lines.
fn from_toml_behind(text: &str, lines_before: usize) -> Result<ConfigTable, Vec<SyntaxFault>> {
    let lines = LineStarts::of(text.as_bytes(), lines_before);
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        Ok(table(root.into_inner(), &lines))
    } else {
        let fault = |error: &toml::de::Error| {
            let line = error.span().map(|span| lines.at(span.start));
            SyntaxFault::new(line, error.message())
        };
        Err(errors.iter().map(fault).collect())
    }
}

fn table(entries: DeTable<'_>, lines: &LineStarts) -> ConfigTable {
    let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
        let line = Some(lines.at(key.span().start));
        let entry = TableEntry {
            line,
            repeated: false,
            node: node(value, lines),
        };
        (std::borrow::Cow::into_owned(key.into_inner()), entry)
    };
    entries.into_iter().map(entry).collect()
}

fn node(value: Spanned<DeValue<'_>>, lines: &LineStarts) -> SpannedValue {
    let line = Some(lines.at(value.span().start));
    let value = match value.into_inner() {
        DeValue::String(text) => ConfigValue::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let farthest = if number.as_str().starts_with('-') {
                i64::MIN
            } else {
                i64::MAX
            };
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            ConfigValue::Integer(parsed.unwrap_or(farthest))
        }
        DeValue::Float(number) => ConfigValue::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => ConfigValue::Flag(flag),
        DeValue::Datetime(time) => ConfigValue::Time(time.to_string()),
        DeValue::Array(items) => {
            ConfigValue::List(items.into_iter().map(|item| node(item, lines)).collect())
        }
        DeValue::Table(entries) => ConfigValue::Table(table(entries, lines)),
    };
    SpannedValue { line, value }
}

/// Reads JSON, whose parser stops at the first fault of syntax.
pub(crate) fn from_json(text: &str) -> Result<ConfigTable, SyntaxFault> {
    let root: SpannedValue = serde_json::from_str(text).map_err(|error| {
        let whole = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let line = u32::try_from(error.line()).ok();
        SyntaxFault::new(line, whole.strip_suffix(&place).unwrap_or("is not JSON"))
    })?;
    match root.value {
        ConfigValue::Table(table) => Ok(table),
        _ => Err(SyntaxFault::new(None, "must be a JSON object")),
    }
}

impl<'de> Deserialize<'de> for SpannedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(AnyJson)?;
        Ok(Self { line: None, value })
    }
}

/// Takes any JSON value, so that no message of serde's about types, which quotes the value, ever arises.
struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = ConfigValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Integer(
            i64::try_from(number).unwrap_or(i64::MAX),
        ))
    }

    fn visit_f64<E>(self, number: f64) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<ConfigValue, E> {
        Ok(ConfigValue::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ConfigValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(ConfigValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ConfigValue, A::Error> {
        let mut table = ConfigTable::new();
        while let Some((key, node)) = entries.next_entry::<String, SpannedValue>()? {
            let repeated = table.contains_key(&key);
            let entry = TableEntry {
                line: None,
                repeated,
                node,
            };
            table.insert(key, entry);
        }
        Ok(ConfigValue::Table(table))
    }
}

/// Where each line begins, so that looking up a line does not read the file again.
struct LineStarts {
    starts: Vec<usize>,
    /// How many lines of the file come before the text.
    before: usize,
}

impl LineStarts {
    fn of(text: &[u8], before: usize) -> Self {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
        Self {
            starts: starts.collect(),
            before,
        }
    }

    /// The line of the file, counted from one, on which the byte at an offset of the text stands.
    fn at(&self, offset: usize) -> u32 {
        let line = self.starts.partition_point(|begin| *begin <= offset);
        u32::try_from(self.before + line).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> ConfigTable {
        from_toml(text).ok().unwrap()
    }

    fn inner<'a>(table: &'a ConfigTable, key: &str) -> &'a ConfigTable {
        match &table[key].node.value {
            ConfigValue::Table(table) => table,
            ConfigValue::List(list) => match &list[0].value {
                ConfigValue::Table(table) => table,
                _ => panic!("not a table"),
            },
            _ => panic!("not a table"),
        }
    }

    #[test]
    fn every_value_knows_its_line() {
        let root = toml("a = 1\n\n[b]\nc = 'x'\nd = { e = true }\n[[f]]\n# note\ng = [\n1,\n2]\n");
        assert_eq!(root["a"].line, Some(1));
        assert_eq!(root["b"].node.line, Some(3));
        assert_eq!(inner(&root, "b")["c"].line, Some(4));
        assert_eq!(inner(inner(&root, "b"), "d")["e"].line, Some(5));
        let ConfigValue::List(tables) = &root["f"].node.value else {
            panic!("not a list")
        };
        assert_eq!(tables[0].line, Some(6));
        let ConfigValue::List(numbers) = &inner(&root, "f")["g"].node.value else {
            panic!("not a list")
        };
        assert_eq!(numbers[1].line, Some(10));
    }

    /// A file with so many tenants that it has several pieces.
    fn long_file() -> String {
        let tenant = |number: usize| {
            let comment = "# one of many\n".repeat(number % 3);
            let lines = "note = '''\na text\nof lines'''\n".repeat(number % 2);
            format!(
                "{comment}[[tenant]]\nid = 't{number}'\n{lines}[tenant.limits]\nburst = {number}\n[[tenant.credential]]\nclient_id = 'é'\n"
            )
        };
        (0..2_000).map(tenant).collect()
    }

    fn pieces_of(text: &str, word: &str) -> Option<Vec<FilePiece>> {
        pieces(Path::new("all.toml"), text, word)
    }

    /// The tables of a list: each key with its line, each text and number.
    fn shown(list: &SpannedValue) -> Vec<String> {
        fn show(value: &ConfigValue) -> String {
            match value {
                ConfigValue::Text(text) => format!("{text:?}"),
                ConfigValue::Integer(number) => number.to_string(),
                ConfigValue::List(items) => items.iter().map(|item| show(&item.value)).collect(),
                ConfigValue::Table(table) => {
                    let entry = |(key, entry): (&String, &TableEntry)| {
                        let at = (entry.line, entry.node.line);
                        format!("{key} {at:?} = {};", show(&entry.node.value))
                    };
                    table.iter().map(entry).collect()
                }
                _ => panic!("not in these files"),
            }
        }
        let ConfigValue::List(items) = &list.value else {
            panic!("not a list")
        };
        let item = |item: &SpannedValue| format!("{:?} {}", item.line, show(&item.value));
        items.iter().map(item).collect()
    }

    #[test]
    fn the_pieces_of_a_long_file_have_the_tables_of_the_whole_with_their_lines() {
        for text in [
            long_file(),
            format!("\u{feff}{}", long_file().replace('\n', "\r\n")),
        ] {
            let whole = parse(Path::new("all.toml"), &text).ok().unwrap();
            let pieces = pieces_of(&text, "tenant").unwrap();
            assert!(pieces.len() > 2);
            let roots = pieces.iter().map(|piece| piece.parse().ok().unwrap());
            let parts: Vec<_> = roots.flat_map(|root| shown(&root["tenant"].node)).collect();
            assert_eq!(parts, shown(&whole["tenant"].node));
        }
    }

    #[test]
    fn only_a_faultless_list_of_tables_has_pieces() {
        let text = long_file();
        assert!(pieces_of(&text[..PIECE], "tenant").is_none(), "short");
        assert!(pieces_of(&text, "operator").is_none(), "another list");
        let (begin, end) = text.split_at(text.find("[[tenant]]\nid = 't1999'").unwrap());
        for odd in [
            format!("tenant = []\n{text}"),
            format!("name = 1\n{text}"),
            format!("{text}[other]\n"),
            format!("{text}key"),
            format!("{begin}note = '''{}\n{end}'''\n", "x".repeat(PIECE)),
            format!("{begin}list = [\n{}{end}]\n", "1,\n".repeat(PIECE)),
        ] {
            assert!(pieces_of(&odd, "tenant").is_none());
        }
        // A header within a text is none, wherever it stands.
        let quoted = format!("{begin}note = '''\n[[tenant]]\n'''\n{end}");
        assert!(pieces_of(&quoted, "tenant").is_some());
        assert!(pieces(Path::new("all.json"), &text, "tenant").is_none());
    }

    #[test]
    fn all_faults_of_syntax_are_found_and_none_quotes_the_source() {
        let faults = from_toml("a = 1\nsecret = hunter2hunter2\nb = 2\nb = 3\n[c\n")
            .err()
            .unwrap();
        let mut lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        lines.sort();
        assert_eq!(lines, [Some(2), Some(4), Some(5)]);
        assert!(faults.iter().all(|fault| !fault.text.contains("hunter2")));
    }

    #[test]
    fn a_fault_in_json_has_a_line_and_no_excerpt() {
        let fault = from_json("{\n \"secret\": hunter2\n}").err().unwrap();
        assert_eq!(
            (fault.line, fault.text.as_str()),
            (Some(2), "expected value")
        );
        assert_eq!(from_json("[]").err().unwrap().text, "must be a JSON object");
    }

    #[test]
    fn a_key_that_stands_twice_in_json_is_marked() {
        let root = from_json(r#"{"a": 1, "b": 2, "a": 3}"#).ok().unwrap();
        assert!(root["a"].repeated && !root["b"].repeated);
    }

    #[test]
    fn a_number_too_large_stays_too_large() {
        for text in ["99999999999999999999", "0xffffffffffffffffff"] {
            let root = toml(&format!("n = {text}"));
            assert!(matches!(
                root["n"].node.value,
                ConfigValue::Integer(i64::MAX)
            ));
        }
        let root = toml("n = -99999999999999999999");
        assert!(matches!(
            root["n"].node.value,
            ConfigValue::Integer(i64::MIN)
        ));
        let root = from_json(r#"{"n": 18446744073709551615}"#).ok().unwrap();
        assert!(matches!(
            root["n"].node.value,
            ConfigValue::Integer(i64::MAX)
        ));
    }
}
