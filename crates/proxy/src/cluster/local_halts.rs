//! Local halts: the halts of a process without a store, and their file in `state_dir`.
//!
//! They are asked before each attempt's first byte, under a lock that is held while that byte is handed to the kernel: once a
//! halt is set, no byte of a halted call is sent any more. A process that has handed its folder over goes on with the calls
//! that it has admitted. Halts are then set in the next process, and parties suspended there, so it also reads the files of
//! both before each first byte, under a [lock](crate::process::send_lock) that the next process waits for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_admission::seats::SeatLimit;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::HaltInForce;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::cluster::halt_cache;
use crate::cluster::halt_check::{HaltableCall, StopBeforeSending};
use crate::process::file_access;
use crate::process::files::FileSystem;
use crate::process::send_lock::SendLock;
use crate::process::state_dir::suspended_in;

/// The file's name.
const NAME: &str = "halts";

/// The halts of this process.
#[derive(Default)]
pub struct LocalHalts {
    in_force: RwLock<HaltsInForce>,
    /// Orders to end a halt, where two operators have to order it.
    proposals: Mutex<Vec<ProposedEnd>>,
    /// The state folder; `None` before this process has it, and after it has handed it over.
    folder: Mutex<Option<PathBuf>>,
}

/// The halts in force, and where others are.
#[derive(Default)]
struct HaltsInForce {
    halts: Vec<HaltInForce>,
    /// The number of the halt that was set last. Each has another, by which its end is told from that of a newer one.
    last_epoch: i64,
    /// The folder, once the next process has it and sets the halts.
    left: Option<PathBuf>,
}

/// An operator's order to end a halt.
struct ProposedEnd {
    scope: HaltScope,
    epoch: i64,
    by: String,
    /// In the clock's elapsed time.
    at: Duration,
}

/// The result of an order to end a halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEnd {
    /// It has ended.
    Ended,
    /// It is not in force.
    NotInForce,
    /// Calls of its scope were halted once more since it was looked at. That halt stays.
    HaltedAgain,
}

/// How long an operator's order to end a halt waits for that of another one.
const PROPOSAL_LASTS: Duration = Duration::from_hours(24);

/// A halt in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHalt {
    scope: String,
    since_ms: u64,
    by: String,
}

/// The halts that one call has to pass before a byte of it is sent.
pub struct LocalHaltCheck<'a> {
    halts: &'a LocalHalts,
    call: HaltableCall<'a>,
    /// The party's seats, which are closed while it is suspended here.
    seats: &'a SeatLimit,
}

impl LocalHalts {
    /// Takes over the folder with the halts that the last process left in it, or saw in a store that this one does not have.
    /// A damaged file is an error: without it calls would be sent that an operator has halted. Suspensions are left out.
    pub fn adopt(&self, folder: &Path) -> io::Result<Vec<HaltInForce>> {
        let (halts, of_store) = (left_in(folder)?, halt_cache::left_in(folder)?);
        {
            let mut in_force = self.in_force.write();
            let is_halt = |halt: &HaltInForce| !matches!(halt.scope, HaltScope::Suspended(_));
            for halt in halts.into_iter().chain(of_store.iter().flatten().cloned()) {
                if is_halt(&halt) {
                    in_force.put(halt);
                }
            }
        }
        if of_store.is_some() {
            // From here on they end here, and not in the store.
            self.write(Some(folder))?;
            halt_cache::remove(folder)?;
        }
        *self.folder.lock() = Some(folder.to_owned());
        Ok(self.all())
    }

    /// Leaves the folder to the next process. From here on the halts in the folder hold too.
    pub fn leave_folder(&self) {
        let left = self.folder.lock().take();
        if left.is_some() {
            self.in_force.write().left = left;
        }
    }

    /// The halts in force.
    pub fn all(&self) -> Vec<HaltInForce> {
        self.in_force.read().halts.clone()
    }

    /// Sets a halt. When this returns no byte of a halted call is sent any more, also if the disk has failed.
    pub fn set(&self, halt: HaltInForce) -> io::Result<()> {
        let folder = self.folder.lock();
        {
            let mut in_force = self.in_force.write();
            in_force.put(halt);
        }
        self.write(folder.as_deref())
    }

    /// Ends the halt of a scope that was seen with this epoch, once the disk has it.
    pub fn end(&self, scope: &HaltScope, epoch: i64) -> io::Result<LocalEnd> {
        // Held to the end: a halt is set under the same lock.
        let folder = self.folder.lock();
        let mut left = self.all();
        match left.iter().position(|it| it.scope == *scope) {
            None => return Ok(LocalEnd::NotInForce),
            Some(at) if left[at].epoch != epoch => return Ok(LocalEnd::HaltedAgain),
            Some(at) => left.remove(at),
        };
        write(folder.as_deref(), &left)?;
        self.in_force.write().halts = left;
        Ok(LocalEnd::Ended)
    }

