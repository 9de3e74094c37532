//! Everything requests share: made once at start, with one pointer to the current generation.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatepay_core::check::Strictness;
use gatepay_core::{Catalogue, Credential};
use gatepay_tenancy::settings::{RefusalStatus, Settings};
use gatepay_tenancy::{Configuration, Registry, Tenant, TenantId};
use http::HeaderValue;

use crate::clock::{self, Clock};
use crate::drain::Drain;
use crate::lane::Lane;
use crate::limiter::Limiter;
use crate::log::AccessLog;
use crate::metrics::Metrics;
use crate::pool::Upstream;
use crate::replay::Replay;
use crate::tls;

/// What outlives every request and every reload.
pub struct App {
    /// Time and randomness.
    pub clock: Clock,
    /// The process's settings.
    pub settings: Settings,
    /// The registry in force, loaded once per request and kept to its end.
    pub generation: ArcSwap<Generation>,
    /// What makes a request single-use.
    pub replay: Replay,
    /// What the institution as a whole may send.
    pub quota: Limiter,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Access lines.
    pub log: AccessLog,
    /// Where GatePay is.
    pub upstream: Arc<Upstream>,
    /// Its name in `Host`.
    pub upstream_host: HeaderValue,
    /// How far along the end is.
    pub drain: Drain,
}

/// A registry with its lanes, swapped as a whole.
pub struct Generation {
    /// What may be called.
    pub catalogue: Catalogue,
    /// Who may call.
    pub registry: Registry,
    lanes: HashMap<TenantId, Arc<Lane>>,
}

/// Why the program cannot start, after its configuration was found right.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The upstream's host or certificates.
    #[error("upstream: {0}")]
    Upstream(String),
    /// The state folder.
    #[error("state_dir: {0}")]
    State(std::io::Error),
    /// A listener.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl App {
    /// Puts the parts together. `guarded` says that a run before this one may have admitted stamps nobody handed over.
    pub fn new(
        configuration: Configuration,
        catalogue: Catalogue,
        clock: Clock,
        guarded: bool,
        access: Box<dyn Write + Send>,
    ) -> Result<Arc<Self>, StartError> {
        let Configuration { settings, registry } = configuration;
        let upstream_tls = match settings.upstream.url.tls {
            true => {
                Some(tls::client(settings.upstream.ca.as_deref()).map_err(StartError::Upstream)?)
            }
            false => None,
        };
        let upstream = Upstream::new(settings.upstream.url.clone(), upstream_tls)
            .map_err(|error| StartError::Upstream(error.to_string()))?;
        let upstream_host = HeaderValue::try_from(upstream.authority())
            .map_err(|error| StartError::Upstream(error.to_string()))?;
        let metrics = Arc::new(Metrics::new(&catalogue));
        let log =
            AccessLog::start(access, metrics.lines_dropped.clone()).map_err(StartError::Thread)?;
        let generation = Generation::new(catalogue, registry, &settings, &metrics, &clock);
        let guarded_until = if guarded {
            clock.unix_ms() + settings.window.future_ms
        } else {
            0
        };
        Ok(Arc::new(Self {
            replay: Replay::new(
                settings.window,
                replay_capacity(&settings, &generation.registry),
                clock::random(),
                guarded_until,
            ),
            quota: Limiter::new(settings.upstream.quota.rate, &clock),
            generation: ArcSwap::from_pointee(generation),
            drain: Drain::new(metrics.ready.clone()),
            upstream: Arc::new(upstream),
            upstream_host,
            metrics,
            log,
            clock,
            settings,
        }))
    }

    /// Which statuses refusals have.
    pub fn refusal_status(&self) -> RefusalStatus {
        self.settings.refusal_status
    }

    /// How strictly bodies are checked.
    pub fn checks(&self) -> Strictness {
        self.settings.checks
    }

    /// What to sign with now.
    pub fn institution(&self) -> Option<&Credential> {
        self.settings
            .institution
            .credential_at(self.clock.unix_ms())
    }

    /// Whether the replay memory still waits for stamps of a run before this one to go stale.
    pub fn is_starting(&self) -> bool {
        self.clock.unix_ms() <= self.replay.guarded_until()
    }
}

impl Generation {
    fn new(
        catalogue: Catalogue,
        registry: Registry,
        settings: &Settings,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Self {
        // Which tenants have series of their own follows from configuration, never from traffic.
        let lane = |(index, tenant): (usize, &Arc<Tenant>)| {
            let label = (index < settings.metrics.max_tenants).then(|| tenant.id.as_str());
            (
                tenant.id.clone(),
                Arc::new(Lane::new(&tenant.limits, metrics.tenant(label), clock)),
            )
        };
        let lanes = registry.tenants().iter().enumerate().map(lane).collect();
        Self {
            catalogue,
            registry,
            lanes,
        }
    }

    /// A tenant's lane.
    ///
    /// # Panics
    /// Never for a tenant of this generation: each has a lane.
    pub fn lane(&self, tenant: &Tenant) -> &Arc<Lane> {
        &self.lanes[tenant.id.as_str()]
    }
}

/// How many stamps can be live at once: what all tenants may have admitted, or the institution may send, whichever
/// is less, while a stamp is fresh.
pub fn replay_capacity(settings: &Settings, registry: &Registry) -> usize {
    let window = settings.window;
    // A stamp is remembered from its admission until it is stale, and one slice of time more.
    let seconds = (window.past_ms + window.future_ms) / 1_000 + 20;
    let most = |per_second: u32, burst: u32| u64::from(per_second) * seconds + u64::from(burst);
    let tenants = registry
        .tenants()
        .iter()
        .map(|tenant| {
            most(
                tenant.limits.all.per_second.get(),
                tenant.limits.all.burst.get(),
            )
        })
        .fold(0_u64, u64::saturating_add);
    let quota = settings.upstream.quota.rate;
    let institution = most(quota.per_second.get(), quota.burst.get());
    usize::try_from(tenants.min(institution)).unwrap_or(usize::MAX)
}
