//! The replay memory: makes a signed request single-use.
//!
//! The signature covers neither path nor query, so a captured request is good for every path until its stamp is stale;
//! this memory stops the second use. It is exact: a stamp is refused if and only if it was recorded, or lies at or
//! below the horizon. Forgetting moves the horizon first, so a forgotten stamp cannot come back.

mod stamp_table;

use std::fmt;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use gatepay_core::Stamp;
use gatepay_core::stamp::StampWindow;
use gatepay_tenancy::ReplayRule;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};
use siphasher::sip128::{Hash128, Hasher128 as _, SipHasher24};

use stamp_table::{StampEntry, StampTable};

/// The stamps that were admitted and when, across all paths of all tenants.
///
/// ```
/// use gatepay_admission::replay::{Replay, UnusableStamp};
/// use gatepay_core::Stamp;
/// use gatepay_tenancy::{ReplayRule, party::DEFAULT_WINDOW};
///
/// let key = [7; 16]; // Random in earnest.
/// let memory = Replay::new(DEFAULT_WINDOW, 1_000, key, 0);
/// let now_ms = 1_767_225_600_000;
/// let stamp = Stamp::parse(b"1767225600000", b"a-nonce").expect("a stamp");
/// let fingerprint = memory.fingerprint("client", &stamp, ReplayRule::Pair);
/// assert_eq!(memory.record(fingerprint, now_ms), Ok(()));
/// let again = memory.record(fingerprint, now_ms + 5);
/// assert_eq!(again, Err(UnusableStamp::Seen { admitted_ms: now_ms }));
/// ```
pub struct Replay {
    key: [u8; 16],
    shards: Box<[Mutex<ReplayShard>]>,
    horizon: AtomicU64,
    /// Stamps up to here are refused because a run before this one may have admitted them.
    guarded_until: u64,
    /// How far back a fresh stamp may lie: older stamps may be forgotten.
    past_ms: u64,
    entries: AtomicUsize,
    /// The approximate limit of live entries; racing threads may overstep it by one each.
    capacity: AtomicUsize,
    /// Set at the hand-over: from then on this memory admits nothing more.
    closed: AtomicBool,
}

/// The remembered part of a stamp: hashes of 16 bytes each, at any length of the nonce. They are keyed, so an outsider
/// cannot aim for a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampFingerprint {
    /// The hash of client id, nonce and timestamp.
    pair: StampHash,
    /// The hash of client id and nonce, if the nonce may not come again with another timestamp. Both hashes are in one
    /// shard, so that they are judged and recorded under one lock.
    nonce: Option<StampHash>,
    stamp_ms: u64,
}

impl StampFingerprint {
    /// The stamp's time, in milliseconds since 1970.
    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// Whether the nonce may not come again with another timestamp.
    pub fn is_by_nonce(&self) -> bool {
        self.nonce.is_some()
    }
}

/// A keyed 128-bit hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StampHash {
    high: u64,
    /// Its lowest bits select the shard.
    low: u64,
}

/// Why a stamp cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnusableStamp {
    /// The stamp was used already.
    Seen {
        /// When the first copy was admitted, in milliseconds since 1970.
        admitted_ms: u64,
    },
    /// Its nonce was used with another timestamp.
    NonceSeen {
        /// When that stamp was admitted, in milliseconds since 1970.
        admitted_ms: u64,
    },
    /// A run before this one may have admitted it; stamps made at least `wait_ms` later are fine.
    Guarded {
        /// How far the stamp lies below the guard, in milliseconds.
        wait_ms: u64,
    },
    /// The stamp is too old to be remembered: at or below the horizon.
    Forgotten {
        /// The horizon, in milliseconds since 1970. A clock that was ahead may have put it into the future.
        horizon_ms: u64,
    },
    /// The memory was handed over to the next process.
    HandedOver,
    /// The memory holds as many entries as it was sized for. It refuses rather than forgets.
    Full,
}

/// Why it is not certain that no copy of a refused request was or will be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierCopy {
    /// A copy was admitted.
    Admitted {
        /// When, in milliseconds since 1970.
        admitted_ms: u64,
    },
    /// A run before this one may have admitted a copy.
    BeforeTheStart,
    /// A copy may have been admitted and forgotten: the stamp is at or below the horizon.
    Forgotten,
    /// The memory was handed over, and the next process may have admitted a copy.
    HandedOver,
    /// Another copy has arrived, and is neither admitted nor refused yet.
    UnderWay,
    /// The stamp cannot be read from the request head.
    Unreadable,
    /// Another instance may have admitted a copy: the memory that all instances share was not asked, or did not answer.
    OtherInstance,
}

