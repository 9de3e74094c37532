//! Instances of one store: joining, signs of life, leaving.

use zeroize::Zeroizing;

use crate::admission::HaltScope;
use crate::store_clock::StoreTime;

/// An instance's statement about itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceIntroduction {
    /// A random number that is drawn at each start.
    pub id: i64,
    /// The name of its machine or pod, for people.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// The fingerprint of the configuration in force.
    pub config_hash: String,
    /// The widest window of any party, back into the past, in milliseconds: how long stamps are remembered.
    pub past_ms: u64,
    /// Whether it served without the store before, and so sent stamps that the store does not have: a guard covers them.
    pub uncovered: bool,
}

/// The store's answer to an instance that joins.
pub struct InstanceJoined {
    /// The key of every instance's [`Fingerprint`](crate::admission::Fingerprint)s. It is random and made by the first
    /// migration.
    pub fingerprint_key: Zeroizing<[u8; 16]>,
    /// The schema of the store.
    pub schema: u32,
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Stamps up to here are refused, in milliseconds since 1970.
    pub guarded_until: u64,
}

/// An instance's sign of life, about once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceBeat {
    /// The fingerprint of the configuration in force.
    pub config_hash: String,
    /// The newest head of the audit journal's chain.
    pub journal_head: Option<String>,
    /// The newest [epoch](ClusterView::halt_epoch) of halts that every worker of the instance obeys.
    pub halt_epoch: i64,
    /// Whether it serves reads while the store is away, with stamps that the store does not have.
    pub bodyless: bool,
    /// The halts in force as the instance saw them last. Those that the store has lost since are brought back.
    pub known_halts: Vec<HaltInForce>,
}

/// The store's view of all instances.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// The store's clock as it stands, in milliseconds since 1970.
    pub now_ms: u64,
    /// The store's time: its clock without the steps.
    pub time: StoreTime,
    /// Stamps up to here are refused, in milliseconds since 1970.
    pub guarded_until: u64,
    /// The instances that left no later than [`LOST_AFTER_MS`] ago, by id.
    pub instances: Vec<InstanceView>,
    /// Those that did not leave, and gave no sign of life since: listed for a minute, and in the first minute of a new life
    /// of the store for longer. The store's clock does not prove that one of them has ended.
    pub gone: Vec<InstanceView>,
    /// The halts in force, by scope.
    pub halts: Vec<HaltInForce>,
    /// The epoch of the last change of halts. It rises with each change.
    pub halt_epoch: i64,
    /// Those of the halts that the store had lost, and that this sign of life brought back.
    pub brought_back: Vec<HaltScope>,
    /// The standbys of the engine.
    pub replication: Replication,
}

/// One instance of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    /// The number with which it joined.
    pub id: i64,
    /// When it joined, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it last gave a sign of life, in milliseconds since 1970.
    pub seen_ms: u64,
    /// The name of its machine or pod.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// The fingerprint of its configuration.
    pub config_hash: String,
    /// The head of its audit journal's chain.
    pub journal_head: Option<String>,
    /// The newest epoch of halts that it obeys.
    pub halt_epoch: i64,
    /// The part of the institution's rate that it is lent, in requests per second; `None` where nothing is lent.
    pub lease: Option<f64>,
}

/// A halt in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaltInForce {
    /// The calls it covers.
    pub scope: HaltScope,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// The operator that set it.
    pub by: String,
    /// The epoch of the last order to set it, which [`resume`](crate::engine::Store::resume) takes.
    pub epoch: i64,
}

/// An order to end a halt, which the store remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaltEnd {
    /// The calls that the halt covered.
    pub(crate) scope: HaltScope,
    /// The epoch of the order.
    pub(crate) epoch: i64,
}

/// The halts that an instance knows, and that the store has neither in force nor ended: it has lost them.
pub(crate) fn lost_halts(
    known: &[HaltInForce],
    in_force: &[HaltInForce],
    ended: &[HaltEnd],
) -> Vec<HaltInForce> {
    let is_there = |known: &HaltInForce| in_force.iter().any(|halt| halt.scope == known.scope);
    let has_ended = |known: &HaltInForce| {
        let mut ends = ended.iter();
        ends.any(|end| end.scope == known.scope && end.epoch > known.epoch)
    };
    let lost = known.iter().filter(|it| !is_there(it) && !has_ended(it));
    lost.cloned().collect()
}

/// The answer to an order to end a halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeResult {
    /// The halt is not in force any more.
    Resumed {
        /// The epoch of halts from which on it is not.
        epoch: i64,
    },
    /// It was ordered once more since the caller saw it, and stays.
    SuspendedAgain,
}

/// Whether an acknowledged commit survives the loss of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// The engine has no standby, or tells nothing about them.
    None,
    /// Standbys are attached, and a commit waits for none of them.
    Asynchronous {
        /// Their number.
        standbys: u32,
    },
    /// A commit waits for standbys (`synchronous_standby_names`).
    Synchronous,
}

/// An instance without a sign of life for this long counts as gone, in milliseconds.
pub const LOST_AFTER_MS: u64 = 5_000;
