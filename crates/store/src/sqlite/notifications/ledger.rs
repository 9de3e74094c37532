//! Incarnations, the ledger, and tokens of URLs.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ownership::TenantIncarnation;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::SqliteStore;
use super::{big, event_id, is_newest, settlement};
use crate::error::StoreError;
use crate::notifications::event::EventId;
use crate::notifications::ledger::{
    CallbackToken, CallbackUrl, LastCredential, LedgerHolder, LedgerNote, LedgerSource,
    MOST_CALLBACK_URLS, TenantAccount,
};

/// The incarnation that had the account when the row was written; of rows from before the first one, that one.
pub(super) const OWNERS: &str = "SELECT o.tenant, o.account, o.at, o.operation, o.source,
        coalesce(
            (SELECT max(i.incarnation) FROM incarnation AS i
                WHERE i.tenant = o.tenant AND i.account = o.account AND i.began <= o.at),
            (SELECT min(i.incarnation) FROM incarnation AS i WHERE i.tenant = o.tenant AND i.account = o.account),
            0),
        o.outcome, o.outcome_status, o.outcome_event, o.outcome_at
    FROM owner AS o WHERE o.kind = ?1 AND o.key = ?2 ORDER BY o.tenant, o.account";

impl SqliteStore {
    pub(crate) async fn register_tenants(
        &self,
        tenants: &[TenantAccount],
    ) -> Result<Vec<TenantIncarnation>, StoreError> {
        let tenants = tenants.to_vec();
        self.change(move |change, now_ms| {
            let registered = tenants.into_iter().map(|it| register(change, it, now_ms));
            registered.collect()
        })
        .await
    }

    pub(crate) async fn last_credentials(
        &self,
        parties: &[LastCredential],
    ) -> Result<Vec<Option<String>>, StoreError> {
        let parties = parties.to_vec();
        self.change(move |change, _now_ms| {
            let note = "INSERT INTO last_credential VALUES (?1, ?2) ON CONFLICT DO UPDATE
                SET client_id = excluded.client_id WHERE client_id <> excluded.client_id";
            let mut note = change.prepare_cached(note)?;
            let last = "SELECT client_id FROM last_credential WHERE party = ?1";
            let mut last = change.prepare_cached(last)?;
            let known = parties.into_iter().map(|LastCredential { party, used }| {
                if let Some(used) = used {
                    note.execute([&party, &used])?;
                }
                let known = last.query_row([&party], |row| row.get(0));
                Ok(known.optional()?)
            });
            known.collect()
        })
        .await
    }

    pub(crate) async fn account_incarnations(
        &self,
        accounts: &[String],
    ) -> Result<Vec<u64>, StoreError> {
        let accounts = accounts.to_vec();
        self.run(move |file| {
            let counts = "SELECT count(*) FROM incarnation WHERE account = ?1";
            let mut counts = file.connection().prepare_cached(counts)?;
            let counts = accounts.iter().map(|account| {
                let count: i64 = counts.query_row([account], |row| row.get(0))?;
                Ok(count.unsigned_abs())
            });
            counts.collect()
        })
        .await
    }

    pub(crate) async fn owners(
        &self,
        keys: &[LedgerKey],
    ) -> Result<Vec<Vec<LedgerHolder>>, StoreError> {
        let keys = keys.to_vec();
        self.run(move |file| {
            keys.iter()
                .map(|key| owners(file.connection(), key))
                .collect()
        })
        .await
    }

    pub(crate) async fn note_owners(
        &self,
        notes: &[LedgerNote],
        source: LedgerSource,
    ) -> Result<Vec<EventId>, StoreError> {
        let notes = notes.to_vec();
        self.change(move |change, now_ms| {
            let mut woken = Vec::new();
            for note in &notes {
                note_owner(change, note, source, now_ms)?;
            }
            for note in &notes {
                woken.extend(wake(change, &note.key, now_ms)?);
            }
            woken.sort_unstable();
            woken.dedup();
            Ok(woken)
        })
        .await
    }

    pub(crate) async fn callback_token(
        &self,
        wanted: &CallbackUrl,
        proposed: &str,
    ) -> Result<CallbackToken, StoreError> {
        let (wanted, proposed) = (wanted.clone(), proposed.to_owned());
        self.change(move |change, now_ms| token(change, &wanted, &proposed, now_ms))
            .await
    }

    pub(crate) async fn callback_urls(
        &self,
        tokens: &[&str],
    ) -> Result<Vec<Option<CallbackUrl>>, StoreError> {
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        self.run(move |file| {
            tokens
                .iter()
                .map(|token| url(file.connection(), token))
                .collect()
        })
        .await
    }
}

