//! The `[[operation]]` tables of `proxy.toml`: rows of the catalogue turned on or off, corrected on the institution's
//! side, or added.
//!
//! Configuration cannot change a row's callers, its kind or its merchant path. Whatever is
//! written, no tenant's row leads where only the institution may go, and no read to the path of a write or money call:
//! `paths` says so, with the place, and [`Catalogue::new`] does not build such a catalogue either.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::zip;

use gatepay_core::operation::{
    AccountHeader, AnswerForm, ApiModule, IdempotencyKey, MediaType, Method, OperationScope,
    RowSwitch, Translation,
};
use gatepay_core::own_operation::OwnOperation;
use gatepay_core::spelling::is_canonical;
use gatepay_core::{Catalogue, Kind, Operation};

use serde_json::json;

use crate::files::operation_paths::CataloguePaths;
use crate::syntax::document::ConfigValue;
use crate::syntax::problem::closest;
use crate::syntax::table_reader::{SourceLocation, TableReader, ValueFault};
use crate::syntax::value;

/// Far more than GatePay has calls.
const MOST: usize = 1_000;

/// The catalogue of GatePay's documentation, as the tables change it.
pub(crate) fn read(proxy: &mut TableReader<'_>) -> Catalogue {
    let standard = Catalogue::standard();
    let mut tables = proxy.tables("operation").unwrap_or_default();
    if tables.len() > MOST {
        proxy.problem("operation", format!("may occur at most {MOST} times"));
        return standard;
    }
    let is_served = |own: &OwnOperation| {
        let needs = if own.is_about_notifications() {
            "notifications"
        } else {
            "store"
        };
        proxy.has(needs)
    };
    let own: Vec<_> = OwnOperation::ALL.into_iter().filter(is_served).collect();
    if tables.is_empty() && own.is_empty() {
        // To judge these rows once more is a third of a start's computing.
        return standard;
    }
    let mut rows = standard.rows().to_vec();
    let mut named = HashMap::new();
    let changed: Vec<_> = tables
        .iter_mut()
        .map(|table| change(table, &mut rows, &mut named, &standard))
        .collect();
    rows.extend(own.into_iter().map(OwnOperation::row));
    // Rows are judged only now, so that two of them may swap their paths.
    let placed = zip(&changed, &tables);
    let places = placed
        .filter_map(|(position, table)| Some(((*position)?, table.location("name"))))
        .collect();
    let whole = CataloguePaths::new(&rows, standard.rows(), places);
    let mut reported = false;
    for (position, table) in zip(changed, tables) {
        for (key, fault) in position.map_or_else(Vec::new, |position| whole.faults(position)) {
            table.problem(key, fault);
            reported = true;
        }
        table.finish();
    }
    Catalogue::new(rows).unwrap_or_else(|error| {
        if !reported {
            proxy.problem("operation", error.to_string());
        }
        standard
    })
}

/// Applies one table, and gives the position of its row.
fn change(
    table: &mut TableReader<'_>,
    rows: &mut Vec<Operation>,
    named: &mut HashMap<OperationName, SourceLocation>,
    standard: &Catalogue,
) -> Option<usize> {
    let written = OperationTable::read(table);
    let name = written.name.clone()?;
    if let Some(place) = named.get(&name) {
        table.problem("name", format!("already has a table at {place}"));
        return None;
    }
    named.insert(name.clone(), table.location("name"));
    if let Some(position) = standard.position(&name.0) {
        correct(table, written, &mut rows[position]);
        return Some(position);
    }
    rows.push(add(table, name, written, standard)?);
    Some(rows.len() - 1)
}

/// A table as written, each key of it read.
struct OperationTable {
    name: Option<OperationName>,
    enabled: Option<bool>,
    module: Option<ApiModule>,
    kind: Option<Kind>,
    scope: Option<OperationScope>,
    method: Option<Method>,
    merchant_path: Option<String>,
    institution_method: Option<Method>,
    institution_path: Option<String>,
    key: Option<IdempotencyKey>,
    media: Option<MediaType>,
    answer: Option<AnswerForm>,
    body_limit: Option<u64>,
}

