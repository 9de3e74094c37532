use gatepay_core::operation::{
    AccountHeader, AnswerForm, ApiModule, IdempotencyKey, MediaType, Method, OperationScope,
};
use gatepay_core::spelling::is_reserved;
use gatepay_core::{Catalogue, Kind, Operation};
use proptest::prelude::*;

use crate::support::folder;

/// An operation that GatePay's documentation lacks.
const VOUCHER: &str = "[[operation]]
name = 'create_voucher'
module = 'giftcard'
kind = 'money'
method = 'POST'
merchant_path = '/v1/pay/voucher'
institution_path = '/payment/open/institution/v1/pay/voucher'
";

#[track_caller]
fn catalogue(text: &str) -> Catalogue {
    folder().proxy(text).loads().catalogue
}

/// The problems of tables at the top of `proxy.toml`.
fn problems(text: &str) -> Vec<String> {
    let problems = folder().proxy(text).problems();
    let text = |problem: &String| problem.trim_start_matches("proxy.toml:").to_owned();
    problems.iter().map(text).collect()
}

fn row<'a>(catalogue: &'a Catalogue, name: &str) -> &'a Operation {
    catalogue.named(name).unwrap()
}

#[test]
fn without_a_table_the_catalogue_is_the_documentations() {
    assert_eq!(catalogue("").rows(), Catalogue::standard().rows());
}

#[test]
fn an_operation_is_turned_off_and_on() {
    let text = "[[operation]]
name = 'create_order'
enabled = false
[[operation]]
name = 'refund_order_v3'
enabled = true
";
    let catalogue = catalogue(text);
    assert!(row(&catalogue, "create_order").off().is_some());
    assert!(row(&catalogue, "refund_order_v3").off().is_none());
    let standard = Catalogue::standard();
    assert!(row(&standard, "refund_order_v3").off().is_some());
}

#[test]
fn tenants_may_call_only_enabled_operations() {
    let text = format!("{VOUCHER}[[operation]]\nname = 'create_order'\nenabled = false\n");
    let configuration = folder()
        .proxy(&text)
        .tenant("acme", "")
        .tenant(
            "globex",
            "operations.allow = ['create_voucher', 'query_order']",
        )
        .loads();
    let may = |tenant: usize, name| {
        let position = configuration.catalogue.position(name).unwrap();
        let tenants = configuration.registry.tenants();
        tenants[tenant].party.permissions.allows(position)
    };
    assert!(may(0, "create_voucher") && may(0, "query_order") && !may(0, "create_order"));
    assert!(may(1, "create_voucher") && may(1, "query_order") && !may(1, "close_order"));

    let folder = folder()
        .proxy(&text)
        .tenant("acme", "operations.allow = ['create_order']");
    assert_eq!(
        folder.problems(),
        ["tenants.d/acme.toml:4: operations.allow[0]: is disabled: proxy.toml disables it"]
    );
}

#[test]
fn the_institution_path_of_an_operation_can_be_corrected() {
    let text = "[[operation]]
name = 'query_balance'
institution_method = 'GET'
institution_path = '/payment/open/institution/v1/pay/balance/query'
[[operation]]
name = 'create_conversion'
institution_path = '/transfer/open/institution/v1/pay/convert'
body_limit_bytes = 4_096
[[operation]]
name = 'create_account'
institution_path = '/merchant/open/institution/v2/accounts'
";
    let catalogue = catalogue(text);
    let balance = row(&catalogue, "query_balance");
    assert!(balance.is_verbatim());
    let position = catalogue.position("query_balance");
    let path = "/payment/open/institution/v1/pay/balance/query";
    assert_eq!(catalogue.institution(Method::Get, path), position);
    let path = "/payment/open/institution/v1/balance";
    assert_eq!(catalogue.institution(Method::Post, path), None);
    assert_eq!(row(&catalogue, "create_conversion").body_limit, Some(4_096));
    assert_eq!(
        row(&catalogue, "create_account").scope,
        OperationScope::Institution
    );
}

#[test]
fn a_published_alternative_brings_its_method_along() {
    let catalogue = catalogue(
        "[[operation]]\nname = 'query_balance'\ninstitution_path = '/payment/open/institution/v1/pay/balance/query'",
    );
    let balance = row(&catalogue, "query_balance");
    assert_eq!(balance.institution_method, Method::Get);
}

