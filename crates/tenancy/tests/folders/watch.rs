use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use gatepay_tenancy::watch::NextConfiguration;
use gatepay_tenancy::{ConfigSnapshot, ConfigWatch, Plan, Registry, Standing};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::registry::ids;
use crate::support::{Folder, folder, lines, operator, tenant};

fn open(folder: &Folder) -> (ConfigWatch, Registry) {
    let opened = ConfigWatch::open(&folder.path("proxy.toml"), &folder.env());
    let (watch, configuration) = opened.map_err(|problems| lines(&problems)).unwrap();
    assert!(watch.changed_files().is_empty());
    (watch, configuration.registry)
}

/// Polls the files, reads the changed files, and builds the next configuration.
fn again(watch: &mut ConfigWatch, folder: &Folder) -> Result<NextConfiguration, Vec<String>> {
    let changed = watch.changed_files();
    assert!(!changed.is_empty(), "the change is not seen");
    assert!(watch.settled(&changed) == changed);
    watch.read(&changed, &folder.env());
    assert!(
        watch.changed_files().is_empty(),
        "what was read still differs"
    );
    next(watch, folder)
}

fn next(watch: &mut ConfigWatch, folder: &Folder) -> Result<NextConfiguration, Vec<String>> {
    watch.next().map_err(|invalid| {
        let problems = watch.problems(&invalid, &folder.env());
        lines(&problems)
    })
}

fn again_ids(watch: &mut ConfigWatch, folder: &Folder) -> Vec<String> {
    let next = again(watch, folder).unwrap();
    let ids = ids(&next.registry);
    ids.into_iter().map(str::to_owned).collect()
}

#[test]
fn added_changed_and_removed_files_are_seen_and_unchanged_parties_are_shared() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, first) = open(&folder);
    let folder = folder.tenant("globex", "");
    let next = again(&mut watch, &folder).unwrap();
    assert_eq!(ids(&next.registry), ["acme", "globex", "zeta"]);
    let (old, new) = (first.tenants(), next.registry.tenants());
    assert!(Arc::ptr_eq(&old[0], &new[0]) && Arc::ptr_eq(&old[1], &new[2]));

    let folder = folder.tenant("acme", "standing = 'suspended'");
    let changed = again(&mut watch, &folder).unwrap().registry;
    assert!(!Arc::ptr_eq(&changed.tenants()[0], &new[0]));
    assert!(Arc::ptr_eq(&changed.tenants()[1], &new[1]));

    fs::remove_file(folder.path("tenants.d/globex.toml")).unwrap();
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
}

#[test]
fn approvals_that_a_reload_asks_for_need_the_links_of_unchanged_operators() {
    let caps = "caps.all = [{ calls = ['payouts'], currency = 'USDT', per_day = '10' }]";
    let proxy = format!(
        "state_dir = 'state'\noperators = 'operators.d'\nstore = {{ path = 'state/gatepay.db' }}\n{caps}"
    );
    let folder = folder().proxy(&proxy).operator("desk", "");
    let (mut watch, _) = open(&folder);
    let folder = folder.proxy(&proxy.replace("per_day", "approve_above"));
    let problems = again(&mut watch, &folder).err().unwrap();
    let expected = "operators.d/desk.toml: admin_operators: is required";
    assert!(problems[0].starts_with(expected), "{problems:?}");
    let folder = folder.operator("desk", "admin_operators = []");
    let registry = again(&mut watch, &folder).unwrap().registry;
    assert!(registry.operators()[0].admin_operators.is_some());
}

