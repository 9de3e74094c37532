//! Owners that GatePay was asked for: what was learned goes once accounts turn out to share objects, events that wait for
//! answers keep no others waiting, and what a notification proves counts only once it has its owner.

use std::time::Duration;

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::owner_look_up::IsolationVerdict::{self, Apart, Inconclusive, Shared};
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use gatepay_core::settlement::{ObjectOutcome, OutcomeProof};
use gatepay_store::engine::Store;
use gatepay_store::notifications::delivery::{
    AttemptEffect, AttemptRecord, EndpointBreaker, EndpointKey,
};
use gatepay_store::notifications::event::{
    EventId, EventPlacement, EventState, NewEvent, PlacementBasis, QuarantineDecision,
    QuarantineQueue, ReceiveResult,
};
use gatepay_store::notifications::isolation::{IsolationFinding, IsolationSubject};
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_store::notifications::settlement::{ObjectNews, OpenCall};
use gatepay_store::settings::{SqliteSettings, StoreTerms};
use gatepay_store::sqlite::SqliteStore;

use crate::notified::{acme, event, opened};
use crate::postgres::{self, PgServer};

/// A store of each engine, with its server or folder.
pub(crate) async fn stores() -> Vec<(Store, Option<PgServer>, tempfile::TempDir)> {
    let mut stores = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let settings = SqliteSettings {
        path: folder.path().join("gatepay.db"),
        contact_file: folder.path().join("store.contact"),
    };
    let store = SqliteStore::open(&settings, StoreTerms::default()).unwrap();
    store.migrate().await.unwrap();
    stores.push((Store::Sqlite(store), None, folder));
    if !postgres::is_missing() {
        let server = PgServer::migrated().await;
        let folder = tempfile::tempdir().unwrap();
        stores.push((opened(&server), Some(server), folder));
    }
    stores
}

fn key(text: &str) -> LedgerKey {
    LedgerKey::new(LedgerKeyKind::PrepayId, text).unwrap()
}

fn holder() -> TenantAccount {
    TenantAccount {
        tenant: "acme".to_owned(),
        account: "1".to_owned(),
    }
}

async fn note(store: &Store, id: &str, operation: &str, source: LedgerSource) {
    let note = LedgerNote {
        key: key(id),
        holder: holder(),
        at_ms: None,
        operation: operation.to_owned(),
        currency: None,
    };
    store.note_owners(&[note], source).await.unwrap();
}

/// The sources of the rows about an id.
async fn known(store: &Store, id: &str) -> Vec<String> {
    let holders = store.owners(&[key(id)]).await.unwrap().remove(0);
    holders.into_iter().map(|holder| holder.source).collect()
}

async fn finds(store: &Store, verdict: IsolationVerdict, since_ms: u64) {
    let finding = IsolationFinding {
        operation: "query_order".to_owned(),
        verdict,
        accounts: 2,
    };
    let (subject, findings) = (subject(), [finding]);
    let noted = store.note_isolation(&subject, &findings, since_ms);
    noted.await.unwrap();
}

async fn verdict(store: &Store) -> IsolationVerdict {
    store.isolation(&subject()).await.unwrap().findings[0]
        .finding
        .verdict
}

fn subject() -> IsolationSubject {
    IsolationSubject {
        upstream: "gatepay.example".to_owned(),
        client_id: "institution".to_owned(),
    }
}

#[tokio::test]
async fn a_probe_does_not_undo_that_accounts_were_seen_to_share_objects_since_it_began() {
    for (store, _server, _folder) in stores().await {
        let began = store.isolation(&subject()).await.unwrap().now_ms;
        finds(&store, Apart, began).await;
        finds(&store, Shared, began).await;
        for verdict_of_probe in [Apart, Inconclusive] {
            finds(&store, verdict_of_probe, began).await;
            assert_eq!(verdict(&store).await, Shared, "{verdict_of_probe:?}");
        }
        // A probe that began later is the newer word.
        finds(&store, Apart, u64::MAX >> 1).await;
        assert_eq!(verdict(&store).await, Apart);
    }
}