struct ReplayShard {
    /// A ring over time: the slice of time `n` lies in slot `n % slots.len()`.
    slots: Box<[ReplaySlot]>,
    /// Stamps that have arrived and are neither admitted nor refused yet.
    arrived: HashTable<CopiesUnderWay>,
}

/// Copies of one stamp on their way to [`record`](Replay::record).
struct CopiesUnderWay {
    print: StampHash,
    copies: u32,
}

#[derive(Default)]
struct ReplaySlot {
    slice: u64,
    seen: StampTable,
}

/// The number of shards: enough that cores rarely contend for a lock.
const SHARDS: u64 = 64;
/// The first bytes of a hand-over; they name its format.
const MAGIC: &[u8] = b"gatepay-proxy replay memory 1\n";
/// The size of an entry in a hand-over, in bytes.
const ENTRY_BYTES: usize = 28;
/// The largest size of an entry in a table that has more than a few, in bytes: a line of 64 bytes has room for three, and
/// at worst 3/8 of the room is used, just after the table has grown.
const BYTES_PER_ENTRY: usize = 58;
/// The size of a table beside its entries, in bytes: the table itself, and its least allocation.
const BYTES_PER_TABLE: usize = 160;
/// The time that a slice spans, in milliseconds. Smaller slices forget sooner; larger ones waste less on half-empty
/// tables.
const SLICE_MS: u64 = 10_000;

impl Replay {
    /// An empty memory for stamps that are accepted within `window`, with room for `capacity` live entries. A stamp
    /// takes one entry, and one more if its nonce is remembered by itself.
    ///
    /// `guarded_until` (milliseconds since 1970) is start + `future_ms` if a run before this one may have admitted
    /// stamps without a hand-over, and otherwise 0.
    pub fn new(window: StampWindow, capacity: usize, key: [u8; 16], guarded_until: u64) -> Self {
        let slots = slots(window);
        let shard = || {
            Mutex::new(ReplayShard {
                slots: (0..slots).map(|_| ReplaySlot::default()).collect(),
                arrived: HashTable::new(),
            })
        };
        Self {
            key,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            horizon: AtomicU64::new(guarded_until),
            guarded_until,
            past_ms: window.past_ms,
            entries: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
            closed: AtomicBool::new(false),
        }
    }

    /// The fingerprint under which a stamp is recorded. The rule of a client may change at any time: the entries of one
    /// copy refuse the other copy under either rule.
    pub fn fingerprint(
        &self,
        client_id: &str,
        stamp: &Stamp<'_>,
        rule: ReplayRule,
    ) -> StampFingerprint {
        let mut hash = SipHasher24::new_with_key(&self.key);
        let [timestamp, nonce] = stamp.bytes();
        // None of the three can contain a line feed, so the borders cannot move.
        hash.write(client_id.as_bytes());
        hash.write_u8(b'\n');
        hash.write(nonce);
        let nonce = StampHash::from(hash.finish128());
        hash.write_u8(b'\n');
        hash.write(timestamp);
        let mut pair = StampHash::from(hash.finish128());
        pair.low = pair.low / SHARDS * SHARDS + nonce.low % SHARDS;
        StampFingerprint {
            pair,
            nonce: (rule == ReplayRule::Nonce).then_some(nonce),
            stamp_ms: stamp.millis(),
        }
    }

    /// Whether a stamp could be recorded now; another request may still be first. Counts a copy of the stamp as under
    /// way until [`record`](Self::record) admits it or [`refused`](Self::refused) drops it.
    pub fn copy_arrives(&self, print: StampFingerprint) -> Result<(), UnusableStamp> {
        let mut shard = self.shard(print.pair);
        shard.arrive(print.pair);
        self.judge(&shard, print)
    }

    /// Refuses a copy that has [arrived](Self::copy_arrives): returns whether another copy was or may still be
    /// admitted. A copy that is admitted later has arrived later, since this is decided under the lock that admits.
    pub fn refused(&self, print: StampFingerprint) -> Option<EarlierCopy> {
        let mut shard = self.shard(print.pair);
        shard.depart(print.pair);
        self.earlier_copy(&shard, print)
    }

    /// Like [`refused`](Self::refused), for a stamp that was not counted as under way.
    pub fn doubt(&self, print: StampFingerprint) -> Option<EarlierCopy> {
        self.earlier_copy(&self.shard(print.pair), print)
    }

