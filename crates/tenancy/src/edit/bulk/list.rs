//! A list of tenants in CSV: a header that names keys of a tenant's table, and a line for each tenant.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::edit::tenant_keys::{self, KeyValue, TenantKey};
use crate::model::party::PartyId;
use crate::model::tenant::SubAccount;

/// One problem of a list. Its text does not repeat the list's values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListProblem {
    /// The list.
    pub file: PathBuf,
    /// Counted from one.
    pub line: u64,
    /// The column's number, counted from one, and its name; `None` if the whole line is meant.
    pub column: Option<(usize, String)>,
    /// The problem.
    pub text: String,
}

/// `tenants.csv:4: column 3 (limits.burst): must be at least 1`.
impl fmt::Display for ListProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)?;
        if let Some((number, name)) = &self.column {
            write!(f, ": column {number}")?;
            if !name.is_empty() {
                write!(f, " ({name})")?;
            }
        }
        write!(f, ": {}", self.text)
    }
}

/// Tenants to add, as a list has them. Their values have the right form; whether they are right, the readers of tenants' files say.
pub struct TenantList {
    pub(super) file: PathBuf,
    pub(super) columns: Vec<TenantKey>,
    pub(super) rows: Vec<ListedTenant>,
}

/// A line of a list.
pub(super) struct ListedTenant {
    pub(super) line: u64,
    pub(super) id: PartyId,
    pub(super) sub_account: SubAccount,
    /// By path; `id` and `sub_account` are among them.
    pub(super) values: BTreeMap<String, KeyValue>,
}

impl TenantList {
    /// Reads a list; `file` names it in problems.
    pub fn read(file: &Path, bytes: &[u8]) -> Result<Self, Vec<ListProblem>> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut lines = csv::ReaderBuilder::new();
        // Lines of other lengths are problems with a place of ours.
        lines.flexible(true).has_headers(false).trim(csv::Trim::All);
        let mut records = lines.from_reader(bytes).into_byte_records();
        let mut problems = ListProblems {
            file,
            found: Vec::new(),
        };
        let Some(Ok(header)) = records.next() else {
            problems.add(1, None, "is empty; the first line names the columns");
            return Err(problems.found);
        };
        let columns = problems.columns(&header);
        if !problems.found.is_empty() {
            return Err(problems.found);
        }
        let mut rows = Vec::new();
        for record in records {
            let Ok(record) = record else {
                problems.add(1, None, "cannot be read as CSV");
                break;
            };
            rows.extend(problems.row(&columns, &record, line_of(bytes, &record)));
        }
        if rows.is_empty() && problems.found.is_empty() {
            problems.add(1, None, "names no tenant after its header");
        }
        if !problems.found.is_empty() {
            return Err(problems.found);
        }
        Ok(Self {
            file: file.to_owned(),
            columns,
            rows,
        })
    }

    /// The tenants' ids and sub-accounts, in the order of the list.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = (&PartyId, &SubAccount)> {
        self.rows.iter().map(|row| (&row.id, &row.sub_account))
    }

    /// A problem of a row's value; `path` is the key, or one of the items of its list.
    pub(super) fn problem(&self, row: usize, path: &str, text: String) -> ListProblem {
        let is_meant = |key: &TenantKey| {
            let rest = path.strip_prefix(key.path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        let column = self.columns.iter().position(is_meant);
        ListProblem {
            file: self.file.clone(),
            line: self.rows[row].line,
            column: column.map(|at| (at + 1, self.columns[at].path.clone())),
            text: if column.is_some() || path.is_empty() {
                text
            } else {
                format!("{path}: {text}")
            },
        }
    }
}

/// The line that a record begins on: the reader's own is that of the empty lines before it.
fn line_of(bytes: &[u8], record: &csv::ByteRecord) -> u64 {
    let Some(position) = record.position() else {
        return 1;
    };
    let begin = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = bytes.get(begin..).unwrap_or_default().iter();
    let empty = rest.take_while(|byte| matches!(byte, b'\r' | b'\n'));
    let skipped = empty.filter(|byte| **byte == b'\n').count();
    position.line() + u64::try_from(skipped).unwrap_or(0)
}

struct ListProblems<'a> {
    file: &'a Path,
    found: Vec<ListProblem>,
}

