//! Spelling: compares paths in all their spellings. Finds the paths that belong to the institution alone, and the
//! strongest known kind of each path.
//!
//! Requests are matched by exact paths. These comparisons are for the rows that configuration adds. GatePay's router
//! may fold letter case, escapes, slashes and versions in ways that no page describes, so paths that could be equal
//! are equal here.

use std::collections::HashMap;

use crate::operation::{Kind, Method, Operation};

/// Maximum number of times that a path is unescaped: more than any chain of proxies unescapes.
const ESCAPES: usize = 4;

/// Paths that act on accounts other than the caller's: sub-accounts, transfer and charge (protocol.md 2). Each path is
/// a sequence of segments in this order, with any segments between them. The last may be the beginning of a longer
/// word.
const RESERVED: [&[&str]; 3] = [
    &["merchant", "open", "institution", "accounts"],
    &["transfer", "open", "institution", "pay", "transfer"],
    &["transfer", "open", "institution", "pay", "charge"],
];
/// The first segment of the paths of fee settings.
const RATE: &str = "rate";
/// The beginning of a segment that also marks a path of fee settings.
const FEE_RULE: &str = "commission_rule";

/// Whether a path is unambiguous: it starts with `/`, and has no doubled slash, dot segment, escape, backslash, or byte
/// outside visible ASCII (protocol.md 2). Query and fragment are not part of a path.
pub fn is_canonical(path: &str) -> bool {
    let is_plain =
        |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b'?' | b'#' | b';');
    path.as_bytes().strip_prefix(b"/").is_some_and(|segments| {
        // All bytes are checked without a branch for each, which is several times cheaper. So are the beginnings of all
        // segments: only one that is empty or begins with a dot needs a closer look.
        let begins_oddly =
            |(before, byte): (&u8, &u8)| *before == b'/' && matches!(byte, b'/' | b'.');
        let beginnings = path.as_bytes().iter().zip(segments);
        let is_odd = beginnings.fold(path.ends_with('/'), |any, pair| any | begins_oddly(pair));
        segments.iter().fold(true, |all, byte| all & is_plain(byte))
            && (!is_odd || segments.split(|byte| *byte == b'/').all(is_segment))
    })
}

/// Whether a segment of a path is neither empty nor a dot segment.
fn is_segment(segment: &[u8]) -> bool {
    !matches!(segment, b"" | b"." | b"..")
}

/// The letters and digits of a name up to an index, in lower case. Parsers differ in which spellings they take for the
/// same name: `bankName`, `bank_name` and `BankName[0]` are equal here.
pub(crate) fn folded_name(name: &[u8]) -> impl Iterator<Item = u8> {
    #[cfg(test)]
    tests::FOLDED.set(tests::FOLDED.get() + 1);
    let name = name.iter().take_while(|byte| **byte != b'[');
    let letters = name.filter(|byte| byte.is_ascii_alphanumeric());
    letters.map(u8::to_ascii_lowercase)
}

/// A path without the differences that a router may ignore: letter case, escapes, doubled and final slashes, dot
/// segments, path parameters, a query, and segments that are versions (`v1`, `v10`, `V2`, `v2beta`).
///
/// Two paths that may lead to the same place have the same folded form. The form is for comparing, not for sending.
pub fn folded(path: &str) -> String {
    let mut folded = String::with_capacity(path.len());
    for segment in segments(path) {
        folded.push('/');
        folded.push_str(&segment);
    }
    folded
}

/// Whether a path belongs to the institution alone, in any spelling and any version.
pub fn is_reserved(path: &str) -> bool {
    let segments = segments(path);
    segments.first().is_some_and(|first| first == RATE)
        || segments.iter().any(|segment| segment.starts_with(FEE_RULE))
        || RESERVED.iter().any(|words| contains(&segments, words))
}

/// Whether the words occur among the segments in this order, the last word at the beginning of a segment.
fn contains(segments: &[String], words: &[&str]) -> bool {
    let Some((last, words)) = words.split_last() else {
        return false;
    };
    let mut segments = segments.iter();
    words
        .iter()
        .all(|word| segments.any(|segment| segment == word))
        && segments.any(|segment| segment.starts_with(last))
}

