//! The table `[operations]` of a party: its words, resolved against the catalogue.

use gatepay_core::operation::{ApiModule, OperationScope};
use gatepay_core::{Catalogue, Kind, Operation};

use crate::model::permissions::{CallerClass, Permissions};
use crate::syntax::problem::closest;
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

/// Reads the table `operations`, or the lack of one.
pub(crate) fn read(
    party: &mut TableReader<'_>,
    catalogue: &Catalogue,
    audience: CallerClass,
) -> Permissions {
    let Some(mut table) = party.table("operations") else {
        return Permissions::all(catalogue, audience);
    };
    let allow = table.list(
        "allow",
        value::text(|word| allowed(word, catalogue, audience)),
    );
    let deny = table.list(
        "deny",
        value::text(|word| OperationSet::parse(word, catalogue)),
    );
    table.finish();

    let deny = deny.unwrap_or_default();
    let mut permissions = Permissions::none(catalogue);
    permissions.add(catalogue, |position, row| {
        let any = |words: &[OperationSet]| words.iter().any(|word| word.means(position, row));
        audience.includes(row) && allow.as_deref().is_none_or(any) && !any(&deny)
    });
    if permissions.is_empty() {
        let text = "allows no operation; to stop every call, set standing = \"suspended\"";
        party.problem("operations", text);
    }
    permissions
}

/// The meaning of a word of `allow` or `deny`.
#[derive(Clone, Copy)]
enum OperationSet {
    Module(ApiModule),
    Kind(Kind),
    Operation(usize),
}

impl OperationSet {
    fn parse(word: &str, catalogue: &Catalogue) -> Result<Self, ValueFault> {
        let module = ApiModule::parse(word).map(Self::Module);
        let kind = || Kind::parse(word).map(Self::Kind);
        let operation = || catalogue.position(word).map(Self::Operation);
        module.or_else(kind).or_else(operation).ok_or_else(|| {
            let modules = ApiModule::ALL.iter().map(|module| module.as_str());
            let kinds = Kind::ALL.iter().map(|kind| kind.as_str());
            let operations = catalogue.rows().iter().map(|row| row.name.as_ref());
            match closest(word, modules.chain(kinds).chain(operations)) {
                Some(meant) => {
                    format!("unknown module, kind or operation (did you mean \"{meant}\"?)").into()
                }
                None => "unknown module, kind or operation; `gatepay-proxy operations` lists them"
                    .into(),
            }
        })
    }

    fn means(self, position: usize, row: &Operation) -> bool {
        match self {
            Self::Module(module) => row.module == module,
            Self::Kind(kind) => row.kind == kind,
            Self::Operation(named) => named == position,
        }
    }
}

