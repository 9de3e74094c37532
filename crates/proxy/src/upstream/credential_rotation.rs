//! Signer: which of the institution's credentials signs, and how another takes its place.
//!
//! One that begins takes over once a harmless read that it signed succeeded, and not before: until then the one that
//! signed goes on, and it is tried again. By itself this goes forward only, to one that began later; back, or to one
//! without a date, it goes on command, after the same read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gatepay_core::Credential;
use gatepay_tenancy::DatedCredential;
use gatepay_tenancy::settings::Institution;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::process::clock::Clock;
use crate::upstream::meters::SignerMeters;

/// How often it is looked whether another credential has begun.
const EVERY: Duration = Duration::from_millis(250);
/// How long one that failed is left alone.
const RETRY: Duration = Duration::from_secs(30);

/// Which credential signs.
pub struct CredentialRotation {
    clock: Clock,
    current: ArcSwapOption<ActiveCredential>,
    failed: Mutex<Option<FailedCredential>>,
    asks: mpsc::Sender<SwitchRequest>,
    asked: Mutex<Option<mpsc::Receiver<SwitchRequest>>>,
    meters: SignerMeters,
}

/// One credential of an institution.
#[derive(Clone)]
pub struct ActiveCredential {
    institution: Arc<Institution>,
    place: usize,
    /// Only what began later takes its place by itself.
    since: u64,
}

/// A credential that should sign and was not accepted.
#[derive(Clone, Serialize)]
pub struct FailedCredential {
    client_id: String,
    why: String,
    at_ms: u64,
    #[serde(skip)]
    fingerprint: [u8; 32],
    #[serde(skip)]
    tried: Duration,
}

struct SwitchRequest {
    client_id: String,
    reply: oneshot::Sender<SwitchResult>,
}

/// What became of a switch that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "why", rename_all = "snake_case")]
pub enum SwitchResult {
    /// It signs now.
    Switched,
    /// It signed before.
    Unchanged,
    /// The institution has no such credential, or it is not valid at this time.
    Unknown,
    /// A read that it signed did not succeed; what signed before still does.
    Failed(String),
}

/// How the institution signs, for operators.
#[derive(Serialize)]
pub struct RotationState {
    signs: Option<String>,
    failed: Option<FailedCredential>,
    credentials: Vec<CredentialState>,
}

#[derive(Serialize)]
struct CredentialState {
    client_id: String,
    not_before_ms: Option<u64>,
    signs: bool,
}

impl ActiveCredential {
    /// The one that began last; nobody has to prove that it is accepted, for there is none to go on with.
    fn at(institution: &Arc<Institution>, now_ms: u64) -> Option<Self> {
        let valid = institution.credential_at(now_ms)?;
        let same = |dated: &DatedCredential| std::ptr::eq(&raw const dated.credential, valid);
        Some(Self::of(
            institution,
            institution.credentials.iter().position(same)?,
        ))
    }

    fn of(institution: &Arc<Institution>, place: usize) -> Self {
        Self {
            since: institution.credentials[place].not_before.unwrap_or(0),
            institution: Arc::clone(institution),
            place,
        }
    }

    fn dated(&self) -> &DatedCredential {
        &self.institution.credentials[self.place]
    }

    /// Client id and key.
    pub fn credential(&self) -> &Credential {
        &self.dated().credential
    }

    fn is(&self, other: &DatedCredential) -> bool {
        let (one, other) = (self.credential(), &other.credential);
        one.client_id == other.client_id && one.key.same_secret(&other.key)
    }

    /// The same credential as a newer configuration has it.
    fn in_other(&self, institution: &Arc<Institution>) -> Option<Self> {
        let place = institution
            .credentials
            .iter()
            .position(|dated| self.is(dated))?;
        Some(Self {
            institution: Arc::clone(institution),
            place,
            since: self.since,
        })
    }
}

