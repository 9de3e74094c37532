//! Last credentials: by which credential each party has made its last call, at any instance. Deliveries are signed with it.
//!
//! A call notes its credential in memory only. The thread `notify` tells the store of each party that has gone over to
//! another credential, and reads calls at other instances and before the start from it. No clock of another machine
//! decides: the store has the word of the instance that told it last, and each instance tells only of calls since it told
//! before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatepay_store::notifications::ledger::{LastCredential, MOST_KEYS};
use gatepay_tenancy::{DatedCredential, PartyRef};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::generation::Generation;
use crate::process::clock::Clock;

/// The interval at which the store is asked about parties with several credentials. A change at this instance is
/// told at the next step.
const ASK: Duration = Duration::from_secs(5);

/// The last credentials by the calls at this instance, and by the store.
pub struct LastCredentials {
    calls: StoreCalls,
    known: Mutex<KnownCredentials>,
    /// Whether the store has answered once.
    heard: watch::Sender<bool>,
}

#[derive(Default)]
struct KnownCredentials {
    /// The configuration about whose parties the store was asked.
    generation: Option<Arc<Generation>>,
    parties: HashMap<String, KnownCredential>,
    asked: Option<Instant>,
}

#[derive(Default)]
struct KnownCredential {
    /// The last call at this instance of which the store knows.
    told: Option<OwnUse>,
    /// The client id in the store.
    stored: Option<String>,
}

/// The last call of a party at this instance: its client id, and its time in milliseconds since 1970.
type OwnUse<Id = String> = (Id, u64);

/// A question to the store about a party.
struct AskedParty {
    position: usize,
    own: Option<OwnUse>,
    asked: LastCredential,
}

impl LastCredentials {
    /// Nothing is known yet.
    pub fn new(calls: StoreCalls) -> Self {
        Self {
            calls,
            known: Mutex::default(),
            heard: watch::Sender::new(false),
        }
    }

    /// Whether the store has answered once. Before, no delivery knows its credential.
    pub fn heard(&self) -> watch::Receiver<bool> {
        self.heard.subscribe()
    }

    /// Tells the store of changes, and asks it if it is time.
    pub async fn step(
        &self,
        generation: &Arc<Generation>,
        clock: &Clock,
    ) -> Result<(), StoreCallError> {
        let is_time = self.is_time(generation);
        let due = self.known.lock().due(generation, is_time);
        for some in due.chunks(MOST_KEYS) {
            // A call that comes while the store answers counts as later.
            let now_ms = clock.unix_ms();
            let asked: Vec<_> = some.iter().map(|it| it.asked.clone()).collect();
            let stored = self
                .calls
                .call(move |store| async move { store.last_credentials(&asked).await });
            let stored = stored.await?;
            let mut known = self.known.lock();
            for (party, stored) in some.iter().zip(stored) {
                known.take(generation, party, stored, now_ms);
            }
        }
        if is_time {
            let mut known = self.known.lock();
            known.generation = Some(Arc::clone(generation));
            known.asked = Some(Instant::now());
        }
        self.heard
            .send_if_modified(|heard| !std::mem::replace(heard, true));
        Ok(())
    }

    fn is_time(&self, generation: &Arc<Generation>) -> bool {
        let known = self.known.lock();
        let is_new = !known.has_asked_about(generation);
        is_new || known.asked.is_none_or(|asked| asked.elapsed() >= ASK)
    }
}

impl KnownCredentials {
    fn has_asked_about(&self, generation: &Arc<Generation>) -> bool {
        let known = self.generation.as_ref();
        known.is_some_and(|known| Arc::ptr_eq(known, generation))
    }

    /// The parties about which there is something to tell or to ask. Of a party with one credential the store is told
    /// once, so that it is known when a second one comes.
    fn due(&mut self, generation: &Arc<Generation>, is_time: bool) -> Vec<AskedParty> {
        let registry = &generation.registry;
        let is_new = !self.has_asked_about(generation);
        if is_new {
            self.parties
                .retain(|party, _| registry.position(party).is_some());
        }
        let mut due = Vec::new();
        let notified = registry
            .parties()
            .enumerate()
            .filter(|(_, party)| party.notifications().is_some());
        for (position, party) in notified {
            let id = party.party().id.as_str();
            let own = own_use(generation, position, party);
            let known = self.parties.get_mut(id);
            let told = known.as_ref().and_then(|known| known.told.as_ref());
            let has_called = own.is_some() && own != told.map(|(told, at)| (told.as_str(), *at));
            let used = own.filter(|_| has_called).map(|(client_id, _)| client_id);
            let stored = known.as_ref().and_then(|known| known.stored.as_deref());
            let is_news = used.is_some() && used != stored;
            let has_several = party.party().credentials.len() > 1;
            let owned = || own.map(|(client_id, at)| (client_id.to_owned(), at));
            if is_news || is_new || is_time && has_several {
                due.push(AskedParty {
                    position,
                    own: owned(),
                    asked: LastCredential {
                        party: id.to_owned(),
                        used: used.map(str::to_owned),
                    },
                });
            } else if let Some(known) = known
                && has_called
            {
                // The store knows it already: a later answer of it may be about a later call elsewhere.
                known.told = owned();
            }
        }
        due
    }

