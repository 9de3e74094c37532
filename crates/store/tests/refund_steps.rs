//! Refunds of orders, which spend in the currency of their order as the ledger knows it. The tests of both engines include this
//! file.

use gatepay_core::Kind;
use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure};
use gatepay_store::caps::spend::{OrderSpend, SpendDemand};
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_store::statement::account_book::CallUsage;

use crate::cap_steps::{CapEngine, START_MS, amount, beside, currency, rule, text};

/// A refund of 7.5 of acme's order with this id.
fn refund_of_order(stamp: u8, order: &str, now_ms: u64) -> AdmissionRow {
    let spend = SpendDemand {
        counted_as: "refund_order_v2/payout",
        key: None,
        parts: Vec::new(),
        of_order: Some(OrderSpend {
            order: text(order),
            amount: amount("7.5"),
        }),
        approval: None,
    };
    AdmissionRow {
        stamp: [stamp; 16],
        nonce: None,
        stamp_ms: now_ms,
        party: text("acme"),
        account: text("100"),
        kind: Kind::Money,
        module: "payment",
        operation: "refund_order_v2".into(),
        has_body: true,
        intents: Vec::new(),
        spend: Some(Box::new(spend)),
        usage: Some(Box::new(CallUsage {
            key: None,
            is_once: false,
            amounts: None,
        })),
    }
}

/// The store reads the currency of a refund when it admits it: one that it does not know passes no cap, whatever the asking
/// instance knows of caps and orders. Returns the stamps of the refunds that were admitted, the first of which is not counted.
pub(crate) fn refunds_of_orders(engine: CapEngine<'_>) -> [[u8; 16]; 2] {
    let now_ms = START_MS + 60_000;
    (engine.set_clock)(now_ms);
    let [first, ..] = engine.stores else {
        panic!("no instance");
    };
    let last = engine.stores.last().unwrap();
    let ask = |stamp: u8, order: &str| {
        let mut batch = AdmissionBatch::default();
        batch.push(refund_of_order(stamp, order, now_ms)).unwrap();
        let reply = engine.runtime.block_on(first.admit(&batch)).unwrap();
        reply.verdicts.into_iter().next().unwrap()
    };
    let note = |tenant: &str, of: &str| {
        let note = LedgerNote {
            key: LedgerKey::new(LedgerKeyKind::PrepayId, "P-1").unwrap(),
            holder: TenantAccount {
                tenant: tenant.to_owned(),
                account: "100".to_owned(),
            },
            at_ms: Some(now_ms),
            operation: "create_order".to_owned(),
            currency: Some(of.to_owned()),
        };
        let notes = [note];
        let noted = first.note_owners(&notes, LedgerSource::Answer);
        engine.runtime.block_on(noted).unwrap();
    };
    let left = || {
        let facts = engine.runtime.block_on(first.cap_facts(None)).unwrap();
        let report = facts.report(None);
        report.caps[0].uses[0].left
    };
    let declare = |shadow: bool, number| {
        let mut hour = rule(beside("acme"), CapMeasure::PerHour, Some("USDT"), "10");
        hour.name.shadow = shadow;
        let declaration = CapDeclaration {
            rules: vec![hour],
            midnights: vec![START_MS],
            raise_after_ms: 0,
            approvers: 1,
        };
        let declared = last.declare_caps(&declaration, number);
        assert!(engine.runtime.block_on(declared).unwrap());
    };
    assert_eq!(
        ask(1, "P-1"),
        AdmissionVerdict::Admitted,
        "no cap covers it"
    );
    declare(true, 1);
    assert_eq!(
        ask(2, "P-1"),
        AdmissionVerdict::Admitted,
        "nor is one enforced"
    );
    // Another instance, if there is one, has declared the cap.
    declare(false, 2);
    assert_eq!(ask(3, "P-1"), AdmissionVerdict::UnknownCurrency);
    note("acme_again", "USDT");
    assert_eq!(
        ask(4, "P-1"),
        AdmissionVerdict::UnknownCurrency,
        "of another party"
    );
    assert_eq!(left(), amount("10"));
    note("acme", "usdt");
    assert_eq!(ask(5, "P-1"), AdmissionVerdict::Admitted);
    assert_eq!(left(), amount("2.5"));
    let AdmissionVerdict::CapExceeded(breach) = ask(6, "P-1") else {
        panic!("there is no room");
    };
    assert_eq!(
        (breach.currency, breach.left),
        (currency("USDT"), amount("2.5"))
    );
    assert_eq!(ask(7, "P-2"), AdmissionVerdict::UnknownCurrency);
    note("acme", "GT");
    assert_eq!(
        ask(8, "P-1"),
        AdmissionVerdict::UnknownCurrency,
        "not certain any more"
    );
    assert!(matches!(ask(3, "P-1"), AdmissionVerdict::Replayed { .. }));
    [[2; 16], [5; 16]]
}
