//! An operator's table, as written.

use std::sync::Arc;

use crate::files::admin_operators;
use crate::files::notifications_file;
use crate::files::party_file::{self, PartyBounds};
use crate::files::secrets::SecretSources;
use crate::model::claims::{UniqueClaim, UniqueClaims};
use crate::model::operator::Operator;
use crate::model::permissions::CallerClass;
use crate::syntax::table_reader::{SourceLocation, TableReader};

/// Reads one operator. `None` if something it cannot be without is missing or wrong; that was reported.
pub(crate) fn read(
    mut reader: TableReader<'_>,
    terms: PartyBounds<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Option<Operator> {
    let party = party_file::read(&mut reader, CallerClass::Operators, terms, sources, claims);
    if reader.has("notifications")
        && let Some(other) = claims.stake(
            || UniqueClaim::OperatorNotifications,
            || reader.location("notifications"),
        )
    {
        let text =
            format!("is already set at {other}: news about the institution goes to one operator");
        reader.problem("notifications", text);
    }
    let credentials = party.as_ref().map(|party| &*party.credentials);
    let notifications = reader.table("notifications").map(|table| {
        let credentials = credentials.unwrap_or_default();
        notifications_file::of_operator(table, terms.endpoints, credentials, sources)
    });
    let admin_operators = admin_operators::of_operator(&mut reader, terms.approvers);
    reader.finish();
    Some(Operator {
        party: party?,
        notifications: notifications.map(Arc::new),
        admin_operators,
    })
}
