//! Ledger: takes the ids in GatePay's answers to the store, so that notifications find the tenant of the call, and the
//! calls without a known outcome, so that notifications settle them.
//!
//! The answer does not wait for it. A call's intents are in the store already, written with its stamp.

use std::time::Duration;

use gatepay_core::ledger_key::LedgerKey;
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, MOST_KEYS, TenantAccount};
use gatepay_store::notifications::settlement::OpenCall;
use prometheus::IntCounter;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::settling::Settling;

/// The most notes that wait for the store: some seconds of calls at GatePay's quota.
pub const WAITING: usize = 8_192;
/// The pause after the store did not take notes.
const RETRY: Duration = Duration::from_millis(500);

/// The way of notes to the ledger.
pub struct LedgerQueue {
    items: mpsc::Sender<LedgerItem>,
    lost: IntCounter,
}

/// The other end of a [`LedgerQueue`].
pub struct LedgerWriter {
    items: mpsc::Receiver<LedgerItem>,
    /// Items that were taken from the queue and are not written yet.
    taken: Vec<LedgerItem>,
    lost: IntCounter,
}

/// What the ledger learns after a call.
#[derive(Clone)]
enum LedgerItem {
    /// An id in GatePay's answer to the call.
    Answered(LedgerNote),
    /// Ids that a look-up of the call has found.
    Found(Box<FoundIds>),
    /// The call has no known outcome.
    Open(Box<OpenCall>),
}

/// Ids that GatePay named when the proxy asked it for a number of a call.
#[derive(Clone)]
pub struct FoundIds {
    /// The party with the account of the call.
    pub holder: TenantAccount,
    /// The operation of the call.
    pub operation: String,
    /// The numbers that the call chose.
    pub chosen: Vec<LedgerKey>,
    /// GatePay's ids.
    pub ids: Vec<LedgerKey>,
}

/// A queue and its other end. Items that find no room are counted in `lost`.
pub fn queue(lost: &IntCounter) -> (LedgerQueue, LedgerWriter) {
    let (sender, items) = mpsc::channel(WAITING);
    let queue = LedgerQueue {
        items: sender,
        lost: lost.clone(),
    };
    let writer = LedgerWriter {
        items,
        taken: Vec::new(),
        lost: lost.clone(),
    };
    (queue, writer)
}

impl LedgerQueue {
    /// Notes an id of an answer. Never waits.
    pub fn note(&self, id: LedgerNote) {
        self.send(LedgerItem::Answered(id));
    }

    /// Notes the ids that a look-up of a call has found. Never waits.
    pub fn note_found(&self, found: FoundIds) {
        self.send(LedgerItem::Found(Box::new(found)));
    }

    /// Notes that a call has no known outcome. Never waits.
    pub fn note_open(&self, call: OpenCall) {
        self.send(LedgerItem::Open(Box::new(call)));
    }

    fn send(&self, item: LedgerItem) {
        if self.items.try_send(item).is_err() {
            self.lost.inc();
        }
    }
}

impl LedgerWriter {
    /// Writes until the process ends. Wakes the decisions about notifications in quarantine that name one of the ids.
    pub async fn run(&mut self, calls: &StoreCalls, settling: &Settling, learned: &Notify) {
        while self.items.recv_many(&mut self.taken, MOST_KEYS).await > 0 {
            let mut was_away = false;
            while let Err(error) = write(calls, settling, &self.taken, learned).await {
                if !was_away {
                    tracing::warn!(%error, notes = self.taken.len(), "the ledger takes no ids of GatePay's; they wait");
                }
                was_away = true;
                sleep(RETRY).await;
            }
            self.taken.clear();
        }
    }

    /// Writes what still waits, once; counts what is lost.
    pub async fn finish(&mut self, calls: &StoreCalls, settling: &Settling, learned: &Notify) {
        self.items.close();
        loop {
            if !self.taken.is_empty()
                && let Err(error) = write(calls, settling, &self.taken, learned).await
            {
                tracing::warn!(%error, notes = self.taken.len(), "the ledger lost ids of GatePay's at the end of the process");
                self.lost.inc_by(self.taken.len() as u64);
            }
            self.taken.clear();
            if self.items.recv_many(&mut self.taken, MOST_KEYS).await == 0 {
                return;
            }
        }
    }
}

fn note(key: LedgerKey, holder: &TenantAccount, operation: &str) -> LedgerNote {
    LedgerNote {
        key,
        holder: holder.clone(),
        at_ms: None,
        operation: operation.to_owned(),
        currency: None,
    }
}

/// Writes all items. After an error all may be written again: each is there once.
async fn write(
    calls: &StoreCalls,
    settling: &Settling,
    items: &[LedgerItem],
    learned: &Notify,
) -> Result<(), StoreCallError> {
    let (mut answered, mut found, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        match item {
            LedgerItem::Answered(note) => answered.push(note.clone()),
            LedgerItem::Found(ids) => found.push(&**ids),
            LedgerItem::Open(call) => open.push(OpenCall::clone(call)),
        }
    }
    note_ids(calls, answered, LedgerSource::Answer, learned).await?;
    let mut proved = Vec::new();
    for found in found {
        if is_only_holder(calls, found).await? {
            let FoundIds {
                holder, operation, ..
            } = found;
            let notes = found.ids.iter().cloned();
            proved.extend(notes.map(|id| note(id, holder, operation)));
        }
    }
    note_ids(calls, proved, LedgerSource::Asked, learned).await?;
    settling.open(open).await
}

async fn note_ids(
    calls: &StoreCalls,
    notes: Vec<LedgerNote>,
    source: LedgerSource,
    learned: &Notify,
) -> Result<(), StoreCallError> {
    if notes.is_empty() {
        return Ok(());
    }
    let noted = calls.call(move |store| async move { store.note_owners(&notes, source).await });
    if !noted.await?.is_empty() {
        learned.notify_one();
    }
    Ok(())
}

/// Whether no other tenant has chosen a number of the call.
///
/// GatePay may answer a question about a number with the object of another tenant that has chosen the same: no page says
/// that it keeps accounts apart. Every number is in the ledger before its call is sent, so a tenant that alone has the
/// number is the only one whose object the answer can show.
async fn is_only_holder(calls: &StoreCalls, found: &FoundIds) -> Result<bool, StoreCallError> {
    let chosen = found.chosen.clone();
    let holders = calls.call(move |store| async move { store.owners(&chosen).await });
    let holders = holders.await?;
    let is_own = |of_number: &Vec<_>| match &of_number[..] {
        [only] => {
            let only: &gatepay_store::notifications::ledger::LedgerHolder = only;
            only.tenant.tenant == found.holder.tenant && only.tenant.account == found.holder.account
        }
        _ => false,
    };
    Ok(!holders.is_empty() && holders.iter().all(is_own))
}
