//! `GET /cluster`: the instances that share the store, as this one sees them.

use gatepay_store::instance::Replication;
use http::StatusCode;
use serde::Serialize;

use super::reply::{AdminResponse, json, text};
use crate::app::App;
use crate::cluster::instance_name;
use crate::cluster::meters::configurations;

/// The cluster. Fields are only ever added.
#[derive(Serialize)]
struct ClusterReport {
    /// Hosts, database and user, or the file.
    store: String,
    /// Whether the store answered this instance's last call.
    store_available: bool,
    /// The age of the fields that follow, in milliseconds.
    seen_ms_ago: u64,
    /// The store's clock less this machine's, in milliseconds.
    clock_offset_ms: i64,
    /// How far a step has put the store's clock before its time, in milliseconds; negative if it went back, 0 while they agree.
    clock_step_ms: i64,
    /// Whether nothing is deleted for its age, because the clock is in doubt.
    deletion_held: bool,
    /// How long the store still refuses stamps, in milliseconds.
    guarded_ms: u64,
    /// `none`, `asynchronous` or `synchronous`.
    replication: &'static str,
    /// The number of different configurations of the instances.
    configurations: usize,
    instances: Vec<InstanceReport>,
    /// The number of changes of halts so far.
    halt_epoch: i64,
    halts: Vec<HaltReport>,
}

/// One instance.
#[derive(Serialize)]
struct InstanceReport {
    id: String,
    /// Whether it is the one that answers.
    this: bool,
    /// The name of its machine or pod.
    host: String,
    version: String,
    configuration: String,
    up_ms: u64,
    /// The age of its last sign of life, in milliseconds.
    lag_ms: u64,
    /// The part of the institution's rate that it is lent, in requests per second.
    lease_requests_per_second: Option<f64>,
    /// The newest change of the halts that it obeys.
    halt_epoch: i64,
    /// The newest head of its audit journal's chain that it told the store.
    journal_head: Option<String>,
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
        id: instance_name(instance.id),
        this: instance.id == cluster.id(),
        host: instance.host.clone(),
        version: instance.version.clone(),
        configuration: instance.config_hash.clone(),
        up_ms: view.now_ms.saturating_sub(instance.began_ms),
        lag_ms: view.now_ms.saturating_sub(instance.seen_ms),
        lease_requests_per_second: instance.lease,
        halt_epoch: instance.halt_epoch,
        journal_head: instance.journal_head.clone(),
    });
    let halts = view.halts.iter().map(|halt| HaltReport {
        scope: halt.scope.to_string(),
        since_ms: halt.since_ms,
        by: halt.by.clone(),
    });
    let report = ClusterReport {
        store: cluster.place().to_owned(),
        store_available: cluster.is_available(),
        seen_ms_ago: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        clock_offset_ms: cluster.offset_ms(),
        clock_step_ms: view.time.apart_ms,
        deletion_held: view.time.keeps,
        guarded_ms: view.guarded_until.saturating_sub(view.now_ms),
        replication: replication(view.replication),
        configurations: configurations(&view),
        instances: instances.collect(),
        halt_epoch: view.halt_epoch,
        halts: halts.collect(),
    };
    json(StatusCode::OK, &report)
}

/// The word for the store's standbys.
pub(super) fn replication(replication: Replication) -> &'static str {
    match replication {
        Replication::None => "none",
        Replication::Asynchronous { .. } => "asynchronous",
        Replication::Synchronous => "synchronous",
    }
}
