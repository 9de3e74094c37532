//! A tenant's table, as written.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::files::admin_operators;
use crate::files::caps_file;
use crate::files::destinations_file;
use crate::files::notifications_file;
use crate::files::party_file::{self, PartyBounds};
use crate::files::secrets::SecretSources;
use crate::model::claims::UniqueClaims;
use crate::model::permissions::CallerClass;
use crate::model::tenant::{SubAccount, Tenant, TenantOptions, TenantRemarks};
use crate::syntax::table_reader::{SourceLocation, TableReader};
use crate::syntax::value;

/// One share: with nothing said, all tenants are equal.
const WEIGHT: NonZeroU32 = NonZeroU32::MIN;

/// In characters. More is a document, which belongs elsewhere.
const LONGEST_REMARK: usize = 500;

/// Reads one tenant. `None` if something it cannot be without is missing or wrong; that was reported.
pub(crate) fn read(
    mut reader: TableReader<'_>,
    terms: PartyBounds<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Option<Tenant> {
    let party = party_file::read(&mut reader, CallerClass::Tenants, terms, sources, claims);
    let (sub_account, shared_sub_account) = sub_account(&mut reader, claims);
    let weight = reader.or("weight", WEIGHT, value::requests);
    let credentials = party.as_ref().map(|party| &*party.credentials);
    let notifications = reader.table("notifications").map(|table| {
        let credentials = credentials.unwrap_or_default();
        notifications_file::of_tenant(table, terms.endpoints, credentials, sources)
    });
    let remarks = TenantRemarks {
        contact: reader.optional("contact", value::text(remark)),
        note: reader.optional("note", value::text(remark)),
    };
    let options = TenantOptions {
        notifications: notifications.map(Arc::new),
        caps: caps_file::of_tenant(&mut reader, terms.has_store),
        destinations: destinations_file::of_tenant(&mut reader, terms.has_store),
        admin_operators: admin_operators::of_tenant(&mut reader, terms.approvers),
        remarks,
    };
    reader.finish();
    Some(Tenant {
        options: options.if_any(),
        party: party?,
        sub_account: sub_account?,
        shared_sub_account,
        weight,
    })
}

/// It is printed to terminals and pages as it stands.
fn remark(text: &str) -> Result<String, &'static str> {
    let printable = !text.contains(gatepay_core::visible::steers);
    if printable && (1..=LONGEST_REMARK).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err("must be one line of 1 to 500 characters")
    }
}

fn sub_account(
    reader: &mut TableReader<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> (Option<SubAccount>, bool) {
    let account = reader.required("sub_account", value::text(SubAccount::parse));
    let shared = reader.or("shared_sub_account", false, value::flag);
    if let Some(account) = &account
        && let Some(other) =
            claims.stake_account(account, || reader.location("sub_account"), shared)
    {
        let text = format!(
            "is already used at {other}; if intended, set shared_sub_account = true in both"
        );
        reader.problem("sub_account", text);
    }
    (account, shared)
}
