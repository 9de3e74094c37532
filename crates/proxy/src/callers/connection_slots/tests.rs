use super::*;
use crate::callers::activity::{ActiveRequest, ActivityLimits};
use crate::callers::client_address::TrustedProxies;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::time::advance;

const MINUTE: Duration = Duration::from_mins(1);

fn origin(address: &str) -> ClientAddress {
    TrustedProxies::new(&["10.0.0.0/8".parse().unwrap()]).origin(address.parse().unwrap())
}

fn party(number: usize) -> SlotHolder {
    SlotHolder::Party(number.try_into().unwrap())
}

fn address(address: &str) -> SlotHolder {
    SlotHolder::Address(address.parse().unwrap())
}

fn activity() -> Arc<ConnectionActivity> {
    ConnectionActivity::new(ActivityLimits {
        head: MINUTE,
        answer: MINUTE,
        idle: MINUTE,
    })
}

/// Slots, and the open connections that hold them.
struct Open {
    slots: Arc<ConnectionSlots>,
    connections: Vec<(Arc<ConnectionActivity>, ConnectionSlot)>,
}

impl Open {
    fn new(slots: usize) -> Self {
        Self {
            slots: ConnectionSlots::new(slots),
            connections: Vec::new(),
        }
    }

    /// Opens a connection that finds a slot free.
    async fn from(&mut self, address: &str) -> Arc<ConnectionActivity> {
        let activity = activity();
        let line = self.slots.line(|| {}).await;
        let slot = self
            .slots
            .take(line, origin(address), &activity, |_| {})
            .await;
        self.connections
            .push((Arc::clone(&activity), slot.unwrap()));
        // The order of idle times must not depend on chance.
        advance(Duration::from_millis(1)).await;
        activity
    }

    /// Opens a connection and answers a request of this party on it.
    async fn of(&mut self, party: usize, address: &str) -> Arc<ConnectionActivity> {
        let activity = self.from(address).await;
        activity.request().verified(party.try_into().unwrap());
        advance(Duration::from_millis(1)).await;
        activity
    }

    /// Closes the connections that were asked to leave, as their tasks do.
    fn close(&mut self) {
        self.connections
            .retain(|(activity, _)| activity.leaves().is_none());
    }

