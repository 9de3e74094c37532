use std::fs;
use std::os::unix::fs::symlink;

use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
use gatepay_tenancy::{
    ConfigSnapshot, ConfigWatch, DatedCredential, Party, PartyId, Plan, Registry, SubAccount,
    Tenant,
};
use zeroize::Zeroizing;

use crate::support::{Folder, folder, lines, operator, tenant};

pub(crate) fn ids(registry: &Registry) -> Vec<&str> {
    registry
        .tenants()
        .iter()
        .map(|it| it.party.id.as_str())
        .collect()
}

#[test]
fn a_tenant_is_found_by_each_of_its_client_ids() {
    let second = "[[credential]]\nclient_id = 'second'\nsecret = { env = 'SECOND' }\n";
    let first = second.replace("second", "first").replace("SECOND", "FIRST");
    let folder = folder()
        .tenant("zeta", "")
        .file(
            "tenants.d/acme.toml",
            format!("id = 'acme'\nsub_account = '1'\n{first}{second}"),
        )
        .variable("FIRST", "made-up-1")
        .variable("SECOND", "made-up-2");
    let registry = folder.loads().registry;
    assert_eq!(ids(&registry), ["acme", "zeta"]);
    for (client_id, tenant) in [
        ("first", "acme"),
        ("second", "acme"),
        ("client-zeta", "zeta"),
    ] {
        let found = registry.find(client_id).unwrap();
        assert_eq!(found.owner.party().id.as_str(), tenant);
        assert_eq!(found.credential.credential.client_id.as_str(), client_id);
    }
    assert!(registry.find("institution").is_none());
    assert!(registry.find("").is_none());
}

/// Reads the files again, and applies their restrictions to a registry.
fn restricted(watch: &mut ConfigWatch, folder: &Folder, registry: &Registry) -> Option<Registry> {
    watch.read(&watch.changed_files(), &folder.env());
    watch.restricted(registry)
}

#[test]
fn a_restriction_takes_from_the_parties_it_names_and_leaves_all_else_as_it_was() {
    let folder = folder()
        .tenant("acme", "weight = 3")
        .tenant("globex", "")
        .tenant("zeta", "standing = 'suspended'")
        .operator("desk", "")
        .proxy("operators = 'operators.d'");
    let configuration = folder.loads();
    let before = &configuration.registry;
    let (mut watch, _) = ConfigWatch::open(&folder.path("proxy.toml"), &folder.env())
        .map_err(|problems| lines(&problems))
        .unwrap();
    let ends = |id, time| {
        let dated = format!(".key' }}, not_after = {time} }}");
        tenant(id, "").replace(".key' } }", &dated)
    };
    let folder = folder
        .tenant("acme", "standing = 'suspended'")
        .file(
            "tenants.d/globex.toml",
            ends("globex", "2026-01-01T00:00:00Z"),
        )
        .tenant("nobody", "standing = 'suspended'")
        .operator("desk", "standing = 'read_only'");
    let after = restricted(&mut watch, &folder, before).unwrap();
    let begin = ConfigSnapshot::of(&configuration);
    let end = ConfigSnapshot {
        registry: &after,
        ..begin
    };
    let plan = Plan::between(begin, end).to_string();
    assert_eq!(
        plan.trim(),
        "~ operator desk: standing: active -> read_only\n\
         ~ tenant acme: standing: active -> suspended\n\
         ~ tenant globex: credential.client-globex: not_after none -> 2026-01-01T00:00:00Z"
    );
    for (position, (old, new)) in before.parties().zip(after.parties()).enumerate() {
        let [old, new] = [old.party(), new.party()];
        let [one, other] = [old, new].map(|party| &party.credentials[0].credential);
        assert!(one.key.same_secret(&other.key));
        let client_id = other.client_id.as_str();
        assert_eq!(after.find(client_id).unwrap().position, position);
        assert_eq!(after.position(new.id.as_str()), Some(position));
    }
    assert!(
        restricted(&mut watch, &folder, &after).is_none(),
        "nothing is left to take"
    );
    let folder = folder
        .tenant("acme", "standing = 'read_only'")
        .file(
            "tenants.d/globex.toml",
            ends("globex", "2027-01-01T00:00:00Z"),
        )
        .operator("desk", "");
    assert!(
        restricted(&mut watch, &folder, &after).is_none(),
        "nothing is given back"
    );
    let folder = folder.file(
        "tenants.d/globex.toml",
        "id = 'globex'\nsub_account = 7\n[[credential]]\nclient_id = 'client-globex'\nnot_after = 2025-01-01T00:00:00Z",
    );
    let earlier = restricted(&mut watch, &folder, &after).unwrap();
    let end = |registry: &Registry| registry.find("client-globex").unwrap().credential.not_after;
    assert!(
        end(&earlier) < end(&after),
        "of a table without a good account and without a secret"
    );
}

