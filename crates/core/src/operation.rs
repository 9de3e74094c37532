//! Operation: one API call, as a typed row of the [catalogue](crate::catalogue).

use std::borrow::Cow;
use std::fmt;

use crate::field::{AmountField, BodyField};
use crate::words::words;

/// The HTTP methods of the catalogue.
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

/// The effect of a call. A word of `[operations] allow` and `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The call changes nothing, so a repetition is safe.
    Read,
    /// The call changes state and moves no funds.
    Write,
    /// The call moves funds.
    Money,
}

/// The callers a row is open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationScope {
    /// Open to tenants, and to operators under the row's institution path.
    Tenant,
    /// Open only to the institution's back office: the call acts on accounts other than the caller's.
    Institution,
}

/// The header that names the account a call acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountHeader {
    /// `X-GatePay-On-Behalf-Of`.
    OnBehalfOf,
    /// `X-GatePay-MerchantId` with the institution's own merchant id, for fee settings.
    MerchantId,
    /// Neither header: create, query and list of accounts.
    None,
}

/// The media type a call's body must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `multipart/form-data`, for two OTC bank calls.
    Multipart,
}

/// The form of GatePay's successful answer. A failure always has the envelope (protocol.md 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerForm {
    /// The envelope, with `status` or `code`: a client recognizes a failure by the envelope, under any HTTP status.
    Envelope,
    /// A list or an object without an envelope: a client recognizes a failure only by the HTTP status.
    Bare,
}

/// The fields that identify one business transaction and make its repetition harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyKey {
    /// The operation has no key.
    None,
    /// One field.
    One(Cow<'static, str>),
    /// Either of two fields.
    Either(Cow<'static, str>, Cow<'static, str>),
    /// Both of two fields together.
    Both(Cow<'static, str>, Cow<'static, str>),
}

/// The read that shows the outcome of a write or money call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    /// The name of the look-up's row.
    pub operation: &'static str,
    /// The fields that form the look-up's key; they have the same names in the original call.
    pub by: IdempotencyKey,
    /// Further parameters of the look-up, as name and value.
    pub with: &'static [(&'static str, &'static str)],
    /// Fields that the call and the looked-up object have in common. If one differs, another call made the object.
    pub same: &'static [&'static str],
    /// The fields of a looked-up refund that name its order, the most certain first; empty if the call refunds none. No page says
    /// that the number of a refund is unique beyond its order: GatePay may show another order's refund under the call's number.
    pub of_order: &'static [&'static str],
    /// Where the answer states the amounts that the call asked for.
    pub amounts: AnsweredAmounts,
    /// Whether only this call creates the looked-up object, so that finding the object proves that GatePay executed the
    /// call. An object that a call merely changes may be older than the call.
    pub proves: bool,
}

/// Where the answer to a look-up states the amounts that its call asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredAmounts {
    /// No page says.
    Undocumented,
    /// One amount, and its currency. The call may have asked for another one beside.
    Stated {
        /// The field of the amount.
        amount: &'static str,
        /// The field of the currency.
        currency: &'static str,
    },
    /// A list of objects with `amount` and `currency`, which is all that the call asked for.
    Items(&'static str),
    /// The side of an exchange that is given away, in the fields of the call.
    Exchanged,
}

/// The translation of a merchant call into an institution call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Path and headers change; the body stays the same byte for byte.
    Verbatim,
    /// GET with `balance_list` ↔ POST of a JSON array of currencies with `balanceList` (protocol.md 2).
    Balance,
}

/// One API call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The operation's name in configuration, logs and metrics: lower case with underscores, unique.
    pub name: Cow<'static, str>,
    /// The module the operation belongs to.
    pub module: ApiModule,
    /// The merchant method.
    pub method: Method,
    /// The merchant path; an institution-scope row has none.
    pub merchant_path: Option<Cow<'static, str>>,
    /// The institution method; most rows have the merchant method here.
    pub institution_method: Method,
    /// The institution path; a row without one cannot be forwarded.
    pub institution_path: Option<Cow<'static, str>>,
    /// Institution paths that other sources print (protocol.md 7), as method and path.
    pub alternatives: &'static [(Method, &'static str)],
    /// The header that names the account.
    pub account: AccountHeader,
    /// The callers the operation is open to.
    pub scope: OperationScope,
    /// The effect of the call.
    pub kind: Kind,
    /// The fields that make a repetition harmless.
    pub key: IdempotencyKey,
    /// The read that shows the outcome of the call.
    pub look_up: Option<LookUp>,
    /// Whether a page or `proxy.toml` states the institution path; otherwise a rule derived the path.
    pub confirmed: bool,
    /// The rules of GatePay's pages for the body; an empty list checks nothing.
    pub fields: &'static [BodyField],
    /// The amount fields of the body; empty if the body has no amounts, or their place is not known.
    pub amounts: &'static [AmountField],
    /// The translation of the body.
    pub translation: Translation,
    /// The media type of the body.
    pub media: MediaType,
    /// The form of a successful answer.
    pub answer: AnswerForm,
    /// Whether `proxy.toml` turns the row on or off.
    pub switch: RowSwitch,
    /// The largest body, in bytes, where it differs from `listen.body_limit_bytes`.
    pub body_limit: Option<u64>,
}

impl Operation {
    /// The reason why the row is off, or `None` if the row is on.
    ///
    /// Off by default are rows without an institution path, and money rows with an institution path that no page of
    /// GatePay's shows.
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

    /// Whether the body is forwarded unchanged. A translated row needs no translation if its configured institution
    /// method equals the merchant method.
    pub fn is_verbatim(&self) -> bool {
        self.translation == Translation::Verbatim || self.institution_method == self.method
    }
}

/// The setting of a row in `proxy.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowSwitch {
    /// No setting.
    #[default]
    Default,
    /// `enabled = true`.
    On,
    /// `enabled = false`.
    Off,
}

impl IdempotencyKey {
    /// The fields of the key.
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
