//! Incarnations, the ledger, and tokens of URLs.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ownership::TenantIncarnation;

use super::super::PostgresStore;
use super::super::admit::{cell, millis};
use super::{big, event_id, numbered, one_row, settlement, small, tenant, unexpected, unsigned};
use crate::error::StoreError;
use crate::notifications::event::EventId;
use crate::notifications::ledger::{
    CallbackToken, CallbackUrl, LastCredential, LedgerHolder, LedgerNote, LedgerSource,
    MOST_CALLBACK_URLS, TenantAccount,
};

const REGISTER: &str = "SELECT gatepay.register_tenants_v1($1, $2) AS numbers";
const LAST: &str = "SELECT o_client_id AS client_id FROM gatepay.last_credentials_v1($1, $2)";
/// The incarnation that had the account when the row was written; of rows from before the first one, that one.
const OWNERS: &str = "SELECT k.n, o.tenant, o.account, o.at AS noted, o.operation, o.source,
        o.outcome, o.outcome_status AS status, o.outcome_event::text AS event, o.outcome_at AS at,
        coalesce(
            (SELECT max(i.incarnation) FROM gatepay.incarnation AS i
                WHERE i.tenant = o.tenant AND i.account = o.account AND i.began <= o.at),
            (SELECT min(i.incarnation) FROM gatepay.incarnation AS i WHERE i.tenant = o.tenant AND i.account = o.account),
            0) AS incarnation
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(kind, key, n)
    JOIN gatepay.owner AS o ON o.kind = k.kind AND o.key = k.key
    ORDER BY k.n, o.tenant COLLATE \"C\", o.account COLLATE \"C\"";
const ACCOUNTS: &str = "SELECT (SELECT count(*) FROM gatepay.incarnation AS i WHERE i.account = a.account) AS incarnations
    FROM unnest($1::text[]) WITH ORDINALITY AS a(account, n) ORDER BY a.n";
const NOTE: &str = "SELECT gatepay.note_owners_v1($1, $2, $3, $4, $5, $6, $7, $8) AS woken";
const TOKEN: &str = "SELECT * FROM gatepay.callback_token_v1($1, $2, $3, $4, $5, $6)";
const URLS: &str = "SELECT k.n, t.tenant, t.incarnation, i.account, t.url, t.made_for
    FROM unnest($1::text[]) WITH ORDINALITY AS k(token, n)
    JOIN gatepay.url_token AS t ON t.token = k.token
    JOIN gatepay.incarnation AS i ON i.tenant = t.tenant AND i.incarnation = t.incarnation";

impl PostgresStore {
    pub(crate) async fn register_tenants(
        &self,
        tenants: &[TenantAccount],
    ) -> Result<Vec<TenantIncarnation>, StoreError> {
        let ids: Vec<&str> = tenants.iter().map(|it| &*it.tenant).collect();
        let accounts: Vec<&str> = tenants.iter().map(|it| &*it.account).collect();
        let rows = self
            .run_on(&self.notifications.arrivals, REGISTER, &[&ids, &accounts])
            .await?;
        let numbers: Vec<i64> = cell(one_row(&rows)?, "numbers")?;
        if numbers.len() != tenants.len() {
            return Err(unexpected("incarnations are missing"));
        }
        let registered = tenants.iter().zip(numbers);
        let registered = registered.map(|(it, number)| TenantIncarnation {
            tenant: it.tenant.clone(),
            account: it.account.clone(),
            incarnation: unsigned(number),
        });
        Ok(registered.collect())
    }

    pub(crate) async fn last_credentials(
        &self,
        parties: &[LastCredential],
    ) -> Result<Vec<Option<String>>, StoreError> {
        let ids: Vec<&str> = parties.iter().map(|it| &*it.party).collect();
        let used: Vec<Option<&str>> = parties.iter().map(|it| it.used.as_deref()).collect();
        let line = &self.notifications.arrivals;
        let rows = self.run_on(line, LAST, &[&ids, &used]).await?;
        if rows.len() != parties.len() {
            return Err(unexpected("last credentials are missing"));
        }
        rows.iter().map(|row| cell(row, "client_id")).collect()
    }

