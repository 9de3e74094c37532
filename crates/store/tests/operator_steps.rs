//! What operators sign: a raise and a call are what they were shown, and nothing else takes the signature over. The tests of
//! both engines include this file.

use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::approval::{ApprovalId, ApprovalOrder, ApprovalState, ApprovalSubject};
use gatepay_store::caps::early_raise::{PendingRaise, RaiseDigest};
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure};
use gatepay_store::caps::spend::SpendDemand;
use gatepay_store::stored_text::StoredText;

use crate::cap_steps::{CapEngine, START_MS, amount, beside, rule, text, told};
use crate::rows::{money_row, payout, units_of};

const DAY_MS: u64 = 86_400_000;

/// One engine at one time.
struct Desk<'a> {
    engine: CapEngine<'a>,
    now_ms: u64,
    declarations: i64,
}

impl<'a> Desk<'a> {
    fn new(engine: CapEngine<'a>) -> Self {
        let now_ms = START_MS + 60_000;
        (engine.set_clock)(now_ms);
        Self {
            engine,
            now_ms,
            declarations: 0,
        }
    }

    /// Declares caps in USDT of one sub-account, after which raises wait for a day.
    fn declare(&mut self, caps: &[(CapMeasure, &str)]) {
        self.declarations += 1;
        let rules = caps
            .iter()
            .map(|(measure, limit)| rule(beside("acme"), *measure, Some("USDT"), limit));
        let declaration = CapDeclaration {
            rules: rules.collect(),
            midnights: vec![START_MS],
            raise_after_ms: DAY_MS,
            approvers: 1,
        };
        let store = &self.engine.stores[0];
        let declared = store.declare_caps(&declaration, self.declarations);
        self.engine.runtime.block_on(declared).unwrap();
    }

    fn waiting(&self) -> (PendingRaise, Vec<StoredText>) {
        let facts = self.engine.stores[0].cap_facts(None);
        let facts = self.engine.runtime.block_on(facts).unwrap();
        let mut waiting = facts.report(None).waiting;
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        waiting.remove(0)
    }

    /// The signatures for changes of caps that the store keeps.
    fn signatures(&self) -> usize {
        let facts = self.engine.stores[0].cap_facts(None);
        self.engine.runtime.block_on(facts).unwrap().signers.len()
    }

    fn sign(&self, digest: RaiseDigest, by: &str) -> ApprovalOrder {
        let by = text(by);
        let signed = self.engine.stores[0].raise_caps(digest, &by, 2);
        self.engine.runtime.block_on(signed).unwrap()
    }

    /// The limit in force of the first cap.
    fn limit(&self) -> String {
        let facts = self.engine.stores[0].cap_facts(None);
        let facts = self.engine.runtime.block_on(facts).unwrap();
        facts.report(None).caps[0].limit.to_string()
    }

