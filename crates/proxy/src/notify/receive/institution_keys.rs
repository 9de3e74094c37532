//! Institution keys: the credentials with which GatePay may have signed a notification.

use std::sync::Arc;
use std::time::Duration;

use gatepay_core::{Signature, Stamp, verify};
use gatepay_tenancy::DatedCredential;
use gatepay_tenancy::settings::Institution;
use parking_lot::RwLock;

/// How long the credentials of an earlier configuration are tried: GatePay repeats a notification for a day, and may
/// sign it as the first time.
const LATELY: Duration = Duration::from_hours(72);

/// The credentials of the configuration in force, and those of earlier ones.
pub struct InstitutionKeys {
    keys: RwLock<KnownKeys>,
}

struct KnownKeys {
    present: Arc<Institution>,
    /// Earlier identities, each with the time of the process's clock until which it is tried.
    earlier: Vec<(Arc<Institution>, Duration)>,
}

impl InstitutionKeys {
    /// The keys of this identity.
    pub fn new(present: Arc<Institution>) -> Self {
        let earlier = Vec::new();
        Self {
            keys: RwLock::new(KnownKeys { present, earlier }),
        }
    }

    /// Follows the configuration at a time of the process's clock.
    pub fn follow(&self, institution: &Arc<Institution>, now: Duration) {
        let mut keys = self.keys.write();
        keys.earlier.retain(|(_, until)| now < *until);
        if Arc::ptr_eq(&keys.present, institution) {
            return;
        }
        let before = std::mem::replace(&mut keys.present, Arc::clone(institution));
        // Most changes of the configuration leave the institution's keys as they are.
        if !before
            .credentials
            .iter()
            .all(|dated| has(institution, dated))
        {
            keys.earlier.push((before, now + LATELY));
        }
    }

    /// Whether one of the keys made the signature. Each key is tried, so that the time does not tell which one it was.
    pub fn have_signed(&self, stamp: &Stamp<'_>, body: &[u8], claimed: &Signature) -> bool {
        let keys = self.keys.read();
        let earlier = keys.earlier.iter().map(|(institution, _)| institution);
        let all = std::iter::once(&keys.present).chain(earlier);
        let credentials = all.flat_map(|institution| &institution.credentials);
        credentials.fold(false, |found, dated| {
            found | verify(&dated.credential.key, stamp, body, claimed)
        })
    }
}

/// Whether an identity has the key of a credential.
fn has(institution: &Institution, dated: &DatedCredential) -> bool {
    let mut credentials = institution.credentials.iter();
    credentials.any(|it| it.credential.key.same_secret(&dated.credential.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::{ClientId, Credential, SecretKey, sign};

    fn institution(secrets: &[&str]) -> Arc<Institution> {
        let credential = |secret: &&str| {
            let secret = SecretKey::new((*secret).to_owned().into()).unwrap();
            let client_id = ClientId::parse("institution").unwrap();
            DatedCredential::undated(Credential::new(client_id, &secret))
        };
        Arc::new(Institution {
            account_id: None,
            merchant_id: None,
            credentials: secrets.iter().map(credential).collect(),
        })
    }

    fn signed_by(secret: &str, keys: &InstitutionKeys) -> bool {
        let stamp = Stamp::parse(b"1767225600000", b"n").unwrap();
        let signing = institution(&[secret]);
        let signature = sign(&signing.credentials[0].credential.key, &stamp, b"{}");
        assert!(
            !keys.have_signed(&stamp, b"{ }", &signature),
            "another body"
        );
        keys.have_signed(&stamp, b"{}", &signature)
    }

    #[test]
    fn a_removed_key_is_tried_for_three_days() {
        let keys = InstitutionKeys::new(institution(&["one", "two"]));
        assert!(signed_by("one", &keys) && signed_by("two", &keys));
        assert!(!signed_by("three", &keys));
        let (day, rotated) = (Duration::from_hours(24), institution(&["two", "three"]));
        keys.follow(&rotated, day);
        keys.follow(&rotated, 2 * day);
        assert!(
            ["one", "two", "three"]
                .iter()
                .all(|key| signed_by(key, &keys))
        );
        keys.follow(&rotated, 4 * day);
        assert!(!signed_by("one", &keys) && signed_by("two", &keys));
    }

    #[test]
    fn a_change_of_the_configuration_that_leaves_the_keys_keeps_nothing() {
        let keys = InstitutionKeys::new(institution(&["one"]));
        for hours in 0..100 {
            keys.follow(&institution(&["one"]), Duration::from_hours(hours));
        }
        assert!(keys.keys.read().earlier.is_empty());
    }
}