#[test]
fn a_party_is_restricted_by_its_own_file_and_not_by_another_that_names_it_too() {
    let suspends = |id: &str| tenant(id, "standing = 'suspended'");
    let read_only = |id: &str| operator(id, "standing = 'read_only'");
    let folder = folder()
        .tenant("acme", "")
        .tenant("globex", "")
        .operator("desk", "")
        .proxy("operators = 'operators.d'");
    let (mut watch, configuration) =
        ConfigWatch::open(&folder.path("proxy.toml"), &folder.env()).unwrap_or_else(|_| panic!());
    let before = &configuration.registry;
    // Copies with the id still to be edited, also one of another kind of party.
    let folder = folder
        .file("tenants.d/aaaa.toml", suspends("acme"))
        .file(
            "tenants.d/zzzz.toml",
            suspends("globex").replace("sub_account", "sub"),
        )
        .file("tenants.d/desk.toml", suspends("desk"))
        .file("operators.d/acme.toml", read_only("acme"));
    assert!(restricted(&mut watch, &folder, before).is_none(), "copies");

    let folder = folder.file("tenants.d/acme.toml", tenant("acme", "weight = 2"));
    assert!(
        restricted(&mut watch, &folder, before).is_none(),
        "read again, it is its own file still"
    );
    let folder = folder.file(
        "tenants.d/acme.toml",
        tenant("acme", "standing = 'read_only'").replace("sub_account", "sub"),
    );
    let standings = |registry: &Registry| {
        let parties = registry.parties().map(|it| it.party().standing.as_str());
        parties.collect::<Vec<_>>()
    };
    let own = restricted(&mut watch, &folder, before).unwrap();
    assert_eq!(
        standings(&own),
        ["read_only", "active", "active"],
        "its own file"
    );

    let folder = folder.proxy("operators = 'operators.d'\ntenants = './tenants.d/../tenants.d'");
    assert!(
        restricted(&mut watch, &folder, &own).is_none(),
        "another path to the same folder"
    );
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    let folder = folder.file("tenants.d/globex.toml", tenant("initech", ""));
    let moved = restricted(&mut watch, &folder, before).unwrap();
    assert_eq!(
        standings(&moved),
        ["suspended", "suspended", "active"],
        "its own file is gone, or names it no longer"
    );
}

#[test]
fn a_tenant_in_json_equals_the_tenant_in_toml() {
    let toml = "id = 'acme'
sub_account = '2124538349'
standing = 'read_only'
weight = 1
contact = 'Ada, +49 555'
addresses = ['203.0.113.0/24', '2001:db8::1']
limits = { requests_per_second = 7, in_flight = 2, money = { requests_per_second = 1, burst = 1 } }
operations = { allow = ['payment', 'balance'], deny = ['write'] }
timestamp = { past_ms = 1_000 }
notifications = { url = 'https://shop.example/hook?key=1', urls = ['https://a.example'], ack = 'status' }
[[credential]]
client_id = 'client'
secret = { env = 'KEY' }
not_before = 2026-01-01T00:00:00Z
";
    let json = r#"{
  "id": "acme", "sub_account": "2124538349", "standing": "read_only", "weight": 1,
  "addresses": ["203.0.113.0/24", "2001:db8::1"],
  "limits": {"requests_per_second": 7, "in_flight": 2, "money": {"requests_per_second": 1, "burst": 1}},
  "contact": "Ada, +49 555",
  "operations": {"allow": ["payment", "balance"], "deny": ["write"]},
  "timestamp": {"past_ms": 1000},
  "notifications": {"url": "https://shop.example/hook?key=1", "urls": ["https://a.example"], "ack": "status"},
  "credential": [{"client_id": "client", "secret": {"env": "KEY"}, "not_before": "2026-01-01T01:00:00+01:00"}]
}"#;
    let [from_toml, from_json] = [("acme.toml", toml), ("acme.json", json)].map(|(name, text)| {
        let folder = folder().file(&format!("tenants.d/{name}"), text);
        folder.variable("KEY", "made-up").loads().registry
    });
    let said = |tenant: &Tenant| {
        let Tenant {
            party,
            sub_account,
            shared_sub_account,
            weight,
            options,
        } = tenant;
        let Party {
            id,
            standing,
            addresses,
            replay,
            limits,
            permissions,
            window,
            credentials,
        } = party;
        let dates: Vec<_> = credentials
            .iter()
            .map(|it| (it.credential.client_id.clone(), it.not_before, it.not_after))
            .collect();
        format!(
            "{id} {sub_account} {shared_sub_account} {standing:?} {weight} {addresses:?} {replay:?} {limits:?} {permissions:?} {window:?} {options:?} {dates:?}"
        )
    };
    let [toml, json] = [&from_toml, &from_json].map(|registry| &registry.tenants()[0]);
    assert_eq!(said(toml), said(json));
    let [toml, json] = [toml, json].map(|tenant| &tenant.party.credentials[0].credential.key);
    assert!(toml.same_secret(json));
}

