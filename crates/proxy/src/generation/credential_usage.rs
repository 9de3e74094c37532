//! Credential usage: the count and the last time of each credential's use, so that operators know when to revoke an old
//! one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gatepay_tenancy::facts::time;
use gatepay_tenancy::{DatedCredential, Party};

/// The usage of a credential since the process started, across reloads.
#[derive(Debug, Default)]
pub struct CredentialUsage {
    count: AtomicU64,
    last_ms: AtomicU64,
    /// When this instance heard that another one, or it before its start, has had the party's last call.
    elsewhere_ms: AtomicU64,
    /// Allocated at the first use out of force: few credentials are used when they are not in force.
    not_in_force: OnceLock<Box<NotInForceCounts>>,
}

#[derive(Debug, Default)]
struct NotInForceCounts {
    requests: AtomicU64,
    first_ms: AtomicU64,
    last_ms: AtomicU64,
}

/// Requests with a right signature, by a credential that was not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInForceUse {
    /// The number of such requests since the start.
    pub requests: u64,
    /// When the first request came since the last hour without any, in milliseconds since 1970.
    pub since_ms: u64,
    /// When the last request came, in milliseconds since 1970.
    pub last_ms: u64,
}

/// After this time without a request the next request is a new beginning.
const QUIET_MS: u64 = 60 * 60 * 1_000;
/// For this time after a request the usage is reported.
const LATELY_MS: u64 = 15 * 60 * 1_000;

/// The usage of all credentials of one party, by their places.
#[derive(Clone)]
pub enum CredentialUsages {
    /// Most parties have one credential: its usage is found without one more memory read.
    One(Arc<CredentialUsage>),
    /// While a party rotates its credentials, it has more.
    Several(Box<[Arc<CredentialUsage>]>),
}

/// Why a credential is not in force at a time, as the end of a sentence about it; `None` if it is.
pub fn why_not_in_force(dated: &DatedCredential, now_ms: u64) -> Option<String> {
    match (dated.not_before, dated.not_after) {
        (Some(begin), _) if now_ms < begin => Some(format!("is good only from {}", time(begin))),
        (_, Some(end)) if end <= now_ms => Some(format!("was good until {}", time(end))),
        _ => None,
    }
}

impl CredentialUsage {
    /// Counts a request that was verified with this credential.
    pub fn note(&self, now_ms: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // Workers may be some milliseconds apart; their order makes no difference.
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Counts a request with a right signature while the credential is not in force. Returns whether that is news: the
    /// first such request, or the first for an hour.
    pub fn note_not_in_force(&self, now_ms: u64) -> bool {
        let counts = self.not_in_force.get_or_init(Box::default);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        // Of several requests at the same time only one reads the time before.
        let before = counts.last_ms.swap(now_ms, Ordering::Relaxed);
        let begins = before == 0 || now_ms.saturating_sub(before) > QUIET_MS;
        if begins {
            counts.first_ms.store(now_ms, Ordering::Relaxed);
        }
        begins
    }

    /// The usage in the last quarter of an hour, if there was any and the credential is not in force.
    pub fn not_in_force(&self, dated: &DatedCredential, now_ms: u64) -> Option<NotInForceUse> {
        let counts = self.not_in_force.get()?;
        let [requests, first_ms, last_ms] = [&counts.requests, &counts.first_ms, &counts.last_ms]
            .map(|count| count.load(Ordering::Relaxed));
        let lately = now_ms.saturating_sub(last_ms) <= LATELY_MS;
        (lately && !dated.valid_at(now_ms)).then_some(NotInForceUse {
            requests,
            since_ms: first_ms,
            last_ms,
        })
    }

    /// The number of requests.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When the last request came, in milliseconds since 1970.
    pub fn last_ms(&self) -> Option<u64> {
        Some(self.last_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Notes that the party's last call was made with this credential, not at this instance since its start.
    pub fn note_elsewhere(&self, now_ms: u64) {
        self.elsewhere_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When this instance last saw or heard of a use. It orders the credentials of one party.
    pub fn last_anywhere_ms(&self) -> Option<u64> {
        let heard = Some(self.elsewhere_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0);
        self.last_ms().max(heard)
    }
}

impl CredentialUsages {
    /// The usage of a party's credentials, carried on for each credential that `same` finds in the generation before.
    pub fn of(
        party: &Party,
        same: impl Fn(&DatedCredential) -> Option<Arc<CredentialUsage>>,
    ) -> Self {
        let carried = |dated| same(dated).unwrap_or_default();
        match &*party.credentials {
            [only] => Self::One(carried(only)),
            several => Self::Several(several.iter().map(carried).collect()),
        }
    }

    /// The usage of the credential in this place.
    ///
    /// # Panics
    /// If there is no credential in this place.
    pub fn at(&self, index: usize) -> &Arc<CredentialUsage> {
        let all = match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Several(several) => several,
        };
        &all[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::{ClientId, Credential, SecretKey};
    use zeroize::Zeroizing;

    #[test]
    fn uses_of_a_credential_that_is_not_in_force_begin_anew_after_a_quiet_hour() {
        let secret = SecretKey::new(Zeroizing::new("fake-key".to_owned())).unwrap();
        let credential = Credential::new(ClientId::parse("c").unwrap(), &secret);
        let mut dated = DatedCredential::undated(credential);
        dated.not_after = Some(1);
        let used = CredentialUsage::default();
        assert_eq!(used.not_in_force(&dated, 5), None);
        let minute = 60_000;
        let news: Vec<_> = [1, 2, 60, 121, 122]
            .map(|at| used.note_not_in_force(at * minute))
            .into();
        assert_eq!(news, [true, false, false, true, false]);
        let since = |now| {
            used.not_in_force(&dated, now * minute)
                .map(|used| used.since_ms)
        };
        assert_eq!(since(137), Some(121 * minute));
        assert_eq!(since(138), None, "that is long ago");
        dated.not_after = None;
        assert_eq!(
            used.not_in_force(&dated, 122 * minute),
            None,
            "it is in force"
        );
        assert_eq!(
            (used.count(), used.last_ms()),
            (0, None),
            "it was not used as a key in force"
        );
    }
}
