//! Suspensions by hand: parties that an operator stopped on the admin address, regardless of their files.
//!
//! The list is in memory, where [`tenant_limits`](crate::generation::tenant_limits) reads it, and in the state folder,
//! from which the next process reads it. A suspension takes effect in memory first, and stays in effect if the disk
//! fails. A resume takes effect on the disk first, and not at all if the disk fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use gatepay_tenancy::PartyId;
use gatepay_tenancy::facts::time;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde::Serialize;

use crate::process::state_dir::{Suspension, SuspensionFile, SuspensionList};

/// The parties that are suspended by hand.
#[derive(Default)]
pub struct Suspensions {
    list: RwLock<SuspensionOrder>,
    /// Held while the file is written, so that the last writer writes the latest list.
    place: Mutex<SuspensionPlace>,
    /// Whether the suspensions have a file, which is read without waiting for the disk.
    has_place: AtomicBool,
    /// Whether the folder belongs to the next process, also read without waiting.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct SuspensionOrder {
    parties: SuspensionList,
    /// Parties that were suspended since the list was last taken to the disk: a write under way must not undo these
    /// suspensions.
    meanwhile: BTreeSet<PartyId>,
    /// How often each party was suspended.
    orders: BTreeMap<PartyId, u64>,
    /// Whether the file differs from the list.
    differs: bool,
}

/// The place where the suspensions are kept.
#[derive(Default)]
enum SuspensionPlace {
    /// Nowhere: there is no state folder.
    #[default]
    Nowhere,
    In(SuspensionFile),
    /// The folder belongs to the next process.
    Closed,
}

/// The reason why suspensions are not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// Without `state_dir` there is no place for them.
    #[error("there is no state_dir")]
    Nowhere,
    /// The next process has the folder, and this one admits nothing more.
    #[error("this process is ending")]
    Closed,
    /// The disk refused the write.
    #[error("state_dir cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// The result of a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiftResult {
    /// The party is not suspended by hand any more.
    Lifted,
    /// The party was not suspended by hand.
    Unchanged,
    /// The party was suspended once more during the resume, and still is.
    SuspendedAgain,
}

/// A suspension by hand, as the admin address shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SuspendedBy {
    /// The name of the operator of the proxy.
    by: String,
    /// The start of the suspension, in RFC 3339.
    since: String,
}

impl fmt::Display for SuspendedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, since } = self;
        write!(f, "by {by} since {since}")
    }
}

impl From<&Suspension> for SuspendedBy {
    fn from(suspension: &Suspension) -> Self {
        Self {
            by: suspension.by.to_string(),
            since: time(suspension.since_ms),
        }
    }
}

impl Suspensions {
    /// Takes over the suspensions that were left in a file, and keeps them there from now on.
    pub fn adopt(&self, file: SuspensionFile, left: SuspensionList) {
        *self.place() = SuspensionPlace::In(file);
        self.has_place.store(true, Ordering::Release);
        self.change().parties = left;
    }

    /// Whether the suspensions have a file.
    pub fn have_a_place(&self) -> bool {
        self.has_place.load(Ordering::Acquire)
    }

    /// Whether the next process has the suspensions.
    pub fn are_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// How often this party was suspended, which [`lift`](Self::lift) takes.
    pub fn orders(&self, id: &PartyId) -> u64 {
        self.list().orders.get(id).copied().unwrap_or_default()
    }

    /// The suspension by hand of this party, if there is one.
    pub fn of(&self, id: &str) -> Option<Suspension> {
        self.list().parties.get(id).cloned()
    }

    /// The list of all suspensions.
    pub fn all(&self) -> SuspensionList {
        self.list().parties.clone()
    }

    /// The number of suspensions.
    pub fn count(&self) -> usize {
        self.list().parties.len()
    }

    /// Whether the file differs from the list: a restart would lose some suspensions.
    pub fn are_unkept(&self) -> bool {
        self.list().differs
    }

