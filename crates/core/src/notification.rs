//! Notification: what a call of GatePay's to the institution's URL is about (protocol.md 5).
//!
//! [`Notification::read`] accepts every body. A body that parsers may read in more than one way is of the kind
//! [`Unknown`](NotificationKind::Unknown), with the reason, so that it is kept and shown to an operator.

mod client_id_span;
mod hint_fields;
mod kind;
mod stated_refund;

use std::borrow::Cow;
use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::body::{BodyReading, BodyValue};
use crate::credential::ClientId;
use crate::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind, is_legible, key_text};
use crate::words::words;
use hint_fields::{BodyPart, HintField, hint_fields};

pub use crate::money::StatedAmount;
pub use client_id_span::ClientIdSpan;
pub use kind::{KnownStatus, NotificationKind, StatusRank};
pub use stated_refund::StatedRefund;

/// The acknowledgment that GatePay expects, with HTTP status 200, once a notification is stored (protocol.md 5.4).
pub const ACKNOWLEDGMENT: &str = r#"{"returnCode":"SUCCESS","returnMessage":""}"#;
/// The answer that makes GatePay repeat a notification.
pub const NO_ACKNOWLEDGMENT: &str = r#"{"returnCode":"FAIL","returnMessage":""}"#;

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What the notification is about.
    pub kind: NotificationKind,
    /// `bizType` as GatePay sent it; empty if the body has none or it is not legible.
    pub biz_type: String,
    /// The object of the notification: the duplicate key of protocol.md 5.2 without the status.
    ///
    /// A body without that key has an object of its own, `sha256:` and the digest of the body, since superseding must
    /// not cross objects.
    pub object: String,
    /// The status as GatePay sent it; empty if the body has none or it is not legible.
    pub status: String,
    /// The place of the status in the object's life; `None` if it is not known.
    pub rank: Option<StatusRank>,
    /// Keys that lead to the owner, without duplicates, ordered.
    pub hints: Vec<OwnershipHint>,
    /// The refund that a `PAY_REFUND` names by its own number.
    pub refund: Option<StatedRefund>,
    /// Why the body has no single reading.
    pub fault: Option<NotificationFault>,
    /// SHA-256 of the body as received.
    pub body_sha256: [u8; 32],
    /// The places of the application's client id: `client_id`, `clientId` and `main_order.client_id`.
    pub client_ids: Vec<ClientIdSpan>,
}

/// A key of the ledger that a notification names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnershipHint {
    /// The key.
    pub key: LedgerKey,
    /// How much the key proves in the field where it stands.
    pub strength: HintStrength,
}

/// Why a body has no single reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotificationFault {
    /// The body is not one JSON text in UTF-8.
    NotJson,
    /// The body is JSON, but not an object.
    NotAnObject,
    /// A name occurs twice in one object, in any case.
    RepeatedName,
    /// A number beyond the largest, or half of a surrogate pair.
    UnreadableValue,
    /// Arrays and objects are nested deeper than 128.
    TooDeep,
    /// `data` is text that is not one JSON object with a single reading.
    Data,
}

words!(NotificationFault {
    NotJson = "not_json",
    NotAnObject = "not_an_object",
    RepeatedName = "repeated_name",
    UnreadableValue = "unreadable_value",
    TooDeep = "too_deep",
    Data = "data",
});

/// The recipients that a notification's kind allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotificationAudience {
    /// The institution's operators alone: news about the institution itself.
    Institution,
    /// One tenant: a kind about a tenant's object, or an unknown kind that names a key.
    Tenant,
    /// Operators unless the URL shows a tenant: an unknown kind without a key.
    Unstated,
    /// A tenant only if the URL shows one: the body has no single reading.
    Unreadable,
}

/// What makes two notifications one event: kind, object, status and the body's digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DuplicateKey {
    /// [`Notification::kind`].
    pub kind: NotificationKind,
    /// [`Notification::object`].
    pub object: String,
    /// [`Notification::status`].
    pub status: String,
    /// [`Notification::body_sha256`].
    pub body_sha256: [u8; 32],
}

