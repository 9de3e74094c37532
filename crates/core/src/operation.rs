//! The catalogue: every API call this program knows, one typed row each.
//!
//! Rows drive everything else. What is not a row does not exist: there are no prefix rules (protocol.md 2).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::catalogue;
use crate::field::{AmountField, Field};
use crate::spelling::{KnownKinds, Side, folded};
use crate::words::words;

pub use crate::spelling::is_reserved;

/// HTTP methods that occur in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// `GET`, which may carry a signed body here.
    Get,
    /// `POST`, which may carry an unsigned query here.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
}

/// The part of the API a row belongs to; a word of `[operations] allow` and `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is the module of the same name in the vendor's documentation"
)]
pub enum Module {
    Payment,
    Address,
    FixedAddress,
    Balance,
    Convert,
    Payout,
    Otc,
    GiftCard,
    Subscription,
    Channel,
    Mcp,
    Accounts,
    CommissionRule,
    Transfer,
    Charge,
}

/// What a call does to the world. A word of `[operations] allow` and `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Changes nothing, so it may be repeated.
    Read,
    /// Changes state, moves no funds.
    Write,
    /// Moves funds.
    Money,
}

/// Who may call a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Open to tenants (and to operators, under its institution path).
    Tenant,
    /// The institution's own back office only: it acts on accounts other than the caller's.
    Institution,
}

/// Which header names the account a call acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    /// `X-GatePay-On-Behalf-Of`.
    OnBehalfOf,
    /// `X-GatePay-MerchantId`, the institution's own merchant id: fee settings.
    MerchantId,
    /// Neither: accounts create, query and list.
    None,
}

/// The media type a call's body must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `multipart/form-data`: two OTC bank calls.
    Multipart,
}

/// The field or fields that name one business transaction, and make its repetition harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// There is none.
    None,
    /// One field.
    One(Cow<'static, str>),
    /// Either of two fields.
    Either(Cow<'static, str>, Cow<'static, str>),
    /// Both of two fields together.
    Both(Cow<'static, str>, Cow<'static, str>),
}

/// The read that tells what became of a write or money call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    /// The name of a row.
    pub operation: &'static str,
    /// The fields it is asked by; they have the same names in the call that is looked up.
    pub by: Key,
    /// What else it has to be asked with.
    pub with: &'static [(&'static str, &'static str)],
    /// Fields that the call and what is found have in common. Where they differ, another call made it.
    pub same: &'static [&'static str],
    /// Whether what is found exists by this call alone, so that finding it proves that the call was carried out. What
    /// a call changes may be older than it.
    pub proves: bool,
}

/// How a merchant call becomes an institution call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Path and headers change; the body is sent byte for byte.
    Verbatim,
    /// GET with `balance_list` ↔ POST of a JSON array of currencies with `balanceList` (protocol.md 2).
    Balance,
}

/// One API call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its name in configuration, logs and metrics: lower case with underscores, unique.
    pub name: Cow<'static, str>,
    /// The module it belongs to.
    pub module: Module,
    /// The merchant method.
    pub method: Method,
    /// The merchant path; an institution-scope row has none.
    pub merchant_path: Option<Cow<'static, str>>,
    /// The institution method, where it is another than the merchant's.
    pub institution_method: Method,
    /// The institution path; a row without one cannot be forwarded.
    pub institution_path: Option<Cow<'static, str>>,
    /// Institution paths that other sources print (protocol.md 7), as method and path.
    pub alternatives: &'static [(Method, &'static str)],
    /// Which header names the account.
    pub account: Account,
    /// Who may call it.
    pub scope: Scope,
    /// What it does.
    pub kind: Kind,
    /// What makes a repetition harmless.
    pub key: Key,
    /// How to find out what became of it.
    pub look_up: Option<LookUp>,
    /// Whether a page shows the institution path itself, or `proxy.toml` does; else it was derived by rule.
    pub confirmed: bool,
    /// What its body must have, where GatePay's pages say so; empty means that nothing is checked.
    pub fields: &'static [Field],
    /// Where its body has amounts; empty if it names none, or it is not known where.
    pub amounts: &'static [AmountField],
    /// How the body is carried over.
    pub translation: Translation,
    /// What the body must be.
    pub media: Media,
    /// Whether it was turned on or off.
    pub switch: Switch,
    /// The largest body, in bytes, where it differs from `listen.body_limit_bytes`.
    pub body_limit: Option<u64>,
}

