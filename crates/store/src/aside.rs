//! Aside: work on many rows or on a file, on a thread of its own.
//!
//! The thread that calls the store also admits calls and gives signs of life. Ten thousand sub-accounts have tens of thousands
//! of rules, and reading them takes longer than either of these may wait. So may a write to a disk.

use tokio::task::spawn_blocking;

use crate::error::StoreError;

/// The result of work that does not wait for anything.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unexpected(error.to_string())))
}
