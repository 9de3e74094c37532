use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::mem::swap;

use gatepay_tenancy::{ConfigSnapshot, ConfigWatch, PartyRef, Plan, Registry, Standing};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::support::{Folder, folder, lines};

/// Enough that a change of several files patches the registry in force.
const TENANTS: u8 = 96;
const OPERATORS: u8 = 16;
const PARTIES: u8 = TENANTS + OPERATORS;
/// Files that two tenants share from the start, and names that files can be moved to.
const SPARE: u8 = 6;

/// A party as its file describes it; its credentials are pairs of a client id and a secret, by number.
#[derive(Clone, PartialEq, Eq)]
struct Table {
    id: u8,
    account: u8,
    is_shared: bool,
    standing: Standing,
    weight: u8,
    credentials: Vec<(u8, u8)>,
    ends: Option<u8>,
    is_broken: bool,
}

impl Table {
    fn of(number: u8) -> Self {
        Self {
            id: number,
            account: number,
            is_shared: false,
            standing: Standing::Active,
            weight: 1,
            credentials: vec![(number, number)],
            ends: None,
            is_broken: false,
        }
    }

    fn text(&self, is_tenant: bool) -> String {
        let mut text = format!("id = 'p{:03}'\n", self.id);
        if is_tenant {
            let Self {
                account,
                weight,
                is_shared,
                ..
            } = self;
            write!(text, "sub_account = 'a{account}'\nweight = {weight}\n").unwrap();
            writeln!(text, "shared_sub_account = {is_shared}").unwrap();
        }
        let standing = self.standing.as_str();
        write!(text, "standing = '{standing}'\ncredential = [").unwrap();
        for (client_id, secret) in &self.credentials {
            let end = self
                .ends
                .map(|day| format!(", not_after = '2030-01-{day:02}T00:00:00Z'"));
            let end = end.unwrap_or_default();
            write!(
                text,
                "{{ client_id = 'c{client_id}', secret = {{ file = '../secrets/s{secret}.key' }}{end} }}, "
            )
            .unwrap();
        }
        text += "]\n";
        if self.is_broken {
            text += "no = 1\n";
        }
        text
    }
}

/// The files as they should be: the tables of each, by name, and the text of each secret.
#[derive(Clone, PartialEq, Eq)]
struct World {
    files: BTreeMap<String, Vec<Table>>,
    secrets: BTreeMap<u8, String>,
}

fn file_of(number: u8) -> String {
    if number < TENANTS {
        format!("tenants.d/f{number:03}.toml")
    } else {
        format!("operators.d/f{number:03}.toml")
    }
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    Remove,
    Restore,
    Weigh(u8),
    Suspend,
    ReadOnly,
    Resume,
    End(u8),
    SwapIds,
    SwapAccounts,
    SwapCredentials,
    SwapSecrets,
    SwapFiles,
    SwapSecretFiles,
    RotateSecret(u8),
    CopyId,
    CopyAccount,
    CopyClientId,
    CopySecret,
    ShareAccount,
    SecondCredential,
    DropCredential,
    Join,
    Rename,
    Break,
    RemoveMany,
    RestoreAll,
}

fn edit() -> impl Strategy<Value = Edit> {
    use Edit::*;
    let harmless = prop_oneof![
        3 => Just(Remove),
        4 => Just(Restore),
        2 => (1..9_u8).prop_map(Weigh),
        2 => Just(Suspend),
        1 => Just(ReadOnly),
        2 => Just(Resume),
        2 => (1..9_u8).prop_map(End),
        3 => Just(SwapIds),
        3 => Just(SwapAccounts),
        3 => Just(SwapCredentials),
        2 => Just(SwapSecrets),
        2 => Just(SwapFiles),
        2 => Just(SwapSecretFiles),
        2 => (0..9_u8).prop_map(RotateSecret),
        2 => Just(ShareAccount),
        2 => Just(SecondCredential),
        2 => Just(DropCredential),
        2 => Just(Join),
        2 => Just(Rename),
        1 => Just(RemoveMany),
        1 => Just(RestoreAll),
    ];
    let wrong = prop_oneof![
        Just(CopyId),
        Just(CopyAccount),
        Just(CopyClientId),
        Just(CopySecret),
        Just(Break),
    ];
    prop_oneof![14 => harmless, 1 => wrong]
}

impl World {
    fn new() -> Self {
        let files = (0..PARTIES).map(|number| (file_of(number), vec![Table::of(number)]));
        let secrets = (0..=u8::MAX).map(|number| (number, format!("made-up-secret-{number}")));
        Self {
            files: files.collect(),
            secrets: secrets.collect(),
        }
    }

