use std::collections::BTreeMap;
use std::time::Duration;

use gatepay_core::Catalogue;
use gatepay_core::money::TargetEntry;
use gatepay_store::destinations::DestinationTimes;
use gatepay_tenancy::tenant::TenantOptions;
use gatepay_tenancy::{Operator, PartyId, SubAccount, Tenant};

use super::*;

const NOW_MS: u64 = 1_767_225_600_000;

/// Tenants of one sub-account, and an operator.
fn sharing(tenants: Vec<Option<TenantDestinations>>) -> Registry {
    let tenants = tenants
        .into_iter()
        .enumerate()
        .map(|(number, destinations)| {
            let id = PartyId::parse(&format!("tenant{number}")).unwrap();
            let account = SubAccount::parse("100").unwrap();
            let options = TenantOptions {
                destinations,
                ..TenantOptions::default()
            };
            Tenant {
                options: options.if_any(),
                shared_sub_account: true,
                ..Tenant::new(id, account, &Catalogue::standard(), Vec::new())
            }
        });
    let id = PartyId::parse("back_office").unwrap();
    let operator = Operator::new(id, &Catalogue::standard(), Vec::new());
    Registry::new(tenants.collect(), vec![operator], &[])
        .map_err(|conflicts| format!("{conflicts:?}"))
        .unwrap()
}

fn tenant(destinations: Option<TenantDestinations>) -> Registry {
    sharing(vec![destinations])
}

/// The lists about a call of a party, by its position.
fn lists_of(registry: &Registry, party: usize) -> ConfiguredLists<'_> {
    ConfiguredLists::of(registry, "100", registry.at(party))
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
    let account = StoredText::parse("100").unwrap();
    let book = DestinationBook {
        accounts: BTreeMap::from([(
            account,
            DestinationList {
                targets,
                ..list.clone()
            },
        )]),
    };
    stored.know(book, Duration::ZERO);
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

fn told(stored: &StoredDestinations, tenant: &Registry, targets: &StatedTargets) -> String {
    told_to(stored, &lists_of(tenant, 0), targets)
}

fn told_to(
    stored: &StoredDestinations,
    configured: &ConfiguredLists<'_>,
    targets: &StatedTargets,
) -> String {
    match stored.verdict(configured, Some(targets), (NOW_MS, Duration::ZERO)) {
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
    assert!(lists.may_bound(&lists_of(&tenant, 0)));
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
fn a_call_whose_targets_were_not_read_is_refused_once_a_list_binds_it() {
    let none = tenant(None);
    let listed_by_file = tenant(Some(configured(DestinationMode::Listed, &["1"])));
    let unread = |stored: &StoredDestinations, tenant: &Registry| {
        stored.verdict(&lists_of(tenant, 0), None, (NOW_MS, Duration::ZERO))
    };
    let off = stored(&DestinationList::default(), &[]);
    assert!(!off.may_bound(&lists_of(&none, 0)));
    assert_eq!(unread(&off, &none), DestinationVerdict::Allowed);
    let refused = DestinationVerdict::Refused(DestinationFault::Unreadable(DemandFault::NotRead));
    assert_eq!(unread(&off, &listed_by_file), refused, "by the file");
    let on = stored(&listed(), &[("1", NOW_MS)]);
    assert_eq!(unread(&on, &none), refused, "by another instance's file");
}

#[test]
fn a_list_that_the_file_has_no_more_holds_as_long_as_the_store_says() {
    let tenant = tenant(Some(configured(DestinationMode::Any, &["1"])));
    let ends = |opens_ms| DestinationList {
        opens_ms: Some(opens_ms),
        ..listed()
    };
    let still = stored(&ends(NOW_MS + 1), &[("1", 0)]);
    assert!(still.may_bound(&lists_of(&tenant, 0)));
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
        assert!(unknown.may_bound(&lists_of(&tenant, 0)));
        assert_eq!(told(&unknown, &tenant, &Ok(stated(&["1"]))), "unknown");
        assert_eq!(told(&unknown, &tenant, &Ok(stated(&[]))), "allowed");
    }
    unknown.know(DestinationBook::default(), Duration::ZERO);
    assert!(!unknown.may_bound(&lists_of(&tenant(None), 0)));
    assert_eq!(
        told(&unknown, &tenant(None), &Ok(stated(&["1"]))),
        "allowed"
    );
}

#[test]
fn every_party_of_a_sub_account_is_bound_by_its_list_and_a_tenant_by_its_own_besides() {
    let one = configured(DestinationMode::Listed, &["1"]);
    let two = configured(DestinationMode::Listed, &["2"]);
    let shared = sharing(vec![Some(one.clone()), Some(two), None]);
    let lists = stored(&listed(), &[("1", 0), ("2", 0)]);
    let says = |party: usize, user: &str| {
        let configured = lists_of(&shared, party);
        assert!(lists.may_bound(&configured));
        told_to(&lists, &configured, &Ok(stated(&[user])))
    };
    let unlisted = "list[0] is unlisted";
    assert_eq!((&*says(0, "1"), &*says(0, "2")), ("allowed", unlisted));
    assert_eq!((&*says(1, "1"), &*says(1, "2")), (unlisted, "allowed"));
    // The tenant without a list, and the operator.
    for party in [2, 3] {
        assert_eq!(
            (&*says(party, "1"), &*says(party, "2")),
            ("allowed", "allowed")
        );
        assert_eq!(says(party, "3"), unlisted);
    }
    // A tenant that takes the place of another one has a list in the store that its file lacks.
    let replaced = tenant(Some(configured(DestinationMode::Any, &["3"])));
    let still = stored(&listed(), &[("3", NOW_MS + 1)]);
    let told = |user: &str| told(&still, &replaced, &Ok(stated(&[user])));
    assert_eq!(told("1"), unlisted);
    assert_eq!(told("3"), "list[0] is held until Some(1767225600001)");
}

#[test]
fn lists_that_the_store_was_not_asked_about_lately_allow_nothing() {
    let tenant = tenant(Some(configured(DestinationMode::Listed, &["1"])));
    let lists = stored(&listed(), &[("1", NOW_MS)]);
    let at = |seconds| {
        let now = (NOW_MS, Duration::from_secs(seconds));
        lists.verdict(&lists_of(&tenant, 0), Some(&Ok(stated(&["1"]))), now)
    };
    assert_eq!(at(10), DestinationVerdict::Allowed);
    // A process that stood still for half a minute: another instance may have removed the destination.
    assert_eq!(at(30), DestinationVerdict::Unknown);
    assert!(lists.is_stale(Duration::from_secs(30)));
    assert!(lists.begins_to_refuse() && !lists.begins_to_refuse());
    lists.confirm(Duration::from_secs(30));
    assert_eq!(at(31), DestinationVerdict::Allowed);
    assert!(!lists.is_stale(Duration::from_secs(31)));
    assert!(lists.begins_to_refuse(), "the next time is told too");
}

#[test]
fn a_sub_account_without_a_list_is_refused_while_another_instance_may_have_declared_its_first_one()
{
    let none = tenant(None);
    let lists = StoredDestinations::default();
    lists.know(DestinationBook::default(), Duration::ZERO);
    let at = |seconds| {
        let now = (NOW_MS, Duration::from_secs(seconds));
        lists.verdict(&lists_of(&none, 0), Some(&Ok(stated(&["1"]))), now)
    };
    assert_eq!(at(10), DestinationVerdict::Allowed);
    assert_eq!(at(11), DestinationVerdict::Unknown);
}