impl OperationTable {
    fn read(table: &mut TableReader<'_>) -> Self {
        let method = value::one_of(Method::ALL, Method::as_str);
        Self {
            name: table.required("name", value::text(OperationName::parse)),
            enabled: table.optional("enabled", value::flag),
            module: table.optional("module", value::text(module)),
            kind: table.optional("kind", value::one_of(Kind::ALL, Kind::as_str)),
            scope: table.optional(
                "scope",
                value::one_of(OperationScope::ALL, OperationScope::as_str),
            ),
            method: table.optional("method", &method),
            merchant_path: table.optional("merchant_path", value::text(path)),
            institution_method: table.optional("institution_method", &method),
            institution_path: table.optional("institution_path", value::text(path)),
            key: table.optional("key", key),
            media: table.optional(
                "media_type",
                value::one_of(MediaType::ALL, MediaType::as_str),
            ),
            answer: table.optional("answer", value::one_of(AnswerForm::ALL, AnswerForm::as_str)),
            body_limit: table.optional("body_limit_bytes", value::body_bytes),
        }
    }

    fn switch(&self) -> RowSwitch {
        match self.enabled {
            None => RowSwitch::Default,
            Some(true) => RowSwitch::On,
            Some(false) => RowSwitch::Off,
        }
    }
}

/// The keys that define a row; an added row has them, a correction must not.
const GIVEN: [&str; 8] = [
    "module",
    "kind",
    "scope",
    "method",
    "merchant_path",
    "key",
    "media_type",
    "answer",
];

fn correct(table: &TableReader<'_>, written: OperationTable, row: &mut Operation) {
    for key in GIVEN.iter().filter(|key| table.has(key)) {
        let opens = row.scope == OperationScope::Institution
            && written.scope == Some(OperationScope::Tenant);
        let text = if *key == "scope" && opens {
            "cannot be changed: this operation is the institution's own and is never open to tenants"
        } else {
            "cannot be changed; a built-in operation can be enabled or disabled, and have its institution_path, \
             institution_method and body_limit_bytes corrected"
        };
        table.problem(key, text);
    }
    row.switch = written.switch();
    row.body_limit = written.body_limit.or(row.body_limit);
    if let Some(method) = written.institution_method {
        row.institution_method = method;
    }
    if let Some(path) = written.institution_path {
        // A path that another page prints goes with the method it is printed with.
        let published = row.alternatives.iter().find(|(_, other)| *other == path);
        if let (Some((method, _)), None) = (published, written.institution_method) {
            row.institution_method = *method;
        }
        if row.scope == OperationScope::Tenant {
            row.account = AccountHeader::OnBehalfOf;
        }
        row.institution_path = Some(path.into());
        row.confirmed = true;
    }
    if row.switch == RowSwitch::On && row.institution_path.is_none() {
        let text = "needs an institution_path beside it: GatePay publishes none for this operation";
        table.problem("enabled", text);
    }
}

/// A row that GatePay's documentation does not have. `None` if something it cannot be without is missing or wrong.
fn add(
    table: &TableReader<'_>,
    name: OperationName,
    written: OperationTable,
    standard: &Catalogue,
) -> Option<Operation> {
    if !GIVEN.iter().any(|key| table.has(key)) {
        table.problem("name", unknown_operation(&name, standard));
        return None;
    }
    let switch = written.switch();
    let scope = written.scope.unwrap_or(OperationScope::Tenant);
    require_keys(table, scope);
    let module = written.module?;
    let own = |row: &Operation| row.module == module && row.scope == OperationScope::Institution;
    if scope == OperationScope::Tenant && standard.rows().iter().any(own) {
        let text = "is the institution's own module and is never open to tenants; set scope = \"institution\"";
        table.problem("module", text);
    }
    let method = written.method?;
    Some(Operation {
        name: name.0.into(),
        module,
        method,
        merchant_path: written
            .merchant_path
            .filter(|_| scope == OperationScope::Tenant)
            .map(Cow::Owned),
        institution_method: written.institution_method.unwrap_or(method),
        institution_path: Some(written.institution_path?.into()),
        alternatives: &[],
        account: account(scope, module),
        scope,
        kind: written.kind?,
        key: written.key.unwrap_or(IdempotencyKey::None),
        look_up: None,
        // The path is the operator's own.
        confirmed: true,
        fields: &[],
        amounts: &[],
        translation: Translation::Verbatim,
        media: written.media.unwrap_or(MediaType::Json),
        answer: written.answer.unwrap_or(AnswerForm::Envelope),
        switch,
        body_limit: written.body_limit,
    })
}