    fn edit(&mut self, edit: Edit, one: u8, other: u8) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        let Some(name) = names.get(usize::from(one) % names.len().max(1)) else {
            self.files = Self::new().files;
            return;
        };
        let other_name = &names[usize::from(other) % names.len()];
        self.edit_files(edit, (name, other_name), (one, other));
        self.edit_secrets(edit, (name, other_name));
        let first = |name| self.files.get(name).and_then(|tables| tables.first());
        let [Some(mut table), Some(mut second)] =
            [name, other_name].map(|name| first(name).cloned())
        else {
            return;
        };
        edit_tables(edit, (&mut table, &mut second), (one, other));
        for (name, table) in [(other_name, second), (name, table)] {
            self.files.get_mut(name).unwrap()[0] = table;
        }
    }

    fn edit_files(&mut self, edit: Edit, (name, other_name): (&str, &str), (one, other): (u8, u8)) {
        let (folder, _) = name.split_once('/').unwrap();
        let is_beside = name != other_name && other_name.starts_with(folder);
        match edit {
            Edit::Remove => _ = self.files.remove(name),
            Edit::Restore => {
                let number = one % PARTIES;
                self.files.insert(file_of(number), vec![Table::of(number)]);
            }
            Edit::SwapFiles if is_beside => {
                let tables = self.files.remove(name).unwrap();
                let tables = self.files.insert(other_name.to_owned(), tables);
                self.files.insert(name.to_owned(), tables.unwrap());
            }
            Edit::Join if is_beside => {
                let tables = self.files.remove(name).unwrap();
                self.files.get_mut(other_name).unwrap().extend(tables);
            }
            Edit::Rename => {
                let tables = self.files.remove(name).unwrap();
                let to = format!("{folder}/m{:03}.toml", other % SPARE);
                self.files.insert(to, tables);
            }
            Edit::RemoveMany => {
                let mut place = one;
                self.files.retain(|_, _| {
                    place = place.wrapping_add(1);
                    !place.is_multiple_of(5)
                });
            }
            Edit::RestoreAll => *self = Self::new(),
            _ => {}
        }
    }

    fn edit_secrets(&mut self, edit: Edit, (name, other_name): (&str, &str)) {
        let number = |name| Some(self.files.get(name)?.first()?.credentials[0].1);
        let (Some(one), Some(other)) = (number(name), number(other_name)) else {
            return;
        };
        let [text, other_text] = [one, other].map(|number| self.secrets[&number].clone());
        match edit {
            Edit::SwapSecretFiles => self.secrets.extend([(one, other_text), (other, text)]),
            Edit::RotateSecret(by) => {
                let text = format!("made-up-secret-{one}-{by}");
                self.secrets.insert(one, text);
            }
            Edit::CopySecret => _ = self.secrets.insert(one, other_text),
            _ => {}
        }
    }

    /// Makes the files those of this world, of which these are there.
    fn write(&self, before: &Self, folder: &Folder) {
        for name in before
            .files
            .keys()
            .filter(|name| !self.files.contains_key(*name))
        {
            fs::remove_file(folder.path(name)).unwrap();
        }
        for (name, tables) in &self.files {
            if before.files.get(name) != Some(tables) {
                put(folder, name, &file_text(name, tables));
            }
        }
        for (number, text) in &self.secrets {
            if before.secrets.get(number) != Some(text) {
                put(folder, &format!("secrets/s{number}.key"), text);
            }
        }
    }
}

/// Edits a table, and perhaps a second one.
fn edit_tables(edit: Edit, (table, second): (&mut Table, &mut Table), (one, other): (u8, u8)) {
    match edit {
        Edit::Weigh(weight) => table.weight = weight,
        Edit::Suspend => table.standing = Standing::Suspended,
        Edit::ReadOnly => table.standing = Standing::ReadOnly,
        Edit::Resume => (table.standing, table.ends) = (Standing::Active, None),
        Edit::End(day) => table.ends = Some(day),
        Edit::SwapIds => swap(&mut table.id, &mut second.id),
        Edit::SwapAccounts => {
            swap(&mut table.account, &mut second.account);
            swap(&mut table.is_shared, &mut second.is_shared);
        }
        Edit::SwapCredentials => swap(&mut table.credentials, &mut second.credentials),
        Edit::SwapSecrets => swap(&mut table.credentials[0].1, &mut second.credentials[0].1),
        Edit::CopyId => table.id = second.id,
        Edit::CopyAccount => table.account = second.account,
        Edit::CopyClientId => table.credentials[0].0 = second.credentials[0].0,
        Edit::ShareAccount => {
            table.account = second.account;
            (table.is_shared, second.is_shared) = (true, true);
        }
        Edit::SecondCredential if table.credentials.len() < 3 => {
            let number = PARTIES + one % 100;
            let place = usize::from(other % 2);
            table.credentials.insert(place, (number, number));
        }
        Edit::DropCredential if table.credentials.len() > 1 => _ = table.credentials.remove(0),
        Edit::Break => table.is_broken = true,
        _ => {}
    }
}