    fn earlier_copy(&self, shard: &ReplayShard, print: StampFingerprint) -> Option<EarlierCopy> {
        match self.judge(shard, print) {
            Err(UnusableStamp::Seen { admitted_ms } | UnusableStamp::NonceSeen { admitted_ms }) => {
                Some(EarlierCopy::Admitted { admitted_ms })
            }
            Err(UnusableStamp::Guarded { .. }) => Some(EarlierCopy::BeforeTheStart),
            Err(UnusableStamp::Forgotten { .. }) => Some(EarlierCopy::Forgotten),
            _ if self.closed.load(Ordering::Acquire) => Some(EarlierCopy::HandedOver),
            _ if shard.is_under_way(print.pair) => Some(EarlierCopy::UnderWay),
            _ => None,
        }
    }

    /// Whether [`record`](Self::record) would admit the stamp now, for a stamp that another memory decides about first.
    pub fn could_record(&self, print: StampFingerprint) -> Result<(), UnusableStamp> {
        self.check(&self.shard(print.pair), print)
    }

    /// Records a stamp as used at `now_ms`, atomically: of any number of racing calls one succeeds.
    pub fn record(&self, print: StampFingerprint, now_ms: u64) -> Result<(), UnusableStamp> {
        let mut shard = self.shard(print.pair);
        self.check(&shard, print)?;
        let prints = [Some(print.pair), print.nonce];
        let slice = print.stamp_ms / SLICE_MS;
        let admitted = i64::try_from(now_ms).unwrap_or(i64::MAX)
            - i64::try_from(slice * SLICE_MS).unwrap_or(i64::MAX);
        let admitted = i32::try_from(admitted).unwrap_or(i32::MAX);
        for print in prints.into_iter().flatten() {
            // Both entries go into one slot: room for the first is room for the second.
            if !self.insert(&mut shard, slice, StampEntry { print, admitted }) {
                return Err(UnusableStamp::Forgotten {
                    horizon_ms: self.horizon(),
                });
            }
        }
        shard.depart(print.pair);
        Ok(())
    }

    /// Whether a stamp can be recorded in its locked shard.
    fn check(&self, shard: &ReplayShard, print: StampFingerprint) -> Result<(), UnusableStamp> {
        if self.closed.load(Ordering::Acquire) {
            return Err(UnusableStamp::HandedOver);
        }
        // Judged under the lock: a thread that forgets moves the horizon first and takes the lock after.
        self.judge(shard, print)?;
        let new = 1 + usize::from(print.nonce.is_some());
        if self.entries() + new > self.capacity.load(Ordering::Relaxed) {
            return Err(UnusableStamp::Full);
        }
        Ok(())
    }

    fn judge(&self, shard: &ReplayShard, print: StampFingerprint) -> Result<(), UnusableStamp> {
        self.above_horizon(print.stamp_ms)?;
        if let Some(admitted_ms) = shard.admitted_in(print.stamp_ms / SLICE_MS, print.pair) {
            return Err(UnusableStamp::Seen { admitted_ms });
        }
        match print.nonce.and_then(|nonce| shard.admitted(nonce)) {
            Some(admitted_ms) => Err(UnusableStamp::NonceSeen { admitted_ms }),
            None => Ok(()),
        }
    }

    /// Closes the memory, and returns its content for the next owner.
    ///
    /// A call of [`record`](Self::record) afterwards is refused: a stamp is in the hand-over, or unused.
    pub fn hand_over(&self) -> Vec<u8> {
        self.closed.store(true, Ordering::Release);
        let mut out = Vec::with_capacity(64 + self.entries() * ENTRY_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.key);
        let mut entries = Vec::new();
        for shard in &self.shards {
            // A record that was under way when the memory closed is complete once its shard can be locked.
            for slot in &shard.lock().slots {
                entries.extend(slot.seen.entries().map(|entry| (slot.slice, entry)));
            }
        }
        // The oldest first, so that the next memory forgets in order if its window is narrower.
        entries.sort_unstable_by_key(|(slice, _)| *slice);
        out.extend_from_slice(&self.horizon.load(Ordering::Acquire).to_le_bytes());
        out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        for (slice, entry) in entries {
            out.extend_from_slice(&slice.to_le_bytes());
            out.extend_from_slice(&entry.print.high.to_le_bytes());
            out.extend_from_slice(&entry.print.low.to_le_bytes());
            out.extend_from_slice(&entry.admitted.to_le_bytes());
        }
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// The memory that a run before this one handed over, or `None` if the bytes are incomplete or corrupt.
    /// `guarded_until` (milliseconds since 1970) is 0 unless another memory may have admitted stamps that are not in it.
    pub fn take_over(
        bytes: &[u8],
        window: StampWindow,
        capacity: usize,
        guarded_until: u64,
    ) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if Sha256::digest(content).as_slice() != digest {
            return None;
        }
        let mut rest = content.strip_prefix(MAGIC)?;
        let key = *take(&mut rest)?;
        let horizon = u64::from_le_bytes(*take(&mut rest)?);
        let count = u64::from_le_bytes(*take(&mut rest)?);
        // Entries that were admitted under a larger quota take no room from the capacity of this one.
        let inherited = usize::try_from(count).ok()?.min(rest.len() / ENTRY_BYTES);
        let memory = Self::new(
            window,
            capacity.saturating_add(inherited),
            key,
            guarded_until,
        );
        memory.raise_horizon(horizon);
        for _ in 0..count {
            let slice = u64::from_le_bytes(*take(&mut rest)?);
            let high = u64::from_le_bytes(*take(&mut rest)?);
            let low = u64::from_le_bytes(*take(&mut rest)?);
            let admitted = i32::from_le_bytes(*take(&mut rest)?);
            let print = StampHash { high, low };
            let entry = StampEntry { print, admitted };
            // The horizon covers an entry that no longer fits the window, as if it had been forgotten here.
            if !memory.insert(&mut memory.shard(print), slice, entry) {
                memory.raise_horizon(end_of(slice));
            }
        }
        rest.is_empty().then_some(memory)
    }

