//! The `[[operation]]` tables of `proxy.toml`: rows of the catalogue turned on or off, corrected on the institution's
//! side, or added.
//!
//! What a row is (who may call it, what it does, how tenants call it) is not for configuration to change. Whatever is
//! written, no tenant's row leads where only the institution may go: that is said here, with its place, and
//! [`Catalogue::new`] does not build such a table either.

use std::borrow::Cow;
use std::collections::HashMap;

use gatepay_core::operation::{
    Account, Key, Media, Method, Module, Scope, Switch, Translation, is_canonical, is_reserved,
};
use gatepay_core::{Catalogue, Kind, Operation};

use crate::document::Value;
use crate::problem::closest;
use crate::reader::{Fault, Place, Reader};
use crate::value;

/// Far more than GatePay has calls.
const MOST: usize = 1_000;

/// The catalogue of GatePay's documentation, as the tables change it.
pub(crate) fn read(proxy: &mut Reader<'_>) -> Catalogue {
    let standard = Catalogue::standard();
    let mut tables = proxy.tables("operation").unwrap_or_default();
    if tables.len() > MOST {
        proxy.problem("operation", format!("may stand at most {MOST} times"));
        return standard;
    }
    let mut rows = standard.rows().to_vec();
    let mut named: HashMap<Name, Place> = HashMap::new();
    // Which row each table changed or added.
    let changed: Vec<Option<usize>> = tables
        .iter_mut()
        .map(|table| {
            let written = Written::read(table);
            let name = written.name.clone()?;
            if let Some(place) = named.get(&name) {
                let text = format!("already has a table at {place}");
                table.problem("name", text);
                return None;
            }
            named.insert(name.clone(), table.place("name"));
            match standard.position(&name.0) {
                Some(position) => {
                    correct(table, written, &mut rows[position]);
                    Some(position)
                }
                None => {
                    rows.push(add(table, name, written, &standard)?);
                    Some(rows.len() - 1)
                }
            }
        })
        .collect();
    // Only now, so that two rows may swap their paths.
    let placed = std::iter::zip(&changed, &tables);
    let whole = Whole {
        rows: &rows,
        built_in: standard.rows(),
        places: placed
            .filter_map(|(position, table)| Some(((*position)?, table.place("name"))))
            .collect(),
    };
    let mut clear = true;
    for (position, table) in std::iter::zip(changed, tables) {
        for (key, fault) in position.into_iter().flat_map(|position| {
            [
                ("institution_path", whole.institution_fault(position)),
                ("merchant_path", whole.merchant_fault(position)),
            ]
        }) {
            if let Some(fault) = fault {
                table.problem(key, fault);
                clear = false;
            }
        }
        table.finish();
    }
    Catalogue::new(rows).unwrap_or_else(|error| {
        if clear {
            proxy.problem("operation", error.to_string());
        }
        standard
    })
}

/// A table as written, each key of it read.
struct Written {
    name: Option<Name>,
    enabled: Option<bool>,
    module: Option<Module>,
    kind: Option<Kind>,
    scope: Option<Scope>,
    method: Option<Method>,
    merchant_path: Option<String>,
    institution_method: Option<Method>,
    institution_path: Option<String>,
    key: Option<Key>,
    media: Option<Media>,
    body_limit: Option<u64>,
}

impl Written {
    fn read(table: &mut Reader<'_>) -> Self {
        let method = value::one_of(Method::ALL, Method::as_str);
        Self {
            name: table.required("name", value::text(Name::parse)),
            enabled: table.optional("enabled", value::flag),
            module: table.optional("module", value::text(module)),
            kind: table.optional("kind", value::one_of(Kind::ALL, Kind::as_str)),
            scope: table.optional("scope", value::one_of(Scope::ALL, Scope::as_str)),
            method: table.optional("method", &method),
            merchant_path: table.optional("merchant_path", value::text(path)),
            institution_method: table.optional("institution_method", &method),
            institution_path: table.optional("institution_path", value::text(path)),
            key: table.optional("key", key),
            media: table.optional("media_type", value::one_of(Media::ALL, Media::as_str)),
            body_limit: table.optional("body_limit_bytes", value::body_bytes),
        }
    }

    fn switch(&self) -> Switch {
        match self.enabled {
            None => Switch::Default,
            Some(true) => Switch::On,
            Some(false) => Switch::Off,
        }
    }
}

