//! Restrictions: the rights that a party's own table takes away, which go into force ahead of everything else.

use gatepay_core::ClientId;

use crate::model::party::{PartyId, Standing};

/// The statements of a party's table that only take rights away: its standing and the dates of its credentials.
///
/// Every statement is explicit. A credential or a party that a file no longer names is no restriction, for the other half
/// of a move may stand in a file that is not read yet.
pub struct Restrictions {
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
}
