//! What requests are known by in the store: fingerprints, and texts that an engine can store.

/// A keyed 128-bit fingerprint, of a whole stamp or of a nonce alone. The key is the store's
/// ([`InstanceJoined::fingerprint_key`](crate::instance::InstanceJoined::fingerprint_key)), so that all instances
/// make the same one.
pub type Fingerprint = [u8; 16];

/// A text that an engine can store and index: at most [`LONGEST_TEXT`] bytes, none of them zero.
///
/// One text that is not would fail its whole batch, and so other parties' requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredText(String);

/// The longest text that is stored, in bytes. GatePay's own numbers have 64 at most.
pub const LONGEST_TEXT: usize = 256;

/// A text for people, which an engine stores and does not index: at most [`LONGEST_TOLD`] bytes, none of them zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToldText(String);

/// The longest text for people that is stored, in bytes: several hundred targets of a call.
pub const LONGEST_TOLD: usize = 32_768;

impl StoredText {
    /// A text, if it can be stored.
    pub fn parse(text: &str) -> Option<Self> {
        let stored = text.len() <= LONGEST_TEXT && !text.contains('\0');
        stored.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ToldText {
    /// A text, if it can be stored.
    pub fn parse(text: &str) -> Option<Self> {
        let told = text.len() <= LONGEST_TOLD && !text.contains('\0');
        told.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