#[test]
fn every_published_alternative_can_be_chosen() {
    let standard = Catalogue::standard();
    let mut chosen = 0;
    for operation in standard.rows() {
        for (method, path) in operation.alternatives {
            let catalogue = catalogue(&format!(
                "[[operation]]\nname = '{}'\ninstitution_path = '{path}'",
                operation.name
            ));
            let position = catalogue.institution(*method, path);
            assert_eq!(position, standard.position(&operation.name));
            chosen += 1;
        }
    }
    assert_eq!(chosen, 6);
}

#[test]
fn two_operations_of_one_kind_may_swap_their_paths() {
    let prefix = "/payment/open/institution/v1/pay/order";
    let catalogue = catalogue(&format!(
        "[[operation]]\nname = 'query_order'\ninstitution_path = '{prefix}/refund/query'
[[operation]]\nname = 'query_refund'\ninstitution_path = '{prefix}/query'"
    ));
    let position = catalogue.institution(Method::Post, &format!("{prefix}/refund/query"));
    assert_eq!(position, catalogue.position("query_order"));
}

fn too_weak(name: &str, kind: &str, own: &str) -> String {
    format!(
        "is the path of {name}, which is of kind {kind}: no call of kind {own} may lead there, in any version or \
         spelling and by any method"
    )
}

const ORDER: &str = "/payment/open/institution/v1/pay/order";

/// The proxy would repeat a read that moves funds, and would never look the read up.
#[test]
fn no_read_leads_to_the_path_of_a_write_or_money_call() {
    let refund = too_weak("refund_order", "money", "read");
    for path in [
        "v1/pay/order",
        "v2/pay/order",
        "V1/PAY/Order",
        "v3beta/pay/order",
        "pay/order",
    ] {
        for method in ["POST", "GET", "PUT"] {
            let added = VOUCHER.replace("money", "read").replace(
                "institution_path = '/payment/open/institution/v1/pay/voucher'",
                &format!("institution_method = '{method}'\ninstitution_path = '/payment/open/institution/{path}/refund'"),
            );
            let fault = match (path, method) {
                ("v1/pay/order", "POST") => "has the same method and path as refund_order",
                _ => &refund,
            };
            assert_eq!(
                problems(&added),
                [format!("8: operation[0].institution_path: {fault}")],
                "{method} {path}"
            );
        }
    }
}

#[test]
fn no_correction_and_no_swap_leads_to_the_path_of_a_stronger_call() {
    assert_eq!(
        problems(&format!(
            "[[operation]]\nname = 'query_order'\ninstitution_path = '{ORDER}/close'
[[operation]]\nname = 'close_order'\ninstitution_path = '{ORDER}/query'"
        )),
        [
            format!(
                "3: operation[0].institution_path: {}",
                too_weak("close_order", "write", "read")
            ),
            format!(
                "6: operation[1].institution_path: {}",
                too_weak("query_order_v2", "read", "write")
            ),
        ]
    );
    assert_eq!(
        problems(&format!(
            "[[operation]]\nname = 'close_order'\ninstitution_path = '{ORDER}/REFUND'"
        )),
        [format!(
            "3: operation[0].institution_path: {}",
            too_weak("refund_order", "money", "write")
        )]
    );
    assert_eq!(
        problems(&format!(
            "[[operation]]\nname = 'query_order'\ninstitution_path = '{ORDER}/close2'
[[operation]]\nname = 'close_order'\ninstitution_path = '{ORDER}/Close2'"
        )),
        [format!(
            "3: operation[0].institution_path: {}",
            too_weak("close_order", "write", "read")
        )]
    );
    // Paths that only a page prints are known as well, and so are the paths that tenants call.
    for (path, name) in [
        (
            "/transfer/open/institution/v1/pay/convert",
            "create_conversion",
        ),
        ("/payment/open/institution/v2/pay/withdraw", "create_payout"),
    ] {
        assert_eq!(
            problems(&format!(
                "[[operation]]\nname = 'query_order'\ninstitution_path = '{path}'"
            )),
            [format!(
                "3: operation[0].institution_path: {}",
                too_weak(name, "money", "read")
            )]
        );
    }
}