    /// Suspends a party, in memory. Returns the suspension in force, and whether it is new.
    pub fn add(&self, id: &PartyId, new: Suspension) -> (Suspension, bool) {
        let mut list = self.change();
        list.meanwhile.insert(id.clone());
        *list.orders.entry(id.clone()).or_default() += 1;
        list.differs = true;
        let is_new = !list.parties.contains_key(id);
        let suspension = list.parties.entry(id.clone()).or_insert(new);
        (suspension.clone(), is_new)
    }

    /// Writes the list in memory to the disk, and waits for the write.
    pub fn keep(&self) -> Result<(), NotKept> {
        let place = self.place();
        self.keep_in(&place)
    }

    fn keep_in(&self, place: &SuspensionPlace) -> Result<(), NotKept> {
        let mut list = self.change();
        let parties = list.parties.clone();
        list.meanwhile.clear();
        drop(list);
        place.write(&parties)?;
        let mut list = self.change();
        list.differs = !list.meanwhile.is_empty();
        Ok(())
    }

    /// Resumes a party, on the disk and then in memory, unless it was suspended once more since it had this number of
    /// [`orders`](Self::orders). Waits for the disk; if the write fails the party stays suspended.
    pub fn lift(&self, id: &PartyId, orders: u64) -> Result<LiftResult, NotKept> {
        let place = self.place();
        let mut list = self.change();
        if list.orders.get(id) > Some(&orders) {
            return Ok(LiftResult::SuspendedAgain);
        }
        let mut parties = list.parties.clone();
        if parties.remove(id).is_none() {
            return Ok(LiftResult::Unchanged);
        }
        list.meanwhile.clear();
        drop(list);
        let written = place.write(&parties);
        let mut list = self.change();
        if written.is_ok() && !list.meanwhile.contains(id) {
            list.parties.remove(id);
            list.differs = !list.meanwhile.is_empty();
            return Ok(LiftResult::Lifted);
        }
        // The new file may be in place although the write failed.
        list.differs = true;
        drop(list);
        let restored = self.keep_in(&place);
        written.and(restored).map(|()| LiftResult::SuspendedAgain)
    }

    /// Leaves the file to the next process: this process does not write it once this returns.
    pub fn close(&self) {
        let mut place = self.place();
        if self.are_unkept()
            && let Err(error) = self.keep_in(&place)
        {
            let parties: Vec<_> = self.all().into_keys().collect();
            tracing::error!(%error, ?parties, "suspensions by hand are lost when this process ends: state_dir cannot be written");
        }
        if let SuspensionPlace::In(_) = *place {
            *place = SuspensionPlace::Closed;
            self.is_closed.store(true, Ordering::Release);
        }
    }

    fn list(&self) -> RwLockReadGuard<'_, SuspensionOrder> {
        self.list.read()
    }

    fn change(&self) -> RwLockWriteGuard<'_, SuspensionOrder> {
        self.list.write()
    }

    fn place(&self) -> MutexGuard<'_, SuspensionPlace> {
        self.place.lock()
    }
}

