use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use gatepay_tenancy::edit::onboard::{self, AddError, NewTenant, TenantDestination};
use gatepay_tenancy::edit::{
    self, ConfigFiles, EditError, RandomBytes, RemovedTenant, RotatedCredential,
};
use gatepay_tenancy::{PartyId, Standing, SubAccount, facts};
use zeroize::Zeroizing;

use crate::support::{Folder, PROXY, folder, lines, operator, tenant};

/// 2026-01-01T00:00:00Z plus 417 ms.
const NOW_MS: u64 = 1_767_225_600_417;
const WEEK: Duration = Duration::from_hours(7 * 24);

fn id(id: &str) -> PartyId {
    PartyId::parse(id).unwrap()
}

fn random() -> RandomBytes {
    RandomBytes {
        client_id: [0xab; 16],
        secret: Zeroizing::new([0xcd; 32]),
    }
}

impl Folder {
    fn edit<T>(
        &self,
        edit: impl FnOnce(&ConfigFiles<'_>) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        let env = self.env();
        edit(&ConfigFiles {
            proxy_toml: &self.path("proxy.toml"),
            env: &env,
            secrets_elsewhere: false,
        })
    }

    fn stand(&self, who: &str, standing: Standing) -> Result<bool, EditError> {
        self.edit(|files| edit::set_standing(files, &id(who), standing))
            .map(|stood| stood.changed)
    }

    fn rotate(&self, who: &str) -> Result<RotatedCredential, EditError> {
        self.edit(|files| edit::rotate(files, &id(who), NOW_MS, WEEK, &random()))
    }

    fn remove(&self, who: &str) -> Result<RemovedTenant, EditError> {
        self.edit(|files| edit::remove(files, &id(who), false))
    }

    fn add(&self, who: &str, account: &str) -> Result<(), AddError> {
        let (id, sub_account, env) = (id(who), SubAccount::parse(account).unwrap(), self.env());
        let files = ConfigFiles {
            proxy_toml: &self.path("proxy.toml"),
            env: &env,
            secrets_elsewhere: false,
        };
        let tenant = NewTenant {
            id: &id,
            sub_account: &sub_account,
            place: TenantDestination::Configuration(files),
            secrets: None,
        };
        onboard::add(&tenant, &random()).map(drop)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn standing(&self, who: &str) -> Standing {
        let registry = self.loads().registry;
        let found = registry
            .tenants()
            .iter()
            .find(|it| it.party.id.as_str() == who);
        found.unwrap().party.standing
    }
}

/// Two tenants in one file, as TOML and as JSON.
fn many() -> [(Folder, &'static str); 2] {
    let toml = folder()
        .file(
            "tenants.d/all.toml",
            "# All.\n\n[[tenant]] # first\nid = 'a'\nsub_account = '1'\n[[tenant.credential]]\nclient_id = 'a'\n\
             secret = { file = '../secrets/a.key' }\n\n[[tenant]]\nid = 'b'\nsub_account = '2'\n\
             credential = [{ client_id = 'b', secret = { file = '../secrets/b.key' } }]\n",
        )
        .secret("a", "made-up-a")
        .secret("b", "made-up-b");
    let json = folder()
        .file(
            "tenants.d/all.json",
            r#"{ "tenant": [
  { "id": "a", "sub_account": "1", "credential": [{"client_id": "a", "secret": {"file": "../secrets/a.key"}}] },
  { "id": "b", "sub_account": "2", "credential": [{"client_id": "b", "secret": {"file": "../secrets/b.key"}}] }
] }"#,
        )
        .secret("a", "made-up-a")
        .secret("b", "made-up-b");
    [(toml, "tenants.d/all.toml"), (json, "tenants.d/all.json")]
}

#[test]
fn a_tenant_is_suspended_and_resumed_in_place() {
    for (folder, file) in many() {
        let before = folder.text(file);
        for who in ["a", "b"] {
            assert!(folder.stand(who, Standing::Suspended).unwrap());
            assert_eq!(folder.standing(who), Standing::Suspended);
            assert!(
                !folder.stand(who, Standing::Suspended).unwrap(),
                "it is so already"
            );
            assert!(folder.stand(who, Standing::Active).unwrap());
        }
        let added = folder
            .text(file)
            .replace("standing = \"active\"\n", "")
            .replace(", standing = \"active\"", "");
        let added = added.replace(", \"standing\": \"active\"", "");
        assert_eq!(
            added.replace("}, standing", "},standing"),
            before,
            "nothing else changed"
        );
    }
}

#[test]
fn a_file_keeps_its_mode_its_owner_and_its_link() {
    let folder = folder().tenant("acme", "");
    let real = folder.path("elsewhere.toml");
    let link = folder.path("tenants.d/acme.toml");
    fs::rename(&link, &real).unwrap();
    fs::write(
        &real,
        folder
            .text("elsewhere.toml")
            .replace("../secrets", folder.path("secrets").to_str().unwrap()),
    )
    .unwrap();
    std::os::unix::fs::symlink("../elsewhere.toml", &link).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o604)).unwrap();
    let owner = fs::metadata(&real).unwrap().uid();
    folder.stand("acme", Standing::ReadOnly).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let metadata = fs::metadata(&real).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o604, owner));
    assert_eq!(folder.standing("acme"), Standing::ReadOnly);
    assert_eq!(folder.names("tenants.d"), ["acme.toml"]);
}

