use gatepay_tenancy::{ConfigOutline, ConfigSnapshot, Configuration, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Folder, folder, tenant};

fn plan(before: &Configuration, after: &Configuration) -> Plan {
    Plan::between(ConfigSnapshot::of(before), ConfigSnapshot::of(after))
}

fn between(before: &Folder, after: &Folder) -> Plan {
    plan(&before.loads(), &after.loads())
}

fn told(configuration: &Configuration) -> ConfigOutline {
    let text = serde_json::to_string(&ConfigSnapshot::of(configuration)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn words(plan: &Plan) -> Vec<String> {
    plan.to_string().lines().map(str::to_owned).collect()
}

fn tenants(count: usize) -> Folder {
    (0..count).fold(folder(), |folder, number| {
        folder.tenant(&format!("shop-{number:03}"), "")
    })
}

#[test]
fn a_plan_between_equal_configurations_has_no_changes() {
    let files = || {
        folder()
            .tenant("acme", "")
            .operator("office", "")
            .proxy("operators = 'operators.d'")
    };
    let plan = between(&files(), &files());
    assert!(!plan.changes && plan.guard.is_empty());
    assert_eq!(
        (plan.summary.as_str(), plan.to_string().as_str()),
        ("nothing changes", "")
    );
}

#[test]
fn each_change_of_a_plan_is_one_line() {
    let before = folder()
        .proxy("operators = 'operators.d'\nlog = { format = 'human' }")
        .tenant("acme", "addresses = ['203.0.113.0/24']")
        .tenant("hooli", "")
        .operator("office", "operations = { allow = ['accounts', 'read'] }");
    let after = folder()
        .file(
            "proxy.toml",
            "operators = 'operators.d'
log = { format = 'json' }
upstream = { quota = { requests_per_second = 900 } }
[institution]
account_id = '7'
[[institution.credential]]
client_id = 'institution'
secret = { file = 'secrets/institution.key' }
[[operation]]
name = 'create_gift_card'
enabled = false
",
        )
        .file(
            "tenants.d/acme.toml",
            "id = 'acme'
sub_account = 'account-acme'
standing = 'suspended'
limits = { requests_per_second = 80, money = { requests_per_second = 2 } }
operations = { allow = ['query_order', 'create_order'] }
[[credential]]
client_id = 'client-acme'
secret = { file = '../secrets/acme.key' }
not_after = 2027-01-01T00:00:00Z
[[credential]]
client_id = 'client-acme-2'
secret = { file = '../secrets/acme-2.key' }
",
        )
        .secret("acme", "another-made-up-secret")
        .secret("acme-2", "made-up-acme-2-secret")
        .tenant("initech", "standing = 'read_only'")
        .operator(
            "office",
            "operations = { allow = ['accounts', 'query_order'] }",
        );
    let plan = between(&before, &after);
    assert_eq!(
        plan.summary,
        "tenants: 1 added, 1 removed, 1 changed; operators: 1 changed; institution: 1 changed; \
         operations: 1 changed; settings: 2 changed"
    );
    let words = words(&plan);
    for line in [
        "~ setting: log.format: human -> json",
        "~ setting: upstream.quota.requests_per_second: none -> 900",
        "~ institution: account_id: none -> 7",
        "~ operation create_gift_card: enabled: true -> false",
        "+ tenant initech: sub-account account-initech, standing read_only",
        "- tenant hooli: sub-account account-hooli, standing active",
        "~ tenant acme: addresses: 203.0.113.0/24 -> anywhere",
        "~ tenant acme: credential.client-acme: another secret, not_after none -> 2027-01-01T00:00:00Z",
        "~ tenant acme: credential.client-acme-2: added",
        "~ tenant acme: limits.burst: 100 -> 160",
        "~ tenant acme: limits.money.burst: none -> 4",
        "~ tenant acme: limits.money.requests_per_second: none -> 2",
        "~ tenant acme: limits.requests_per_second: 50 -> 80",
        "~ tenant acme: operations: all that are open -> create_order, query_order",
        "~ tenant acme: standing: active -> suspended",
    ] {
        assert!(words.iter().any(|it| it == line), "{line}\n{words:#?}");
    }
    let office = words
        .iter()
        .find(|line| line.starts_with("~ operator office: operations:"))
        .unwrap();
    assert!(
        office.contains(" -query_refund") && !office.contains("query_order "),
        "{office}"
    );
    assert_eq!(words.len(), 16, "and no more");
    assert!(
        plan.guard.is_empty(),
        "a suspension is never held up: {:?}",
        plan.guard
    );
}

#[test]
fn the_json_of_a_plan_has_the_same_changes_as_its_text() {
    let before = folder().tenant("acme", "");
    let after = folder()
        .tenant("acme", "limits = { burst = 7 }")
        .tenant("hooli", "");
    let plan = serde_json::to_value(between(&before, &after)).unwrap();
    assert_eq!(plan["changes"], true);
    assert_eq!(plan["guard"], json!([]));
    assert_eq!(plan["hash"].as_str().unwrap().len(), 32);
    let tenants = &plan["tenants"];
    assert_eq!(
        (&tenants["before"], &tenants["after"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        tenants["changed"],
        json!([{ "id": "acme", "changes": [{ "key": "limits.burst", "before": 100, "after": 7 }] }])
    );
    assert_eq!(tenants["added"][0]["id"], "hooli");
    assert_eq!(tenants["added"][0]["facts"]["sub_account"], "account-hooli");
    for group in ["settings", "institution"] {
        assert_eq!(plan[group], json!([]));
    }
}

#[test]
fn a_plan_contains_neither_a_secret_nor_a_whole_fingerprint() {
    let configuration = folder().tenant("acme", "").loads();
    let text = serde_json::to_string(&ConfigSnapshot::of(&configuration)).unwrap();
    assert!(!text.contains("made-up"));
    let outline: Value = serde_json::from_str(&text).unwrap();
    let fingerprint = &outline["tenants"]["acme"]["credential.client-acme"]["fingerprint"];
    assert_eq!(fingerprint.as_str().unwrap().len(), 8);
}

#[test]
fn a_running_process_is_compared_by_its_outline() {
    let before = folder().tenant("acme", "").tenant("hooli", "").loads();
    let after = folder()
        .tenant("acme", "standing = 'suspended'")
        .tenant("initech", "")
        .loads();
    let told_before = told(&before);
    let (here, there) = (
        plan(&before, &after),
        Plan::against(&told_before, ConfigSnapshot::of(&after)),
    );
    assert_eq!(
        serde_json::to_value(here).unwrap(),
        serde_json::to_value(there).unwrap()
    );
    assert!(!Plan::against(&told_before, ConfigSnapshot::of(&before)).changes);
}

#[test]
fn removing_many_at_once_is_guarded() {
    let removed = |before, after| between(&tenants(before), &tenants(after)).guard;
    assert_eq!(removed(12, 1), ["removes 11 of 12 tenants"]);
    assert_eq!(removed(11, 1), [""; 0], "ten may go");
    assert_eq!(removed(55, 44), [""; 0], "a fifth may go");
    assert_eq!(removed(54, 43), ["removes 11 of 54 tenants"]);
    assert_eq!(removed(0, 50), [""; 0], "anybody may come");
}

#[test]
fn moving_a_caller_to_another_account_is_guarded_and_another_key_is_not() {
    let acme = || folder().tenant("acme", "");
    let moved = acme().file(
        "tenants.d/acme.toml",
        tenant("acme", "").replace("account-acme", "77"),
    );
    assert_eq!(
        between(&acme(), &moved).guard,
        ["moves tenant acme from sub-account account-acme to 77"]
    );
    let renamed = folder()
        .file(
            "tenants.d/other.toml",
            tenant("other", "")
                .replace("client-other", "client-acme")
                .replace("other.key", "acme.key"),
        )
        .secret("acme", "made-up-acme-secret");
    assert_eq!(
        between(&acme(), &renamed).guard,
        ["moves client id client-acme from sub-account account-acme to account-other"]
    );
    let new_key = acme().secret("acme", "another-made-up-secret");
    let plan = between(&acme(), &new_key);
    assert!(plan.changes && plan.guard.is_empty());
    let new_name = folder()
        .file(
            "tenants.d/acme-2.toml",
            tenant("acme", "").replace("id = 'acme'", "id = 'acme-2'"),
        )
        .secret("acme", "made-up-acme-secret");
    let plan = between(&acme(), &new_name);
    assert!(
        plan.changes && plan.guard.is_empty(),
        "the caller acts for whom it did"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// An operator that confirms a hash confirms exactly this change.
    #[test]
    fn equal_plan_hashes_mean_equal_changes(bursts in prop::collection::vec(1_u32..4, 3), count in 1_usize..3) {
        let folder_of = |burst: u32, count: usize| {
            let more = format!("limits = {{ burst = {burst} }}");
            (0..count).fold(folder(), |folder, number| folder.tenant(&format!("shop-{number}"), &more)).loads()
        };
        let [a, b, c] = [0, 1, 2].map(|index| folder_of(bursts[index], count));
        let [ab, again, ac] = [plan(&a, &b), plan(&a, &folder_of(bursts[1], count)), plan(&a, &c)];
        prop_assert_eq!(&ab.hash, &again.hash);
        prop_assert_eq!(ab.hash == ac.hash, bursts[1] == bursts[2]);
        prop_assert_eq!(ab.changes, bursts[0] != bursts[1]);
        let larger = plan(&folder_of(bursts[0], count + 1), &folder_of(bursts[1], count + 1));
        prop_assert_ne!(ab.hash, larger.hash);
    }
}
