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
    use gatepay_tenancy::{DatedCredential, Operator, Rate, SubAccount, Tenant};
    use zeroize::Zeroizing;

    use gatepay_tenancy::ConfigWatch;
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

    #[test]
    fn tenants_of_unchanged_files_keep_their_state_and_have_series_by_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("tenants.d")).unwrap();
        for id in ["b", "c", "d", "e"] {
            write_tenant(path, id, 3);
        }
        let proxy = "[[institution.credential]]\nclient_id = 'i'\nsecret = { env = 'I' }\n";
        fs::write(path.join("proxy.toml"), proxy).unwrap();
        let env = |_: &str| Some("fake-institution".to_owned());
        let opened = ConfigWatch::open(&path.join("proxy.toml"), &env);
        let (mut watch, configuration) = opened.unwrap_or_else(|problems| panic!("{problems:?}"));
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
}
