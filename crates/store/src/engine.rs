//! One store over two engines.

mod approvals;
mod caps;
mod destinations;
mod found;
mod notifications;
pub mod statements;

use std::sync::Arc;

use crate::admission::{AdmissionBatch, AdmissionReply, HaltScope};
use crate::error::StoreError;
use crate::instance::{
    ClusterView, InstanceBeat, InstanceIntroduction, InstanceJoined, ResumeResult,
};
use crate::postgres::PostgresStore;
use crate::settings::{EngineSettings, StoreTerms};
use crate::sqlite::SqliteStore;
use crate::sqlite::file_place::FilePlace;

/// A store: PostgreSQL for any number of instances, or a SQLite file for one process.
pub enum Store {
    /// A PostgreSQL server.
    Postgres(Box<PostgresStore>),
    /// A SQLite file.
    Sqlite(SqliteStore),
}

impl Store {
    /// A store by its settings. PostgreSQL is connected at the first call; a SQLite file is opened here.
    pub fn open(engine: &EngineSettings, terms: StoreTerms) -> Result<Self, StoreError> {
        Ok(match engine {
            EngineSettings::Postgres(settings) => {
                Self::Postgres(Box::new(PostgresStore::new(settings, terms)?))
            }
            EngineSettings::Sqlite(settings) => Self::Sqlite(SqliteStore::open(settings, terms)?),
        })
    }

    /// Where the file of the store lies, if it is one.
    pub fn file_place(&self) -> Option<Arc<FilePlace>> {
        match self {
            Self::Postgres(_) => None,
            Self::Sqlite(store) => Some(store.place()),
        }
    }

    /// How many batches may be under way at once.
    pub fn lines(&self) -> usize {
        match self {
            Self::Postgres(_) => 2,
            Self::Sqlite(_) => 1,
        }
    }

    /// Decides a batch in one transaction, committed when this returns.
    ///
    /// After an error, or if the call is dropped, it is unknown whether the stamps were recorded; nothing may be sent
    /// for them. The same rows must not be asked about again: they would be their own replay.
    pub async fn admit(&self, batch: &AdmissionBatch) -> Result<AdmissionReply, StoreError> {
        match self {
            Self::Postgres(store) => store.admit(batch).await,
            Self::Sqlite(store) => store.admit(batch).await,
        }
    }

    /// Whether the store answers, on a connection that admits.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.probe().await,
            Self::Sqlite(store) => store.schema().await.map(|_| ()),
        }
    }

    /// Joins the store. Refuses a schema that this version does not work with.
    pub async fn join(
        &self,
        introduction: &InstanceIntroduction,
    ) -> Result<InstanceJoined, StoreError> {
        match self {
            Self::Postgres(store) => store.join(introduction).await,
            Self::Sqlite(store) => store.join(introduction).await,
        }
    }

    /// Gives a sign of life, and returns the store's view of all instances. Called each second, and followed by
    /// [`upkeep`](Self::upkeep) once the view is in use.
    pub async fn beat(&self, beat: &InstanceBeat) -> Result<ClusterView, StoreError> {
        match self {
            Self::Postgres(store) => store.beat(beat).await,
            Self::Sqlite(store) => store.beat(beat).await,
        }
    }

    /// Makes room for the stamps of the next minutes, and writes the contact file. An error says nothing about the view.
    pub async fn upkeep(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.upkeep().await,
            Self::Sqlite(store) => store.upkeep().await,
        }
    }

    /// Leaves the store, after the last answer was used.
    pub async fn leave(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.leave().await,
            Self::Sqlite(store) => store.leave().await,
        }
    }

    /// The instances and halts, for one that has not joined too.
    pub async fn cluster(&self) -> Result<ClusterView, StoreError> {
        match self {
            Self::Postgres(store) => store.cluster().await,
            Self::Sqlite(store) => store.cluster().await,
        }
    }

    /// Halts calls: once this returns, no call that the scope covers is admitted. Returns an epoch: once every instance has
    /// confirmed it in its [beat](InstanceBeat::halt_epoch), no call that was admitted before is sent any more.
    pub async fn halt(&self, scope: &HaltScope, by: &str) -> Result<i64, StoreError> {
        match self {
            Self::Postgres(store) => store.halt(scope, by).await,
            Self::Sqlite(store) => store.halt(scope, by).await,
        }
    }

    /// Notes the order of an operator to end a halt with this epoch, where two have to order it. Returns the other operator
    /// that has ordered the same within a day; `None` if this is the first.
    pub async fn propose_resume(
        &self,
        scope: &HaltScope,
        epoch: i64,
        by: &str,
    ) -> Result<Option<String>, StoreError> {
        match self {
            Self::Postgres(store) => store.propose_resume(scope, epoch, by).await,
            Self::Sqlite(store) => store.propose_resume(scope, epoch, by).await,
        }
    }

    /// Ends a halt that was seen with this [epoch](crate::instance::HaltInForce::epoch); 0 if none was seen. After an
    /// error it may have ended.
    pub async fn resume(
        &self,
        scope: &HaltScope,
        epoch_seen: i64,
    ) -> Result<ResumeResult, StoreError> {
        match self {
            Self::Postgres(store) => store.resume(scope, epoch_seen).await,
            Self::Sqlite(store) => store.resume(scope, epoch_seen).await,
        }
    }
}
