//! Refunds of orders, which spend in the currency of their order as the ledger knows it. The tests of both engines include this
//! file.

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure, CapRule};
use gatepay_store::caps::spend::{OrderSpend, SpendDemand};
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_store::statement::account_book::CallUsage;

use crate::cap_steps::{CapEngine, START_MS, amount, beside, currency, rule, text};
use crate::rows::{money_row, payout};

const NOW_MS: u64 = START_MS + 60_000;

/// A refund of 7.5 of acme's order with this id.
fn refund_of_order(stamp: u8, order: &str) -> AdmissionRow {
    let spend = SpendDemand {
        counted_as: "refund_order_v2/payout",
        of_order: Some(OrderSpend {
            order: text(order),
            amount: amount("7.5"),
        }),
        ..payout(Vec::new())
    };
    AdmissionRow {
        module: "payment",
        operation: "refund_order_v2".into(),
        spend: Some(Box::new(spend)),
        usage: Some(Box::new(CallUsage {
            key: None,
            is_once: false,
            amounts: None,
        })),
        ..money_row([stamp; 16], NOW_MS)
    }
}

/// Asks the first instance for a refund of an order.
fn ask(engine: CapEngine<'_>, stamp: u8, order: &str) -> AdmissionVerdict {
    let mut batch = AdmissionBatch::default();
    batch.push(refund_of_order(stamp, order)).unwrap();
    let reply = engine.stores[0].admit(&batch);
    let reply = engine.runtime.block_on(reply).unwrap();
    reply.verdicts.into_iter().next().unwrap()
}

/// That a tenant made an order, in a currency if one is told.
fn note(tenant: &str, order: &str, told: Option<&str>) -> LedgerNote {
    LedgerNote {
        key: LedgerKey::new(LedgerKeyKind::PrepayId, order).unwrap(),
        holder: TenantAccount {
            tenant: tenant.to_owned(),
            account: "100".to_owned(),
        },
        at_ms: Some(NOW_MS),
        operation: "create_order".to_owned(),
        currency: told.map(str::to_owned),
    }
}

fn learn(engine: CapEngine<'_>, notes: &[LedgerNote], source: LedgerSource) {
    let noted = engine.stores[0].note_owners(notes, source);
    engine.runtime.block_on(noted).unwrap();
}

/// The last instance declares one cap.
fn declare(engine: CapEngine<'_>, cap: CapRule, number: i64) {
    let declaration = CapDeclaration {
        rules: vec![cap],
        midnights: vec![START_MS],
        raise_after_ms: 0,
        approvers: 1,
    };
    let last = engine.stores.last().unwrap();
    let declared = last.declare_caps(&declaration, number);
    assert!(engine.runtime.block_on(declared).unwrap());
}

/// An order has the first currency that a note of it states, and no certain one from the first note that states another.
pub(crate) fn currencies_of_orders(engine: CapEngine<'_>) {
    (engine.set_clock)(NOW_MS);
    // In any currency a refund is above the cap, and the answer names the currency.
    declare(
        engine,
        rule(beside("acme"), CapMeasure::PerCall, None, "1"),
        1,
    );
    let mut stamp = 0;
    let mut currency_of = |order: &str| {
        stamp += 1;
        match ask(engine, stamp, order) {
            AdmissionVerdict::CapExceeded(breach) => Some(breach.currency.to_string()),
            AdmissionVerdict::UnknownCurrency => None,
            other => panic!("{order}: {other:?}"),
        }
    };
    for (order, source) in [
        ("P-1", LedgerSource::Asked),
        ("P-2", LedgerSource::Journal),
        ("P-3", LedgerSource::Answer),
    ] {
        learn(engine, &[note("acme", order, None)], source);
        assert_eq!(currency_of(order), None);
        let mut earlier = note("acme", order, Some("USDT"));
        earlier.at_ms = Some(1);
        for _ in 0..2 {
            learn(
                engine,
                std::slice::from_ref(&earlier),
                LedgerSource::Journal,
            );
            assert_eq!(currency_of(order).as_deref(), Some("USDT"), "{order}");
        }
    }
    let mut told = |order: &str, currencies: &[Option<&str>]| {
        let notes = currencies.iter().map(|of| note("acme", order, *of));
        learn(engine, &notes.collect::<Vec<_>>(), LedgerSource::Answer);
        currency_of(order)
    };
    assert_eq!(told("one batch", &[Some("BTC"), Some("SHIB")]), None);
    let first = told("two batches", &[Some("BTC"), None]);
    assert_eq!(first.as_deref(), Some("BTC"));
    assert_eq!(told("two batches", &[Some("SHIB")]), None);
    for again in [None, Some("BTC"), Some("SHIB")] {
        for order in ["one batch", "two batches"] {
            assert_eq!(told(order, &[again]), None, "{order} after {again:?}");
        }
    }
}

/// The store reads the currency of a refund when it admits it: one that it does not know passes no cap, whatever the asking
/// instance knows of caps and orders. Returns the stamps of the refunds that were admitted, the first of which is not counted.
pub(crate) fn refunds_of_orders(engine: CapEngine<'_>) -> [[u8; 16]; 2] {
    (engine.set_clock)(NOW_MS);
    let first = &engine.stores[0];
    let ask = |stamp: u8, order: &str| ask(engine, stamp, order);
    let note = |tenant: &str, of: &str| {
        let note = note(tenant, "P-1", Some(of));
        learn(engine, &[note], LedgerSource::Answer);
    };
    let left = || {
        let facts = engine.runtime.block_on(first.cap_facts(None)).unwrap();
        let report = facts.report(None);
        report.caps[0].uses[0].left
    };
    let declare = |shadow: bool, number| {
        let mut hour = rule(beside("acme"), CapMeasure::PerHour, Some("USDT"), "10");
        hour.name.shadow = shadow;
        declare(engine, hour, number);
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
