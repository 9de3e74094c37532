//! Arrival: what is known of a request when its head has arrived.

use std::sync::Arc;

use gatepay_http1::request_head::RequestHead;

use crate::callers::activity::ActiveRequest;
use crate::callers::address_limits::ConnectionPeer;
use crate::callers::client_address::{ClientAddress, TrustedProxies};
use crate::headers::KnownHeaders;
use crate::record::RequestRecord;
use crate::record::telemetry::Telemetry;

/// A request whose head has one reading.
pub struct Arrival<'h> {
    /// The caller's address.
    pub origin: ClientAddress,
    /// The headers that the proxy reads.
    pub lines: KnownHeaders<'h>,
    /// The record of the request.
    pub record: Box<RequestRecord>,
}

impl<'h> Arrival<'h> {
    /// Begins the record of a request.
    pub fn begin(
        head: &RequestHead<'h>,
        peer: &ConnectionPeer,
        busy: ActiveRequest,
        trusted_proxies: &TrustedProxies,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        let origin = trusted_proxies.caller(peer.origin, head);
        let lines = KnownHeaders::read(head.lines());
        let mut record = RequestRecord::begin(telemetry, origin.address, &lines, busy);
        if head.method == "HEAD" {
            // The answer to HEAD has no body to relay.
            record.relayed();
        }
        Self {
            origin,
            lines,
            record,
        }
    }
}