#[tokio::test]
async fn what_was_learned_by_asking_goes_once_accounts_are_seen_to_share_objects() {
    for (store, _server, _folder) in stores().await {
        acme(&store, "1").await;
        note(&store, "learned", "query_order", LedgerSource::Asked).await;
        note(&store, "confirmed", "query_order", LedgerSource::Asked).await;
        note(&store, "confirmed", "create_order", LedgerSource::Answer).await;
        note(&store, "told", "create_order", LedgerSource::Answer).await;
        note(&store, "told", "query_order", LedgerSource::Asked).await;
        // The tenant's own look-up of its number, which rests on the number being the tenant's alone.
        note(&store, "found", "create_order", LedgerSource::Asked).await;
        note(
            &store,
            "of_another",
            "otc_order_detail",
            LedgerSource::Asked,
        )
        .await;
        finds(&store, Shared, 0).await;
        for (id, expected) in [
            ("learned", None),
            ("confirmed", Some("answer")),
            ("told", Some("answer")),
            ("found", Some("asked")),
            ("of_another", Some("asked")),
        ] {
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(known(&store, id).await, expected, "{id}");
        }
        // An answer that was under way comes too late.
        note(&store, "late", "query_order", LedgerSource::Asked).await;
        assert!(known(&store, "late").await.is_empty());
        finds(&store, Apart, u64::MAX >> 1).await;
        note(&store, "late", "query_order", LedgerSource::Asked).await;
        assert_eq!(known(&store, "late").await, ["asked"]);
    }
}

/// An event in quarantine that names an id, due since this moment.
async fn quarantined(store: &Store, tenant: &TenantIncarnation, id: &str) -> EventId {
    let held = NewEvent {
        hints: vec![key(id)],
        placement: EventPlacement::Quarantine(QuarantineReason::Unproved),
        ..event(tenant, id)
    };
    let received = store.receive(&[held]).await.unwrap();
    let ReceiveResult::New(arrival) = &received[0] else {
        panic!("{received:?}");
    };
    note(store, id, "create_order", LedgerSource::Answer).await;
    arrival.id
}

async fn take(store: &Store, queue: QuarantineQueue) -> Vec<(EventId, u32)> {
    let taken = store.take_quarantined(queue, 8).await.unwrap();
    taken.iter().map(|it| (it.id, it.decisions)).collect()
}

#[tokio::test]
async fn an_event_that_waits_for_gatepays_answer_is_decided_at_once_when_the_ledger_learns_a_key() {
    use QuarantineQueue::{Asked, Known};
    for (store, _server, _folder) in stores().await {
        let tenant = acme(&store, "1").await;
        let id = quarantined(&store, &tenant, "77").await;
        assert_eq!(take(&store, Known).await, [(id, 1)]);
        let ask = QuarantineDecision::Ask(QuarantineReason::Unproved);
        store.settle_quarantine(id, &ask, None).await.unwrap();
        assert!(take(&store, Known).await.is_empty());
        assert_eq!(take(&store, Asked).await, [(id, 1)], "counted once");
        // The answer comes back while GatePay is still asked: it is decided in the other queue, and the question is void.
        note(&store, "77", "create_order", LedgerSource::Answer).await;
        assert_eq!(take(&store, Known).await, [(id, 1)], "none is made yet");
        note(&store, "77", "create_order", LedgerSource::Answer).await;
        let late = QuarantineDecision::Again(QuarantineReason::Unproved, Duration::from_hours(6));
        store.settle_quarantine(id, &late, None).await.unwrap();
        assert_eq!(take(&store, Known).await, [(id, 2)], "it stays due");
    }
}

#[tokio::test]
async fn a_decision_about_an_event_in_quarantine_counts_once_it_is_made() {
    use QuarantineQueue::{Asked, Known};
    for (store, _server, _folder) in stores().await {
        let tenant = acme(&store, "1").await;
        let id = quarantined(&store, &tenant, "77").await;
        let due = async || note(&store, "77", "create_order", LedgerSource::Answer).await;
        // Instances take it and end before they have decided.
        for _ in 0..5 {
            assert_eq!(take(&store, Known).await, [(id, 1)]);
            due().await;
        }
        let reason = QuarantineReason::Unproved;
        let again = QuarantineDecision::Again(reason, Duration::from_secs(30));
        take(&store, Known).await;
        store.settle_quarantine(id, &again, None).await.unwrap();
        due().await;
        assert_eq!(take(&store, Known).await, [(id, 2)]);
        // With GatePay's answer one decision is made by both queues.
        let ask = QuarantineDecision::Ask(reason);
        store.settle_quarantine(id, &ask, None).await.unwrap();
        assert_eq!(take(&store, Asked).await, [(id, 2)]);
        store.settle_quarantine(id, &again, None).await.unwrap();
        due().await;
        assert_eq!(take(&store, Known).await, [(id, 3)]);
    }
}