fn segments(path: &str) -> Vec<String> {
    let mut text = path.to_owned();
    for _ in 0..ESCAPES {
        let decoded = unescaped(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        let segment = segment.split(';').next().unwrap_or_default().trim();
        match segment {
            "" | "." => {}
            ".." => _ = segments.pop(),
            // Upper case first: some letters outside ASCII have an ASCII letter as their other case.
            _ => segments.push(segment.to_uppercase().to_lowercase()),
        }
    }
    segments.retain(|segment| !is_version(segment));
    segments
}

/// Replaces each valid escape by its byte, and keeps other escapes.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.first_chunk().filter(|_| *first == b'%');
        if let Some(byte) = escape.and_then(|digits: &[u8; 2]| hex::decode(digits).ok()) {
            bytes.extend(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a segment is a version: `v` and a digit, with any continuation.
fn is_version(segment: &str) -> bool {
    let mut letters = segment.chars();
    letters.next() == Some('v') && letters.next().is_some_and(|digit| digit.is_ascii_digit())
}

/// One of the two paths of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSide {
    /// The path that tenants call.
    Merchant,
    /// The path of GatePay that the call leads to.
    Institution,
}

impl PathSide {
    /// The path of a row on this side.
    pub fn path(self, row: &Operation) -> Option<&str> {
        match self {
            Self::Merchant => row.merchant_path.as_deref(),
            Self::Institution => row.institution_path.as_deref(),
        }
    }
}

/// The strongest known kind of each path, over the rows of GatePay's documentation and those of a catalogue.
///
/// The proxy may repeat a read, and does not look up a read. So a read with the path of a call that moves funds could
/// move the funds twice. The effect of the method on a path is known only for the documentation's own rows.
#[derive(Debug)]
pub struct KnownKinds<'a> {
    published: &'a [Operation],
    /// The strongest row of each folded path.
    strongest: HashMap<String, &'a Operation>,
}

impl<'a> KnownKinds<'a> {
    /// Learns from the documentation's rows, and then from the rows of a catalogue.
    pub fn of(published: &'a [Operation], rows: &'a [Operation]) -> Self {
        let mut strongest: HashMap<String, &'a Operation> = HashMap::new();
        for row in published.iter().chain(rows) {
            for path in paths(row) {
                let known = strongest.entry(folded(path)).or_insert(row);
                if known.kind < row.kind {
                    *known = row;
                }
            }
        }
        Self {
            published,
            strongest,
        }
    }

    /// The row that makes `row` too weak for its path on the given side.
    pub fn stronger(&self, row: &Operation, side: PathSide) -> Option<&'a Operation> {
        let path = side.path(row)?;
        let method = match side {
            PathSide::Merchant => row.method,
            PathSide::Institution => row.institution_method,
        };
        let path_folded = folded(path);
        let known = *self.strongest.get(&path_folded)?;
        if row.kind >= known.kind {
            return None;
        }
        // The documentation has one path for setting and for reading a fee rule.
        let is_shared = |other: &Operation| {
            other.kind > row.kind && paths(other).any(|path| folded(path) == path_folded)
        };
        let is_excused = self.is_published(row, method, path)
            && (row.kind == Kind::Write || self.published.iter().any(is_shared));
        (!is_excused).then_some(known)
    }

    /// Whether the documentation itself has this row at this method and path.
    fn is_published(&self, row: &Operation, method: Method, path: &str) -> bool {
        self.published
            .iter()
            .filter(|published| published.name == row.name && published.kind == row.kind)
            .any(|published| places(published).any(|place| place == (method, path)))
    }
}

/// The paths of the documentation's money calls: as published, and as a catalogue has them.
///
/// Caps, lists of destinations and halts judge a money call by its row. A row that leads to the path of another money call would
/// be judged by one call's rules and executed as the other.
#[derive(Debug)]
pub struct MoneyPaths<'a> {
    /// By folded path.
    calls: HashMap<String, Vec<&'a Operation>>,
}

