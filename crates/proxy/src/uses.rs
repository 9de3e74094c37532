//! Uses: how often and when last each credential was used, so that it is known when an old one may be revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatepay_tenancy::{DatedCredential, Party};

/// How a credential was used since the process started, reloads or not.
#[derive(Debug, Default)]
pub struct Use {
    count: AtomicU64,
    last_ms: AtomicU64,
}

/// Of all credentials of one party, by their places.
pub enum Uses {
    /// Most have one: it is found without another look elsewhere.
    One(Arc<Use>),
    /// While they rotate, more.
    Several(Box<[Arc<Use>]>),
}

impl Use {
    /// A request was verified with it.
    pub fn note(&self, now_ms: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // Workers may be some milliseconds apart; which of them is the last makes no difference.
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When last, in milliseconds since 1970.
    pub fn last_ms(&self) -> Option<u64> {
        Some(self.last_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }
}

impl Uses {
    /// Those of a party, counted on where it had the same credential before, as `same` finds it.
    pub fn of(party: &Party, same: impl Fn(&DatedCredential) -> Option<Arc<Use>>) -> Self {
        let carried = |dated| same(dated).unwrap_or_default();
        match &*party.credentials {
            [only] => Self::One(carried(only)),
            several => Self::Several(several.iter().map(carried).collect()),
        }
    }

    /// Of the credential in this place.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, place: usize) -> &Arc<Use> {
        let all = match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Several(several) => several,
        };
        &all[place]
    }
}