impl DuplicateKey {
    /// A digest of the key, for a unique index.
    pub fn digest(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        for part in [self.kind.as_str(), &self.object, &self.status] {
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part.as_bytes());
        }
        sha.update(self.body_sha256);
        sha.finalize().into()
    }

    /// Whether both keys state the same status of the same object. With other bytes it is a new event, to be marked.
    pub fn same_news(&self, other: &Self) -> bool {
        (self.kind, &self.object, &self.status) == (other.kind, &other.object, &other.status)
    }
}

impl Notification {
    /// Reads a body as received. The headers are verified before.
    pub fn read(body: &[u8]) -> Self {
        Self::read_parts(body).unwrap_or_else(|fault| Self {
            fault: Some(fault),
            ..Self::unknown(body)
        })
    }

    /// The recipients that the kind allows.
    pub fn audience(&self) -> NotificationAudience {
        match self.kind {
            _ if self.fault.is_some() => NotificationAudience::Unreadable,
            NotificationKind::Institution => NotificationAudience::Institution,
            NotificationKind::Unknown if self.hints.is_empty() => NotificationAudience::Unstated,
            _ => NotificationAudience::Tenant,
        }
    }

    /// What makes a repetition a duplicate.
    pub fn duplicate_key(&self) -> DuplicateKey {
        DuplicateKey {
            kind: self.kind,
            object: self.object.clone(),
            status: self.status.clone(),
            body_sha256: self.body_sha256,
        }
    }

    /// The body for a tenant: the application's client id, which is the institution's, is replaced in place by the
    /// tenant's. All other bytes stay as GatePay sent them.
    ///
    /// `body` must be the body that was read.
    pub fn for_tenant<'b>(&self, body: &'b [u8], tenant: &ClientId) -> Cow<'b, [u8]> {
        client_id_span::replaced(body, &self.client_ids, tenant)
    }

    fn unknown(body: &[u8]) -> Self {
        let body_sha256: [u8; 32] = Sha256::digest(body).into();
        Self {
            kind: NotificationKind::Unknown,
            biz_type: String::new(),
            object: format!("sha256:{}", hex::encode(body_sha256)),
            status: String::new(),
            rank: None,
            hints: Vec::new(),
            refund: None,
            fault: None,
            body_sha256,
            client_ids: Vec::new(),
        }
    }

    fn read_parts(body: &[u8]) -> Result<Self, NotificationFault> {
        let envelope = object(body)?;
        let text = data_text(&envelope)?;
        let data = match &text {
            DataText::Absent => None,
            DataText::Escaped(text) => {
                Some(object(text.as_bytes()).map_err(|_| NotificationFault::Data)?)
            }
            DataText::Plain(text) => BodyReading::of_object(text),
        };
        let parts = NotificationParts::new(envelope, data);
        let mut notification = Self::unknown(body);
        notification.fill(&parts);
        notification.client_ids = parts.client_ids(body);
        Ok(notification)
    }

    fn fill(&mut self, parts: &NotificationParts<'_>) {
        self.biz_type = parts
            .text(BodyPart::Envelope, "bizType")
            .unwrap_or_default();
        self.kind = parts.kind(&self.biz_type);
        self.status = parts.status(self.kind).unwrap_or_default();
        self.rank = self.kind.rank(&self.status);
        if self.kind == NotificationKind::Withdraw {
            let moved = parts.moved_sub_orders();
            self.rank = self.rank.map(|rank| rank.with_progress(moved));
        }
        if let Some(object) = parts.object(self.kind) {
            self.object = object;
        }
        let hints: BTreeSet<OwnershipHint> = hint_fields(self.kind)
            .flat_map(|field| parts.hints(field))
            .collect();
        self.hints = hints.into_iter().collect();
        if self.kind == NotificationKind::PayRefund {
            self.refund = stated_refund::stated_refund(parts);
        }
        self.weaken_order_of_nameless_refund();
    }

    /// The order proves the owner of a refund only beside the refund's own number, which shows whether another tenant
    /// has refunded the order. Tenants that share a sub-account can.
    fn weaken_order_of_nameless_refund(&mut self) {
        let names = |kind| move |hint: &OwnershipHint| hint.key.kind() == kind;
        let has_number = self.hints.iter().any(names(LedgerKeyKind::OrderRefund));
        if self.kind == NotificationKind::PayRefund && !has_number {
            let is_order = names(LedgerKeyKind::PrepayId);
            for hint in self.hints.iter_mut().filter(|hint| is_order(hint)) {
                hint.strength = HintStrength::Weak;
            }
            self.hints.dedup();
        }
    }
}