impl ListProblems<'_> {
    fn add(&mut self, line: u64, column: Option<(usize, &str)>, text: impl Into<String>) {
        self.found.push(ListProblem {
            file: self.file.to_owned(),
            line,
            column: column.map(|(at, name)| (at + 1, name.to_owned())),
            text: text.into(),
        });
    }

    fn columns(&mut self, header: &csv::ByteRecord) -> Vec<TenantKey> {
        let keys = tenant_keys::of_list();
        let mut columns: Vec<TenantKey> = Vec::new();
        for (at, name) in header.iter().enumerate() {
            let Ok(name) = str::from_utf8(name) else {
                self.add(1, Some((at, "")), "is not UTF-8");
                continue;
            };
            let found = tenant_keys::named(&keys, name);
            match found {
                Ok(key) if columns.contains(key) => {
                    self.add(1, Some((at, name)), "stands twice in the header");
                }
                Ok(key) => columns.push(key.clone()),
                Err(text) => {
                    // A list without a header begins with a tenant, whose values may be confidential.
                    let is_word = name.len() <= 40
                        && name
                            .bytes()
                            .all(|b| b.is_ascii_alphabetic() || b"_-. ".contains(&b));
                    self.add(1, Some((at, if is_word { name } else { "" })), text);
                }
            }
        }
        for needed in ["id", "sub_account"] {
            if !columns.iter().any(|key| key.path == needed) {
                self.add(1, None, format!("the header needs a column \"{needed}\""));
            }
        }
        columns
    }

    fn row(
        &mut self,
        columns: &[TenantKey],
        record: &csv::ByteRecord,
        line: u64,
    ) -> Option<ListedTenant> {
        let before = self.found.len();
        if record.len() != columns.len() {
            let (has, header) = (record.len(), columns.len());
            self.add(
                line,
                None,
                format!("has {has} fields, the header has {header}"),
            );
            return None;
        }
        let values = self.values(columns, record, line);
        let id = self.parsed(columns, line, &values, "id", PartyId::parse);
        let sub_account = self.parsed(columns, line, &values, "sub_account", SubAccount::parse);
        if self.found.len() > before {
            return None;
        }
        Some(ListedTenant {
            line,
            id: id?,
            sub_account: sub_account?,
            values,
        })
    }

    /// The values of the cells that are not empty, by path.
    fn values(
        &mut self,
        columns: &[TenantKey],
        record: &csv::ByteRecord,
        line: u64,
    ) -> BTreeMap<String, KeyValue> {
        let mut values = BTreeMap::new();
        for (at, (key, cell)) in columns.iter().zip(record).enumerate() {
            let read = match str::from_utf8(cell) {
                Ok("") => continue,
                Ok(cell) => key.read(cell),
                Err(_) => Err("is not UTF-8"),
            };
            match read {
                Ok(value) => {
                    values.insert(key.path.clone(), value);
                }
                Err(text) => self.add(line, Some((at, key.path.as_str())), text),
            }
        }
        values
    }

    /// A value that a tenant cannot be without.
    fn parsed<T, E: fmt::Display>(
        &mut self,
        columns: &[TenantKey],
        line: u64,
        values: &BTreeMap<String, KeyValue>,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = match values.get(path) {
            Some(KeyValue::Text(text)) => parse(text).map_err(|error| error.to_string()),
            _ => Err("is required".to_owned()),
        };
        let at = columns.iter().position(|key| key.path == path);
        let report = |text| self.add(line, at.map(|at| (at, path)), text);
        parsed.map_err(report).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let read = TenantList::read(Path::new("t.csv"), text.as_bytes());
        let problems = read.err().unwrap();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_of_a_spreadsheet_is_read_with_its_marks_quotes_and_empty_cells() {
        let text = "\u{feff}id,sub_account,limits.burst,addresses,note\r\n\
                    acme,1,100,\"10.0.0.0/8, ::1\",\"says \"\"hi\"\"\"\r\n globex ,2,,,\r\n";
        let list = TenantList::read(Path::new("t.csv"), text.as_bytes());
        let list = list.ok().unwrap();
        let ids: Vec<_> = list.tenants().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["acme", "globex"]);
        let acme = &list.rows[0].values;
        assert_eq!(acme["limits.burst"], KeyValue::Integer(100));
        assert_eq!(acme["note"], KeyValue::Text("says \"hi\"".to_owned()));
        let addresses = ["10.0.0.0/8", "::1"].map(str::to_owned).to_vec();
        assert_eq!(acme["addresses"], KeyValue::List(addresses));
        assert_eq!(list.rows[1].values.len(), 2);
    }

    #[test]
    fn a_header_is_required_and_its_slips_name_the_nearest_key() {
        assert_eq!(
            problems("id,sub-account,limits.brust,id\nacme,1,2,3\n"),
            [
                "t.csv:1: column 2 (sub-account): unknown key (did you mean \"sub_account\"?)",
                "t.csv:1: column 3 (limits.brust): unknown key (did you mean \"limits.burst\"?)",
                "t.csv:1: column 4 (id): stands twice in the header",
                "t.csv:1: the header needs a column \"sub_account\"",
            ]
        );
        assert!(problems("acme,2124538349\n")[0].contains("column 1"));
        assert!(
            !problems("acme,2124538349\n")
                .concat()
                .contains("2124538349"),
            "a value is not repeated"
        );
        assert_eq!(
            problems(""),
            ["t.csv:1: is empty; the first line names the columns"]
        );
        assert_eq!(
            problems("id,sub_account\n"),
            ["t.csv:1: names no tenant after its header"]
        );
    }

    #[test]
    fn every_problem_of_every_line_is_told_with_line_and_column() {
        let told =
            problems("id,sub_account,weight\nAcme,1,much\n\nglobex,,1\ninitech,3\n\"a\nb\",2,1\n");
        let begins = [
            "t.csv:2: column 3 (weight): must be a whole number",
            "t.csv:2: column 1 (id): ",
            "t.csv:4: column 2 (sub_account): is required",
            "t.csv:5: has 2 fields, the header has 3",
            "t.csv:6: column 1 (id): ",
        ];
        assert_eq!(told.len(), begins.len(), "{told:?}");
        for (told, begin) in told.iter().zip(begins) {
            assert!(told.starts_with(begin), "{told}: {begin}");
        }
    }
}
