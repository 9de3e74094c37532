//! Uses: how often and when last each credential was used, so that it is known when an old one may be revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatepay_tenancy::{DatedCredential, Registry, Who};

/// How a credential was used since the process started, reloads or not.
#[derive(Debug, Default)]
pub struct Use {
    count: AtomicU64,
    last_ms: AtomicU64,
}

/// Of all credentials of a registry.
pub struct Uses {
    /// Where each party's begin, by its position.
    begins: Vec<u32>,
    all: Vec<Arc<Use>>,
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
    /// Those of a registry, counted on where the one before had the same credential of the same party.
    pub fn of(registry: &Registry, before: Option<(&Registry, &Self)>) -> Self {
        let mut uses = Self {
            begins: Vec::with_capacity(registry.tenants().len() + registry.operators().len()),
            all: Vec::new(),
        };
        for who in registry.parties() {
            let begin = u32::try_from(uses.all.len());
            uses.begins
                .push(begin.expect("there are fewer than four billion"));
            for dated in who.party().credentials.iter() {
                let same = before.and_then(|(registry, uses)| uses.same(registry, who, dated));
                uses.all.push(same.unwrap_or_default());
            }
        }
        uses
    }

    fn same(&self, registry: &Registry, who: Who<'_>, dated: &DatedCredential) -> Option<Arc<Use>> {
        let found = registry.find(dated.credential.client_id.as_str())?;
        let (before, now) = (found.who.party(), who.party());
        // Whose file did not change is shared. Comparing secrets takes a hash of each.
        let same = std::ptr::eq(before, now)
            || before.id == now.id
                && found
                    .credential
                    .credential
                    .key
                    .same_secret(&dated.credential.key);
        same.then(|| Arc::clone(self.at(found.position, found.place)))
    }

    /// Of the credential in this place among those of whoever has this position in the registry.
    pub fn at(&self, position: usize, place: usize) -> &Arc<Use> {
        &self.all[self.begins[position] as usize + place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
    use gatepay_tenancy::{PartyId, SubAccount, Tenant};
    use zeroize::Zeroizing;

    /// Tenants with credentials, each a client id and a secret.
    fn registry(tenants: &[(&str, &[(&str, &str)])]) -> Registry {
        let credential = |(id, secret): &(&str, &str)| {
            let secret = SecretKey::new(Zeroizing::new(format!("fake-{secret}"))).unwrap();
            let client_id = ClientId::parse(id).unwrap();
            DatedCredential::undated(Credential::new(client_id, &secret))
        };
        let tenant = |(id, credentials): &(&str, &[(&str, &str)])| {
            Tenant::new(
                PartyId::parse(id).unwrap(),
                SubAccount::parse(id).unwrap(),
                &Catalogue::standard(),
                credentials.iter().map(credential).collect(),
            )
        };
        let tenants = tenants.iter().map(tenant).collect();
        Registry::new(tenants, Vec::new(), &[]).unwrap_or_default()
    }

    #[test]
    fn a_credential_that_stays_is_counted_on_wherever_it_stands() {
        let first = registry(&[
            ("b", &[("b-1", "1"), ("b-2", "2")]),
            ("c", &[("c-1", "3")]),
            ("d", &[("d-1", "4")]),
        ]);
        let uses = Uses::of(&first, None);
        for id in ["b-1", "b-2", "b-2", "c-1", "d-1"] {
            let found = first.find(id).unwrap();
            uses.at(found.position, found.place).note(1_000);
        }
        let next = registry(&[
            ("a", &[("a-1", "5")]),
            // One is gone, one is new, and comes first.
            ("b", &[("b-3", "6"), ("b-2", "2")]),
            // Another secret is another credential, whatever its name.
            ("c", &[("c-1", "7")]),
            // So is one that somebody else has now.
            ("e", &[("d-1", "4")]),
        ]);
        let carried = Uses::of(&next, Some((&first, &uses)));
        let used = |id: &str| {
            let found = next.find(id).unwrap();
            let used = carried.at(found.position, found.place);
            (used.count(), used.last_ms())
        };
        assert_eq!(used("b-2"), (2, Some(1_000)));
        for id in ["a-1", "b-3", "c-1", "d-1"] {
            assert_eq!(used(id), (0, None), "{id}");
        }
    }
}
