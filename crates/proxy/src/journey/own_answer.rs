//! Own answer: calls that the proxy answers from its store, without GatePay.

use bytes::Bytes;
use gatepay_core::envelope::{AnswerJudgement, AnswerVerdict};
use gatepay_core::own_operation::OwnOperation;
use gatepay_http1::content_coding::ContentCoding;
use gatepay_http1::header_block::HeaderBlock;
use gatepay_http1::response_parser::ResponseHead;
use gatepay_store::admission::StoredText;
use gatepay_store::engine::statements::StatementSubject;
use gatepay_tenancy::PartyRef;
use http::{StatusCode, header};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::cluster::store_calls::{LongReader, StoreCallError};
use crate::headers;
use crate::journey::admit::Admitted;
use crate::journey::answer::RelayableAnswer;
use crate::notify::Notifications;
use crate::notify::pull::{OwnReplay, PullRequest, PullingTenant};
use crate::record::RequestRecord;
use crate::refusal::{CallOutcome, Refusal};
use crate::statements::statement_view;

/// An answer in GatePay's form, so that clients read it as they read GatePay's.
#[derive(Serialize)]
struct OwnEnvelope<T> {
    status: &'static str,
    code: &'static str,
    #[serde(rename = "errorMessage")]
    error_message: &'static str,
    data: T,
}

/// Answers an admitted call. The call has spent its tokens, as a call to GatePay has.
pub async fn answer(
    own: OwnOperation,
    (cluster, relay): (Option<&Cluster>, Option<&Notifications>),
    admitted: &mut Admitted,
    record: &mut RequestRecord,
) -> Result<RelayableAnswer, Refusal> {
    if own == OwnOperation::ShowStatement {
        let shown = show_statement(cluster, admitted, record).await?;
        return shown.ok_or_else(|| unknown(admitted));
    }
    let unknown = || unknown(admitted);
    let id = admitted.tenant_limits().breaker.id().as_str();
    let pulls = || {
        let notified = admitted.generation().registry.notified_operator();
        !admitted.is_by_operator() || notified.is_some_and(|it| it.party.id.as_str() == id)
    };
    let Some(relay) = relay.filter(|_| pulls()) else {
        return Err(unknown());
    };
    let tenant = PullingTenant::of(relay, admitted.generation(), id, record.began_unix_ms());
    let tenant = tenant.ok_or(Refusal::StoreUnavailable)?;
    let (query, body) = admitted.outbound().content();
    let bad = |why: &'static str| Refusal::MalformedRequest(why.into());
    let body = match own {
        OwnOperation::ListNotifications => {
            let request = PullRequest::read(query).map_err(bad)?;
            let page = tenant.page(relay, &request).await;
            envelope(&page.map_err(|error| away(&error, record))?)
        }
        OwnOperation::ReplayNotifications => {
            let wanted = OwnReplay::read(body).map_err(bad)?;
            let replayed = tenant.replay(relay, &wanted).await;
            envelope(&replayed.map_err(|error| away(&error, record))?)
        }
        OwnOperation::ShowStatement => return Err(unknown()),
    };
    Ok(answered(own, body, admitted, record))
}

/// Answers a tenant with its own statement; `None` without a store, and for an operator.
async fn show_statement(
    cluster: Option<&Cluster>,
    admitted: &mut Admitted,
    record: &mut RequestRecord,
) -> Result<Option<RelayableAnswer>, Refusal> {
    let id = admitted.tenant_limits().breaker.id().as_str();
    let registry = &admitted.generation().registry;
    let tenant = registry.position(id).map(|position| registry.at(position));
    let (Some(cluster), Some(PartyRef::Tenant(tenant))) = (cluster, tenant) else {
        return Ok(None);
    };
    let bad = |why: &'static str| Refusal::MalformedRequest(why.into());
    let (query, _) = admitted.outbound().content();
    let date = match query.and_then(|query| query.strip_prefix("day=")) {
        Some(date) if statement_view::is_date(date) => date.to_owned(),
        _ => return Err(bad("the query is day= and a date: day=2026-11-27")),
    };
    let holder = StoredText::parse(id).zip(StoredText::parse(tenant.sub_account.as_str()));
    let Some((party, account)) = holder else {
        return Ok(None);
    };
    let subject = StatementSubject {
        party,
        account: Some(account),
        date,
    };
    let reader = LongReader::Tenant(id.to_owned());
    let statement = statement_view::read(cluster.calls(), reader, subject).await;
    let statement = statement.map_err(|error| away(&error, record))?;
    let statement = statement.ok_or(bad("there is no statement of this day"))?;
    let body = envelope(&statement);
    let own = OwnOperation::ShowStatement;
    Ok(Some(answered(own, body, admitted, record)))
}

fn answered(
    own: OwnOperation,
    body: Bytes,
    admitted: &mut Admitted,
    record: &mut RequestRecord,
) -> RelayableAnswer {
    admitted.commit();
    let status = StatusCode::OK;
    let judgement = AnswerJudgement {
        verdict: AnswerVerdict::Success,
        ..AnswerJudgement::UNREAD
    };
    record.answered(status.as_u16(), &judgement, &body);
    let mut fields = HeaderBlock::with_capacity(64);
    fields.add(&header::CONTENT_TYPE, "application/json");
    if own == OwnOperation::ReplayNotifications {
        record.settled(CallOutcome::Executed);
        fields.add(&headers::OUTCOME, CallOutcome::Executed.as_str());
    }
    let head = ResponseHead {
        status,
        fields,
        coding: ContentCoding::Identity,
    };
    RelayableAnswer::Whole(head, body)
}

/// The refusal where the call is not answered.
fn unknown(admitted: &Admitted) -> Refusal {
    let operation = admitted.operation();
    let path = operation.merchant_path.as_deref().unwrap_or_default();
    Refusal::unknown_operation(operation.method.as_str(), path)
}

fn envelope(data: &impl Serialize) -> Bytes {
    let whole = OwnEnvelope {
        status: "SUCCESS",
        code: "000000",
        error_message: "",
        data,
    };
    let body = serde_json::to_vec(&whole).expect("its keys are texts");
    body.into()
}

/// The refusal without an answer of the store. A replay may be repeated: it concerns dead notifications alone.
fn away(error: &StoreCallError, record: &mut RequestRecord) -> Refusal {
    record.detail(error.to_string());
    Refusal::StoreUnavailable
}
