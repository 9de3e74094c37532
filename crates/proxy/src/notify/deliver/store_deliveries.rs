//! Store deliveries: the calls of deliveries, made on the thread that owns the connections to the store.

use gatepay_store::notifications::delivery::{
    AttemptRecord, AttemptVerdict, DueEvent, EndpointClaim, EndpointKey, EndpointOffReason,
};
use gatepay_store::notifications::listing::NotificationCounts;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::deliver::delivery_store::{DeliveryStore, NoStoreReply, StoreReply};
use crate::process::clock::Clock;

/// Gives the store's time less this machine's clock, in milliseconds.
pub type ClockOffset = Box<dyn Fn() -> i64 + Send>;

/// The store, as deliveries use it.
pub struct StoreDeliveries {
    /// The way to the store's thread.
    pub calls: StoreCalls,
    /// The number of this instance.
    pub instance: i64,
    /// This machine's clock.
    pub clock: Clock,
    /// The store's time less that clock.
    pub offset_ms: ClockOffset,
}

impl From<StoreCallError> for NoStoreReply {
    fn from(error: StoreCallError) -> Self {
        Self(error.to_string())
    }
}

impl DeliveryStore for StoreDeliveries {
    fn now_ms(&self) -> u64 {
        self.clock
            .unix_ms()
            .saturating_add_signed((self.offset_ms)())
    }

    fn claim_endpoints(&self, most: u32) -> StoreReply<'_, Vec<EndpointClaim>> {
        let instance = self.instance;
        let call = self
            .calls
            .call(async move |store| store.claim_endpoints(instance, most).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn renew_claims<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, Vec<bool>> {
        let claims = claims.to_vec();
        let call = self
            .calls
            .call(async move |store| store.renew_claims(&claims).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn release_endpoints<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, ()> {
        let claims = claims.to_vec();
        let call = self
            .calls
            .call(async move |store| store.release_endpoints(&claims).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn due_events<'a>(
        &'a self,
        claims: &'a [EndpointClaim],
        most: u32,
    ) -> StoreReply<'a, Vec<Vec<DueEvent>>> {
        let claims = claims.to_vec();
        let call = self
            .calls
            .call(async move |store| store.due_events(&claims, most).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn record_attempts<'a>(
        &'a self,
        attempts: &'a [AttemptRecord],
    ) -> StoreReply<'a, Vec<AttemptVerdict>> {
        let attempts = attempts.to_vec();
        let call = self
            .calls
            .call(async move |store| store.record_attempts(&attempts).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn turn_endpoint_off<'a>(
        &'a self,
        endpoint: &'a EndpointKey,
        reason: EndpointOffReason,
    ) -> StoreReply<'a, ()> {
        let endpoint = endpoint.clone();
        let call = self
            .calls
            .call(async move |store| store.turn_endpoint_off(&endpoint, reason).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn turn_endpoint_on<'a>(&'a self, endpoint: &'a EndpointKey) -> StoreReply<'a, ()> {
        let endpoint = endpoint.clone();
        let call = self
            .calls
            .call(async move |store| store.turn_endpoint_on(&endpoint).await);
        Box::pin(async { Ok(call.await?) })
    }

    fn notification_counts(&self) -> StoreReply<'_, NotificationCounts> {
        let call = self
            .calls
            .call(async |store| store.notification_counts().await);
        Box::pin(async { Ok(call.await?) })
    }

    fn instance(&self) -> i64 {
        self.instance
    }
}
