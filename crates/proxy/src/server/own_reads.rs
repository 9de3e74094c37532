//! Own reads: the reads that the proxy itself sends to GatePay, as a probe, to try a credential, or to learn the owner of a
//! notification.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::quota::OwnCallPurpose;
use gatepay_core::owner_look_up::OwnerAnswer;
use gatepay_core::{Credential, Kind};
use tokio::time::{Instant, sleep};

use crate::cluster::halt_check::{HaltCheck, HaltableCall, StopBeforeSending};
use crate::journey::sign::Outbound;
use crate::notify::asking::inquiries::AccountInquiry;
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connection::MakeAttempt;
use crate::upstream::credential_rotation::ActiveCredential;
use crate::upstream::exchange::{AnswerBody, UpstreamAnswer};
use crate::upstream::forward::{self, CallOwner};
use crate::upstream::probe;
use crate::worker::Worker;

/// Sends the proxy's own probe reads to GatePay, for as long as this future is polled.
pub async fn probe(worker: &Worker) {
    let app = &worker.app;
    let ask = || {
        let generation = app.generation.load();
        let row = generation.catalogue.probe()?;
        let outbound = Outbound::probe(row, &app.upstream.host).ok()?;
        let signing = &app.upstream.credential_rotation;
        let signing = signing.signing(&generation.institution)?;
        Some(move |head: &mut Vec<u8>| {
            outbound.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
        })
    };
    probe::watch(worker.upstream_call(CallOwner::Proxy), ask).await;
}

/// Switches signing to another credential of the institution when its time has come and GatePay accepts that
/// credential, for as long as this future is polled.
pub async fn rotate(worker: &Worker) {
    let app = &worker.app;
    let institution = || Arc::clone(&app.generation.load().institution);
    let proves = |signing: Arc<ActiveCredential>| async move {
        let generation = app.generation.load_full();
        let row = generation.catalogue.probe();
        let read = row.and_then(|row| Outbound::probe(row, &app.upstream.host).ok());
        let read = read.ok_or("there is no read to try it with: list_accounts is off")?;
        let attempt = |head: &mut Vec<u8>| {
            read.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
        };
        probe::prove(worker.upstream_call(CallOwner::Proxy), attempt).await
    };
    let rotation = &app.upstream.credential_rotation;
    rotation.watch(institution, proves).await;
}

/// Sends the inquiries about owners of notifications to GatePay, one after another, for as long as this future is polled.
pub async fn inquire(worker: &Worker) {
    let notifications = worker.app.notifications.as_ref();
    let Some(mut inbox) = notifications.and_then(|it| it.inquiry_inbox()) else {
        return;
    };
    while let Some(inquiry) = inbox.next().await {
        let answer = answer(worker, &inquiry).await;
        inquiry.answer(answer.unwrap_or(OwnerAnswer::Unclear));
        sleep(INQUIRY_PAUSE).await;
    }
}

/// GatePay's answer to an inquiry; `None` if it is not asked. Only a read can be sent, on behalf of a configured tenant.
async fn answer(worker: &Worker, asked: &AccountInquiry) -> Option<OwnerAnswer> {
    let app = &worker.app;
    let generation = app.generation.load_full();
    let tenants = generation.registry.tenants();
    let of_tenant = tenants.iter().position(|tenant| {
        tenant.party.id.as_str() == asked.tenant && tenant.sub_account.as_str() == asked.account
    })?;
    let signing = &app.upstream.credential_rotation;
    let signing = signing.signing(&generation.institution)?;
    if signing.credential().client_id.as_str() != asked.client_id {
        return None;
    }
    let row = asked.inquiry.look_up.row(&generation.catalogue)?;
    let content = asked.inquiry.content(row);
    let host = &app.upstream.host;
    let outbound = Outbound::inquiry(row, content, &asked.account, host).ok()?;
    let read = HaltableCall {
        kind: row.kind,
        module: row.module,
        party: &tenants[of_tenant].party.id,
    };
    let seats = generation.tenant_limits(of_tenant).seats();
    let attempts = InquiryAttempts {
        outbound: &outbound,
        credential: signing.credential(),
        clock: &app.upstream.clock,
        halts: app.cluster.as_ref()?.halt_check(read, seats, None),
    };
    // The tenant has not asked: it pays with no limit, and its breaker stays as it is.
    let call = worker.upstream_call(CallOwner::Inquiry);
    if call.quota.take_for(OwnCallPurpose::Owner).is_err() {
        return None;
    }
    let now = Instant::now();
    match forward::send(&call, Kind::Read, now, INQUIRY_TIMEOUT, attempts).await {
        Ok(UpstreamAnswer {
            head,
            body: AnswerBody::Whole(body, _),
        }) => Some(asked.inquiry.observe(head.status.as_u16(), &body)),
        Ok(_) | Err(_) => None,
    }
}

/// The attempts of an inquiry. A halt of all calls, or a suspension of the tenant, holds for each of them.
struct InquiryAttempts<'a> {
    outbound: &'a Outbound,
    credential: &'a Credential,
    clock: &'a UpstreamClock,
    halts: HaltCheck<'a>,
}

impl MakeAttempt for InquiryAttempts<'_> {
    fn make(&mut self, head: &mut Vec<u8>) -> impl Future<Output = Bytes> + Send {
        let attempt = self
            .outbound
            .attempt(self.credential, &self.clock.stamp(), head);
        std::future::ready(attempt)
    }

    fn begin<T>(&self, send: impl FnOnce() -> T) -> Result<T, StopBeforeSending> {
        self.halts.pass(send)
    }
}

/// The pause after each inquiry: one instance sends no more than twenty a second.
const INQUIRY_PAUSE: Duration = Duration::from_millis(50);
/// Timeout of one inquiry with its repetitions.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(2);
