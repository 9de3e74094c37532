//! The state that all connections share: the clock, the catalogue and, behind one lock, the mutable state.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::operation::Method;
use gatepay_core::{Catalogue, Operation};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use parking_lot::{Mutex, MutexGuard};

use crate::api::{balances, fixed_addresses, orders, subscriptions};
use crate::config::Clock;
use crate::ledger::Ledger;
use crate::notify::callback::CallbackUrl;
use crate::notify::sender::NotificationSender;
use crate::operations::{EmulatedOperation, emulated};
use crate::service::authentication::SignatureGate;
use crate::service::fault::FaultQueue;
use crate::service::received::{ReceivedLog, ReceivedRequest};
use crate::wire::amount::Amount;
use crate::wire::answer::SandboxAnswer;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::{RequestParameters, SentRequest};

/// The state that all connections share.
pub(crate) struct SandboxWorld {
    catalogue: Catalogue,
    clock: Clock,
    pub(crate) answer_delay: Duration,
    state: Mutex<SandboxState>,
    /// Sends notifications; `None` if the sandbox sends none. Its lock is taken after the state's.
    pub(crate) sender: Option<Arc<NotificationSender>>,
}

/// The state that requests change.
pub(crate) struct SandboxState {
    pub(crate) gate: SignatureGate,
    pub(crate) ledger: Ledger,
    pub(crate) faults: FaultQueue,
    pub(crate) log: ReceivedLog,
    /// The number of examples prepared.
    pub(crate) examples: u64,
}

/// The operation that a request calls.
#[derive(Clone, Copy)]
pub(crate) struct ReachedOperation<'a> {
    pub(crate) operation: &'a Operation,
    /// The method of the call: another than the catalogue's on some alternative paths.
    pub(crate) method: Method,
    emulated: EmulatedOperation,
}

impl SandboxWorld {
    pub(crate) fn new(
        clock: Clock,
        answer_delay: Duration,
        state: SandboxState,
        sender: Option<Arc<NotificationSender>>,
    ) -> Self {
        Self {
            catalogue: Catalogue::standard(),
            clock,
            answer_delay,
            state: Mutex::new(state),
            sender,
        }
    }

    /// Makes notifications of the news in the ledger. The caller still holds the state's lock, so that notifications
    /// come in the order of the business.
    pub(crate) fn announce(&self, state: &mut SandboxState) {
        let news = state.ledger.news.take();
        if let Some(sender) = self.sender.as_ref().filter(|_| !news.is_empty()) {
            sender.announce(&news);
        }
    }

    /// Sends a body to this URL or the institution's.
    pub(crate) fn notify(&self, url: Option<&str>, body: Bytes) -> Result<u64, ApiFailure> {
        let sender = self.sender.as_ref().ok_or(ApiFailure::NotificationUrl)?;
        if url.is_some_and(|url| CallbackUrl::parse(url).is_err()) {
            return Err(ApiFailure::NotificationUrl);
        }
        Ok(sender.send(url, body))
    }

    /// Sends the body of an earlier notification again.
    pub(crate) fn notify_again(&self, id: u64) -> Result<u64, ApiFailure> {
        let sender = self.sender.as_ref().ok_or(ApiFailure::NotificationUrl)?;
        sender.send_again(id).ok_or(ApiFailure::NotFound("id"))
    }

    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, SandboxState> {
        // A panic in one test's thread should not become a panic in all others.
        self.state.lock()
    }

    /// Pays an order as its customer would. Without a sub-account the order's own is looked up: the customer does not
    /// know it.
    pub(crate) fn pay(&self, sub_account: Option<&str>, prepay_id: &str) -> Result<(), ApiFailure> {
        self.happen(|ledger, now| {
            let account = sub_account.or_else(|| ledger.orders.owner(prepay_id));
            let account = account.ok_or(ApiFailure::UnknownOrder)?.to_owned();
            let call = ledger.call(&account, now);
            orders::pay(
                &mut ledger.orders,
                &mut ledger.balances,
                &mut ledger.news,
                call,
                prepay_id,
            )
        })
    }

    /// Pays a subscription on its chain.
    pub(crate) fn collect(
        &self,
        subscription_id: &str,
        currency: &str,
        amount: Amount,
    ) -> Result<(), ApiFailure> {
        self.happen(|ledger, now| {
            subscriptions::collect(
                &mut ledger.subscriptions,
                &mut ledger.balances,
                &mut ledger.news,
                now,
                subscription_id,
                currency,
                amount,
            )
        })
    }

    /// Gives an account money from outside.
    pub(crate) fn fund(
        &self,
        account: &str,
        currency: &str,
        amount: Amount,
    ) -> Result<(), ApiFailure> {
        let now = self.now();
        let ledger = &mut self.state().ledger;
        let call = ledger.call(account, now);
        balances::fund(
            &ledger.accounts,
            &mut ledger.balances,
            call,
            currency,
            amount,
        )
    }

    /// Sends money to a static address, as a payer on its chain would.
    pub(crate) fn deposit(
        &self,
        address: &str,
        currency: &str,
        amount: Amount,
    ) -> Result<(), ApiFailure> {
        self.happen(|ledger, now| {
            fixed_addresses::deposit(
                &mut ledger.fixed_addresses,
                &mut ledger.balances,
                &mut ledger.news,
                now,
                address,
                currency,
                amount,
            )
        })
    }

    /// An event outside of the API: it changes the ledger, and its news is announced.
    fn happen(
        &self,
        change: impl FnOnce(&mut Ledger, u64) -> Result<(), ApiFailure>,
    ) -> Result<(), ApiFailure> {
        let now = self.now();
        let mut state = self.state();
        change(&mut state.ledger, now)?;
        self.announce(&mut state);
        Ok(())
    }

    /// The rows there are.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The operation that a request calls, if there is one at its path.
    pub(crate) fn reach(&self, head: &Parts) -> Option<ReachedOperation<'_>> {
        let method = Method::parse(head.method.as_str())?;
        let operation = self.operation(method, head.uri.path())?;
        Some(ReachedOperation {
            operation,
            method,
            emulated: emulated(&operation.name, method)?,
        })
    }

    /// By the path of the catalogue, or by one that other sources print (protocol.md 7).
    fn operation(&self, method: Method, path: &str) -> Option<&Operation> {
        let rows = self.catalogue.rows();
        match self.catalogue.institution(method, path) {
            Some(position) => Some(&rows[position]),
            None => rows
                .iter()
                .find(|row| row.alternatives.contains(&(method, path))),
        }
    }
}

impl SandboxState {
    /// Executes a verified request, or returns the answer for a failure.
    pub(crate) fn execute(
        &mut self,
        reached: ReachedOperation<'_>,
        head: &Parts,
        now: u64,
        received: &mut ReceivedRequest,
    ) -> Result<SandboxAnswer, SandboxAnswer> {
        let accounts = &self.ledger.accounts;
        let account = accounts
            .acting(reached.operation, &head.headers, now)
            .map_err(SandboxAnswer::failure)?
            .to_owned();
        received.executed = true;
        let content_type = head.headers.get(CONTENT_TYPE);
        let sent = SentRequest {
            method: reached.method,
            query: head.uri.query(),
            content_type: content_type
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default(),
            body: &received.body,
        };
        let asked = RequestParameters::read(reached.operation, sent);
        let call = self.ledger.call(&account, now);
        Ok(reached.emulated.perform(&mut self.ledger, call, asked))
    }
}
