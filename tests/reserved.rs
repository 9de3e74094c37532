use crate::support::*;
use gatepay_core::Catalogue;
use gatepay_core::operation::OperationScope;
use gatepay_sandbox::examples;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::cell::Cell;

/// Words of `[operations]`: some of tenants, some of the institution's own.
const WORDS: [&str; 12] = [
    "read",
    "write",
    "money",
    "payment",
    "payout",
    "balance",
    "otc",
    "query_order",
    "accounts",
    "transfer",
    "create_charge",
    "list_fee_rules",
];

/// The parts of `proxy.toml` and of a tenant's file that concern operations.
#[derive(Debug)]
struct Said {
    /// Operations turned on or off.
    switched: Vec<(&'static str, bool)>,
    /// Operations added: the tenants' path, and its destination.
    added: Vec<(String, String)>,
    /// The institution's own operations that the configuration opens to tenants.
    opened: Vec<String>,
    allow: Vec<&'static str>,
    deny: Vec<&'static str>,
}

#[test]
fn no_configuration_lets_a_tenant_reach_what_is_the_institutions_own() {
    let own = own_paths();
    assert_eq!(own.len(), 12, "accounts, fee settings, transfer and charge");
    let gatepay = GatePay::start();
    let loaded = Cell::new(0);
    holds(64, &configurations(), async |said| {
        let Ok(configuration) = configured(&said.tables(), &said.acmes()) else {
            return Ok(());
        };
        loaded.set(loaded.get() + 1);
        let permissions = configuration.registry.tenants()[0]
            .party
            .permissions
            .clone();
        let proxy = Proxy::before(&gatepay)
            .catalogue(configuration.catalogue)
            .tenant(acme().with(move |party| party.permissions = permissions.clone()))
            .start();
        for (name, path) in &own {
            let sent = examples::prepare(&gatepay.sandbox, acme().sub_account, name).unwrap();
            let answer = proxy.send(acme().calls(path, &sent)).await;
            prop_assert_eq!(answer.refused(), (404, "unknown_operation"), "{}", path);
        }
        prop_assert_eq!(gatepay.count(), 0);
        for (from, _) in &said.added {
            proxy.send(acme().post(from, "{}")).await;
        }
        let received = gatepay.received();
        gatepay.sandbox.clear();
        for received in received {
            prop_assert_eq!(received.operation, None, "{}", received.target);
        }
        Ok(())
    });
    assert!(
        loaded.get() > 4,
        "most files were refused: {}",
        loaded.get()
    );
}

#[test]
fn a_file_that_would_open_what_is_the_institutions_own_is_refused() {
    for (name, path) in own_paths() {
        let said = |added: &[(&str, &str)], opened: &[&str]| Said {
            switched: Vec::new(),
            added: added
                .iter()
                .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
                .collect(),
            opened: opened.iter().map(|name| (*name).to_owned()).collect(),
            allow: Vec::new(),
            deny: Vec::new(),
        };
        let fine = ("/shop/x", "/fine/institution/x");
        let is_refused = |said: &Said| configured(&said.tables(), &said.acmes()).is_err();
        assert!(
            !is_refused(&said(&[fine], &[])),
            "{name}: without it all is well"
        );
        for bad in [
            said(&[(fine.0, &path)], &[]),
            said(&[(fine.0, &path.to_uppercase())], &[]),
            said(&[(fine.0, &format!("{path}/x"))], &[]),
            said(&[(fine.0, &path.replace("/v1/", "/v2/"))], &[]),
            said(&[(fine.0, &path.replace("/v1/", "/"))], &[]),
            said(&[(&path, fine.1)], &[]),
            said(&[], &[&name]),
        ] {
            assert!(is_refused(&bad), "{bad:?}");
        }
    }
}

/// The institution's own operations, by name and path.
fn own_paths() -> Vec<(String, String)> {
    let catalogue = Catalogue::standard();
    let rows = catalogue.rows().iter();
    rows.filter(|row| row.scope == OperationScope::Institution)
        .map(|row| {
            (
                row.name.to_string(),
                row.institution_path.as_deref().unwrap().to_owned(),
            )
        })
        .collect()
}

impl Said {
    fn tables(&self) -> String {
        let switched = self
            .switched
            .iter()
            .map(|(name, on)| format!("[[operation]]\nname = '{name}'\nenabled = {on}\n"));
        let added = self.added.iter().enumerate().map(|(number, (from, to))| {
            format!(
                "[[operation]]\nname = 'added_{number}'\nmodule = 'payment'\nkind = 'write'\nmethod = 'POST'
merchant_path = '{from}'\ninstitution_path = '{to}'\n"
            )
        });
        let opened = self.opened.iter();
        let opened =
            opened.map(|name| format!("[[operation]]\nname = '{name}'\nscope = 'tenant'\n"));
        switched.chain(added).chain(opened).collect()
    }

    fn acmes(&self) -> String {
        let (allow, deny) = (&self.allow, &self.deny);
        if allow.is_empty() {
            format!("operations = {{ deny = {deny:?} }}")
        } else {
            format!("operations = {{ allow = {allow:?}, deny = {deny:?} }}")
        }
    }
}

/// Mostly valid files; some that open more.
fn configurations() -> impl Strategy<Value = Said> {
    let own: Vec<(String, String)> = own_paths();
    let names: Vec<String> = own.iter().map(|(name, _)| name.clone()).collect();
    let paths: Vec<String> = own.into_iter().map(|(_, path)| path).collect();
    let path = move |fine: &'static str| {
        prop_oneof![
            9 => fine,
            1 => select(paths.clone()),
        ]
    };
    let switched = vec(
        (
            select(vec![
                "query_order",
                "refund_order_v3",
                "create_account",
                "list_plans",
            ]),
            any::<bool>(),
        ),
        0..2,
    );
    let added = vec(
        (path("/shop/[a-z]{8}"), path("/fine/institution/[a-z]{8}")),
        0..3,
    );
    let opened = prop_oneof![9 => Just(Vec::new()), 1 => select(names).prop_map(|name| vec![name])];
    let words = |own: usize| subsequence(WORDS[..own].to_vec(), 0..5);
    let allow = prop_oneof![4 => words(8), 1 => words(12)];
    let deny = subsequence(WORDS[3..].to_vec(), 0..4);
    (switched, added, opened, allow, deny).prop_map(|(switched, added, opened, allow, deny)| Said {
        switched,
        added,
        opened,
        allow,
        deny,
    })
}
