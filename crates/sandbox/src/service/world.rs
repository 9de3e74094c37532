//! What all connections share: the clock, the catalogue and, behind one lock, everything that requests change.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gatepay_core::operation::Method;
use gatepay_core::{Catalogue, Operation};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;

use crate::api::{balances, fixed_addresses, orders};
use crate::config::Clock;
use crate::ledger::Ledger;
use crate::operations::{Emulated, emulated};
use crate::service::authentication::Gate;
use crate::service::fault::Faults;
use crate::service::received::{Log, Received};
use crate::wire::amount::Amount;
use crate::wire::answer::Answer;
use crate::wire::failure::Failure;
use crate::wire::parameters::{Parameters, Sent};

/// What all connections share.
pub(crate) struct World {
    catalogue: Catalogue,
    clock: Clock,
    pub(crate) answer_delay: Duration,
    state: Mutex<State>,
}

/// What requests change.
pub(crate) struct State {
    pub(crate) gate: Gate,
    pub(crate) ledger: Ledger,
    pub(crate) faults: Faults,
    pub(crate) log: Log,
    /// How many examples were prepared.
    pub(crate) examples: u64,
}

/// The operation that a request calls.
#[derive(Clone, Copy)]
pub(crate) struct Reached<'a> {
    pub(crate) operation: &'a Operation,
    /// As it was called: another than the catalogue's on some alternative paths.
    pub(crate) method: Method,
    emulated: Emulated,
}

impl World {
    pub(crate) fn new(clock: Clock, answer_delay: Duration, state: State) -> Self {
        Self {
            catalogue: Catalogue::standard(),
            clock,
            answer_delay,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic in one test's thread should not become a panic in all others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pays an order in the name of whoever pays: the customer knows no sub-account.
    pub(crate) fn pay(&self, prepay_id: &str) -> Result<(), Failure> {
        let now = self.now();
        let mut state = self.state();
        let ledger = &mut state.ledger;
        let account = ledger
            .orders
            .owner(prepay_id)
            .ok_or(Failure::UnknownOrder)?
            .to_owned();
        let call = ledger.call(&account, now);
        orders::pay(&mut ledger.orders, &mut ledger.balances, call, prepay_id)
    }

    /// Gives an account money from outside.
    pub(crate) fn fund(
        &self,
        account: &str,
        currency: &str,
        amount: Amount,
    ) -> Result<(), Failure> {
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

    /// Sends money to a static address, as somebody on its chain would.
    pub(crate) fn deposit(
        &self,
        address: &str,
        currency: &str,
        amount: Amount,
    ) -> Result<(), Failure> {
        let now = self.now();
        let ledger = &mut self.state().ledger;
        fixed_addresses::deposit(
            &mut ledger.fixed_addresses,
            &mut ledger.balances,
            now,
            address,
            currency,
            amount,
        )
    }

    /// The rows there are.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The operation that a request calls, if there is one at its path.
    pub(crate) fn reach(&self, head: &Parts) -> Option<Reached<'_>> {
        let method = Method::parse(head.method.as_str())?;
        let operation = self.operation(method, head.uri.path())?;
        Some(Reached {
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

impl State {
    /// Carries out what is verified, or gives the answer that says why not.
    pub(crate) fn execute(
        &mut self,
        reached: Reached<'_>,
        head: &Parts,
        now: u64,
        received: &mut Received,
    ) -> Result<Answer, Answer> {
        let accounts = &self.ledger.accounts;
        let account = accounts
            .acting(reached.operation, &head.headers, now)
            .map_err(Answer::failure)?
            .to_owned();
        received.executed = true;
        let content_type = head.headers.get(CONTENT_TYPE);
        let sent = Sent {
            method: reached.method,
            query: head.uri.query(),
            content_type: content_type
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default(),
            body: &received.body,
        };
        let asked = Parameters::read(reached.operation, sent);
        let call = self.ledger.call(&account, now);
        Ok(reached.emulated.perform(&mut self.ledger, call, asked))
    }
}
