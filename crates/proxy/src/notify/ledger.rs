//! Ledger: takes the ids in GatePay's answers to the store, so that notifications find the tenant of the call, and the
//! calls without a known outcome, so that notifications settle them.
//!
//! An answer to a tenant's own query names an id too. No page says that GatePay keeps accounts apart, so the ledger learns
//! such an id only beside a number that the tenant alone has in the ledger, of a sub-account that the tenant alone has ever
//! had, and if no tenant has the id. A probe that finds that the query shows objects of other accounts takes the ids away.
//!
//! The answer does not wait for it. A call's intents are in the store already, written with its stamp.

use std::collections::HashSet;
use std::time::Duration;

use gatepay_core::ledger_key::LedgerKey;
use gatepay_store::notifications::ledger::{
    LedgerHolder, LedgerNote, LedgerSource, MOST_KEYS, TenantAccount,
};
use gatepay_store::notifications::settlement::OpenCall;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::owner::registered_tenants::have_always_been_alone;
use crate::notify::settling::Settling;

/// The most notes that wait for the store: some seconds of calls at GatePay's quota.
pub const WAITING: usize = 8_192;
/// The pause after the store did not take notes.
const RETRY: Duration = Duration::from_millis(500);
/// As many ids of queries as are remembered, so that a tenant that polls costs the store nothing more.
const REMEMBERED: usize = 8_192;

/// The way of notes to the ledger.
pub struct LedgerQueue {
    items: mpsc::Sender<LedgerItem>,
    lost: IntCounter,
    /// Ids of queries' answers that were noted lately, with the tenants that asked.
    shown: Mutex<HashSet<(TenantAccount, LedgerKey)>>,
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
    /// An id that the answer to a tenant's own query shows.
    Shown(Box<FoundIds>),
    /// The call has no known outcome.
    Open(Box<OpenCall>),
}

/// Ids that GatePay named when the proxy asked it for a number of a call.
#[derive(Clone)]
pub struct FoundIds {
    /// The party with the account of the call.
    pub holder: TenantAccount,
    /// The operation of the call; of a query its own.
    pub operation: String,
    /// The numbers that the call chose.
    pub chosen: Vec<LedgerKey>,
    /// GatePay's ids.
    pub ids: Vec<LedgerKey>,
    /// The currency of the call's order, for a refund of it.
    pub currency: Option<String>,
}

/// A queue and its other end. Items that find no room are counted in `lost`.
pub fn queue(lost: &IntCounter) -> (LedgerQueue, LedgerWriter) {
    let (sender, items) = mpsc::channel(WAITING);
    let queue = LedgerQueue {
        items: sender,
        lost: lost.clone(),
        shown: Mutex::default(),
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

    /// Notes the id that the answer to a tenant's own query shows, once for a while. Never waits, and takes no room that ids of
    /// calls may need.
    pub fn note_shown(&self, shown: FoundIds) {
        if self.items.capacity() < WAITING / 2 {
            return;
        }
        let mut remembered = self.shown.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        let mut ids = shown.ids.iter();
        let is_new = ids.any(|id| remembered.insert((shown.holder.clone(), id.clone())));
        drop(remembered);
        if is_new {
            self.send(LedgerItem::Shown(Box::new(shown)));
        }
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

impl FoundIds {
    fn notes(&self) -> impl Iterator<Item = LedgerNote> {
        self.ids.iter().map(|id| LedgerNote {
            key: id.clone(),
            holder: self.holder.clone(),
            at_ms: None,
            operation: self.operation.clone(),
            currency: self.currency.clone(),
        })
    }
}

/// Writes all items. After an error all may be written again: each is there once.
async fn write(
    calls: &StoreCalls,
    settling: &Settling,
    items: &[LedgerItem],
    learned: &Notify,
) -> Result<(), StoreCallError> {
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    let (mut found, mut shown) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            LedgerItem::Answered(note) => answered.push(note.clone()),
            LedgerItem::Found(ids) => found.push(&**ids),
            LedgerItem::Shown(ids) => shown.push(&**ids),
            LedgerItem::Open(call) => open.push(OpenCall::clone(call)),
        }
    }
    note_ids(calls, answered, LedgerSource::Answer, learned).await?;
    let mut proved = Vec::new();
    for found in found {
        if is_only_holder(calls, found).await? {
            proved.extend(found.notes());
        }
    }
    for shown in shown {
        if is_only_holder(calls, shown).await? && is_new_and_unshared(calls, shown).await? {
            proved.extend(shown.notes());
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
    let is_own = |of_number: &Vec<LedgerHolder>| match &of_number[..] {
        [only] => {
            only.tenant.tenant == found.holder.tenant && only.tenant.account == found.holder.account
        }
        _ => false,
    };
    Ok(!holders.is_empty() && holders.iter().all(is_own))
}

/// Whether no tenant has the ids, and no other tenant has or had the sub-account: to GatePay the objects of all of them are the
/// account's.
async fn is_new_and_unshared(calls: &StoreCalls, shown: &FoundIds) -> Result<bool, StoreCallError> {
    let ids = shown.ids.clone();
    let holders = calls.call(move |store| async move { store.owners(&ids).await });
    if !holders.await?.iter().all(Vec::is_empty) {
        return Ok(false);
    }
    let alone = have_always_been_alone(calls, vec![shown.holder.account.clone()]).await?;
    Ok(alone == [true])
}
