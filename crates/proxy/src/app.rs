//! The shared state of all requests: made once at start, with one pointer to the current generation.

use std::io::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatepay_tenancy::settings::{ClockSource, Settings};
use gatepay_tenancy::{Configuration, PartyId};
use http::HeaderValue;

use crate::admission::replay::Replay;
use crate::admission::replay_capacity::replay_capacity;
use crate::callers::address_limits::AddressLimits;
use crate::callers::auth_throttle::{AuthThrottle, RecentFloods};
use crate::callers::body_memory::BodyMemory;
use crate::callers::client_address::TrustedProxies;
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::reload_status::ReloadControl;
use crate::generation::tenant_limits::TenantLimitsMap;
use crate::generation::{Generation, GenerationInputs};
use crate::journal::Journal;
use crate::journal::folder::{self, DiskFolder};
use crate::journal::head::HeadFolder;
use crate::journal::meters::FileRotation;
use crate::metrics::Metrics;
use crate::process::clock::{self, Clock};
use crate::process::drain::{Drain, DrainPhase};
use crate::process::heartbeat::{StalledWorkers, WorkerHeartbeats};
use crate::process::state_dir::{self, PreviousRun, SuspensionFile, SuspensionList};
use crate::process::watermark::StampWatermark;
use crate::process::yielding::OffloadThreads;
use crate::record::access_log::{AccessLog, LogThrottle};
use crate::record::telemetry::Telemetry;
use crate::tls::certificate::{CertificateRenewal, ListenerIdentity};
use crate::tls::config;
use crate::upstream::breaker::UpstreamBreaker;
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connect::UpstreamConnector;
use crate::upstream::credential_rotation::CredentialRotation;

/// The state that outlives every request and every reload.
pub struct App {
    /// Time and randomness.
    pub clock: Clock,
    /// The process's settings.
    pub settings: Settings,
    /// The registry in force, loaded once per request and kept to its end.
    pub generation: ArcSwap<Generation>,
    /// The replay memory, which makes a request single-use.
    pub replay: Arc<Replay>,
    /// The watermark of admitted stamps: a stamp above it is not admitted yet.
    pub watermark: StampWatermark,
    /// The memory budget for the bodies of all requests.
    pub body_memory: BodyMemory,
    /// The proxies whose statements about client addresses are trusted.
    pub trusted_proxies: TrustedProxies,
    /// The connections and requests of each address.
    pub address_limits: Arc<AddressLimits>,
    /// Addresses that keep failing authentication.
    pub auth_throttle: AuthThrottle,
    /// The addresses that recently had a connection closed for flooding.
    pub recent_floods: RecentFloods,
    /// The limits and counters of every party, across generations.
    pub tenant_limits: TenantLimitsMap,
    /// The rate limit of the institution as a whole.
    pub quota: Arc<InstitutionQuota>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The writer of request records.
    pub telemetry: Arc<Telemetry>,
    /// The audit journal of write and money calls, if configured.
    pub journal: Option<Journal>,
    /// The connector to GatePay.
    pub upstream: Arc<UpstreamConnector>,
    /// The circuit breaker for GatePay.
    pub breaker: UpstreamBreaker,
    /// The clock of GatePay, measured against our own.
    pub upstream_clock: UpstreamClock,
    /// GatePay's name in `Host`.
    pub upstream_host: HeaderValue,
    /// The TLS identity of the tenant listener; without it connections are plain text.
    pub listener_identity: Option<ListenerIdentity>,
    /// The state of the drain.
    pub drain: Arc<Drain>,
    /// The heartbeats that show stalled workers.
    pub heartbeats: WorkerHeartbeats,
    /// Threads for work on long bodies.
    pub offload: OffloadThreads,
    /// The control of reloads, and the result of the last.
    pub reload: ReloadControl,
    /// The choice of the institution's credential that signs.
    pub credential_rotation: CredentialRotation,
    /// When this state was made, in milliseconds since 1970.
    pub began_ms: u64,
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
}