/// An object with a single reading.
fn object(body: &[u8]) -> Result<BodyReading<'_>, NotificationFault> {
    let reading = BodyReading::strict(body);
    if reading.fault().is_some() {
        return Err(NotificationFault::NotJson);
    }
    if reading.repeated().is_some() {
        return Err(NotificationFault::RepeatedName);
    }
    if reading.unreadable().is_some() {
        return Err(NotificationFault::UnreadableValue);
    }
    if reading.too_deep().is_some() {
        return Err(NotificationFault::TooDeep);
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(NotificationFault::NotAnObject);
    }
    Ok(reading)
}

/// The JSON text of `data`.
enum DataText<'a> {
    Absent,
    /// The content of a string: GatePay's documented form (protocol.md 5.1).
    Escaped(Cow<'a, str>),
    /// A part of the body.
    Plain(&'a str),
}

fn data_text<'a>(envelope: &BodyReading<'a>) -> Result<DataText<'a>, NotificationFault> {
    let Some(BodyValue::Body(raw)) = envelope.values("data").next() else {
        return Ok(DataText::Absent);
    };
    if !raw.as_str().starts_with('"') {
        return Ok(DataText::Plain(raw.as_str()));
    }
    let text = raw.text().ok_or(NotificationFault::Data)?;
    Ok(match text.trim_ascii() {
        "" | "null" => DataText::Absent,
        _ => DataText::Escaped(text),
    })
}

/// The parts of a notification that fields are read from.
struct NotificationParts<'p> {
    envelope: BodyReading<'p>,
    data: Option<BodyReading<'p>>,
    refund: Option<BodyReading<'p>>,
    main_order: Option<BodyReading<'p>>,
    sub_orders: Vec<BodyReading<'p>>,
}

impl<'p> NotificationParts<'p> {
    fn new(envelope: BodyReading<'p>, data: Option<BodyReading<'p>>) -> Self {
        let within = data.as_ref().unwrap_or(&envelope);
        let member = |name: &str| within.values(name).next();
        let sub_orders = match member("suborders") {
            Some(BodyValue::Body(list)) => BodyReading::objects_of_list(list.as_str()),
            _ => Vec::new(),
        };
        Self {
            refund: member("refundInfo").and_then(|value| value.members()),
            main_order: member("main_order").and_then(|value| value.members()),
            sub_orders,
            envelope,
            data,
        }
    }

    fn part(&self, part: BodyPart) -> &[BodyReading<'p>] {
        let data = || self.data.as_ref().unwrap_or(&self.envelope);
        match part {
            BodyPart::Envelope => std::slice::from_ref(&self.envelope),
            BodyPart::Data => std::slice::from_ref(data()),
            BodyPart::Refund => std::slice::from_ref(self.refund.as_ref().unwrap_or_else(data)),
            BodyPart::MainOrder => self.main_order.as_slice(),
            BodyPart::SubOrders => &self.sub_orders,
        }
    }

    fn kind(&self, biz_type: &str) -> NotificationKind {
        match NotificationKind::parse(biz_type).unwrap_or(NotificationKind::Unknown) {
            NotificationKind::Unknown if self.main_order.is_some() => NotificationKind::Withdraw,
            NotificationKind::Unknown if self.is_otc() => NotificationKind::Otc,
            kind => kind,
        }
    }

    /// Whether a notification of no documented `bizType` has the fields and a status of an OTC order.
    fn is_otc(&self) -> bool {
        let has = |name| self.text(BodyPart::Data, name).is_some();
        let status = self.status(NotificationKind::Otc);
        let is_known = |status: &String| NotificationKind::Otc.rank(status).is_some();
        has("orderId") && has("clientOrderId") && status.as_ref().is_some_and(is_known)
    }

    fn status(&self, kind: NotificationKind) -> Option<String> {
        let envelope = || self.text(BodyPart::Envelope, "bizStatus");
        match kind {
            NotificationKind::Withdraw => {
                let own = self.text(BodyPart::MainOrder, "status");
                own.or_else(envelope)
            }
            NotificationKind::Otc => envelope().or_else(|| self.text(BodyPart::Data, "status")),
            _ => envelope(),
        }
    }

