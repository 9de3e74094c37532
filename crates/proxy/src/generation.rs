//! Generation: a registry with the state of its parties, swapped as a whole.

pub mod credential_usage;
pub mod institution_quota;
pub mod limit_meters;
pub mod meters;
pub mod refusal_counts;
pub mod reload_status;
pub mod suspension;
pub mod suspension_meters;
pub mod tenant_limits;
pub mod tenant_meters;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;

use gatepay_core::Catalogue;
use gatepay_tenancy::caps::CapSettings;
use gatepay_tenancy::settings::{Institution, Settings};
use gatepay_tenancy::{
    ConfigFacts, ConfigSnapshot, CredentialMatch, DatedCredential, Party, PartyId, Registry,
};

use crate::generation::credential_usage::{CredentialUsage, CredentialUsages};
use crate::generation::tenant_limits::{TenantLimits, TenantLimitsMap};
use crate::generation::tenant_meters::TenantSeries;

/// The configuration by which a request is judged, loaded once and kept to the request's end.
pub struct Generation {
    /// The operations that may be called: the same for the life of the process.
    pub catalogue: Arc<Catalogue>,
    /// The parties that may call.
    pub registry: Registry,
    /// The institution's identity to GatePay.
    pub institution: Arc<Institution>,
    /// The caps over all tenants, and the terms of each tenant's.
    pub caps: Arc<CapSettings>,
    /// The content of `proxy.toml`, as far as it is in force.
    pub written: ConfigFacts,
    /// The state of the parties, by position in the registry.
    party_states: Vec<PartyState>,
}

/// The state of a party: in one table, so that a request looks its position up in one place.
#[derive(Clone)]
struct PartyState {
    limits: Arc<TenantLimits>,
    uses: CredentialUsages,
}

/// The inputs from which generations are built.
#[derive(Clone, Copy)]
pub struct GenerationInputs<'a> {
    /// The process's settings.
    pub settings: &'a Settings,
    /// The limits of all parties.
    pub tenant_limits: &'a TenantLimitsMap,
    /// The place where metric series are made.
    pub series: &'a TenantSeries,
}

impl Generation {
    /// The generation of the configuration that the process starts with.
    pub fn first(
        registry: Registry,
        catalogue: Arc<Catalogue>,
        inputs: GenerationInputs<'_>,
    ) -> Self {
        let settings = inputs.settings;
        let institution = Arc::clone(&settings.institution);
        let content = (settings.caps.clone().into(), settings.written.clone());
        Self::new(None, catalogue, registry, institution, content, inputs)
    }

    /// Builds a generation. A party of the generation before, which is the latest one, keeps its `TenantLimits`, under its
    /// present limits, and the usage of its credentials: so nothing may fail any more.
    pub fn new(
        before: Option<&Self>,
        catalogue: Arc<Catalogue>,
        registry: Registry,
        institution: Arc<Institution>,
        (caps, written): (Arc<CapSettings>, ConfigFacts),
        inputs: GenerationInputs<'_>,
    ) -> Self {
        let own = registry.own_series(&inputs.settings.metrics);
        let kept = match before {
            Some(before) => before.states_kept_by(&registry, &own, inputs),
            None => vec![None; own.len()],
        };
        let others = registry.parties().zip(&own).zip(&kept);
        let others = others.filter(|(_, kept)| kept.is_none());
        let tenant_limits = inputs.tenant_limits.arrange(
            others.map(|((who, own), _)| (who, *own)),
            before.map_or(0, |before| before.party_states.len()),
            inputs.series,
        );
        let mut tenant_limits = tenant_limits.into_iter();
        let party_states = registry.parties().zip(kept).map(|(who, kept)| {
            if let Some(state) = kept {
                return state.clone();
            }
            let party = who.party();
            let same = |dated: &_| before.and_then(|before| before.same_use(party, dated));
            PartyState {
                limits: tenant_limits.next().expect("each of the others has some"),
                uses: CredentialUsages::of(party, same),
            }
        });
        Self {
            party_states: party_states.collect(),
            catalogue,
            registry,
            institution,
            caps,
            written,
        }
    }