fn file_text(name: &str, tables: &[Table]) -> String {
    let is_tenant = name.starts_with('t');
    if let [table] = tables {
        return table.text(is_tenant);
    }
    let header = if is_tenant {
        "[[tenant]]\n"
    } else {
        "[[operator]]\n"
    };
    let texts = tables
        .iter()
        .map(|table| format!("{header}{}", table.text(is_tenant)));
    texts.collect()
}

/// Puts another file in the place of the one that is there, so that the same text is another stamp.
fn put(folder: &Folder, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let next = folder.path("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(next, folder.path(name)).unwrap();
}

/// All that a registry answers about the names that there are.
fn answers(registry: &Registry) -> Vec<String> {
    let name = |party: PartyRef<'_>| format!("{} {}", party.word(), party.party().id);
    let mut answers: Vec<String> = registry.parties().map(name).collect();
    for number in 0..=u8::MAX {
        answers.push(format!("{:?}", registry.position(&format!("p{number:03}"))));
        let found = registry.find(&format!("c{number}")).map(|found| {
            assert_eq!(name(found.owner), name(registry.at(found.position)));
            let key = found.credential.credential.key.fingerprint();
            let place = (found.position, found.credential_index);
            let party = found.owner.party();
            assert!(std::ptr::eq(party, registry.at(found.position).party()));
            assert!(std::ptr::eq(
                found.credential,
                &raw const party.credentials[found.credential_index]
            ));
            let dates = (found.credential.not_before, found.credential.not_after);
            format!("{place:?} {} {key:?} {dates:?}", name(found.owner))
        });
        answers.push(found.unwrap_or_default());
        let account = format!("a{number}");
        let mut ids: Vec<_> = registry
            .tenants_of(&account)
            .map(|it| it.party.id.as_str())
            .collect();
        assert_eq!(registry.knows_account(&account), !ids.is_empty());
        ids.sort_unstable();
        answers.push(ids.join(" "));
    }
    answers
}

/// The rights of a party in force: its standing, and when each of its credentials ends.
type Rights = (Standing, BTreeMap<String, Option<u64>>);

fn rights(registry: &Registry) -> BTreeMap<String, Rights> {
    let rights = registry.parties().map(|party| {
        let party = party.party();
        let ends = party.credentials.iter();
        let ends = ends.map(|it| (it.credential.client_id.as_str().to_owned(), it.not_after));
        (party.id.to_string(), (party.standing, ends.collect()))
    });
    rights.collect()
}

/// The files that the parties in force were loaded from, by party.
type Owners = BTreeMap<String, String>;

fn owners(world: &World) -> Owners {
    let owners = world.files.iter().flat_map(|(name, tables)| {
        tables
            .iter()
            .map(|table| (format!("p{:03}", table.id), name.clone()))
    });
    owners.collect()
}

fn ends_ms(day: u8) -> u64 {
    // 2030-01-01.
    1_893_456_000_000 + (u64::from(day) - 1) * 86_400_000
}

/// What is left of the rights in force once files take away what they may ahead of the rest.
fn left_of(before: &Registry, world: &World, owners: &Owners) -> BTreeMap<String, Rights> {
    let mut left = rights(before);
    for party in before.parties() {
        let id = party.party().id.as_str();
        let folder = format!("{}s.d/", party.word());
        let tables_of = |name: &str| -> Vec<&Table> {
            let tables = world.files.get(name).into_iter().flatten();
            tables
                .filter(|table| format!("p{:03}", table.id) == id)
                .collect()
        };
        let mut tables = owners
            .get(id)
            .map(|name| tables_of(name))
            .unwrap_or_default();
        if tables.is_empty() {
            let names = world.files.keys().filter(|name| name.starts_with(&folder));
            tables = names.flat_map(|name| tables_of(name)).collect();
        }
        let (standing, ends) = left.get_mut(id).unwrap();
        for table in tables {
            *standing = table.standing.min(*standing);
            for (client_id, _) in &table.credentials {
                if let Some(end) = ends.get_mut(&format!("c{client_id}")) {
                    let both = [*end, table.ends.map(ends_ms)];
                    *end = both.into_iter().flatten().min();
                }
            }
        }
    }
    left
}

/// How a registry came from the one before it.
#[derive(Default, Debug)]
struct Ways {
    patched: usize,
    indexed: usize,
    invalid: usize,
    restricted: usize,
}

impl Ways {
    fn note(&mut self, before: &Registry, now: &Registry) {
        let origins = now.positions_in(before);
        let shared = origins.iter().flatten().count();
        let all = before.parties().count();
        let moves = origins.len() + all - 2 * shared;
        if moves > all / 8 {
            self.indexed += 1;
        } else if moves > 0 {
            self.patched += 1;
        }
    }
}

/// One step of a reload: the first files are written, hints are taken, and the rest is written while they settle.
fn follow(
    watch: &mut ConfigWatch,
    folder: &Folder,
    in_force: &mut Registry,
    ways: &mut Ways,
    rest: impl FnOnce(),
) {
    let mut changed = watch.hinted_files().changed;
    rest();
    if changed.is_empty() {
        changed = watch.changed_files();
    }
    while !changed.is_empty() {
        watch.read(&watch.settled(&changed), &folder.env());
        changed = watch.changed_files();
        if !changed.is_empty()
            && let Some(restricted) = watch.restricted(in_force)
        {
            ways.note(in_force, &restricted);
            *in_force = restricted;
        }
    }
}

/// Some edits at a time, each with two numbers that choose its files.
type Round = Vec<(Edit, u8, u8)>;

fn follow_all(rounds: Vec<Round>, ways: &mut Ways) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let folder = folder().proxy("operators = 'operators.d'");
    for part in ["operators.d", "secrets"] {
        fs::create_dir_all(folder.path(part)).unwrap();
    }
    world.write(
        &World {
            files: BTreeMap::new(),
            secrets: BTreeMap::new(),
        },
        &folder,
    );
    let opened = ConfigWatch::open(&folder.path("proxy.toml"), &folder.env());
    let (mut watch, configuration) = opened.map_err(|problems| lines(&problems)).unwrap();
    watch.take_hints();
    let mut in_force = configuration.registry;
    let mut from = owners(&world);
    let mut valid = world.clone();
    let mut wrong = 0;
    for round in rounds {
        let before = world.clone();
        let half = round.len() / 2;
        if wrong > 1 {
            // As it was, or something else than that.
            world = valid.clone();
            wrong = 0;
        }
        for (edit, one, other) in &round[..half] {
            world.edit(*edit, *one, *other);
        }
        let midway = world.clone();
        for (edit, one, other) in &round[half..] {
            world.edit(*edit, *one, *other);
        }
        midway.write(&before, &folder);
        follow(&mut watch, &folder, &mut in_force, ways, || {
            world.write(&midway, &folder);
        });
        let loaded = folder.load();
        match watch.next_after(&in_force) {
            Ok(next) => {
                wrong = 0;
                let loaded = loaded.map_err(|problems| lines(&problems)).unwrap();
                let after = ConfigSnapshot {
                    registry: &next.registry,
                    ..ConfigSnapshot::of(&loaded)
                };
                let plan = Plan::between(ConfigSnapshot::of(&loaded), after);
                prop_assert!(!plan.changes, "{plan}");
                prop_assert_eq!(answers(&next.registry), answers(&loaded.registry));
                ways.note(&in_force, &next.registry);
                in_force = next.registry;
                watch.now_in_force();
                from = owners(&world);
                valid = world.clone();
            }
            Err(invalid) => {
                wrong += 1;
                ways.invalid += 1;
                let expected = left_of(&in_force, &world, &from);
                if let Some(restricted) = watch.restricted(&in_force) {
                    ways.restricted += 1;
                    ways.note(&in_force, &restricted);
                    in_force = restricted;
                }
                prop_assert_eq!(rights(&in_force), expected);
                let _ = answers(&in_force);
                let problems = watch.problems(&invalid, &folder.env());
                prop_assert_eq!(lines(&problems), folder.problems());
            }
        }
    }
    Ok(())
}

#[test]
fn a_program_that_reloads_is_as_one_that_starts_on_the_same_files() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2));
    let ways = RefCell::new(Ways::default());
    let rounds = vec(vec((edit(), any::<u8>(), any::<u8>()), 1..5), 40);
    let run = runner.run(&rounds, |rounds| follow_all(rounds, &mut ways.borrow_mut()));
    run.unwrap_or_else(|error| panic!("{error}"));
    let ways = ways.into_inner();
    // A fifth of the steps at least, or the test has lost its point.
    let all = ways.patched + ways.indexed + ways.invalid;
    assert!(
        ways.patched > all / 5 && ways.indexed > 0 && ways.invalid > 0,
        "{ways:?}"
    );
}
