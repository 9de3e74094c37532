//! `GET /statements`: a tenant's calls and amounts of a day, or the days of which there are statements.

use gatepay_store::admission::StoredText;
use gatepay_store::engine::statements::StatementSubject;
use gatepay_tenancy::PartyRef;
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::notification_view::{away, bad};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json as answer};
use crate::admin::suspend::unknown_party;
use crate::app::App;
use crate::cluster::store_calls::{LongReader, StoreCalls};
use crate::statements::statement_view::{self, StatementView};

/// Answers `GET /statements`.
pub(super) async fn show(app: &App, query: Option<&str>) -> AdminResponse {
    let shown = shown(app, query).await;
    shown.map_or_else(AdminFailure::answer, |shown| answer(StatusCode::OK, &shown))
}

async fn shown(app: &App, query: Option<&str>) -> Result<Value, AdminFailure> {
    let cluster = app.cluster.as_ref().ok_or(AdminFailure(
        StatusCode::CONFLICT,
        "proxy.toml has no [store], which keeps the calls that statements add up\n".into(),
    ))?;
    let [tenant, account, day] = query_fields(query, ["tenant", "account", "day"])?;
    let Some(day) = day else {
        return days(cluster.calls()).await;
    };
    let date = day.into_owned();
    if !statement_view::is_date(&date) {
        return Err(bad("day= is a date: 2026-11-27\n"));
    }
    let tenant = tenant.ok_or(bad("say tenant=: the id of a tenant or an operator\n"))?;
    let generation = app.generation.load();
    let own_position = generation.registry.position(&tenant);
    let own = own_position.and_then(|position| match generation.registry.at(position) {
        PartyRef::Tenant(tenant) => Some(tenant.sub_account.as_str().to_owned()),
        PartyRef::Operator(_) => None,
    });
    let account = account.map(std::borrow::Cow::into_owned).or(own);
    let text = |text: &str| {
        let stored = StoredText::parse(text);
        stored.ok_or(bad("an id has at most 256 bytes, none of them zero\n"))
    };
    let subject = StatementSubject {
        party: text(&tenant)?,
        account: account.as_deref().map(text).transpose()?,
        date,
    };
    let statement = statement_view::read(cluster.calls(), LongReader::Institution, subject).await;
    let statement = statement.map_err(|error| away(&error))?;
    let is_empty = statement.as_ref().is_some_and(StatementView::is_empty);
    if own_position.is_none() && is_empty {
        return Err(unknown_party("the statement of the day is empty"));
    }
    let statement = statement.ok_or(AdminFailure(
        StatusCode::NOT_FOUND,
        "the store has no such day: it has the days on which an instance served, for 400 days\n"
            .into(),
    ))?;
    serde_json::to_value(statement).map_err(|_| {
        AdminFailure(
            StatusCode::INTERNAL_SERVER_ERROR,
            "it cannot be shown\n".into(),
        )
    })
}

async fn days(calls: &StoreCalls) -> Result<Value, AdminFailure> {
    let days = calls
        .call(|store| async move { store.statement_days().await })
        .await;
    let days = days.map_err(|error| away(&error))?;
    let days = days.into_iter().map(
        |day| json!({ "day": day.date, "begins": time(day.begins_ms), "ends": time(day.ends_ms) }),
    );
    Ok(json!({ "days": days.collect::<Vec<_>>() }))
}
