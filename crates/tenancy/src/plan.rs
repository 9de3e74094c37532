//! The changes between two configurations: for people, for programs, and for the one that has to confirm them.

use std::collections::{BTreeMap, BTreeSet};

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::model::facts::ConfigFacts;
use crate::model::snapshot::ConfigSnapshot;
use crate::plan::facts::FactSource;

pub(crate) mod cap_facts;
pub mod facts;
mod hash;
mod plan_text;
mod settings_facts;

pub use hash::ConfigHash;
use plan_text::ValueText;

/// A change that removes more tenants than this, and more than [`MOST_REMOVED_PERCENT`] of them, is probably an accident:
/// a folder that is empty for a moment, or the wrong one.
pub const MOST_REMOVED: usize = 10;
/// A part of the tenants before the change, in percent.
pub const MOST_REMOVED_PERCENT: usize = 20;
/// The length of a plan's hash: no two plans have the same in practice, and it is short enough to paste.
const HASH_BYTES: usize = 16;

/// A snapshot as another process tells it, without secrets.
#[derive(Debug, Deserialize)]
pub struct ConfigOutline {
    settings: ConfigFacts,
    institution: ConfigFacts,
    operations: BTreeMap<String, ConfigFacts>,
    tenants: BTreeMap<String, ConfigFacts>,
    operators: BTreeMap<String, ConfigFacts>,
}

/// The changes. Displayed it is one line for each change, sorted, without the summary; as JSON it has the fields
/// `changes`, `summary`, `hash`, `guard`, `settings`, `institution`, `operations`, `tenants` and `operators`.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Whether there is any.
    pub changes: bool,
    /// One line.
    pub summary: String,
    /// The same for the same changes to as many parties, another for any other: a confirmation names it.
    pub hash: String,
    /// Reasons to ask for a confirmation; empty if none is needed.
    pub guard: Vec<String>,
    #[serde(flatten)]
    sections: PlanSections,
    /// From the hash of the one configuration to that of the other.
    #[serde(skip)]
    shift: ConfigHash,
}

#[derive(Debug, Serialize)]
struct PlanSections {
    /// Of the process; they wait for its next start.
    settings: Vec<FactChange>,
    institution: Vec<FactChange>,
    operations: GroupChanges,
    tenants: GroupChanges,
    operators: GroupChanges,
}

#[derive(Debug, Default, Serialize)]
struct GroupChanges {
    before: usize,
    after: usize,
    added: Vec<UnpairedEntry>,
    removed: Vec<UnpairedEntry>,
    changed: Vec<ChangedEntry>,
}

/// A party or row of one side only.
#[derive(Debug, Serialize)]
struct UnpairedEntry {
    id: String,
    facts: ConfigFacts,
}

#[derive(Debug, Serialize)]
struct ChangedEntry {
    id: String,
    changes: Vec<FactChange>,
}

/// `null` is an absent key.
#[derive(Debug, Serialize)]
struct FactChange {
    key: String,
    before: Value,
    after: Value,
}

/// Party by party, so that a hundred thousand of them are never held as facts all at once.
impl Serialize for ConfigSnapshot<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// A map that is made while it is written.
        struct LazyMap<F>(F);

        impl<'a, F, I> Serialize for LazyMap<F>
        where
            F: Fn() -> I,
            I: Iterator<Item = (&'a str, FactSource<'a>)>,
        {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map((self.0)().map(|(id, known)| (id, known.facts())))
            }
        }

        let mut outline = serializer.serialize_struct("ConfigOutline", 5)?;
        outline.serialize_field("settings", self.written)?;
        outline.serialize_field("institution", &facts::of_institution(self.institution))?;
        outline.serialize_field("operations", &LazyMap(|| self.operations()))?;
        outline.serialize_field("tenants", &LazyMap(|| self.tenants()))?;
        outline.serialize_field("operators", &LazyMap(|| self.operators()))?;
        outline.end()
    }
}

impl Plan {
    /// From one configuration to another. A party that both share is not looked at: with a hundred thousand of them and
    /// one that changes, this takes some tens of milliseconds.
    pub fn between(before: ConfigSnapshot<'_>, after: ConfigSnapshot<'_>) -> Self {
        Self::of(
            before.written,
            &facts::of_institution(before.institution),
            (before.operations(), before.tenants(), before.operators()),
            after,
        )
    }

    /// From another process's outline to a configuration.
    pub fn against(before: &ConfigOutline, after: ConfigSnapshot<'_>) -> Self {
        fn told(
            map: &BTreeMap<String, ConfigFacts>,
        ) -> impl Iterator<Item = (&str, FactSource<'_>)> {
            map.iter()
                .map(|(id, facts)| (id.as_str(), FactSource::Outlined(facts)))
        }
        let ConfigOutline {
            settings,
            institution,
            operations,
            tenants,
            operators,
        } = before;
        let groups = (told(operations), told(tenants), told(operators));
        Self::of(settings, institution, groups, after)
    }

