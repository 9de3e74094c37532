//! A model of the store in plain Rust: the answers that `admit_v1` and its like must give. Property tests drive both.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::admission::{
    AdmissionReply, AdmissionRow, AdmissionVerdict, Fingerprint, HaltScope, LedgerIntent,
    StoredText,
};
use crate::identity::{StoreContact, StoreIdentity};
use crate::instance::ResumeResult;
use crate::ring::{SHORTEST_SLICE_MS, SLOTS, SlotRing, StampRules, UNUSED_RING, spends};
use crate::settings::{Failover, StoreTerms};

/// The store's content but for what calls spend, which [`CapModel`](crate::caps::model::CapModel) has. Lost commits are
/// stamps that a test [removes](Self::lose).
#[derive(Debug, Clone)]
pub struct StoreModel {
    terms: StoreTerms,
    lives: HashMap<StoreIdentity, ModelLife>,
    slots: SlotRing,
    stamps: HashMap<(usize, Fingerprint), u64>,
    nonces: HashMap<Fingerprint, (u64, u64)>,
    /// The halts in force, with the epoch of each one's last order.
    halts: BTreeMap<HaltScope, i64>,
    /// The epoch of the last order to end each halt.
    ends: BTreeMap<HaltScope, i64>,
    halt_epoch: i64,
    owners: BTreeSet<(LedgerIntent, StoredText)>,
    instances: BTreeMap<i64, i64>,
    guard_ms: u64,
    /// The instances that serve reads while the store is away.
    bodyless: BTreeSet<i64>,
    bodyless_until: u64,
}

/// The server's side at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ModelServer {
    /// The engine.
    pub identity: StoreIdentity,
    /// How far its log is flushed.
    pub position: i64,
    /// When the server was started; any number that differs from start to start.
    pub started: i64,
    /// The server's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct ModelLife {
    guarded_until: u64,
    confirmed_start: i64,
}

impl StoreModel {
    /// A store after its first migration.
    pub fn new(terms: StoreTerms) -> Self {
        Self {
            terms,
            lives: HashMap::new(),
            slots: UNUSED_RING,
            stamps: HashMap::new(),
            nonces: HashMap::new(),
            halts: BTreeMap::new(),
            ends: BTreeMap::new(),
            halt_epoch: 0,
            owners: BTreeSet::new(),
            instances: BTreeMap::new(),
            guard_ms: 0,
            bodyless: BTreeSet::new(),
            bodyless_until: 0,
        }
    }

    /// The model, asked by an instance with these terms.
    pub fn under(&mut self, terms: StoreTerms) -> &mut Self {
        self.terms = terms;
        self
    }

    /// How long a guard is.
    fn guard_ms(&self) -> u64 {
        self.guard_ms.max(self.terms.guard_ms())
    }

    /// Decides rows with distinct fingerprints.
    pub fn admit(
        &mut self,
        server: &ModelServer,
        contact: Option<&StoreContact>,
        rows: &[AdmissionRow],
    ) -> (AdmissionReply, StoreContact) {
        let new_guard = self.recognize(server, contact);
        let rules = self.rules(server);
        rules.open(&mut self.slots, rows.iter().map(|row| row.stamp_ms));
        let refusals = rows
            .iter()
            .map(|row| rules.refusal(row, &self.slots, self.halts.keys()));
        let refusals: Vec<_> = refusals.collect();
        let verdicts = rows.iter().zip(refusals);
        let verdicts = verdicts
            .map(|(row, refusal)| self.record(&rules, row, refusal))
            .collect();
        let reply = AdmissionReply {
            verdicts,
            now_ms: server.now_ms,
            guarded_until: rules.guarded_until,
            new_guard,
            shadows: Vec::new(),
        };
        let admitted = rows
            .iter()
            .zip(&reply.verdicts)
            .filter(|(_, it)| **it == AdmissionVerdict::Admitted);
        let newest = admitted.map(|(row, _)| row).max_by_key(|row| row.stamp_ms);
        let mut answered = answer(server);
        answered.stamp = newest.map(|row| (row.stamp, row.stamp_ms.cast_signed()));
        (
            reply,
            StoreContact::after(contact.copied(), answered, new_guard),
        )
    }