    pub(crate) async fn account_incarnations(
        &self,
        accounts: &[String],
    ) -> Result<Vec<u64>, StoreError> {
        let line = &self.notifications.arrivals;
        let rows = self.run_on(line, ACCOUNTS, &[&accounts]).await?;
        let counts = rows.iter().map(|row| cell(row, "incarnations"));
        counts.map(|count| count.map(unsigned)).collect()
    }

    pub(crate) async fn owners(
        &self,
        keys: &[LedgerKey],
    ) -> Result<Vec<Vec<LedgerHolder>>, StoreError> {
        let kinds: Vec<&str> = keys.iter().map(|key| key.kind().as_str()).collect();
        let texts: Vec<&str> = keys.iter().map(LedgerKey::text).collect();
        let rows = self
            .run_on(&self.notifications.arrivals, OWNERS, &[&kinds, &texts])
            .await?;
        let mut holders = vec![Vec::new(); keys.len()];
        for row in &rows {
            let holder = LedgerHolder {
                tenant: tenant(row)?,
                at_ms: unsigned(cell(row, "noted")?),
                operation: cell(row, "operation")?,
                source: cell(row, "source")?,
                proved: match cell::<Option<i16>>(row, "outcome")? {
                    Some(_) => Some(settlement::proved(row)?),
                    None => None,
                },
            };
            numbered(&mut holders, row)?.push(holder);
        }
        Ok(holders)
    }

    pub(crate) async fn note_owners(
        &self,
        notes: &[LedgerNote],
        source: LedgerSource,
    ) -> Result<Vec<EventId>, StoreError> {
        let text = |of: fn(&LedgerNote) -> &str| notes.iter().map(of).collect::<Vec<&str>>();
        let kinds = text(|note| note.key.kind().as_str());
        let keys = text(|note| note.key.text());
        let tenants = text(|note| &note.holder.tenant);
        let accounts = text(|note| &note.holder.account);
        let operations = text(|note| &note.operation);
        let ats: Vec<Option<i64>> = notes.iter().map(|note| note.at_ms.map(millis)).collect();
        let currencies: Vec<Option<&str>> =
            notes.iter().map(|note| note.currency.as_deref()).collect();
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                NOTE,
                &[
                    &kinds,
                    &keys,
                    &tenants,
                    &accounts,
                    &ats,
                    &operations,
                    &currencies,
                    &source.as_str(),
                ],
            )
            .await?;
        let woken: Vec<String> = cell(one_row(&rows)?, "woken")?;
        woken.iter().map(|id| event_id(id)).collect()
    }

    pub(crate) async fn callback_token(
        &self,
        wanted: &CallbackUrl,
        proposed: &str,
    ) -> Result<CallbackToken, StoreError> {
        let CallbackUrl {
            tenant,
            url,
            made_for,
        } = wanted;
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                TOKEN,
                &[
                    &tenant.tenant,
                    &big(tenant.incarnation),
                    url,
                    made_for,
                    &proposed,
                    &small(MOST_CALLBACK_URLS),
                ],
            )
            .await?;
        let row = one_row(&rows)?;
        match (cell::<i16>(row, "verdict")?, cell(row, "o_token")?) {
            (0, Some(token)) => Ok(CallbackToken::Token(token)),
            (1, _) => Ok(CallbackToken::TooManyUrls),
            (2, _) => Ok(CallbackToken::Removed),
            _ => Err(unexpected("an unknown verdict about a token")),
        }
    }

    pub(crate) async fn callback_urls(
        &self,
        tokens: &[&str],
    ) -> Result<Vec<Option<CallbackUrl>>, StoreError> {
        let rows = self
            .run_on(&self.notifications.arrivals, URLS, &[&tokens])
            .await?;
        let mut urls = vec![None; tokens.len()];
        for row in &rows {
            let url = CallbackUrl {
                tenant: tenant(row)?,
                url: cell(row, "url")?,
                made_for: cell(row, "made_for")?,
            };
            *numbered(&mut urls, row)? = Some(url);
        }
        Ok(urls)
    }
}