    fn of<'a>(
        settings: &ConfigFacts,
        institution: &ConfigFacts,
        (operations, tenants, operators): (
            impl Iterator<Item = (&'a str, FactSource<'a>)>,
            impl Iterator<Item = (&'a str, FactSource<'a>)>,
            impl Iterator<Item = (&'a str, FactSource<'a>)>,
        ),
        after: ConfigSnapshot<'a>,
    ) -> Self {
        let (mut moves, mut shift) = (AccountMoves::default(), ConfigHash::default());
        let institution_after = facts::of_institution(after.institution);
        for (section, old, new) in [
            ("settings", settings, after.written),
            ("institution", institution, &institution_after),
        ] {
            shift.note(section, "", Some(old), Some(new));
        }
        let of = PlanSections {
            settings: changes(settings, after.written),
            institution: changes(institution, &institution_after),
            operations: GroupChanges::of(operations, after.operations(), |id, old, new| {
                shift.note("operations", id, old, new);
            }),
            tenants: GroupChanges::of(tenants, after.tenants(), |id, old, new| {
                shift.note("tenants", id, old, new);
                moves.note(id, old, new);
            }),
            operators: GroupChanges::of(operators, after.operators(), |id, old, new| {
                shift.note("operators", id, old, new);
            }),
        };
        let mut guard = Vec::new();
        let GroupChanges {
            before, removed, ..
        } = &of.tenants;
        if removed.len() > MOST_REMOVED && removed.len() * 100 > before * MOST_REMOVED_PERCENT {
            guard.push(format!("removes {} of {before} tenants", removed.len()));
        }
        guard.extend(moves.found());
        let bytes = serde_json::to_vec(&of).expect("text keys and JSON values are JSON");
        let summary = of.summary();
        Self {
            changes: summary.is_some(),
            summary: summary.unwrap_or_else(|| "nothing changes".to_owned()),
            hash: hex::encode(&Sha256::digest(bytes)[..HASH_BYTES]),
            guard,
            sections: of,
            shift,
        }
    }

    /// The hash of the configuration this one leads to, from that of the one it begins at.
    #[must_use]
    pub fn leads_to(&self, begin: ConfigHash) -> ConfigHash {
        begin.shifted(self.shift)
    }
}

impl GroupChanges {
    /// Compares two sides, each sorted by name; `visit` sees each difference.
    fn of<'a>(
        before: impl Iterator<Item = (&'a str, FactSource<'a>)>,
        after: impl Iterator<Item = (&'a str, FactSource<'a>)>,
        mut visit: impl FnMut(&str, Option<&ConfigFacts>, Option<&ConfigFacts>),
    ) -> Self {
        let mut group = Self::default();
        let mut add = |added: &mut Vec<UnpairedEntry>, id: &str, new: FactSource<'_>| {
            let facts = new.facts().into_owned();
            visit(id, None, Some(&facts));
            let id = id.to_owned();
            added.push(UnpairedEntry { id, facts });
        };
        let mut differ = Vec::new();
        // One walk along the two: there may be a hundred thousand on each side.
        let mut after = after.inspect(|_| group.after += 1).peekable();
        for (id, old) in before {
            group.before += 1;
            // Shared parties have the same id, and comparing pointers reads neither of the two.
            let is_shared = |(_, new): &(_, FactSource<'_>)| new.is_same_in_memory(old);
            if after.next_if(is_shared).is_some() {
                continue;
            }
            while let Some((id, new)) = after.next_if(|(other, _)| *other < id) {
                add(&mut group.added, id, new);
            }
            let new = after.next_if(|(other, _)| *other == id);
            if !new.is_some_and(|(_, new)| new.is_same_in_memory(old)) {
                differ.push((id, old, new.map(|(_, new)| new)));
            }
        }
        for (id, new) in after {
            add(&mut group.added, id, new);
        }
        for (id, old, new) in differ {
            let old = old.facts();
            let id = id.to_owned();
            let Some(new) = new.map(FactSource::facts) else {
                visit(&id, Some(&old), None);
                let facts = old.into_owned();
                group.removed.push(UnpairedEntry { id, facts });
                continue;
            };
            let changes = changes(&old, &new);
            if !changes.is_empty() {
                visit(&id, Some(&old), Some(&new));
                group.changed.push(ChangedEntry { id, changes });
            }
        }
        group
    }
}

/// By key, in their order; a key that one side lacks is `null` there.
fn changes(before: &ConfigFacts, after: &ConfigFacts) -> Vec<FactChange> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |key: &String| {
        let value = |facts: &ConfigFacts| facts.get(key).cloned().unwrap_or_default();
        let (before, after) = (value(before), value(after));
        let key = key.clone();
        (before != after).then_some(FactChange { key, before, after })
    };
    keys.into_iter().filter_map(change).collect()
}

/// The sub-accounts of changed tenants: by id and by client id.
#[derive(Default)]
struct AccountMoves {
    before: BTreeMap<CallerName, AccountHolder>,
    after: BTreeMap<CallerName, AccountHolder>,
}

/// A caller's identity: a tenant's name, or a client id.
type CallerName = (&'static str, String);

struct AccountHolder {
    tenant: String,
    account: Value,
}

impl AccountMoves {
    fn note(&mut self, id: &str, before: Option<&ConfigFacts>, after: Option<&ConfigFacts>) {
        for (facts, hands) in [(before, &mut self.before), (after, &mut self.after)] {
            let Some(facts) = facts else { continue };
            let account = facts.get("sub_account").cloned().unwrap_or_default();
            let client_ids = facts
                .keys()
                .filter_map(|key| key.strip_prefix("credential."));
            let client_ids = client_ids.map(|client_id| ("client id", client_id.to_owned()));
            for hand in client_ids.chain([("tenant", id.to_owned())]) {
                let holder = AccountHolder {
                    tenant: id.to_owned(),
                    account: account.clone(),
                };
                hands.insert(hand, holder);
            }
        }
    }

    /// Calls that acted for one account and would act for another: the tenant's own, or those of a client id that another
    /// tenant has taken over.
    fn found(&self) -> impl Iterator<Item = String> {
        self.before.iter().filter_map(|(hand, old)| {
            let new = self.after.get(hand)?;
            let (what, which) = hand;
            let taken_over = *what == "tenant" || old.tenant != new.tenant;
            (taken_over && old.account != new.account).then(|| {
                let (from, to) = (ValueText(&old.account), ValueText(&new.account));
                format!("moves {what} {which} from sub-account {from} to {to}")
            })
        })
    }
}