    /// A sign of life of an instance.
    pub fn beat(
        &mut self,
        server: &ModelServer,
        contact: Option<&StoreContact>,
        id: i64,
        bodyless: bool,
    ) -> (bool, StoreContact) {
        let wanted = self.terms.guard_ms();
        if self.guard_ms > 0 && self.guard_ms < wanted {
            let lives = self.lives.values_mut();
            for life in lives.filter(|it| it.guarded_until > server.now_ms) {
                life.guarded_until += wanted - self.guard_ms;
            }
        }
        self.guard_ms = self.guard_ms.max(wanted);
        if bodyless {
            self.bodyless.insert(id);
        } else if self.bodyless.remove(&id) {
            self.bodyless_until = server.now_ms + SLOTS * SHORTEST_SLICE_MS;
        }
        let new_guard = self.recognize(server, contact);
        self.instances.insert(id, server.now_ms.cast_signed());
        let mut answered = answer(server);
        answered.sign_of_life = Some((id, answered.at_ms));
        (
            new_guard,
            StoreContact::after(contact.copied(), answered, new_guard),
        )
    }

    /// Takes the next slot out of use, and empties the slots out of use.
    pub fn turn_ring(&mut self, server: &ModelServer) {
        self.rules(server).turn(&mut self.slots);
        for (slot, of) in self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(_, of)| !of.filling)
        {
            self.stamps.retain(|(in_slot, _), _| *in_slot != slot);
            of.filling = true;
        }
    }

    /// Halts calls. Returns the epoch.
    pub fn halt(&mut self, server: &ModelServer, scope: HaltScope) -> i64 {
        let epoch = self.next_epoch(server);
        self.halts.insert(scope, epoch);
        epoch
    }

    /// Ends a halt that was seen with this epoch.
    pub fn resume(
        &mut self,
        server: &ModelServer,
        scope: &HaltScope,
        epoch_seen: i64,
    ) -> ResumeResult {
        let epoch = self.next_epoch(server);
        match self.halts.get(scope) {
            Some(last) if *last != epoch_seen => ResumeResult::SuspendedAgain,
            _ => {
                self.halts.remove(scope);
                self.ends.insert(scope.clone(), epoch);
                ResumeResult::Resumed { epoch }
            }
        }
    }

    /// The halts in force, with the epoch of each one's last order.
    pub fn halts(&self) -> Vec<(HaltScope, i64)> {
        let halts = self.halts.iter();
        halts
            .map(|(scope, epoch)| (scope.clone(), *epoch))
            .collect()
    }

    /// Loses the halts and their ends, as a failover can.
    pub fn lose_halts(&mut self) {
        self.halts.clear();
        self.ends.clear();
        self.halt_epoch = 0;
    }

    /// Brings back the halts that an instance knows, with their epochs, and that were lost.
    pub fn bring_back(&mut self, server: &ModelServer, known: &[(HaltScope, i64)]) {
        let lost = known.iter().filter(|(scope, epoch)| {
            let has_ended = self.ends.get(scope).is_some_and(|end| end > epoch);
            !has_ended && !self.halts.contains_key(scope)
        });
        let lost: Vec<_> = lost.cloned().collect();
        let Some(newest) = lost.iter().map(|(_, epoch)| *epoch).max() else {
            return;
        };
        self.halt_epoch = self.halt_epoch.max(newest);
        let epoch = self.next_epoch(server);
        self.halts
            .extend(lost.into_iter().map(|(scope, _)| (scope, epoch)));
    }

    fn next_epoch(&mut self, server: &ModelServer) -> i64 {
        self.halt_epoch = (self.halt_epoch + 1).max(server.now_ms.cast_signed());
        self.halt_epoch
    }

    /// Sets a guard by hand.
    pub fn distrust(&mut self, server: &ModelServer) {
        self.recognize(server, None);
        let until = server.now_ms + self.guard_ms();
        for life in self.lives.values_mut() {
            life.guarded_until = life.guarded_until.max(until);
        }
        if self.instances.is_empty() {
            self.guard_ms = self.terms.guard_ms();
        }
    }

    /// Loses the stamps admitted at or after a time of the store's clock.
    pub fn lose(&mut self, since_ms: u64) {
        self.stamps.retain(|_, admitted| *admitted < since_ms);
        let since_ms = since_ms.cast_signed();
        self.instances.retain(|_, seen| *seen < since_ms);
        let instances = &self.instances;
        self.bodyless.retain(|id| instances.contains_key(id));
    }

    /// Whether the ledger has a number of a party.
    pub fn owns(&self, party: &StoredText, intent: &LedgerIntent) -> bool {
        self.owners.contains(&(intent.clone(), party.clone()))
    }

    fn rules(&self, server: &ModelServer) -> StampRules {
        let guards = self.lives.values().map(|life| life.guarded_until);
        StampRules {
            now_ms: server.now_ms,
            future_ms: self.terms.future_ms,
            guarded_until: guards.max().unwrap_or(0),
            slice_ms: SHORTEST_SLICE_MS,
            restored: false,
            bodyless: !self.bodyless.is_empty() || server.now_ms < self.bodyless_until,
        }
    }

    /// Records a row that may be admitted; a recorded stamp is `replayed`, also if something else refuses it.
    fn record(
        &mut self,
        rules: &StampRules,
        row: &AdmissionRow,
        refusal: Option<AdmissionVerdict>,
    ) -> AdmissionVerdict {
        let (slot, _) = rules.place(row.stamp_ms);
        if let Some(admitted_ms) = self.stamps.get(&(slot, row.stamp)) {
            return AdmissionVerdict::Replayed {
                admitted_ms: *admitted_ms,
            };
        }
        if let Some(refusal) = refusal {
            if spends(&refusal, row.kind) {
                self.stamps.insert((slot, row.stamp), rules.now_ms);
            }
            return refusal;
        }
        if let Some(nonce) = row.nonce {
            match self.nonces.get(&nonce) {
                Some((admitted_ms, until)) if *until >= rules.now_ms => {
                    return AdmissionVerdict::NonceReplayed {
                        admitted_ms: *admitted_ms,
                    };
                }
                _ => {
                    let until = row.stamp_ms.max(rules.now_ms) + SLOTS * rules.slice_ms;
                    self.nonces.insert(nonce, (rules.now_ms, until));
                }
            }
        }
        self.stamps.insert((slot, row.stamp), rules.now_ms);
        let intents = row
            .intents
            .iter()
            .map(|intent| (intent.clone(), row.party.clone()));
        self.owners.extend(intents);
        AdmissionVerdict::Admitted
    }

    /// Compares the server with a contact. Returns whether it set a guard.
    fn recognize(&mut self, server: &ModelServer, contact: Option<&StoreContact>) -> bool {
        let lossless = self.terms.failover == Failover::Lossless;
        let seen = if lossless {
            StoreIdentity::default()
        } else {
            server.identity
        };
        let renewed = match self.lives.get(&seen) {
            None => true,
            Some(_) if lossless => false,
            Some(life) => {
                let guard_set = life.guarded_until - self.guard_ms();
                let newer = contact.filter(|it| it.at_ms.unsigned_abs() > guard_set);
                let last_seen = self.instances.values().max().copied().unwrap_or(0);
                newer.is_some_and(|contact| self.misses(server, contact))
                    || life.confirmed_start != server.started
                        && (server.started / 1_000 > last_seen + 10_000
                            || contact.is_none_or(|it| it.at_ms < last_seen - 2_000))
            }
        };
        let until = if renewed {
            server.now_ms + self.guard_ms()
        } else {
            0
        };
        let life = self.lives.entry(seen).or_insert(ModelLife {
            guarded_until: 0,
            confirmed_start: 0,
        });
        life.guarded_until = life.guarded_until.max(until);
        life.confirmed_start = if lossless { 0 } else { server.started };
        renewed
    }

    /// Whether commits that the contact knows are missing.
    fn misses(&self, server: &ModelServer, contact: &StoreContact) -> bool {
        if contact.identity != server.identity || server.position < contact.position {
            return true;
        }
        let has_row = |(id, at)| self.instances.get(&id).is_some_and(|seen| *seen >= at);
        if !contact.sign_of_life.is_none_or(has_row) {
            return true;
        }
        let Some((print, stamp_ms)) = contact.stamp else {
            return false;
        };
        let (slot, slice) = self.rules(server).place(stamp_ms.unsigned_abs());
        let here = self.slots[slot].slice;
        here < slice || here == slice && !self.stamps.contains_key(&(slot, print))
    }
}

fn answer(server: &ModelServer) -> StoreContact {
    StoreContact {
        identity: server.identity,
        position: server.position,
        at_ms: server.now_ms.cast_signed(),
        stamp: None,
        sign_of_life: None,
    }
}