    /// Takes an answer of the store's over.
    fn take(
        &mut self,
        generation: &Generation,
        party: &AskedParty,
        stored: Option<String>,
        now_ms: u64,
    ) {
        let credentials = &generation.registry.at(party.position).party().credentials;
        let is_stored = |dated: &DatedCredential| {
            stored.as_deref() == Some(dated.credential.client_id.as_str())
        };
        if let Some(stored) = credentials.iter().position(is_stored) {
            let used = |index| generation.used(party.position, index);
            let last_ms = used(stored).last_anywhere_ms();
            let mut others = (0..credentials.len()).filter(|index| *index != stored);
            let is_last = others.all(|other| used(other).last_anywhere_ms() < last_ms);
            if last_ms.is_none() || !is_last {
                used(stored).note_elsewhere(now_ms);
            }
        }
        let known = self.parties.entry(party.asked.party.clone()).or_default();
        known.told.clone_from(&party.own);
        known.stored = stored;
    }
}

/// The last call of a party at this instance.
fn own_use<'a>(
    generation: &Generation,
    position: usize,
    party: PartyRef<'a>,
) -> Option<OwnUse<&'a str>> {
    let credentials = party.party().credentials.iter().enumerate();
    let used = credentials.filter_map(|(index, dated)| {
        let last_ms = generation.used(position, index).last_ms()?;
        Some((dated.credential.client_id.as_str(), last_ms))
    });
    used.max_by_key(|(_, last_ms)| *last_ms)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::notify::deliver::tests::tenant_deliveries::{generation, notifications, tenant};

    /// An instance, with the tenant acme.
    struct Instance {
        generation: Arc<Generation>,
        known: KnownCredentials,
    }

    impl Instance {
        fn start(credentials: &[&str]) -> Self {
            let settings = notifications(443, Path::new("ca.pem"));
            let clock = Clock::manual(1_767_225_600_000);
            let generation = generation(tenant(Some(settings), credentials), &clock);
            Self {
                generation: Arc::new(generation),
                known: KnownCredentials::default(),
            }
        }

        fn call(&self, index: usize, at_ms: u64) {
            self.generation.used(0, index).note(at_ms);
        }

        /// Makes a step, and returns what the store was told, for each party that it was asked about.
        fn step(
            &mut self,
            store: &mut Option<String>,
            is_time: bool,
            now_ms: u64,
        ) -> Vec<Option<String>> {
            let due = self.known.due(&self.generation, is_time);
            for party in &due {
                if let Some(used) = &party.asked.used {
                    *store = Some(used.clone());
                }
                self.known
                    .take(&self.generation, party, store.clone(), now_ms);
            }
            self.known.generation = Some(Arc::clone(&self.generation));
            due.into_iter().map(|it| it.asked.used).collect()
        }

        /// The credential that this instance takes for the last one.
        fn last(&self) -> Option<usize> {
            let last = |index| self.generation.used(0, index).last_anywhere_ms();
            let used = (0..2).filter(|index| last(*index).is_some());
            used.max_by_key(|index| last(*index))
        }
    }

    fn told(client_id: &str) -> Vec<Option<String>> {
        vec![Some(client_id.to_owned())]
    }

    #[test]
    fn each_instance_follows_the_last_call_at_any_of_them() {
        let (mut store, both) = (None, ["old", "new"]);
        let [mut one, mut two] = [(); 2].map(|()| Instance::start(&both));
        for instance in [&mut one, &mut two] {
            assert_eq!(instance.step(&mut store, true, 1), [None], "it asks");
            assert_eq!(instance.last(), None);
        }
        one.call(0, 10);
        assert_eq!(one.step(&mut store, false, 11), told("old"));
        two.step(&mut store, true, 12);
        assert_eq!((one.last(), two.last()), (Some(0), Some(0)));
        // A call by the same credential is no news.
        one.call(0, 13);
        assert!(one.step(&mut store, false, 14).is_empty());
        two.call(1, 15);
        assert_eq!(two.step(&mut store, false, 16), told("new"));
        // The last call at the first instance came before.
        assert_eq!(one.step(&mut store, true, 17), [None]);
        assert_eq!((one.last(), two.last()), (Some(1), Some(1)));
        one.call(0, 18);
        assert_eq!(one.last(), Some(0), "at once");
        assert_eq!(one.step(&mut store, false, 19), told("old"));
        assert_eq!(two.step(&mut store, true, 20), [None]);
        assert_eq!(two.last(), Some(0));
        let mut restarted = Instance::start(&both);
        assert_eq!(restarted.step(&mut store, true, 21), [None]);
        assert_eq!(restarted.last(), Some(0));
    }

    #[test]
    fn of_a_party_with_one_credential_the_store_is_told_once() {
        let mut store = None;
        let mut instance = Instance::start(&["only"]);
        assert_eq!(instance.step(&mut store, true, 1), [None]);
        instance.call(0, 2);
        assert_eq!(instance.step(&mut store, false, 3), told("only"));
        for at_ms in 4..20 {
            instance.call(0, at_ms);
            assert!(instance.step(&mut store, at_ms % 2 == 0, at_ms).is_empty());
        }
    }
}