#[test]
fn a_new_key_overlaps_the_old_one() {
    for (folder, file) in many() {
        for who in ["a", "b"] {
            let rotated = match folder.rotate(who) {
                Ok(rotated) => rotated,
                // The same random bytes a second time give a client id that is taken.
                Err(EditError::Problems(problems)) if who == "b" => {
                    let problems = lines(&problems);
                    assert!(
                        problems.iter().any(|it| it.contains("client_id")),
                        "{problems:?}"
                    );
                    assert_eq!(
                        folder.names("secrets"),
                        ["a-abababab.key", "a.key", "b.key", "institution.key"]
                    );
                    continue;
                }
                Err(error) => panic!("{file}: {error}"),
            };
            assert_eq!(
                (rotated.ending, rotated.ends.as_str()),
                (vec![who.to_owned()], "2026-01-08T00:00:00Z")
            );
            let registry = folder.loads().registry;
            let found = registry.find(rotated.client_id.as_str()).unwrap();
            assert_eq!(found.owner.party().id.as_str(), who);
            assert_eq!(
                (found.credential.not_before, found.credential.not_after),
                (None, None)
            );
            let old = registry.find(who).unwrap().credential;
            assert_eq!(old.not_after, Some(1_767_830_400_000));
            let mode = fs::metadata(&rotated.secret_file).unwrap().mode() & 0o777;
            assert_eq!(
                (rotated.secret.as_str(), mode),
                ("cd".repeat(32).as_str(), 0o600)
            );
            assert!(!folder.text(file).contains(rotated.secret.as_str()));
        }
    }
}

#[test]
fn a_rotated_secret_file_has_the_owner_and_mode_of_the_old_one() {
    let folder = folder()
        .tenant("acme", "")
        .secret_with_mode("acme", "made-up-acme", 0o640);
    let rotated = folder.rotate("acme").unwrap();
    assert_eq!(
        fs::metadata(rotated.secret_file).unwrap().mode() & 0o777,
        0o640
    );
}

#[test]
fn a_key_that_ends_sooner_or_begins_later_keeps_its_dates() {
    let folder = folder()
        .file(
            "tenants.d/acme.toml",
            "id = 'acme'\nsub_account = '1'\n[[credential]]\nclient_id = 'ended'\nsecret = { file = '../secrets/1.key' }\n\
             not_after = 2025-01-01T00:00:00Z\n[[credential]]\nclient_id = 'good'\nsecret = { file = '../secrets/2.key' }\n\
             [[credential]]\nclient_id = 'planned'\nsecret = { file = '../secrets/3.key' }\nnot_before = 2027-01-01T00:00:00Z\n",
        )
        .secret("1", "made-up-1")
        .secret("2", "made-up-2")
        .secret("3", "made-up-3");
    assert_eq!(folder.rotate("acme").map(|it| it.ending).unwrap(), ["good"]);
    let registry = folder.loads().registry;
    assert_eq!(registry.find("planned").unwrap().credential.not_after, None);
    assert_eq!(registry.tenants()[0].party.credentials.len(), 4);
}

