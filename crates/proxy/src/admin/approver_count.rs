//! Approver count: how many operators an order takes that needs more than one where `caps.approvals` says so, and who else has
//! ordered the same.

use gatepay_store::admission::HaltScope;
use gatepay_tenancy::PartyId;
use gatepay_tenancy::settings::AdminOperator;
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

/// The operator of the admin address by this name, if there is one that `proxy.toml` still names.
pub(super) fn named_operator<'a>(app: &'a App, name: &PartyId) -> Option<&'a AdminOperator> {
    let mut operators = app.settings.admin.operators.iter();
    let named = operators.find(|operator| operator.name == *name);
    named.filter(|_| app.lifecycle.reload.still_names(name))
}

/// Notes an operator's order to end the halt of a scope that was seen with this epoch, in the store if the halt is there. Returns
/// the other operator that has ordered the same within a day.
pub(super) async fn other_approver(
    app: &App,
    (scope, epoch): (&HaltScope, i64),
    is_shared: bool,
    by: &PartyId,
) -> Result<Option<String>, AdminFailure> {
    if named_operator(app, by).is_none() {
        return Err(AdminFailure(
            StatusCode::FORBIDDEN,
            "caps.approvals is 2: two operators end a halt or a suspension, each with the token of an [[admin.operator]]\n".into(),
        ));
    }
    let (scope, by) = (scope.clone(), by.to_string());
    let Some(cluster) = app.cluster.as_ref().filter(|_| is_shared) else {
        let now = app.clock.elapsed();
        return Ok(app.local_halts.propose_end((&scope, epoch), &by, now));
    };
    let proposed = cluster
        .calls()
        .call(move |store| async move { store.propose_resume(&scope, epoch, &by).await });
    proposed.await.map_err(|error| {
        let text = format!("not resumed: the store gave no answer: {error}\n");
        AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into())
    })
}
