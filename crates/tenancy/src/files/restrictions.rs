//! The restrictions in a party's table, read apart from all else: any other key of the table may be wrong or missing.

use gatepay_core::ClientId;

use crate::model::party::{PartyId, Standing};
use crate::model::restriction::{CredentialDates, Restrictions};
use crate::syntax::document::{ConfigTable, ConfigValue};
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

/// The restrictions of a table that names its party, or none at all. Values that are wrong restrict nothing; the reader of
/// the whole table reports them.
pub(crate) fn read(table: &TableReader<'_>) -> Option<Restrictions> {
    let id = table.peek("id")?;
    let id = value::text(PartyId::parse)(id).ok()?;
    let standing = table.peek("standing").map(value::word(Standing::WORDS));
    let credentials = match table.peek("credential") {
        Some(ConfigValue::List(tables)) => {
            tables.iter().filter_map(|it| dates(&it.value)).collect()
        }
        _ => Box::default(),
    };
    Some(Restrictions {
        id,
        standing: standing.and_then(Result::ok).unwrap_or(Standing::Active),
        credentials,
    })
}

/// The dates of a `[[credential]]`, if it has any.
fn dates(credential: &ConfigValue) -> Option<CredentialDates> {
    let ConfigValue::Table(table) = credential else {
        return None;
    };
    let not_before = parsed(table, "not_before", value::time);
    let not_after = parsed(table, "not_after", value::time);
    if not_before.is_none() && not_after.is_none() {
        return None;
    }
    Some(CredentialDates {
        client_id: parsed(table, "client_id", value::text(ClientId::parse))?,
        not_before,
        not_after,
    })
}

fn parsed<T>(
    table: &ConfigTable,
    key: &str,
    parse: impl FnOnce(&ConfigValue) -> Result<T, ValueFault>,
) -> Option<T> {
    parse(&table.get(key)?.node.value).ok()
}