#[tokio::test]
async fn an_assignment_to_a_former_incarnation_leaves_an_event_as_it_is() {
    for (store, _server, _folder) in stores().await {
        let former = acme(&store, "1").await;
        let held = quarantined(&store, &former, "77").await;
        let news = NewEvent {
            placement: EventPlacement::Operators,
            ..event(&former, "78")
        };
        let received = store.receive(&[news]).await.unwrap();
        let ReceiveResult::New(about_institution) = &received[0] else {
            panic!("{received:?}");
        };
        acme(&store, "2").await;
        for (id, state) in [
            (held, EventState::Quarantined),
            (about_institution.id, EventState::Operator),
        ] {
            let assigned = store.assign(id, (&former, None), "olga", None).await;
            let arrival = assigned.unwrap().unwrap().arrival;
            assert_eq!((arrival.state, arrival.is_owned()), (state, false));
        }
        // It is still due, for its own reason.
        let taken = store.take_quarantined(QuarantineQueue::Known, 8).await;
        let taken = taken.unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(
            (taken[0].id, taken[0].reason),
            (held, QuarantineReason::Unproved)
        );
    }
}

#[tokio::test]
async fn what_waits_for_a_former_incarnation_is_given_to_the_newest_one_with_the_same_sub_account_only()
 {
    for (store, _server, _folder) in stores().await {
        let first = acme(&store, "1").await;
        let events = [event(&first, "77"), event(&first, "78")];
        let received = store.receive(&events).await.unwrap();
        let ids: Vec<EventId> = received.iter().map(new_id).collect();
        let assign = async |id, to: &TenantIncarnation| {
            let assigned = store.assign(id, (to, None), "olga", None).await.unwrap();
            assigned.map(|it| it.arrival.state)
        };
        assert_eq!(assign(ids[0], &first).await, None, "it has it already");
        dies(&store, ids[1]).await;
        let second = acme(&store, "2").await;
        let globex = TenantAccount {
            tenant: "globex".to_owned(),
            account: "1".to_owned(),
        };
        let globex = store.register_tenants(&[globex]).await.unwrap().remove(0);
        for other in [&first, &second, &globex] {
            for id in &ids {
                assert_eq!(assign(*id, other).await, None, "{other:?}");
            }
        }
        let third = acme(&store, "1").await;
        for other in [&first, &second, &globex] {
            assert_eq!(assign(ids[0], other).await, None, "{other:?}");
        }
        for id in &ids {
            assert_eq!(assign(*id, &third).await, Some(EventState::Waiting));
            assert_eq!(assign(*id, &third).await, None, "it has it now");
        }
        let page = store.tenant_events(&third, None, 0, 10).await.unwrap();
        let its: Vec<EventId> = page.events.iter().map(|(event, _)| event.id).collect();
        assert_eq!(its, ids);
        let former = store.tenant_events(&first, None, 0, 10).await.unwrap();
        assert!(former.events.is_empty());
        let claims = store.claim_endpoints(1, 10).await.unwrap();
        assert_eq!(claims.len(), 1, "{claims:?}");
        assert_eq!(claims[0].endpoint.tenant, third);
        let due = store.due_events(&claims, 10).await.unwrap();
        assert_eq!(due[0].len(), 2);
        let counts = store.notification_counts().await.unwrap();
        let waiting = |tenant: &TenantIncarnation| {
            let mut endpoints = counts.endpoints.iter();
            let endpoint = endpoints.find(|it| it.endpoint.tenant == *tenant);
            endpoint.map_or((0, 0), |it| (it.waiting, it.dead))
        };
        assert_eq!([waiting(&first), waiting(&third)], [(0, 0), (2, 0)]);
    }
}

fn new_id(result: &ReceiveResult) -> EventId {
    let ReceiveResult::New(arrival) = result else {
        panic!("{result:?}");
    };
    arrival.id
}

/// The last attempt to deliver an event fails.
async fn dies(store: &Store, id: EventId) {
    let claims = store.claim_endpoints(1, 10).await.unwrap();
    let record = AttemptRecord {
        event: id,
        claim: (claims[0].number, claims[0].turn),
        instance: 1,
        took: Duration::ZERO,
        status: Some(500),
        outcome: "refused".to_owned(),
        said: Vec::new(),
        effect: AttemptEffect::Dead,
        breaker: EndpointBreaker::default(),
    };
    store.record_attempts(&[record]).await.unwrap();
    store.release_endpoints(&claims).await.unwrap();
    let event = store.event(id).await.unwrap().unwrap();
    assert_eq!(event.summary.state, EventState::Dead);
}

