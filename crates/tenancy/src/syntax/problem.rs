//! Problems of a configuration, with their places.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// One problem of a file. Its text does not repeat the file's values: one of them may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the folder of `proxy.toml` where it lies under it.
    pub file: PathBuf,
    /// Counted from one. JSON knows it for faults of syntax only.
    pub line: Option<u32>,
    /// The path to the key, like `credential[1].secret`; empty if the whole file is meant.
    pub key: String,
    /// The problem and, where that is short, its remedy.
    pub text: String,
}

/// `tenants.d/acme.toml:14: limits.requests_per_second: must be at least 1`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Where problems gather while files are read: reading goes on after each of them.
#[derive(Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn add(
        &self,
        file: &Path,
        line: Option<u32>,
        key: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.0.borrow_mut().push(Problem {
            file: file.to_owned(),
            line,
            key: key.into(),
            text: text.into(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All of them, by file, line and key.
    pub(crate) fn sorted(self) -> Vec<Problem> {
        let mut all = self.0.into_inner();
        all.sort();
        all.dedup();
        all
    }
}

/// The candidate that was probably meant: at most two slips of the pen away, one for the shortest words.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|candidate| word.len().abs_diff(candidate.len()) <= 2)
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(slips, candidate)| *slips <= if candidate.len() <= 3 { 1 } else { 2 })
        .min()
        .map(|(_, candidate)| candidate)
}

/// The candidates that may have been meant, most likely first and at most three: those at most two slips of the pen away,
/// then those that have the word in them.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let slips = |candidate: &str| match distance(word.as_bytes(), candidate.as_bytes()) {
        slips if slips <= if candidate.len() <= 3 { 1 } else { 2 } => Some(slips),
        _ if word.len() >= 3 && candidate.contains(word) => Some(word.len() + candidate.len()),
        _ => None,
    };
    // No key is this long; comparing would only take time.
    let candidates = candidates.into_iter().filter(|_| word.len() <= 128);
    let near = candidates.filter_map(|candidate| Some((slips(candidate)?, candidate)));
    let mut near: Vec<_> = near.collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter()
        .map(|(_, candidate)| candidate)
        .take(3)
        .collect()
}

/// How many bytes have to be inserted, removed or replaced to turn one into the other (Levenshtein).
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_compilers() {
        let mut problem = Problem {
            file: "tenants.d/acme.toml".into(),
            line: Some(14),
            key: "limits.requests_per_second".into(),
            text: "must be at least 1".into(),
        };
        assert_eq!(
            problem.to_string(),
            "tenants.d/acme.toml:14: limits.requests_per_second: must be at least 1"
        );
        problem.line = None;
        problem.key.clear();
        assert_eq!(
            problem.to_string(),
            "tenants.d/acme.toml: must be at least 1"
        );
    }

    #[test]
    fn a_slip_is_recognized_and_a_stranger_is_not() {
        let keys = ["id", "burst", "requests_per_second", "in_flight"];
        assert_eq!(closest("brust", keys), Some("burst"));
        assert_eq!(
            closest("request_per_second", keys),
            Some("requests_per_second")
        );
        assert_eq!(closest("inflight", keys), Some("in_flight"));
        assert_eq!(closest("ip", keys), Some("id"));
        assert_eq!(closest("xy", keys), None);
        assert_eq!(closest("password", keys), None);
        assert_eq!(closest("", keys), None);
    }

    #[test]
    fn the_nearest_names_come_first_and_few() {
        let names = [
            "refund_order",
            "refund_order_v2",
            "refund_order_v3",
            "create_order",
        ];
        assert_eq!(nearest("refnd_order", names), ["refund_order"]);
        assert_eq!(
            nearest("refund_order_v4", names),
            ["refund_order_v2", "refund_order_v3"]
        );
        assert_eq!(
            nearest("refund", names),
            ["refund_order", "refund_order_v2", "refund_order_v3"]
        );
        assert_eq!(nearest("x", names), [""; 0]);
        assert_eq!(nearest("", ["", "ab"]), [""]);
        assert_eq!(nearest(&"refund_order".repeat(1_000), names), [""; 0]);
    }
}