    /// The object of the duplicate key of protocol.md 5.2.
    fn object(&self, kind: NotificationKind) -> Option<String> {
        let of_data = |name| self.text(BodyPart::Data, name);
        let biz_id = || self.text(BodyPart::Envelope, "bizId");
        match kind {
            NotificationKind::Pay => biz_id().or_else(|| of_data("merchantTradeNo")),
            NotificationKind::PayAddress
            | NotificationKind::FixedAddressRisk
            | NotificationKind::PayBatch
            | NotificationKind::PayGiftBatch
            | NotificationKind::Unknown => biz_id(),
            NotificationKind::TransferAddress => TRANSACTION_IDS.into_iter().find_map(of_data),
            NotificationKind::PayFixedAddress => of_data("transactionId").or_else(biz_id),
            NotificationKind::PayRefund => self.text(BodyPart::Refund, "refundRequestId"),
            NotificationKind::Withdraw => self.payout(),
            NotificationKind::SubscriptionPayment => of_data("paymentOrderNo"),
            NotificationKind::AccountAuthDeduction => of_data("deductOrderNo"),
            NotificationKind::Institution => of_data("request_id"),
            NotificationKind::Otc => of_data("orderId"),
        }
    }

    /// A payout's batch with the sub-orders that the notification is about, in any order. Sub-orders that do not fit into
    /// a key are named by their digest.
    fn payout(&self) -> Option<String> {
        let batch = self.text(BodyPart::MainOrder, "batch_id")?;
        let number = |order: &BodyReading<'_>| text_of(order, "merchant_withdraw_id");
        let orders: BTreeSet<String> = self.sub_orders.iter().map(number).collect::<Option<_>>()?;
        if orders.is_empty() {
            return Some(batch);
        }
        let orders: Vec<String> = orders.into_iter().collect();
        let object = format!("{batch} {}", orders.join(","));
        let is_clear = !batch.contains(' ') && orders.iter().all(|order| !order.contains(','));
        Some(if is_clear && is_legible(&object) {
            object
        } else {
            let digest = Sha256::digest(serde_json::json!([batch, orders]).to_string());
            format!("sub-orders:{}", hex::encode(digest))
        })
    }

    /// The number of sub-orders that have left their first status.
    fn moved_sub_orders(&self) -> usize {
        let has_moved = |order: &&BodyReading<'_>| {
            text_of(order, "status").is_some_and(|status| !FIRST_STATUSES.contains(&&*status))
        };
        self.sub_orders.iter().filter(has_moved).count()
    }

    fn hints<'s>(&'s self, field: &'s HintField) -> impl Iterator<Item = OwnershipHint> + 's {
        self.part(field.part).iter().filter_map(|part| {
            let text = |at: usize| text_of(part, field.fields.get(at)?);
            let first = text(0)?;
            let key = match field.fields {
                [_, _] => LedgerKey::pair(field.key, &first, &text(1)?),
                _ => LedgerKey::new(field.key, first),
            };
            Some(OwnershipHint {
                key: key?,
                strength: field.strength,
            })
        })
    }

    fn client_ids(&self, body: &[u8]) -> Vec<ClientIdSpan> {
        let main_order = self.main_order.iter();
        let objects = std::iter::once(&self.envelope).chain(main_order);
        objects
            .flat_map(|object| client_id_span::spans_of(body, object))
            .collect()
    }

    /// A legible text or whole number of a part that is one object.
    fn text(&self, part: BodyPart, name: &str) -> Option<String> {
        text_of(self.part(part).first()?, name)
    }
}

/// The spellings of a transaction's id in answers and payouts; no sample of `TRANSFER_ADDRESS` is published.
const TRANSACTION_IDS: [&str; 5] = ["transactionId", "transaction_id", "txHash", "tx_id", "txid"];

/// Statuses of a sub-order that has not moved. Other statuses come later (protocol.md 5.2).
const FIRST_STATUSES: [&str; 3] = ["PENDING", "INIT", "PROCESSING"];

fn text_of(object: &BodyReading<'_>, name: &str) -> Option<String> {
    let text = key_text(&object.values(name).next()?)?;
    is_legible(&text).then_some(text)
}

#[cfg(test)]
mod tests;