    /// Puts an entry into its slice, and forgets the older slice in that slot; false if the slot holds a newer slice.
    fn insert(&self, shard: &mut ReplayShard, slice: u64, entry: StampEntry) -> bool {
        let slot = shard.slot(slice);
        if slot.slice > slice {
            return false;
        }
        if slot.slice < slice {
            self.forget_slot(slot);
            slot.slice = slice;
        }
        slot.seen.insert(entry);
        self.entries.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Forgets the slices that are too old to be fresh at `now_ms`, and frees their memory. Called every second or so.
    pub fn forget(&self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(self.past_ms) / SLICE_MS;
        // The horizon rises to the slice that still has fresh stamps.
        self.raise_horizon((oldest * SLICE_MS).saturating_sub(1));
        for shard in &self.shards {
            let mut shard = shard.lock();
            for slot in &mut shard.slots {
                if slot.slice < oldest && slot.seen.len() > 0 {
                    self.forget_slot(slot);
                }
            }
        }
    }

    /// Sets the capacity for other limits. If there are more entries than room, none is forgotten: no stamp is admitted
    /// until some entries have gone stale.
    pub fn resize(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// How many entries are remembered now.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// The limit of live entries.
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// The memory that the entries and their tables take now, in bytes.
    pub fn allocated(&self) -> usize {
        let slot = |slot: &ReplaySlot| size_of::<ReplaySlot>() + slot.seen.allocated();
        let shard = |shard: &Mutex<ReplayShard>| shard.lock().slots.iter().map(slot).sum::<usize>();
        self.shards.iter().map(shard).sum()
    }

    /// Stamps up to here, in milliseconds since 1970, are refused: some of them were forgotten.
    pub fn horizon(&self) -> u64 {
        self.horizon.load(Ordering::Acquire)
    }

    /// Until when (milliseconds since 1970) stamps are refused because of a run before this one.
    pub fn guarded_until(&self) -> u64 {
        self.guarded_until
    }

    fn shard(&self, print: StampHash) -> MutexGuard<'_, ReplayShard> {
        let shard = usize::try_from(print.low % SHARDS).expect("a shard's number is small");
        self.shards[shard].lock()
    }

    fn above_horizon(&self, stamp_ms: u64) -> Result<(), UnusableStamp> {
        if stamp_ms <= self.guarded_until {
            return Err(UnusableStamp::Guarded {
                wait_ms: self.guarded_until - stamp_ms + 1,
            });
        }
        let horizon_ms = self.horizon();
        if stamp_ms <= horizon_ms {
            Err(UnusableStamp::Forgotten { horizon_ms })
        } else {
            Ok(())
        }
    }

    fn raise_horizon(&self, to: u64) {
        self.horizon.fetch_max(to, Ordering::AcqRel);
    }

    /// Empties a slot. The horizon covers it before its entries go.
    fn forget_slot(&self, slot: &mut ReplaySlot) {
        if slot.seen.len() == 0 {
            return;
        }
        self.raise_horizon(end_of(slot.slice));
        self.entries.fetch_sub(slot.seen.len(), Ordering::Relaxed);
        slot.seen = StampTable::default();
    }
}

/// The last millisecond of a slice.
fn end_of(slice: u64) -> u64 {
    slice.saturating_add(1).saturating_mul(SLICE_MS) - 1
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

/// The largest size of a memory for `capacity` entries, in bytes.
pub fn bytes(window: StampWindow, capacity: usize) -> usize {
    let tables = slots(window).saturating_mul(SHARDS);
    let tables = usize::try_from(tables).unwrap_or(usize::MAX);
    tables
        .saturating_mul(BYTES_PER_TABLE)
        .saturating_add(capacity.saturating_mul(BYTES_PER_ENTRY))
}

/// How many slices of time are remembered at once: one more at each end, since a window rarely begins where a slice does.
fn slots(window: StampWindow) -> u64 {
    (window.past_ms + window.future_ms) / SLICE_MS + 3
}

impl fmt::Display for EarlierCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted { .. } => "an earlier copy with this timestamp and nonce was admitted",
            Self::BeforeTheStart => "an earlier copy may have been admitted before the last restart",
            Self::Forgotten => {
                "an earlier copy may have been admitted: this timestamp is older than the replay memory's oldest entry"
            }
            Self::HandedOver => {
                "this process is ending, and the next one may have admitted another copy"
            }
            Self::UnderWay => "another copy of this request is under way",
            Self::Unreadable => {
                "an earlier copy may have been admitted: the head does not show one timestamp and nonce"
            }
            Self::OtherInstance => "another instance may have admitted a copy of this request",
        })
    }
}