#[test]
fn without_an_overlap_every_credential_ends_also_one_that_begins_later_or_now() {
    let toml = "id = 'acme'\nsub_account = '1'\n[[credential]]\nclient_id = 'old'\nsecret = { file = '../secrets/1.key' }\n\
         [[credential]]\nclient_id = 'planned'\nsecret = { file = '../secrets/2.key' }\nnot_before = 2027-06-01T00:00:00Z\n\
         not_after = 2027-07-01T00:00:00Z\n[[credential]]\nclient_id = 'begins'\nsecret = { file = '../secrets/3.key' }\n\
         not_before = BEGIN\n";
    let begin = facts::time(NOW_MS / 1_000 * 1_000);
    let toml = toml.replace("BEGIN", &begin);
    let json = format!(
        r#"{{"id": "acme", "sub_account": "1", "credential": [
            {{"client_id": "old", "secret": {{"file": "../secrets/1.key"}}}},
            {{"client_id": "planned", "not_before": "2027-06-01T00:00:00Z", "secret": {{"file": "../secrets/2.key"}}}},
            {{"not_before": "{begin}", "client_id": "begins", "secret": {{"file": "../secrets/3.key"}}}}
        ]}}"#
    );
    let inline = "id = 'acme'\nsub_account = '1'\ncredential = [{ client_id = 'old', secret = { file = '../secrets/1.key' } }, \
         { client_id = 'planned', secret = { file = '../secrets/2.key' }, not_before = 2027-06-01T00:00:00Z }, \
         { client_id = 'begins', secret = { file = '../secrets/3.key' }, not_before = BEGIN }]\n";
    let inline = inline.replace("BEGIN", &begin);
    for (name, text) in [
        ("acme.toml", toml),
        ("acme.json", json),
        ("acme.toml", inline),
    ] {
        let folder = folder()
            .file(&format!("tenants.d/{name}"), &text)
            .secret("1", "made-up-1")
            .secret("2", "made-up-2")
            .secret("3", "made-up-3");
        folder.loads();
        let rotated = folder
            .edit(|files| edit::rotate(files, &id("acme"), NOW_MS, Duration::ZERO, &random()))
            .unwrap();
        assert_eq!(rotated.ending, ["old", "planned", "begins"], "{text}");
        let registry = folder.loads().registry;
        for old in ["old", "planned", "begins"] {
            let credential = registry.find(old).unwrap().credential;
            let end = credential.not_after.unwrap();
            assert!(
                end <= NOW_MS && credential.not_before < Some(end),
                "{text}: {old}"
            );
        }
        let new = registry
            .find(rotated.client_id.as_str())
            .unwrap()
            .credential;
        assert_eq!((new.not_before, new.not_after), (None, None));
    }
}

#[test]
fn what_takes_rights_away_is_said_in_every_table_that_names_the_tenant() {
    let many = |secret| {
        let table = |account, secret| {
            format!(
                "[[tenant]]\nid = 'acme'\nsub_account = '{account}'\n\
                 [[tenant.credential]]\nclient_id = 'many-{secret}'\nsecret = {{ file = '../secrets/{secret}.key' }}\n"
            )
        };
        [table(7, secret), table(8, secret + 1)].concat()
    };
    let copies = || {
        folder()
            .tenant("acme", "")
            .file("tenants.d/aaaa.toml", many(1))
            .file(
                "tenants.d/zzzz.json",
                r#"{"id": "acme", "sub_account": "9", "standing": "suspended", "credential": [
                    {"client_id": "json", "secret": {"file": "../secrets/3.key"}}]}"#,
            )
            .secret("1", "made-up-1")
            .secret("2", "made-up-2")
            .secret("3", "made-up-3")
    };
    let folder = copies();
    let suspended = folder
        .edit(|files| edit::set_standing(files, &id("acme"), Standing::Suspended))
        .unwrap();
    let names = |files: &[PathBuf]| -> Vec<String> {
        let names = files.iter().map(|file| file.file_name().unwrap());
        names
            .map(|name| name.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&[suspended.file]), ["acme.toml"]);
    assert_eq!(names(&suspended.copies.edited), ["aaaa.toml", "aaaa.toml"]);
    let said = ["acme.toml", "aaaa.toml", "zzzz.json"].map(|name| {
        folder
            .text(&format!("tenants.d/{name}"))
            .matches("\"suspended\"")
            .count()
    });
    assert_eq!(said, [1, 2, 1]);
    assert!(!suspended.problems.is_empty());

    let folder = copies();
    let rotated = folder
        .edit(|files| edit::rotate(files, &id("acme"), NOW_MS, Duration::ZERO, &random()))
        .unwrap();
    assert_eq!(rotated.ending, ["client-acme", "many-1", "many-2", "json"]);
    assert_eq!(
        names(&rotated.copies.edited),
        ["aaaa.toml", "aaaa.toml", "zzzz.json"]
    );
}