fn unknown_operation(name: &OperationName, standard: &Catalogue) -> String {
    let names = standard.rows().iter().map(|row| row.name.as_ref());
    match closest(&name.0, names) {
        Some(meant) => format!("unknown operation (did you mean \"{meant}\"?)"),
        None => "unknown operation; to add it, set module, kind, method, merchant_path and institution_path".to_owned(),
    }
}

/// Reports the keys that an added row of this scope lacks, or must not have.
fn require_keys(table: &TableReader<'_>, scope: OperationScope) {
    let needed: &[&str] = match scope {
        OperationScope::Tenant => &[
            "module",
            "kind",
            "method",
            "merchant_path",
            "institution_path",
        ],
        OperationScope::Institution => &["module", "kind", "method", "institution_path"],
    };
    for key in needed.iter().filter(|key| !table.has(key)) {
        table.problem(key, "is required");
    }
    if scope == OperationScope::Institution && table.has("merchant_path") {
        let text = "not allowed with scope = \"institution\": tenants cannot call the operation";
        table.problem("merchant_path", text);
    }
}

/// As in the built-in rows of the module (protocol.md 1.2).
fn account(scope: OperationScope, module: ApiModule) -> AccountHeader {
    match (scope, module) {
        (OperationScope::Institution, ApiModule::CommissionRule) => AccountHeader::MerchantId,
        (OperationScope::Institution, ApiModule::Accounts) => AccountHeader::None,
        _ => AccountHeader::OnBehalfOf,
    }
}

/// The name of an operation: 1 to 48 of `a-z`, `0-9` and `_`, beginning with a letter, and no word of another meaning.
#[derive(Clone, PartialEq, Eq, Hash)]
struct OperationName(String);

impl OperationName {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins || !text.bytes().all(plain) || text.len() > 48 {
            return Err("must be 1 to 48 of a-z, 0-9 and `_`, beginning with a letter");
        }
        if ApiModule::parse(text).is_some() || Kind::parse(text).is_some() {
            return Err("is the name of a module or kind");
        }
        Ok(Self(text.to_owned()))
    }
}

fn module(text: &str) -> Result<ApiModule, ValueFault> {
    ApiModule::parse(text).ok_or_else(|| {
        let modules = ApiModule::ALL.iter().map(|module| module.as_str());
        match closest(text, modules) {
            Some(meant) => format!("unknown module (did you mean \"{meant}\"?)").into(),
            None => "unknown module; `gatepay-proxy operations` lists them".into(),
        }
    })
}

/// Narrower than a URL: nothing in it has a second reading, and every client writes it alike.
fn path(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    if is_canonical(text) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(
            "is not canonical: it must begin with `/`, have no doubled or final `/` and no `.` or `..` segment, and \
             be made of letters, digits, `-`, `.`, `_` and `~`",
        )
    }
}

/// One field, or two that name a transaction together.
fn key(value: &ConfigValue) -> Result<IdempotencyKey, ValueFault> {
    const MEANT: &str = "must be the name of a field, or a list of two that belong together";
    let field = |value: &ConfigValue| match value {
        ConfigValue::Text(text) => field(text).map(Cow::<str>::Owned),
        _ => Err(ValueFault::from(MEANT)),
    };
    value.record(|| {
        let field = json!({ "type": "string" });
        json!({ "anyOf": [field, { "type": "array", "items": field, "minItems": 2, "maxItems": 2 }] })
    });
    match value {
        ConfigValue::List(nodes) => match &nodes[..] {
            [first, second] => Ok(IdempotencyKey::Both(
                field(&first.value)?,
                field(&second.value)?,
            )),
            _ => Err(MEANT.into()),
        },
        value => Ok(IdempotencyKey::One(field(value)?)),
    }
}

fn field(text: &str) -> Result<String, ValueFault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.bytes().all(plain) && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must name a field: 1 to 64 of A-Z, a-z, 0-9 and `_`".into())
    }
}
