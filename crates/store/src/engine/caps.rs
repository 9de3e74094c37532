//! Money caps over two engines.

use super::Store;
use crate::caps::approval::ApprovalOrder;
use crate::caps::early_raise::{PendingRaise, RaiseDigest};
use crate::caps::report::CapFacts;
use crate::caps::rule::{CapDeclaration, CappedCalls};
use crate::caps::spend::{SettledAttempt, SettledObject, UnknownSpend};
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl Store {
    /// Puts the rules of a configuration in force, over all instances: once this returns, no call is admitted beyond a
    /// lower cap. A raised, removed or widened one holds as it was for
    /// [`raise_after_ms`](CapDeclaration::raise_after_ms). While instances have different rules the
    /// [stricter](CapDeclaration::stricter) ones hold. Called at each start, reload, before the midnights run out, and as soon
    /// as the declaration [stands](Self::caps_stand) no more. `number` counts the declarations of this process. A declaration
    /// that comes late, after one with a higher number, changes nothing, even if this instance was taken for dead meanwhile; nor
    /// does one of an instance that has left, or has to join again. Returns whether the declaration is taken.
    pub async fn declare_caps(
        &self,
        declaration: &CapDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.declare_caps(declaration, number).await,
            Self::Sqlite(store) => store.declare_caps(declaration, number).await,
        }
    }

    /// Whether this process's last declaration is in force, with those of the other instances that are alive. It is not if its
    /// commit was lost, and not after another instance has ended whose rules still hold.
    pub async fn caps_stand(&self, number: i64) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.caps_stand(number).await,
            // Its one process is alone, and loses no commit while it runs.
            Self::Sqlite(_) => Ok(true),
        }
    }

    /// Takes an operator's approval of changes that [wait](crate::caps::early_raise). Once `needed` different operators have
    /// approved them within a day, or as many as the store has in force if that is more, they hold at once.
    pub async fn raise_caps(
        &self,
        digest: RaiseDigest,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        match self {
            Self::Postgres(store) => store.raise_caps(digest, by, needed).await,
            Self::Sqlite(store) => store.raise_caps(digest, by, needed).await,
        }
    }

    /// The changes of caps that wait, with the operators that have approved them.
    pub async fn waiting_raises(&self) -> Result<Vec<(PendingRaise, Vec<StoredText>)>, StoreError> {
        match self {
            Self::Postgres(store) => store.waiting_raises().await,
            Self::Sqlite(store) => store.waiting_raises().await,
        }
    }

    /// The tables of caps, for a report about a sub-account and about all together; without one, about every sub-account. They are of
    /// nearly one time: what is counted meanwhile may be in one of them only.
    pub async fn cap_facts(&self, of: Option<StoredText>) -> Result<CapFacts, StoreError> {
        match self {
            Self::Postgres(store) => store.cap_facts(of).await,
            Self::Sqlite(store) => store.cap_facts(of).await,
        }
    }

    /// The calls that rules in force cover, those of every instance: a rule that was removed is in force for a while longer.
    pub async fn capped_calls(&self) -> Result<Vec<CappedCalls>, StoreError> {
        match self {
            Self::Postgres(store) => store.capped_calls().await,
            Self::Sqlite(store) => store.capped_calls().await,
        }
    }

    /// Those of a sub-account and of all together. A call waits for this, so that it reads the rules of no other sub-account.
    pub async fn capped_calls_of(
        &self,
        account: &StoredText,
    ) -> Result<Vec<CappedCalls>, StoreError> {
        match self {
            Self::Postgres(store) => store.capped_calls_of(account).await,
            Self::Sqlite(store) => store.capped_calls_of(account).await,
        }
    }

    /// Tells what became of admitted calls with a [demand](crate::admission::AdmissionRow::spend). Repeating it changes
    /// nothing; after an error it must be repeated, or the calls count for ever.
    pub async fn settle_attempts(&self, settled: &[SettledAttempt]) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.settle_attempts(settled).await,
            Self::Sqlite(store) => store.settle_attempts(settled).await,
        }
    }

    /// Takes over GatePay's last word on the object under a key. Returns whether its spend is released by it.
    pub async fn settle_object(&self, object: &SettledObject) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.settle_object(object).await,
            Self::Sqlite(store) => store.settle_object(object).await,
        }
    }

    /// Marks the attempts of instances without a sign of life as unknown, and forgets spends that no window covers. Called every
    /// few seconds, by any instance.
    pub async fn age_spends(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.age_spends().await,
            Self::Sqlite(store) => store.age_spends().await,
        }
    }

    /// Spends that GatePay is to be asked about, `most` at most: of each party in turn the newest first, so that spends that
    /// GatePay never finds hide no others.
    pub async fn unknown_spends(&self, most: u32) -> Result<Vec<UnknownSpend>, StoreError> {
        match self {
            Self::Postgres(store) => store.unknown_spends(most).await,
            Self::Sqlite(store) => store.unknown_spends(most).await,
        }
    }
}
