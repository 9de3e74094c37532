//! Catalogue: every API call this program knows, found by method and path.
//!
//! Rows drive everything else. An API call without a row does not exist: there are no prefix rules (protocol.md 2).

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::catalogue_rows;
use crate::operation::{AccountHeader, Kind, Method, Operation, OperationScope};
use crate::spelling::{KnownKinds, MoneyPaths, PathSide, folded, is_canonical, is_reserved};

/// All rows, indexed by name and by method and path, merchant and institution. Finding a row takes constant time.
#[derive(Debug, Clone)]
pub struct Catalogue {
    rows: Vec<Operation>,
    by_name: HashMap<Box<str>, usize>,
    by_merchant_path: PathIndex,
    by_institution_path: PathIndex,
}

/// The rows by path and method. Callers cannot add paths, so a hash without a secret key is safe.
type PathIndex = HashMap<Box<str>, MethodIndex, foldhash::fast::FixedState>;

/// The row of each method.
type MethodIndex = [Option<u16>; 4];

/// The reason why a set of rows is not a valid catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Two rows have the same name.
    #[error("operation {0} is defined twice")]
    Name(String),
    /// Two rows have the same method and path.
    #[error("operations {0} and {1} have the same method and path {2}")]
    Path(String, String, String),
    /// A tenant's row has a path that belongs to the institution alone.
    #[error("operation {0} would open a path of the institution's own to tenants")]
    Reserved(String),
    /// A row has a weaker kind than the known kind of its path: for example a read with the path of a write or money
    /// call.
    #[error("operation {0} has the path of {1}, which is of a stronger kind")]
    Weaker(String, String),
    /// A row leads to the path of another money call, by whose rules its calls would not be judged.
    #[error("operation {0} has the path of {1}, by whose rules its calls would not be judged")]
    Alias(String, String),
    /// A row has a path that no request can match.
    #[error("operation {0} has a path that is not canonical")]
    NotCanonical(String),
}

impl Catalogue {
    /// The catalogue of GatePay's documentation.
    ///
    /// # Panics
    /// Never: a test builds this catalogue.
    pub fn standard() -> Self {
        // Made once: each row's paths are compared in all their spellings, which costs far more than the copy.
        static STANDARD: LazyLock<Catalogue> = LazyLock::new(|| {
            Catalogue::new(catalogue_rows::rows()).expect("the built-in rows make a catalogue")
        });
        STANDARD.clone()
    }

    /// Builds the catalogue from its rows.
    ///
    /// A duplicate or ambiguous row is an error. So is a row that would open a path of the institution's own to a
    /// tenant, that has the path of a stronger kind, or that of another money call. Every configuration passes through these checks.
    ///
    /// # Panics
    /// With more than 65,536 rows.
    pub fn new(rows: Vec<Operation>) -> Result<Self, CatalogueError> {
        let own: HashSet<String> = rows
            .iter()
            .filter(|row| row.scope == OperationScope::Institution)
            .filter_map(|row| row.institution_path.as_deref())
            .map(folded)
            .collect();
        let mut by_name = HashMap::new();
        let mut by_merchant_path = PathIndex::default();
        let mut by_institution_path = PathIndex::default();
        for (index, row) in rows.iter().enumerate() {
            if by_name.insert(row.name.as_ref().into(), index).is_some() {
                return Err(CatalogueError::Name(row.name.to_string()));
            }
            if opens_reserved_path(row, &own) {
                return Err(CatalogueError::Reserved(row.name.to_string()));
            }
            if let Some(path) = &row.merchant_path {
                let route = (row.method, path.as_ref());
                index_path(&mut by_merchant_path, route, index, &rows)?;
            }
            if let Some(path) = &row.institution_path {
                let route = (row.institution_method, path.as_ref());
                index_path(&mut by_institution_path, route, index, &rows)?;
            }
        }
        refuse_weaker(&rows)?;
        refuse_aliases(&rows)?;
        Ok(Self {
            rows,
            by_name,
            by_merchant_path,
            by_institution_path,
        })
    }

    /// All rows, in the documentation's order.
    pub fn rows(&self) -> &[Operation] {
        &self.rows
    }

