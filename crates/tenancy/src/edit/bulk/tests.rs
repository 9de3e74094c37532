//! A list is onboarded whole, or not at all.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

struct BulkFolder(tempfile::TempDir);

impl BulkFolder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| fs::write(folder.path(name), text).unwrap();
        fs::create_dir(folder.path("tenants.d")).unwrap();
        fs::create_dir(folder.path("secrets")).unwrap();
        write("secrets/institution.key", &"ab".repeat(32));
        fs::set_permissions(
            folder.path("secrets/institution.key"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        write(
            "proxy.toml",
            "listen = { address = '127.0.0.1:0' }\nadmin = { address = '127.0.0.1:0' }\n\
             upstream = { url = 'http://127.0.0.1:9' }\nstate_dir = 'state'\n\
             [[institution.credential]]\nclient_id = 'inst'\nsecret = { file = 'secrets/institution.key' }\n",
        );
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn add(&self, list: &str, mode: EditMode) -> Result<AddedTenants, BulkError> {
        let proxy_toml = self.path("proxy.toml");
        let files = ConfigFiles {
            proxy_toml: &proxy_toml,
            env: &|_| None,
            secrets_elsewhere: false,
        };
        let list = TenantList::read(Path::new("new.csv"), list.as_bytes());
        let list = list.map_err(BulkError::List)?;
        let files_there = fs::read_dir(self.path("tenants.d")).unwrap().count();
        let mut drawn = 100 * u8::try_from(files_there).unwrap();
        let random = || {
            drawn += 1;
            RandomBytes {
                client_id: [drawn; 16],
                secret: Zeroizing::new([drawn; 32]),
            }
        };
        add(&files, &list, None, random, mode)
    }

    fn problems(&self, list: &str) -> Vec<String> {
        match self.add(list, EditMode::Make).err().unwrap() {
            BulkError::List(problems) => problems.iter().map(ToString::to_string).collect(),
            BulkError::Add(AddError::Edit(EditError::Problems(problems))) => {
                problems.iter().map(ToString::to_string).collect()
            }
            BulkError::Add(error) => vec![error.to_string()],
        }
    }

    /// The names in both folders, the hidden ones too.
    fn names(&self) -> Vec<String> {
        let names = |folder| fs::read_dir(self.path(folder)).unwrap();
        let all = names("tenants.d").chain(names("secrets"));
        let mut all: Vec<_> = all
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }
}

const TWO: &str = "id,sub_account,limits.burst,contact\nacme,1,7,ops@acme.example\nglobex,2,,\n";

#[test]
fn a_list_becomes_one_file_of_tenants_and_a_secret_for_each() {
    let folder = BulkFolder::new();
    let added = folder.add(TWO, EditMode::Make).ok().unwrap();
    assert_eq!(
        folder.names(),
        ["acme.key", "globex.key", "institution.key", "new.toml"]
    );
    assert_eq!(
        fs::read_to_string(folder.path("tenants.d/new.toml")).unwrap(),
        "[[tenant]]\nid = \"acme\"\nsub_account = \"1\"\ncontact = \"ops@acme.example\"\nlimits.burst = 7\n\
         [[tenant.credential]]\nclient_id = \"01010101-0101-4101-8101-010101010101\"\n\
         secret = { file = \"../secrets/acme.key\" }\n\n\
         [[tenant]]\nid = \"globex\"\nsub_account = \"2\"\n\
         [[tenant.credential]]\nclient_id = \"02020202-0202-4202-8202-020202020202\"\n\
         secret = { file = \"../secrets/globex.key\" }\n"
    );
    let mode = |name| {
        fs::metadata(folder.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("secrets/acme.key"), 0o600);
    let secret = fs::read_to_string(folder.path("secrets/globex.key")).unwrap();
    assert_eq!(secret.trim_end(), *added.credentials[1].secret);
    let again = "id,sub_account\nhooli,3\n";
    assert!(
        folder
            .add(again, EditMode::Make)
            .ok()
            .unwrap()
            .tenant_file
            .ends_with("tenants.d/new-2.toml")
    );
}

#[test]
fn columns_of_a_cap_make_one_cap_of_each_tenant_that_has_any() {
    let folder = BulkFolder::new();
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let store = "store = { path = 'store/gatepay.db' }\n";
    fs::write(folder.path("proxy.toml"), format!("{store}{proxy}")).unwrap();
    let list = "id,sub_account,cap.calls,cap.currency,cap.per_day,cap.count_per_hour\n\
                acme,1,payouts refunds,USDT,5000,60\nglobex,2,,,,\n";
    let added = folder.add(list, EditMode::Make);
    added.map_err(|error| error.to_string()).ok().unwrap();
    let text = fs::read_to_string(folder.path("tenants.d/new.toml")).unwrap();
    let cap = "secret = { file = \"../secrets/acme.key\" }\n[[tenant.cap]]\ncalls = [\"payouts\", \"refunds\"]\n\
               count_per_hour = 60\ncurrency = \"USDT\"\nper_day = \"5000\"\n";
    assert!(text.contains(cap), "{text}");
    assert_eq!(text.matches("cap").count(), 1, "{text}");
    let told = folder
        .problems("id,sub_account,cap.calls,cap.currency,cap.per_day\nhooli,3,payouts,USDT,much\n");
    let begin = "new.csv:2: column 5 (cap.per_day): ";
    assert!(told[0].starts_with(begin), "{told:?}");
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = BulkFolder::new();
    let added = folder.add(TWO, EditMode::DryRun).ok().unwrap();
    assert!(added.credentials.is_empty());
    assert_eq!(folder.names(), ["institution.key"]);
}

#[test]
fn what_the_readers_of_tenants_files_say_is_told_by_line_and_column() {
    let folder = BulkFolder::new();
    folder
        .add("id,sub_account\nhooli,9\n", EditMode::Make)
        .ok()
        .unwrap();
    let before = folder.names();
    let list = "id,sub_account,limits.burst,addresses,operations.allow\n\
                acme,1,0,,\nglobex,1,,10.0.0.0/8 nowhere,balanse\nacme,3,,,\ninitech,9,,,\n";
    let told = folder.problems(list);
    for begin in [
        "new.csv:2: column 3 (limits.burst): must be at least 1",
        "new.csv:3: column 2 (sub_account): is already used at new.csv:2;",
        "new.csv:3: column 4 (addresses): ",
        "new.csv:3: column 5 (operations.allow): unknown module",
        "new.csv:4: column 1 (id): is already used at new.csv:2",
        "new.csv:5: column 2 (sub_account): is already used at tenants.d/new.toml:",
    ] {
        assert!(
            told.iter().any(|it| it.starts_with(begin)),
            "{begin}: {told:#?}"
        );
    }
    assert_eq!(folder.names(), before, "nothing is written");
}

#[test]
fn a_secret_that_is_there_is_never_overwritten_nor_removed() {
    let folder = BulkFolder::new();
    fs::write(folder.path("secrets/globex.key"), "old").unwrap();
    let told = folder.problems(TWO);
    assert!(told[0].contains("globex.key exists already"), "{told:?}");
    assert_eq!(folder.names(), ["globex.key", "institution.key"]);
}

#[test]
fn what_a_killed_command_left_is_removed_by_the_next() {
    let folder = BulkFolder::new();
    let secrets = ["acme.key", "globex.key"].map(|name| folder.path("secrets").join(name));
    let file = folder.path("tenants.d/killed.toml");
    let begin = || {
        PendingSecrets::note(&folder.path("secrets"), &file, &secrets)
            .ok()
            .unwrap();
        fs::write(&secrets[0], "half").unwrap();
        fs::write(folder.path("tenants.d/.new-x"), "[[tenant]]").unwrap();
    };
    begin();
    folder.add(TWO, EditMode::Make).ok().unwrap();
    let names = ["acme.key", "globex.key", "institution.key", "new.toml"];
    assert_eq!(folder.names(), names);
    assert_ne!(fs::read_to_string(&secrets[0]).unwrap(), "half");

    // Killed after the file of tenants was there: the secrets are in use.
    let folder = BulkFolder::new();
    let added = folder.add(TWO, EditMode::Make).ok().unwrap();
    let files = added.credentials.iter().map(|it| it.secret_file.clone());
    let files: Vec<_> = files.collect();
    PendingSecrets::note(&folder.path("secrets"), &added.tenant_file, &files)
        .ok()
        .unwrap();
    // An operator has given the file another name since.
    fs::rename(&added.tenant_file, folder.path("tenants.d/other.toml")).unwrap();
    folder
        .add("id,sub_account\nhooli,9\n", EditMode::Make)
        .ok()
        .unwrap();
    assert!(folder.path("secrets/acme.key").exists());
    assert!(!folder.names().iter().any(|name| name.starts_with('.')));
}

#[test]
fn what_a_command_for_another_folder_left_is_not_touched() {
    let folder = BulkFolder::new();
    let secret = folder.path("secrets/foreign.key");
    fs::create_dir(folder.path("others.d")).unwrap();
    let file = folder.path("others.d/list.toml");
    PendingSecrets::note(
        &folder.path("secrets"),
        &file,
        std::slice::from_ref(&secret),
    )
    .ok()
    .unwrap();
    fs::write(&secret, "in use").unwrap();
    folder.add(TWO, EditMode::Make).ok().unwrap();
    assert!(secret.exists());
}

#[test]
fn a_dry_run_leaves_what_a_killed_command_left_and_counts_it_as_gone() {
    let folder = BulkFolder::new();
    let secret = folder.path("secrets/acme.key");
    let file = folder.path("tenants.d/killed.toml");
    PendingSecrets::note(
        &folder.path("secrets"),
        &file,
        std::slice::from_ref(&secret),
    )
    .ok()
    .unwrap();
    durable_write::write_secret(&secret, &"cd".repeat(32), None).unwrap();
    folder.add(TWO, EditMode::DryRun).ok().unwrap();
    assert!(secret.exists());
}
