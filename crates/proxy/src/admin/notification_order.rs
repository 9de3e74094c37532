//! Notification order: an operator's order about notifications, with its record in the audit journal.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::timeout;

use crate::admin::reply::AdminFailure;
use crate::admin::suspend::DISK;
use crate::app::App;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::journal::entry::{NotificationAct, NotificationAction};

/// An order that was read and may be carried out.
pub(super) struct NotificationOrder {
    pub(super) app: Arc<App>,
    pub(super) calls: StoreCalls,
    /// The record about it, before it is carried out.
    pub(super) act: NotificationAct,
}

/// The failure of an order that does not fit the state of its object.
pub(super) fn conflict(text: String) -> AdminFailure {
    AdminFailure(StatusCode::CONFLICT, text.into())
}

impl NotificationOrder {
    pub(super) fn new(app: &Arc<App>, calls: &StoreCalls, act: NotificationAct) -> Self {
        Self {
            app: Arc::clone(app),
            calls: calls.clone(),
            act,
        }
    }

    /// Writes the order down; returns whether there is a journal. Without the record the order is not carried out.
    pub(super) async fn journaled(
        &self,
        failed: NotificationAction,
    ) -> Result<Option<bool>, AdminFailure> {
        let Some(journal) = &self.app.journal else {
            return Ok(None);
        };
        let written = timeout(DISK, journal.notification(self.act.clone()));
        if written.await.is_ok_and(|written| written.is_ok()) {
            return Ok(Some(true));
        }
        // A slow disk may still write the record.
        self.note(failed);
        Err(AdminFailure(
            StatusCode::SERVICE_UNAVAILABLE,
            "not done: the audit journal cannot be written; ask again once it can\n".into(),
        ))
    }

    /// The failure of a call that was to change something, written down as failed or unknown.
    pub(super) fn failed(
        &self,
        error: &StoreCallError,
        (failed, unknown): (NotificationAction, NotificationAction),
    ) -> AdminFailure {
        let (action, text) = match error {
            StoreCallError::NotJoined => (failed, "not done"),
            StoreCallError::Store(_) => (unknown, "it is unknown whether it was done"),
        };
        self.note(action);
        AdminFailure(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{text}: the store gave no answer: {error}\n").into(),
        )
    }

    /// Wakes the deliveries.
    pub(super) fn wake(&self) {
        if let Some(relay) = &self.app.notifications {
            relay.wake.wake();
        }
    }

    pub(super) fn note(&self, action: NotificationAction) {
        if let Some(journal) = &self.app.journal {
            let act = self.act.clone();
            journal.note_notification(NotificationAct { action, ..act });
        }
    }
}