    /// A row's index in [`rows`](Self::rows): a small number for tables kept beside the catalogue.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The row with the given name.
    pub fn named(&self, name: &str) -> Option<&Operation> {
        self.position(name).map(|index| &self.rows[index])
    }

    /// A read without an account header, for the proxy's own probes, if such a row is on. The list of accounts comes
    /// first.
    pub fn probe(&self) -> Option<&Operation> {
        let fits = |row: &&Operation| {
            row.kind == Kind::Read && row.account == AccountHeader::None && row.off().is_none()
        };
        let list = self.named("list_accounts").filter(fits);
        list.or_else(|| self.rows.iter().find(fits))
    }

    /// The index of the row that a tenant reaches by method and canonical path.
    pub fn merchant(&self, method: Method, path: &str) -> Option<usize> {
        self.by_merchant_path.get(path)?[method as usize].map(usize::from)
    }

    /// The index of the row that an operator reaches by institution method and canonical path.
    pub fn institution(&self, method: Method, path: &str) -> Option<usize> {
        self.by_institution_path.get(path)?[method as usize].map(usize::from)
    }
}

/// Whether a row would open a path of the institution's own to tenants. `own` has the folded institution paths of the
/// institution's rows.
fn opens_reserved_path(row: &Operation, own: &HashSet<String>) -> bool {
    let mut paths = row.merchant_path.iter().chain(&row.institution_path);
    match row.scope {
        OperationScope::Institution => row.merchant_path.is_some(),
        OperationScope::Tenant => {
            paths.any(|path| is_reserved(path) || own.contains(&folded(path)))
        }
    }
}

/// Adds the row at `index` under a method and path.
fn index_path(
    by_path: &mut PathIndex,
    (method, path): (Method, &str),
    index: usize,
    rows: &[Operation],
) -> Result<(), CatalogueError> {
    let name = |index: usize| rows[index].name.to_string();
    if !is_canonical(path) {
        return Err(CatalogueError::NotCanonical(name(index)));
    }
    let slot = &mut by_path.entry(path.into()).or_default()[method as usize];
    let position = u16::try_from(index).expect("there are fewer than 65,536 operations");
    match slot.replace(position) {
        None => Ok(()),
        Some(other) => Err(CatalogueError::Path(
            name(usize::from(other)),
            name(index),
            path.to_owned(),
        )),
    }
}

/// Refuses a row with a weaker kind than the known kind of its path.
fn refuse_weaker(rows: &[Operation]) -> Result<(), CatalogueError> {
    let published = catalogue_rows::rows();
    let known = KnownKinds::of(&published, rows);
    for row in rows {
        let institution = known.stronger(row, PathSide::Institution);
        if let Some(stronger) = institution.or_else(|| known.stronger(row, PathSide::Merchant)) {
            let names = (row.name.to_string(), stronger.name.to_string());
            return Err(CatalogueError::Weaker(names.0, names.1));
        }
    }
    Ok(())
}