impl SuspensionPlace {
    fn write(&self, parties: &SuspensionList) -> Result<(), NotKept> {
        match self {
            Self::Nowhere => Err(NotKept::Nowhere),
            Self::In(file) => Ok(file.write(parties)?),
            Self::Closed => Err(NotKept::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::state_dir::{StateDir, suspended_in};
    use std::fs;
    use std::path::Path;

    fn name(text: &str) -> PartyId {
        PartyId::parse(text).unwrap()
    }

    fn by(operator: &str) -> Suspension {
        Suspension {
            by: name(operator),
            since_ms: 1,
        }
    }

    /// Lifts a party's suspension, as of its last order.
    fn lift(suspensions: &Suspensions, id: &str) -> Result<LiftResult, NotKept> {
        let id = name(id);
        suspensions.lift(&id, suspensions.orders(&id))
    }

    fn begin(folder: &Path) -> (StateDir, Suspensions) {
        let state = StateDir::open(folder).unwrap();
        let file = state.suspensions();
        let left = file.read().unwrap().unwrap_or_default();
        let suspensions = Suspensions::default();
        suspensions.adopt(file, left);
        (state, suspensions)
    }

    fn left(folder: &Path) -> Vec<String> {
        let left = suspended_in(folder).unwrap();
        left.into_keys().map(|id| id.to_string()).collect()
    }

    #[test]
    fn suspensions_outlive_the_process_until_a_resume() {
        let folder = tempfile::tempdir().unwrap();
        let (state, suspensions) = begin(folder.path());
        assert_eq!(
            suspensions.add(&name("acme"), by("alice")),
            (by("alice"), true)
        );
        suspensions.keep().unwrap();
        let again = suspensions.add(&name("acme"), by("bob"));
        assert_eq!(again, (by("alice"), false), "the first is in force");
        suspensions.keep().unwrap();
        drop((state, suspensions));
        let (_state, next) = begin(folder.path());
        assert_eq!(next.of("acme"), Some(by("alice")));
        assert_eq!(lift(&next, "globex").unwrap(), LiftResult::Unchanged);
        assert_eq!(lift(&next, "acme").unwrap(), LiftResult::Lifted);
        assert_eq!(next.of("acme"), None);
        assert_eq!(left(folder.path()), [""; 0]);
    }

    #[test]
    fn where_the_disk_fails_a_suspension_is_in_force_and_a_resume_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (_state, suspensions) = begin(&state);
        let _ = suspensions.add(&name("acme"), by("alice"));
        suspensions.keep().unwrap();
        fs::rename(&state, folder.path().join("away")).unwrap();
        let _ = suspensions.add(&name("globex"), by("alice"));
        assert!(matches!(suspensions.keep(), Err(NotKept::Disk(_))));
        assert!(suspensions.are_unkept());
        assert!(lift(&suspensions, "acme").is_err());
        assert_eq!(suspensions.count(), 2);
        fs::rename(folder.path().join("away"), &state).unwrap();
        suspensions.close();
        assert_eq!(left(&state), ["acme", "globex"], "the last chance was used");
    }

    #[test]
    fn the_folder_is_the_next_processes_once_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let (state, old) = begin(folder.path());
        old.close();
        drop(state);
        let (_state, new) = begin(folder.path());
        let _ = new.add(&name("acme"), by("alice"));
        new.keep().unwrap();
        let _ = old.add(&name("globex"), by("alice"));
        assert!(matches!(old.keep(), Err(NotKept::Closed)));
        assert!(matches!(lift(&old, "globex"), Err(NotKept::Closed)));
        assert!(old.are_closed() && !new.are_closed());
        assert_eq!(left(folder.path()), ["acme"]);
        let nowhere = Suspensions::default();
        assert!(matches!(nowhere.keep(), Err(NotKept::Nowhere)));
    }

    #[test]
    fn a_copy_is_given_up_unless_the_party_was_suspended_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let (_state, suspensions) = begin(folder.path());
        let acme = name("acme");
        let _ = suspensions.add(&acme, by("alice"));
        let first = suspensions.orders(&acme);
        let _ = suspensions.add(&acme, by("bob"));
        let stays = suspensions.lift(&acme, first).unwrap();
        assert_eq!(stays, LiftResult::SuspendedAgain);
        assert!(suspensions.of("acme").is_some());
        let second = suspensions.orders(&acme);
        let given_up = suspensions.lift(&acme, second).unwrap();
        assert_eq!(given_up, LiftResult::Lifted);
        assert_eq!(left(folder.path()), [""; 0]);
    }

    #[test]
    fn concurrent_suspensions_leave_the_file_equal_to_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (_state, suspensions) = begin(folder.path());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let suspensions = &suspensions;
                scope.spawn(move || {
                    for round in 0..15 {
                        let id = name(["a", "b", "c"][(thread + round) % 3]);
                        if (thread + round) % 2 == 0 {
                            let _ = suspensions.add(&id, by("alice"));
                            suspensions.keep().unwrap();
                        } else {
                            lift(suspensions, id.as_str()).unwrap();
                        }
                    }
                });
            }
        });
        let all: Vec<_> = suspensions.all().into_keys().collect();
        let kept: Vec<_> = suspended_in(folder.path()).unwrap().into_keys().collect();
        assert_eq!(all, kept);
        assert!(!suspensions.are_unkept());
    }
}