/// The open calls about an id that the event's decision settles.
async fn settles(store: &Store, id: EventId, about: &str, tenant: &TenantIncarnation) -> usize {
    let call = OpenCall {
        call: format!("call {about}"),
        holder: holder(),
        operation: "create_order".to_owned(),
        keys: vec![key(about)],
        closes: false,
    };
    store.note_open_calls(&[call]).await.unwrap();
    let decision = QuarantineDecision::Placed(EventPlacement::Tenant {
        tenant: tenant.clone(),
        url: None,
        by: PlacementBasis::Asked,
    });
    let proved = ObjectNews {
        event: id,
        holder: holder(),
        proof: OutcomeProof {
            keys: vec![key(about)],
            outcome: ObjectOutcome::Done,
            status: "PAY_SUCCESS".to_owned(),
            refund: None,
        },
    };
    let settled = store.settle_quarantine(id, &decision, Some(&proved)).await;
    settled
        .unwrap()
        .map_or(0, |settled| settled.report.calls.len())
}

#[tokio::test]
async fn a_notification_settles_calls_only_if_the_decision_about_its_owner_stood() {
    for (store, _server, _folder) in stores().await {
        let tenant = acme(&store, "1").await;
        let id = quarantined(&store, &tenant, "77").await;
        assert_eq!(settles(&store, id, "77", &tenant).await, 1);
        // Another instance has placed it.
        assert_eq!(settles(&store, id, "77", &tenant).await, 0);
        // The tenant has another account by now: it stays in quarantine.
        let id = quarantined(&store, &tenant, "78").await;
        acme(&store, "2").await;
        assert_eq!(settles(&store, id, "78", &tenant).await, 0);
        let proved = &store.owners(&[key("78")]).await.unwrap()[0];
        assert!(proved.iter().all(|row| row.proved.is_none()), "{proved:?}");
    }
}

#[tokio::test]
async fn news_that_waits_for_a_former_operator_goes_to_the_one_that_gets_notifications_now() {
    for (store, _server, _folder) in stores().await {
        let account = |tenant: &str| TenantAccount {
            tenant: tenant.to_owned(),
            account: "the institution".to_owned(),
        };
        let asked = [account("olga"), account("otto")];
        let operators = store.register_tenants(&asked).await.unwrap();
        let tenant = acme(&store, "1").await;
        let of = |owner: &TenantIncarnation, object: &str| event(owner, object);
        let events = [
            of(&operators[0], "1"),
            of(&operators[0], "2"),
            of(&tenant, "3"),
        ];
        store.receive(&events).await.unwrap();
        assert_eq!(store.hand_over_news(&operators[1], 1).await.unwrap(), 1);
        assert_eq!(store.hand_over_news(&operators[1], 8).await.unwrap(), 1);
        assert_eq!(store.hand_over_news(&operators[1], 8).await.unwrap(), 0);
        let mut waiting = Vec::new();
        for owner in [&operators[0], &operators[1], &tenant] {
            let page = store.tenant_events(owner, Some(EventState::Waiting), 0, 8);
            waiting.push(page.await.unwrap().events.len());
        }
        assert_eq!(waiting, [0, 2, 1]);
        let endpoint = EndpointKey {
            tenant: operators[1].clone(),
            url: None,
        };
        let counts = store.notification_counts().await.unwrap();
        let mut states = counts.endpoints.iter();
        let state = states.find(|it| it.endpoint == endpoint).unwrap();
        assert_eq!(state.waiting, 2);
        let claims = store.claim_endpoints(1, 8).await.unwrap();
        let claimed = claims.iter().filter(|it| it.endpoint == endpoint);
        let claimed: Vec<_> = claimed.cloned().collect();
        let due = store.due_events(&claimed, 8).await.unwrap();
        assert_eq!(due.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    }
}

#[tokio::test]
async fn every_tenant_that_has_or_had_an_account_is_counted() {
    for (store, _server, _folder) in stores().await {
        acme(&store, "1").await;
        acme(&store, "2").await;
        acme(&store, "1").await;
        let other = TenantAccount {
            tenant: "globex".to_owned(),
            account: "2".to_owned(),
        };
        store.register_tenants(&[other]).await.unwrap();
        let accounts = ["1", "2", "3"].map(str::to_owned);
        let counts = store.account_incarnations(&accounts).await.unwrap();
        assert_eq!(counts, [2, 2, 0]);
    }
}
