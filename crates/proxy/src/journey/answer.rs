//! Answer: what GatePay's answer proves, and what of it the caller gets.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use gatepay_core::envelope::{AnswerJudgement, AnswerVerdict, EnvelopeCode};
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::owner_look_up::OwnerLookUp;
use gatepay_core::proof::AnswerProof;
use gatepay_core::{Kind, envelope, translate};
use gatepay_http1::content_coding::{self, ContentCoding};
use gatepay_http1::response_parser::ResponseHead;
use gatepay_store::admission::StoredText;
use gatepay_store::notifications::ledger::{LedgerNote, TenantAccount};
use gatepay_tenancy::PartyRef;
use gatepay_tenancy::settings::RefusalStatus;

use crate::headers;
use crate::journey::admit::Admitted;
use crate::journey::lost_call::{self, LookUpMeans, LookedUpCall};
use crate::journey::store_verdict;
use crate::notify::ledger::FoundIds;
use crate::process::yielding::YIELD_AFTER;
use crate::record::RequestRecord;
use crate::refusal::{self, CallOutcome, Refusal};
use crate::upstream::exchange::{AnswerBody, CallFailure, LongBody, UpstreamAnswer};

/// An answer of GatePay that the caller gets.
pub enum RelayableAnswer {
    /// The whole answer, with the status and the headers for the caller.
    Whole(ResponseHead, Bytes),
    /// The beginning of a long answer to a read. The rest is relayed as it arrives.
    Long(ResponseHead, Box<LongBody>),
}

/// Judges how a call to GatePay ended: the answer to relay, or the refusal that tells the caller what is known.
pub async fn judge(
    sent: Result<UpstreamAnswer, CallFailure>,
    admitted: &mut Admitted,
    means: &LookUpMeans<'_>,
    statuses: RefusalStatus,
    record: &mut RequestRecord,
) -> Result<RelayableAnswer, Refusal> {
    let answer = match sent {
        Ok(answer) => answer,
        Err(failure) => return Err(Box::pin(failed(failure, admitted, means, record)).await),
    };
    if answer.is_coded(admitted.outbound().accepts_gzip()) {
        record_unread(&answer.head, record);
        let what = "GatePay's answer is in a content coding, and none was asked for";
        return Err(Box::pin(lost_call::lost(what, admitted, means, record)).await);
    }
    let UpstreamAnswer { mut head, body } = answer;
    let (body, judgement) = match body {
        AnswerBody::Whole(body, judgement) => (body, judgement),
        AnswerBody::Long(long) => {
            record_unread(&head, record);
            return Ok(RelayableAnswer::Long(head, long));
        }
    };
    record.answered(head.status.as_u16(), &judgement, &body);
    if means.ledger.is_some() || means.caps.is_some() {
        note_own_ids(means, admitted, head.status.as_u16(), &body);
        note_shown_id(means, admitted, head.status.as_u16(), &body);
    }
    if is_rejection(&judgement) {
        let rejected = rejected(&head, &body, &judgement, admitted, means, record);
        return Err(Box::pin(rejected).await);
    }
    if admitted.kind() == Kind::Read {
        let body = if admitted.is_translated() {
            translate::balance_answer(&body).into_owned().into()
        } else {
            body
        };
        return Ok(RelayableAnswer::Whole(head, body));
    }
    let proof = AnswerProof::of(head.status.as_u16(), &judgement);
    let settled = match proof {
        AnswerProof::Executed => LookedUpCall::of(CallOutcome::Executed),
        AnswerProof::Refused => LookedUpCall::of(CallOutcome::Refused),
        AnswerProof::LookUp(rule) => {
            Box::pin(lost_call::settle(rule, admitted, means, record)).await
        }
        AnswerProof::Lost(what) => {
            let (status, bytes) = (head.status.as_u16(), body.len());
            record.detail(format!("HTTP {status} with {bytes} bytes of body"));
            return Err(Box::pin(lost_call::lost(what, admitted, means, record)).await);
        }
    };
    let outcome = settled.outcome;
    if let Some(spend) = admitted.spend_report() {
        spend.answered(proof, outcome, settled.has_other_amounts);
    }
    record.settled(outcome);
    head.fields.add(&headers::OUTCOME, outcome.as_str());
    head.status = refusal::relayed_status(statuses, head.status, outcome);
    record.status(head.status.as_u16());
    Ok(RelayableAnswer::Whole(head, body))
}

