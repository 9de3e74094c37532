//! A relay between an instance and the store cuts the store's answer, or stands still: nothing is sent.

use super::*;
use crate::support::postgres_relay::{CutPoint, PgRelay};

#[tokio::test]
async fn a_call_whose_verdict_is_cut_at_any_message_is_not_sent() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let relay = PgRelay::start(server.port);
    let folders = [relay.port, server.port].map(|port| folder_at(&gatepay.url(), &[port], ""));
    let [cut, whole] = instances(folders).await;
    for point in [
        CutPoint::AfterDataRow,
        CutPoint::AfterCommandComplete,
        CutPoint::BeforeReadyForQuery,
    ] {
        // The statement is prepared, so that the next answer on the connection is the verdict's.
        admits(&cut).await;
        relay.cut(point);
        let (before, began) = (gatepay.count(), Instant::now());
        let lost = loop {
            let lost = refund();
            let refused = send_once(&cut, &lost).await;
            assert_eq!(refused.refused(), (503, "store_unavailable"), "{point:?}");
            assert_eq!(refused.outcome(), Some("unknown"), "{point:?}");
            // A machine that stalls may refuse a call before the store is asked.
            if relay.has_cut() {
                break lost;
            }
            assert!(began.elapsed() < PATIENCE, "{point:?}: nothing is cut");
        };
        // The stamp may be recorded, and is not used again.
        let copy = send(&whole, &lost).await;
        assert_eq!(
            copy.refusal(),
            Some("replayed"),
            "{point:?}: {}",
            copy.text()
        );
        assert_eq!(gatepay.count(), before, "{point:?}");
    }
}

/// Has the relay of one instance stand still for so long, while another instance goes on.
async fn stands_still(for_so_long: Duration) {
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let relay = PgRelay::start(server.port);
    let [held, free] = instances([
        folder_within(LIMIT, &gatepay.url(), &[relay.port], ""),
        folder_at(&gatepay.url(), &[server.port], ""),
    ])
    .await;
    admits(&held).await;
    relay.hold(true);
    let began = Instant::now();
    // At once: all of them wait for the first answers, and give up by the limit. The relay would hold them for ever.
    let mut first = JoinSet::new();
    for _ in 0..20 {
        let address = held.address;
        first.spawn(async move {
            let mut caller = Connection::open(address).await;
            caller.send(refund()).await
        });
    }
    let first = tokio::time::timeout(PATIENCE, first.join_all()).await;
    for answer in first.expect("they give up") {
        assert_eq!(answer.refused(), (503, "store_unavailable"));
        assert_eq!(answer.outcome(), Some("unknown"));
    }
    // Later ones are refused at once, and those of the other instance go on.
    let (mut refused, mut admitted) = (Vec::new(), Vec::new());
    while began.elapsed() < for_so_long || refused.len() < 9 {
        let asked = Instant::now();
        let answer = send_once(&held, &refund()).await;
        assert_eq!(answer.refused(), (503, "store_unavailable"));
        refused.push(asked.elapsed());
        let asked = Instant::now();
        let read = send(&free, &signed(&acme().post(QUERY, BY_NUMBER))).await;
        assert_eq!(read.refusal(), None, "{}", read.text());
        admitted.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for took in [&mut refused, &mut admitted] {
        assert!(middle(took) < LIMIT / 2, "{took:?}");
    }
    let received = gatepay.received();
    assert!(!received.iter().any(|it| it.target.contains("refund")));
    relay.hold(false);
    held.until_ready().await;
    admits(&held).await;
}

#[tokio::test]
async fn while_the_store_is_silent_only_the_first_calls_wait_and_other_instances_go_on() {
    if !postgres::is_missing() {
        stands_still(Duration::from_secs(2)).await;
    }
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn while_the_store_is_silent_for_ten_seconds_other_instances_go_on() {
    if !postgres::is_missing() {
        stands_still(Duration::from_secs(10)).await;
    }
}
