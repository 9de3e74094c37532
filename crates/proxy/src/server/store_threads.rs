//! The threads that work with the store beside requests: notifications, deliveries, caps and statements.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::app::App;
use crate::caps::{self, thread::CapInputs};
use crate::cluster::Cluster;
use crate::generation::Generation;
use crate::notify;
use crate::notify::deliver::store_deliveries::StoreDeliveries;
use crate::notify::deliver::thread::{self as deliver, DeliverInputs};
use crate::notify::thread::NotifyInputs;
use crate::start_error::StartError;
use crate::statements::{self, thread::StatementInputs};

/// Starts the thread that receives notifications.
pub(super) fn notify_thread(
    app: &Arc<App>,
    (socket, address): (TcpListener, SocketAddr),
) -> Result<(JoinHandle<()>, SocketAddr), StartError> {
    let Some(notifications) = &app.notifications else {
        let missing = io::Error::other("notifications need a store");
        return Err(StartError::Listen(address, missing));
    };
    let inputs = NotifyInputs {
        notifications: Arc::clone(notifications),
        in_force: Arc::from(in_force(app)),
        settling: notifications.settling(app.journal.as_ref()),
        clock: app.clock.clone(),
        drain: Arc::clone(&app.lifecycle.drain),
        subject: app.isolation_subject(),
    };
    let thread = notify::thread::start(inputs, socket).map_err(StartError::Thread)?;
    Ok((thread, address))
}

/// Starts the thread that sends notifications to tenants, if notifications are configured.
pub(super) fn deliver_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(notifications), Some(cluster)) = (&app.notifications, &app.cluster) else {
        return Ok(None);
    };
    let suspended_in = Arc::clone(app);
    let store = StoreDeliveries {
        calls: cluster.calls().clone(),
        instance: cluster.id(),
        clock: app.clock.clone(),
        offset_ms: offset_ms(app),
    };
    let inputs = DeliverInputs {
        settings: Arc::new(notifications.settings().clone()),
        metrics: app.settings.metrics.clone(),
        store,
        in_force: in_force(app),
        suspended: Box::new(move |tenant| suspended_in.is_suspended(tenant)),
        clock: app.clock.clone(),
        meters: app.metrics.deliveries.clone().telling(app.usage.clone()),
        wake: notifications.wake.clone(),
        operators: notifications.operators.clone(),
        heard: notifications.last_credentials.heard(),
        drain: (
            Arc::clone(&app.lifecycle.drain),
            app.settings.drain.deadline,
        ),
        system_trust: deliver::system_trust().map_err(StartError::Notifications)?,
    };
    let thread = deliver::start(inputs).map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Starts the thread that tells the store how much money calls spend, if there is a store.
pub(super) fn caps_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(caps), Some(cluster)) = (&app.caps, &app.cluster) else {
        return Ok(None);
    };
    let inputs = CapInputs {
        caps: Arc::clone(caps),
        calls: cluster.calls().clone(),
        in_force: in_force(app),
        metrics: app.settings.metrics.clone(),
        approvers: app.settings.approvals.count(),
        clock: app.clock.clone(),
        offset_ms: offset_ms(app),
        drain: Arc::clone(&app.lifecycle.drain),
    };
    // A store that is away is joined later; calls that spend money wait for it.
    let joined = cluster.key().map(|_| cluster.patience());
    let thread = caps::thread::start(inputs, joined.unwrap_or_default());
    let thread = thread.map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Starts the thread that writes the counts for statements to the store, if there is a store.
pub(super) fn statements_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(usage), Some(cluster)) = (&app.usage, &app.cluster) else {
        return Ok(None);
    };
    let inputs = StatementInputs {
        usage: Arc::clone(usage),
        calls: cluster.calls().clone(),
        in_force: in_force(app),
        clock: app.clock.clone(),
        offset_ms: offset_ms(app),
        meters: app.metrics.statements.clone(),
    };
    let thread = statements::thread::start(inputs).map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Reads the configuration in force.
fn in_force(app: &Arc<App>) -> Box<dyn Fn() -> Arc<Generation> + Send + Sync> {
    let app = Arc::clone(app);
    Box::new(move || app.generation.load_full())
}

/// Reads by how much the store's time is ahead of this machine's clock, in milliseconds.
fn offset_ms(app: &Arc<App>) -> Box<dyn Fn() -> i64 + Send + Sync> {
    let app = Arc::clone(app);
    Box::new(move || app.cluster.as_ref().map_or(0, Cluster::time_offset_ms))
}