fn register(
    change: &Connection,
    asked: TenantAccount,
    now_ms: i64,
) -> Result<TenantIncarnation, StoreError> {
    let newest = "SELECT incarnation, account FROM incarnation WHERE tenant = ?1 ORDER BY incarnation DESC LIMIT 1";
    let newest: Option<(i64, String)> = change
        .prepare_cached(newest)?
        .query_row([&asked.tenant], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let number = match newest {
        Some((number, account)) if account == asked.account => number,
        before => {
            let number = before.map_or(0, |before| before.0) + 1;
            change.execute(
                "INSERT INTO incarnation VALUES (?1, ?2, ?3, ?4)",
                params![asked.tenant, number, asked.account, now_ms],
            )?;
            change.execute(
                "UPDATE endpoint SET off = 'removed', next_at = NULL WHERE tenant = ?1 AND incarnation < ?2",
                params![asked.tenant, number],
            )?;
            number
        }
    };
    Ok(TenantIncarnation {
        tenant: asked.tenant,
        account: asked.account,
        incarnation: number.unsigned_abs(),
    })
}

fn owners(connection: &Connection, key: &LedgerKey) -> Result<Vec<LedgerHolder>, StoreError> {
    let mut owners = connection.prepare_cached(OWNERS)?;
    let owners = owners.query_map([key.kind().as_str(), key.text()], |row| {
        let proved = settlement::proved(row, 6)?;
        let holder = LedgerHolder {
            tenant: TenantIncarnation {
                tenant: row.get(0)?,
                account: row.get(1)?,
                incarnation: row.get::<_, i64>(5)?.unsigned_abs(),
            },
            at_ms: row.get::<_, i64>(2)?.unsigned_abs(),
            operation: row.get(3)?,
            source: row.get(4)?,
            proved: None,
        };
        Ok((holder, proved))
    })?;
    let mut holders = Vec::new();
    for row in owners {
        let (holder, proved) = row?;
        let proved = proved.transpose()?;
        holders.push(LedgerHolder { proved, ..holder });
    }
    Ok(holders)
}

fn note_owner(
    change: &Connection,
    note: &LedgerNote,
    source: LedgerSource,
    now_ms: i64,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO owner (kind, key, tenant, account, at, currency, operation, source)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
        WHERE ?8 <> 'asked' OR NOT EXISTS (SELECT 1 FROM isolation WHERE operation = ?7 AND verdict = 'shared')
        ON CONFLICT DO UPDATE SET at = max(at, excluded.at),
            source = CASE WHEN source = 'asked' THEN excluded.source ELSE source END,
            operation = CASE WHEN source = 'asked' THEN excluded.operation ELSE operation END,
            currency = CASE WHEN currency <> excluded.currency THEN '?' ELSE coalesce(currency, excluded.currency) END
        WHERE at < excluded.at OR (source = 'asked' AND excluded.source <> 'asked')
            OR (excluded.currency IS NOT NULL AND currency IS NOT excluded.currency AND currency IS NOT '?')";
    change.prepare_cached(insert)?.execute(params![
        note.key.kind().as_str(),
        note.key.text(),
        note.holder.tenant,
        note.holder.account,
        note.at_ms.map_or(now_ms, big),
        note.currency,
        note.operation,
        source.as_str(),
    ])?;
    Ok(())
}

/// The events in quarantine that name a key; they are due for another decision.
fn wake(change: &Connection, key: &LedgerKey, now_ms: i64) -> Result<Vec<EventId>, StoreError> {
    let wake = "UPDATE event SET decide_at = ?3, asks = 0 WHERE state = 'quarantined'
        AND id IN (SELECT event FROM hint WHERE kind = ?1 AND key = ?2) RETURNING id";
    let mut wake = change.prepare_cached(wake)?;
    let woken = wake.query_map(params![key.kind().as_str(), key.text(), now_ms], |row| {
        event_id(row, 0)
    })?;
    Ok(woken.collect::<Result<_, _>>()?)
}

fn token(
    change: &Connection,
    wanted: &CallbackUrl,
    proposed: &str,
    now_ms: i64,
) -> Result<CallbackToken, StoreError> {
    let CallbackUrl {
        tenant,
        url,
        made_for,
    } = wanted;
    if !is_newest(change, tenant)? {
        return Ok(CallbackToken::Removed);
    }
    let incarnation = big(tenant.incarnation);
    let given = "SELECT token FROM url_token WHERE tenant = ?1 AND incarnation = ?2 AND url = ?3 AND made_for = ?4";
    let given: Option<String> = change
        .query_row(
            given,
            params![tenant.tenant, incarnation, url, made_for],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(given) = given {
        return Ok(CallbackToken::Token(given));
    }
    let others = "SELECT count(DISTINCT url) FROM url_token WHERE tenant = ?1 AND incarnation = ?2 AND url <> ?3";
    let others: u32 =
        change.query_row(others, params![tenant.tenant, incarnation, url], |row| {
            row.get(0)
        })?;
    if others >= MOST_CALLBACK_URLS {
        return Ok(CallbackToken::TooManyUrls);
    }
    change.execute(
        "INSERT INTO url_token VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![proposed, tenant.tenant, incarnation, url, made_for, now_ms],
    )?;
    Ok(CallbackToken::Token(proposed.to_owned()))
}

fn url(connection: &Connection, token: &str) -> Result<Option<CallbackUrl>, StoreError> {
    let url = "SELECT t.tenant, i.account, t.incarnation, t.url, t.made_for FROM url_token AS t
        JOIN incarnation AS i ON i.tenant = t.tenant AND i.incarnation = t.incarnation WHERE t.token = ?1";
    let url = connection.prepare_cached(url)?.query_row([token], |row| {
        Ok(CallbackUrl {
            tenant: TenantIncarnation {
                tenant: row.get(0)?,
                account: row.get(1)?,
                incarnation: row.get::<_, i64>(2)?.unsigned_abs(),
            },
            url: row.get(3)?,
            made_for: row.get(4)?,
        })
    });
    Ok(url.optional()?)
}