#[test]
fn a_changed_secret_file_is_a_change_of_the_parties_that_name_it() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, first) = open(&folder);
    let folder = folder.secret("acme", "made-up-another");
    let next = again(&mut watch, &folder).unwrap().registry;
    let key = |registry: &Registry, at: usize| {
        registry.tenants()[at].party.credentials[0]
            .credential
            .key
            .fingerprint()
    };
    assert_ne!(key(&first, 0), key(&next, 0));
    assert!(Arc::ptr_eq(&first.tenants()[1], &next.tenants()[1]));

    let folder = folder.secret("institution", "made-up-institution-another");
    let credentials = |next: &NextConfiguration| {
        next.settings.institution.credentials[0]
            .credential
            .key
            .fingerprint()
    };
    let before = again(&mut watch, &folder).unwrap();
    let folder = folder.secret("institution", "made-up-institution-third");
    let after = again(&mut watch, &folder).unwrap();
    assert_ne!(credentials(&before), credentials(&after));
}

#[test]
fn changes_by_editors_git_and_kubernetes_are_all_seen() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, _) = open(&folder);

    // An editor writes a new file and renames it over the old file; the size stays the same.
    let slower = tenant("acme", "weight = 1");
    fs::write(folder.path("tenants.d/.acme.swp"), &slower).unwrap();
    assert!(
        watch.changed_files().is_empty(),
        "an editor's own file is none of ours"
    );
    fs::rename(
        folder.path("tenants.d/.acme.swp"),
        folder.path("tenants.d/acme.toml"),
    )
    .unwrap();
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);

    // git removes the file and writes a new file.
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    let folder = folder.file("tenants.d/acme.toml", tenant("acme", ""));
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);

    // Only the permissions change.
    let path = folder.path("secrets/acme.key");
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
}

#[test]
fn swapping_the_data_link_of_kubernetes_changes_every_file_behind_it() {
    let folder = folder()
        .file("tenants.d/..1/acme.toml", tenant("acme", ""))
        .file("tenants.d/..2/acme.toml", tenant("acme", ""))
        .file("tenants.d/..2/zeta.toml", tenant("zeta", ""))
        .secret("acme", "made-up-a")
        .secret("zeta", "made-up-z");
    let link = |from: &str, to: &str| symlink(from, folder.path(to)).unwrap();
    link("..1", "tenants.d/..data");
    link("..data/acme.toml", "tenants.d/acme.toml");
    let (mut watch, _) = open(&folder);
    link("..2", "tenants.d/..data_tmp");
    let renamed = fs::rename(
        folder.path("tenants.d/..data_tmp"),
        folder.path("tenants.d/..data"),
    );
    renamed.unwrap();
    link("..data/zeta.toml", "tenants.d/zeta.toml");
    let changed = watch.changed_files();
    assert_eq!(
        changed.len(),
        2,
        "the same path, another file; and a new one"
    );
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_used() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, _) = open(&folder);
    let folder = folder.tenant("acme", "limits = { in_flight = 1 }");
    let changed = watch.changed_files();
    let folder = folder.tenant("acme", "limits = { in_flight = 2 }\n");
    assert!(
        watch.settled(&changed).is_empty(),
        "the file is still being written"
    );
    // Of two files that belong together, the second is written later.
    let changed = watch.changed_files();
    watch.read(&changed, &folder.env());
    let folder = folder.tenant("zeta", "limits = { in_flight = 2 }");
    assert!(!watch.changed_files().is_empty());
    drop(folder);
}

#[test]
fn a_file_that_has_settled_is_read_while_another_keeps_changing() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, registry) = open(&folder);
    let folder = folder
        .tenant("acme", "standing = 'suspended'")
        .tenant("zeta", "limits = { in_flight = 1 }");
    let changed = watch.changed_files();
    let folder = folder.tenant("zeta", "limits = { in_flight = 2 }\n");
    let settled = watch.settled(&changed);
    assert_eq!([settled.len(), changed.len()], [1, 2]);
    watch.read(&settled, &folder.env());
    assert_eq!(watch.changed_files().len(), 1, "the other is still unread");
    let restricted = watch.restricted(&registry).unwrap();
    assert_eq!(restricted.tenants()[0].party.standing, Standing::Suspended);
    assert_eq!(restricted.tenants()[1].party.standing, Standing::Active);
}

