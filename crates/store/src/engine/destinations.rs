//! Destinations over two engines.

use super::Store;
use crate::destinations::{DestinationBook, DestinationDeclaration};
use crate::error::StoreError;

impl Store {
    /// Takes over the destinations of a configuration: what is removed is unusable at once, what is new waits for its hold.
    /// While instances have different lists the [stricter](DestinationDeclaration::stricter) ones hold. Called at each start and
    /// reload, and as soon as the declaration [stands](Self::destinations_stand) no more. `number` counts the declarations of
    /// this process. Returns whether the declaration is taken, as [`declare_caps`](Self::declare_caps).
    pub async fn declare_destinations(
        &self,
        declaration: &DestinationDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.declare_destinations(declaration, number).await,
            Self::Sqlite(store) => store.declare_destinations(declaration, number).await,
        }
    }

    /// Whether this process's last declaration is in force, with those of the other instances that are alive.
    pub async fn destinations_stand(&self, number: i64) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.destinations_stand(number).await,
            // Its one process is alone, and loses no commit while it runs.
            Self::Sqlite(_) => Ok(true),
        }
    }

    /// The lists of all sub-accounts.
    pub async fn destinations(&self) -> Result<DestinationBook, StoreError> {
        match self {
            Self::Postgres(store) => store.destinations().await,
            Self::Sqlite(store) => store.destinations().await,
        }
    }

    /// A number that changes whenever an instance declares destinations.
    pub async fn destination_epoch(&self) -> Result<i64, StoreError> {
        match self {
            Self::Postgres(store) => store.destination_epoch().await,
            // Its one process knows its own declarations.
            Self::Sqlite(_) => Ok(0),
        }
    }
}
