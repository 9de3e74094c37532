//! Delivery store: what deliveries ask of the store.

use std::future::Future;
use std::pin::Pin;

use gatepay_store::notifications::delivery::{
    AttemptRecord, AttemptVerdict, DueEvent, EndpointClaim, EndpointKey, EndpointOffReason,
};
use gatepay_store::notifications::listing::NotificationCounts;

/// The answer of the store, once it is there.
pub type StoreReply<'a, T> = Pin<Box<dyn Future<Output = Result<T, NoStoreReply>> + 'a>>;

/// The store gave no answer. The call may have been executed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoStoreReply(pub String);

/// The calls of the [store](gatepay_store::engine::Store) that deliveries need, and its clock.
pub trait DeliveryStore {
    /// The store's time, as far as this process knows it, in milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// Claims endpoints that are due.
    fn claim_endpoints(&self, most: u32) -> StoreReply<'_, Vec<EndpointClaim>>;
    /// Renews claims; `false` for a claim that was lost.
    fn renew_claims<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, Vec<bool>>;
    /// Gives claims up.
    fn release_endpoints<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, ()>;
    /// The heads of due lines of each claimed endpoint.
    fn due_events<'a>(
        &'a self,
        claims: &'a [EndpointClaim],
        most: u32,
    ) -> StoreReply<'a, Vec<Vec<DueEvent>>>;
    /// Records attempts in one transaction.
    fn record_attempts<'a>(
        &'a self,
        attempts: &'a [AttemptRecord],
    ) -> StoreReply<'a, Vec<AttemptVerdict>>;
    /// Turns an endpoint off: its events wait.
    fn turn_endpoint_off<'a>(
        &'a self,
        endpoint: &'a EndpointKey,
        reason: EndpointOffReason,
    ) -> StoreReply<'a, ()>;
    /// Turns an endpoint on again.
    fn turn_endpoint_on<'a>(&'a self, endpoint: &'a EndpointKey) -> StoreReply<'a, ()>;
    /// The figures of all endpoints.
    fn notification_counts(&self) -> StoreReply<'_, NotificationCounts>;
    /// The number of this instance.
    fn instance(&self) -> i64;
}
