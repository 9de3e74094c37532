//! The sender: makes the attempts that are due by the sandbox's clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::config::{Clock, NotificationSending};
use crate::notify::callback::{CallbackUrl, call};
use crate::notify::outbox::{NotificationAttempt, Outbox};
use crate::rules::news::BusinessNews;

/// How often the sandbox's clock is compared while an attempt is due later. A test may set the clock at any moment.
const CLOCK_CHECK: Duration = Duration::from_millis(10);

/// The outbox and the task that sends it.
pub(crate) struct NotificationSender {
    outbox: Mutex<Outbox>,
    /// Wakes the sender after a change of the outbox.
    changed: Notify,
    clock: Clock,
    tls: Option<Arc<ClientConfig>>,
    answer_timeout: Duration,
}

impl NotificationSender {
    /// A sender with this configuration, or the fault of its URL.
    pub(crate) fn new(config: NotificationSending, clock: Clock) -> Result<Self, String> {
        let NotificationSending {
            url,
            tls,
            credential,
            schedule,
            speed,
            repetition_stamp,
            answer_timeout,
            record,
        } = config;
        if CallbackUrl::parse(&url)?.is_https() && tls.is_none() {
            return Err("is https without a trust anchor".to_owned());
        }
        Ok(Self {
            outbox: Mutex::new(Outbox::new(
                credential,
                url,
                schedule,
                speed,
                repetition_stamp,
                record,
            )),
            changed: Notify::new(),
            clock,
            tls,
            answer_timeout,
        })
    }

    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock()
    }

    /// Makes notifications of news.
    pub(crate) fn announce(&self, news: &[BusinessNews]) {
        let now = (self.clock)();
        let mut outbox = self.outbox();
        for news in news {
            outbox.announce(news, now);
        }
        drop(outbox);
        self.changed.notify_one();
    }

    /// Sends a body as it is, to this URL or the institution's, and gives the notification's number.
    pub(crate) fn send(&self, own_url: Option<&str>, body: Bytes) -> u64 {
        let now = (self.clock)();
        let own_url = own_url.map(str::to_owned);
        let id = self.outbox().add_by_hand(own_url, body, now);
        self.changed.notify_one();
        id
    }

    /// Sends the body of an earlier notification again, and gives the new notification's number.
    pub(crate) fn send_again(&self, id: u64) -> Option<u64> {
        let now = (self.clock)();
        let again = self.outbox().add_again(id, now);
        self.changed.notify_one();
        again
    }

    /// Makes attempts forever, each in a task of its own, so that no callback URL holds up another.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let now = (self.clock)();
            let due = self.outbox().take_due(now);
            for attempt in due {
                tokio::spawn(Arc::clone(&self).make(attempt));
            }
            let is_any_due = self.outbox().next_due_ms().is_some();
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(CLOCK_CHECK), if is_any_due => {}
            }
        }
    }

    async fn make(self: Arc<Self>, attempt: NotificationAttempt) {
        let result = call(&attempt, self.tls.clone(), self.answer_timeout).await;
        let now = (self.clock)();
        self.outbox().finish(attempt, result, now);
        self.changed.notify_one();
    }
}