/// A word of `allow` must allow something: else it would look like a permission and be none.
fn allowed(
    text: &str,
    catalogue: &Catalogue,
    audience: CallerClass,
) -> Result<OperationSet, ValueFault> {
    let word = OperationSet::parse(text, catalogue)?;
    let rows = catalogue.rows().iter().enumerate();
    let rows = rows
        .filter(|(position, row)| word.means(*position, row))
        .map(|(_, row)| row);
    let refusal = |row: &Operation| match (audience, row.scope, row.off()) {
        (CallerClass::Tenants, OperationScope::Institution, _) => {
            Some("is reserved for the institution and cannot be allowed for a tenant".into())
        }
        (_, _, Some(reason)) => Some(format!("is disabled: {reason}").into()),
        (_, _, None) => None,
    };
    // One row that is open is enough; otherwise the first says why.
    let refusals: Option<Vec<ValueFault>> = rows.map(refusal).collect();
    match refusals {
        None => Ok(word),
        Some(refusals) => Err(refusals
            .into_iter()
            .next()
            .unwrap_or("names no operation".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::syntax::document;
    use crate::syntax::problem::{Problem, Problems};
    use crate::syntax::table_reader::SourceFile;

    fn resolve(text: &str, audience: CallerClass) -> Result<Permissions, Vec<String>> {
        let problems = Problems::default();
        let root = document::from_toml(text).ok().unwrap();
        let name = Path::new("acme.toml").into();
        let file = SourceFile {
            name,
            problems: &problems,
        };
        let permissions = read(
            &mut TableReader::new(file, &root),
            &Catalogue::standard(),
            audience,
        );
        let problems = problems.sorted();
        if problems.is_empty() {
            Ok(permissions)
        } else {
            Err(problems.iter().map(Problem::to_string).collect())
        }
    }

    fn tenants(text: &str) -> Result<Permissions, Vec<String>> {
        resolve(text, CallerClass::Tenants)
    }

    /// The names a tenant may call.
    fn names(text: &str) -> Vec<String> {
        names_for(text, CallerClass::Tenants)
    }

    fn names_for(text: &str, audience: CallerClass) -> Vec<String> {
        let permissions = resolve(text, audience).unwrap();
        let catalogue = Catalogue::standard();
        let rows = catalogue.rows().iter().enumerate();
        let allowed = rows.filter(|(position, _)| permissions.allows(*position));
        allowed.map(|(_, row)| row.name.to_string()).collect()
    }

    #[test]
    fn without_an_operations_table_every_open_operation_is_allowed() {
        let catalogue = Catalogue::standard();
        let open = catalogue
            .rows()
            .iter()
            .filter(|row| CallerClass::Tenants.includes(row))
            .count();
        assert!(open > 20);
        assert_eq!(names("").len(), open);
        assert_eq!(names("[operations]").len(), open);
    }

    #[test]
    fn deny_wins_over_allow() {
        let some =
            names("[operations]\nallow = ['payment', 'balance']\ndeny = ['money', 'create_order']");
        assert!(some.contains(&"query_order".to_owned()));
        assert!(!some.contains(&"create_order".to_owned()));
        assert!(!some.iter().any(|name| name.contains("payout")));
        let catalogue = Catalogue::standard();
        assert!(
            some.iter()
                .all(|name| catalogue.named(name).unwrap().kind != Kind::Money)
        );
    }

    #[test]
    fn a_slip_in_a_word_is_a_problem_with_a_suggestion() {
        assert_eq!(
            tenants("[operations]\nallow = [\n'payment',\n'balanse']\ndeny = ['hunter2hunter2']"),
            Err(vec![
                "acme.toml:4: operations.allow[1]: unknown module, kind or operation (did you mean \"balance\"?)".to_owned(),
                "acme.toml:5: operations.deny[0]: unknown module, kind or operation; `gatepay-proxy operations` lists them".to_owned(),
            ])
        );
    }

    #[test]
    fn an_operation_that_is_closed_or_reserved_cannot_be_allowed() {
        for word in ["accounts", "charge", "create_transfer", "commission_rule"] {
            let problems = tenants(&format!("operations.allow = ['{word}']")).unwrap_err();
            assert!(
                problems[0].contains("is reserved for the institution"),
                "{word}: {problems:?}"
            );
        }
        let problems = tenants("operations.allow = ['mcp']").unwrap_err();
        assert!(problems[0].contains("is disabled: "), "{problems:?}");
    }

    #[test]
    fn an_institution_operation_may_be_denied_to_a_tenant() {
        assert_eq!(names("operations.deny = ['charge', 'accounts']"), names(""));
    }

    #[test]
    fn an_operator_may_call_everything_that_is_on() {
        let operators = |text| names_for(text, CallerClass::Operators);
        let all = operators("");
        let on = |row: &&Operation| row.off().is_none();
        assert_eq!(
            all.len(),
            Catalogue::standard().rows().iter().filter(on).count()
        );
        assert!(all.contains(&"create_charge".to_owned()) && !all.contains(&"mcp_call".to_owned()));
        assert_eq!(
            operators(
                "operations = { allow = ['accounts', 'charge'], deny = ['money', 'update_account'] }"
            ),
            [
                "create_account",
                "query_account",
                "list_accounts",
                "charge_detail"
            ]
        );
        let problems = resolve("operations.allow = ['mcp']", CallerClass::Operators).unwrap_err();
        assert!(problems[0].contains("is disabled: "), "{problems:?}");
    }

    proptest! {
        #[test]
        fn no_list_of_words_opens_the_institutions_own(
            allow in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            deny in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let catalogue = Catalogue::standard();
            let mut words: Vec<&str> = ApiModule::ALL.iter().map(|module| module.as_str()).collect();
            words.extend(Kind::ALL.iter().map(|kind| kind.as_str()));
            words.extend(catalogue.rows().iter().map(|row| row.name.as_ref()));
            let list = |indexes: &[prop::sample::Index]| -> Vec<&str> {
                indexes.iter().map(|index| *index.get(&words)).collect()
            };
            let text = format!("operations = {{ allow = {:?}, deny = {:?} }}", list(&allow), list(&deny));
            let root = document::from_toml(&text).ok().unwrap();
            let problems = Problems::default();
            let file = SourceFile { name: Path::new("acme.toml").into(), problems: &problems };
            // Also after a problem: the permissions that are used in place of wrong ones must not be too many.
            let permissions = read(&mut TableReader::new(file, &root), &catalogue, CallerClass::Tenants);
            for (position, row) in catalogue.rows().iter().enumerate() {
                prop_assert!(row.scope == OperationScope::Tenant || !permissions.allows(position), "{}", row.name);
            }
        }
    }
}