#[test]
fn the_path_of_a_stronger_call_is_known_from_both_sides_and_from_other_tables() {
    let refund = too_weak("refund_order", "money", "read");
    let own = "[[operation]]
name = 'list_refunds'
scope = 'institution'
module = 'payment'
kind = 'read'
method = 'POST'
institution_path = '/v1/pay/order/refund'
";
    assert_eq!(
        problems(own),
        [format!("7: operation[0].institution_path: {refund}")]
    );
    let merchant = VOUCHER
        .replace("money", "read")
        .replace("'POST'", "'GET'")
        .replace("'/v1/pay/voucher'", "'/V1/pay/order/refund'");
    assert_eq!(
        problems(&merchant),
        [format!("6: operation[0].merchant_path: {refund}")]
    );
    // The stronger of two tables makes the weaker table invalid, and a built-in read stays a read.
    let again = VOUCHER
        .replace("create_voucher", "list_vouchers")
        .replace("money", "read")
        .replace("/v1/pay/voucher'\ninst", "/v1/pay/vouchers'\ninst")
        .replace("'POST'", "'GET'");
    assert_eq!(
        problems(&format!("{VOUCHER}{again}")),
        [format!(
            "14: operation[1].institution_path: {}",
            too_weak("the operation at proxy.toml:2", "money", "read")
        )]
    );
    let over = VOUCHER
        .replace("'POST'", "'PUT'")
        .replace("pay/voucher'\n[", "")
        .replace(
            "/payment/open/institution/v1/pay/voucher",
            &format!("{ORDER}/query"),
        );
    assert_eq!(
        problems(&over),
        [format!(
            "7: operation[0].institution_path: {}",
            too_weak("query_order", "read", "money")
        )]
    );
}

#[test]
fn an_operation_without_a_path_of_its_own_goes_out_on_behalf_of_the_tenant_too() {
    let catalogue = catalogue(
        "[[operation]]\nname = 'mcp_call'\nenabled = true\ninstitution_path = '/payment/open/institution/api/mcp'",
    );
    let mcp = row(&catalogue, "mcp_call");
    assert_eq!((mcp.off(), mcp.account), (None, AccountHeader::OnBehalfOf));
}

#[test]
fn an_added_operation_is_all_that_its_table_says() {
    let text = format!(
        "{VOUCHER}institution_method = 'PUT'
key = ['voucherNo', 'client_part']
media_type = 'multipart/form-data'
answer = 'bare'
body_limit_bytes = 1_024
[[operation]]
name = 'list_ledger'
scope = 'institution'
module = 'commission_rule'
kind = 'read'
method = 'GET'
institution_path = '/rate/ledger'
key = 'ledger_no'
"
    );
    let catalogue = catalogue(&text);
    let voucher = row(&catalogue, "create_voucher");
    assert_eq!(voucher.scope, OperationScope::Tenant);
    assert_eq!(
        (voucher.module, voucher.kind, voucher.method),
        (ApiModule::GiftCard, Kind::Money, Method::Post)
    );
    assert_eq!(voucher.institution_method, Method::Put);
    assert_eq!(voucher.account, AccountHeader::OnBehalfOf);
    assert_eq!(
        voucher.key,
        IdempotencyKey::Both("voucherNo".into(), "client_part".into())
    );
    assert_eq!(
        (voucher.media, voucher.answer, voucher.body_limit),
        (MediaType::Multipart, AnswerForm::Bare, Some(1_024))
    );
    assert_eq!(voucher.off(), None);
    let position = catalogue.position("create_voucher");
    assert_eq!(position, Some(Catalogue::standard().rows().len()));
    assert_eq!(
        catalogue.merchant(Method::Post, "/v1/pay/voucher"),
        position
    );

    let ledger = row(&catalogue, "list_ledger");
    assert_eq!(
        (ledger.scope, ledger.account),
        (OperationScope::Institution, AccountHeader::MerchantId)
    );
    assert_eq!(ledger.merchant_path, None);
    assert_eq!(ledger.key, IdempotencyKey::One("ledger_no".into()));
}