/// Why the program cannot start although its configuration is valid.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The upstream's host or certificates.
    #[error("upstream: {0}")]
    Upstream(String),
    /// The listener's certificate or key.
    #[error("listen.tls: {0}")]
    Tls(String),
    /// The state folder.
    #[error("state_dir: {0}")]
    State(std::io::Error),
    /// The audit journal.
    #[error("audit: {0}")]
    Journal(std::io::Error),
    /// A listener.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
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
        let upstream = upstream(&mut settings)?;
        let upstream_host = HeaderValue::try_from(upstream.authority())
            .map_err(|error| StartError::Upstream(error.to_string()))?;
        let metrics = Arc::new(Metrics::new(&catalogue));
        metrics.reloads.applied_now(clock.unix_ms());
        let log =
            AccessLog::start(access, settings.log, metrics.lines()).map_err(StartError::Thread)?;
        let meters = metrics.tenants.limits.quota.clone();
        let quota = InstitutionQuota::new(&settings.upstream.quota, meters, &clock);
        let quota = Arc::new(quota);
        let tenant_limits = TenantLimitsMap::new(Arc::clone(&quota));
        let generation = Generation::new(
            None,
            Arc::new(catalogue),
            registry,
            Arc::clone(&settings.institution),
            settings.written.clone(),
            GenerationInputs {
                settings: &settings,
                tenant_limits: &tenant_limits,
                series: &metrics.tenants,
            },
        );
        let identity = settings.listen.tls.as_ref().map(ListenerIdentity::read);
        let identity = identity.transpose().map_err(StartError::Tls)?;
        if let Some(identity) = &identity {
            tell_expiry(identity, &metrics, &clock);
        }
        let journal = journal(&mut settings, &clock, &metrics).map_err(StartError::Journal)?;
        let (inheritance, watermark) = inherit().map_err(StartError::State)?;
        let replay = Arc::new(memory(
            inheritance,
            &settings,
            replay_capacity(&settings, &settings.upstream.quota, &generation.registry),
            &clock,
            watermark.left_ms(),
        ));
        watermark
            .advance(clock.unix_ms(), settings.window.future_ms)
            .map_err(StartError::State)?;
        let drain = Arc::<Drain>::default();
        let telemetry = Arc::new(Telemetry {
            clock: clock.clone(),
            requests: Arc::clone(&metrics.requests),
            upstream: Arc::clone(&metrics.upstream),
            log,
            seldom: LogThrottle::default(),
            replay: Arc::clone(&replay),
            drain: Arc::clone(&drain),
            ratelimit_headers: settings.ratelimit_headers,
        });
        Ok(Arc::new(Self {
            replay,
            watermark,
            body_memory: BodyMemory::default(),
            trusted_proxies: TrustedProxies::new(&settings.listen.trusted_proxies),
            address_limits: AddressLimits::new(&settings.listen),
            auth_throttle: AuthThrottle::default(),
            recent_floods: RecentFloods::default(),
            breaker: UpstreamBreaker::new(
                settings.upstream.breaker,
                tenant_limits.era.clone(),
                metrics.upstream.breaker.clone(),
            ),
            tenant_limits,
            quota,
            generation: ArcSwap::from_pointee(generation),
            drain,
            heartbeats: WorkerHeartbeats::new(metrics.workers.clone()),
            offload: OffloadThreads::default(),
            listener_identity: identity,
            upstream_clock: UpstreamClock::new(
                clock.clone(),
                settings.clock == ClockSource::Follow,
                settings.window,
                metrics.clock.clone(),
            ),
            reload,
            credential_rotation: CredentialRotation::new(
                &settings.institution,
                clock.clone(),
                metrics.signer.clone(),
            ),
            began_ms: clock.unix_ms(),
            upstream: Arc::new(upstream),
            upstream_host,
            metrics,
            telemetry,
            journal,
            clock,
            settings,
        }))
    }

    /// Suspends the parties that the previous run left suspended by hand, and stores later changes in this file.
    pub fn keep_suspensions(&self, file: SuspensionFile, left: SuspensionList) {
        for (party, suspension) in &left {
            tracing::warn!(%party, operator = %suspension.by, since_ms = suspension.since_ms, "is suspended by hand");
        }
        let parties: Vec<PartyId> = left.keys().cloned().collect();
        self.tenant_limits.suspensions.adopt(file, left);
        for party in parties {
            self.tenant_limits.follow_suspension(party.as_str());
        }
    }

    /// Reads the listener's certificate and key again. If either is invalid, nothing changes.
    pub fn renew_certificate(&self) -> Result<CertificateRenewal, String> {
        let Some(identity) = &self.listener_identity else {
            return Ok(CertificateRenewal::Unchanged);
        };
        let renewal = identity.reload()?;
        tell_expiry(identity, &self.metrics, &self.clock);
        Ok(renewal)
    }

    /// Whether stamps of this moment are refused: the previous run may have admitted them, or the clock was ahead and
    /// the replay memory expired them.
    pub fn is_starting(&self) -> bool {
        self.clock.unix_ms() <= self.replay.horizon()
    }

    /// Whether requests are answered, and the reason if not.
    pub fn readiness(&self) -> Readiness {
        if self.drain.phase() != DrainPhase::Serving {
            return Readiness::Draining;
        }
        if self.is_starting() {
            return Readiness::Starting;
        }
        let stalled = self.heartbeats.stalled();
        stalled.map_or(Readiness::Ready, Readiness::Stalled)
    }
}

