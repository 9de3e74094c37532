//! Application: the state of the process, made once at start and shared by all threads.
//!
//! A composition root: one plain struct per group of readers, and a constructor beside each struct.

pub mod admission_state;
pub mod lifecycle;
pub mod listener_state;
pub mod upstream_state;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::HaltInForce;
use gatepay_store::notifications::isolation::IsolationSubject;
use gatepay_tenancy::settings::{Settings, StoreSettings};
use gatepay_tenancy::{Configuration, PartyId};

use crate::app::admission_state::AdmissionState;
use crate::app::lifecycle::Lifecycle;
use crate::app::listener_state::ListenerState;
use crate::app::upstream_state::UpstreamState;
use crate::caps::Caps;
use crate::cluster::limits::SharedLimits;
use crate::cluster::local_halts::LocalHalts;
use crate::cluster::usage_tally::UsageTally;
use crate::cluster::{Cluster, ClusterReadiness};
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::reload_status::ReloadControl;
use crate::generation::tenant_limits::TenantLimitsMap;
use crate::generation::{Generation, GenerationInputs};
use crate::journal::Journal;
use crate::journal::folder::DiskFolder;
use crate::journal::head::HeadFolder;
use crate::journal::meters::FileRotation;
use crate::metrics::Metrics;
use crate::notify::Notifications;
use crate::notify::asking::SubjectSource;
use crate::process::clock::Clock;
use crate::process::drain::DrainPhase;
use crate::process::heartbeat::StalledWorkers;
use crate::process::state_dir::{PreviousRun, Suspension, SuspensionFile, SuspensionList};
use crate::process::watermark::StampWatermark;
use crate::record::access_log::{AccessLog, LogThrottle};
use crate::record::telemetry::Telemetry;
use crate::start_error::StartError;
use crate::tls::certificate::CertificateRenewal;

/// The state that outlives every request and every reload.
pub struct App {
    /// Time and randomness.
    pub clock: Clock,
    /// The process's settings.
    pub settings: Settings,
    /// The registry in force, loaded once per request and kept to its end.
    pub generation: ArcSwap<Generation>,
    /// The certificate of the listener, and the limits per address.
    pub listener: ListenerState,
    /// What decides whether a request goes ahead.
    pub admission: AdmissionState,
    /// The audit journal of write and money calls, if configured.
    pub journal: Option<Journal>,
    /// The store that instances share, if configured.
    pub cluster: Option<Cluster>,
    /// The halts of a process without a store.
    pub local_halts: LocalHalts,
    /// What money calls may spend, if there is a store.
    pub caps: Option<Arc<Caps>>,
    /// The counts for statements, if there is a store.
    pub usage: Option<Arc<UsageTally>>,
    /// GatePay's notifications, if configured.
    pub notifications: Option<Arc<Notifications>>,
    /// What calls to GatePay use.
    pub upstream: UpstreamState,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The writer of request records.
    pub telemetry: Arc<Telemetry>,
    /// Start, reload, health and drain of the process.
    pub lifecycle: Lifecycle,
}

/// Whether requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// All requests are answered.
    Ready,
    /// Requests are refused until the stamps of the previous run have expired.
    Starting,
    /// Requests are answered for a short time, and on no new connection.
    Draining,
    /// Requests of a stalled worker are not answered.
    Stalled(StalledWorkers),
    /// The store that instances share does not answer, or this machine's clock differs too much from it.
    Cluster(ClusterReadiness),
}

impl App {
    /// Builds the state. `inherit` takes the replay memory that the previous run left. It is called last, so that a
    /// start that fails earlier leaves the memory to the next start.
    pub fn new(
        configuration: Configuration,
        clock: Clock,
        inherit: impl FnOnce() -> std::io::Result<(PreviousRun, StampWatermark)>,
        access: Box<dyn Write + Send>,
    ) -> Result<Arc<Self>, StartError> {
        let Configuration {
            mut settings,
            registry,
            catalogue,
        } = configuration;
        let reload = ReloadControl::beginning_with(&settings);
        let metrics = Arc::new(Metrics::new(&catalogue, &settings.metrics));
        metrics.reloads.applied_now(clock.unix_ms());
        let quota = quota(&settings, &metrics, &clock);
        let (store, loans) = (settings.store.as_ref(), &metrics.loans);
        let shared = SharedLimits::of(store, quota.lent(), loans, &clock);
        let limits = TenantLimitsMap::sharing(quota, shared.clone());
        let inputs = GenerationInputs {
            settings: &settings,
            tenant_limits: &limits,
            series: &metrics.tenants,
        };
        let generation = Generation::first(registry, Arc::new(catalogue), inputs);
        let upstream = UpstreamState::new(&mut settings, limits.era.clone(), &metrics, &clock)?;
        let log = AccessLog::start(access, settings.log, metrics.lines());
        let log = log.map_err(StartError::Thread)?;
        let listener = ListenerState::new(&settings.listen, &metrics, &clock)?;
        let journal = journal(&mut settings, &clock, &metrics).map_err(StartError::Journal)?;
        let cluster = cluster(&settings, &clock, &metrics, shared).map_err(StartError::Store)?;
        let notifications = notifications(&settings, cluster.as_ref(), &metrics, &clock)?;
        let (caps, usage) = counts(cluster.as_ref(), &metrics);
        let registry = &generation.registry;
        let cluster_of = cluster.as_ref();
        let admission =
            AdmissionState::new(&settings, registry, limits, &clock, (inherit, cluster_of))?;
        let lifecycle = Lifecycle::begin(reload, &metrics, &clock);
        let parts = (&admission, &lifecycle);
        Ok(Arc::new(Self {
            telemetry: telemetry((&settings, &usage), &clock, &metrics, log, parts),
            generation: ArcSwap::from_pointee(generation),
            clock,
            settings,
            listener,
            admission,
            journal,
            cluster,
            local_halts: LocalHalts::default(),
            caps,
            usage,
            notifications,
            upstream,
            metrics,
            lifecycle,
        }))
    }