/// What a row is; an addition says it, a correction cannot.
const GIVEN: [&str; 7] = [
    "module",
    "kind",
    "scope",
    "method",
    "merchant_path",
    "key",
    "media_type",
];

fn correct(table: &Reader<'_>, written: Written, row: &mut Operation) {
    for key in GIVEN.iter().filter(|key| table.has(key)) {
        let opens = row.scope == Scope::Institution && written.scope == Some(Scope::Tenant);
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
        if row.scope == Scope::Tenant {
            row.account = Account::OnBehalfOf;
        }
        row.institution_path = Some(path.into());
        row.confirmed = true;
    }
    if row.switch == Switch::On && row.institution_path.is_none() {
        let text = "needs an institution_path beside it: GatePay publishes none for this operation";
        table.problem("enabled", text);
    }
}

/// A row that GatePay's documentation does not have. `None` if something it cannot be without is missing or wrong.
fn add(
    table: &Reader<'_>,
    name: Name,
    written: Written,
    standard: &Catalogue,
) -> Option<Operation> {
    if !GIVEN.iter().any(|key| table.has(key)) {
        let names = standard.rows().iter().map(|row| row.name.as_ref());
        let text = match closest(&name.0, names) {
            Some(meant) => format!("is no operation; did you mean `{meant}`?"),
            None => "is no operation; to add it, say module, kind, method, merchant_path and institution_path too".to_owned(),
        };
        table.problem("name", text);
        return None;
    }
    let switch = written.switch();
    let scope = written.scope.unwrap_or(Scope::Tenant);
    let needed: &[&str] = match scope {
        Scope::Tenant => &[
            "module",
            "kind",
            "method",
            "merchant_path",
            "institution_path",
        ],
        Scope::Institution => &["module", "kind", "method", "institution_path"],
    };
    for key in needed.iter().filter(|key| !table.has(key)) {
        table.problem(key, "is missing");
    }
    if scope == Scope::Institution && table.has("merchant_path") {
        let text = "must not stand here: tenants do not call what is the institution's own";
        table.problem("merchant_path", text);
    }
    let module = written.module?;
    let own = |row: &Operation| row.module == module && row.scope == Scope::Institution;
    if scope == Scope::Tenant && standard.rows().iter().any(own) {
        let text = "is the institution's own module and is never open to tenants; say scope = \"institution\"";
        table.problem("module", text);
    }
    let method = written.method?;
    Some(Operation {
        name: name.0.into(),
        module,
        method,
        merchant_path: written
            .merchant_path
            .filter(|_| scope == Scope::Tenant)
            .map(Cow::Owned),
        institution_method: written.institution_method.unwrap_or(method),
        institution_path: Some(written.institution_path?.into()),
        alternatives: &[],
        account: account(scope, module),
        scope,
        kind: written.kind?,
        key: written.key.unwrap_or(Key::None),
        look_up: None,
        // Whoever wrote the path vouches for it.
        confirmed: true,
        fields: &[],
        translation: Translation::Verbatim,
        media: written.media.unwrap_or(Media::Json),
        switch,
        body_limit: written.body_limit,
    })
}

/// As in the built-in rows of the module (protocol.md 1.2).
fn account(scope: Scope, module: Module) -> Account {
    match (scope, module) {
        (Scope::Institution, Module::CommissionRule) => Account::MerchantId,
        (Scope::Institution, Module::Accounts) => Account::None,
        _ => Account::OnBehalfOf,
    }
}

/// All rows as the tables leave them, to be judged together.
struct Whole<'a> {
    rows: &'a [Operation],
    built_in: &'a [Operation],
    /// Where the rows stand that tables changed or added.
    places: HashMap<usize, Place>,
}

const OWN: &str = "is the institution's own and is never open to tenants";

