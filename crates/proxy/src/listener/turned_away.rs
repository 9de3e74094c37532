//! Turned away: requests that are refused before their journey begins, by their head alone.

use gatepay_http1::request_head::RequestHead;
use gatepay_http1::request_parser::FramingError;

use crate::app::App;
use crate::callers::activity::ActiveRequest;
use crate::callers::address_limits::ConnectionPeer;
use crate::headers::KnownHeaders;
use crate::journey::arrival::Arrival;
use crate::journey::ingress;
use crate::journey::refuse::refuse_unread;
use crate::journey::relay::Reply;
use crate::record::RequestRecord;
use crate::record::refused_head::RefusedHead;
use crate::refusal::Refusal;

/// Answers a request beyond the limit on concurrent requests: only its head is read.
pub fn crowded(
    app: &App,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    head: &RequestHead<'_>,
) -> Reply {
    app.metrics.requests_crowded.inc();
    let trusted_proxies = &app.listener.trusted_proxies;
    let arrival = Arrival::begin(head, peer, busy, trusted_proxies, &app.telemetry);
    let refusal = Refusal::Overloaded(
        "too many requests are being answered; send the same bytes again after Retry-After",
    );
    let head = RefusedHead::of_lines(head.lines());
    refuse_unread(arrival.record, &head, refusal, app.settings.refusal_status)
}

/// Refuses a head that has no single reading.
pub fn unreadable(
    app: &App,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    fault: FramingError,
    head: &RefusedHead<'_>,
) -> Reply {
    let (telemetry, address) = (&app.telemetry, peer.origin.address);
    let record = RequestRecord::begin(telemetry, address, &KnownHeaders::NONE, busy);
    let refusal = ingress::unreadable(fault);
    refuse_unread(record, head, refusal, app.settings.refusal_status)
}