impl<'a> MoneyPaths<'a> {
    /// Learns from the documentation's rows, and from their present paths in a catalogue.
    pub fn of(published: &'a [Operation], rows: &'a [Operation]) -> Self {
        let is_published = |row: &&Operation| published.iter().any(|it| it.name == row.name);
        let present = rows.iter().filter(is_published);
        let mut calls: HashMap<String, Vec<&Operation>> = HashMap::new();
        for row in published.iter().chain(present) {
            if row.kind == Kind::Money {
                for path in paths(row) {
                    calls.entry(folded(path)).or_default().push(row);
                }
            }
        }
        Self { calls }
    }

    /// The other money call whose path a row leads to, in any version and spelling and by any method.
    pub fn other(&self, row: &Operation) -> Option<&'a Operation> {
        let at_path = self.calls.get(&folded(row.institution_path.as_deref()?))?;
        at_path.iter().find(|call| call.name != row.name).copied()
    }
}

/// The methods and paths of a row: as configured, and as GatePay's pages print them.
fn places(row: &Operation) -> impl Iterator<Item = (Method, &str)> {
    let merchant = row.merchant_path.as_deref().map(|path| (row.method, path));
    let institution = row.institution_path.as_deref();
    let institution = institution.map(|path| (row.institution_method, path));
    let others = row.alternatives.iter().copied();
    merchant.into_iter().chain(institution).chain(others)
}