#[test]
fn module_kind_scope_and_merchant_path_of_an_operation_cannot_be_changed() {
    let cannot = "cannot be changed; a built-in operation can be enabled or disabled, and have its institution_path, \
                  institution_method and body_limit_bytes corrected";
    for (key, value) in [
        ("module", "'payout'"),
        ("kind", "'read'"),
        ("scope", "'institution'"),
        ("method", "'GET'"),
        ("merchant_path", "'/v1/pay/other'"),
        ("key", "'batch_id'"),
        ("media_type", "'application/json'"),
        ("answer", "'bare'"),
    ] {
        assert_eq!(
            problems(&format!(
                "[[operation]]\nname = 'create_payout'\n{key} = {value}"
            )),
            [format!("3: operation[0].{key}: {cannot}")]
        );
    }
    assert_eq!(
        problems("[[operation]]\nname = 'create_charge'\nscope = 'tenant'"),
        [
            "3: operation[0].scope: cannot be changed: this operation is the institution's own and is never open to tenants"
        ]
    );
    assert_eq!(
        problems("[[operation]]\nname = 'mcp_call'\nenabled = true"),
        [
            "3: operation[0].enabled: needs an institution_path beside it: GatePay publishes none for this operation"
        ]
    );
}

#[test]
fn no_tenants_operation_leads_to_a_path_of_the_institution() {
    let own = "is the institution's own and is never open to tenants";
    for path in [
        "/merchant/open/institution/v1/accounts/create",
        "/merchant/open/institution/v1/accounts",
        "/Merchant/Open/Institution/V1/Accounts/close",
        "/merchant/open/institution/v2/accounts/create",
        "/merchant/open/institution/v10/accounts/create",
        "/merchant/open/institution/V2/Accounts/create",
        "/merchant/open/institution/v2beta/accounts/create",
        "/merchant/open/institution/accounts/create",
        "/rate/commission_rule",
        "/v2/rate/commission_rule",
        "/transfer/open/institution/v1/pay/transfer/batch",
        "/transfer/open/institution/v2/pay/transfer",
        "/transfer/open/institution/pay/transfer",
        "/transfer/open/institution/v1/pay/charges/detail",
        "/transfer/open/institution/v2/pay/charge",
    ] {
        assert_eq!(
            problems(&format!(
                "[[operation]]\nname = 'query_order'\ninstitution_path = '{path}'"
            )),
            [format!("3: operation[0].institution_path: {own}")],
            "{path}"
        );
        let added = VOUCHER.replace("/payment/open/institution/v1/pay/voucher", path);
        assert_eq!(
            problems(&added),
            [format!("7: operation[0].institution_path: {own}")],
            "{path}"
        );
        let added = VOUCHER.replace("/v1/pay/voucher'\ninst", &format!("{path}'\ninst"));
        assert_eq!(
            problems(&added),
            [format!("6: operation[0].merchant_path: {own}")],
            "{path}"
        );
    }
    let added = VOUCHER.replace("giftcard", "charge");
    assert_eq!(
        problems(&added),
        [
            "3: operation[0].module: is the institution's own module and is never open to tenants; set scope = \"institution\""
        ]
    );
}

/// Caps, destinations and halts would judge one call, and GatePay execute another.
#[test]
fn no_money_call_leads_to_the_path_of_another_one_however_it_is_written() {
    const PAYOUT: &str = "/withdraw/open/institution/v1/pay/create/payouts";
    let alias = |own: &str, other: &str| {
        format!(
            "is a path of {other}: caps, destinations and halts would judge the call as {own}, and GatePay execute it as {other}"
        )
    };
    for (path, other) in [
        (PAYOUT.to_uppercase(), "create_payout"),
        (PAYOUT.replace("v1", "v2"), "create_payout"),
        (
            "/payment/open/institution/v1/pay/withdraw".to_owned(),
            "create_payout",
        ),
        (format!("{ORDER}/REFUND"), "refund_order"),
    ] {
        for own in ["create_conversion", "refund_order_v2"] {
            let moved = format!("[[operation]]\nname = '{own}'\ninstitution_path = '{path}'");
            let fault = alias(own, other);
            assert_eq!(
                problems(&moved),
                [format!("3: operation[0].institution_path: {fault}")]
            );
        }
        let added = VOUCHER.replace("/payment/open/institution/v1/pay/voucher", &path);
        let added = added.replace("method = 'POST'", "method = 'PUT'");
        let fault = alias("create_voucher", other);
        assert_eq!(
            problems(&added),
            [format!("7: operation[0].institution_path: {fault}")]
        );
    }
    // The path that a call has by another table, and two calls that exchange theirs.
    let moved = "[[operation]]\nname = 'create_payout'\ninstitution_path = '/withdraw/open/institution/v1/pay/out'\n";
    let added = VOUCHER.replace(
        "/payment/open/institution/v1/pay/voucher",
        "/withdraw/open/institution/v1/pay/OUT",
    );
    let fault = alias("create_voucher", "create_payout");
    assert_eq!(
        problems(&format!("{moved}{added}")),
        [format!("10: operation[1].institution_path: {fault}")]
    );
    let swapped = format!(
        "[[operation]]\nname = 'refund_order'\ninstitution_path = '{PAYOUT}'
[[operation]]\nname = 'create_payout'\ninstitution_path = '{ORDER}/refund'"
    );
    assert_eq!(
        problems(&swapped),
        [
            format!(
                "3: operation[0].institution_path: {}",
                alias("refund_order", "create_payout")
            ),
            format!(
                "6: operation[1].institution_path: {}",
                alias("create_payout", "refund_order")
            ),
        ]
    );
}

