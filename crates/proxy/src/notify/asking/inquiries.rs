//! Inquiries: the way of look-ups on behalf of one account to a worker, which alone has connections to GatePay.

use std::time::Duration;

use gatepay_core::owner_look_up::{OwnerAnswer, OwnerInquiry};
use gatepay_core::ownership::TenantIncarnation;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::notify::receive::meters::ReceptionMeters;

/// The most inquiries that wait for the worker, which sends one after another.
const WAITING: usize = 8;
/// How long the answer to an inquiry is waited for.
const WITHIN: Duration = Duration::from_secs(5);

/// The way to the worker.
#[derive(Clone)]
pub struct Inquiries {
    requests: mpsc::Sender<AccountInquiry>,
    meters: ReceptionMeters,
}

/// The worker's end.
pub struct InquiryInbox {
    requests: mpsc::Receiver<AccountInquiry>,
}

/// A look-up that a worker is to send.
pub struct AccountInquiry {
    /// The look-up.
    pub inquiry: OwnerInquiry,
    /// The id of the tenant for which it is made.
    pub tenant: String,
    /// The sub-account on whose behalf it is made.
    pub account: String,
    /// The credential that has to sign.
    pub client_id: String,
    answer: oneshot::Sender<OwnerAnswer>,
}

/// A way and its other end.
pub fn inquiries(meters: &ReceptionMeters) -> (Inquiries, InquiryInbox) {
    let (sender, requests) = mpsc::channel(WAITING);
    let inquiries = Inquiries {
        requests: sender,
        meters: meters.clone(),
    };
    (inquiries, InquiryInbox { requests })
}

impl Inquiries {
    /// Asks GatePay on behalf of a tenant. Without an answer in time the answer is unclear.
    pub async fn ask(
        &self,
        inquiry: &OwnerInquiry,
        tenant: &TenantIncarnation,
        client_id: &str,
    ) -> OwnerAnswer {
        let (answer, answered) = oneshot::channel();
        let request = AccountInquiry {
            inquiry: inquiry.clone(),
            tenant: tenant.tenant.clone(),
            account: tenant.account.clone(),
            client_id: client_id.to_owned(),
            answer,
        };
        let asked = async {
            self.requests.send(request).await.ok()?;
            answered.await.ok()
        };
        let answer = timeout(WITHIN, asked).await.ok().flatten();
        let answer = answer.unwrap_or(OwnerAnswer::Unclear);
        self.meters.inquired(answer);
        answer
    }
}

impl InquiryInbox {
    /// The next inquiry whose answer is still waited for.
    pub async fn next(&mut self) -> Option<AccountInquiry> {
        loop {
            let request = self.requests.recv().await?;
            if !request.answer.is_closed() {
                return Some(request);
            }
        }
    }
}

impl AccountInquiry {
    /// Hands the answer back.
    pub fn answer(self, answer: OwnerAnswer) {
        let _gone = self.answer.send(answer);
    }
}