impl Whole<'_> {
    /// Why a row cannot have its institution path.
    fn institution_fault(&self, position: usize) -> Option<String> {
        let row = &self.rows[position];
        let path = row.institution_path.as_deref()?;
        if row.scope == Scope::Tenant && self.is_own(path) {
            return Some(OWN.to_owned());
        }
        let is_tenants = |other: &Operation| other.scope == Scope::Tenant && leads_to(other, path);
        if row.scope == Scope::Institution
            && let Some(other) = self.rows.iter().position(is_tenants)
        {
            let other = self.name(other);
            return Some(format!(
                "leads where tenants may go with {other}; the institution's own needs a path of its own"
            ));
        }
        let method = row.institution_method;
        let twin = self.other_than(position, |other| {
            other.institution_method == method && other.institution_path.as_deref() == Some(path)
        });
        if let Some(other) = twin {
            return Some(format!("leads where {other} does, by the same method"));
        }
        let is_known = self
            .built_in
            .get(position)
            .is_some_and(|row| published(row, path));
        if row.scope == Scope::Tenant && !is_known && !path.split('/').any(|it| it == "institution")
        {
            // On-Behalf-Of may mean nothing there.
            return Some(
                "has no segment `institution`: GatePay might make the call for the institution itself"
                    .to_owned(),
            );
        }
        None
    }

    /// Why a row cannot have its merchant path.
    fn merchant_fault(&self, position: usize) -> Option<String> {
        let row = &self.rows[position];
        let path = row.merchant_path.as_deref()?;
        if self.is_own(path) {
            return Some(OWN.to_owned());
        }
        let twin = self.other_than(position, |other| {
            other.method == row.method && other.merchant_path.as_deref() == Some(path)
        });
        twin.map(|other| format!("is that of {other} already, by the same method"))
    }

    /// Whether a path is the institution's own, in any case of letters.
    fn is_own(&self, path: &str) -> bool {
        let mut own = self
            .rows
            .iter()
            .filter(|row| row.scope == Scope::Institution);
        is_reserved(path) || own.any(|row| leads_to(row, path))
    }

    fn other_than(&self, position: usize, is: impl Fn(&Operation) -> bool) -> Option<String> {
        let mut rows = self.rows.iter().enumerate();
        let other = rows.find(|(other, row)| *other != position && is(row));
        other.map(|(other, _)| self.name(other))
    }

    /// A name of ours, or where one of the operator's making stands.
    fn name(&self, position: usize) -> String {
        match (self.built_in.get(position), self.places.get(&position)) {
            (None, Some(place)) => format!("the operation at {place}"),
            _ => self.rows[position].name.to_string(),
        }
    }
}

fn leads_to(row: &Operation, path: &str) -> bool {
    let own = row.institution_path.as_deref();
    own.is_some_and(|own| own.eq_ignore_ascii_case(path))
}

/// Whether GatePay's pages print this institution path for a row.
fn published(row: &Operation, path: &str) -> bool {
    let mut alternatives = row.alternatives.iter();
    row.institution_path.as_deref() == Some(path) || alternatives.any(|(_, other)| *other == path)
}

/// The name of an operation: 1 to 48 of `a-z`, `0-9` and `_`, beginning with a letter, and no word of another meaning.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Name(String);

impl Name {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins || !text.bytes().all(plain) || text.len() > 48 {
            return Err("must be 1 to 48 of a-z, 0-9 and `_`, beginning with a letter");
        }
        if Module::parse(text).is_some() || Kind::parse(text).is_some() {
            return Err("is the name of a module or kind");
        }
        Ok(Self(text.to_owned()))
    }
}

fn module(text: &str) -> Result<Module, Fault> {
    Module::parse(text).ok_or_else(|| {
        let modules = Module::ALL.iter().map(|module| module.as_str());
        match closest(text, modules) {
            Some(meant) => format!("is no module; did you mean `{meant}`?").into(),
            None => "is no module; `gatepay-proxy operations` lists them".into(),
        }
    })
}

/// Narrower than what a URL allows: nothing in it has a second reading, and every client writes it alike.
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
fn key(value: &Value) -> Result<Key, Fault> {
    const MEANT: &str = "must be the name of a field, or a list of two that belong together";
    let field = |value: &Value| match value {
        Value::Text(text) => field(text).map(Cow::<str>::Owned),
        _ => Err(Fault::from(MEANT)),
    };
    match value {
        Value::List(nodes) => match &nodes[..] {
            [first, second] => Ok(Key::Both(field(&first.value)?, field(&second.value)?)),
            _ => Err(MEANT.into()),
        },
        value => Ok(Key::One(field(value)?)),
    }
}

fn field(text: &str) -> Result<String, Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.bytes().all(plain) && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must name a field: 1 to 64 of A-Z, a-z, 0-9 and `_`".into())
    }
}
