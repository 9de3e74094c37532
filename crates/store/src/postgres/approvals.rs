//! Approvals: operators' orders, and the calls that wait for them.

use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::admit::{cell, millis};
use crate::caps::approval::{
    Approval, ApprovalFigures, ApprovalId, ApprovalKey, ApprovalListing, ApprovalOrder,
    ApprovalQuery, ApprovalState,
};
use crate::error::StoreError;
use crate::stored_text::{StoredText, ToldText};

const APPROVE: &str = "SELECT gatepay.approve_v1($1, $2, $3, $4) AS result";
const REJECT: &str = "SELECT gatepay.reject_v1($1, $2) AS result";
const ONE: &str = "SELECT a.*, ARRAY(SELECT s.operator FROM gatepay.approval_signature AS s
        WHERE s.approval = a.id ORDER BY s.place) AS signers
    FROM gatepay.approval AS a WHERE a.id = $1";
const LIST: &str = "SELECT a.*, ARRAY(SELECT s.operator FROM gatepay.approval_signature AS s
        WHERE s.approval = a.id ORDER BY s.place) AS signers
    FROM (SELECT gatepay.cap_now_v1() AS ms) AS now, gatepay.approval AS a
    WHERE ($1::smallint IS NULL OR CASE WHEN $1 = 4 THEN a.state <> 3 AND a.until <= now.ms
            ELSE a.state = $1 AND (a.state = 3 OR a.until > now.ms) END)
        AND ($2::text IS NULL OR a.party = $2) AND ($3::bigint IS NULL OR (a.asked, a.id) < ($3, $4::bytea))
    ORDER BY a.asked DESC, a.id DESC LIMIT $5";
const FIGURES: &str = "SELECT count(*) AS waiting, min(a.asked) AS oldest,
        EXISTS (SELECT FROM gatepay.cap_rule AS c WHERE c.measure = 5) AS asked
    FROM (SELECT gatepay.cap_now_v1() AS ms) AS now, gatepay.approval AS a
    WHERE a.state = 0 AND a.until > now.ms";
const NEEDED: &str = "SELECT gatepay.approvers_v1() AS needed";

impl PostgresStore {
    pub(crate) async fn approve(
        &self,
        (id, digest): (ApprovalId, &[u8; 32]),
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let needed = i32::try_from(needed).unwrap_or(i32::MAX);
        let rows = self
            .control(
                APPROVE,
                &[&id.bytes(), &digest.as_slice(), &by.as_str(), &needed],
            )
            .await?;
        order(&rows)
    }

    pub(crate) async fn reject(
        &self,
        (id, digest): (ApprovalId, &[u8; 32]),
    ) -> Result<ApprovalOrder, StoreError> {
        let values: [&(dyn ToSql + Sync); 2] = [&id.bytes(), &digest.as_slice()];
        order(&self.control(REJECT, &values).await?)
    }

    pub(crate) async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        let rows = self.control(ONE, &[&id.bytes()]).await?;
        rows.first().map(read).transpose()
    }

    pub(crate) async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Vec<Approval>, StoreError> {
        let state = query.state.map(ApprovalListing::number);
        let party = query.party.as_ref().map(StoredText::as_str);
        let asked = query.after.map(|place| millis(place.asked_ms));
        let id = query.after.as_ref().map(|place| place.id.bytes());
        let most = i64::from(query.most);
        let rows = self
            .control(LIST, &[&state, &party, &asked, &id, &most])
            .await?;
        rows.iter().map(read).collect()
    }

    pub(crate) async fn approvers_needed(&self) -> Result<u32, StoreError> {
        match &self.control(NEEDED, &[]).await?[..] {
            [row] => Ok(cell::<i32>(row, "needed")?.unsigned_abs()),
            rows => Err(StoreError::Unexpected(format!("{} rows", rows.len()))),
        }
    }

    pub(crate) async fn approval_figures(&self) -> Result<ApprovalFigures, StoreError> {
        match &self.control(FIGURES, &[]).await?[..] {
            [row] => Ok(ApprovalFigures {
                waiting: cell::<i64>(row, "waiting")?.unsigned_abs(),
                oldest_ms: cell::<Option<i64>>(row, "oldest")?.map(i64::unsigned_abs),
                is_asked: cell(row, "asked")?,
            }),
            rows => Err(StoreError::Unexpected(format!("{} rows", rows.len()))),
        }
    }
}

pub(super) fn order(rows: &[tokio_postgres::Row]) -> Result<ApprovalOrder, StoreError> {
    let [row] = rows else {
        return Err(StoreError::Unexpected(format!("{} rows", rows.len())));
    };
    Ok(match cell::<i16>(row, "result")? {
        0 => ApprovalOrder::Taken,
        1 => ApprovalOrder::NotFound,
        2 => ApprovalOrder::Closed,
        3 => ApprovalOrder::OwnCall,
        other => return Err(StoreError::Unexpected(format!("result {other}"))),
    })
}

fn read(row: &tokio_postgres::Row) -> Result<Approval, StoreError> {
    let unreadable = || StoreError::Unexpected("a row of an approval".to_owned());
    let text = |name| {
        let text: String = cell(row, name)?;
        StoredText::parse(&text).ok_or_else(unreadable)
    };
    let told = |name| {
        let text: String = cell(row, name)?;
        ToldText::parse(&text).ok_or_else(unreadable)
    };
    let ms = |name| Ok::<_, StoreError>(cell::<i64>(row, name)?.unsigned_abs());
    let signers: Vec<String> = cell(row, "signers")?;
    let signers = signers.iter().map(|it| StoredText::parse(it));
    let digest: &[u8] = cell(row, "body_sha256")?;
    Ok(Approval {
        id: ApprovalId::of_bytes(cell(row, "id")?).ok_or_else(unreadable)?,
        of: ApprovalKey {
            party: text("party")?,
            account: text("account")?,
            counted_as: cell(row, "counted_as")?,
            key: Some(text("key")?).filter(|key| !key.as_str().is_empty()),
            body_sha256: digest.try_into().map_err(|_| unreadable())?,
        },
        amounts: told("amounts")?,
        targets: told("targets")?,
        state: ApprovalState::of(cell::<i16>(row, "state")?.into()).ok_or_else(unreadable)?,
        asked_ms: ms("asked")?,
        until_ms: ms("until")?,
        signers: signers.collect::<Option<_>>().ok_or_else(unreadable)?,
    })
}