impl Operation {
    /// Why the row is off, or `None` if it is on.
    ///
    /// Off by default is what cannot be forwarded, and what moves funds under a path no page of GatePay's shows.
    pub fn off(&self) -> Option<&'static str> {
        match self.switch {
            _ if self.institution_path.is_none() => Some(
                "GatePay publishes no institution path for it; `institution_path` in its [[operation]] turns it on",
            ),
            Switch::Off => Some("proxy.toml disables it"),
            Switch::Default if self.kind == Kind::Money && !self.confirmed => Some(
                "it moves funds and no page of GatePay's shows its institution path; `enabled = true` in its [[operation]] turns it on",
            ),
            Switch::On | Switch::Default => None,
        }
    }

    /// Whether the body is carried over as it is. A translated row whose institution method was configured to be the
    /// merchant's own needs no translation.
    pub fn is_verbatim(&self) -> bool {
        self.translation == Translation::Verbatim || self.institution_method == self.method
    }
}

/// Whether `proxy.toml` says that a row is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// It does not say.
    #[default]
    Default,
    /// `enabled = true`.
    On,
    /// `enabled = false`.
    Off,
}

/// Rows by (method, path), both ways. Look-up cost does not grow with their number.
#[derive(Debug, Clone)]
pub struct Catalogue {
    rows: Vec<Operation>,
    by_name: HashMap<Box<str>, usize>,
    by_merchant_path: Paths,
    by_institution_path: Paths,
}

/// Which row answers each method on one path. Which paths there are, callers have no say in: any hash does.
type Paths = HashMap<Box<str>, Methods, foldhash::fast::FixedState>;

/// Which row answers each method.
type Methods = [Option<u16>; 4];

/// Why rows do not make a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Two rows have one name.
    #[error("operation {0} is defined twice")]
    Name(String),
    /// Two rows answer one method and path.
    #[error("operations {0} and {1} have the same method and path {2}")]
    Path(String, String, String),
    /// A tenant's row with a path that belongs to the institution alone.
    #[error("operation {0} would open a path of the institution's own to tenants")]
    Reserved(String),
    /// A row that is weaker than its path is known to be: a read that leads to a write or money call, for one.
    #[error("operation {0} has the path of {1}, which is of a stronger kind")]
    Weaker(String, String),
    /// A path that no request could match.
    #[error("operation {0} has a path that is not canonical")]
    NotCanonical(String),
}

impl Catalogue {
    /// The catalogue of GatePay's documentation.
    ///
    /// # Panics
    /// Never: a test builds it.
    pub fn standard() -> Self {
        Self::new(catalogue::rows()).expect("the built-in rows make a catalogue")
    }