    /// The states that the parties of the next registry keep as they are, by position: of parties that both registries
    /// share, and that have series of their own in both or in none.
    fn states_kept_by(
        &self,
        next: &Registry,
        own: &[bool],
        inputs: GenerationInputs<'_>,
    ) -> Vec<Option<&PartyState>> {
        let own_before = self.registry.own_series(&inputs.settings.metrics);
        let origins = next.positions_in(&self.registry).into_iter().zip(own);
        let kept = origins.map(|(origin, own)| {
            let origin = origin.filter(|origin| own_before[*origin] == *own);
            origin.map(|origin| &self.party_states[origin])
        });
        kept.collect()
    }

    /// The usage of this credential of this party, if both are the same here.
    fn same_use(&self, party: &Party, dated: &DatedCredential) -> Option<Arc<CredentialUsage>> {
        let credential = &dated.credential;
        let found = self.registry.find(credential.client_id.as_str())?;
        let before = found.owner.party();
        // A party whose file is unchanged is shared. Comparing secrets takes a hash of each.
        let same = std::ptr::eq(before, party)
            || before.id == party.id
                && found.credential.credential.key.same_secret(&credential.key);
        same.then(|| {
            Arc::clone(
                self.party_states[found.position]
                    .uses
                    .at(found.credential_index),
            )
        })
    }

    /// The usage of a credential, by its party's position and its index among the party's credentials.
    pub fn used(&self, position: usize, credential_index: usize) -> &CredentialUsage {
        self.party_states[position].uses.at(credential_index)
    }

    /// Loads the data that a request of this party reads into the cache, all at once. With a thousand parties none is
    /// in a near cache when its request comes; without this, the request would wait for each place in turn.
    pub fn prefetch(&self, found: &CredentialMatch<'_>) {
        let (state, party) = (&self.party_states[found.position], found.owner.party());
        let used = state.uses.at(found.credential_index).count();
        let dates = (party.window.past_ms, found.credential.not_before);
        found.credential.credential.key.warm();
        black_box((used, state.limits.in_flight(), dates));
    }

    /// Every credential: its party's position, the credential, and its usage.
    pub fn credentials(&self) -> impl Iterator<Item = (usize, &DatedCredential, &CredentialUsage)> {
        let parties = self.registry.parties().enumerate();
        parties.flat_map(move |(position, party)| {
            let credentials = party.party().credentials.iter().enumerate();
            credentials.map(move |(index, dated)| (position, dated, self.used(position, index)))
        })
    }

    /// The limits of the party at this position in the registry.
    pub fn tenant_limits(&self, position: usize) -> &Arc<TenantLimits> {
        &self.party_states[position].limits
    }

    /// The limits of all parties, by position.
    pub fn all_tenant_limits(&self) -> impl Iterator<Item = &Arc<TenantLimits>> + Clone {
        self.party_states.iter().map(|state| &state.limits)
    }