/// Refuses a row that leads to the path of another money call.
fn refuse_aliases(rows: &[Operation]) -> Result<(), CatalogueError> {
    let published = catalogue_rows::rows();
    let money = MoneyPaths::of(&published, rows);
    let alias = rows.iter().find_map(|row| Some((row, money.other(row)?)));
    alias.map_or(Ok(()), |(row, call)| {
        Err(CatalogueError::Alias(
            row.name.to_string(),
            call.name.to_string(),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::ApiModule;

    #[test]
    fn the_built_in_rows_make_a_catalogue() {
        let catalogue = Catalogue::standard();
        let row = catalogue
            .merchant(Method::Post, "/v1/pay/order")
            .map(|index| &catalogue.rows()[index]);
        assert_eq!(row.map(|row| row.name.as_ref()), Some("create_order"));
        assert_eq!(catalogue.merchant(Method::Get, "/v1/pay/order"), None);
        assert_eq!(catalogue.merchant(Method::Post, "/v1/pay/order/"), None);
    }

    #[test]
    fn a_name_means_one_thing_in_allow_and_deny() {
        for row in Catalogue::standard().rows() {
            assert!(
                ApiModule::parse(&row.name).is_none() && Kind::parse(&row.name).is_none(),
                "{}",
                row.name
            );
            assert!(
                row.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn a_look_up_is_a_read_that_is_asked_by_the_calls_own_key() {
        let catalogue = Catalogue::standard();
        for row in catalogue.rows() {
            let Some(look_up) = &row.look_up else {
                continue;
            };
            let target = catalogue
                .named(look_up.operation)
                .unwrap_or_else(|| panic!("{}: no such look-up", row.name));
            assert_eq!(
                (target.kind, target.scope),
                (Kind::Read, row.scope),
                "{}",
                row.name
            );
            for field in look_up.by.fields() {
                assert!(
                    row.key.fields().any(|own| own == field),
                    "{}: {field}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn a_row_defined_twice_is_refused() {
        let mut rows = catalogue_rows::rows();
        rows.push(rows[0].clone());
        assert_eq!(
            Catalogue::new(rows.clone()).unwrap_err(),
            CatalogueError::Name("create_order".into())
        );
        rows.last_mut().unwrap().name = "other".into();
        assert!(matches!(
            Catalogue::new(rows.clone()),
            Err(CatalogueError::Path(..))
        ));
        rows.last_mut().unwrap().merchant_path = Some("/v1/./pay".into());
        assert_eq!(
            Catalogue::new(rows).unwrap_err(),
            CatalogueError::NotCanonical("other".into())
        );
    }

    #[test]
    fn no_money_call_leads_to_the_path_of_another_one() {
        let moved = |name: &str, path: &str, method: Method| {
            let mut rows = catalogue_rows::rows();
            let row = rows.iter_mut().find(|row| row.name == name).unwrap();
            row.institution_path = Some(path.to_owned().into());
            row.institution_method = method;
            Catalogue::new(rows).err()
        };
        let rows = catalogue_rows::rows();
        let money = rows.iter().filter(|row| row.kind == Kind::Money);
        for call in money.clone() {
            let path = call.institution_path.as_deref();
            let others = money.clone().filter(|row| row.scope == call.scope);
            for other in others.filter(|other| other.name != call.name) {
                for spelled in [
                    path.unwrap_or("/none"),
                    call.merchant_path.as_deref().unwrap_or("/none"),
                ] {
                    let refused = moved(&other.name, &spelled.to_uppercase(), Method::Put);
                    let is_alias = matches!(refused, Some(CatalogueError::Alias(..)));
                    assert_eq!(is_alias, spelled != "/none", "{} {spelled}", other.name);
                }
            }
        }
        // A call at a path of its own, and two that have exchanged theirs.
        let own = "/payment/open/institution/v9/pay/order/refund";
        assert_eq!(moved("refund_order", own, Method::Post), None);
        let mut rows = catalogue_rows::rows();
        let place = |name| rows.iter().position(|row| row.name == name).unwrap();
        let (refund, payout) = (place("refund_order"), place("create_payout"));
        let path = rows[refund].institution_path.take();
        rows[refund].institution_path = rows[payout].institution_path.take();
        rows[payout].institution_path = path;
        let refused = Catalogue::new(rows);
        assert!(
            matches!(refused, Err(CatalogueError::Alias(..))),
            "{refused:?}"
        );
    }

    #[test]
    fn no_tenants_row_has_a_path_of_the_institutions_own() {
        let with = |change: fn(&mut Operation)| {
            let mut rows = catalogue_rows::rows();
            change(&mut rows[0]);
            Catalogue::new(rows).unwrap_err()
        };
        let refused = CatalogueError::Reserved("create_order".into());
        for change in [
            (|row| row.institution_path = Some("/rate/other".into())) as fn(&mut Operation),
            |row| row.institution_path = Some("/RATE/other".into()),
            |row| row.merchant_path = Some("/rate/other".into()),
        ] {
            assert_eq!(with(change), refused);
        }

        // A tenant's row may not have the new path of a moved institution row either.
        let mut rows = catalogue_rows::rows();
        let moved = "/institution/v2/accounts";
        let accounts = rows.iter_mut().find(|row| row.name == "create_account");
        accounts.unwrap().institution_path = Some(moved.into());
        rows[0].institution_path = Some(moved.to_uppercase().into());
        assert_eq!(Catalogue::new(rows).unwrap_err(), refused);
    }
}
