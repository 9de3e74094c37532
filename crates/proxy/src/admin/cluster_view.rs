//! `GET /cluster`: the instances that share the store, as this one sees them.

use gatepay_store::instance::Replication;
use http::StatusCode;
use serde::Serialize;

use super::reply::{AdminResponse, json, text};
use crate::app::App;

/// The cluster.
#[derive(Serialize)]
struct ClusterReport {
    /// Whether the store answered this instance's last call.
    store_available: bool,
    /// The age of what follows, in milliseconds.
    seen_ms_ago: u64,
    /// The store's clock less this machine's, in milliseconds.
    clock_offset_ms: i64,
    /// How long the store still refuses stamps, in milliseconds.
    guarded_ms: u64,
    /// `none`, `asynchronous` or `synchronous`.
    replication: &'static str,
    instances: Vec<InstanceReport>,
    halts: Vec<HaltReport>,
}

/// One instance.
#[derive(Serialize)]
struct InstanceReport {
    id: String,
    /// Whether it is the one that answers.
    this: bool,
    version: String,
    configuration: String,
    up_ms: u64,
    /// The age of its last sign of life, in milliseconds.
    lag_ms: u64,
}

/// One halt in force.
#[derive(Serialize)]
struct HaltReport {
    scope: String,
    since_ms: u64,
    by: String,
}

/// The answer.
pub(super) fn cluster(app: &App) -> AdminResponse {
    let Some(cluster) = &app.cluster else {
        return text(StatusCode::NOT_FOUND, "no [store] is configured\n");
    };
    let Some((view, age)) = cluster.view() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the store has not answered yet\n",
        );
    };
    let instances = view.instances.iter().map(|instance| InstanceReport {
        // Longer than a number that every JSON reader keeps exact.
        id: format!("{:016x}", instance.id),
        this: instance.id == cluster.id(),
        version: instance.version.clone(),
        configuration: instance.config_hash.clone(),
        up_ms: view.now_ms.saturating_sub(instance.began_ms),
        lag_ms: view.now_ms.saturating_sub(instance.seen_ms),
    });
    let halts = view.halts.iter().map(|halt| HaltReport {
        scope: halt.scope.to_string(),
        since_ms: halt.since_ms,
        by: halt.by.clone(),
    });
    let report = ClusterReport {
        store_available: cluster.is_available(),
        seen_ms_ago: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        clock_offset_ms: cluster.offset_ms(),
        guarded_ms: view.guarded_until.saturating_sub(view.now_ms),
        replication: match view.replication {
            Replication::None => "none",
            Replication::Asynchronous { .. } => "asynchronous",
            Replication::Synchronous => "synchronous",
        },
        instances: instances.collect(),
        halts: halts.collect(),
    };
    json(StatusCode::OK, &report)
}
