//! Destinations over two engines.

use super::Store;
use crate::destinations::{DestinationBook, DestinationDeclaration};
use crate::error::StoreError;

impl Store {
    /// Takes over the destinations of a configuration: what is removed is unusable at once, what is new waits for its hold.
    /// Called at each start and reload.
    pub async fn declare_destinations(
        &self,
        declaration: &DestinationDeclaration,
    ) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.declare_destinations(declaration).await,
            Self::Sqlite(store) => store.declare_destinations(declaration).await,
        }
    }

    /// The lists of all tenants.
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