#[test]
fn removing_a_tenant_removes_the_secret_files_that_no_other_file_names() {
    for (folder, file) in many() {
        let removed = folder.remove("a").unwrap();
        assert!(!removed.whole_file && removed.kept.is_empty());
        assert_eq!(folder.names("secrets"), ["b.key", "institution.key"]);
        assert_eq!(folder.loads().registry.tenants().len(), 1);
        assert!(
            folder.remove("b").unwrap().whole_file,
            "{file}: nobody is left in it"
        );
        assert_eq!(folder.names("tenants.d"), [""; 0]);
        assert_eq!(folder.loads().registry.tenants().len(), 0);
    }
    let folder = folder()
        .tenant("acme", "")
        .operator("office", "")
        .proxy("operators = 'operators.d'");
    let office = folder.text("operators.d/office.toml");
    let folder = folder
        .file("operators.d/note.json", r#"{"operator": []}"#)
        .file("operators.d/office.toml", format!("{office}# acme's too\n"));
    let kept = folder
        .edit(|files| edit::remove(files, &id("acme"), true))
        .unwrap();
    assert_eq!(
        (kept.whole_file, kept.secrets.len(), kept.kept.len()),
        (true, 0, 1)
    );
    assert!(folder.names("secrets").contains(&"acme.key".to_owned()));
}

#[test]
fn a_secret_file_named_by_another_file_is_kept() {
    let folder = folder().tenant("acme", "").tenant("hooli", "");
    // The second mention of the file is in a place that the reader does not check, so the folder is valid.
    let folder = folder.proxy(
        "listen = { tls = { certificate = 'tls/cert.pem', key = 'secrets/../secrets/acme.key' } }",
    );
    let removed = folder.remove("acme").unwrap();
    let [(file, why)] = &removed.kept[..] else {
        panic!("one is left")
    };
    assert_eq!(file.file_name().unwrap(), "acme.key");
    assert!(why.contains("proxy.toml"), "{why}");
    assert!(folder.path("secrets/acme.key").exists());
}

#[test]
fn the_only_tenant_of_a_single_file_can_be_removed() {
    let folder = folder()
        .proxy("tenants = 'tenants.toml'")
        .file(
            "tenants.toml",
            format!(
                "# Ours.\n\n[[tenant]]\n{}",
                tenant("a", "").replace("../", "")
            ),
        )
        .secret("a", "made-up-a");
    assert!(
        folder
            .rotate("a")
            .unwrap()
            .secret_file
            .ends_with("secrets/a-abababab.key")
    );
    folder.remove("a").unwrap();
    assert_eq!(folder.text("tenants.toml"), "# Ours.\n\ntenant = []\n");
    assert_eq!(folder.loads().registry.tenants().len(), 0);
}

#[test]
fn an_edit_that_gives_rights_and_would_leave_a_problem_changes_nothing() {
    let folder = folder()
        .tenant("acme", "standing = 'suspended'")
        .tenant("hooli", "limits = { burst = 0 }");
    let before = folder.text("tenants.d/acme.toml");
    let problems = |error: EditError| match error {
        EditError::Problems(problems) => lines(&problems),
        error => panic!("{error}"),
    };
    let hooli = "tenants.d/hooli.toml:4: limits.burst: must be at least 1";
    assert_eq!(
        problems(folder.stand("acme", Standing::Active).unwrap_err()),
        [hooli]
    );
    assert_eq!(problems(folder.rotate("acme").err().unwrap()), [hooli]);
    assert_eq!(problems(folder.remove("acme").err().unwrap()), [hooli]);
    assert_eq!(folder.text("tenants.d/acme.toml"), before);
    assert_eq!(
        folder.names("secrets"),
        ["acme.key", "hooli.key", "institution.key"]
    );
    // An edit that repairs the folder is accepted.
    folder.remove("hooli").unwrap();
    assert!(folder.stand("acme", Standing::Active).unwrap());
}

#[test]
fn a_new_tenant_is_added_only_if_the_whole_configuration_is_valid() {
    let office = operator("office", "").replace("office.key", "desk.key");
    let folder = folder()
        .file("operators.d/office.toml", office)
        .secret("desk", "made-up-desk")
        .proxy("operators = 'operators.d'")
        .tenant("acme", "");
    let AddError::Edit(EditError::Problems(problems)) = folder.add("office", "77").err().unwrap()
    else {
        panic!("an operator has that name")
    };
    let problems = lines(&problems);
    assert!(
        problems[0].contains("id: is already used at "),
        "{problems:?}"
    );
    assert!(!folder.path("secrets/office.key").exists());
    assert!(!folder.path("tenants.d/office.toml").exists());
    folder.add("initech", "77").unwrap();
    assert_eq!(folder.loads().registry.tenants().len(), 2);
}

#[test]
fn a_checkout_without_secrets_can_be_edited_all_the_same() {
    let folder = folder().tenant("acme", "").file(
        "tenants.d/hooli.toml",
        "id = 'hooli'\nsub_account = '2'\ncredential = [{ client_id = 'h', secret = { env = 'HOOLI' } }]\n",
    );
    fs::remove_dir_all(folder.path("secrets")).unwrap();
    let (env, proxy_toml) = (folder.env(), folder.path("proxy.toml"));
    let files = |secrets_elsewhere| ConfigFiles {
        proxy_toml: &proxy_toml,
        env: &env,
        secrets_elsewhere,
    };
    let stand =
        |files: &ConfigFiles<'_>, standing| edit::set_standing(files, &id("acme"), standing);
    let suspended = stand(&files(false), Standing::Suspended).unwrap();
    assert_eq!(suspended.problems.len(), 3);
    let resumed = stand(&files(false), Standing::Active);
    assert!(matches!(resumed, Err(EditError::Problems(problems)) if problems.len() == 3));
    assert!(stand(&files(true), Standing::Active).unwrap().changed);
}

#[test]
fn an_edit_of_an_unknown_tenant_suggests_a_similar_id() {
    let folder = folder().tenant("globex", "");
    let error = folder
        .stand("globax", Standing::Suspended)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no tenant globax") && error.ends_with("did you mean globex?"),
        "{error}"
    );
}

