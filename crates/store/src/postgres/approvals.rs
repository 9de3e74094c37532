//! Approvals: operators' orders, and the calls that wait for them.

use super::PostgresStore;
use super::admit::cell;
use crate::caps::approval::{
    Approval, ApprovalFigures, ApprovalId, ApprovalKey, ApprovalOrder, ApprovalState,
};
use crate::error::StoreError;
use crate::stored_text::StoredText;

const APPROVE: &str = "SELECT gatepay.approve_v1($1, $2, $3) AS result";
const REJECT: &str = "SELECT gatepay.reject_v1($1) AS result";
const ONE: &str = "SELECT a.*, ARRAY(SELECT s.operator FROM gatepay.approval_signature AS s
        WHERE s.approval = a.id ORDER BY s.place) AS signers
    FROM gatepay.approval AS a WHERE a.id = $1";
const NEWEST: &str = "SELECT a.*, ARRAY(SELECT s.operator FROM gatepay.approval_signature AS s
        WHERE s.approval = a.id ORDER BY s.place) AS signers
    FROM gatepay.approval AS a ORDER BY a.asked DESC, a.id DESC LIMIT $1";
const FIGURES: &str = "SELECT count(*) AS waiting, min(a.asked) AS oldest,
        EXISTS (SELECT FROM gatepay.cap_rule AS c WHERE c.measure = 5) AS asked
    FROM gatepay.approval AS a
    WHERE a.state = 0 AND a.until > floor(extract(epoch FROM clock_timestamp()) * 1000)";

impl PostgresStore {
    pub(crate) async fn approve(
        &self,
        id: ApprovalId,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let needed = i32::try_from(needed).unwrap_or(i32::MAX);
        let rows = self
            .control(APPROVE, &[&id.bytes(), &by.as_str(), &needed])
            .await?;
        order(&rows)
    }

    pub(crate) async fn reject(&self, id: ApprovalId) -> Result<ApprovalOrder, StoreError> {
        order(&self.control(REJECT, &[&id.bytes()]).await?)
    }

    pub(crate) async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        let rows = self.control(ONE, &[&id.bytes()]).await?;
        rows.first().map(read).transpose()
    }

    pub(crate) async fn approvals(&self, most: u32) -> Result<Vec<Approval>, StoreError> {
        let rows = self.control(NEWEST, &[&i64::from(most)]).await?;
        rows.iter().map(read).collect()
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

fn order(rows: &[tokio_postgres::Row]) -> Result<ApprovalOrder, StoreError> {
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
        amounts: text("amounts")?,
        targets: text("targets")?,
        state: ApprovalState::of(cell::<i16>(row, "state")?.into()).ok_or_else(unreadable)?,
        asked_ms: ms("asked")?,
        until_ms: ms("until")?,
        signers: signers.collect::<Option<_>>().ok_or_else(unreadable)?,
    })
}
