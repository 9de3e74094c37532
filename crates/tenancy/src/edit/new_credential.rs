//! A credential that is added to a tenant's table.

use gatepay_core::ClientId;
use zeroize::Zeroizing;

/// A text is not of the form that an edit needs.
#[derive(Debug)]
pub(super) struct UneditableText;

/// A credential that ends, by its place among the tenant's.
#[derive(Debug)]
pub(super) struct EndingCredential {
    pub(super) index: usize,
    /// For one that begins later than it ends: another beginning, in RFC 3339.
    pub(super) not_before: Option<String>,
}

/// The credential that is added to a tenant's table.
pub(super) struct NewCredential<'a> {
    pub(super) client_id: &'a str,
    pub(super) secret_file: &'a str,
}

/// Where its client id and secret come from.
pub struct RandomBytes {
    /// Becomes a version 4 UUID.
    pub client_id: [u8; 16],
    /// Becomes 64 hexadecimal digits.
    pub secret: Zeroizing<[u8; 32]>,
}

/// A new client id and a new secret.
pub(crate) fn draw(random: &RandomBytes) -> (ClientId, Zeroizing<String>) {
    let client_id = uuid::Builder::from_random_bytes(random.client_id).into_uuid();
    let client_id = ClientId::parse(&client_id.to_string()).expect("a UUID is visible ASCII");
    (client_id, Zeroizing::new(hex::encode(*random.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(RandomBytes: fmt::Debug, fmt::Display, serde::Serialize, Clone);
}
