//! The suspensions by hand, for commands that show the standing of tenants.

use std::path::Path;

use gatepay_proxy::generation::suspension::SuspendedBy;
use gatepay_proxy::process::state_dir::{SuspensionList, suspended_in};
use gatepay_tenancy::{PartyId, Standing};

/// The list of suspensions, or the reason why it is unknown.
pub(crate) struct SuspendedByHand(Result<SuspensionList, String>);

impl SuspendedByHand {
    /// Reads the list from the state folder. Without a folder the list is empty.
    pub(crate) fn in_folder(folder: Option<&Path>) -> Self {
        let Some(folder) = folder else {
            return Self(Ok(SuspensionList::new()));
        };
        Self(suspended_in(folder).map_err(|error| {
            format!("the suspensions by hand (POST /-/suspend) cannot be read: state_dir: {error}")
        }))
    }

    /// The suspension of this party: the operator and the time.
    pub(crate) fn of(&self, id: &PartyId) -> Option<SuspendedBy> {
        let list = self.0.as_ref().ok()?;
        list.get(id).map(SuspendedBy::from)
    }

    /// The standing in force of a party with this standing in its file.
    pub(crate) fn standing(&self, id: &PartyId, file: Standing) -> Standing {
        self.of(id).map_or(file, |_| Standing::Suspended)
    }

    /// One line for each of these parties that is suspended, or one line that says that the list is unknown.
    pub(crate) fn notes<'a>(&self, ids: impl Iterator<Item = &'a PartyId>) -> Vec<String> {
        if let Err(unknown) = &self.0 {
            return vec![format!("note: {unknown}")];
        }
        let note = |id: &PartyId| {
            let by = self.of(id)?;
            Some(format!(
                "note: {id} is suspended by hand: {by}; POST /-/resume?tenant={id} on the admin address ends it"
            ))
        };
        ids.filter_map(note).collect()
    }
}