#[test]
fn no_tenants_operation_leads_to_a_path_added_for_the_institution() {
    let ledger = "[[operation]]
name = 'list_ledger'
scope = 'institution'
module = 'accounts'
kind = 'read'
method = 'GET'
institution_path = '/payment/open/institution/v1/pay/Voucher'
";
    assert_eq!(
        problems(&format!("{VOUCHER}{ledger}")),
        [
            "7: operation[0].institution_path: is the institution's own and is never open to tenants",
            "14: operation[1].institution_path: is also the path of the operation at proxy.toml:2, which tenants may call; use a different path",
        ]
    );
    let moved = "[[operation]]
name = 'create_charge'
institution_path = '/payment/open/institution/v1/pay/order'";
    assert_eq!(
        problems(moved),
        [
            "3: operation[0].institution_path: is also the path of create_order, which tenants may call; use a different path"
        ]
    );
}

#[test]
fn a_tenants_call_never_goes_where_the_institution_calls_for_itself() {
    assert_eq!(
        problems("[[operation]]\nname = 'create_payout'\ninstitution_path = '/v1/pay/withdraw'"),
        [
            "3: operation[0].institution_path: has no segment `institution`: GatePay might make the call for the institution itself"
        ]
    );
    // Such a path is accepted if GatePay's own pages print the path.
    catalogue(
        "[[operation]]\nname = 'create_batch_transfer'\ninstitution_path = '/v1/pay/batch/transfer'",
    );
}

#[test]
fn a_path_has_one_spelling() {
    for path in [
        "",
        "payment",
        "/",
        "/payment/",
        "//payment",
        "/payment//x",
        "/payment/../rate",
        "/payment/./x",
        "/payment/%2e",
        "/payment?x=1",
        "/payment#x",
        "/payment x",
        "/payment\\\\x",
        "/payment;x",
        "/päyment",
        "/{payment}",
    ] {
        for key in ["institution_path", "merchant_path"] {
            let text = format!("[[operation]]\nname = 'create_voucher'\n{key} = \"{path}\"");
            let problem = format!("3: operation[0].{key}: is not canonical: ");
            assert!(
                problems(&text).iter().any(|it| it.starts_with(&problem)),
                "{path} {:?}",
                problems(&text)
            );
        }
    }
}

