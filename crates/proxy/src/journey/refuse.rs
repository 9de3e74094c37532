//! Refuse: makes a refusal the caller's reply, with the facts about the call that it states.

use gatepay_core::Kind;
use gatepay_tenancy::settings::RefusalStatus;

use crate::journey::lost_call::advice;
use crate::journey::relay::{self, Reply};
use crate::record::RequestRecord;
use crate::record::refused_head::RefusedHead;
use crate::refusal::{DuplicateDoubt, Refusal, RefusedCall};

/// The reply that refuses a request.
pub fn refuse(mut record: Box<RequestRecord>, refusal: Refusal, statuses: RefusalStatus) -> Reply {
    if let Some(detail) = refusal.detail() {
        record.detail(detail.to_owned());
    }
    let call = refused_call(&mut record);
    record.refused(&refusal);
    let (status, fields, body) = refusal.into_answer(statuses, &call);
    record.status(status.as_u16());
    relay::refusal(status, fields, body, record)
}

/// The reply that refuses a request of which only the head was read. It closes the connection.
pub fn refuse_unread(
    mut record: Box<RequestRecord>,
    head: &RefusedHead<'_>,
    refusal: Refusal,
    statuses: RefusalStatus,
) -> Reply {
    record.is_refused_unidentified(head);
    let mut reply = refuse(record, refusal, statuses);
    reply.close();
    reply
}

/// The facts about a refused call that its answer states.
fn refused_call(record: &mut RequestRecord) -> RefusedCall {
    record.is_in_doubt();
    let doubt = record.doubt().map(|why| DuplicateDoubt {
        why,
        advice: match record.known_operation() {
            Some((generation, position, by_operator)) => {
                let operation = &generation.catalogue.rows()[position];
                match operation.kind {
                    Kind::Read => READ_ELSEWHERE.into(),
                    Kind::Write | Kind::Money => {
                        advice(generation, operation, record.known_key(), by_operator)
                    }
                }
            }
            None => ELSEWHERE.into(),
        },
    });
    let operation = record.known_operation();
    let operation =
        operation.map(|(generation, position, _)| &generation.catalogue.rows()[position]);
    RefusedCall {
        kind: record.kind(),
        answer: operation.map(|operation| operation.answer),
        has_key: record.known_key().is_some(),
        doubt,
        request_id: record.id(),
    }
}

/// The advice if the path belongs to no operation: the signature does not cover the path.
const ELSEWHERE: &str =
    "look up the call that was first sent with this timestamp and nonce, before anything else";

/// The advice if the path belongs to a read.
const READ_ELSEWHERE: &str = "a read may be repeated, signed anew; if this timestamp and nonce were first sent with another \
    call, look that one up";
