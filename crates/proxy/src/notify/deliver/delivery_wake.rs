//! Delivery wake: tells the delivery loop that a notification was stored.

use std::sync::Arc;

use tokio::sync::Notify;

/// Wakes the delivery loop of this process. Without it, the loop finds a notification a moment later.
#[derive(Clone, Default)]
pub struct DeliveryWake(Arc<Notify>);

impl DeliveryWake {
    /// A notification for a tenant is stored.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits until one is.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}