    /// Notes the order of an operator to end the halt of a scope that was seen with this epoch. Returns the other operator that
    /// has ordered the same within a day, since the process began. `now` is the clock's elapsed time.
    pub fn propose_end(
        &self,
        (scope, epoch): (&HaltScope, i64),
        by: &str,
        now: Duration,
    ) -> Option<String> {
        let mut proposals = self.proposals.lock();
        proposals.retain(|it| now.saturating_sub(it.at) < PROPOSAL_LASTS);
        let is_same = |it: &ProposedEnd| it.scope == *scope && it.epoch == epoch;
        let of_another = proposals.iter().find(|it| is_same(it) && it.by != by);
        let other = of_another.map(|it| it.by.clone());
        if other.is_none() {
            proposals.retain(|it| !(is_same(it) && it.by == by));
            proposals.push(ProposedEnd {
                scope: scope.clone(),
                epoch,
                by: by.to_owned(),
                at: now,
            });
        }
        other
    }

    /// The check for one call of the party that these seats are for.
    pub fn check<'a>(&'a self, call: HaltableCall<'a>, seats: &'a SeatLimit) -> LocalHaltCheck<'a> {
        LocalHaltCheck {
            halts: self,
            call,
            seats,
        }
    }

    fn write(&self, folder: Option<&Path>) -> io::Result<()> {
        write(folder, &self.in_force.read().halts)
    }
}

impl HaltsInForce {
    /// Puts a halt in force, in place of that of the same scope.
    fn put(&mut self, halt: HaltInForce) {
        self.halts.retain(|it| it.scope != halt.scope);
        self.last_epoch += 1;
        self.halts.push(HaltInForce {
            epoch: self.last_epoch,
            ..halt
        });
    }
}

/// Removes a folder's file, once a store has the halts.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let files = FileSystem::default();
    file_access::remove(&files, &folder.join(NAME))?;
    files.sync_folder(folder)
}

