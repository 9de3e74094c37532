//! Ledger: takes the ids in GatePay's answers to the store, so that notifications find the tenant of the call.
//!
//! The answer does not wait for it. A call's intents are in the store already, written with its stamp.

use std::time::Duration;

use gatepay_core::ledger_key::LedgerKey;
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, MOST_KEYS, TenantAccount};
use prometheus::IntCounter;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};

/// The most notes that wait for the store: some seconds of calls at GatePay's quota.
pub const WAITING: usize = 8_192;
/// The pause after the store did not take notes.
const RETRY: Duration = Duration::from_millis(500);

/// The way of notes to the ledger.
pub struct LedgerQueue {
    notes: mpsc::Sender<LedgerNote>,
    lost: IntCounter,
}

/// The other end of a [`LedgerQueue`].
pub struct LedgerWriter {
    notes: mpsc::Receiver<LedgerNote>,
    /// Notes that were taken from the queue and are not written yet.
    taken: Vec<LedgerNote>,
    lost: IntCounter,
}

/// A queue and its other end. Notes that find no room are counted in `lost`.
pub fn queue(lost: &IntCounter) -> (LedgerQueue, LedgerWriter) {
    let (sender, notes) = mpsc::channel(WAITING);
    let queue = LedgerQueue {
        notes: sender,
        lost: lost.clone(),
    };
    let writer = LedgerWriter {
        notes,
        taken: Vec::new(),
        lost: lost.clone(),
    };
    (queue, writer)
}

impl LedgerQueue {
    /// Notes the ids of an answer for the tenant and the account of the call. Never waits.
    pub fn note(&self, keys: Vec<LedgerKey>, party: &str, account: &str, operation: &str) {
        for key in keys {
            let note = LedgerNote {
                key,
                holder: TenantAccount {
                    tenant: party.to_owned(),
                    account: account.to_owned(),
                },
                at_ms: None,
                operation: operation.to_owned(),
                currency: None,
            };
            if self.notes.try_send(note).is_err() {
                self.lost.inc();
            }
        }
    }
}

impl LedgerWriter {
    /// Writes notes until the process ends. Wakes the decisions about notifications in quarantine that name one of them.
    pub async fn run(&mut self, calls: &StoreCalls, learned: &Notify) {
        while self.notes.recv_many(&mut self.taken, MOST_KEYS).await > 0 {
            let mut was_away = false;
            while let Err(error) = write(calls, &self.taken, learned).await {
                if !was_away {
                    tracing::warn!(%error, notes = self.taken.len(), "the ledger takes no ids of GatePay's; they wait");
                }
                was_away = true;
                sleep(RETRY).await;
            }
            self.taken.clear();
        }
    }

    /// Writes the notes that still wait, once; counts those that are lost.
    pub async fn finish(&mut self, calls: &StoreCalls, learned: &Notify) {
        self.notes.close();
        loop {
            if !self.taken.is_empty()
                && let Err(error) = write(calls, &self.taken, learned).await
            {
                tracing::warn!(%error, notes = self.taken.len(), "the ledger lost ids of GatePay's at the end of the process");
                self.lost.inc_by(self.taken.len() as u64);
            }
            self.taken.clear();
            if self.notes.recv_many(&mut self.taken, MOST_KEYS).await == 0 {
                return;
            }
        }
    }
}

async fn write(
    calls: &StoreCalls,
    notes: &[LedgerNote],
    learned: &Notify,
) -> Result<(), StoreCallError> {
    let notes = notes.to_vec();
    let noted = calls
        .call(move |store| async move { store.note_owners(&notes, LedgerSource::Answer).await });
    if !noted.await?.is_empty() {
        learned.notify_one();
    }
    Ok(())
}