#[test]
fn a_file_that_went_and_came_back_is_still_the_own_file_of_its_party() {
    // A copy with the id still to be edited.
    let copy = tenant("acme", "standing = 'suspended'").replace("-acme", "-other");
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, registry) = open(&folder);
    let folder = folder
        .file("tenants.d/copy.toml", copy)
        .secret("other", "made-up-other");
    assert!(again(&mut watch, &folder).is_err());
    assert!(watch.restricted(&registry).is_none(), "its own file says");
    // As git writes a file: first it is gone.
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    watch.read(&watch.changed_files(), &folder.env());
    let folder = folder.tenant("acme", "weight = 2");
    assert!(again(&mut watch, &folder).is_err());
    assert!(
        watch.restricted(&registry).is_none(),
        "its own file is back"
    );
    let folder = folder.tenant("acme", "standing = 'read_only'");
    assert!(again(&mut watch, &folder).is_err());
    let restricted = watch.restricted(&registry).unwrap();
    assert_eq!(restricted.tenants()[0].party.standing, Standing::ReadOnly);
    // Once other files are in force, it is a file like any other.
    fs::remove_file(folder.path("tenants.d/copy.toml")).unwrap();
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    let without = again(&mut watch, &folder).unwrap().registry;
    watch.now_in_force();
    assert_eq!(ids(&without), ["zeta"]);
    let folder = folder.tenant("acme", "");
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
}

#[test]
fn a_file_is_read_although_its_folder_can_no_longer_be_listed() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, registry) = open(&folder);
    let folder = folder.tenant("acme", "standing = 'suspended'");
    fs::remove_file(folder.path("tenants.d/zeta.toml")).unwrap();
    // It may be entered and not listed.
    for name in ["", "tenants.d"] {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o311)).unwrap();
    }
    without_privileges(|| {
        let changed = watch.changed_files();
        assert_eq!(changed.len(), 2, "the folder, and one file that is there");
        watch.read(&watch.settled(&changed), &folder.env());
    });
    for name in ["", "tenants.d"] {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let restricted = watch.restricted(&registry).unwrap();
    assert_eq!(restricted.tenants()[0].party.standing, Standing::Suspended);
    assert_eq!(restricted.tenants()[1].party.standing, Standing::Active);
}