    /// Asks for a payout above what passes unseen.
    fn ask(&self, stamp: [u8; 16], (key, body): (&str, u8)) -> Asked {
        let spend = SpendDemand {
            key: Some(text(key)),
            approval: Some(ApprovalSubject {
                body_sha256: [body; 32],
                amounts: told("11 USDT"),
                targets: told("address ETH 0xa"),
            }),
            ..payout(units_of("11", &["USDT"]))
        };
        let row = AdmissionRow {
            spend: Some(Box::new(spend)),
            ..money_row(stamp, self.now_ms)
        };
        let mut batch = AdmissionBatch::default();
        batch.push(row).unwrap();
        let reply = self.engine.stores[0].admit(&batch);
        let reply = self.engine.runtime.block_on(reply).unwrap();
        match &reply.verdicts[..] {
            [AdmissionVerdict::Admitted] => Asked::Passes,
            [AdmissionVerdict::ApprovalRequired(demand)] => {
                demand.id.map_or(Asked::WaitsWithoutId, Asked::Waits)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The answer to a call.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Passes,
    /// It waits for the approval with this id.
    Waits(ApprovalId),
    /// It is refused, since another call has the id.
    WaitsWithoutId,
}

/// A signature is for a raise from one limit to another, and for the changes that waited when it was given.
pub(crate) fn raises_that_come_back(engine: CapEngine<'_>) {
    use CapMeasure::{PerCall, PerDay};
    let mut desk = Desk::new(engine);
    desk.declare(&[(PerCall, "4000")]);
    desk.declare(&[(PerCall, "5000")]);
    let (first, _) = desk.waiting();
    assert_eq!(desk.sign(first.digest, "alice"), ApprovalOrder::Taken);
    // An unchanged reload asks nobody again.
    desk.declare(&[(PerCall, "5000")]);
    assert_eq!(desk.waiting(), (first.clone(), vec![text("alice")]));
    // From another limit it is another raise.
    desk.declare(&[(PerCall, "1")]);
    desk.declare(&[(PerCall, "5000")]);
    let (second, signers) = desk.waiting();
    assert_ne!(second.digest, first.digest);
    assert_ne!(second.digest.id(), first.digest.id());
    assert_eq!((signers, second.changes[0].limit), (vec![], amount("1")));
    assert_eq!(desk.sign(first.digest, "bob"), ApprovalOrder::NotFound);
    assert_eq!(desk.sign(second.digest, "bob"), ApprovalOrder::Taken);
    assert_eq!(desk.limit(), "1");
    // The same raise comes back: beside another change in between, from a lower goal, and after it was withdrawn.
    for between in [
        &[(PerCall, "5000"), (PerDay, "9")][..],
        &[(PerCall, "4000")],
        &[(PerCall, "1")],
        &[],
    ] {
        assert_eq!(desk.sign(second.digest, "bob"), ApprovalOrder::Taken);
        assert_eq!(desk.waiting().1, [text("bob")]);
        desk.declare(between);
        if between.len() == 2 {
            // The cap per day opens nothing while USDT has a cap already, but it is taken away again.
            desk.declare(&[(PerCall, "5000")]);
            desk.now_ms += DAY_MS;
            (desk.engine.set_clock)(desk.now_ms);
            desk.declare(&[(PerCall, "1")]);
        }
        desk.declare(&[(PerCall, "5000")]);
        let (again, signers) = desk.waiting();
        assert_eq!(signers, [], "after {between:?}");
        assert_eq!(again.digest, second.digest, "after {between:?}");
    }
    for by in ["bob", "alice"] {
        assert_eq!(desk.sign(second.digest, by), ApprovalOrder::Taken);
    }
    assert_eq!(desk.limit(), "5000");
    assert_eq!(desk.signatures(), 0, "it waits no more");
    // Changes that only remove rules.
    desk.declare(&[(PerCall, "5000"), (PerDay, "9")]);
    desk.declare(&[(PerCall, "5000")]);
    let (removal, signers) = desk.waiting();
    assert_eq!((removal.changes.len(), signers), (1, vec![]));
    assert_eq!(desk.sign(removal.digest, "alice"), ApprovalOrder::Taken);
    assert_eq!(desk.signatures(), 1);
    assert_eq!(desk.sign(removal.digest, "bob"), ApprovalOrder::Taken);
    assert_eq!(desk.signatures(), 0, "it waits no more either");
    desk.declare(&[(PerCall, "5000"), (PerDay, "9")]);
    desk.declare(&[(PerCall, "5000")]);
    assert_eq!(desk.waiting(), (removal, vec![]));
}

/// Two stamps may begin alike, and the id of an approval is made of the beginning: it never names another call than before, and
/// an order is for the call that its operator was shown.
pub(crate) fn stamps_that_begin_alike(engine: CapEngine<'_>) {
    let mut desk = Desk::new(engine);
    desk.declare(&[(CapMeasure::ApproveAbove, "10")]);
    let stamp = |ends: u8| {
        let mut stamp = [5; 16];
        stamp[15] = ends;
        stamp
    };
    let Asked::Waits(id) = desk.ask(stamp(1), ("harmless", 7)) else {
        panic!("it needs an approval");
    };
    let store = &desk.engine.stores[0];
    let approved = |digest: u8| {
        let (by, digest) = (text("alice"), [digest; 32]);
        let order = store.approve((id, &digest), &by, 1);
        desk.engine.runtime.block_on(order).unwrap()
    };
    assert_eq!(desk.ask(stamp(2), ("other", 8)), Asked::WaitsWithoutId);
    let known = desk.engine.runtime.block_on(store.approval(id)).unwrap();
    assert_eq!(known.unwrap().of.body_sha256, [7; 32]);
    let rejected = desk.engine.runtime.block_on(store.reject((id, &[8; 32])));
    assert_eq!(rejected.unwrap(), ApprovalOrder::NotFound);
    assert_eq!(approved(8), ApprovalOrder::NotFound);
    assert_eq!(approved(7), ApprovalOrder::Taken);
    assert_eq!(desk.ask(stamp(3), ("other", 8)), Asked::WaitsWithoutId);
    let known = desk.engine.runtime.block_on(store.approval(id)).unwrap();
    assert_eq!(known.unwrap().state, ApprovalState::Approved);
    let other = [6; 16];
    assert!(matches!(desk.ask(other, ("other", 8)), Asked::Waits(_)));
    assert_eq!(desk.ask(stamp(4), ("harmless", 7)), Asked::Passes);
}
