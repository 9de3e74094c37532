//! Catalogue test: compares the catalogue's rows with `docs/gatepay/endpoints.json`, field by field.

use gatepay_core::operation::{AccountHeader, IdempotencyKey, Method, OperationScope};
use gatepay_core::{Catalogue, Operation};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    module: String,
    method: String,
    merchant_path: Option<String>,
    institution_method: Option<String>,
    institution_path: Option<String>,
    #[serde(default)]
    alternative_institution_paths: Vec<String>,
    on_behalf_of: bool,
    scope: String,
    kind: String,
    idempotency_field: Option<String>,
    confirmed: bool,
    look_up: Option<LookUp>,
}

#[derive(Deserialize)]
struct LookUp {
    operation: String,
    by: String,
}

#[test]
fn every_documented_call_is_a_row_and_every_row_is_documented() {
    let catalogue = Catalogue::standard();
    let rows = documented();
    assert_eq!(rows.len(), 83);
    assert_eq!(catalogue.rows().len(), rows.len());
    for row in &rows {
        let operation = find(&catalogue, row);
        let name = &operation.name;
        assert_eq!(operation.module.as_str(), row.module, "{name}: module");
        assert_eq!(operation.method.as_str(), row.method, "{name}: method");
        assert_eq!(
            operation.merchant_path.as_deref(),
            row.merchant_path.as_deref(),
            "{name}: merchant path"
        );
        assert_eq!(
            operation.institution_method.as_str(),
            row.institution_method.as_ref().unwrap_or(&row.method),
            "{name}: institution method"
        );
        assert_eq!(
            operation.institution_path.as_deref(),
            row.institution_path.as_deref(),
            "{name}: institution path"
        );
        assert_eq!(operation.scope.as_str(), row.scope, "{name}: scope");
        assert_eq!(operation.kind.as_str(), row.kind, "{name}: kind");
        assert_eq!(operation.confirmed, row.confirmed, "{name}: confirmed");
    }
}

#[test]
fn a_row_has_a_merchant_path_exactly_if_tenants_may_call_it() {
    for operation in Catalogue::standard().rows() {
        let is_tenants = operation.scope == OperationScope::Tenant;
        assert_eq!(
            operation.merchant_path.is_some(),
            is_tenants,
            "{}",
            operation.name
        );
    }
}

#[test]
fn the_account_header_is_the_documented_one() {
    let catalogue = Catalogue::standard();
    for row in documented() {
        let operation = find(&catalogue, &row);
        let want = match row.module.as_str() {
            _ if row.on_behalf_of => AccountHeader::OnBehalfOf,
            "commission_rule" => AccountHeader::MerchantId,
            _ => AccountHeader::None,
        };
        assert_eq!(operation.account, want, "{}", operation.name);
    }
}

#[test]
fn keys_and_look_ups_are_the_documented_ones() {
    let catalogue = Catalogue::standard();
    let mut look_ups = 0;
    for row in documented() {
        let operation = find(&catalogue, &row);
        let name = &operation.name;
        let documented = row
            .idempotency_field
            .as_deref()
            .map_or(IdempotencyKey::None, key);
        assert_eq!(operation.key, documented, "{name}: key");
        let look_up = operation.look_up.as_ref().map(|look_up| {
            let target = catalogue.named(look_up.operation).expect("a row");
            let path = target.merchant_path.as_ref();
            let path = path.or(target.institution_path.as_ref()).expect("a path");
            (format!("{} {path}", target.method), look_up.by.clone())
        });
        look_ups += usize::from(look_up.is_some());
        let documented = row.look_up.map(|row| (row.operation, key(&row.by)));
        assert_eq!(look_up, documented, "{name}: look-up");
    }
    assert_eq!(look_ups, 18);
}

#[test]
fn alternatives_are_what_other_pages_print() {
    let catalogue = Catalogue::standard();
    let mut alternatives = 0;
    for row in documented() {
        let operation = find(&catalogue, &row);
        let documented: Vec<_> = row
            .alternative_institution_paths
            .iter()
            .map(|alternative| match alternative.split_once(' ') {
                Some((method, path)) => (Method::parse(method).expect("a method"), path),
                None => (operation.institution_method, alternative.as_str()),
            })
            .collect();
        assert_eq!(operation.alternatives, documented, "{}", operation.name);
        alternatives += documented.len();
    }
    assert_eq!(alternatives, 6);
}

fn documented() -> Vec<Row> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/gatepay/endpoints.json"
    );
    let text = std::fs::read_to_string(path).expect("the endpoints are in docs/");
    serde_json::from_str(&text).expect("the endpoints have this form")
}

/// The row that a documented call reaches by its method and path.
fn find<'a>(catalogue: &'a Catalogue, row: &Row) -> &'a Operation {
    let method = Method::parse(&row.method).expect("a method of the catalogue");
    let position = match (&row.merchant_path, &row.institution_path) {
        (Some(path), _) => catalogue.merchant(method, path),
        (None, Some(path)) => catalogue.institution(method, path),
        (None, None) => None,
    };
    let path = row.merchant_path.as_ref().or(row.institution_path.as_ref());
    let position = position.unwrap_or_else(|| unreachable!("{method} {path:?}: no row"));
    &catalogue.rows()[position]
}

/// The key that the documentation names in prose. This list covers all of the documentation's prose for keys.
fn key(prose: &str) -> IdempotencyKey {
    match prose {
        "merchantTradeNo or prepayId" => {
            IdempotencyKey::Either("merchantTradeNo".into(), "prepayId".into())
        }
        "subscription order number" => IdempotencyKey::Either(
            "subscriptionOrderNo".into(),
            "merchantSubscriptionOrderNo".into(),
        ),
        "channelId + chain"
        | "channelId + chain (natural key: a second save updates the first)" => {
            IdempotencyKey::Both("channelId".into(), "chain".into())
        }
        "batch_id (and merchant_withdraw_id per sub-order)" => {
            IdempotencyKey::One("batch_id".into())
        }
        field => {
            assert!(!field.contains(' '), "a key in new words: {field}");
            IdempotencyKey::One(field.to_owned().into())
        }
    }
}