    /// Builds the index; a duplicate or ambiguous row is an error, and so is one that would let a tenant reach what is
    /// the institution's own, or that leads to the path of a stronger kind: no configuration gets past here.
    ///
    /// # Panics
    /// With more than 65,536 rows.
    pub fn new(rows: Vec<Operation>) -> Result<Self, CatalogueError> {
        let mut by_name = HashMap::new();
        let mut by_merchant_path = Paths::default();
        let mut by_institution_path = Paths::default();
        let own: HashSet<String> = rows
            .iter()
            .filter(|row| row.scope == Scope::Institution)
            .filter_map(|row| row.institution_path.as_deref())
            .map(folded)
            .collect();
        for (index, row) in rows.iter().enumerate() {
            if by_name.insert(row.name.as_ref().into(), index).is_some() {
                return Err(CatalogueError::Name(row.name.to_string()));
            }
            let insert = |map: &mut Paths, method: Method, path: &str| {
                if !is_canonical(path) {
                    return Err(CatalogueError::NotCanonical(row.name.to_string()));
                }
                let slot = &mut map.entry(path.into()).or_default()[method as usize];
                let index = u16::try_from(index).expect("there are fewer than 65,536 operations");
                match slot.replace(index) {
                    None => Ok(()),
                    Some(other) => Err(CatalogueError::Path(
                        rows[usize::from(other)].name.to_string(),
                        row.name.to_string(),
                        path.to_owned(),
                    )),
                }
            };
            if row.scope == Scope::Institution && row.merchant_path.is_some() {
                return Err(CatalogueError::Reserved(row.name.to_string()));
            }
            let mut paths = row.merchant_path.iter().chain(&row.institution_path);
            if row.scope == Scope::Tenant
                && paths.any(|path| is_reserved(path) || own.contains(&folded(path)))
            {
                return Err(CatalogueError::Reserved(row.name.to_string()));
            }
            if let Some(path) = &row.merchant_path {
                insert(&mut by_merchant_path, row.method, path)?;
            }
            if let Some(path) = &row.institution_path {
                insert(&mut by_institution_path, row.institution_method, path)?;
            }
        }
        let published = catalogue::rows();
        let known = KnownKinds::of(&published, &rows);
        for row in &rows {
            let institution = known.stronger(row, Side::Institution);
            if let Some(stronger) = institution.or_else(|| known.stronger(row, Side::Merchant)) {
                let names = (row.name.to_string(), stronger.name.to_string());
                return Err(CatalogueError::Weaker(names.0, names.1));
            }
        }
        Ok(Self {
            rows,
            by_name,
            by_merchant_path,
            by_institution_path,
        })
    }

    /// All rows, in the documentation's order.
    pub fn rows(&self) -> &[Operation] {
        &self.rows
    }

    /// A row's place in [`rows`](Self::rows): a small number for tables kept beside the catalogue.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The row of that name.
    pub fn named(&self, name: &str) -> Option<&Operation> {
        self.position(name).map(|index| &self.rows[index])
    }

    /// A read for no account, which the proxy may ask by itself, if one is on: that of the accounts.
    pub fn probe(&self) -> Option<&Operation> {
        let fits = |row: &&Operation| {
            row.kind == Kind::Read && row.account == Account::None && row.off().is_none()
        };
        let list = self.named("list_accounts").filter(fits);
        list.or_else(|| self.rows.iter().find(fits))
    }

    /// The place of the row a tenant reaches by method and canonical path.
    pub fn merchant(&self, method: Method, path: &str) -> Option<usize> {
        self.by_merchant_path.get(path)?[method as usize].map(usize::from)
    }

    /// The place of the row an operator reaches by institution method and canonical path.
    pub fn institution(&self, method: Method, path: &str) -> Option<usize> {
        self.by_institution_path.get(path)?[method as usize].map(usize::from)
    }
}

/// Whether a path has one reading only: it starts with `/`, and has no doubled slash, dot segment, escape, backslash,
/// or byte outside visible ASCII (protocol.md 2). Query and fragment are not part of a path.
pub fn is_canonical(path: &str) -> bool {
    let is_plain =
        |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b'?' | b'#' | b';');
    path.as_bytes().strip_prefix(b"/").is_some_and(|segments| {
        segments.iter().all(is_plain)
            && segments
                .split(|byte| *byte == b'/')
                .all(|segment| !matches!(segment, b"" | b"." | b".."))
    })
}

impl Key {
    /// The fields it is made of.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::None => (None, None),
            Self::One(field) => (Some(field), None),
            Self::Either(first, second) | Self::Both(first, second) => (Some(first), Some(second)),
        };
        first.into_iter().chain(second).map(Cow::as_ref)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::One(field) => f.write_str(field),
            Self::Either(first, second) => write!(f, "{first} or {second}"),
            Self::Both(first, second) => write!(f, "{first} and {second}"),
        }
    }
}