#[test]
fn one_file_may_hold_many_tenants() {
    let toml: String = ["zeta", "acme"]
        .map(|id| format!("[[tenant]]\n{}", tenant(id, "").replace("../", "")))
        .concat();
    let folder = folder()
        .tenant("acme", "")
        .tenant("zeta", "")
        .proxy("tenants = 'all.toml'")
        .file("all.toml", &toml);
    assert_eq!(ids(&folder.loads().registry), ["acme", "zeta"]);

    let wrong = toml.replace("account-acme", "");
    assert_eq!(
        folder.file("all.toml", wrong).problems(),
        [
            "all.toml:8: tenant[1].sub_account: must be 1 to 64 visible ASCII characters, as GatePay gave it"
        ]
    );
}

#[test]
fn a_json_file_may_hold_many_tenants() {
    let tenant = |id: &str| {
        format!(
            r#"{{"id": "{id}", "sub_account": "{id}", "credential": [{{"client_id": "{id}", "secret": {{"env": "{id}"}}}}]}}"#
        )
    };
    let folder = folder()
        .variable("acme", "made-up-1")
        .variable("zeta", "made-up-2")
        .file(
            "tenants.d/all.json",
            format!(r#"{{"tenant": [{}, {}]}}"#, tenant("zeta"), tenant("acme")),
        );
    assert_eq!(ids(&folder.loads().registry), ["acme", "zeta"]);
    let folder = folder.file("tenants.d/more.json", tenant("acme"));
    assert_eq!(
        folder.problems()[0],
        "tenants.d/more.json: credential[0].client_id: is already used at tenants.d/all.json: tenant[1].credential[0].client_id"
    );
}

#[test]
fn a_configuration_without_tenants_is_valid() {
    let registry = folder().loads().registry;
    assert_eq!(registry.parties().count(), 0);
}

#[test]
fn backup_and_hidden_files_of_editors_are_not_read_as_tenants() {
    let folder = folder()
        .tenant("acme", "")
        .file("tenants.d/.acme.toml", "broken")
        .file("tenants.d/acme.toml~", "broken")
        .file("tenants.d/README.md", "not one");
    assert_eq!(ids(&folder.loads().registry), ["acme"]);
}

#[test]
fn the_links_of_a_kubernetes_volume_are_followed() {
    let folder = folder()
        .file("tenants.d/..2026_01_01/acme.toml", tenant("acme", ""))
        .secret("acme", "made-up");
    symlink("..2026_01_01", folder.path("tenants.d/..data")).unwrap();
    symlink("..data/acme.toml", folder.path("tenants.d/acme.toml")).unwrap();
    assert_eq!(ids(&folder.loads().registry), ["acme"]);
}

#[test]
fn tenants_made_in_this_process_obey_the_same_rules() {
    let made = |ids: &[&str]| -> Vec<Tenant> {
        let one = |id: &&str| {
            let secret = Zeroizing::new(format!("made-up-{id}"));
            let secret = SecretKey::new(secret).unwrap();
            let credential = Credential::new(ClientId::parse(id).unwrap(), &secret);
            Tenant::new(
                PartyId::parse(id).unwrap(),
                SubAccount::parse(id).unwrap(),
                &Catalogue::standard(),
                vec![DatedCredential::undated(credential)],
            )
        };
        ids.iter().map(one).collect()
    };
    let settings = folder().loads().settings;
    let institution = &settings.institution.credentials;
    let registry =
        Registry::new(made(&["zeta", "acme"]), Vec::new(), institution).unwrap_or_default();
    assert_eq!(ids(&registry), ["acme", "zeta"]);
    assert!(registry.find("zeta").is_some());

    let mut twice = made(&["acme"]);
    twice.extend(made(&["acme"]));
    let conflicts = Registry::new(twice, Vec::new(), institution).err().unwrap();
    let conflicts: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(
        conflicts,
        ["id", "sub-account", "client id", "secret"]
            .map(|what| format!("tenant acme and tenant acme have the same {what}"))
    );
}

#[test]
#[ignore = "writes 200,000 files; run it with --profile counted"]
fn a_hundred_thousand_tenants_load_in_seconds() {
    let folder = (0..100_000).fold(folder(), |folder, n| folder.tenant(&format!("t{n}"), ""));
    let begin = std::time::Instant::now();
    let registry = folder.loads().registry;
    let elapsed = begin.elapsed();
    println!("{} tenants in {elapsed:?}", registry.tenants().len());
    assert!(elapsed.as_secs() < 5, "{elapsed:?}");
    let each = size_of::<Tenant>() + size_of::<DatedCredential>();
    assert!(each <= 1_500, "{each} bytes each");
}
