//! Sequences of reloads: an engine and the model in Rust keep the same lists. The tests of both engines include this file.

use std::collections::BTreeSet;

use gatepay_store::admission::StoredText;
use gatepay_store::destinations::{
    DeclaredDestinations, DestinationBook, DestinationDeclaration, DestinationOwner,
};
use gatepay_store::engine::Store;
use proptest::prelude::*;
use tokio::runtime::Runtime;

pub(crate) const START_MS: u64 = 1_767_225_600_000;
const HOUR_MS: u64 = 3_600_000;

/// A reload, some time after the last one. Each tenant is absent, or has a mode, a hold in hours, and some of a few targets.
pub(crate) type ReloadStep = (u64, Vec<Option<(bool, u8, BTreeSet<u8>)>>);

pub(crate) fn reload_step() -> impl Strategy<Value = ReloadStep> {
    let tenant = (
        any::<bool>(),
        0_u8..5,
        prop::collection::btree_set(0_u8..4, 0..4),
    );
    let tenants = prop::collection::vec(prop::option::weighted(0.8, tenant), 2);
    (0..3 * HOUR_MS, tenants)
}

pub(crate) fn text(text: &str) -> StoredText {
    StoredText::parse(text).unwrap()
}

pub(crate) fn owner(party: &str) -> DestinationOwner {
    DestinationOwner {
        party: text(party),
        account: text("100"),
    }
}

pub(crate) fn declared(is_listed: bool, hold_ms: u64, targets: &[&str]) -> DeclaredDestinations {
    DeclaredDestinations {
        is_listed,
        hold_ms,
        targets: targets.iter().map(|it| text(it)).collect(),
    }
}

/// Runs the same reloads on a store and on the model.
pub(crate) fn run(runtime: &Runtime, store: &Store, set_clock: &dyn Fn(u64), steps: &[ReloadStep]) {
    let (mut model, mut now_ms) = (DestinationBook::default(), START_MS);
    for (wait_ms, tenants) in steps {
        now_ms += wait_ms;
        set_clock(now_ms);
        let mut declaration = DestinationDeclaration::default();
        for (tenant, said) in ["acme", "globex"].into_iter().zip(tenants) {
            let Some((is_listed, hours, targets)) = said else {
                continue;
            };
            let targets: Vec<String> = targets.iter().map(|it| format!("user {it}")).collect();
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            let said = declared(*is_listed, u64::from(*hours) * HOUR_MS, &targets);
            declaration.owners.insert(owner(tenant), said);
        }
        let done = store.declare_destinations(&declaration);
        runtime.block_on(done).unwrap();
        model.declare(&declaration, now_ms);
        let kept = runtime.block_on(store.destinations()).unwrap();
        assert_eq!(kept, model, "after {declaration:?}");
    }
}
