//! Worker: one thread that carries requests, with its own connections to GatePay.

use std::sync::Arc;

use crate::app::App;
use crate::process::drain::EntryGate;
use crate::upstream::forward::{CallOwner, UpstreamCall};
use crate::upstream::pool::Pool;
use crate::upstream::retry::RetryBudget;

/// One worker thread that carries requests, with its connections to GatePay.
pub struct Worker {
    /// The state that all workers share.
    pub app: Arc<App>,
    /// This worker's pool of upstream connections.
    pub pool: Arc<Pool>,
    /// This worker's retry budget.
    pub budget: RetryBudget,
    /// The gate through which callers' connections enter this worker.
    pub entry_gate: Arc<EntryGate>,
}

impl Worker {
    /// What a call to GatePay by this worker uses.
    pub fn upstream_call<'a>(&'a self, owner: CallOwner<'a>) -> UpstreamCall<'a> {
        UpstreamCall {
            pool: &self.pool,
            budget: &self.budget,
            quota: &self.app.admission.quota,
            breaker: &self.app.upstream.breaker,
            clock: &self.app.upstream.clock,
            offload: &self.app.admission.offload,
            owner,
            gzip: false,
        }
    }
}
