//! Target: what the delivery loop needs to know of an endpoint.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use gatepay_store::notifications::delivery::{DueEvent, EndpointKey, UrlPrint};
use tokio::time::Instant;

use crate::notify::deliver::attempt::AttemptResult;

/// An attempt under way.
pub type AttemptFuture<'a> = Pin<Box<dyn Future<Output = AttemptResult> + 'a>>;

/// An endpoint as the configuration in force has it.
pub trait DeliveryTarget {
    /// The print of its URL.
    fn url_print(&self) -> UrlPrint;
    /// The most attempts at the same time.
    fn at_once(&self) -> usize;
    /// Sends one event and judges the answer, by `deadline`.
    fn attempt<'a>(&'a self, event: &'a DueEvent, deadline: Instant) -> AttemptFuture<'a>;
}

/// The endpoints of all tenants, by the configuration in force.
pub trait TargetDirectory {
    /// The endpoint, or why nothing is sent to it now.
    fn target(&self, endpoint: &EndpointKey) -> Result<Rc<dyn DeliveryTarget>, DeliveryHold>;
    /// The tenants that have metric series of their own and an endpoint.
    fn own_series(&self) -> BTreeSet<String>;
    /// Closes connections that are idle for too long. Called every few hundred milliseconds.
    fn tidy(&self);
}

/// Why nothing is sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryHold {
    /// The tenant has no such endpoint: it pulls, or its URL has changed, or it was removed.
    NoEndpoint,
    /// The tenant is suspended.
    Suspended,
    /// No credential of the tenant is in force.
    NoCredential,
}
