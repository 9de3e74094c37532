//! Sequences of reloads: an engine and the model in Rust keep the same lists. The tests of both engines include this file.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_store::caps::spend::CLAIM_MS;
use gatepay_store::destinations::{DeclaredDestinations, DestinationBook, DestinationDeclaration};
use gatepay_store::engine::Store;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::cap_steps::{START_MS, text};

const HOUR_MS: u64 = 3_600_000;

/// A reload of an instance, some time after the last one. Each sub-account is absent, or has a mode, a hold in hours, and some
/// of a few targets. The other instances may have given a sign of life before.
pub(crate) type ReloadStep = (u64, usize, bool, Vec<Option<(bool, u8, BTreeSet<u8>)>>);

pub(crate) fn reload_step() -> impl Strategy<Value = ReloadStep> {
    let account = (
        any::<bool>(),
        0_u8..5,
        prop::collection::btree_set(0_u8..4, 0..4),
    );
    let accounts = prop::collection::vec(prop::option::weighted(0.8, account), 2);
    (0..3 * HOUR_MS, 0_usize..2, any::<bool>(), accounts)
}

pub(crate) fn declared(is_listed: bool, hold_ms: u64, targets: &[&str]) -> DeclaredDestinations {
    DeclaredDestinations {
        is_listed,
        hold_ms,
        targets: targets.iter().map(|it| text(it)).collect(),
    }
}

/// Runs the same reloads on the stores of some instances and on the model. `beat` gives the sign of life of an instance.
pub(crate) fn run(
    runtime: &Runtime,
    stores: &[Store],
    (set_clock, beat): (&dyn Fn(u64), &dyn Fn(usize)),
    steps: &[ReloadStep],
) {
    let (mut model, mut now_ms) = (DestinationBook::default(), START_MS);
    // By instance, the last sign of life, and the number and content of the last declaration.
    let mut seen = vec![START_MS; stores.len()];
    let mut claims: BTreeMap<usize, (i64, DestinationDeclaration)> = BTreeMap::new();
    // The last declaration of every instance, also of those without a sign of life.
    let mut older: BTreeMap<usize, (i64, DestinationDeclaration)> = BTreeMap::new();
    for (number, (wait_ms, instance, others_live, accounts)) in (1..).zip(steps) {
        now_ms += wait_ms;
        set_clock(now_ms);
        let own = instance % stores.len();
        for (place, seen) in seen.iter_mut().enumerate() {
            if *others_live || place == own {
                beat(place);
                *seen = now_ms;
            }
        }
        let mut declaration = DestinationDeclaration::default();
        for (account, said) in ["100", "200"].into_iter().zip(accounts) {
            let Some((is_listed, hours, targets)) = said else {
                continue;
            };
            let targets: Vec<String> = targets.iter().map(|it| format!("user {it}")).collect();
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            let said = declared(*is_listed, u64::from(*hours) * HOUR_MS, &targets);
            declaration.accounts.insert(text(account), said);
        }
        let done = stores[own].declare_destinations(&declaration, number);
        assert!(runtime.block_on(done).unwrap());
        claims.insert(own, (number, declaration.clone()));
        claims.retain(|place, _| *place == own || seen[*place] + CLAIM_MS > now_ms);
        let stricter = DestinationDeclaration::stricter(claims.values().map(|(_, it)| it));
        model.declare(&stricter, now_ms);
        let kept = || runtime.block_on(stores[own].destinations()).unwrap();
        assert_eq!(kept(), model, "after {claims:?}");
        // An earlier declaration of the instance comes late, and changes nothing.
        for (place, (number, late)) in &older {
            let done = stores[*place].declare_destinations(late, *number);
            assert!(!runtime.block_on(done).unwrap());
            assert_eq!(kept(), model, "after the late {number}");
        }
        older.insert(own, (number, declaration));
        for (place, (number, _)) in &claims {
            let stands = |number| runtime.block_on(stores[*place].destinations_stand(number));
            assert!(*place != own || stands(*number).unwrap());
            assert_eq!(stands(number + 1).unwrap(), stores.len() == 1);
        }
    }
}
