//! Admission state: what decides whether a request goes ahead.

use std::path::Path;
use std::sync::Arc;

use gatepay_admission::replay::Replay;
use gatepay_admission::replay_capacity::replay_capacity;
use gatepay_core::StampWindow;
use gatepay_tenancy::Registry;
use gatepay_tenancy::settings::Settings;

use crate::callers::auth_throttle::AuthThrottle;
use crate::callers::body_memory::BodyMemory;
use crate::cluster::Cluster;
use crate::cluster::handover_marker::HandoverMarker;
use crate::cluster::store_use;
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::tenant_limits::TenantLimitsMap;
use crate::process::clock::{self, Clock};
use crate::process::drain::successor_patience;
use crate::process::state_dir::PreviousRun;
use crate::process::watermark::StampWatermark;
use crate::process::yielding::OffloadThreads;
use crate::record::telemetry::{CopiesElsewhere, OtherProcesses};
use crate::start_error::StartError;

/// What decides whether a request goes ahead: memory, signature checks, limits and the single use of stamps.
pub struct AdmissionState {
    /// The memory budget for the bodies of all requests.
    pub body_memory: BodyMemory,
    /// Addresses that keep failing authentication.
    pub auth_throttle: AuthThrottle,
    /// The limits and counters of every party, across generations.
    pub tenant_limits: TenantLimitsMap,
    /// The rate limit of the institution as a whole.
    pub quota: Arc<InstitutionQuota>,
    /// The replay memory, which makes a request single-use.
    pub replay: Arc<Replay>,
    /// The watermark of admitted stamps: a stamp above it is not admitted yet.
    pub watermark: StampWatermark,
    /// Which requests another process may have admitted.
    pub elsewhere: CopiesElsewhere,
    /// Threads for work on long bodies.
    pub offload: OffloadThreads,
}

impl AdmissionState {
    /// Builds the state. `inherit` takes the replay memory that the previous run left. Joins the store, if there is one,
    /// since it may know the stamps that the previous run admitted.
    pub fn new(
        settings: &Settings,
        registry: &Registry,
        tenant_limits: TenantLimitsMap,
        clock: &Clock,
        (inherit, cluster): (
            impl FnOnce() -> std::io::Result<(PreviousRun, StampWatermark)>,
            Option<&Cluster>,
        ),
    ) -> Result<Self, StartError> {
        let (previous, watermark) = inherit().map_err(StartError::State)?;
        let (previous, left) = if let Some(cluster) = cluster {
            let served_before = !is_first(&previous);
            let patience = successor_patience(settings.drain.deadline);
            let started = cluster.start(served_before, patience);
            started.map_err(StartError::Store)?;
            let mark_ms = watermark.left_ms();
            let previous = known_to_store(previous, settings, clock, mark_ms, cluster);
            (previous, None)
        } else {
            (previous, LeftStore::in_folder(settings)?)
        };
        let elsewhere = copies_elsewhere(settings, cluster, clock, watermark.left_ms())?;
        let capacity = replay_capacity(settings, &settings.upstream.quota, registry);
        let leads = StampLeads {
            future_ms: settings.window.future_ms,
            store_ms: left.as_ref().map(|left| left.lead_ms),
        };
        let replay = replay_memory(
            previous,
            (settings, leads),
            capacity,
            clock,
            watermark.left_ms(),
        );
        // After a crash the next start is guarded up to here.
        let advanced = watermark.advance(clock.unix_ms(), leads.longest_ms());
        advanced.map_err(StartError::State)?;
        left.map_or(Ok(()), LeftStore::forget)?;
        Ok(Self {
            body_memory: BodyMemory::default(),
            auth_throttle: AuthThrottle::default(),
            quota: Arc::clone(&tenant_limits.quota),
            tenant_limits,
            replay: Arc::new(replay),
            watermark,
            elsewhere,
            offload: OffloadThreads::default(),
        })
    }
}

/// A store that the last run of this folder served with, while this one serves without: other instances may have admitted
/// stamps there that are not in the memory handed over.
struct LeftStore<'a> {
    folder: &'a Path,
    /// How far ahead of the clock a stamp of theirs may be, in milliseconds.
    lead_ms: u64,
}

impl<'a> LeftStore<'a> {
    fn in_folder(settings: &'a Settings) -> Result<Option<Self>, StartError> {
        let Some(folder) = settings.state_dir.as_deref() else {
            return Ok(None);
        };
        let noted = store_use::lead(folder).map_err(StartError::State)?;
        let joined = HandoverMarker::is_in(folder).map_err(StartError::State)?;
        let lead_ms = noted.or(joined.then_some(0));
        Ok(lead_ms.map(|lead_ms| Self { folder, lead_ms }))
    }

    /// Forgets the store, once this run is guarded.
    fn forget(self) -> Result<(), StartError> {
        tracing::warn!(
            "the last run had a store, and this one has none: stamps that other instances may have admitted there are refused for timestamp.future_ms and store.max_skew_ms"
        );
        let removed = HandoverMarker::remove(self.folder);
        removed
            .and_then(|()| store_use::forget(self.folder))
            .map_err(StartError::State)
    }
}