    /// Gives the GatePay of this process with the credential that signs now.
    pub fn isolation_subject(self: &Arc<Self>) -> SubjectSource {
        let app = Arc::clone(self);
        Arc::new(move || {
            let institution = Arc::clone(&app.generation.load().institution);
            let signing = app.upstream.credential_rotation.signing(&institution)?;
            Some(IsolationSubject {
                upstream: app.settings.upstream.url.authority(),
                client_id: signing.credential().client_id.as_str().to_owned(),
            })
        })
    }

    /// Suspends the parties that the previous run left suspended by hand, and stores later changes in this file.
    pub fn keep_suspensions(&self, file: SuspensionFile, left: SuspensionList) {
        for (party, suspension) in &left {
            tracing::warn!(%party, operator = %suspension.by, since_ms = suspension.since_ms, "suspended by hand");
        }
        let parties: Vec<PartyId> = left.keys().cloned().collect();
        self.admission.tenant_limits.suspensions.adopt(file, left);
        for party in parties {
            self.admission
                .tenant_limits
                .follow_suspension(party.as_str());
        }
    }

    /// Takes over the halts that the previous run left in the state folder, without a store.
    pub fn keep_halts(&self, folder: &Path) -> std::io::Result<()> {
        if self.cluster.is_some() {
            return Ok(());
        }
        for halt in self.local_halts.adopt(folder)? {
            tracing::warn!(scope = %halt.scope, operator = %halt.by, since_ms = halt.since_ms, "calls are halted");
        }
        Ok(())
    }

    /// The halts in force as this process knows them, but for suspensions: by scope.
    pub fn halts(&self) -> Vec<HaltInForce> {
        let shared = self.cluster.as_ref().map(Cluster::known_halts);
        let halts = match shared {
            None => self.local_halts.all(),
            Some(known) => known.unwrap_or_default(),
        };
        let is_halt = |halt: &HaltInForce| !matches!(halt.scope, HaltScope::Suspended(_));
        halts.into_iter().filter(is_halt).collect()
    }

    /// The parties that are suspended by hand: by this process, or for all instances by the store that they share.
    pub fn suspensions(&self) -> SuspensionList {
        let mut all = self.admission.tenant_limits.suspensions.all();
        let halts = self.cluster.as_ref().and_then(Cluster::known_halts);
        for halt in halts.into_iter().flatten() {
            if let Some((id, suspension)) = suspension(&halt) {
                all.entry(id).or_insert(suspension);
            }
        }
        all
    }

    /// Whether a party is suspended by hand, by this process or by the store that instances share.
    pub fn is_suspended(&self, party: &str) -> bool {
        let suspended = self.suspensions();
        suspended.keys().any(|id| id.as_str() == party)
    }

    /// Reads the listener's certificate and key again. If either is invalid, nothing changes.
    pub fn renew_certificate(&self) -> Result<CertificateRenewal, String> {
        let (metrics, clock) = (&self.metrics, &self.clock);
        let renewed = self.listener.renew_certificate(metrics, clock)?;
        let Some(notifications) = &self.notifications else {
            return Ok(renewed);
        };
        let also = notifications.renew_certificate()?;
        notifications.show_expiry(&metrics.notification_certificate_expiry, clock);
        Ok(match (renewed, also) {
            (CertificateRenewal::Unchanged, also) => also,
            (renewed, _) => renewed,
        })
    }

    /// Whether stamps of this moment are refused: the previous run may have admitted them, or the clock was ahead and
    /// the replay memory expired them.
    pub fn is_starting(&self) -> bool {
        let guarded = self.cluster.as_ref().map_or(0, Cluster::guarded_until);
        self.clock.unix_ms() <= self.admission.replay.horizon().max(guarded)
    }