impl CredentialRotation {
    /// What is valid now signs.
    pub fn new(institution: &Arc<Institution>, clock: Clock, meters: SignerMeters) -> Self {
        // Whoever asks waits; a second one at the same time is one too many.
        let (asks, asked) = mpsc::channel(1);
        let current = ActiveCredential::at(institution, clock.unix_ms());
        Self {
            current: ArcSwapOption::from_pointee(current),
            failed: Mutex::default(),
            asks,
            asked: Mutex::new(Some(asked)),
            clock,
            meters,
        }
    }

    /// What signs now. While nothing does, what is valid first does.
    pub fn signing(&self, institution: &Arc<Institution>) -> Option<Arc<ActiveCredential>> {
        if let Some(signing) = self.current.load_full() {
            return Some(signing);
        }
        let first = Arc::new(ActiveCredential::at(institution, self.clock.unix_ms())?);
        self.current.store(Some(Arc::clone(&first)));
        Some(first)
    }

    /// Has another credential take over when it is time or when asked, for as long as it is polled. `proves` reads
    /// something that a credential signed.
    pub async fn watch<F: Future<Output = Result<(), String>>>(
        &self,
        institution: impl Fn() -> Arc<Institution>,
        proves: impl Fn(Arc<ActiveCredential>) -> F,
    ) {
        let asked = lock(&self.asked).take();
        let Some(mut asked) = asked else {
            return;
        };
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if let Some(next) = self.due(&institution()) {
                        // What comes of it is in the log and the metrics.
                        let _ = self.switch(next, &proves).await;
                    }
                }
                Some(SwitchRequest { client_id, reply }) = asked.recv() => {
                    let switch = self.command(&client_id, &institution(), &proves).await;
                    // Whoever asked may have left.
                    let _ = reply.send(switch);
                }
            }
        }
    }

    /// What should take over by now.
    fn due(&self, institution: &Arc<Institution>) -> Option<ActiveCredential> {
        let current = self.signing(institution)?;
        let now_ms = self.clock.unix_ms();
        let mut gone = false;
        if !Arc::ptr_eq(&current.institution, institution) {
            match current.in_other(institution) {
                Some(same) => self.current.store(Some(Arc::new(same))),
                None => gone = true,
            }
        }
        let next = ActiveCredential::at(institution, now_ms)?;
        let forward = next.since > current.since && !current.is(next.dated());
        if !gone && !forward {
            self.settled();
            return None;
        }
        let rests = lock(&self.failed).as_ref().is_some_and(|failed| {
            failed.fingerprint == next.credential().key.fingerprint()
                && self.clock.elapsed().saturating_sub(failed.tried) < RETRY
        });
        (!rests).then_some(next)
    }

    async fn command<F: Future<Output = Result<(), String>>>(
        &self,
        client_id: &str,
        institution: &Arc<Institution>,
        proves: impl Fn(Arc<ActiveCredential>) -> F,
    ) -> SwitchResult {
        let now_ms = self.clock.unix_ms();
        let places = institution.credentials.iter().enumerate();
        let wanted = places
            .filter(|(_, dated)| dated.credential.client_id.as_str() == client_id)
            .filter(|(_, dated)| dated.valid_at(now_ms))
            .max_by_key(|(_, dated)| dated.not_before);
        let Some((place, dated)) = wanted else {
            return SwitchResult::Unknown;
        };
        if self
            .current
            .load()
            .as_ref()
            .is_some_and(|current| current.is(dated))
        {
            return SwitchResult::Unchanged;
        }
        // Whoever commands knows better than the dates so far.
        let next = ActiveCredential {
            since: now_ms,
            ..ActiveCredential::of(institution, place)
        };
        match self.switch(next, proves).await {
            Ok(()) => SwitchResult::Switched,
            Err(why) => SwitchResult::Failed(why),
        }
    }

    async fn switch<F: Future<Output = Result<(), String>>>(
        &self,
        next: ActiveCredential,
        proves: impl Fn(Arc<ActiveCredential>) -> F,
    ) -> Result<(), String> {
        let next = Arc::new(next);
        let client_id = next.credential().client_id.to_string();
        match proves(Arc::clone(&next)).await {
            Ok(()) => {
                self.current.store(Some(next));
                self.meters.switched.inc();
                self.meters.failing.set(0);
                *lock(&self.failed) = None;
                tracing::info!(
                    client_id,
                    "another credential of the institution's signs now"
                );
                Ok(())
            }
            Err(why) => {
                self.meters.failed.inc();
                self.meters.failing.set(1);
                tracing::error!(
                    client_id,
                    why,
                    "this credential of the institution's should sign and is not accepted; the one before goes on"
                );
                *lock(&self.failed) = Some(FailedCredential {
                    client_id,
                    why: why.clone(),
                    at_ms: self.clock.unix_ms(),
                    fingerprint: next.credential().key.fingerprint(),
                    tried: self.clock.elapsed(),
                });
                Err(why)
            }
        }
    }

    /// Nothing waits to take over. What a command failed at is shown for a while.
    fn settled(&self) {
        let now = self.clock.elapsed();
        let old = |failed: &mut FailedCredential| now.saturating_sub(failed.tried) >= RETRY;
        if lock(&self.failed).take_if(old).is_some() {
            self.meters.failing.set(0);
        }
    }

    /// Asks for another credential to sign. `None` if the process is ending, or another asks right now.
    pub async fn ask(&self, client_id: String) -> Option<SwitchResult> {
        let (reply, switch) = oneshot::channel();
        self.asks
            .try_send(SwitchRequest { client_id, reply })
            .ok()?;
        switch.await.ok()
    }

    /// How the institution signs.
    pub fn state(&self, institution: &Institution) -> RotationState {
        let current = self.current.load_full();
        let signs = |dated: &DatedCredential| current.as_ref().is_some_and(|one| one.is(dated));
        let credentials = institution.credentials.iter().map(|dated| CredentialState {
            client_id: dated.credential.client_id.to_string(),
            not_before_ms: dated.not_before,
            signs: signs(dated),
        });
        RotationState {
            credentials: credentials.collect(),
            signs: current
                .as_ref()
                .map(|one| one.credential().client_id.to_string()),
            failed: lock(&self.failed).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use gatepay_core::{Catalogue, ClientId, SecretKey};
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
            let meters = Metrics::new(&Catalogue::standard()).signer;
            Self {
                signer: CredentialRotation::new(institution, clock.clone(), meters),
                clock,
            }
        }

        fn signs(&self) -> String {
            let current = self.signer.current.load_full();
            current.map_or_else(String::new, |one| one.credential().client_id.to_string())
        }

        /// One look, at which GatePay accepts what is in the list.
        async fn look(&self, institution: &Arc<Institution>, accepted: &[&str]) -> String {
            if let Some(next) = self.signer.due(institution) {
                let _ = self
                    .signer
                    .switch(next, |signing| proves(&signing, accepted))
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
            let proves = |signing: Arc<ActiveCredential>| proves(&signing, accepted);
            self.signer.command(to, institution, proves).await
        }
    }

    fn proves(
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
    async fn it_takes_over_at_its_time_once_it_is_accepted_and_stays() {
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
    async fn one_that_is_gone_from_the_files_goes_on_until_another_is_accepted() {
        let old = institution(&[("old", "o", None)]);
        let world = World::at(1_000, &old);
        let again = institution(&[("old", "o", None)]);
        assert_eq!(world.look(&again, &[]).await, "old", "the same, read again");
        assert!(world.signer.state(&again).failed.is_none());
        let other = institution(&[("new", "n", None)]);
        assert_eq!(world.look(&other, &["old"]).await, "old");
        world.clock.advance(RETRY);
        assert_eq!(world.look(&other, &["new"]).await, "new");
        // The secret changes, the id stays: that is another credential.
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
}
