use std::collections::BTreeMap;
use std::time::Duration;

use gatepay_core::Catalogue;
use gatepay_core::money::TargetEntry;
use gatepay_store::destinations::DestinationTimes;
use gatepay_tenancy::tenant::TenantOptions;
use gatepay_tenancy::{PartyId, SubAccount};

use super::*;

const NOW_MS: u64 = 1_767_225_600_000;

fn tenant(destinations: Option<TenantDestinations>) -> Tenant {
    let id = PartyId::parse("acme").unwrap();
    let account = SubAccount::parse("100").unwrap();
    let options = TenantOptions {
        destinations,
        ..TenantOptions::default()
    };
    Tenant {
        options: options.if_any(),
        ..Tenant::new(id, account, &Catalogue::standard(), Vec::new())
    }
}

fn user(id: &str) -> MoneyTarget {
    MoneyTarget::user(id).unwrap()
}

fn configured(mode: DestinationMode, users: &[&str]) -> TenantDestinations {
    TenantDestinations {
        mode,
        hold: Duration::ZERO,
        listed: users.iter().map(|id| user(id)).collect(),
    }
}

/// The store's list, with the users and the times from which on they are usable.
fn stored(list: &DestinationList, users: &[(&str, u64)]) -> StoredDestinations {
    let targets = users.iter().map(|(id, usable_from_ms)| {
        let times = DestinationTimes {
            first_loaded_ms: 0,
            usable_from_ms: *usable_from_ms,
        };
        (text(&user(id)).unwrap(), times)
    });
    let targets: BTreeMap<_, _> = targets.collect();
    let stored = StoredDestinations::default();
    let owner = owner(&tenant(None)).unwrap();
    stored.know(DestinationBook {
        owners: BTreeMap::from([(
            owner,
            DestinationList {
                targets,
                ..list.clone()
            },
        )]),
    });
    stored
}

fn listed() -> DestinationList {
    DestinationList {
        is_listed: true,
        ..DestinationList::default()
    }
}

fn stated(users: &[&str]) -> Vec<StatedTarget> {
    let at = |(index, id): (usize, &&str)| StatedTarget {
        target: user(id),
        entry: TargetEntry {
            field: "list",
            index: Some(index),
        },
    };
    users.iter().enumerate().map(at).collect()
}

fn told(stored: &StoredDestinations, tenant: &Tenant, targets: &StatedTargets) -> String {
    match stored.verdict(tenant, targets, NOW_MS) {
        DestinationVerdict::Allowed => "allowed".to_owned(),
        DestinationVerdict::Unknown => "unknown".to_owned(),
        DestinationVerdict::Refused(fault) => match fault {
            DestinationFault::Unreadable(fault) => fault.to_string(),
            DestinationFault::Unlisted(entry) => format!("{entry} is unlisted"),
            DestinationFault::Held { entry, until_ms } => {
                format!("{entry} is held until {until_ms:?}")
            }
        },
    }
}

#[test]
fn money_goes_only_to_what_the_file_and_the_store_list_and_only_after_the_hold() {
    let tenant = tenant(Some(configured(DestinationMode::Listed, &["1", "2", "3"])));
    let lists = stored(&listed(), &[("1", NOW_MS), ("2", NOW_MS + 1), ("4", 0)]);
    assert!(lists.may_bound(&tenant));
    let says = |users: &[&str]| told(&lists, &tenant, &Ok(stated(users)));
    assert_eq!(says(&["1"]), "allowed");
    assert_eq!(
        says(&["1", "2"]),
        "list[1] is held until Some(1767225600001)"
    );
    assert_eq!(says(&["3"]), "list[0] is held until None");
    assert_eq!(says(&["1", "4", "2"]), "list[1] is unlisted");
    assert_eq!(says(&[]), "allowed", "it goes back to its payer");
    assert_eq!(
        told(&lists, &tenant, &Err(DemandFault::Ambiguous)),
        "body is not one JSON object that is read in one way"
    );
}

#[test]
fn a_list_that_the_file_has_no_more_holds_as_long_as_the_store_says() {
    let tenant = tenant(Some(configured(DestinationMode::Any, &["1"])));
    let ends = |opens_ms| DestinationList {
        opens_ms: Some(opens_ms),
        ..listed()
    };
    let still = stored(&ends(NOW_MS + 1), &[("1", 0)]);
    assert!(still.may_bound(&tenant));
    assert_eq!(told(&still, &tenant, &Ok(stated(&["1"]))), "allowed");
    assert_eq!(
        told(&still, &tenant, &Ok(stated(&["2"]))),
        "list[0] is unlisted"
    );
    let over = stored(&ends(NOW_MS), &[("1", 0)]);
    assert_eq!(told(&over, &tenant, &Ok(stated(&["2"]))), "allowed");
    let none = self::tenant(None);
    assert_eq!(
        told(&still, &none, &Ok(stated(&["1"]))),
        "list[0] is unlisted"
    );
}

#[test]
fn before_the_stores_lists_are_known_money_goes_nowhere() {
    let unknown = StoredDestinations::default();
    for tenant in [
        tenant(None),
        tenant(Some(configured(DestinationMode::Listed, &["1"]))),
    ] {
        assert!(unknown.may_bound(&tenant));
        assert_eq!(told(&unknown, &tenant, &Ok(stated(&["1"]))), "unknown");
        assert_eq!(told(&unknown, &tenant, &Ok(stated(&[]))), "allowed");
    }
    unknown.know(DestinationBook::default());
    assert!(!unknown.may_bound(&tenant(None)));
    assert_eq!(
        told(&unknown, &tenant(None), &Ok(stated(&["1"]))),
        "allowed"
    );
}
