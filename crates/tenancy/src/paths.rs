//! Where the rows of a changed catalogue may lead: no tenant's to what is the institution's own, and no two to one place.

use std::collections::HashMap;

use gatepay_core::Operation;
use gatepay_core::operation::{Scope, is_reserved};

use crate::reader::Place;

const OWN: &str = "is the institution's own and is never open to tenants";

/// All rows as the tables leave them, to be judged together.
pub(crate) struct Whole<'a> {
    pub(crate) rows: &'a [Operation],
    /// Those of GatePay's documentation, in the same order; what follows them was added.
    pub(crate) built_in: &'a [Operation],
    /// Where the rows stand that tables changed or added.
    pub(crate) places: HashMap<usize, Place>,
}

impl Whole<'_> {
    /// What is wrong with a row among the others, by key.
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
        if row.scope == Scope::Tenant && self.is_own(path) {
            return Some(OWN.to_owned());
        }
        let is_tenants = |other: &Operation| other.scope == Scope::Tenant && leads_to(other, path);
        if row.scope == Scope::Institution
            && let Some(other) = self.rows.iter().position(is_tenants)
        {
            let other = self.name(other);
            return Some(format!(
                "leads where tenants may go with {other}; the institution's own needs a path of its own"
            ));
        }
        let method = row.institution_method;
        let twin = self.other_than(position, |other| {
            other.institution_method == method && other.institution_path.as_deref() == Some(path)
        });
        if let Some(other) = twin {
            return Some(format!("leads where {other} does, by the same method"));
        }
        let is_known = self
            .built_in
            .get(position)
            .is_some_and(|row| published(row, path));
        if row.scope == Scope::Tenant && !is_known && !path.split('/').any(|it| it == "institution")
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
        twin.map(|other| format!("is that of {other} already, by the same method"))
    }

    /// Whether a path is the institution's own, in any case of letters.
    fn is_own(&self, path: &str) -> bool {
        let mut own = self
            .rows
            .iter()
            .filter(|row| row.scope == Scope::Institution);
        is_reserved(path) || own.any(|row| leads_to(row, path))
    }

    fn other_than(&self, position: usize, is: impl Fn(&Operation) -> bool) -> Option<String> {
        let mut rows = self.rows.iter().enumerate();
        let other = rows.find(|(other, row)| *other != position && is(row));
        other.map(|(other, _)| self.name(other))
    }

    /// A name of ours, or where one of the operator's making stands.
    fn name(&self, position: usize) -> String {
        match (self.built_in.get(position), self.places.get(&position)) {
            (None, Some(place)) => format!("the operation at {place}"),
            _ => self.rows[position].name.to_string(),
        }
    }
}

fn leads_to(row: &Operation, path: &str) -> bool {
    let own = row.institution_path.as_deref();
    own.is_some_and(|own| own.eq_ignore_ascii_case(path))
}

/// Whether GatePay's pages print this institution path for a row.
fn published(row: &Operation, path: &str) -> bool {
    let mut alternatives = row.alternatives.iter();
    row.institution_path.as_deref() == Some(path) || alternatives.any(|(_, other)| *other == path)
}
