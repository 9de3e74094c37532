//! Credential rotation: which of the institution's credentials signs, and how another credential replaces it.
//!
//! A credential whose time begins takes over only after a harmless read signed with it has succeeded. Until then the
//! previous credential signs, and the new credential is tried again. Automatic rotation goes forward only, to a
//! credential that began later. A switch back, or to a credential without a date, happens on an operator's command,
//! after the same read.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gatepay_core::Credential;
use gatepay_tenancy::DatedCredential;
use gatepay_tenancy::settings::Institution;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::process::clock::Clock;
use crate::upstream::meters::SignerMeters;

/// Interval at which the start of another credential is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Delay before a failed credential is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The institution's signing credential and its replacement.
pub struct CredentialRotation {
    clock: Clock,
    current: ArcSwapOption<ActiveCredential>,
    failed: Mutex<Option<FailedCredential>>,
    commands: mpsc::Sender<SwitchRequest>,
    received_commands: Mutex<Option<mpsc::Receiver<SwitchRequest>>>,
    meters: SignerMeters,
}

/// One credential of an institution.
#[derive(Clone)]
pub struct ActiveCredential {
    institution: Arc<Institution>,
    index: usize,
    /// Start time, in milliseconds: only a credential that began later replaces this one automatically.
    since: u64,
}

/// A credential that should sign and that GatePay did not accept.
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

/// Result of a switch that an operator commanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "why", rename_all = "snake_case")]
pub enum SwitchResult {
    /// The credential signs now.
    Switched,
    /// The credential was signing already.
    Unchanged,
    /// The institution has no such credential that is valid at this time.
    Unknown,
    /// A read signed with the credential failed; the previous credential still signs.
    Failed(String),
}

/// State of the credential rotation, for operators.
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
    /// The credential that began last, without proof that GatePay accepts it, since no other credential signs.
    fn at(institution: &Arc<Institution>, now_ms: u64) -> Option<Self> {
        let valid = institution.credential_at(now_ms)?;
        let same = |dated: &DatedCredential| std::ptr::eq(&raw const dated.credential, valid);
        Some(Self::of(
            institution,
            institution.credentials.iter().position(same)?,
        ))
    }

    fn of(institution: &Arc<Institution>, index: usize) -> Self {
        Self {
            since: institution.credentials[index].not_before.unwrap_or(0),
            institution: Arc::clone(institution),
            index,
        }
    }

    fn dated(&self) -> &DatedCredential {
        &self.institution.credentials[self.index]
    }

    /// Client id and key.
    pub fn credential(&self) -> &Credential {
        &self.dated().credential
    }

    fn is(&self, other: &DatedCredential) -> bool {
        let (one, other) = (self.credential(), &other.credential);
        one.client_id == other.client_id && one.key.same_secret(&other.key)
    }

    /// The same credential in a newer configuration.
    fn in_other(&self, institution: &Arc<Institution>) -> Option<Self> {
        let index = institution
            .credentials
            .iter()
            .position(|dated| self.is(dated))?;
        Some(Self {
            institution: Arc::clone(institution),
            index,
            since: self.since,
        })
    }
}

impl CredentialRotation {
    /// A rotation that starts with the credential valid now.
    pub fn new(institution: &Arc<Institution>, clock: Clock, meters: SignerMeters) -> Self {
        // At most one command waits; a further command is refused.
        let (commands, received_commands) = mpsc::channel(1);
        let current = ActiveCredential::at(institution, clock.unix_ms());
        Self {
            current: ArcSwapOption::from_pointee(current),
            failed: Mutex::default(),
            commands,
            received_commands: Mutex::new(Some(received_commands)),
            clock,
            meters,
        }
    }

    /// The signing credential. While there is none, the first credential found valid becomes the signing one.
    pub fn signing(&self, institution: &Arc<Institution>) -> Option<Arc<ActiveCredential>> {
        if let Some(signing) = self.current.load_full() {
            return Some(signing);
        }
        let first = Arc::new(ActiveCredential::at(institution, self.clock.unix_ms())?);
        self.current.store(Some(Arc::clone(&first)));
        Some(first)
    }