    /// Opens one more connection from this address and returns the outcomes. Connections that were asked to leave
    /// do.
    async fn one_more(&mut self, address: &str) -> Vec<SlotOutcome> {
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        let line = self.slots.line(|| {}).await;
        let slots = Arc::clone(&self.slots);
        let (activity, heard) = (activity(), Rc::clone(&outcomes));
        let report = move |outcome| heard.borrow_mut().push(outcome);
        let mut taking = pin!(slots.take(line, origin(address), &activity, report));
        let slot = tokio::select! {
            biased;
            slot = &mut taking => Some(slot),
            () = sleep(PATIENCE / 2) => None,
        };
        self.close();
        let slot = match slot {
            Some(slot) => slot.ok(),
            None => tokio::time::timeout(MINUTE, taking)
                .await
                .map_or(None, Result::ok),
        };
        self.connections
            .extend(slot.map(|slot| (Arc::clone(&activity), slot)));
        outcomes.take()
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_of_the_largest_holder_leaves() {
    let mut open = Open::new(6);
    let single = open.of(1, "192.0.2.1").await;
    let first = open.from("192.0.2.2").await;
    let second = open.from("192.0.2.2").await;
    // Connections of one party from several addresses have one holder.
    let mut of_party = Vec::new();
    for from in ["192.0.2.3", "192.0.2.4", "192.0.2.5"] {
        of_party.push(open.of(2, from).await);
    }
    drop(of_party[0].request());
    assert_eq!(
        open.one_more("192.0.2.9").await,
        [SlotOutcome::Leaves(party(2))]
    );
    assert_eq!(
        of_party[1].leaves(),
        Some(LeaveReason::Full),
        "used before the others"
    );
    // Of equal holders, a connection without a verified request leaves.
    assert_eq!(
        open.one_more("192.0.2.9").await,
        [SlotOutcome::Leaves(address("192.0.2.2"))]
    );
    assert_eq!(
        (first.leaves(), second.leaves()),
        (Some(LeaveReason::Full), None)
    );
    assert_eq!(single.leaves(), None);
}

#[tokio::test(start_paused = true)]
async fn of_ipv6_a_64_is_one_holder() {
    let mut open = Open::new(4);
    for from in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        open.from(from).await;
    }
    let leaves = open.one_more("192.0.2.9").await;
    assert_eq!(leaves, [SlotOutcome::Leaves(address("2001:db8::"))]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_requests_are_all_under_way_is_passed_over_and_all_such_wait() {
    let mut open = Open::new(3);
    let busy: Vec<ActiveRequest> = vec![
        open.of(1, "192.0.2.1").await.request(),
        open.of(1, "192.0.2.1").await.request(),
    ];
    let idle = open.of(2, "192.0.2.2").await;
    assert_eq!(
        open.one_more("192.0.2.3").await,
        [SlotOutcome::Leaves(party(2))]
    );
    assert_eq!(idle.leaves(), Some(LeaveReason::Full));
    let last = open.connections[2].0.request();
    assert_eq!(open.one_more("192.0.2.4").await, [SlotOutcome::NoneIdle]);
    drop((busy, last));
    assert_eq!(
        open.one_more("192.0.2.4").await,
        [SlotOutcome::Leaves(party(1))]
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_with_more_under_way_than_any_could_give_up_is_refused_unless_it_is_trusted() {
    let mut open = Open::new(3);
    let _busy = [
        open.from("10.0.0.1").await.request(),
        open.from("10.0.0.1").await.request(),
    ];
    open.of(1, "192.0.2.1").await;
    assert_eq!(
        open.one_more("10.0.0.1").await,
        [SlotOutcome::Leaves(party(1))]
    );

    let mut open = Open::new(3);
    let _busy = [
        open.from("192.0.2.2").await.request(),
        open.from("192.0.2.2").await.request(),
    ];
    let idle = open.of(1, "192.0.2.1").await;
    assert_eq!(open.one_more("192.0.2.2").await, [SlotOutcome::Refused]);
    assert_eq!(idle.leaves(), None);
    // Other addresses are let in.
    assert_eq!(
        open.one_more("192.0.2.3").await,
        [SlotOutcome::Leaves(party(1))]
    );
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_give_way_the_largest_holders_longest_awaited_first() {
    let mut open = Open::new(6);
    let small = open.of(1, "192.0.2.1").await;
    let mut bodies = Vec::new();
    for _ in 0..5 {
        let activity = open.from("192.0.2.2").await;
        let mut body = activity.request();
        body.receives();
        bodies.push((activity, body));
    }
    assert_eq!(
        open.slots.make_room(None),
        SlotOutcome::Leaves(party(1)),
        "each has its time before it is slow"
    );
    assert_eq!(small.leaves(), Some(LeaveReason::Full));
    advance(Duration::from_secs(1)).await;
    // One body comes fast enough, another is complete and at GatePay.
    bodies[0].0.read(512);
    bodies[1].1.received();
    let left: Vec<_> = (0..3).map(|_| open.slots.make_room(None)).collect();
    assert_eq!(left, [SlotOutcome::Leaves(address("192.0.2.2")); 3]);
    assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
    let leaves: Vec<_> = bodies
        .iter()
        .map(|(activity, _)| activity.leaves())
        .collect();
    let slow = Some(LeaveReason::SlowBody);
    assert_eq!(leaves, [None, None, slow, slow, slow]);
    // The first body goes on as fast, and then stops.
    advance(Duration::from_millis(400)).await;
    bodies[0].0.read(512);
    advance(Duration::from_millis(500)).await;
    assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
    advance(Duration::from_secs(1)).await;
    assert_eq!(
        open.slots.make_room(None),
        SlotOutcome::Leaves(address("192.0.2.2"))
    );
    assert_eq!(bodies[0].0.leaves(), slow);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_beside_a_request_that_is_whole_does_not_give_way() {
    let mut open = Open::new(1);
    let activity = open.from("192.0.2.1").await;
    let (mut slow, whole) = (activity.request(), activity.request());
    slow.receives();
    advance(MINUTE).await;
    assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
    drop(whole);
    advance(AGAIN).await;
    assert_eq!(
        open.slots.make_room(None),
        SlotOutcome::Leaves(address("192.0.2.1"))
    );
    drop(slow);
    assert!(activity.slow_since().is_none() && activity.only_receives());
}

#[tokio::test(start_paused = true)]
async fn one_look_serves_many_new_connections_and_what_changed_since_is_noticed() {
    let mut open = Open::new(100);
    for _ in 0..100 {
        open.from("192.0.2.1").await;
    }
    let mut ranked_at = Vec::new();
    for _ in 0..RANKED {
        open.slots.make_room(None);
        ranked_at.push(open.slots.taken().ranking.as_ref().unwrap().ranked_at);
    }
    ranked_at.dedup();
    assert_eq!(ranked_at.len(), 1);
    let asked = |open: &Open| {
        let leaving = open.connections.iter();
        leaving
            .filter(|(activity, _)| activity.leaves().is_some())
            .count()
    };
    assert_eq!(asked(&open), RANKED);
    advance(AGAIN).await;
    open.slots.make_room(None);
    let left: Vec<_> = open
        .connections
        .iter()
        .map(|(activity, _)| activity)
        .collect();
    let idle = || left.iter().filter(|activity| activity.leaves().is_none());
    // All but one of the other connections are used again after the ranking.
    let busy: Vec<ActiveRequest> = idle().skip(1).map(|activity| activity.request()).collect();
    assert!(matches!(open.slots.make_room(None), SlotOutcome::Leaves(_)));
    assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
    assert_eq!(asked(&open), RANKED + 2);
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_given_back_is_forgotten() {
    let mut open = Open::new(2);
    open.from("192.0.2.1").await;
    open.from("192.0.2.1").await;
    open.connections.clear();
    assert!(open.slots.taken().entries.is_empty());
    assert_eq!(open.slots.free.available_permits(), 2);
    assert_eq!(open.slots.line.available_permits(), LINE);
}
