//! Who is suspended by hand, for commands that show how tenants stand.

use std::path::Path;

use gatepay_proxy::generation::suspension::SuspendedBy;
use gatepay_proxy::process::state_dir::{SuspensionList, suspended_in};
use gatepay_tenancy::{PartyId, Standing};

/// Who is, or that it is not known.
pub(crate) struct SuspendedByHand(Result<SuspensionList, String>);

impl SuspendedByHand {
    /// As the state folder says. Without one nobody is.
    pub(crate) fn in_folder(folder: Option<&Path>) -> Self {
        let Some(folder) = folder else {
            return Self(Ok(SuspensionList::new()));
        };
        Self(suspended_in(folder).map_err(|error| {
            format!("who is suspended by hand (POST /-/suspend) is not known: state_dir: {error}")
        }))
    }

    /// Who suspended this party, and since when.
    pub(crate) fn of(&self, id: &PartyId) -> Option<SuspendedBy> {
        let list = self.0.as_ref().ok()?;
        list.get(id).map(SuspendedBy::from)
    }

    /// What a party may do whose file says this.
    pub(crate) fn standing(&self, id: &PartyId, file: Standing) -> Standing {
        self.of(id).map_or(file, |_| Standing::Suspended)
    }

    /// One line for each of these that is, or one that says that it is not known.
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
