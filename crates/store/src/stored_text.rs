//! What requests are known by in the store: fingerprints, and texts that an engine can store.

/// A keyed 128-bit fingerprint, of a whole stamp or of a nonce alone. The key is the store's
/// ([`InstanceJoined::fingerprint_key`](crate::instance::InstanceJoined::fingerprint_key)), so that all instances
/// make the same one.
pub type Fingerprint = [u8; 16];

/// A text that an engine can store and index: at most [`LONGEST_TEXT`] bytes, none of them zero.
///
/// One text that is not would fail its whole batch, and so other parties' requests.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(test), derive(PartialEq, Eq, Hash, PartialOrd, Ord))]
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

/// Comparisons of texts, counted for tests of this crate: work that compares all sub-accounts with all is then seen at once,
/// whatever the machine. They are those that the derived code makes otherwise.
#[cfg(test)]
pub(crate) mod comparisons {
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::hash::{Hash, Hasher};

    use super::StoredText;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    /// Does work that may make as many comparisons on this thread. One more is a panic.
    pub(crate) fn within<T>(most: u64, work: impl FnOnce() -> T) -> T {
        LEFT.set(most);
        let done = work();
        LEFT.set(u64::MAX);
        done
    }

    fn compared() {
        let left = LEFT.get().checked_sub(1);
        LEFT.set(left.expect("the work makes more comparisons than it may"));
    }

    impl PartialEq for StoredText {
        fn eq(&self, other: &Self) -> bool {
            compared();
            self.0 == other.0
        }
    }

    impl Eq for StoredText {}

    impl Ord for StoredText {
        fn cmp(&self, other: &Self) -> Ordering {
            compared();
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for StoredText {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Hash for StoredText {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
}
