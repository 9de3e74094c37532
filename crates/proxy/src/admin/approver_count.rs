//! Approver count: how many operators an order takes that needs more than one where `caps.approvals` says so.

use http::StatusCode;

use crate::admin::reply::AdminFailure;
use crate::app::App;

/// As many as the configuration says, or the store if that is more: a smaller number of the configuration holds only after
/// `caps.raise_after`, over restarts and instances. Without a store there is the configuration alone.
pub(super) async fn approvers(app: &App) -> Result<u32, AdminFailure> {
    let configured = app.settings.approvals.count();
    let Some(cluster) = &app.cluster else {
        return Ok(configured);
    };
    let in_force = cluster
        .calls()
        .call(|store| async move { store.approvers_needed().await });
    let in_force = in_force.await.map_err(|error| {
        let text = format!("the store gave no answer, ask again: {error}\n");
        AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into())
    })?;
    Ok(configured.max(in_force))
}