    /// This generation as one side of a plan.
    pub fn side(&self) -> ConfigSnapshot<'_> {
        ConfigSnapshot {
            written: &self.written,
            institution: &self.institution,
            catalogue: &self.catalogue,
            registry: &self.registry,
        }
    }

    /// Removes the series of parties that had some in the generation before this one and have none now.
    pub fn end_series_of(&self, before: &Self, inputs: GenerationInputs<'_>) {
        let own = |generation: &Self| -> HashSet<PartyId> {
            let own = generation.registry.own_series(&inputs.settings.metrics);
            let parties = generation.registry.parties().zip(own);
            let own = parties.filter(|(_, own)| *own);
            own.map(|(who, _)| who.party().id.clone()).collect()
        };
        for id in own(before).difference(&own(self)) {
            inputs.series.forget(id.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::institution_quota::InstitutionQuota;
    use crate::metrics::Metrics;
    use crate::process::clock::Clock;
    use gatepay_admission::limit_name::LimitSet;
    use gatepay_core::{ClientId, Credential, Kind, SecretKey};
    use gatepay_tenancy::settings::UpstreamUrl;
    use gatepay_tenancy::{DatedCredential, Operator, Rate, Standing, SubAccount, Tenant};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use crate::reload::EnvironmentLookup;
    use gatepay_tenancy::{ConfigWatch, Configuration};
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    const START: u64 = 1_767_225_600_000;

    struct World {
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        tenant_limits: TenantLimitsMap,
    }

    impl World {
        fn new() -> Self {
            let url = UpstreamUrl::parse("http://127.0.0.1:1").unwrap();
            let institution = Institution {
                account_id: None,
                merchant_id: None,
                credentials: Vec::new(),
            };
            let mut settings = Settings::new(url, institution);
            settings.metrics.max_tenants = 2;
            let metrics = Metrics::new(&Catalogue::standard(), &settings.metrics);
            let clock = Clock::manual(START);
            let meters = metrics.tenants.limits.quota.clone();
            let quota = InstitutionQuota::new(&settings.upstream.quota, meters, &clock);
            Self {
                settings,
                metrics,
                clock,
                tenant_limits: TenantLimitsMap::new(quota.into()),
            }
        }

        fn inputs(&self) -> GenerationInputs<'_> {
            GenerationInputs {
                settings: &self.settings,
                tenant_limits: &self.tenant_limits,
                series: &self.metrics.tenants,
            }
        }

        fn build(&self, tenants: &[(&str, u32, u32)], operators: &[&str]) -> Generation {
            self.after(None, registry(tenants, operators))
        }

        fn after(&self, before: Option<&Generation>, registry: Registry) -> Generation {
            Generation::new(
                before,
                Arc::new(Catalogue::standard()),
                registry,
                Arc::clone(&self.settings.institution),
                (Arc::default(), ConfigFacts::new()),
                self.inputs(),
            )
        }

        /// Takes tokens until there are none, and returns how many there were.
        fn drain(&self, generation: &Generation, id: &str) -> usize {
            let mut shadow = LimitSet::default();
            let (limits, now) = (limits(generation, id), self.clock.elapsed());
            let mut take = || limits.take(Kind::Read, now, &mut shadow);
            std::iter::from_fn(|| take().ok()).count()
        }
    }

    fn credential(client_id: &str, secret: &str) -> DatedCredential {
        let secret = SecretKey::new(Zeroizing::new(format!("fake-{secret}"))).unwrap();
        let client_id = ClientId::parse(client_id).unwrap();
        DatedCredential::undated(Credential::new(client_id, &secret))
    }

    fn credentials(id: &str) -> Vec<DatedCredential> {
        vec![credential(id, id)]
    }

    fn registry(tenants: &[(&str, u32, u32)], operators: &[&str]) -> Registry {
        let tenant = |(id, per_second, burst): &(&str, u32, u32)| {
            let mut tenant = Tenant::new(
                PartyId::parse(id).unwrap(),
                SubAccount::parse(id).unwrap(),
                &Catalogue::standard(),
                credentials(id),
            );
            tenant.party.limits.all = Rate {
                per_second: (*per_second).try_into().unwrap(),
                burst: (*burst).try_into().unwrap(),
            };
            tenant
        };
        let operator = |id: &&str| {
            let party_id = PartyId::parse(id).unwrap();
            Operator::new(party_id, &Catalogue::standard(), credentials(id))
        };
        let tenants = tenants.iter().map(tenant).collect();
        let operators = operators.iter().map(operator).collect();
        Registry::new(tenants, operators, &[]).unwrap_or_default()
    }

    fn limits<'a>(generation: &'a Generation, id: &str) -> &'a Arc<TenantLimits> {
        generation.tenant_limits(generation.registry.find(id).unwrap().position)
    }

    #[test]
    fn a_remaining_tenant_keeps_its_limits_wherever_the_registry_moves_it() {
        let world = World::new();
        let first = world.build(&[("b", 1, 3), ("d", 1, 3)], &["y"]);
        assert_eq!(
            (world.drain(&first, "b"), world.drain(&first, "y")),
            (3, 100)
        );
        let four = [("a", 1, 3), ("b", 1, 3), ("c", 1, 3), ("d", 1, 3)];
        let next = world.build(&four, &["x", "y"]);
        assert!(Arc::ptr_eq(limits(&first, "b"), limits(&next, "b")));
        let left = ["a", "b", "c", "d", "x", "y"].map(|id| world.drain(&next, id));
        assert_eq!(left, [3, 0, 3, 3, 100, 0]);
    }

    #[test]
    fn to_be_removed_and_added_again_is_no_way_to_a_full_bucket() {
        let world = World::new();
        assert_eq!(world.drain(&world.build(&[("a", 1, 200)], &[]), "a"), 200);
        let _without = world.build(&[], &[]);
        world.clock.advance(Duration::from_secs(50));
        assert_eq!(world.drain(&world.build(&[("a", 1, 200)], &[]), "a"), 50);
    }

    #[test]
    fn series_go_with_their_tenant_and_come_with_it() {
        let world = World::new();
        let has_series = |id: &str| {
            let text = String::from_utf8(world.metrics.render()).unwrap();
            text.contains(&format!("tenant=\"{id}\""))
        };
        let first = world.build(&[("b", 1, 3), ("c", 1, 3), ("d", 1, 3)], &[]);
        assert_eq!(["b", "c", "d"].map(has_series), [true, true, false]);
        let next = world.build(&[("a", 1, 3), ("c", 1, 3), ("d", 1, 3)], &[]);
        next.end_series_of(&first, world.inputs());
        let have = ["a", "b", "c", "d"].map(has_series);
        assert_eq!(have, [true, false, true, false], "the first two have some");
    }

    /// Tenants with credentials, each a client id and a secret.
    fn signing(tenants: &[(&str, &[(&str, &str)])]) -> Registry {
        let tenant = |(id, credentials): &(&str, &[(&str, &str)])| {
            let credentials = credentials
                .iter()
                .map(|(id, secret)| credential(id, secret));
            Tenant::new(
                PartyId::parse(id).unwrap(),
                SubAccount::parse(id).unwrap(),
                &Catalogue::standard(),
                credentials.collect(),
            )
        };
        let tenants = tenants.iter().map(tenant).collect();
        Registry::new(tenants, Vec::new(), &[]).unwrap_or_default()
    }

    #[test]
    fn a_remaining_credential_keeps_its_counts_wherever_the_registry_moves_it() {
        let world = World::new();
        let tenants = signing(&[
            ("b", &[("b-1", "1"), ("b-2", "2")]),
            ("c", &[("c-1", "3")]),
            ("d", &[("d-1", "4")]),
        ]);
        let first = world.after(None, tenants);
        let used = |generation: &Generation, id: &str| {
            let found = generation.registry.find(id).unwrap();
            let used = generation.used(found.position, found.credential_index);
            (used.count(), used.last_ms())
        };
        for id in ["b-1", "b-2", "b-2", "c-1", "d-1"] {
            let found = first.registry.find(id).unwrap();
            first
                .used(found.position, found.credential_index)
                .note(1_000);
        }
        let tenants = signing(&[
            ("a", &[("a-1", "5")]),
            // One is gone, one is new, and comes first.
            ("b", &[("b-3", "6"), ("b-2", "2")]),
            // Another secret is another credential, even under the same name.
            ("c", &[("c-1", "7")]),
            // A credential that another tenant has now is another credential too.
            ("e", &[("d-1", "4")]),
        ]);
        let next = world.after(Some(&first), tenants);
        assert_eq!(used(&next, "b-2"), (2, Some(1_000)));
        for id in ["a-1", "b-3", "c-1", "d-1"] {
            assert_eq!(used(&next, id), (0, None), "{id}");
        }
        // The tenant's only credential, once the other is gone.
        let last = world.after(Some(&next), signing(&[("b", &[("b-2", "2")])]));
        assert_eq!(used(&last, "b-2"), (2, Some(1_000)));
    }

    /// Writes a tenant's two files.
    fn write_tenant(folder: &Path, id: &str, burst: u32) {
        let secret = folder.join(format!("{id}.key"));
        fs::write(&secret, format!("fake-{id}")).unwrap();
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
        let table = format!(
            "id = '{id}'\nsub_account = '{id}'\nlimits = {{ requests_per_second = 1, burst = {burst} }}\n\
             credential = [{{ client_id = '{id}', secret = {{ file = '../{id}.key' }} }}]\n"
        );
        fs::write(folder.join(format!("tenants.d/{id}.toml")), table).unwrap();
    }

    /// Writes `proxy.toml` beside the tenants' folder, and reads all files.
    fn watched(folder: &Path, env: EnvironmentLookup) -> (ConfigWatch, Configuration) {
        let proxy = "[[institution.credential]]\nclient_id = 'i'\nsecret = { env = 'I' }\n";
        fs::write(folder.join("proxy.toml"), proxy).unwrap();
        let opened = ConfigWatch::open(&folder.join("proxy.toml"), &env);
        opened.unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn tenants_of_unchanged_files_keep_their_state_and_have_series_by_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("tenants.d")).unwrap();
        for id in ["b", "c", "d", "e"] {
            write_tenant(path, id, 3);
        }
        let env = |_: &str| Some("fake-institution".to_owned());
        let (mut watch, configuration) = watched(path, env);
        let world = World::new();
        let has_series = |id: &str| {
            let text = String::from_utf8(world.metrics.render()).unwrap();
            text.contains(&format!("tenant=\"{id}\""))
        };
        let mut generation = world.after(None, configuration.registry);
        let used = |generation: &Generation, id: &str| {
            let found = generation.registry.find(id).unwrap();
            let used = generation.used(found.position, found.credential_index);
            used.note(1_000);
            used.count()
        };
        for id in ["b", "c", "d", "e"] {
            assert_eq!(
                (used(&generation, id), world.drain(&generation, id)),
                (1, 3)
            );
        }
        let mut follow = |generation: &mut Generation| {
            let changed = watch.changed_files();
            assert!(!changed.is_empty());
            watch.read(&changed, &env);
            let registry = watch
                .next_after(&generation.registry)
                .ok()
                .unwrap()
                .registry;
            watch.now_in_force();
            let next = world.after(Some(generation), registry);
            next.end_series_of(generation, world.inputs());
            *generation = next;
        };
        write_tenant(path, "a", 3);
        write_tenant(path, "d", 7);
        follow(&mut generation);
        assert_eq!(["a", "b", "c"].map(has_series), [true, true, false]);
        assert_eq!(["b", "c", "d", "e"].map(|id| used(&generation, id)), [2; 4]);
        assert_eq!(
            ["a", "b", "c", "e"].map(|id| world.drain(&generation, id)),
            [3, 0, 0, 0]
        );
        world.clock.advance(Duration::from_secs(7));
        let left = ["b", "d"].map(|id| world.drain(&generation, id));
        assert_eq!(left, [3, 7], "by their present limits");
        // One that comes back finds its bucket as it left it.
        fs::remove_file(path.join("tenants.d/b.toml")).unwrap();
        follow(&mut generation);
        assert_eq!(["a", "b", "c"].map(has_series), [true, false, true]);
        world.clock.advance(Duration::from_secs(1));
        write_tenant(path, "b", 3);
        follow(&mut generation);
        assert_eq!(["a", "b", "c"].map(has_series), [true, true, false]);
        assert_eq!(world.drain(&generation, "b"), 1);
        assert_eq!(["c", "d", "e"].map(|id| used(&generation, id)), [3; 3]);
    }

    /// Enough that a registry is patched when a few tenants change.
    const TENANTS: u8 = 48;
    const BURST: u32 = 5;

    /// A tenant's file.
    #[derive(Clone, PartialEq)]
    struct Table {
        client_id: u8,
        secret: String,
        in_flight: u32,
        weight: u32,
        suspended: bool,
    }

    #[derive(Debug, Clone, Copy)]
    enum Edit {
        Remove,
        Restore,
        Limit(u32),
        Weigh(u32),
        Suspend,
        Resume,
        Rotate(u8),
        SwapCredentials(u8),
        RemoveMany(u8),
        /// A file beside the others that is no tenant: the rest waits until it is gone.
        Break,
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            3 => Just(Edit::Remove),
            4 => Just(Edit::Restore),
            2 => (1..9_u32).prop_map(Edit::Limit),
            2 => (1..9_u32).prop_map(Edit::Weigh),
            2 => Just(Edit::Suspend),
            2 => Just(Edit::Resume),
            3 => any::<u8>().prop_map(Edit::Rotate),
            4 => (0..TENANTS).prop_map(Edit::SwapCredentials),
            1 => any::<u8>().prop_map(Edit::RemoveMany),
            1 => Just(Edit::Break),
        ]
    }

    impl Table {
        fn of(number: u8) -> Self {
            Self {
                client_id: number,
                secret: format!("fake-{number}"),
                in_flight: 3,
                weight: 1,
                suspended: false,
            }
        }

        fn write(&self, folder: &Path, number: u8) {
            let secret = folder.join(format!("{number}.key"));
            put(&secret, &self.secret);
            let standing = if self.suspended {
                "suspended"
            } else {
                "active"
            };
            let Self {
                client_id,
                in_flight,
                weight,
                ..
            } = self;
            let table = format!(
                "id = 't{number:02}'\nsub_account = '{number}'\nweight = {weight}\nstanding = '{standing}'\n\
                 limits = {{ requests_per_second = 1, burst = {BURST}, in_flight = {in_flight} }}\n\
                 credential = [{{ client_id = 'c{client_id}', secret = {{ file = '../{number}.key' }} }}]\n"
            );
            put(&folder.join(format!("tenants.d/{number:02}.toml")), &table);
        }
    }

    /// Puts another file in the place of the one that is there.
    fn put(path: &Path, text: &str) {
        let next = path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, path).unwrap();
    }

    fn change(tables: &mut BTreeMap<u8, Table>, edit: Edit, number: u8) {
        if let Edit::RemoveMany(from) = edit {
            tables.retain(|number, _| number.wrapping_add(from) % 4 != 0);
        }
        if matches!(edit, Edit::Restore) {
            let holds = |table: &Table| {
                table.client_id == number || table.secret == Table::of(number).secret
            };
            if !tables.values().any(holds) {
                tables.entry(number).or_insert_with(|| Table::of(number));
            }
        }
        let Some(mut table) = tables.remove(&number) else {
            return;
        };
        match edit {
            Edit::Remove => return,
            Edit::Limit(in_flight) => table.in_flight = in_flight,
            Edit::Weigh(weight) => table.weight = weight,
            Edit::Suspend => table.suspended = true,
            Edit::Resume => table.suspended = false,
            Edit::Rotate(version) => table.secret = format!("fake-{number}-{version}"),
            Edit::SwapCredentials(other) => {
                if let Some(other) = tables.get_mut(&other) {
                    std::mem::swap(&mut other.client_id, &mut table.client_id);
                    std::mem::swap(&mut other.secret, &mut table.secret);
                }
            }
            Edit::Restore | Edit::RemoveMany(_) | Edit::Break => {}
        }
        tables.insert(number, table);
    }

    /// The spent limits of a party that calls.
    #[derive(Default, Clone, PartialEq, Debug)]
    struct Known {
        tokens: u32,
        seats: u32,
        uses: u64,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn parties_keep_what_they_have_spent_through_any_changes_of_their_files(
            rounds in vec((vec((edit(), 0..TENANTS), 1..5), vec(0..TENANTS, 0..12)), 24)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            fs::create_dir(path.join("tenants.d")).unwrap();
            let mut tables: BTreeMap<u8, Table> =
                (0..TENANTS).map(|number| (number, Table::of(number))).collect();
            for (number, table) in &tables {
                table.write(path, *number);
            }
            let env = |_: &str| Some("fake-institution".to_owned());
            let (mut watch, configuration) = watched(path, env);
            let world = World::new();
            let mut generation = world.after(None, configuration.registry);
            let mut in_force = tables.clone();
            let mut known: BTreeMap<u8, Known> = BTreeMap::new();
            let mut shadow = LimitSet::default();
            for (edits, calls) in rounds {
                let before = tables.clone();
                let mut is_broken = false;
                for (edit, number) in edits {
                    is_broken |= matches!(edit, Edit::Break);
                    change(&mut tables, edit, number);
                }
                for number in before.keys().filter(|number| !tables.contains_key(number)) {
                    fs::remove_file(path.join(format!("tenants.d/{number:02}.toml"))).unwrap();
                }
                for (number, table) in &tables {
                    if before.get(number) != Some(table) {
                        table.write(path, *number);
                    }
                }
                let wrong = path.join("tenants.d/wrong.toml");
                if is_broken {
                    put(&wrong, "no = 1");
                } else if wrong.exists() {
                    fs::remove_file(wrong).unwrap();
                }
                watch.read(&watch.changed_files(), &env);
                let next = if let Ok(next) = watch.next_after(&generation.registry) {
                    prop_assert!(!is_broken);
                    for (number, known) in &mut known {
                        let signs = |table: &Table| (table.client_id, table.secret.clone());
                        let [old, new] = [&in_force, &tables].map(|it| it.get(number).map(signs));
                        if old != new {
                            known.uses = 0;
                        }
                    }
                    in_force = tables.clone();
                    watch.now_in_force();
                    Some(next.registry)
                } else {
                    prop_assert!(is_broken);
                    for (number, table) in &mut in_force {
                        // Only the party's own file, and only less.
                        table.suspended |= tables.get(number).is_some_and(|it| it.suspended);
                    }
                    watch.restricted(&generation.registry)
                };
                if let Some(registry) = next {
                    let next = world.after(Some(&generation), registry);
                    next.end_series_of(&generation, world.inputs());
                    generation = next;
                }
                for number in calls {
                    let Some(table) = in_force.get(&number) else { continue };
                    let limits = generation.tenant_limits(position(&generation, number));
                    let known = known.entry(number).or_default();
                    let taken = limits.take(Kind::Read, world.clock.elapsed(), &mut shadow).is_ok();
                    prop_assert_eq!(taken, known.tokens < BURST);
                    known.tokens += u32::from(taken);
                    let seated = limits.take_seat(&mut shadow).is_ok();
                    prop_assert_eq!(seated, known.seats < table.in_flight);
                    known.seats += u32::from(seated);
                    let found = generation.registry.find(&format!("c{}", table.client_id)).unwrap();
                    generation.used(found.position, found.credential_index).note(1_000);
                    known.uses += 1;
                }
                prop_assert_eq!(generation.all_tenant_limits().count(), in_force.len());
                let text = String::from_utf8(world.metrics.render()).unwrap();
                for (place, (number, table)) in in_force.iter().enumerate() {
                    let at = position(&generation, *number);
                    prop_assert_eq!(at, place);
                    let party = generation.registry.at(at).party();
                    prop_assert_eq!(party.standing == Standing::Suspended, table.suspended);
                    let found = generation.registry.find(&format!("c{}", table.client_id)).unwrap();
                    prop_assert_eq!(found.position, at);
                    let secret = SecretKey::new(Zeroizing::new(table.secret.clone())).unwrap();
                    let client_id = found.credential.credential.client_id.clone();
                    let signs = Credential::new(client_id, &secret);
                    prop_assert!(found.credential.credential.key.same_secret(&signs.key));
                    let known = known.get(number).cloned().unwrap_or_default();
                    let view = generation.tenant_limits(at).view(world.clock.elapsed());
                    let shown = (BURST - view.left, view.in_flight, view.in_flight_limit, view.weight);
                    prop_assert_eq!(shown, (known.tokens, known.seats, table.in_flight, table.weight), "t{:02}", number);
                    prop_assert_eq!(generation.used(at, 0).count(), known.uses, "t{:02}", number);
                    let has_series = text.contains(&format!("tenant=\"t{number:02}\""));
                    prop_assert_eq!(has_series, place < 2);
                }
            }
        }
    }

    fn position(generation: &Generation, number: u8) -> usize {
        generation
            .registry
            .position(&format!("t{number:02}"))
            .unwrap()
    }
}
