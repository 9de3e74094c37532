//! The table of approvals in the file.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::caps::approval::{
    Approval, ApprovalFigures, ApprovalId, ApprovalKey, ApprovalListing, ApprovalPlace,
    ApprovalQuery, ApprovalState,
};
use crate::caps::approver_rule::ApproverRule;
use crate::caps::rule::CapMeasure;
use crate::caps::rule_book::RaiseDelay;
use crate::error::StoreError;
use crate::stored_text::{StoredText, ToldText};

const COLUMNS: &str =
    "SELECT id, party, account, counted_as, key, body_sha256, amounts, targets, state, asked, until
    FROM approval";

/// The approval for a call that is not over.
pub(super) fn of_call(
    connection: &Connection,
    of: &ApprovalKey,
    now_ms: u64,
) -> Result<Option<Approval>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "{COLUMNS} WHERE party = ?1 AND account = ?2 AND counted_as = ?3 AND key = ?4 AND body_sha256 = ?5
            AND state <> ?6 AND until > ?7"
    ))?;
    let values = params![
        of.party.as_str(),
        of.account.as_str(),
        of.counted_as,
        key(of),
        of.body_sha256,
        ApprovalState::Used.number(),
        to_sql(now_ms)
    ];
    let mut rows = statement.query(values)?;
    rows.next()?.map(|row| read(connection, row)).transpose()
}

pub(super) fn by_id(
    connection: &Connection,
    id: ApprovalId,
) -> Result<Option<Approval>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
    let mut rows = statement.query([id.bytes()])?;
    rows.next()?.map(|row| read(connection, row)).transpose()
}

pub(super) fn write(connection: &Connection, approval: &Approval) -> Result<(), StoreError> {
    let Approval {
        id,
        of,
        amounts,
        targets,
        state,
        asked_ms,
        until_ms,
        signers,
    } = approval;
    connection.execute(
        "INSERT OR REPLACE INTO approval VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            id.bytes(),
            of.party.as_str(),
            of.account.as_str(),
            of.counted_as,
            key(of),
            of.body_sha256,
            amounts.as_str(),
            targets.as_str(),
            state.number(),
            to_sql(*asked_ms),
            to_sql(*until_ms)
        ],
    )?;
    for (place, signer) in (0_i64..).zip(signers) {
        connection.execute(
            "INSERT INTO approval_signature VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![id.bytes(), signer.as_str(), place],
        )?;
    }
    Ok(())
}

/// The number of approvals of a party that wait for operators at a time.
pub(super) fn waiting(
    connection: &Connection,
    party: &StoredText,
    now_ms: u64,
) -> Result<u64, StoreError> {
    let waiting = "SELECT count(*) FROM approval WHERE party = ?1 AND state = 0 AND until > ?2";
    let mut statement = connection.prepare_cached(waiting)?;
    let values = params![party.as_str(), to_sql(now_ms)];
    let waiting: i64 = statement.query_row(values, |row| row.get(0))?;
    Ok(waiting.unsigned_abs())
}

/// Ends all approvals that wait or were given: the store may have lost that a call has passed.
pub(super) fn void(connection: &Connection, now_ms: u64) -> Result<(), StoreError> {
    let void = "UPDATE approval SET until = ?1 WHERE state IN (0, 1) AND until > ?1";
    connection.execute(void, [to_sql(now_ms)])?;
    Ok(())
}

/// Has approved calls wait again that fewer operators than these have approved.
pub(super) fn wait_for(connection: &Connection, needed: u32) -> Result<(), StoreError> {
    let wait = "UPDATE approval SET state = 0 WHERE state = 1
        AND (SELECT count(*) FROM approval_signature WHERE approval = approval.id) < ?1";
    connection.execute(wait, [needed])?;
    Ok(())
}

pub(super) fn approver_rule(connection: &Connection) -> Result<Option<ApproverRule>, StoreError> {
    let rule = connection.query_row(
        "SELECT number, fewer, fewer_from, delay, shorter, shorter_from FROM approver_rule",
        [],
        |row| {
            let ms = |at: usize| {
                Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(i64::unsigned_abs))
            };
            Ok(ApproverRule {
                number: row.get(0)?,
                fewer: row.get::<_, Option<u32>>(1)?.zip(ms(2)?),
                delay: RaiseDelay {
                    ms: row.get::<_, i64>(3)?.unsigned_abs(),
                    shorter: ms(4)?.zip(ms(5)?),
                },
            })
        },
    );
    Ok(rule.optional()?)
}

