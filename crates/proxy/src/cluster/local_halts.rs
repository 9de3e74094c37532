//! Local halts: the halts of a process without a store, and their file in `state_dir`.
//!
//! They are asked before each attempt's first byte, under a lock that is held while that byte is handed to the kernel: once a
//! halt is set, no byte of a halted call is sent any more.

use std::io;
use std::path::{Path, PathBuf};

use gatepay_core::Operation;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::HaltInForce;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::cluster::halt_check::StopBeforeSending;
use crate::process::file_access;
use crate::process::files::FileSystem;

/// The file's name.
const NAME: &str = "halts";

/// The halts of this process.
#[derive(Default)]
pub struct LocalHalts {
    in_force: RwLock<Vec<HaltInForce>>,
    /// Orders to end a halt, where two operators have to order it: the scope and the operator.
    proposals: Mutex<Vec<(HaltScope, String)>>,
    /// The state folder; `None` before this process has it, and after it has handed it over.
    folder: Mutex<Option<PathBuf>>,
}

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
    operation: &'a Operation,
    party: &'a str,
}

impl LocalHalts {
    /// Takes over the folder with the halts that the last process left in it. A damaged file is an error: without it calls
    /// would be sent that an operator has halted.
    pub fn adopt(&self, folder: &Path) -> io::Result<Vec<HaltInForce>> {
        let path = folder.join(NAME);
        let text = file_access::read_own(&FileSystem::default(), &path)?;
        let halts: Vec<WrittenHalt> = match text {
            None => Vec::new(),
            Some(text) => serde_json::from_slice(&text).map_err(|_damaged| {
                let text = format!(
                    "{} is damaged: it says which calls are halted. Put it back from a copy, or remove it to halt none",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
        };
        let halts = halts.into_iter().map(|halt| HaltInForce {
            scope: HaltScope::parse(&halt.scope),
            since_ms: halt.since_ms,
            by: halt.by,
            epoch: 0,
        });
        *self.in_force.write() = halts.collect();
        *self.folder.lock() = Some(folder.to_owned());
        Ok(self.all())
    }

    /// Leaves the folder to the next process.
    pub fn leave_folder(&self) {
        *self.folder.lock() = None;
    }

    /// The halts in force.
    pub fn all(&self) -> Vec<HaltInForce> {
        self.in_force.read().clone()
    }

    /// Sets a halt. When this returns no byte of a halted call is sent any more, also if the disk has failed.
    pub fn set(&self, halt: HaltInForce) -> io::Result<()> {
        let folder = self.folder.lock();
        {
            let mut halts = self.in_force.write();
            halts.retain(|it| it.scope != halt.scope);
            self.proposals
                .lock()
                .retain(|(scope, _)| *scope != halt.scope);
            halts.push(halt);
        }
        self.write(folder.as_deref())
    }

    /// Ends a halt, once the disk has it. Returns whether there was one.
    pub fn end(&self, scope: &HaltScope) -> io::Result<bool> {
        let folder = self.folder.lock();
        let before = self.all();
        let left = before.iter().filter(|it| it.scope != *scope);
        let left: Vec<HaltInForce> = left.cloned().collect();
        if left.len() == before.len() {
            return Ok(false);
        }
        write(folder.as_deref(), &left)?;
        *self.in_force.write() = left;
        Ok(true)
    }

    /// Notes the order of an operator to end a halt. Returns the other operator that has ordered the same, since the halt was
    /// set and since the process began.
    pub fn propose_end(&self, scope: &HaltScope, by: &str) -> Option<String> {
        let mut proposals = self.proposals.lock();
        let of_another = |(of, other): &&(HaltScope, String)| of == scope && other != by;
        let other = proposals
            .iter()
            .find(of_another)
            .map(|(_, other)| other.clone());
        if other.is_none() {
            proposals.push((scope.clone(), by.to_owned()));
        }
        other
    }

    /// The check for one call.
    pub fn check<'a>(&'a self, operation: &'a Operation, party: &'a str) -> LocalHaltCheck<'a> {
        LocalHaltCheck {
            halts: self,
            operation,
            party,
        }
    }

    fn write(&self, folder: Option<&Path>) -> io::Result<()> {
        write(folder, &self.in_force.read())
    }
}

fn write(folder: Option<&Path>, halts: &[HaltInForce]) -> io::Result<()> {
    let folder = folder.ok_or_else(|| io::Error::other("state_dir belongs to the next process"))?;
    let written = halts.iter().map(|halt| WrittenHalt {
        scope: halt.scope.to_string(),
        since_ms: halt.since_ms,
        by: halt.by.clone(),
    });
    let text = serde_json::to_vec(&written.collect::<Vec<_>>())?;
    file_access::replace(&FileSystem::default(), folder, NAME, |file| {
        file.write_all(&text)
    })?;
    Ok(())
}

impl LocalHaltCheck<'_> {
    /// Runs `send`, which hands the first bytes of the call to the kernel, unless a halt covers the call.
    pub fn pass<T>(&self, send: impl FnOnce() -> T) -> Result<T, StopBeforeSending> {
        let halts = self.halts.in_force.read();
        let Operation { kind, module, .. } = self.operation;
        let covers = |halt: &HaltInForce| halt.scope.covers(*kind, module.as_str(), self.party);
        if halts.iter().any(covers) {
            return Err(StopBeforeSending::Halted);
        }
        Ok(send())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::Catalogue;

    fn halt(scope: &str) -> HaltInForce {
        HaltInForce {
            scope: HaltScope::parse(scope),
            since_ms: 7,
            by: "alice".to_owned(),
            epoch: 0,
        }
    }

    #[test]
    fn halts_outlive_the_process_and_a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let halts = LocalHalts::default();
        assert!(halts.set(halt("money")).is_err(), "it has no folder yet");
        assert_eq!(halts.adopt(folder.path()).unwrap(), []);
        for scope in ["money", "party:acme", "money"] {
            halts.set(halt(scope)).unwrap();
        }
        let next = LocalHalts::default();
        assert_eq!(
            next.adopt(folder.path()).unwrap(),
            [halt("party:acme"), halt("money")]
        );
        assert!(next.end(&HaltScope::Money).unwrap());
        assert!(!next.end(&HaltScope::Money).unwrap());
        next.leave_folder();
        assert!(next.end(&HaltScope::parse("party:acme")).is_err());
        assert_eq!(next.all(), [halt("party:acme")], "it stays");
        std::fs::write(folder.path().join(NAME), "[{").unwrap();
        assert!(LocalHalts::default().adopt(folder.path()).is_err());
    }

    #[test]
    fn a_halted_call_is_not_sent_and_another_is() {
        let (catalogue, halts) = (Catalogue::standard(), LocalHalts::default());
        let _no_folder = halts.set(halt("money"));
        let sends = |operation: &str| {
            let row = catalogue.named(operation).unwrap();
            halts.check(row, "acme").pass(|| ()).is_ok()
        };
        assert!(!sends("create_payout") && sends("create_order") && sends("query_order"));
        let _no_folder = halts.set(halt("all"));
        assert!(!sends("query_order"));
    }
}