#[test]
fn every_mistake_in_a_table_is_reported_with_its_place() {
    let text = "[[operation]]
name = 'creat_order'
enabled = 'no'
[[operation]]
name = 'create_voucher'
module = 'gift_card'
kind = 'gift'
method = 'PATCH'
scope = 'all'
key = ['a', 'b', 'c']
media_type = 'text/plain'
answer = 'none'
body_limit_bytes = 0
institution_paht = '/x'
[[operation]]
enabled = true
[[operation]]
name = 'Create'
[[operation]]
name = 'money'
[[operation]]
name = 'query_order'
[[operation]]
name = 'query_order'
[[operation]]
name = 'list_ledger'
scope = 'institution'
merchant_path = '/v1/ledger'
";
    assert_eq!(
        problems(text),
        [
            "2: operation[0].name: unknown operation (did you mean \"create_order\"?)",
            "3: operation[0].enabled: must be true or false",
            "4: operation[1].institution_path: is required",
            "4: operation[1].merchant_path: is required",
            "6: operation[1].module: unknown module (did you mean \"giftcard\"?)",
            "7: operation[1].kind: must be \"read\" or \"write\" or \"money\"",
            "8: operation[1].method: must be \"GET\" or \"POST\" or \"PUT\" or \"DELETE\"",
            "9: operation[1].scope: must be \"tenant\" or \"institution\"",
            "10: operation[1].key: must be the name of a field, or a list of two that belong together",
            "11: operation[1].media_type: must be \"application/json\" or \"multipart/form-data\"",
            "12: operation[1].answer: must be \"envelope\" or \"bare\"",
            "13: operation[1].body_limit_bytes: must be at least 1",
            "14: operation[1]: unknown key \"institution_paht\" (did you mean \"institution_path\"?)",
            "15: operation[2].name: is required",
            "18: operation[3].name: must be 1 to 48 of a-z, 0-9 and `_`, beginning with a letter",
            "20: operation[4].name: is the name of a module or kind",
            "24: operation[6].name: already has a table at proxy.toml:22",
            "25: operation[7].institution_path: is required",
            "25: operation[7].kind: is required",
            "25: operation[7].method: is required",
            "25: operation[7].module: is required",
            "28: operation[7].merchant_path: not allowed with scope = \"institution\": tenants cannot call the operation",
        ]
    );
    assert_eq!(
        problems("operation = 'none'"),
        ["1: operation: must be a list of tables"]
    );
    assert_eq!(
        problems("[[operation]]\nname = 'create_something_else'"),
        [
            "2: operation[0].name: unknown operation; to add it, set module, kind, method, merchant_path and institution_path"
        ]
    );
    let many = "[[operation]]\nname = 'query_order'\n".repeat(1_001);
    assert_eq!(
        problems(&many),
        ["1: operation: may occur at most 1000 times"]
    );
}

#[test]
fn one_method_and_path_has_one_operation() {
    let taken = VOUCHER.replace("/v1/pay/voucher", "/v1/pay/order");
    assert_eq!(
        problems(&taken),
        [
            "6: operation[0].merchant_path: has the same method and path as create_order",
            "7: operation[0].institution_path: has the same method and path as create_order",
        ]
    );
    let again = VOUCHER.replace("create_voucher", "make_voucher");
    assert_eq!(
        problems(&format!("{VOUCHER}{again}")),
        [
            "6: operation[0].merchant_path: has the same method and path as the operation at proxy.toml:9",
            "7: operation[0].institution_path: has the same method and path as the operation at proxy.toml:9",
            "13: operation[1].merchant_path: has the same method and path as the operation at proxy.toml:2",
            "14: operation[1].institution_path: has the same method and path as the operation at proxy.toml:2",
        ]
    );
    // The same path with another method is another operation.
    catalogue(&taken.replace("POST", "PUT"));
}

/// A path: new, or the path of a row, or another spelling of such a path, or a path near the institution's own paths.
fn path() -> impl Strategy<Value = String> {
    let standard = Catalogue::standard();
    let rows = standard.rows().iter();
    let known: Vec<_> = rows
        .flat_map(|row| row.institution_path.iter().chain(&row.merchant_path))
        .map(ToString::to_string)
        .collect();
    let near = OWN.iter().flat_map(|own| {
        [
            format!("{own}/other"),
            format!("{own}s"),
            own.to_uppercase(),
            own.replace("v1", "v2"),
            own.replace("/v1", ""),
        ]
    });
    let respelled = known.iter().flat_map(|path| {
        [
            path.to_uppercase(),
            path.replace("/v1/", "/V7beta/"),
            path.replace("/v1/", "/"),
        ]
    });
    let respelled: Vec<_> = respelled.collect();
    let new = (0..1_000).prop_map(|n| format!("/payment/open/institution/v9/{n}"));
    prop_oneof![
        2 => prop::sample::select(known),
        1 => prop::sample::select(near.collect::<Vec<_>>()),
        1 => prop::sample::select(respelled),
        3 => new,
    ]
}

/// A table that corrects a row.
fn corrected() -> impl Strategy<Value = String> {
    let standard = Catalogue::standard();
    let names: Vec<_> = standard
        .rows()
        .iter()
        .map(|row| row.name.to_string())
        .collect();
    (prop::sample::select(names), path(), any::<bool>()).prop_map(|(name, path, enabled)| {
        format!(
            "[[operation]]\nname = '{name}'\nenabled = {enabled}\ninstitution_path = '{path}'\n"
        )
    })
}

