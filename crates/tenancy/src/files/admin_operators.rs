//! `admin_operators` of a party's table: the `[[admin.operator]]` that hold the party's secret, and so must not approve calls
//! that it signs.

use crate::model::party::PartyId;
use crate::model::settings::{AdminOperator, Settings};
use crate::syntax::table_reader::TableReader;
use crate::syntax::value;

/// The settings that the key is checked with.
#[derive(Clone, Copy)]
pub(crate) struct ApproverTerms<'a> {
    operators: &'a [AdminOperator],
    /// Whether calls of the institution's own operators may need an approval.
    asks_operators: bool,
}

/// The key of both kinds of files.
const KEY: &str = "admin_operators";

/// Reads the key. Without terms only its form is judged: a file that is read again by itself is checked with all others.
pub(crate) fn of_tenant(
    reader: &mut TableReader<'_>,
    terms: Option<ApproverTerms<'_>>,
) -> Vec<PartyId> {
    let holders = reader.list(KEY, value::text(PartyId::parse));
    let holders = holders.unwrap_or_default();
    if let Some(fault) = terms.and_then(|terms| terms.unknown(&holders)) {
        reader.problem(KEY, fault);
    }
    holders
}

/// The same for an operator, which must say it if its calls may need an approval.
pub(crate) fn of_operator(
    reader: &mut TableReader<'_>,
    terms: Option<ApproverTerms<'_>>,
) -> Option<Vec<PartyId>> {
    let holders = reader.list(KEY, value::text(PartyId::parse));
    let fault = terms.and_then(|terms| terms.fault(holders.as_deref()));
    if let Some(fault) = fault.filter(|_| holders.is_some() || !reader.has(KEY)) {
        reader.problem(KEY, fault);
    }
    holders
}

impl<'a> ApproverTerms<'a> {
    pub(crate) fn of(settings: &'a Settings) -> Self {
        let mut caps = settings.caps.all.iter();
        Self {
            operators: &settings.admin.operators,
            asks_operators: caps.any(|cap| !cap.shadow && cap.approve_above.is_some()),
        }
    }

    /// The fault of an operator's key.
    pub(crate) fn fault(&self, holders: Option<&[PartyId]>) -> Option<String> {
        match holders {
            Some(holders) => self.unknown(holders),
            None if self.asks_operators => Some(
                "is required: caps.all has approve_above, and an [[admin.operator]] that holds this operator's secret must \
                 not approve its calls; name those that do, or [] if none does"
                    .to_owned(),
            ),
            None => None,
        }
    }

    /// The fault of a name that no `[[admin.operator]]` has: a slip of it would let its bearer approve.
    pub(crate) fn unknown(&self, holders: &[PartyId]) -> Option<String> {
        let is_known = |holder: &&PartyId| self.operators.iter().any(|it| it.name == **holder);
        let unknown = holders.iter().find(|holder| !is_known(holder))?;
        Some(format!(
            "{unknown} is the name of no [[admin.operator]] in proxy.toml"
        ))
    }
}