/// How far ahead of the clock a stamp may be that was admitted, in milliseconds.
#[derive(Clone, Copy)]
struct StampLeads {
    /// A stamp that this process or its previous run admitted.
    future_ms: u64,
    /// A stamp that other instances admitted, of a store that the previous run served with.
    store_ms: Option<u64>,
}

impl StampLeads {
    fn longest_ms(self) -> u64 {
        self.store_ms.unwrap_or(0).max(self.future_ms)
    }
}

/// The previous run as the store completes it: if the store has every stamp that it admitted, this run need not wait for
/// them to go stale. Of a folder in its first use there is no previous run, and the store's first life is guarded.
fn known_to_store(
    previous: PreviousRun,
    settings: &Settings,
    clock: &Clock,
    mark_ms: u64,
    cluster: &Cluster,
) -> PreviousRun {
    let covered = cluster.covers_previous_run();
    if matches!(previous, PreviousRun::FirstUse) {
        tracing::info!(
            "state_dir is new: if these credentials were served elsewhere without this store until now, run `gatepay-proxy store distrust`"
        );
    }
    if covered || (is_first(&previous) && cluster.key().is_some()) {
        cluster.own_stamps_from(0);
        return match previous {
            PreviousRun::HandedOver(bytes) => PreviousRun::HandedOver(bytes),
            _ => PreviousRun::NeverServed,
        };
    }
    // Until every stamp of the previous run is stale, a start after this one must not rely on the store.
    let StampWindow { past_ms, future_ms } = settings.window;
    let last = clock.unix_ms().saturating_add(future_ms).max(mark_ms);
    // A joined store refuses them if its guard reaches as far.
    let refused = cluster.key().is_some() && cluster.guarded_until() >= last;
    cluster.own_stamps_from(if refused {
        0
    } else {
        last.saturating_add(past_ms)
    });
    previous
}

/// Which requests another process may have admitted, once this one has joined its store.
///
/// A file has one process at a time, so that only earlier runs may have. The mark of this folder is above all that those admitted
/// which had the folder. A run that had the file with another folder leaves a contact that this folder does not have: then the file
/// counts as put back, until an operator distrusts it, which guards it up to a time after the mark. Other instances of another
/// store that the folder was used with before have ended, and went by clocks like this machine's.
fn copies_elsewhere(
    settings: &Settings,
    cluster: Option<&Cluster>,
    clock: &Clock,
    mark_ms: u64,
) -> Result<CopiesElsewhere, StartError> {
    let Some(cluster) = cluster else {
        return Ok(CopiesElsewhere::None);
    };
    let noted = settings.state_dir.as_deref().map(store_use::lead);
    let noted_ms = noted.transpose().map_err(StartError::State)?.flatten();
    let lead_ms = noted_ms.unwrap_or(0).max(settings.window.future_ms);
    let latest_ms = clock.unix_ms().saturating_add(lead_ms);
    let Some(place) = cluster.file_place() else {
        // Other instances admit requests now: stamps of any time are in doubt.
        return Ok(CopiesElsewhere::ByStore {
            earlier_ms: mark_ms,
            others: OtherProcesses::Any,
        });
    };
    let others = if cluster.key().is_some() && !cluster.is_put_back() {
        OtherProcesses::with_file((mark_ms, cluster.guarded_until()), place)
    } else {
        OtherProcesses::Any
    };
    Ok(CopiesElsewhere::ByStore {
        earlier_ms: latest_ms.max(mark_ms),
        others,
    })
}

/// Whether no run served in this folder before.
fn is_first(previous: &PreviousRun) -> bool {
    matches!(previous, PreviousRun::FirstUse | PreviousRun::NeverServed)
}

/// The replay memory of this run. It is the one handed over, or an empty one if no run ever served. Otherwise it is
/// empty and guarded against unknown admissions: those that the previous run made by its own clock, bounded by the
/// watermark, or by the clock of this run. A memory handed over is guarded too if the previous run had a store and this
/// one has none.
fn replay_memory(
    inheritance: PreviousRun,
    (settings, leads): (&Settings, StampLeads),
    capacity: usize,
    clock: &Clock,
    mark_ms: u64,
) -> Replay {
    let empty =
        |guarded_until| Replay::new(settings.window, capacity, clock::random(), guarded_until);
    match inheritance {
        PreviousRun::NeverServed => Some(empty(0)),
        PreviousRun::HandedOver(bytes) => {
            let until = |_| (clock.unix_ms() + leads.longest_ms()).max(mark_ms);
            let guarded_until = leads.store_ms.map_or(0, until);
            Replay::take_over(&bytes, settings.window, capacity, guarded_until)
        }
        PreviousRun::Lost | PreviousRun::FirstUse => None,
    }
    .unwrap_or_else(|| {
        let usual = clock.unix_ms() + leads.longest_ms();
        if let Some(longer) = mark_ms.checked_sub(usual).filter(|longer| *longer > LEEWAY_MS) {
            tracing::error!(
                longer_ms = longer,
                "the previous run's clock was ahead of this one's: stamps that it may have admitted are refused until that time"
            );
        }
        empty(usual.max(mark_ms))
    })
}

/// A watermark ahead by less than this shows no clock that went back, only a clock read at another moment.
const LEEWAY_MS: u64 = 5_000;
