use crate::operators::{TRANSFER, before, list_fees, query_for};
use crate::permissions::shape;
use crate::support::program::Folder;
use crate::support::*;
use gatepay_core::{Catalogue, header};
use gatepay_sandbox::examples;
use gatepay_tenancy::{Permissions, Standing};
use http::Method;
use std::collections::BTreeSet;

fn query() -> Call {
    query_for(acme().sub_account)
}

/// A transfer from acme's account, which has the funds.
fn transfer(gatepay: &GatePay) -> Call {
    let account = acme().sub_account;
    let example = examples::prepare(&gatepay.sandbox, account, "create_transfer").unwrap();
    let call = office().calls(TRANSFER, &example);
    call.header(header::ON_BEHALF_OF, account)
}

#[tokio::test]
async fn tenants_and_operators_do_not_see_each_others_paths() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, office());
    let catalogue = Catalogue::standard();
    let rows = catalogue.rows().iter();
    let merchant: BTreeSet<&str> = rows
        .clone()
        .filter_map(|row| row.merchant_path.as_deref())
        .collect();
    let institution: BTreeSet<&str> = rows
        .filter_map(|row| row.institution_path.as_deref())
        .collect();
    let mut asked = 0;
    for (who, paths, own) in [
        (acme(), &institution, &merchant),
        (office(), &merchant, &institution),
        // A caller without credentials sees the same as tenants.
        (
            Shop::new("nobody", "client-nobody", "fake", "0"),
            &institution,
            &merchant,
        ),
    ] {
        for media_type in ["application/json", "text/plain"] {
            // A body that is announced and never sent: an answer proves that the proxy did not wait for the body.
            let head = |method: &Method, path: &str| {
                let call = who.post(path, "{").method(method.clone());
                let call = call.instead("content-type", media_type);
                call.head(&proxy.clock, "content-length: 1000")
            };
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                let nothing = answer(&proxy, head(&method, "/no/such/path")).await;
                assert_eq!(nothing.refused(), (404, "unknown_operation"));
                for path in paths.difference(own) {
                    let found = answer(&proxy, head(&method, path)).await;
                    assert_eq!(
                        shape(&found, method.as_str(), path),
                        shape(&nothing, method.as_str(), "/no/such/path"),
                        "{} {method} {path}",
                        who.id
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 1_500, "{asked}");
    assert_eq!(gatepay.count(), 0);
}

async fn answer(proxy: &Proxy, head: Vec<u8>) -> Answer {
    let mut raw = proxy.raw().await;
    raw.write(head).await;
    raw.answer().await
}

#[tokio::test]
async fn an_operator_may_call_only_the_operations_its_file_allows() {
    let gatepay = GatePay::start();
    for (file, fees, reads, transfers) in [
        ("", true, true, true),
        (
            "operations = { allow = ['commission_rule'] }",
            true,
            false,
            false,
        ),
        ("operations = { deny = ['read'] }", false, false, true),
        (
            "operations = { deny = ['money', 'payment'] }",
            true,
            false,
            false,
        ),
        (
            "operations = { allow = ['query_order', 'create_transfer'] }",
            false,
            true,
            true,
        ),
        ("standing = 'read_only'", true, true, false),
        ("addresses = ['127.0.0.0/8']", true, true, true),
    ] {
        let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[acme()]);
        folder.operator(&office(), file);
        let loaded = gatepay_tenancy::load(&folder.path("proxy.toml"), &|_| None);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
        let told = &loaded.registry.operators()[0].party;
        let (permissions, standing) = (told.permissions.clone(), told.standing);
        let addresses = told.addresses.clone();
        let proxy = before(
            &gatepay,
            office().with(move |party| {
                party.permissions = permissions.clone();
                party.standing = standing;
                party.addresses = addresses.clone();
            }),
        );
        for (call, may) in [
            (list_fees(), fees),
            (query(), reads),
            (transfer(&gatepay), transfers),
        ] {
            let count = gatepay.count();
            let answer = proxy.send(call).await;
            let expected = if may {
                "not refused"
            } else {
                "operation_not_allowed"
            };
            assert_eq!(answer.refused().1, expected, "{file}: {}", answer.text());
            assert_eq!(gatepay.count() - count, usize::from(may), "{file}");
        }
    }
}

#[tokio::test]
async fn an_operator_is_refused_for_every_reason_that_a_tenant_is() {
    let gatepay = GatePay::start();
    let elsewhere = "203.0.113.0/24".parse().unwrap();
    for (office, call, expected) in [
        (
            office().with(|party| party.standing = Standing::Suspended),
            query(),
            (403, "tenant_suspended"),
        ),
        (
            office().with(move |party| party.addresses = [elsewhere].into()),
            query(),
            (403, "address_not_allowed"),
        ),
        (
            office(),
            query().secret(acme().secret),
            (401, "signature_mismatch"),
        ),
        (office(), query().signing("{}"), (401, "signature_mismatch")),
        (
            office(),
            query().timestamp(&(T0 - 300_001)),
            (401, "stale_timestamp"),
        ),
        (office(), query().nonce(""), (401, "malformed_nonce")),
        (
            office(),
            query().instead("content-type", "text/plain"),
            (415, "unsupported_media_type"),
        ),
        (
            office(),
            office()
                .post(
                    TRANSFER,
                    r#"{"merchantBatchNo":"1","amount":"1","amount":"2"}"#,
                )
                .header(header::ON_BEHALF_OF, acme().sub_account),
            (400, "invalid_body"),
        ),
    ] {
        let answer = before(&gatepay, office).send(call).await;
        assert_eq!(answer.refused(), expected, "{}", answer.text());
    }
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn an_operators_signed_request_is_executed_once() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, office());
    let once = transfer(&gatepay).nonce("once").timestamp(&T0);
    assert_eq!(proxy.send(once.clone()).await.code(), "000000");
    assert_eq!(proxy.send(once).await.refused(), (401, "replayed"));
    let other_path = list_fees().nonce("once").timestamp(&T0);
    assert_eq!(proxy.send(other_path).await.refused(), (401, "replayed"));
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn an_operators_limits_are_its_own() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, office().rate(1, 2));
    for _ in 0..2 {
        assert_eq!(proxy.send(query()).await.status, 200);
    }
    assert_eq!(proxy.send(query()).await.refused(), (429, "rate_limited"));
    let tenant = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(tenant.status, 200, "a tenant has its own");

    let proxy = before(
        &gatepay,
        office().with(|party| party.limits.money = Some(rate(1, 1))),
    );
    assert_eq!(proxy.send(transfer(&gatepay)).await.status, 200);
    assert_eq!(
        proxy.send(transfer(&gatepay)).await.refused(),
        (429, "rate_limited")
    );
    assert_eq!(proxy.send(query()).await.status, 200);
}

#[tokio::test]
async fn access_lines_and_metrics_name_the_operator() {
    let gatepay = GatePay::start();
    let what_tenants_may = Permissions::of_tenants(&Catalogue::standard());
    let proxy = before(
        &gatepay,
        office().with(move |party| party.permissions = what_tenants_may.clone()),
    );
    for call in [list_fees(), query()] {
        proxy.send(call).await;
    }
    proxy
        .counts(r#"requests_total{kind="read",outcome="refused",tenant="office"} 1"#)
        .await;
    let lines = proxy.stop().await;
    let mut told: Vec<_> = lines
        .iter()
        .map(|line| [&line["tenant"], &line["operation"], &line["refusal"]].map(|it| it.as_str()))
        .collect();
    // Two connections may be of two workers, each of which has lines of its own.
    told.sort();
    assert_eq!(
        told,
        [
            [
                Some("office"),
                Some("list_fee_rules"),
                Some("operation_not_allowed")
            ],
            [Some("office"), Some("query_order"), None],
        ]
    );
}