words!(Method { Get = "GET", Post = "POST", Put = "PUT", Delete = "DELETE" });
words!(Kind { Read = "read", Write = "write", Money = "money" });
words!(Scope { Tenant = "tenant", Institution = "institution" });
words!(Media { Json = "application/json", Multipart = "multipart/form-data" });
words!(Module {
    Payment = "payment",
    Address = "address",
    FixedAddress = "fixedaddress",
    Balance = "balance",
    Convert = "convert",
    Payout = "payout",
    Otc = "otc",
    GiftCard = "giftcard",
    Subscription = "subscription",
    Channel = "channel",
    Mcp = "mcp",
    Accounts = "accounts",
    CommissionRule = "commission_rule",
    Transfer = "transfer",
    Charge = "charge",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rows_make_a_catalogue() {
        let catalogue = Catalogue::standard();
        let row = catalogue
            .merchant(Method::Post, "/v1/pay/order")
            .map(|index| &catalogue.rows()[index]);
        assert_eq!(row.map(|row| row.name.as_ref()), Some("create_order"));
        assert_eq!(catalogue.merchant(Method::Get, "/v1/pay/order"), None);
        assert_eq!(catalogue.merchant(Method::Post, "/v1/pay/order/"), None);
    }

    #[test]
    fn a_name_means_one_thing_in_allow_and_deny() {
        for row in Catalogue::standard().rows() {
            assert!(
                Module::parse(&row.name).is_none() && Kind::parse(&row.name).is_none(),
                "{}",
                row.name
            );
            assert!(
                row.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn a_look_up_is_a_read_that_is_asked_by_the_calls_own_key() {
        let catalogue = Catalogue::standard();
        for row in catalogue.rows() {
            let Some(look_up) = &row.look_up else {
                continue;
            };
            let target = catalogue
                .named(look_up.operation)
                .unwrap_or_else(|| panic!("{}: no such look-up", row.name));
            assert_eq!(
                (target.kind, target.scope),
                (Kind::Read, row.scope),
                "{}",
                row.name
            );
            for field in look_up.by.fields() {
                assert!(
                    row.key.fields().any(|own| own == field),
                    "{}: {field}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn a_row_defined_twice_is_refused() {
        let mut rows = catalogue::rows();
        rows.push(rows[0].clone());
        assert_eq!(
            Catalogue::new(rows.clone()).unwrap_err(),
            CatalogueError::Name("create_order".into())
        );
        rows.last_mut().unwrap().name = "other".into();
        assert!(matches!(
            Catalogue::new(rows.clone()),
            Err(CatalogueError::Path(..))
        ));
        rows.last_mut().unwrap().merchant_path = Some("/v1/./pay".into());
        assert_eq!(
            Catalogue::new(rows).unwrap_err(),
            CatalogueError::NotCanonical("other".into())
        );
    }

    #[test]
    fn no_tenants_row_has_a_path_of_the_institutions_own() {
        let with = |change: fn(&mut Operation)| {
            let mut rows = catalogue::rows();
            change(&mut rows[0]);
            Catalogue::new(rows).unwrap_err()
        };
        let refused = CatalogueError::Reserved("create_order".into());
        for change in [
            (|row| row.institution_path = Some("/rate/other".into())) as fn(&mut Operation),
            |row| row.institution_path = Some("/RATE/other".into()),
            |row| row.merchant_path = Some("/rate/other".into()),
        ] {
            assert_eq!(with(change), refused);
        }

        // Neither has one where a path of the institution's own was moved to.
        let mut rows = catalogue::rows();
        let moved = "/institution/v2/accounts";
        let accounts = rows.iter_mut().find(|row| row.name == "create_account");
        accounts.unwrap().institution_path = Some(moved.into());
        rows[0].institution_path = Some(moved.to_uppercase().into());
        assert_eq!(Catalogue::new(rows).unwrap_err(), refused);
    }

    #[test]
    fn only_one_spelling_of_a_path_is_canonical() {
        assert!(is_canonical("/v1/pay/order"));
        for odd in [
            "",
            "v1",
            "/",
            "/v1/",
            "//v1",
            "/v1//pay",
            "/v1/./pay",
            "/v1/../pay",
            "/v1/%2e/pay",
            "/v1%2fpay",
            "/v1\\pay",
            "/v1/pay;x",
            "/v1/pay?x",
            "/v1/ü",
            "/v1/\0",
            "/v1/pay#x",
            "/v1/pay order",
        ] {
            assert!(!is_canonical(odd), "{odd:?}");
        }
    }
}