pub(super) fn write_approver_rule(
    connection: &Connection,
    rule: &ApproverRule,
) -> Result<(), StoreError> {
    let (fewer, fewer_from_ms) = rule.fewer.unzip();
    let (shorter, shorter_from_ms) = rule.delay.shorter.unzip();
    connection.execute(
        "INSERT OR REPLACE INTO approver_rule VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            rule.number,
            fewer,
            fewer_from_ms.map(to_sql),
            to_sql(rule.delay.ms),
            shorter.map(to_sql),
            shorter_from_ms.map(to_sql)
        ],
    )?;
    Ok(())
}

/// The approvals that a query asks for, the newest first.
pub(super) fn list(
    connection: &Connection,
    query: &ApprovalQuery,
    now_ms: u64,
) -> Result<Vec<Approval>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "{COLUMNS} WHERE (?1 IS NULL OR CASE WHEN ?1 = 4 THEN state <> 3 AND until <= ?2
                ELSE state = ?1 AND (state = 3 OR until > ?2) END)
            AND (?3 IS NULL OR party = ?3) AND (?4 IS NULL OR (asked, id) < (?4, ?5))
        ORDER BY asked DESC, id DESC LIMIT ?6"
    ))?;
    let after = query.after.as_ref();
    let mut rows = statement.query(params![
        query.state.map(ApprovalListing::number),
        to_sql(now_ms),
        query.party.as_ref().map(StoredText::as_str),
        after.map(|place| to_sql(place.asked_ms)),
        after.map(|ApprovalPlace { id, .. }| id.bytes()),
        query.most
    ])?;
    let mut approvals = Vec::new();
    while let Some(row) = rows.next()? {
        approvals.push(read(connection, row)?);
    }
    Ok(approvals)
}

pub(super) fn figures(connection: &Connection, now_ms: u64) -> Result<ApprovalFigures, StoreError> {
    let waiting = "SELECT count(*), min(asked) FROM approval WHERE state = ?1 AND until > ?2";
    let state = ApprovalState::Waiting.number();
    let (waiting, oldest): (i64, Option<i64>) =
        connection.query_row(waiting, params![state, to_sql(now_ms)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let asked = "SELECT 1 FROM cap_rule WHERE measure = ?1 LIMIT 1";
    let asked = connection.query_row(asked, [CapMeasure::ApproveAbove.number()], |_| Ok(()));
    Ok(ApprovalFigures {
        waiting: waiting.unsigned_abs(),
        oldest_ms: oldest.map(i64::unsigned_abs),
        is_asked: asked.optional()?.is_some(),
    })
}

fn key(of: &ApprovalKey) -> &str {
    of.key.as_ref().map_or("", StoredText::as_str)
}

fn read(connection: &Connection, row: &Row<'_>) -> Result<Approval, StoreError> {
    let text = |at: usize| {
        let text: String = row.get(at)?;
        StoredText::parse(&text).ok_or_else(unreadable)
    };
    let told = |at: usize| {
        let text: String = row.get(at)?;
        ToldText::parse(&text).ok_or_else(unreadable)
    };
    let id: Vec<u8> = row.get(0)?;
    let digest: Vec<u8> = row.get(5)?;
    let mut signers = connection.prepare_cached(
        "SELECT operator FROM approval_signature WHERE approval = ?1 ORDER BY place",
    )?;
    let signers = signers.query_map([&id], |row| row.get::<_, String>(0))?;
    let signers = signers.map(|signer| StoredText::parse(&signer?).ok_or_else(unreadable));
    Ok(Approval {
        id: ApprovalId::of_bytes(&id).ok_or_else(unreadable)?,
        of: ApprovalKey {
            party: text(1)?,
            account: text(2)?,
            counted_as: row.get(3)?,
            key: Some(text(4)?).filter(|key| !key.as_str().is_empty()),
            body_sha256: digest.try_into().map_err(|_| unreadable())?,
        },
        amounts: told(6)?,
        targets: told(7)?,
        state: ApprovalState::of(row.get(8)?).ok_or_else(unreadable)?,
        asked_ms: row.get::<_, i64>(9)?.unsigned_abs(),
        until_ms: row.get::<_, i64>(10)?.unsigned_abs(),
        signers: signers.collect::<Result<_, _>>()?,
    })
}

fn unreadable() -> StoreError {
    StoreError::Unexpected("a row of an approval in the file".to_owned())
}

/// A number for a column. No clock of the next million years is beyond it.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