/// A folder in which the tenant `acme` is valid, and every other file has a different fault.
fn wrong_elsewhere(proxy: &str) -> Folder {
    folder()
        .tenant("acme", "")
        .tenant("globex", "limits = { requests_per_second = 0 }")
        .file("tenants.d/initech.toml", "id = ")
        .file("operators.d/desk.json", "{")
        .file("proxy.toml", proxy)
}

#[test]
fn earlier_problems_do_not_stop_an_edit_that_takes_rights_away() {
    for proxy in [
        &format!("unknown_key = 1\noperators = 'operators.d'\n{PROXY}"),
        "this is no TOML",
        "",
    ] {
        let folder = wrong_elsewhere(proxy);
        let suspended =
            folder.edit(|files| edit::set_standing(files, &id("acme"), Standing::Suspended));
        let suspended = suspended.unwrap_or_else(|error| panic!("{proxy}: {error}"));
        assert!(
            suspended.changed && suspended.problems.len() >= 3,
            "{proxy}"
        );
        assert!(
            folder
                .text("tenants.d/acme.toml")
                .contains("standing = \"suspended\"")
        );
        for gives in [Standing::Active, Standing::ReadOnly] {
            assert!(folder.stand("acme", gives).is_err(), "{proxy}: {gives:?}");
        }
        assert!(folder.rotate("acme").is_err(), "an overlap gives a right");
        let now = Duration::ZERO;
        let rotated = folder.edit(|files| edit::rotate(files, &id("acme"), NOW_MS, now, &random()));
        let rotated = rotated.unwrap_or_else(|error| panic!("{proxy}: {error}"));
        assert_eq!(rotated.ending.len(), 1);
        assert!(rotated.problems.len() >= 3, "{proxy}");
    }
}

#[test]
fn a_tenant_with_a_problem_of_its_own_can_be_suspended_too() {
    let folder = folder().tenant("acme", "limits = { burst = 0 }");
    assert!(folder.stand("acme", Standing::ReadOnly).unwrap());
    assert!(folder.stand("acme", Standing::Suspended).unwrap());
    assert!(
        folder
            .text("tenants.d/acme.toml")
            .contains("standing = \"suspended\"")
    );
}

