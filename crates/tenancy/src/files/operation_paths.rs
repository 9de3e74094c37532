//! Where the rows of a changed catalogue may lead: no tenant's to the institution's own paths, none to the path of a
//! stronger kind or of another money call, and no two to one place.

use std::collections::HashMap;
use std::iter::zip;

use gatepay_core::Operation;
use gatepay_core::operation::OperationScope;
use gatepay_core::spelling::{KnownKinds, MoneyPaths, PathSide, folded, is_reserved};

use crate::syntax::table_reader::SourceLocation;

const OWN: &str = "is the institution's own and is never open to tenants";

/// All rows as the tables leave them, to be judged together.
pub(crate) struct CataloguePaths<'a> {
    rows: &'a [Operation],
    /// The rows of GatePay's documentation, in the same order; in `rows` added ones follow.
    built_in: &'a [Operation],
    /// The places of the tables that changed or added a row, by row.
    places: HashMap<usize, SourceLocation>,
    /// The folded institution path of each row.
    folded: Vec<Option<String>>,
    known: KnownKinds<'a>,
    money: MoneyPaths<'a>,
}

impl<'a> CataloguePaths<'a> {
    pub(crate) fn new(
        rows: &'a [Operation],
        built_in: &'a [Operation],
        places: HashMap<usize, SourceLocation>,
    ) -> Self {
        let folded = |row: &Operation| row.institution_path.as_deref().map(folded);
        Self {
            rows,
            built_in,
            places,
            folded: rows.iter().map(folded).collect(),
            known: KnownKinds::of(built_in, rows),
            money: MoneyPaths::of(built_in, rows),
        }
    }
}

impl CataloguePaths<'_> {
    /// The problems of a row among the others, by key.
    pub(crate) fn faults(&self, position: usize) -> Vec<(&'static str, String)> {
        let institution = self.institution_fault(position);
        let merchant = self.merchant_fault(position);
        let institution = institution.map(|fault| ("institution_path", fault));
        let merchant = merchant.map(|fault| ("merchant_path", fault));
        institution.into_iter().chain(merchant).collect()
    }

    /// Why a row cannot have its institution path.
    fn institution_fault(&self, position: usize) -> Option<String> {
        let row = &self.rows[position];
        let path = row.institution_path.as_deref()?;
        if row.scope == OperationScope::Tenant && self.is_own(path) {
            return Some(OWN.to_owned());
        }
        if row.scope == OperationScope::Institution
            && let Some(other) = self.leads(OperationScope::Tenant, path)
        {
            let other = self.name(other);
            return Some(format!(
                "is also the path of {other}, which tenants may call; use a different path"
            ));
        }
        let method = row.institution_method;
        let twin = self.other_than(position, |other| {
            other.institution_method == method && other.institution_path.as_deref() == Some(path)
        });
        if let Some(other) = twin {
            return Some(format!("has the same method and path as {other}"));
        }
        if let Some(fault) = self.kind_fault(position, PathSide::Institution) {
            return Some(fault);
        }
        if let Some(other) = self.money.other(row) {
            let name = &other.name;
            return Some(format!(
                "is a path of {name}: caps, destinations and halts would judge the call as {}, and GatePay execute it as {name}",
                row.name
            ));
        }
        let is_known = self
            .built_in
            .get(position)
            .is_some_and(|row| published(row, path));
        if row.scope == OperationScope::Tenant
            && !is_known
            && !path.split('/').any(|it| it == "institution")
        {
            // On-Behalf-Of may mean nothing there.
            return Some(
                "has no segment `institution`: GatePay might make the call for the institution itself"
                    .to_owned(),
            );
        }
        None
    }

    /// Why a row cannot have its merchant path.
    fn merchant_fault(&self, position: usize) -> Option<String> {
        let row = &self.rows[position];
        let path = row.merchant_path.as_deref()?;
        if self.is_own(path) {
            return Some(OWN.to_owned());
        }
        let twin = self.other_than(position, |other| {
            other.method == row.method && other.merchant_path.as_deref() == Some(path)
        });
        twin.map(|other| format!("has the same method and path as {other}"))
            .or_else(|| self.kind_fault(position, PathSide::Merchant))
    }

    /// Why a row's kind does not go with a path: the path is known for a stronger call, or this call is stronger than a
    /// built-in read of that path.
    fn kind_fault(&self, position: usize, side: PathSide) -> Option<String> {
        let row = &self.rows[position];
        let path = side.path(row).map(folded);
        // A built-in row without a table of its own has no place where the fault could stand.
        let makes_weak = |(other, weaker): (usize, &Operation)| {
            weaker.kind < row.kind
                && !self.places.contains_key(&other)
                && side.path(weaker).map(folded) == path
                && self.known.stronger(weaker, side) == Some(row)
        };
        let stronger = self.known.stronger(row, side);
        let stronger = stronger.and_then(|stronger| self.position(stronger));
        let mut rows = self.rows.iter().enumerate();
        let other = stronger.or_else(|| rows.position(makes_weak))?;
        let (name, kind) = (self.name(other), self.rows[other].kind);
        Some(format!(
            "is the path of {name}, which is of kind {kind}: no call of kind {} may lead there, in any version or \
             spelling and by any method",
            row.kind
        ))
    }

    /// Whether a path is the institution's own, in any version and spelling.
    fn is_own(&self, path: &str) -> bool {
        is_reserved(path) || self.leads(OperationScope::Institution, path).is_some()
    }

    /// The row of a scope that leads to a path, in any version and spelling.
    fn leads(&self, scope: OperationScope, path: &str) -> Option<usize> {
        let path = folded(path);
        let mut rows = zip(self.rows, &self.folded);
        rows.position(|(row, own)| row.scope == scope && own.as_ref() == Some(&path))
    }

    fn other_than(&self, position: usize, is: impl Fn(&Operation) -> bool) -> Option<String> {
        let mut rows = self.rows.iter().enumerate();
        let other = rows.find(|(other, row)| *other != position && is(row));
        other.map(|(other, _)| self.name(other))
    }

    fn position(&self, row: &Operation) -> Option<usize> {
        self.rows.iter().position(|other| other.name == row.name)
    }

    /// A name of ours, or where one of the operator's making stands.
    fn name(&self, position: usize) -> String {
        match (self.built_in.get(position), self.places.get(&position)) {
            (None, Some(place)) => format!("the operation at {place}"),
            _ => self.rows[position].name.to_string(),
        }
    }
}

/// Whether GatePay's pages print this institution path for a row.
fn published(row: &Operation, path: &str) -> bool {
    let mut alternatives = row.alternatives.iter();
    row.institution_path.as_deref() == Some(path) || alternatives.any(|(_, other)| *other == path)
}