/// A table that adds a row.
fn added() -> impl Strategy<Value = String> {
    let name = (0..1_000).prop_map(|n| format!("added_{n}"));
    let scope = prop::sample::select(vec!["", "scope = 'tenant'", "scope = 'institution'"]);
    let module = prop_oneof![
        2 => Just(ApiModule::Payment),
        1 => prop::sample::select(ApiModule::ALL),
    ];
    let method = prop::sample::select(Method::ALL);
    let kind = prop::sample::select(Kind::ALL);
    (name, scope, module, method, kind, path(), path()).prop_map(
        |(name, scope, module, method, kind, merchant, institution)| {
            let merchant = match scope {
                "scope = 'institution'" => String::new(),
                _ => format!("merchant_path = '{merchant}'\n"),
            };
            format!(
                "[[operation]]\nname = '{name}'\n{scope}\nmodule = '{module}'\nmethod = '{method}'\nkind = '{kind}'\n{merchant}institution_path = '{institution}'\n"
            )
        },
    )
}

/// The institution's own paths: accounts, fee settings, transfer and charge (protocol.md 2).
const OWN: [&str; 4] = [
    "/merchant/open/institution/v1/accounts",
    "/rate/commission_rule",
    "/transfer/open/institution/v1/pay/transfer",
    "/transfer/open/institution/v1/pay/charge",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_configuration_lets_a_tenant_reach_accounts_fee_settings_transfer_or_charge(
        tables in prop::collection::vec(prop_oneof![corrected(), added()], 1..4),
    ) {
        let folder = folder().proxy(&tables.concat()).tenant("acme", "");
        let Ok(configuration) = folder.load() else { return Ok(()) };
        let rows = configuration.catalogue.rows();
        let acme = &configuration.registry.tenants()[0];
        for (position, row) in rows.iter().enumerate() {
            if row.scope == OperationScope::Institution {
                prop_assert!(!acme.party.permissions.allows(position), "{}", row.name);
                prop_assert_eq!(&row.merchant_path, &None);
                continue;
            }
            let path = row.institution_path.as_deref().unwrap_or_default().to_lowercase();
            prop_assert!(!is_reserved(&path), "{}: {path}", row.name);
            prop_assert!(!OWN.iter().any(|own| without_version(&path).starts_with(&without_version(own))), "{}: {path}", row.name);
            let same = |other: &Operation| other.institution_path.as_deref().is_some_and(|it| it.to_lowercase() == path);
            prop_assert!(!rows.iter().any(|it| it.scope == OperationScope::Institution && same(it)), "{}: {path}", row.name);
        }
        for row in Catalogue::standard().rows().iter().filter(|row| row.scope == OperationScope::Institution) {
            prop_assert_eq!(configuration.catalogue.named(&row.name).unwrap().scope, OperationScope::Institution);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_configuration_lets_a_read_lead_to_the_path_of_a_write_or_money_call(
        tables in prop::collection::vec(prop_oneof![corrected(), added()], 1..4),
    ) {
        let Ok(configuration) = folder().proxy(&tables.concat()).load() else { return Ok(()) };
        let (rows, standard) = (configuration.catalogue.rows(), Catalogue::standard());
        let path = |row: &Operation| row.institution_path.as_deref().map(without_version);
        for read in rows.iter().filter(|row| row.kind == Kind::Read && row.institution_path.is_some()) {
            // GatePay's pages have one path for setting and for reading a fee rule.
            let is_fee_rule = standard.rows().contains(read) && read.name == "query_fee_rule";
            let strong = rows.iter().chain(standard.rows()).filter(|row| row.kind != Kind::Read);
            for strong in strong.filter(|_| !is_fee_rule) {
                prop_assert!(path(read) != path(strong), "{} and {}", read.name, strong.name);
            }
        }
    }
}

/// A path in lower case, without segments that are versions.
fn without_version(path: &str) -> String {
    let path = path.to_lowercase();
    let is_version = |segment: &&str| {
        segment.starts_with('v') && segment[1..].starts_with(|digit: char| digit.is_ascii_digit())
    };
    let segments = path.split('/').filter(|segment| !is_version(segment));
    segments.collect::<Vec<_>>().join("/")
}
