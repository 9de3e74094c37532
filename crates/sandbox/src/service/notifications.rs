//! The notifications of a running sandbox, for its owner: faults, notifications by hand, and the log of attempts.

use bytes::Bytes;
use gatepay_core::Credential;

use crate::notify::callback::CallbackUrl;
use crate::notify::fault::SendingInjection;
use crate::notify::sent::SentNotification;
use crate::service::server::Sandbox;
use crate::wire::failure::ApiFailure;

impl Sandbox {
    /// Appends a fault of notifications to their fault queue. A sandbox that sends none ignores it.
    pub fn inject_sending(&self, injection: SendingInjection) {
        if let Some(sender) = &self.world().sender {
            sender.outbox().faults.inject(injection);
        }
    }

    /// Sends a notification with this body to the institution's URL, signed and repeated as any other, and gives its
    /// number.
    pub fn notify(&self, body: impl Into<Bytes>) -> Result<u64, ApiFailure> {
        self.world().notify(None, body.into())
    }

    /// Like [`notify`](Self::notify), to another URL.
    pub fn notify_at(&self, url: &str, body: impl Into<Bytes>) -> Result<u64, ApiFailure> {
        self.world().notify(Some(url), body.into())
    }

    /// Sends the body of an earlier notification again, to the same URL, and gives the new notification's number.
    pub fn notify_again(&self, id: u64) -> Result<u64, ApiFailure> {
        self.world().notify_again(id)
    }

    /// Changes the institution's callback URL, as in GatePay's merchant portal. Repetitions go there too. A sandbox that
    /// sends no notifications refuses.
    pub fn move_notifications_to(&self, url: &str) -> Result<(), ApiFailure> {
        let sender = self.world().sender.as_ref();
        let sender = sender.ok_or(ApiFailure::NotificationUrl)?;
        CallbackUrl::parse(url).map_err(|_| ApiFailure::NotificationUrl)?;
        sender.outbox().move_to(url.to_owned());
        Ok(())
    }

    /// Signs notifications from now on with this credential, repetitions too. Requests are verified as before.
    pub fn sign_notifications_with(&self, credential: Credential) {
        if let Some(sender) = &self.world().sender {
            sender.outbox().sign_with(credential);
        }
    }

    /// The logged attempts to send notifications, in the order in which they ended.
    pub fn notifications_sent(&self) -> Vec<SentNotification> {
        let sender = self.world().sender.as_ref();
        sender.map_or_else(Vec::new, |sender| {
            sender.outbox().log.all().cloned().collect()
        })
    }

    /// The number of notifications that are neither acknowledged nor given up.
    pub fn notifications_waiting(&self) -> usize {
        let sender = self.world().sender.as_ref();
        sender.map_or(0, |sender| sender.outbox().waiting())
    }
}
