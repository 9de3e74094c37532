use std::sync::Arc;

use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
use gatepay_tenancy::{
    DatedCredential, Operator, PartyId, PartyRef, Registry, Standing, SubAccount, Tenant,
};
use zeroize::Zeroizing;

use crate::support::{Folder, folder, operator};

fn with_operators() -> Folder {
    folder().proxy("operators = 'operators.d'")
}

#[test]
fn without_the_operators_key_no_operator_is_loaded() {
    let registry = folder().operator("desk", "").loads().registry;
    assert!(registry.operators().is_empty() && registry.find("client-desk").is_none());
}

#[test]
fn an_operator_is_found_like_a_tenant_and_told_apart() {
    let registry = with_operators()
        .tenant("zeta", "")
        .tenant("acme", "")
        .operator("desk", "")
        .operator("audit", "standing = 'read_only'")
        .loads()
        .registry;
    let found = registry.find("client-desk").unwrap();
    let PartyRef::Operator(desk) = found.owner else {
        panic!("it is an operator")
    };
    assert!(Arc::ptr_eq(desk, &registry.operators()[1]));
    let found = registry.find("client-acme").unwrap();
    assert!(matches!(found.owner, PartyRef::Tenant(_)));
    let standing = registry.operators()[0].party.standing;
    assert_eq!(standing, Standing::ReadOnly);
}

#[test]
fn registry_positions_are_dense_with_tenants_first() {
    let registry = with_operators()
        .tenant("zeta", "")
        .operator("bureau", "")
        .tenant("beta", "")
        .operator("audit", "")
        .loads()
        .registry;
    let parties = registry.parties().map(|who| who.party().id.as_str());
    let parties: Vec<_> = parties.collect();
    assert_eq!(parties, ["beta", "zeta", "audit", "bureau"]);
    for (position, id) in parties.into_iter().enumerate() {
        let found = registry.find(&format!("client-{id}")).unwrap();
        assert_eq!(found.position, position);
        assert_eq!(found.owner.party().id.as_str(), id);
        assert!(std::ptr::eq(
            found.credential,
            &raw const found.owner.party().credentials[0]
        ));
    }
}

#[test]
fn the_registry_knows_only_the_sub_accounts_of_tenants() {
    let registry = with_operators()
        .tenant("acme", "standing = 'suspended'")
        .operator("desk", "")
        .loads()
        .registry;
    assert!(registry.knows_account("account-acme"));
    assert!(!registry.knows_account("account-desk") && !registry.knows_account(""));
}

#[test]
fn an_operator_may_call_every_enabled_operation_by_default() {
    let configuration = with_operators()
        .operator("desk", "")
        .operator(
            "audit",
            "operations = { allow = ['read', 'create_account'], deny = ['charge'] }",
        )
        .loads();
    let may = |operator: usize, name| {
        let position = configuration.catalogue.position(name).unwrap();
        let operator = &configuration.registry.operators()[operator];
        operator.party.permissions.allows(position)
    };
    let (audit, desk) = (0, 1);
    for name in ["create_charge", "create_order", "list_accounts"] {
        assert!(may(desk, name), "{name}");
    }
    assert!(!may(desk, "mcp_call") && !may(desk, "refund_order_v3"));
    for name in ["query_order", "list_accounts", "create_account"] {
        assert!(may(audit, name), "{name}");
    }
    assert!(!may(audit, "charge_detail") && !may(audit, "create_order"));
}

#[test]
fn one_file_may_hold_many_operators() {
    let text: String = ["desk", "audit"]
        .map(|id| format!("[[operator]]\n{}", operator(id, "").replace("../", "")))
        .concat();
    let registry = folder()
        .proxy("operators = 'all.toml'")
        .operator("desk", "")
        .operator("audit", "")
        .file("all.toml", text)
        .loads()
        .registry;
    assert_eq!(registry.operators().len(), 2);
}

const ASKED: &str = "state_dir = 'state'
operators = 'operators.d'
store = { path = 'state/gatepay.db' }
admin = { operator = [
    { name = 'alice', token = { file = 'secrets/alice.key' }, approve = true },
    { name = 'bob', token = { file = 'secrets/bob.key' }, approve = true },
] }
caps.all = [{ calls = ['payouts'], currency = 'USDT', approve_above = '10' }]
";

fn with_approvers(proxy: &str) -> Folder {
    let folder = folder().proxy(proxy);
    let folder = folder.secret("alice", "made-up-token-of-alice");
    folder.secret("bob", "made-up-token-of-bob")
}