fn paths(row: &Operation) -> impl Iterator<Item = &str> {
    places(row).map(|(_, path)| path)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Catalogue, CatalogueError};
    use crate::catalogue_rows;
    use crate::operation::OperationScope;

    thread_local! {
        /// How many names were folded, for tests that count the work.
        pub(crate) static FOLDED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn reserved_paths_are_reserved_in_every_version_and_spelling() {
        for path in [
            "/merchant/open/institution/v1/accounts/create",
            "/merchant/open/institution/v2/accounts/create",
            "/merchant/open/institution/v10/accounts",
            "/merchant/open/institution/V2/Accounts/create",
            "/merchant/open/institution/accounts/create",
            "/merchant/open/institution/v2beta/accounts/create",
            "/merchant/open/institution/beta/accounts/create",
            "/v2/merchant/open/institution/accounts/v1/create",
            "/merchant/open/institution/v1/accounts/",
            "//merchant//open/institution/v1/accounts",
            "/merchant/open/x/../institution/./v1/accounts",
            "/merchant/open/institution/v1/%61ccounts",
            "/merchant/open/institution/v1%2Faccounts",
            "/merchant/open/institution/v1/%2561ccounts",
            "/merchant/open/institution/v1/accounts;x=1",
            "/merchant\\open\\institution\\v1\\accounts",
            "/merchant/open/institution/v1/account\u{17f}",
            "/transfer/open/institution/v2/pay/transfer",
            "/transfer/open/institution/v2/pay/transfers/detail",
            "/transfer/open/institution/pay/charge",
            "/transfer/open/institution/v1/pay/v2/charges/detail",
            "/rate/other",
            "/rate",
            "/v2/rate/commission_rule",
            "/payment/open/institution/v1/commission_rule/list",
        ] {
            assert!(is_reserved(path), "{path}");
        }
    }

    #[test]
    fn paths_beside_reserved_ones_are_not_reserved() {
        for path in [
            "/merchant/open/institution/v1/pay/merchant/product/create",
            "/merchant/open/institution/v1/pay/fixedaddress/save",
            "/merchant/open/v1/accounts",
            "/transfer/open/institution/v1/pay/convert",
            "/payment/open/institution/v1/pay/convert/rate",
            "/v1/pay/batch/transfer",
            "/payment/open/institution/v1/pay/charge",
            "/rates",
        ] {
            assert!(!is_reserved(path), "{path}");
        }
        for row in Catalogue::standard().rows() {
            let tenants = row.scope == OperationScope::Tenant;
            assert!(
                !tenants || !paths(row).any(is_reserved),
                "{} is a tenant's",
                row.name
            );
        }
    }

    #[test]
    fn a_read_is_too_weak_for_the_path_of_any_stronger_row() {
        let standard = catalogue_rows::rows();
        for strong in standard.iter().filter(|row| row.kind != Kind::Read) {
            for path in paths(strong) {
                let mut rows = standard.clone();
                let mut read = rows[1].clone();
                assert_eq!(read.kind, Kind::Read);
                read.name = "added".into();
                read.merchant_path = Some("/v1/added".into());
                read.scope = strong.scope;
                if read.scope == OperationScope::Institution {
                    read.merchant_path = None;
                }
                read.institution_method = Method::Put;
                read.institution_path = Some(path.to_uppercase().into());
                rows.push(read);
                assert!(
                    matches!(
                        Catalogue::new(rows),
                        Err(CatalogueError::Weaker(..) | CatalogueError::Reserved(_))
                    ),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn the_documentations_rows_are_strong_enough_for_their_own_paths() {
        let standard = catalogue_rows::rows();
        let known = KnownKinds::of(&standard, &standard);
        for row in &standard {
            assert!(
                known.stronger(row, PathSide::Institution).is_none(),
                "{}",
                row.name
            );
            assert!(
                known.stronger(row, PathSide::Merchant).is_none(),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn a_published_read_does_not_share_its_path_with_an_added_write() {
        let mut rows = catalogue_rows::rows();
        let mut added = rows[0].clone();
        added.name = "added".into();
        added.merchant_path = Some("/v1/added".into());
        added.institution_method = Method::Put;
        added.institution_path = rows[1].institution_path.clone();
        rows.push(added);
        assert_eq!(
            Catalogue::new(rows).unwrap_err(),
            CatalogueError::Weaker("query_order".into(), "added".into())
        );
    }

    /// A spelling of one segment.
    fn spelled(segment: &str, how: u8) -> String {
        match how % 5 {
            0 => segment.to_owned(),
            1 => segment.to_uppercase(),
            2 => format!("{segment}/"),
            3 => format!("%{:02x}{}", segment.as_bytes()[0], &segment[1..]),
            _ => format!("./{segment}"),
        }
    }

    proptest! {
        /// Every spelling and version of a path folds to the same form.
        #[test]
        fn every_spelling_of_a_path_has_the_same_folded_form(
            row in 0_usize..90,
            how in prop::collection::vec(any::<u8>(), 12),
            version in prop::option::of("[vV][0-9]{1,3}([a-z]{0,5}|\\.[0-9])"),
        ) {
            let rows = catalogue_rows::rows();
            let row = &rows[row % rows.len()];
            for path in paths(row) {
                let mut odd = String::new();
                for (segment, how) in path.split('/').skip(1).zip(&how) {
                    let segment = match (is_version(segment), &version) {
                        (true, Some(version)) => version,
                        (true, None) => continue,
                        (false, _) => segment,
                    };
                    odd.push('/');
                    odd.push_str(&spelled(segment, *how));
                }
                prop_assert_eq!(folded(&odd), folded(path), "{}", &odd);
                prop_assert_eq!(is_reserved(&odd), row.scope == OperationScope::Institution, "{}", odd);
            }
        }
    }

    #[test]
    fn only_one_spelling_of_a_path_is_canonical() {
        for plain in ["/v1/pay/order", "/.well-known/a", "/v1/...", "/v1.0/pay."] {
            assert!(is_canonical(plain), "{plain:?}");
        }
        for odd in [
            "",
            "v1",
            "/",
            "/v1/",
            "//v1",
            "/v1//pay",
            "/v1/./pay",
            "/v1/../pay",
            "/.",
            "/v1/..",
            "/v1/%2e/pay",
            "/v1%2fpay",
            "/v1\\pay",
            "/v1/pay;x",
            "/v1/pay?x",
            "/v1/ü",
            "/v1/\0",
            "/v1/pay#x",
            "/v1/pay order",
        ] {
            assert!(!is_canonical(odd), "{odd:?}");
        }
    }
}