    /// Switches credentials when one is due or commanded, as long as this future is polled.
    ///
    /// `prove` sends a read signed with the given credential.
    pub async fn watch<F: Future<Output = Result<(), String>>>(
        &self,
        institution: impl Fn() -> Arc<Institution>,
        prove: impl Fn(Arc<ActiveCredential>) -> F,
    ) {
        let received_commands = self.received_commands.lock().take();
        let Some(mut received_commands) = received_commands else {
            return;
        };
        let mut tick = interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if let Some(next) = self.due(&institution()) {
                        // `switch` writes the outcome to the log and the metrics.
                        let _ = self.switch(next, &prove).await;
                    }
                }
                Some(SwitchRequest { client_id, reply }) = received_commands.recv() => {
                    let switch = self.command(&client_id, &institution(), &prove).await;
                    // The caller may have left.
                    let _ = reply.send(switch);
                }
            }
        }
    }

    /// The credential that should take over by now.
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
        let is_backing_off = self.failed.lock().as_ref().is_some_and(|failed| {
            failed.fingerprint == next.credential().key.fingerprint()
                && self.clock.elapsed().saturating_sub(failed.tried) < RETRY
        });
        (!is_backing_off).then_some(next)
    }

    async fn command<F: Future<Output = Result<(), String>>>(
        &self,
        client_id: &str,
        institution: &Arc<Institution>,
        prove: impl Fn(Arc<ActiveCredential>) -> F,
    ) -> SwitchResult {
        let now_ms = self.clock.unix_ms();
        let credentials = institution.credentials.iter().enumerate();
        let found = credentials
            .filter(|(_, dated)| dated.credential.client_id.as_str() == client_id)
            .filter(|(_, dated)| dated.valid_at(now_ms))
            .max_by_key(|(_, dated)| dated.not_before);
        let Some((index, dated)) = found else {
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
        // A command overrides the dates of credentials that have begun so far.
        let next = ActiveCredential {
            since: now_ms,
            ..ActiveCredential::of(institution, index)
        };
        match self.switch(next, prove).await {
            Ok(()) => SwitchResult::Switched,
            Err(why) => SwitchResult::Failed(why),
        }
    }

    async fn switch<F: Future<Output = Result<(), String>>>(
        &self,
        next: ActiveCredential,
        prove: impl Fn(Arc<ActiveCredential>) -> F,
    ) -> Result<(), String> {
        let next = Arc::new(next);
        let client_id = next.credential().client_id.to_string();
        match prove(Arc::clone(&next)).await {
            Ok(()) => {
                self.current.store(Some(next));
                self.meters.switched.inc();
                self.meters.failing.set(0);
                *self.failed.lock() = None;
                tracing::info!(
                    client_id,
                    "another credential of the institution signs from now on"
                );
                Ok(())
            }
            Err(why) => {
                self.meters.failed.inc();
                self.meters.failing.set(1);
                tracing::error!(
                    client_id,
                    why,
                    "GatePay refuses the institution credential that should sign; the one before signs on"
                );
                *self.failed.lock() = Some(FailedCredential {
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

    /// Clears an old failure while no credential is due. The failure of a command stays visible for `RETRY`.
    fn settled(&self) {
        let now = self.clock.elapsed();
        let old = |failed: &mut FailedCredential| now.saturating_sub(failed.tried) >= RETRY;
        if self.failed.lock().take_if(old).is_some() {
            self.meters.failing.set(0);
        }
    }

    /// Commands a switch to another credential. `None` if the process is ending or another command is waiting.
    pub async fn ask(&self, client_id: String) -> Option<SwitchResult> {
        let (reply, switch) = oneshot::channel();
        self.commands
            .try_send(SwitchRequest { client_id, reply })
            .ok()?;
        switch.await.ok()
    }

    /// State of the credential rotation, for operators.
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
            failed: self.failed.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests;