/// Hands the ids that GatePay made to the ledger, which the answer does not wait for. Without notifications only refunds need
/// them, which caps count in the currency of their order.
fn note_own_ids(means: &LookUpMeans<'_>, admitted: &Admitted, status: u16, answer: &[u8]) {
    let operation = admitted.operation();
    let (Some(entry), Some(row)) = (admitted.ledger(), LedgerRow::of(operation)) else {
        return;
    };
    let chosen: Vec<&str> = entry
        .intents
        .iter()
        .map(|intent| intent.key.as_str())
        .collect();
    // GatePay's own word comes first: it is what a refund of the order is in.
    let answered = row.answered_currency(operation, status, answer);
    let called = || entry.intents.iter().find_map(|it| it.currency.as_ref());
    let currency = match &answered {
        Some(currency) => Some(currency.as_str()),
        None => called().map(StoredText::as_str),
    };
    let currency = currency.map(str::to_owned);
    if means.ledger.is_none() && currency.is_none() {
        return;
    }
    for key in row.own_ids_beside(operation, &chosen, status, answer) {
        let note = LedgerNote {
            key,
            holder: TenantAccount {
                tenant: admitted.tenant_limits().breaker.id().as_str().to_owned(),
                account: entry.account.clone(),
            },
            at_ms: None,
            operation: operation.name.to_string(),
            currency: currency.clone(),
        };
        match (means.ledger, means.caps) {
            (Some(ledger), _) => ledger.note(note),
            (None, Some(caps)) => caps.reports.note_order(note),
            (None, None) => {}
        }
    }
}

/// Hands the id that the answer to a tenant's own query shows to the ledger, which judges whether it proves anything.
fn note_shown_id(means: &LookUpMeans<'_>, admitted: &Admitted, status: u16, answer: &[u8]) {
    let Some(ledger) = means.ledger.filter(|_| admitted.kind() == Kind::Read) else {
        return;
    };
    let Some(look_up) = OwnerLookUp::named(&admitted.operation().name) else {
        return;
    };
    let registry = &admitted.generation().registry;
    let id = admitted.tenant_limits().breaker.id();
    let party = registry.position(id.as_str()).map(|at| registry.at(at));
    let Some(PartyRef::Tenant(tenant)) = party else {
        return;
    };
    if tenant.shared_sub_account || answer.len() > YIELD_AFTER {
        return;
    }
    if let Some((number, id)) = look_up.shown(status, answer) {
        ledger.note_shown(FoundIds {
            holder: TenantAccount {
                tenant: tenant.party.id.as_str().to_owned(),
                account: tenant.sub_account.as_str().to_owned(),
            },
            operation: look_up.operation.to_owned(),
            chosen: vec![number],
            ids: vec![id],
            currency: None,
        });
    }
}

/// The refusal of a call without an answer.
async fn failed(
    failure: CallFailure,
    admitted: &mut Admitted,
    means: &LookUpMeans<'_>,
    record: &mut RequestRecord,
) -> Refusal {
    match failure {
        CallFailure::NotSent(detail) | CallFailure::NoPlace(detail) => {
            record.detail(detail);
            Refusal::UpstreamUnreachable
        }
        CallFailure::Unavailable(open) => {
            admitted.roll_back();
            Refusal::UpstreamUnavailable(open)
        }
        CallFailure::Stopped(stop) => {
            admitted.roll_back();
            store_verdict::stopped(stop)
        }
        CallFailure::Lost { what, detail } => {
            record.detail(detail);
            lost_call::lost(what, admitted, means, record).await
        }
    }
}

/// Records an answer whose body is not judged.
fn record_unread(head: &ResponseHead, record: &mut RequestRecord) {
    let status = head.status.as_u16();
    record.answered(status, &AnswerJudgement::UNREAD, &Bytes::new());
}

/// Whether the answer rejects the institution's own signature, clock or client id.
fn is_rejection(judgement: &AnswerJudgement) -> bool {
    let rejects = |code: EnvelopeCode| envelope::rejects_institution(code.as_str());
    judgement.verdict != AnswerVerdict::Success && judgement.code.is_some_and(rejects)
}

/// The refusal in place of an answer that rejects the institution. Relayed unchanged, the answer would send the tenant
/// looking for the fault in the tenant's own key.
async fn rejected(
    head: &ResponseHead,
    body: &Bytes,
    judgement: &AnswerJudgement,
    admitted: &Admitted,
    means: &LookUpMeans<'_>,
    record: &mut RequestRecord,
) -> Refusal {
    let clock = means.upstream.clock;
    clock.is_refused();
    let text: Cow<'_, [u8]> = match head.coding {
        ContentCoding::Identity => body[..].into(),
        ContentCoding::Gzip | ContentCoding::Other => {
            let decoded = content_coding::decoded(body, REJECTION);
            decoded.unwrap_or_else(|| b"in gzip".to_vec()).into()
        }
    };
    record.detail(rejection(&text, clock.offset_ms()));
    if judgement.verdict == AnswerVerdict::Failure {
        return Refusal::InstitutionRejected;
    }
    let what = "GatePay's answer contradicts itself";
    lost_call::lost(what, admitted, means, record).await
}

/// The most bytes to which a rejection in gzip is decoded for the log.
const REJECTION: usize = 64 * 1024;

/// The part of a rejection that goes to the log: at most 512 characters, and the clock offset if known.
fn rejection(body: &[u8], offset_ms: Option<i64>) -> String {
    let begins = &body[..body.len().min(2048)];
    let mut detail: String = String::from_utf8_lossy(begins).chars().take(512).collect();
    if let Some(offset) = offset_ms {
        let _ = write!(
            detail,
            " (GatePay's clock is {offset} ms ahead of this one)"
        );
    }
    detail
}