/// The halts in a folder's file, without epochs. A damaged file is an error.
pub fn left_in(folder: &Path) -> io::Result<Vec<HaltInForce>> {
    let path = folder.join(NAME);
    let Some(text) = file_access::read_own(&FileSystem::default(), &path)? else {
        return Ok(Vec::new());
    };
    let halts: Vec<WrittenHalt> = serde_json::from_slice(&text).map_err(|_damaged| {
        let text = format!(
            "{} is damaged: it says which calls are halted. Put it back from a copy, or remove it to halt none",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    let halts = halts.into_iter().map(|halt| HaltInForce {
        scope: HaltScope::parse(&halt.scope),
        since_ms: halt.since_ms,
        by: halt.by,
        epoch: 0,
    });
    Ok(halts.collect())
}

fn write(folder: Option<&Path>, halts: &[HaltInForce]) -> io::Result<()> {
    let folder = folder.ok_or_else(|| io::Error::other("state_dir belongs to the next process"))?;
    let written = halts.iter().map(|halt| WrittenHalt {
        scope: halt.scope.to_string(),
        since_ms: halt.since_ms,
        by: halt.by.clone(),
    });
    let text = serde_json::to_vec(&written.collect::<Vec<_>>())?;
    // The last process may be sending calls by the halts that are there now.
    let _nothing_is_being_sent = SendLock::alone(folder)?;
    file_access::replace(&FileSystem::default(), folder, NAME, |file| {
        file.write_all(&text)
    })?;
    Ok(())
}

impl LocalHaltCheck<'_> {
    /// Runs `send`, which hands the first bytes of the call to the kernel, unless a halt covers the call or its party is
    /// suspended.
    pub fn pass<T>(&self, send: impl FnOnce() -> T) -> Result<T, StopBeforeSending> {
        let in_force = self.halts.in_force.read();
        if self.seats.is_closed() {
            return Err(StopBeforeSending::Suspended);
        }
        if self.is_covered(&in_force.halts) {
            return Err(StopBeforeSending::Halted);
        }
        let Some(left) = &in_force.left else {
            return Ok(send());
        };
        // The next process has the folder. If its files cannot be read, any call may be halted.
        let not_known = |_| StopBeforeSending::Halted;
        let _nothing_is_being_forbidden = SendLock::shared(left).map_err(not_known)?;
        if self.is_covered(&left_in(left).map_err(not_known)?) {
            return Err(StopBeforeSending::Halted);
        }
        let suspended = suspended_in(left).map_err(not_known)?;
        if suspended.contains_key(self.call.party.as_str()) {
            return Err(StopBeforeSending::Suspended);
        }
        Ok(send())
    }

    fn is_covered(&self, halts: &[HaltInForce]) -> bool {
        halts
            .iter()
            .any(|halt| self.call.is_covered_by(&halt.scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::state_dir::{StateDir, Suspension, SuspensionList};
    use gatepay_core::Catalogue;
    use gatepay_tenancy::PartyId;
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn halt(scope: &str) -> HaltInForce {
        HaltInForce {
            scope: HaltScope::parse(scope),
            since_ms: 7,
            by: "alice".to_owned(),
            epoch: 0,
        }
    }

    fn acme() -> PartyId {
        PartyId::parse("acme").unwrap()
    }

    fn scopes(halts: &[HaltInForce]) -> Vec<String> {
        halts.iter().map(|it| it.scope.to_string()).collect()
    }

    fn is_sent(halts: &LocalHalts, operation: &str) -> bool {
        let catalogue = Catalogue::standard();
        let row = catalogue.named(operation).unwrap();
        let call = HaltableCall {
            kind: row.kind,
            module: row.module,
            party: &acme(),
        };
        halts.check(call, &open_seats()).pass(|| ()).is_ok()
    }

    fn open_seats() -> SeatLimit {
        SeatLimit::new(NonZeroU32::MIN)
    }

    fn suspended(party: &str) -> SuspensionList {
        let name = |text: &str| PartyId::parse(text).unwrap();
        let suspension = Suspension {
            by: name("alice"),
            since_ms: 7,
        };
        SuspensionList::from([(name(party), suspension)])
    }

    #[test]
    fn halts_outlive_the_process_and_a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let halts = LocalHalts::default();
        assert!(halts.set(halt("money")).is_err(), "it has no folder yet");
        let left = halts.adopt(folder.path()).unwrap();
        assert_eq!(scopes(&left), ["money"], "it stays");
        for scope in ["money", "party:acme", "money"] {
            halts.set(halt(scope)).unwrap();
        }
        let next = LocalHalts::default();
        let found = next.adopt(folder.path()).unwrap();
        assert_eq!(scopes(&found), ["party:acme", "money"]);
        let [of_acme, of_money] = [found[0].epoch, found[1].epoch];
        let money = HaltScope::Money;
        assert_eq!(next.end(&money, of_money).unwrap(), LocalEnd::Ended);
        assert_eq!(next.end(&money, of_money).unwrap(), LocalEnd::NotInForce);
        next.leave_folder();
        assert!(next.end(&HaltScope::parse("party:acme"), of_acme).is_err());
        assert_eq!(scopes(&next.all()), ["party:acme"], "it stays");
        std::fs::write(folder.path().join(NAME), "[{").unwrap();
        assert!(LocalHalts::default().adopt(folder.path()).is_err());
    }

    #[test]
    fn a_halt_that_was_set_once_more_is_not_ended_by_the_order_about_the_one_before() {
        let (folder, halts) = (tempfile::tempdir().unwrap(), LocalHalts::default());
        halts.adopt(folder.path()).unwrap();
        halts.set(halt("money")).unwrap();
        let seen = halts.all()[0].epoch;
        halts.set(halt("money")).unwrap();
        let (scope, now) = (HaltScope::Money, Duration::ZERO);
        assert_eq!(halts.end(&scope, seen).unwrap(), LocalEnd::HaltedAgain);
        assert!(!is_sent(&halts, "create_payout"));
        let newer = halts.all()[0].epoch;
        assert_eq!(halts.propose_end((&scope, seen), "alice", now), None);
        assert_eq!(halts.propose_end((&scope, newer), "bob", now), None);
        assert_eq!(halts.end(&scope, newer).unwrap(), LocalEnd::Ended);
        assert!(is_sent(&halts, "create_payout"));
    }

    #[test]
    fn an_order_to_end_a_halt_waits_for_a_day_for_that_of_another_operator() {
        let (halts, seen) = (LocalHalts::default(), (&HaltScope::Money, 1));
        let propose = |by: &str, now| halts.propose_end(seen, by, now);
        let soon = PROPOSAL_LASTS.saturating_sub(Duration::from_secs(1));
        assert_eq!(propose("alice", Duration::ZERO), None);
        assert_eq!(propose("bob", soon).as_deref(), Some("alice"));
        assert_eq!(propose("bob", PROPOSAL_LASTS), None, "it is forgotten");
        assert_eq!(propose("bob", PROPOSAL_LASTS + soon), None, "ordered anew");
        let later = PROPOSAL_LASTS + PROPOSAL_LASTS;
        assert_eq!(propose("alice", later).as_deref(), Some("bob"));
    }

    #[test]
    fn a_process_that_left_its_folder_obeys_the_halts_that_the_next_one_sets() {
        let folder = tempfile::tempdir().unwrap();
        let [last, next] = [(); 2].map(|()| LocalHalts::default());
        last.adopt(folder.path()).unwrap();
        last.leave_folder();
        assert!(is_sent(&last, "create_payout"));
        next.adopt(folder.path()).unwrap();
        next.set(halt("money")).unwrap();
        assert!(!is_sent(&last, "create_payout") && is_sent(&last, "query_order"));
        let epoch = next.all()[0].epoch;
        next.end(&HaltScope::Money, epoch).unwrap();
        assert!(is_sent(&last, "create_payout"));
        std::fs::write(folder.path().join(NAME), "[{").unwrap();
        assert!(!is_sent(&last, "query_order"), "any call may be halted");
        folder.close().unwrap();
        assert!(!is_sent(&last, "query_order"));
    }

    #[test]
    fn a_process_that_left_its_folder_sends_nothing_of_a_party_that_the_next_one_suspends() {
        let folder = tempfile::tempdir().unwrap();
        let last = LocalHalts::default();
        last.adopt(folder.path()).unwrap();
        last.leave_folder();
        let state = StateDir::open(folder.path()).unwrap();
        let suspensions = state.suspensions();
        suspensions.write(&suspended("globex")).unwrap();
        assert!(is_sent(&last, "create_payout"));
        suspensions.write(&suspended("acme")).unwrap();
        assert!(!is_sent(&last, "create_payout") && !is_sent(&last, "query_order"));
        suspensions.write(&SuspensionList::new()).unwrap();
        assert!(is_sent(&last, "create_payout"));
        std::fs::write(folder.path().join("suspended"), "{").unwrap();
        assert!(!is_sent(&last, "create_payout"), "it may be suspended");
    }

    #[test]
    fn an_admitted_call_is_not_sent_once_its_party_is_suspended() {
        let (halts, seats, catalogue) =
            (LocalHalts::default(), open_seats(), Catalogue::standard());
        let row = catalogue.named("create_payout").unwrap();
        let call = HaltableCall {
            kind: row.kind,
            module: row.module,
            party: &acme(),
        };
        let check = halts.check(call, &seats);
        assert_eq!(check.pass(|| ()), Ok(()));
        seats.close(true);
        assert_eq!(check.pass(|| ()), Err(StopBeforeSending::Suspended));
    }

    #[test]
    fn a_halt_and_a_suspension_are_kept_only_once_the_last_process_has_sent_what_it_was_sending() {
        let (catalogue, folder) = (Catalogue::standard(), tempfile::tempdir().unwrap());
        let [last, next] = [(); 2].map(|()| LocalHalts::default());
        last.adopt(folder.path()).unwrap();
        last.leave_folder();
        next.adopt(folder.path()).unwrap();
        let row = catalogue.named("create_payout").unwrap();
        let call = HaltableCall {
            kind: row.kind,
            module: row.module,
            party: &acme(),
        };
        let state = StateDir::open(folder.path()).unwrap();
        let (sent, suspensions) = (&AtomicBool::new(false), &state.suspensions());
        let next = &next;
        std::thread::scope(|scope| {
            let seats = open_seats();
            let passed = last.check(call, &seats).pass(|| {
                let was_sent = || assert!(sent.load(Ordering::SeqCst), "it was still being sent");
                let setting = [
                    scope.spawn(move || {
                        next.set(halt("money")).unwrap();
                        was_sent();
                    }),
                    scope.spawn(move || {
                        suspensions.write(&suspended("acme")).unwrap();
                        was_sent();
                    }),
                ];
                // Long enough for a halt that does not wait; one that does passes whenever it is set.
                std::thread::sleep(Duration::from_millis(50));
                sent.store(true, Ordering::SeqCst);
                setting
            });
            for setting in passed.unwrap() {
                setting.join().unwrap();
            }
        });
    }

    #[test]
    fn a_halted_call_is_not_sent_and_another_is() {
        let halts = LocalHalts::default();
        let _no_folder = halts.set(halt("money"));
        assert!(!is_sent(&halts, "create_payout"));
        assert!(is_sent(&halts, "create_order") && is_sent(&halts, "query_order"));
        let _no_folder = halts.set(halt("all"));
        assert!(!is_sent(&halts, "query_order"));
    }
}