#[test]
fn a_tenant_that_is_not_found_may_be_in_a_file_that_cannot_be_read() {
    let folder = folder()
        .tenant("acme", "")
        .file("tenants.d/globex.json", "{")
        .file("tenants.d/aaaa.toml", "id = ");
    let error = |id| {
        folder
            .stand(id, Standing::Suspended)
            .unwrap_err()
            .to_string()
    };
    let globex = error("globex");
    assert!(
        globex.contains("globex.json and 1 more, which cannot be read"),
        "{globex}"
    );
    assert!(error("initech").contains("aaaa.toml and 1 more"));
}

#[test]
fn a_file_with_a_byte_order_mark_is_edited_and_loses_it() {
    for (name, text) in [
        ("acme.toml", tenant("acme", "")),
        (
            "acme.json",
            r#"{"id": "acme", "sub_account": "1", "credential": [
                {"client_id": "client", "secret": {"file": "../secrets/acme.key"}}]}"#
                .to_owned(),
        ),
    ] {
        let folder = folder()
            .file(&format!("tenants.d/{name}"), format!("\u{feff}{text}"))
            .secret("acme", "made-up-acme");
        assert!(folder.stand("acme", Standing::Suspended).unwrap(), "{name}");
        let standing = folder.loads().registry.tenants()[0].party.standing;
        assert_eq!(standing, Standing::Suspended);
        assert!(
            !folder
                .text(&format!("tenants.d/{name}"))
                .contains('\u{feff}')
        );
    }
}

#[test]
fn of_a_json_key_that_comes_twice_the_edit_changes_the_one_that_counts() {
    let credentials = |id: &str| {
        format!(
            r#"[{{"client_id": "{id}", "secret": {{"file": "../secrets/acme.key"}}, "not_after": "2030-01-01T00:00:00Z",
            "not_after": "2031-01-01T00:00:00Z"}}]"#
        )
    };
    let text = format!(
        r#"{{"id": "acme", "sub_account": "1", "standing": "suspended", "standing": "active",
            "credential": {}, "credential": {}}}"#,
        credentials("first"),
        credentials("last")
    );
    let folder = folder()
        .file("tenants.d/acme.json", text)
        .secret("acme", "made-up-acme");
    let rotated = folder
        .edit(|files| edit::rotate(files, &id("acme"), NOW_MS, Duration::ZERO, &random()))
        .unwrap();
    assert_eq!(rotated.ending, ["last"]);
    assert!(folder.stand("acme", Standing::Suspended).unwrap());
    let text = folder.text("tenants.d/acme.json");
    let later = |one: &str, other: &str| text.rfind(one).unwrap() > text.find(other).unwrap();
    assert!(later("2026-01-01", "\"last\""), "{text}");
    assert!(!text.contains("active"), "{text}");
    assert_eq!(text.matches("2031-01-01").count(), 1, "{text}");
}

#[test]
fn an_item_that_is_no_table_does_not_shift_the_edit_to_another_tenant() {
    let table = |id: &str| {
        format!(
            "{{ id = '{id}', sub_account = '{id}', credential = [1, {{ client_id = '{id}', secret = {{ file = '../secrets/{id}.key' }} }}] }}"
        )
    };
    let text = format!("tenant = ['x', {}, {}]\n", table("a"), table("b"));
    let folder = folder()
        .file("tenants.d/many.toml", text)
        .secret("a", "made-up-a")
        .secret("b", "made-up-b");
    assert!(folder.stand("b", Standing::Suspended).unwrap());
    let text = folder.text("tenants.d/many.toml");
    let [a, b] = ["id = 'a'", "id = 'b'"].map(|id| text.find(id).unwrap());
    let suspended = text.find("suspended").unwrap();
    assert!(a < b && b < suspended, "{text}");
    let rotated = folder
        .edit(|files| edit::rotate(files, &id("b"), NOW_MS, Duration::ZERO, &random()))
        .unwrap();
    assert_eq!(rotated.ending, ["b"]);
    let text = folder.text("tenants.d/many.toml");
    assert!(text.find("not_after").unwrap() > text.find("client_id = 'b'").unwrap());
}