impl From<Hash128> for StampHash {
    fn from(hash: Hash128) -> Self {
        Self {
            high: hash.h1,
            low: hash.h2,
        }
    }
}

impl ReplayShard {
    fn slot(&mut self, slice: u64) -> &mut ReplaySlot {
        let index = self.index(slice);
        &mut self.slots[index]
    }

    fn index(&self, slice: u64) -> usize {
        usize::try_from(slice % self.slots.len() as u64).expect("a slot's number is small")
    }

    fn arrive(&mut self, print: StampHash) {
        let same = |arrived: &CopiesUnderWay| arrived.print == print;
        if let Some(arrived) = self.arrived.find_mut(print.high, same) {
            arrived.copies += 1;
        } else {
            let arrived = CopiesUnderWay { print, copies: 1 };
            let hash = |arrived: &CopiesUnderWay| arrived.print.high;
            self.arrived.insert_unique(print.high, arrived, hash);
        }
    }

    fn depart(&mut self, print: StampHash) {
        let same = |arrived: &CopiesUnderWay| arrived.print == print;
        if let Ok(mut found) = self.arrived.find_entry(print.high, same) {
            found.get_mut().copies -= 1;
            if found.get().copies == 0 {
                found.remove();
            }
        }
    }

    fn is_under_way(&self, print: StampHash) -> bool {
        let same = |arrived: &CopiesUnderWay| arrived.print == print;
        self.arrived.find(print.high, same).is_some()
    }

    /// When the stamp with this hash was admitted, in any slice.
    fn admitted(&self, print: StampHash) -> Option<u64> {
        self.slots.iter().find_map(|slot| slot.admitted(print))
    }

    fn admitted_in(&self, slice: u64, print: StampHash) -> Option<u64> {
        let slot = &self.slots[self.index(slice)];
        (slot.slice == slice).then(|| slot.admitted(print))?
    }
}