    /// Whether requests are answered, and the reason if not.
    pub fn readiness(&self) -> Readiness {
        if self.lifecycle.drain.phase() != DrainPhase::Serving {
            return Readiness::Draining;
        }
        if self.is_starting() {
            return Readiness::Starting;
        }
        match self.cluster.as_ref().map(Cluster::readiness) {
            None | Some(ClusterReadiness::Ready) => {}
            Some(not_ready) => return Readiness::Cluster(not_ready),
        }
        if let Some(caps) = &self.caps {
            if caps.is_starting() {
                return Readiness::Cluster(ClusterReadiness::Away);
            }
            let now = self.clock.elapsed();
            if caps.destinations.is_stale(now) {
                let age = caps.destinations.age(now);
                return Readiness::Cluster(ClusterReadiness::StaleLists { age });
            }
        }
        let stalled = self.lifecycle.heartbeats.stalled();
        stalled.map_or(Readiness::Ready, Readiness::Stalled)
    }
}

/// The suspension that a halt is, and its party.
pub fn suspension(halt: &HaltInForce) -> Option<(PartyId, Suspension)> {
    let HaltScope::Suspended(id) = &halt.scope else {
        return None;
    };
    let by = PartyId::parse(&halt.by).or_else(|_| PartyId::parse(UNNAMED));
    let since_ms = halt.since_ms;
    let suspension = Suspension {
        by: by.ok()?,
        since_ms,
    };
    Some((PartyId::parse(id).ok()?, suspension))
}

/// The operator of a halt that was set by another program, under a name that no operator can have.
const UNNAMED: &str = "unknown";

/// The institution's quota.
fn quota(settings: &Settings, metrics: &Metrics, clock: &Clock) -> Arc<InstitutionQuota> {
    let meters = metrics.tenants.limits.quota.clone();
    let quota = &settings.upstream.quota;
    let is_shared = settings.store.as_ref().and_then(StoreSettings::sharing);
    match is_shared {
        None => InstitutionQuota::new(quota, meters, clock).into(),
        Some(_) => InstitutionQuota::leased(quota, meters, clock).into(),
    }
}

/// What the record of every request uses.
fn telemetry(
    (settings, usage): (&Settings, &Option<Arc<UsageTally>>),
    clock: &Clock,
    metrics: &Metrics,
    log: AccessLog,
    (admission, lifecycle): (&AdmissionState, &Lifecycle),
) -> Arc<Telemetry> {
    Arc::new(Telemetry {
        clock: clock.clone(),
        requests: Arc::clone(&metrics.requests),
        upstream: Arc::clone(&metrics.upstream),
        log,
        seldom: LogThrottle::default(),
        replay: Arc::clone(&admission.replay),
        drain: Arc::clone(&lifecycle.drain),
        elsewhere: admission.elsewhere.clone(),
        usage: usage.clone(),
        ratelimit_headers: settings.ratelimit_headers,
    })
}

/// The parts that count for the store: what money calls may spend, and what statements tell. Without a store there are none.
fn counts(
    cluster: Option<&Cluster>,
    metrics: &Metrics,
) -> (Option<Arc<Caps>>, Option<Arc<UsageTally>>) {
    let caps = || Arc::new(Caps::new(&metrics.caps));
    let usage = |cluster: &Cluster| Arc::new(UsageTally::new(cluster.id()));
    (cluster.map(|_| caps()), cluster.map(usage))
}

/// The store that instances share, not asked yet, if the settings name one.
fn cluster(
    settings: &Settings,
    clock: &Clock,
    metrics: &Metrics,
    limits: Option<Arc<SharedLimits>>,
) -> Result<Option<Cluster>, String> {
    let (Some(store), Some(state_dir)) = (&settings.store, &settings.state_dir) else {
        return Ok(None);
    };
    let meters = metrics.cluster.clone();
    meters.configured();
    let shares = (meters, limits);
    Cluster::open(store, settings.window, state_dir, clock, shares).map(Some)
}

/// GatePay's notifications, if the settings ask for them. The thread is not started.
fn notifications(
    settings: &Settings,
    cluster: Option<&Cluster>,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<Option<Arc<Notifications>>, StartError> {
    // The configuration has no notifications without a store.
    let (Some(notifications), Some(cluster)) = (&settings.notifications, cluster) else {
        return Ok(None);
    };
    let meters = &metrics.notifications;
    let opened = Notifications::open(notifications, cluster.calls(), meters);
    let opened = opened.map_err(StartError::Notifications)?;
    opened.show_expiry(&metrics.notification_certificate_expiry, clock);
    Ok(Some(Arc::new(opened)))
}

/// The audit journal, started, if the settings ask for one.
fn journal(
    settings: &mut Settings,
    clock: &Clock,
    metrics: &Metrics,
) -> std::io::Result<Option<Journal>> {
    let Some(audit) = settings.audit.take() else {
        return Ok(None);
    };
    let rotation = FileRotation {
        bytes: audit.file_bytes,
        age: audit.file_age,
    };
    let folder = DiskFolder::open(&audit.dir)?;
    if settings.state_dir.is_none() {
        tracing::warn!(
            "without state_dir the audit journal's head is stored beside the journal, where one intruder can cut both: set state_dir"
        );
    }
    let heads = HeadFolder::of(settings.state_dir.as_deref(), &audit.dir);
    heads.inspect()?;
    let (key, meters) = (audit.key, &metrics.journal);
    Journal::start(folder, Some(&heads), key, rotation, clock, meters).map(Some)
}
