use crate::support::program::Folder;
use crate::support::*;
use gatepay_core::Catalogue;
use gatepay_tenancy::Standing;
use std::collections::BTreeSet;

/// An answer without the parts that differ from request to request: its id, and the repeated method and path.
pub(crate) fn shape(answer: &Answer, method: &str, path: &str) -> Shape {
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date", "content-length"].contains(&name.as_str()));
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let body = str::from_utf8(&answer.body).unwrap();
    let body = body.replace(&format!("{method} {path}"), "METHOD PATH");
    let body = body.replace(&answer.request_id(), "ID");
    (answer.status, headers.collect(), body)
}

type Shape = (u16, Vec<(String, String)>, String);

#[tokio::test]
async fn an_institution_path_is_as_unknown_as_any_other() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let nothing = proxy.send(acme().post("/no/such/path", BY_NUMBER)).await;
    let nothing = shape(&nothing, "POST", "/no/such/path");
    assert_eq!(nothing.0, 404);
    let mut asked = 0;
    let catalogue = Catalogue::standard();
    let open: BTreeSet<_> = catalogue
        .rows()
        .iter()
        .filter_map(|row| row.merchant_path.as_deref())
        .collect();
    for row in catalogue.rows() {
        let Some(path) = row
            .institution_path
            .as_deref()
            .filter(|path| !open.contains(path))
        else {
            continue;
        };
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let call = acme().post(path, BY_NUMBER).method(method.parse().unwrap());
            let found = shape(&proxy.send(call).await, method, path);
            assert_eq!(found, nothing, "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked > 100, "{asked}");
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_refused_operation_or_address_is_answered_with_its_reason() {
    let gatepay = GatePay::start();
    let suspended = acme().with(|tenant| tenant.standing = Standing::Suspended);
    let read_only = acme().with(|tenant| tenant.standing = Standing::ReadOnly);
    let elsewhere =
        acme().with(|tenant| tenant.addresses = ["203.0.113.0/24".parse().unwrap()].into());
    let here = acme().with(|tenant| tenant.addresses = ["127.0.0.1/32".parse().unwrap()].into());
    let no_money = acme().with(|tenant| tenant.permissions = denying("money").clone());
    for (name, shop, call, status, slug) in [
        (
            "suspended",
            &suspended,
            acme().post(QUERY, BY_NUMBER),
            403,
            "tenant_suspended",
        ),
        (
            "read only: a write",
            &read_only,
            acme().post(CREATE, order("A-0001")),
            403,
            "operation_not_allowed",
        ),
        (
            "read only: money",
            &read_only,
            acme().post(REFUND, A_REFUND),
            403,
            "operation_not_allowed",
        ),
        (
            "read only: a read",
            &read_only,
            acme().post(QUERY, BY_NUMBER),
            200,
            "not refused",
        ),
        (
            "from elsewhere",
            &elsewhere,
            acme().post(QUERY, BY_NUMBER),
            403,
            "address_not_allowed",
        ),
        (
            "from here",
            &here,
            acme().post(QUERY, BY_NUMBER),
            200,
            "not refused",
        ),
        (
            "money denied: money",
            &no_money,
            acme().post(REFUND, A_REFUND),
            403,
            "operation_not_allowed",
        ),
        (
            "money denied: a write",
            &no_money,
            acme().post(CREATE, order("A-0001")),
            200,
            "not refused",
        ),
    ] {
        let before = gatepay.count();
        let proxy = Proxy::before(&gatepay).tenant(shop.clone()).start();
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (status, slug), "{name}");
        assert_eq!(
            gatepay.count() - before,
            usize::from(status == 200),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_refused_request_has_spent_no_nonce() {
    let gatepay = GatePay::start();
    let shop = acme().with(|tenant| tenant.permissions = denying("money"));
    let proxy = Proxy::before(&gatepay).tenant(shop).start();
    let refund = acme().post(REFUND, A_REFUND).nonce("same").timestamp(&T0);
    let query = acme().post(QUERY, BY_NUMBER).nonce("same").timestamp(&T0);
    let broken = acme().post(QUERY, "{}").nonce("same").timestamp(&T0);
    assert_eq!(
        proxy.send(refund).await.refused(),
        (403, "operation_not_allowed")
    );
    assert_eq!(proxy.send(broken).await.refused(), (400, "invalid_body"));
    assert_eq!(proxy.send(query.clone()).await.status, 200);
    assert_eq!(proxy.send(query).await.refused(), (401, "replayed"));
}

/// The permissions of a tenant with a file that denies this word.
fn denying(word: &str) -> gatepay_tenancy::permissions::Permissions {
    let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[]);
    folder.tenant(&acme(), &format!("operations = {{ deny = ['{word}'] }}"));
    let loaded = gatepay_tenancy::load(&folder.path("proxy.toml"), &|_| None);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
    loaded.registry.tenants()[0].party.permissions.clone()
}
