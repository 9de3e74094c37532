//! An operation: one API call, as a typed row of the [catalogue](crate::catalogue).

use std::borrow::Cow;
use std::fmt;

use crate::field::{AmountField, BodyField};
use crate::words::words;

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
pub enum ApiModule {
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
pub enum OperationScope {
    /// Open to tenants (and to operators, under its institution path).
    Tenant,
    /// The institution's own back office only: it acts on accounts other than the caller's.
    Institution,
}

/// Which header names the account a call acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountHeader {
    /// `X-GatePay-On-Behalf-Of`.
    OnBehalfOf,
    /// `X-GatePay-MerchantId`, the institution's own merchant id: fee settings.
    MerchantId,
    /// Neither: accounts create, query and list.
    None,
}

/// The media type a call's body must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `multipart/form-data`: two OTC bank calls.
    Multipart,
}

/// What a successful answer of GatePay's looks like. A failure always has the envelope (protocol.md 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerForm {
    /// The envelope, with `status` or `code`: a client that reads it sees a failure there, whatever the HTTP status.
    Envelope,
    /// A list or an object without an envelope: only the HTTP status tells a client that it is a failure.
    Bare,
}

/// The field or fields that name one business transaction, and make its repetition harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyKey {
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
    pub by: IdempotencyKey,
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
    pub module: ApiModule,
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
    pub account: AccountHeader,
    /// Who may call it.
    pub scope: OperationScope,
    /// What it does.
    pub kind: Kind,
    /// What makes a repetition harmless.
    pub key: IdempotencyKey,
    /// How to find out what became of it.
    pub look_up: Option<LookUp>,
    /// Whether a page shows the institution path itself, or `proxy.toml` does; else it was derived by rule.
    pub confirmed: bool,
    /// What its body must have, where GatePay's pages say so; empty means that nothing is checked.
    pub fields: &'static [BodyField],
    /// Where its body has amounts; empty if it names none, or it is not known where.
    pub amounts: &'static [AmountField],
    /// How the body is carried over.
    pub translation: Translation,
    /// What the body must be.
    pub media: MediaType,
    /// What a successful answer looks like.
    pub answer: AnswerForm,
    /// Whether it was turned on or off.
    pub switch: RowSwitch,
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
            RowSwitch::Off => Some("proxy.toml disables it"),
            RowSwitch::Default if self.kind == Kind::Money && !self.confirmed => Some(
                "it moves funds and no page of GatePay's shows its institution path; `enabled = true` in its [[operation]] turns it on",
            ),
            RowSwitch::On | RowSwitch::Default => None,
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
pub enum RowSwitch {
    /// It does not say.
    #[default]
    Default,
    /// `enabled = true`.
    On,
    /// `enabled = false`.
    Off,
}

impl IdempotencyKey {
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

impl fmt::Display for IdempotencyKey {
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
words!(OperationScope { Tenant = "tenant", Institution = "institution" });
words!(MediaType { Json = "application/json", Multipart = "multipart/form-data" });
words!(AnswerForm { Envelope = "envelope", Bare = "bare" });
words!(ApiModule {
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