fn tell_expiry(identity: &ListenerIdentity, metrics: &Metrics, clock: &Clock) {
    let expires = identity.expires();
    let seconds = i64::try_from(expires).unwrap_or(i64::MAX);
    metrics.certificate_expiry.set(seconds);
    if expires <= clock.unix_ms() / 1_000 {
        tracing::warn!(
            expires,
            "the listener's certificate has expired: callers will refuse it"
        );
    }
}

/// The faults by which a start would fail, in the certificates, the keys, the state folder and the journal's folder
/// that the settings name.
pub fn start_faults(settings: &Settings) -> Vec<StartError> {
    let upstream = settings
        .upstream
        .url
        .tls
        .then(|| config::client(settings.upstream.ca.as_deref()));
    let listener = settings.listen.tls.as_ref().map(ListenerIdentity::read);
    let upstream = upstream.and_then(Result::err).map(StartError::Upstream);
    let folder = settings.state_dir.as_deref().map(state_dir::inspect);
    let folder = folder.and_then(Result::err).map(StartError::State);
    let journal = settings.audit.as_ref().map(|audit| {
        folder::inspect(&audit.dir)?;
        HeadFolder::of(settings.state_dir.as_deref(), &audit.dir).inspect()
    });
    let journal = journal.and_then(Result::err).map(StartError::Journal);
    upstream
        .into_iter()
        .chain(folder)
        .chain(journal)
        .chain(listener.and_then(Result::err).map(StartError::Tls))
        .collect()
}

/// The connector to GatePay that the settings describe.
fn upstream(settings: &mut Settings) -> Result<UpstreamConnector, StartError> {
    let to = &settings.upstream;
    let tls = to.url.tls.then(|| config::client(to.ca.as_deref()));
    let tls = tls.transpose().map_err(StartError::Upstream)?;
    let upstream = UpstreamConnector::new(to.url.clone(), tls, to.connect_timeout)
        .map_err(|error| StartError::Upstream(error.to_string()))?;
    Ok(match settings.egress.take() {
        Some(egress) => upstream.by_way_of(egress),
        None => upstream,
    })
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
            "without state_dir the audit journal's head is kept beside the journal: what can cut the one can cut the other"
        );
    }
    let heads = HeadFolder::of(settings.state_dir.as_deref(), &audit.dir);
    heads.inspect()?;
    let (key, meters) = (audit.key, &metrics.journal);
    Journal::start(folder, Some(&heads), key, rotation, clock, meters).map(Some)
}

/// The replay memory of this run. It is the one handed over, or an empty one if no run ever served. Otherwise it is
/// empty and guarded against unknown admissions: those that the previous run made by its own clock, bounded by the
/// watermark, or by the clock of this run.
fn memory(
    inheritance: PreviousRun,
    settings: &Settings,
    capacity: usize,
    clock: &Clock,
    mark_ms: u64,
) -> Replay {
    let empty =
        |guarded_until| Replay::new(settings.window, capacity, clock::random(), guarded_until);
    match inheritance {
        PreviousRun::NeverServed => Some(empty(0)),
        PreviousRun::HandedOver(bytes) => Replay::take_over(&bytes, settings.window, capacity),
        PreviousRun::Lost | PreviousRun::FirstUse => None,
    }
    .unwrap_or_else(|| {
        let usual = clock.unix_ms() + settings.window.future_ms;
        if let Some(longer) = mark_ms.checked_sub(usual).filter(|longer| *longer > LEEWAY_MS) {
            tracing::error!(
                longer_ms = longer,
                "the run before this one had a clock that was ahead of this one's: what it admitted cannot be admitted until then"
            );
        }
        empty(usual.max(mark_ms))
    })
}

/// A watermark ahead by less than this shows no clock that went back, only a clock read at another moment.
const LEEWAY_MS: u64 = 5_000;