#[test]
fn an_operator_whose_calls_need_approvals_says_which_approvers_hold_its_secret() {
    let silent = with_approvers(ASKED).operator("desk", "");
    let problems = silent.problems();
    let [problem] = &problems[..] else {
        panic!("{problems:?}")
    };
    let expected =
        "operators.d/desk.toml: admin_operators: is required: caps.all has approve_above";
    assert!(problem.starts_with(expected), "{problem}");

    for (said, holders) in [("[]", vec![]), ("['bob']", vec!["bob"])] {
        let folder = with_approvers(ASKED).operator("desk", &format!("admin_operators = {said}"));
        let registry = folder.loads().registry;
        let found = registry.parties().next().unwrap();
        let told: Vec<&str> = found
            .admin_operators()
            .unwrap()
            .iter()
            .map(PartyId::as_str)
            .collect();
        assert_eq!(told, holders);
    }
    for nothing in ["approve_above = '10', shadow = true", "per_day = '10'"] {
        let proxy = ASKED.replace("approve_above = '10'", nothing);
        with_approvers(&proxy).operator("desk", "").loads();
    }
}

#[test]
fn a_link_to_an_approver_that_does_not_exist_is_a_problem_of_a_tenant_too() {
    let folder = with_approvers(ASKED)
        .tenant("acme", "admin_operators = ['alcie']")
        .operator("desk", "admin_operators = ['bob', 'bobby']");
    assert_eq!(
        folder.problems(),
        [
            "operators.d/desk.toml:3: admin_operators: bobby is the name of no [[admin.operator]] in proxy.toml",
            "tenants.d/acme.toml:4: admin_operators: alcie is the name of no [[admin.operator]] in proxy.toml",
        ]
    );
}

#[test]
fn an_operator_has_no_account_and_no_share() {
    let folder = with_operators()
        .operator("desk", "weight = 1\nsub_account = '1'")
        .operator("audit", "timestamp.past_ms = 300_001\nlimits.burst = 0");
    assert_eq!(
        folder.problems(),
        [
            "operators.d/audit.toml:3: timestamp.past_ms: may be at most the proxy's own, 300000",
            "operators.d/audit.toml:4: limits.burst: must be at least 1",
            "operators.d/desk.toml:3: unknown key \"weight\"",
            "operators.d/desk.toml:4: unknown key \"sub_account\"",
        ]
    );
}

#[test]
fn operators_that_cannot_be_listed_are_a_problem() {
    assert_eq!(
        with_operators().problems(),
        ["proxy.toml:1: operators: folder or file not found; create it, or change the path"]
    );
}

#[test]
fn a_duplicate_id_client_id_or_secret_is_found_across_tenants_and_operators() {
    let same = "id = 'acme'
[[credential]]
client_id = 'client-acme'
secret = { file = '../secrets/acme.key' }
[[credential]]
client_id = 'institution'
secret = { file = '../secrets/institution.key' }
";
    let folder = with_operators()
        .tenant("acme", "")
        .file("operators.d/acme.toml", same);
    assert_eq!(
        folder.problems(),
        [
            "operators.d/acme.toml:1: id: is already used at tenants.d/acme.toml:1",
            "operators.d/acme.toml:3: credential[0].client_id: is already used at tenants.d/acme.toml:3",
            "operators.d/acme.toml:4: credential[0].secret: same secret as at tenants.d/acme.toml:3; every credential needs its own",
            "operators.d/acme.toml:6: credential[1].client_id: is already used at proxy.toml:3",
            "operators.d/acme.toml:7: credential[1].secret: same secret as at proxy.toml:4; every credential needs its own",
        ]
    );
}

#[test]
fn operators_made_in_this_process_obey_the_same_rules() {
    let credentials = |id: &str| {
        let secret = SecretKey::new(Zeroizing::new(format!("made-up-{id}"))).unwrap();
        let credential = Credential::new(ClientId::parse(id).unwrap(), &secret);
        vec![DatedCredential::undated(credential)]
    };
    let id = PartyId::parse("acme").unwrap();
    let account = SubAccount::parse("1").unwrap();
    let catalogue = Catalogue::standard();
    let tenant = Tenant::new(id.clone(), account, &catalogue, credentials("a"));
    let operator = Operator::new(id, &catalogue, credentials("a"));
    let conflicts = Registry::new(vec![tenant], vec![operator], &[])
        .err()
        .unwrap();
    let conflicts: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(
        conflicts,
        ["id", "client id", "secret"]
            .map(|what| format!("tenant acme and operator acme have the same {what}"))
    );
}