/// Runs this as another user if the tests run as root, since permissions do not hold root.
fn without_privileges(run: impl FnOnce() + Send) {
    let run = || {
        if rustix::process::geteuid().is_root() {
            // In Linux this changes the one thread, which ends here.
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        run();
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn problems_at_a_reload_read_as_at_the_start_and_end_once_fixed() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let (mut watch, _) = open(&folder);
    let good = tenant("zeta", "");

    let folder = folder.file("tenants.d/zeta.toml", &good[..good.len() / 2]);
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(said, folder.problems());
    assert!(said[0].starts_with("tenants.d/zeta.toml:"), "{said:?}");
    let same = next(&mut watch, &folder).err().unwrap();
    assert_eq!(same, said, "asked again, it says the same");

    let folder = folder.file("tenants.d/zeta.toml", good.replace("'zeta'", "'acme'"));
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(
        said,
        ["tenants.d/zeta.toml:1: id: is already used at tenants.d/acme.toml:1"]
    );

    let folder = folder
        .file("tenants.d/zeta.toml", &good)
        .secret("zeta", "made-up-acme-secret");
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(said, folder.problems());
    assert!(
        said[0].contains("same secret as at tenants.d/acme.toml:3"),
        "{said:?}"
    );

    let folder = folder.secret("zeta", "made-up-institution-secret");
    let said = again(&mut watch, &folder).err().unwrap();
    assert!(
        said[0].contains("same secret as at proxy.toml:3"),
        "{said:?}"
    );

    fs::remove_file(folder.path("secrets/zeta.key")).unwrap();
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(
        said,
        ["tenants.d/zeta.toml:3: credential[0].secret.file: file not found"]
    );

    let folder = folder.secret_with_mode("zeta", "made-up-zeta-secret", 0o604);
    let said = again(&mut watch, &folder).err().unwrap();
    assert!(
        said[0].contains("secret file is world-accessible"),
        "{said:?}"
    );

    let folder = folder.secret("zeta", "made-up-zeta-secret");
    assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
}

#[test]
fn a_folder_that_cannot_be_listed_has_not_lost_its_tenants() {
    let folder = folder().tenant("acme", "");
    let (mut watch, _) = open(&folder);
    let away = folder.path("elsewhere");
    fs::rename(folder.path("tenants.d"), &away).unwrap();
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(
        said,
        ["proxy.toml: tenants: folder or file not found; create it, or change the path"]
    );
    fs::rename(&away, folder.path("tenants.d")).unwrap();
    assert_eq!(again_ids(&mut watch, &folder), ["acme"]);
}

#[test]
fn an_emptied_tenants_folder_removes_every_tenant() {
    let folder = folder().tenant("acme", "");
    let (mut watch, _) = open(&folder);
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    assert_eq!(again_ids(&mut watch, &folder), [""; 0]);
}

#[test]
fn proxy_toml_may_name_other_folders_and_operators() {
    let folder = folder()
        .tenant("acme", "")
        .file("other.d/zeta.toml", tenant("zeta", ""))
        .secret("zeta", "made-up-zeta");
    let (mut watch, _) = open(&folder);
    let folder = folder.proxy("tenants = 'other.d'");
    let changed = watch.changed_files();
    watch.read(&changed, &folder.env());
    // The watch now knows the other folder, and has read neither its files nor the previous folder's.
    assert_eq!(again_ids(&mut watch, &folder), ["zeta"]);

    let folder = folder
        .file("operators.d/desk.toml", operator("desk", ""))
        .secret("desk", "made-up-desk")
        .proxy("operators = 'operators.d'\npoll_ms = 2000");
    let changed = watch.changed_files();
    watch.read(&changed, &folder.env());
    let next = again(&mut watch, &folder).unwrap();
    assert_eq!(next.registry.operators().len(), 1);
    assert_eq!(ids(&next.registry), ["acme"]);
}

#[test]
fn a_fault_in_proxy_toml_is_one_problem_and_changes_nothing_else() {
    let folder = folder().tenant("acme", "");
    let (mut watch, _) = open(&folder);
    let folder = folder.proxy("polling = true");
    let said = again(&mut watch, &folder).err().unwrap();
    assert_eq!(said, folder.problems());
    let folder = folder.proxy("[[operation]]\nname = 'create_order'\nenabled = false");
    let next = again(&mut watch, &folder).unwrap();
    assert_eq!(next.restart, ["operation"]);
    assert_eq!(ids(&next.registry), ["acme"]);
}

#[test]
fn a_file_that_only_a_restart_can_read_is_a_problem_and_not_one_that_passes() {
    let caps = "cap = [{ calls = ['payouts'], currency = 'USDT', per_day = '10' }]";
    let operation = "[[operation]]\nname = 'create_voucher'\nscope = 'tenant'\nmodule = 'giftcard'\nkind = 'money'\n\
                     method = 'POST'\nmerchant_path = '/v1/pay/voucher'\ninstitution_method = 'POST'\n\
                     institution_path = '/payment/open/institution/v1/pay/voucher'";
    for (proxy, file, secret, key) in [
        (
            "secret_text = 'any'",
            "",
            "made-up-s\u{e9}cret",
            "credential[0].secret.file",
        ),
        (
            "timestamp = { past_ms = 600000 }",
            "timestamp = { past_ms = 500000 }",
            "made-up",
            "timestamp.past_ms",
        ),
        (
            "state_dir = 'state'\nstore = { path = 'state/gatepay.db' }",
            caps,
            "made-up",
            "cap",
        ),
        (
            operation,
            "operations = { allow = ['create_voucher'] }",
            "made-up",
            "operations",
        ),
    ] {
        let folder = folder().tenant("acme", "").tenant("zeta", "");
        let (mut watch, _) = open(&folder);
        let folder = folder
            .proxy(proxy)
            .tenant("acme", file)
            .secret("acme", secret);
        assert_eq!(folder.problems(), [""; 0], "it could be started on");
        let problems = again(&mut watch, &folder).err().unwrap();
        let [problem] = &problems[..] else {
            panic!("{problems:?}")
        };
        assert!(problem.starts_with("tenants.d/acme.toml:"), "{problem}");
        assert!(
            problem.contains(key) && problem.contains("after a restart"),
            "{problem}"
        );
        assert!(
            watch.changed_files().is_empty(),
            "nothing is to be read again"
        );
        // With a fault that is one in any case, that is said.
        let folder = folder.tenant("zeta", "no = 1");
        let problems = again(&mut watch, &folder).err().unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let folder = folder.tenant("zeta", "").tenant("acme", "");
        assert_eq!(again_ids(&mut watch, &folder), ["acme", "zeta"]);
    }
}

#[test]
fn a_changed_upstream_ca_needs_a_restart_and_a_rewritten_equal_one_does_not() {
    let mut folder = folder()
        .file("ca.pem", "one")
        .proxy("upstream = { ca = 'ca.pem' }");
    let (mut watch, _) = open(&folder);
    for (text, waits) in [("one", &[][..]), ("two", &["upstream.ca"]), ("one", &[])] {
        folder = folder.file("ca.pem", text);
        assert_eq!(again(&mut watch, &folder).unwrap().restart, waits);
    }
}

#[test]
fn the_first_load_reports_every_problem_at_once() {
    let folder = folder()
        .proxy("polling = true")
        .tenant("acme", "extra = 1")
        .file("tenants.d/zeta.toml", tenant("acme", ""));
    let said = ConfigWatch::open(&folder.path("proxy.toml"), &folder.env()).err();
    assert_eq!(lines(&said.unwrap()), folder.problems());
    assert!(ConfigWatch::open(Path::new("nowhere.toml"), &folder.env()).is_err());
}

/// A watch of a folder with file events as hints.
fn open_hinted(folder: &Folder) -> (ConfigWatch, Registry) {
    let (mut watch, registry) = open(folder);
    watch.take_hints();
    (watch, registry)
}

/// Looks where hints lead, which must be all there is to see, and reads it.
#[cfg(target_os = "linux")]
fn read_hinted(watch: &mut ConfigWatch, folder: &Folder, files: usize) {
    let hinted = watch.hinted_files();
    assert!(!hinted.everywhere);
    assert_eq!(hinted.changed.len(), files, "{:?}", hinted.changed);
    assert_eq!(hinted.changed, watch.changed_files());
    watch.read(&hinted.changed, &folder.env());
    assert!(watch.changed_files().is_empty());
    assert!(watch.hinted_files().changed.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn file_events_lead_to_each_changed_file_and_to_the_files_that_name_a_changed_secret() {
    let folder = folder()
        .tenant("acme", "")
        .tenant("globex", "")
        .tenant("zeta", "")
        .operator("desk", "")
        .proxy("operators = 'operators.d'");
    let (mut watch, _) = open_hinted(&folder);
    assert!(watch.hinted_files().changed.is_empty());

    let folder = folder.tenant("acme", "weight = 2");
    read_hinted(&mut watch, &folder, 1);
    let folder = folder
        .secret("acme", "made-up-another")
        .secret("desk", "made-up-more");
    read_hinted(&mut watch, &folder, 2);
    let path = folder.path("secrets/globex.key");
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    read_hinted(&mut watch, &folder, 1);
    // One that is new, by an editor's way, with a secret in a folder of its own.
    let new = tenant("both", "").replace("../secrets/", "../secrets/of/both/");
    let folder = folder
        .secret("of/both/both", "made-up-both")
        .file("tenants.d/.both.swp", new);
    let [from, to] = ["tenants.d/.both.swp", "tenants.d/both.toml"].map(|name| folder.path(name));
    fs::rename(from, to).unwrap();
    read_hinted(&mut watch, &folder, 1);
    let folder = folder.secret("of/both/both", "made-up-both-again");
    read_hinted(&mut watch, &folder, 1);
    fs::remove_file(folder.path("tenants.d/zeta.toml")).unwrap();
    fs::remove_file(folder.path("secrets/acme.key")).unwrap();
    read_hinted(&mut watch, &folder, 2);
    let folder = folder.proxy("operators = 'operators.d'\npoll_ms = 3000");
    read_hinted(&mut watch, &folder, 1);
    // Files that are none of the configuration's.
    let folder = folder
        .file("tenants.d/notes.txt", "")
        .file("secrets/other.key", "");
    read_hinted(&mut watch, &folder, 0);
    drop(folder);
}

#[cfg(target_os = "linux")]
#[test]
fn one_file_with_all_tenants_is_hinted_at_by_its_name_and_by_each_secret() {
    let folder = folder()
        .file("all.toml", "")
        .secret("acme", "made-up-acme-secret");
    let text = tenant("acme", "").replace("../secrets", "secrets");
    let folder = folder.file("all.toml", &text).proxy("tenants = 'all.toml'");
    let (mut watch, _) = open_hinted(&folder);
    let folder = folder.secret("acme", "made-up-another");
    read_hinted(&mut watch, &folder, 1);
    let folder = folder.file("all.toml", text + "weight = 3\n");
    read_hinted(&mut watch, &folder, 1);
    drop(folder);
}

#[cfg(target_os = "linux")]
#[test]
fn a_turned_link_of_kubernetes_and_a_folder_in_anothers_place_hint_at_everything() {
    let folder = folder()
        .file("tenants.d/..1/acme.toml", tenant("acme", ""))
        .file("tenants.d/..2/acme.toml", tenant("acme", ""))
        .file("next.d/acme.toml", tenant("acme", ""))
        .secret("acme", "made-up-a");
    let link = |from: &str, to: &str| symlink(from, folder.path(to)).unwrap();
    let rename = |from: &str, to: &str| fs::rename(folder.path(from), folder.path(to)).unwrap();
    link("..1", "tenants.d/..data");
    link("..data/acme.toml", "tenants.d/acme.toml");
    let (mut watch, _) = open_hinted(&folder);
    link("..2", "tenants.d/..data_tmp");
    rename("tenants.d/..data_tmp", "tenants.d/..data");
    assert!(watch.hinted_files().everywhere);
    assert_eq!(again_ids(&mut watch, &folder), ["acme"]);
    assert!(!watch.hinted_files().everywhere);

    rename("tenants.d", "last.d");
    rename("next.d", "tenants.d");
    assert!(watch.hinted_files().everywhere);
    assert_eq!(again_ids(&mut watch, &folder), ["acme"]);
    let open = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(folder.path("tenants.d"), open(0o750)).unwrap();
    let hinted = watch.hinted_files();
    assert!(
        hinted.everywhere && hinted.changed.is_empty(),
        "a folder is no file"
    );
    // Events now come from the folder that is there.
    let folder = folder.tenant("acme", "weight = 2");
    read_hinted(&mut watch, &folder, 1);
    rename_secrets(&folder);
    assert!(watch.hinted_files().everywhere);
    let _ = again(&mut watch, &folder).unwrap();
    let folder = folder.secret("acme", "made-up-c");
    read_hinted(&mut watch, &folder, 1);
    drop(folder);
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_is_made_anew_hints_at_everything() {
    let folder = folder().tenant("acme", "");
    let (mut watch, _) = open_hinted(&folder);
    fs::rename(folder.path("tenants.d"), folder.path("old.d")).unwrap();
    fs::remove_dir_all(folder.path("old.d")).unwrap();
    assert!(watch.hinted_files().everywhere);
    assert!(again(&mut watch, &folder).is_err());
    assert!(!watch.hinted_files().everywhere);
    let folder = folder.tenant("acme", "weight = 2");
    assert!(watch.hinted_files().everywhere);
    assert_eq!(again_ids(&mut watch, &folder), ["acme"]);
    let folder = folder.tenant("acme", "weight = 3");
    read_hinted(&mut watch, &folder, 1);
    drop(folder);
}

/// Puts a copy of the folder of secrets in its place.
#[cfg(target_os = "linux")]
fn rename_secrets(folder: &Folder) {
    fs::create_dir(folder.path("new")).unwrap();
    for name in ["acme", "institution"] {
        let name = format!("{name}.key");
        let from = folder.path("secrets").join(&name);
        fs::copy(from, folder.path("new").join(&name)).unwrap();
    }
    fs::rename(folder.path("secrets"), folder.path("old")).unwrap();
    fs::rename(folder.path("new"), folder.path("secrets")).unwrap();
}

#[test]
fn a_change_without_an_event_is_seen_by_the_look_at_all_files() {
    let folder = folder().tenant("acme", "").tenant("zeta", "");
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("acme.toml");
    fs::write(&target, tenant("acme", "")).unwrap();
    fs::remove_file(folder.path("tenants.d/acme.toml")).unwrap();
    symlink(&target, folder.path("tenants.d/acme.toml")).unwrap();
    let (mut watch, _) = open_hinted(&folder);
    fs::write(&target, tenant("acme", "weight = 2")).unwrap();
    let hinted = watch.hinted_files();
    assert!(hinted.changed.is_empty() && !hinted.everywhere);
    assert_eq!(watch.changed_files().len(), 1);
}

#[test]
fn a_change_of_one_file_takes_one_look_at_all_files_and_one_reading() {
    let folder = (0..100).fold(folder(), |folder, number| {
        folder.tenant(&format!("shop-{number}"), "")
    });
    let (mut watch, registry) = open_hinted(&folder);
    let folder = folder.tenant("shop-7", "weight = 2");
    let before = watch.work();
    let hinted = watch.hinted_files();
    // Without file events no file is hinted at.
    let changed = if hinted.changed.is_empty() {
        watch.changed_files()
    } else {
        hinted.changed
    };
    let settled = watch.settled(&changed);
    watch.read(&settled, &folder.env());
    assert!(watch.changed_files().is_empty());
    let next = watch.next_after(&registry).ok().unwrap();
    assert_eq!(next.registry.tenants().len(), 100);
    let after = watch.work();
    assert_eq!(after.read - before.read, 1);
    let looks = after.looked_at - before.looked_at;
    // One where the hint leads, another to see whether it has settled, and then all.
    let expected = if cfg!(target_os = "linux") { 102 } else { 201 };
    assert_eq!(looks, expected);
}

#[test]
fn a_changed_file_that_holds_what_an_unchanged_file_holds_is_a_problem() {
    let acme = tenant("acme", "");
    let shared = format!("{acme}shared_sub_account = true\n");
    let globex = tenant("globex", "");
    let account = globex.replace("account-globex", "account-acme");
    for (is_fine, unchanged, name, changed) in [
        (true, &acme, "tenants.d/globex.toml", globex.clone()),
        (
            false,
            &acme,
            "tenants.d/globex.toml",
            globex.replace("client-globex", "client-acme"),
        ),
        (
            false,
            &acme,
            "tenants.d/globex.toml",
            globex.replace("globex.key", "acme.key"),
        ),
        (
            false,
            &acme,
            "tenants.d/globex.toml",
            globex.replace("client-globex", "institution"),
        ),
        (
            false,
            &acme,
            "tenants.d/globex.toml",
            globex.replace("globex.key", "institution.key"),
        ),
        (false, &acme, "tenants.d/globex.toml", account.clone()),
        (false, &shared, "tenants.d/globex.toml", account.clone()),
        (
            true,
            &shared,
            "tenants.d/globex.toml",
            format!("{account}shared_sub_account = true\n"),
        ),
        (false, &acme, "operators.d/desk.toml", operator("acme", "")),
        (
            false,
            &acme,
            "operators.d/desk.toml",
            operator("desk", "").replace("client-desk", "client-acme"),
        ),
        (
            false,
            &acme,
            "operators.d/desk.toml",
            operator("desk", "").replace("desk.key", "acme.key"),
        ),
        (
            true,
            &acme,
            "operators.d/desk.toml",
            operator("desk", "weight = 1").replace("weight = 1", ""),
        ),
    ] {
        let folder = folder()
            .proxy("operators = 'operators.d'")
            .tenant("globex", "")
            .operator("desk", "")
            .secret("acme", "made-up-acme-secret")
            .file("tenants.d/acme.toml", unchanged);
        let (mut watch, in_force) = open(&folder);
        let folder = folder.file("next", &changed);
        fs::rename(folder.path("next"), folder.path(name)).unwrap();
        watch.read(&watch.changed_files(), &folder.env());
        let next = watch.next_after(&in_force);
        assert_eq!(next.is_ok(), is_fine, "{changed}");
        let problems = next
            .err()
            .map(|invalid| watch.problems(&invalid, &folder.env()));
        assert_eq!(
            lines(&problems.unwrap_or_default()),
            folder.problems(),
            "{changed}"
        );
    }
}

/// A file's content by one of its versions, or none. Versions are tenants of their own, two in one file, one that another
/// file has too, and no TOML.
fn version(number: u8, version: u8) -> Option<String> {
    let own = |number: u8, more: &str| tenant(&format!("shop-{number}"), more);
    let other = number + 20;
    Some(match version {
        0 => return None,
        1 => own(number, ""),
        2 => own(number, "weight = 2"),
        3 => own(number, "standing = 'suspended'"),
        4 => format!(
            "[[tenant]]\n{}[[tenant]]\n{}",
            own(number, ""),
            own(other, "weight = 3")
        ),
        5 => own(other, ""),
        6 => own(number ^ 1, ""),
        _ => own(number, "no ="),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_built_step_by_step_is_what_is_loaded_from_nothing(
        rounds in vec(vec((0..12_u8, 0..8_u8), 1..4), 1..8)
    ) {
        let mut folder = folder();
        for number in 0..40 {
            folder = folder.secret(&format!("shop-{number}"), &format!("made-up-{number}"));
        }
        for number in 0..12 {
            folder = folder.file(&format!("tenants.d/f{number:02}.toml"), version(number, 1).unwrap());
        }
        let (mut watch, mut in_force) = open_hinted(&folder);
        for round in rounds {
            for (number, to) in round {
                let name = format!("tenants.d/f{number:02}.toml");
                match version(number, to) {
                    None => _ = fs::remove_file(folder.path(&name)),
                    Some(text) => {
                        // Another file in its place, so that the same text is another stamp.
                        folder = folder.file("next", text);
                        fs::rename(folder.path("next"), folder.path(&name)).unwrap();
                    }
                }
            }
            let hinted = watch.hinted_files();
            prop_assert!(!hinted.everywhere);
            let changed = watch.changed_files();
            if cfg!(target_os = "linux") {
                prop_assert_eq!(&hinted.changed, &changed);
            }
            watch.read(&changed, &folder.env());
            let loaded = folder.load();
            let next = watch.next_after(&in_force);
            prop_assert_eq!(next.is_ok(), loaded.is_ok());
            let (Ok(next), Ok(loaded)) = (next, loaded) else { continue };
            let after = ConfigSnapshot { registry: &next.registry, ..ConfigSnapshot::of(&loaded) };
            let plan = Plan::between(ConfigSnapshot::of(&loaded), after);
            prop_assert!(!plan.changes, "{plan}");
            for number in 0..40 {
                let client_id = format!("client-shop-{number}");
                let [one, other] = [&next.registry, &loaded.registry].map(|it| {
                    it.find(&client_id).map(|found| (found.position, found.owner.party().id.clone()))
                });
                prop_assert_eq!(one, other);
            }
            in_force = next.registry;
            watch.now_in_force();
        }
    }
}
