//! Restrictions: the rights that a party's own table takes away, which go into force ahead of everything else.

use std::sync::Arc;

use gatepay_core::ClientId;

use crate::model::party::{DatedCredential, Party, PartyId, Standing};

/// The statements of a party's table that only take rights away: its standing and the dates of its credentials.
///
/// Every statement is explicit. A credential or a party that a file no longer names is no restriction, for the other half
/// of a move may stand in a file that is not read yet.
pub(crate) struct Restrictions {
    pub(crate) id: PartyId,
    pub(crate) standing: Standing,
    pub(crate) credentials: Box<[CredentialDates]>,
}

/// The dates of a credential, in milliseconds since 1970.
pub(crate) struct CredentialDates {
    pub(crate) client_id: ClientId,
    pub(crate) not_before: Option<u64>,
    pub(crate) not_after: Option<u64>,
}

impl Restrictions {
    /// Whether the table takes any right away.
    pub(crate) fn restricts(&self) -> bool {
        self.standing < Standing::Active || !self.credentials.is_empty()
    }

    /// A party with fewer rights; `None` if it has no more than these restrictions leave.
    pub(crate) fn applied_to(&self, party: &Party) -> Option<Party> {
        let credentials = self.dating(&party.credentials);
        if self.standing >= party.standing && credentials.is_none() {
            return None;
        }
        Some(Party {
            id: party.id.clone(),
            standing: party.standing.min(self.standing),
            addresses: party.addresses.clone(),
            replay: party.replay,
            limits: party.limits,
            permissions: party.permissions.clone(),
            window: party.window,
            credentials: credentials.unwrap_or_else(|| Arc::clone(&party.credentials)),
        })
    }

    /// The credentials, each valid only within the dates stated for it; `None` if none becomes valid for less.
    fn dating(&self, credentials: &[DatedCredential]) -> Option<Arc<[DatedCredential]>> {
        let restricts = |dates: &CredentialDates| credentials.iter().any(|it| dates.restrict(it));
        if !self.credentials.iter().any(restricts) {
            return None;
        }
        let dated = credentials.iter().map(|credential| {
            let mut dated = credential.duplicate();
            for dates in self
                .credentials
                .iter()
                .filter(|dates| dates.name(credential))
            {
                (dated.not_before, dated.not_after) = dates.within(&dated);
            }
            dated
        });
        Some(dated.collect())
    }
}

impl CredentialDates {
    fn name(&self, credential: &DatedCredential) -> bool {
        self.client_id == credential.credential.client_id
    }

    /// Whether a credential becomes valid for less.
    fn restrict(&self, credential: &DatedCredential) -> bool {
        self.name(credential)
            && self.within(credential) != (credential.not_before, credential.not_after)
    }

    /// The time that lies within both: from the later beginning to the earlier end.
    fn within(&self, credential: &DatedCredential) -> (Option<u64>, Option<u64>) {
        let ends = [credential.not_after, self.not_after];
        (
            credential.not_before.max(self.not_before),
            ends.into_iter().flatten().min(),
        )
    }
}