impl ReplaySlot {
    fn admitted(&self, print: StampHash) -> Option<u64> {
        let admitted = self.seen.admitted(print)?;
        Some((self.slice * SLICE_MS).saturating_add_signed(i64::from(admitted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const NOW: u64 = 1_767_225_600_000;
    const WINDOW: StampWindow = StampWindow {
        past_ms: 300_000,
        future_ms: 10_000,
    };

    fn memory() -> Replay {
        Replay::new(WINDOW, 1_000_000, [7; 16], 0)
    }

    fn print(memory: &Replay, millis: u64, nonce: &str) -> StampFingerprint {
        by_rule(memory, millis, nonce, ReplayRule::Pair)
    }

    fn by_rule(memory: &Replay, millis: u64, nonce: &str, rule: ReplayRule) -> StampFingerprint {
        let millis = millis.to_string();
        let stamp = Stamp::parse(millis.as_bytes(), nonce.as_bytes()).unwrap();
        memory.fingerprint("client", &stamp, rule)
    }

    #[test]
    fn the_second_use_is_refused_and_told_when_the_first_was() {
        let memory = memory();
        let stamp = print(&memory, NOW - 5_000, "n");
        assert_eq!(memory.copy_arrives(stamp), Ok(()));
        assert_eq!(memory.record(stamp, NOW), Ok(()));
        assert_eq!(
            memory.record(stamp, NOW + 9),
            Err(UnusableStamp::Seen { admitted_ms: NOW })
        );
        assert_eq!(
            memory.copy_arrives(stamp),
            Err(UnusableStamp::Seen { admitted_ms: NOW })
        );
    }

    #[test]
    fn the_fingerprint_of_a_stamp_is_the_same_in_every_version() {
        // A changed hash would make a hand-over unreadable for the next process.
        let memory = memory();
        let whole =
            |text: &str| StampHash::from(SipHasher24::new_with_key(&[7; 16]).hash(text.as_bytes()));
        for nonce in [
            "n",
            "0123456",
            "01234567",
            "a-nonce-of-some-thirty-two-chars",
        ] {
            let stamp = by_rule(&memory, NOW, nonce, ReplayRule::Nonce);
            let (pair, nonce) = (
                whole(&format!("client\n{nonce}\n{NOW}")),
                whole(&format!("client\n{nonce}")),
            );
            assert_eq!(stamp.nonce, Some(nonce));
            assert_eq!(
                (stamp.pair.high, stamp.pair.low / 64),
                (pair.high, pair.low / 64)
            );
            assert_eq!(stamp.pair.low % 64, nonce.low % 64);
        }
    }

    #[test]
    fn the_same_nonce_with_a_fresh_timestamp_is_another_stamp() {
        let memory = memory();
        assert_eq!(memory.record(print(&memory, NOW, "n"), NOW), Ok(()));
        assert_eq!(memory.record(print(&memory, NOW + 1, "n"), NOW), Ok(()));
    }

    #[test]
    fn a_nonce_that_may_not_come_again_does_so_only_once_its_stamp_is_forgotten() {
        let memory = memory();
        let record =
            |millis, now| memory.record(by_rule(&memory, millis, "n", ReplayRule::Nonce), now);
        assert_eq!(record(NOW, NOW), Ok(()));
        assert_eq!(memory.entries(), 2);
        assert_eq!(
            record(NOW, NOW + 1),
            Err(UnusableStamp::Seen { admitted_ms: NOW })
        );
        for later in [1, 60_000, WINDOW.past_ms] {
            memory.forget(NOW + later);
            assert_eq!(
                record(NOW + later, NOW + later),
                Err(UnusableStamp::NonceSeen { admitted_ms: NOW }),
                "{later}"
            );
        }
        let later = NOW + WINDOW.past_ms + SLICE_MS;
        memory.forget(later);
        assert_eq!(record(later, later), Ok(()));
        assert!(record(NOW, later).is_err(), "nor does the first return");
    }

    #[test]
    fn a_stamp_is_used_once_under_either_replay_rule() {
        use ReplayRule::{Nonce, Pair};
        for (first, second) in [(Pair, Nonce), (Nonce, Pair), (Nonce, Nonce), (Pair, Pair)] {
            let memory = memory();
            let stamp = |rule| by_rule(&memory, NOW, "n", rule);
            assert_eq!(memory.record(stamp(first), NOW), Ok(()));
            assert_eq!(
                memory.record(stamp(second), NOW),
                Err(UnusableStamp::Seen { admitted_ms: NOW })
            );
        }
    }

    #[test]
    fn a_forgotten_stamp_is_refused_even_if_the_clock_steps_back() {
        let memory = memory();
        let stamp = print(&memory, NOW, "n");
        memory.record(stamp, NOW).unwrap();
        memory.forget(NOW + WINDOW.past_ms + 60_000);
        assert_eq!(memory.entries(), 0);
        assert!(matches!(
            memory.record(stamp, NOW),
            Err(UnusableStamp::Forgotten { .. })
        ));
    }

    #[test]
    fn nothing_fresh_is_forgotten() {
        let memory = memory();
        let stamp = print(&memory, NOW, "n");
        memory.record(stamp, NOW).unwrap();
        memory.forget(NOW + WINDOW.past_ms);
        assert_eq!(
            memory.copy_arrives(stamp),
            Err(UnusableStamp::Seen { admitted_ms: NOW })
        );
    }

    #[test]
    fn a_full_memory_refuses_rather_than_forgets() {
        let memory = Replay::new(WINDOW, 2, [7; 16], 0);
        for nonce in ["a", "b"] {
            memory.record(print(&memory, NOW, nonce), NOW).unwrap();
        }
        assert_eq!(
            memory.record(print(&memory, NOW, "c"), NOW),
            Err(UnusableStamp::Full)
        );
        assert!(matches!(
            memory.record(print(&memory, NOW, "a"), NOW),
            Err(UnusableStamp::Seen { .. })
        ));
        memory.forget(NOW + WINDOW.past_ms + 20_000);
        assert_eq!(
            memory.record(print(&memory, NOW + 400_000, "c"), NOW + 400_000),
            Ok(())
        );
    }

    #[test]
    fn a_nonce_that_is_remembered_by_itself_needs_room_of_its_own() {
        let memory = Replay::new(WINDOW, 3, [7; 16], 0);
        let record = |nonce| memory.record(by_rule(&memory, NOW, nonce, ReplayRule::Nonce), NOW);
        assert_eq!(record("a"), Ok(()));
        assert_eq!(record("b"), Err(UnusableStamp::Full));
        assert_eq!(memory.record(print(&memory, NOW, "b"), NOW), Ok(()));
    }

    /// For any number and distribution of entries, the memory takes at most the figure that `check` prints; at a
    /// million it is at most 64 bytes for each.
    #[test]
    fn a_memory_takes_no_more_than_was_said() {
        for (count, spread_ms) in [
            (1, 1),
            (1_000, 300_000),
            (2_200, 300_000),
            (30_000, 300_000),
            (30_000, 10_000),
            (1_000_000, 300_000),
        ] {
            let memory = Replay::new(WINDOW, count, [7; 16], 0);
            for number in 0..count as u64 {
                let stamp = print(&memory, NOW - number % spread_ms, &number.to_string());
                memory.record(stamp, NOW).unwrap();
            }
            let (takes, said) = (memory.allocated(), bytes(WINDOW, count));
            assert!(
                takes <= said,
                "{count} over {spread_ms} ms: {takes} > {said}"
            );
            if count == 1_000_000 {
                println!("{} bytes for each of a million", takes.div_ceil(count));
                assert!(said <= 64 * count && takes <= 64 * count);
            }
        }
    }

    #[test]
    fn after_a_crash_old_stamps_wait_for_the_guard() {
        let memory = Replay::new(WINDOW, 10, [7; 16], NOW + WINDOW.future_ms);
        let early = print(&memory, NOW + WINDOW.future_ms - 2_000, "n");
        assert_eq!(
            memory.record(early, NOW),
            Err(UnusableStamp::Guarded { wait_ms: 2_001 })
        );
        let after = print(&memory, NOW + WINDOW.future_ms + 1, "n");
        assert_eq!(memory.record(after, NOW + WINDOW.future_ms + 1), Ok(()));
    }

    #[test]
    fn a_stamp_admitted_before_a_hand_over_is_refused_after_it() {
        let before = memory();
        let used = print(&before, NOW, "used");
        before.record(used, NOW).unwrap();
        before
            .record(print(&before, NOW - 290_000, "old"), NOW - 290_000)
            .unwrap();
        let once = by_rule(&before, NOW, "once", ReplayRule::Nonce);
        before.record(once, NOW).unwrap();
        let bytes = before.hand_over();
        assert_eq!(
            before.record(print(&before, NOW, "late"), NOW),
            Err(UnusableStamp::HandedOver)
        );

        let after = Replay::take_over(&bytes, WINDOW, 1_000_000, 0).unwrap();
        assert_eq!(after.entries(), 4);
        assert_eq!(
            after.record(by_rule(&after, NOW + 1, "once", ReplayRule::Nonce), NOW + 5),
            Err(UnusableStamp::NonceSeen { admitted_ms: NOW })
        );
        // The key came along, so the same stamp has the same fingerprint.
        assert_eq!(
            after.record(print(&after, NOW, "used"), NOW + 5),
            Err(UnusableStamp::Seen { admitted_ms: NOW })
        );
        assert_eq!(after.record(print(&after, NOW, "late"), NOW), Ok(()));
    }

    #[test]
    fn a_narrower_window_forgets_in_order() {
        let before = memory();
        for age in [0, 50_000, 100_000, 290_000] {
            before.record(print(&before, NOW - age, "n"), NOW).unwrap();
        }
        let narrow = StampWindow {
            past_ms: 20_000,
            future_ms: 0,
        };
        let after = Replay::take_over(&before.hand_over(), narrow, 1_000_000, 0).unwrap();
        for age in [0, 50_000, 100_000, 290_000] {
            assert!(
                after.record(print(&after, NOW - age, "n"), NOW).is_err(),
                "{age}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_whole_hand_nothing_over() {
        let before = memory();
        before.record(print(&before, NOW, "n"), NOW).unwrap();
        let bytes = before.hand_over();
        for cut in 0..bytes.len() {
            assert!(
                Replay::take_over(&bytes[..cut], WINDOW, 10, 0).is_none(),
                "cut at {cut}"
            );
        }
        let mut flipped = bytes.clone();
        flipped[40] ^= 1;
        assert!(Replay::take_over(&flipped, WINDOW, 10, 0).is_none());
    }

    #[test]
    fn a_refusal_knows_of_every_copy_that_arrived_before_it() {
        let memory = memory();
        let stamp = print(&memory, NOW, "n");
        assert_eq!(memory.doubt(stamp), None);
        for _ in 0..3 {
            memory.copy_arrives(stamp).unwrap();
        }
        assert_eq!(memory.refused(stamp), Some(EarlierCopy::UnderWay));
        assert_eq!(memory.record(stamp, NOW), Ok(()));
        let admitted = Some(EarlierCopy::Admitted { admitted_ms: NOW });
        assert_eq!(memory.refused(stamp), admitted);
        assert_eq!(memory.doubt(stamp), admitted);
        let other = print(&memory, NOW, "other");
        memory.copy_arrives(other).unwrap();
        assert_eq!(memory.refused(other), None, "it was the only one");
        memory.forget(NOW + WINDOW.past_ms + 60_000);
        assert_eq!(memory.doubt(other), Some(EarlierCopy::Forgotten));
        assert!(
            memory
                .shards
                .iter()
                .all(|shard| shard.lock().arrived.is_empty())
        );
    }

    #[test]
    fn a_handed_over_replay_memory_admits_no_more_stamps() {
        let memory = memory();
        let stamp = print(&memory, NOW, "n");
        memory.copy_arrives(stamp).unwrap();
        memory.hand_over();
        assert_eq!(memory.record(stamp, NOW), Err(UnusableStamp::HandedOver));
        assert_eq!(memory.refused(stamp), Some(EarlierCopy::HandedOver));
    }

    #[test]
    fn a_stamp_is_in_doubt_only_if_an_earlier_run_may_have_admitted_it() {
        let memory = Replay::new(WINDOW, 10, [7; 16], NOW + WINDOW.future_ms);
        let stamp = |millis| memory.doubt(print(&memory, millis, "n"));
        assert_eq!(
            stamp(NOW + WINDOW.future_ms),
            Some(EarlierCopy::BeforeTheStart)
        );
        assert_eq!(stamp(NOW + WINDOW.future_ms + 1), None);
    }

    proptest! {
        /// The law of the memory: for every order of uses, of rules and of clock steps, no stamp is admitted twice. A
        /// nonce that may not come again is refused while its first stamp is fresh.
        #[test]
        fn no_stamp_is_admitted_twice(
            uses in prop::collection::vec(
                (0..700_000_u64, 0..20_u64, -200_000..400_000_i64, any::<bool>()),
                1..300,
            ),
        ) {
            let memory = memory();
            let (mut admitted, mut nonces) = (HashSet::new(), Vec::new());
            let mut now = NOW;
            for (offset, nonce, step, strict) in uses {
                now = now.saturating_add_signed(step);
                let millis = NOW + offset / 100 * 100;
                memory.forget(now);
                let rule = if strict { ReplayRule::Nonce } else { ReplayRule::Pair };
                let stamp = by_rule(&memory, millis, &nonce.to_string(), rule);
                if WINDOW.check(millis, now).is_ok() && memory.record(stamp, now).is_ok() {
                    prop_assert!(admitted.insert((millis, nonce)));
                    if strict {
                        // Below the horizon the first stamp cannot come back, and it does not keep its nonce.
                        let kept = |first: u64| {
                            WINDOW.check(first, now).is_ok() && first > memory.horizon()
                        };
                        let first = nonces
                            .iter()
                            .find(|(other, first)| *other == nonce && kept(*first));
                        prop_assert_eq!(first, None);
                        nonces.push((nonce, millis));
                    }
                }
            }
        }
    }

    /// A million raced attempts on shared stamps over eight threads; the ten-million form runs on request.
    #[test]
    fn of_racing_copies_exactly_one_is_admitted() {
        race(8, 125_000, ReplayRule::Pair);
    }

    /// Every thread brings a timestamp of its own.
    #[test]
    fn of_racing_timestamps_with_one_nonce_exactly_one_is_admitted() {
        race(8, 10_000, ReplayRule::Nonce);
    }

    #[test]
    #[ignore = "the long form of the race: ten million attempts over sixteen threads"]
    fn of_ten_million_racing_copies_exactly_one_each_is_admitted() {
        race(16, 625_000, ReplayRule::Pair);
    }

    fn race(threads: u64, stamps: u64, rule: ReplayRule) {
        let memory = memory();
        let barrier = std::sync::Barrier::new(usize::try_from(threads).unwrap());
        let run = |thread: u64| {
            let own = if rule == ReplayRule::Nonce {
                thread * 7_000
            } else {
                0
            };
            barrier.wait();
            (0..stamps)
                .filter(|n| {
                    let stamp = by_rule(&memory, NOW + n % 10_000 - own, &n.to_string(), rule);
                    memory.record(stamp, NOW).is_ok()
                })
                .count() as u64
        };
        let run = &run;
        let admitted: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || run(thread)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect()
        });
        assert_eq!(
            admitted.iter().sum::<u64>(),
            stamps,
            "double accepts or losses: {admitted:?}"
        );
    }
}
