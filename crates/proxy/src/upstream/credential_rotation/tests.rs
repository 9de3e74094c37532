use super::*;
use crate::metrics::Metrics;
use gatepay_core::{Catalogue, ClientId, SecretKey};
use gatepay_tenancy::settings::MetricsSettings;
use zeroize::Zeroizing;

fn institution(credentials: &[(&str, &str, Option<u64>)]) -> Arc<Institution> {
    let dated = |(id, secret, not_before): &(&str, &str, Option<u64>)| {
        let secret = SecretKey::new(Zeroizing::new((*secret).to_owned())).unwrap();
        DatedCredential {
            credential: Credential::new(ClientId::parse(id).unwrap(), &secret),
            not_before: *not_before,
            not_after: None,
        }
    };
    Arc::new(Institution {
        account_id: None,
        merchant_id: None,
        credentials: credentials.iter().map(dated).collect(),
    })
}

struct World {
    clock: Clock,
    signer: CredentialRotation,
}

impl World {
    fn at(now_ms: u64, institution: &Arc<Institution>) -> Self {
        let clock = Clock::manual(now_ms);
        let meters = Metrics::new(&Catalogue::standard(), &MetricsSettings::default()).signer;
        Self {
            signer: CredentialRotation::new(institution, clock.clone(), meters),
            clock,
        }
    }

    fn signs(&self) -> String {
        let current = self.signer.current.load_full();
        current.map_or_else(String::new, |one| one.credential().client_id.to_string())
    }

    /// One check of the rotation, at which GatePay accepts the credentials in the list.
    async fn look(&self, institution: &Arc<Institution>, accepted: &[&str]) -> String {
        if let Some(next) = self.signer.due(institution) {
            let _ = self
                .signer
                .switch(next, |signing| prove(&signing, accepted))
                .await;
        }
        self.signs()
    }

    async fn command(
        &self,
        to: &str,
        institution: &Arc<Institution>,
        accepted: &[&str],
    ) -> SwitchResult {
        let prove = |signing: Arc<ActiveCredential>| prove(&signing, accepted);
        self.signer.command(to, institution, prove).await
    }
}

fn prove(
    signing: &ActiveCredential,
    accepted: &[&str],
) -> impl Future<Output = Result<(), String>> + use<> {
    let good = accepted.contains(&signing.credential().client_id.as_str());
    async move {
        if good {
            Ok(())
        } else {
            Err("400004".to_owned())
        }
    }
}

#[tokio::test]
async fn a_new_institution_credential_takes_over_at_its_time_once_gatepay_accepts_it() {
    let both = institution(&[("old", "o", None), ("new", "n", Some(1_000))]);
    let world = World::at(999, &both);
    assert_eq!(world.look(&both, &["old", "new"]).await, "old");
    world.clock.set(1_000);
    assert_eq!(
        world.look(&both, &["old"]).await,
        "old",
        "GatePay does not know it yet"
    );
    assert!(world.signer.state(&both).failed.is_some());
    assert_eq!(
        world.look(&both, &["old", "new"]).await,
        "old",
        "not at once again"
    );
    world.clock.advance(RETRY);
    assert_eq!(world.look(&both, &["old", "new"]).await, "new");
    world.clock.set(500);
    assert_eq!(
        world.look(&both, &["old", "new"]).await,
        "new",
        "the clock stepped back"
    );
}

#[tokio::test]
async fn at_a_start_what_began_last_signs() {
    let both = institution(&[("old", "o", None), ("new", "n", Some(1_000))]);
    assert_eq!(World::at(1_000, &both).signs(), "new");
    let none = institution(&[("new", "n", Some(1_000))]);
    let world = World::at(999, &none);
    assert!(world.signer.signing(&none).is_none());
    world.clock.set(1_000);
    assert!(
        world.signer.signing(&none).is_some(),
        "there is none to go on with"
    );
}

#[tokio::test]
async fn a_command_is_obeyed_after_the_same_proof_and_not_undone() {
    let both = institution(&[("old", "o", None), ("new", "n", Some(1_000))]);
    let world = World::at(2_000, &both);
    let all = &["old", "new", "newer"];
    assert_eq!(
        world.command("old", &both, &["new"]).await,
        SwitchResult::Failed("400004".to_owned())
    );
    assert_eq!(world.signs(), "new");
    assert_eq!(
        world.command("old", &both, all).await,
        SwitchResult::Switched
    );
    world.clock.advance(RETRY);
    assert_eq!(
        world.look(&both, all).await,
        "old",
        "the dates say otherwise"
    );
    assert_eq!(
        world.command("old", &both, all).await,
        SwitchResult::Unchanged
    );
    assert_eq!(
        world.command("other", &both, all).await,
        SwitchResult::Unknown
    );
    let three = [
        ("old", "o", None),
        ("new", "n", Some(1_000)),
        ("newer", "r", Some(50_000)),
    ];
    let three = institution(&three);
    assert_eq!(world.look(&three, all).await, "old");
    assert_eq!(
        world.command("newer", &three, all).await,
        SwitchResult::Unknown,
        "not yet"
    );
    world.clock.set(50_000);
    assert_eq!(world.look(&three, all).await, "newer");
}

#[tokio::test]
async fn a_removed_institution_credential_signs_on_until_another_is_accepted() {
    let old = institution(&[("old", "o", None)]);
    let world = World::at(1_000, &old);
    let again = institution(&[("old", "o", None)]);
    assert_eq!(world.look(&again, &[]).await, "old", "the same, read again");
    assert!(world.signer.state(&again).failed.is_none());
    let other = institution(&[("new", "n", None)]);
    assert_eq!(world.look(&other, &["old"]).await, "old");
    world.clock.advance(RETRY);
    assert_eq!(world.look(&other, &["new"]).await, "new");
    // A changed secret with the same id is another credential.
    let secret = institution(&[("new", "m", None)]);
    assert_eq!(
        world
            .signer
            .due(&secret)
            .unwrap()
            .credential()
            .client_id
            .as_str(),
        "new"
    );
}
