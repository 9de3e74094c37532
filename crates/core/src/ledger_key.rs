//! Ledger key: a number or id by which a notification leads back to the tenant whose call it is about.
//!
//! [`ledger_rows`](crate::ledger_rows) names the fields of calls and answers that hold keys,
//! [`notification`](crate::notification) those of notifications.

use std::borrow::Cow;

use crate::body::BodyValue;
use crate::words::words;

/// The namespace of a [`LedgerKey`]. Equal texts in two namespaces are different keys: a tenant may choose an order
/// number that equals a `prepayId` of GatePay's.
///
/// The word of a kind is stored in the ledger. A number that callers choose has the name of its field
/// as its word, or the names of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LedgerKeyKind {
    /// `merchantTradeNo` of an order, chosen by the caller.
    TradeNumber,
    /// `refundRequestId` of a refund, chosen by the caller.
    RefundNumber,
    /// `prepayId` and `refundRequestId` of a refund, with a space between them. Beside the order's own key it shows that
    /// another tenant of the sub-account has refunded the order.
    OrderRefund,
    /// `batch_id` of a payout, chosen by the caller.
    PayoutNumber,
    /// `merchant_batch_no` of a reward batch, chosen by the caller.
    RewardNumber,
    /// `clientReqId` of a conversion, chosen by the caller.
    ConversionNumber,
    /// `clientOrderId` of an OTC order, chosen by the caller.
    OtcNumber,
    /// `merchantPlanNo` of a subscription plan, chosen by the caller.
    PlanNumber,
    /// `merchantSubscriptionOrderNo` of a subscription, chosen by the caller.
    SubscriptionNumber,
    /// `merchantDeductNo` of a deduction, chosen by the caller.
    DeductionNumber,
    /// `chain` and `channelId` of a fixed address, with a space between them. The caller chooses the channel.
    AddressLabel,
    /// `request_id` of a sub-account's creation, chosen by an operator.
    AccountRequest,
    /// `merchantBatchNo` of a transfer or charge, chosen by an operator.
    TransferNumber,
    /// `prepayId`, GatePay's id of an order.
    PrepayId,
    /// GatePay's own number of a payout, where its answer names another `batch_id` than the call.
    PayoutId,
    /// `batch_id`, GatePay's id of a reward batch.
    RewardBatchId,
    /// `batchId`, GatePay's id of a batch of gift cards.
    GiftBatchId,
    /// `chain` and `address` of a fixed address, with a space between them. GatePay makes the address.
    DepositAddress,
    /// `order_id`, GatePay's id of a conversion.
    ConversionId,
    /// `orderId`, GatePay's id of an OTC order.
    OtcId,
    /// `planNo`, GatePay's id of a subscription plan.
    PlanId,
    /// `subscriptionOrderNo`, GatePay's id of a subscription.
    SubscriptionId,
    /// `deductOrderNo`, GatePay's id of a deduction from an account.
    DeductionId,
    /// `paymentOrderNo`, GatePay's id of an on-chain deduction.
    PaymentId,
    /// A sub-account's id. The registry resolves it, not the ledger: the tenants that have the sub-account own it.
    Account,
    /// The token in a URL that the proxy gave to GatePay in place of a tenant's `callbackUrl`.
    UrlToken,
}

words!(LedgerKeyKind {
    TradeNumber = "merchantTradeNo",
    RefundNumber = "refundRequestId",
    OrderRefund = "prepayId+refundRequestId",
    PayoutNumber = "batch_id",
    RewardNumber = "merchant_batch_no",
    ConversionNumber = "clientReqId",
    OtcNumber = "clientOrderId",
    PlanNumber = "merchantPlanNo",
    SubscriptionNumber = "merchantSubscriptionOrderNo",
    DeductionNumber = "merchantDeductNo",
    AddressLabel = "channelId+chain",
    AccountRequest = "request_id",
    TransferNumber = "merchantBatchNo",
    PrepayId = "prepayId",
    PayoutId = "payout.batch_id",
    RewardBatchId = "reward.batch_id",
    GiftBatchId = "gift.batchId",
    DepositAddress = "address+chain",
    ConversionId = "conversion.order_id",
    OtcId = "otc.orderId",
    PlanId = "planNo",
    SubscriptionId = "subscriptionOrderNo",
    DeductionId = "deductOrderNo",
    PaymentId = "paymentOrderNo",
    Account = "account_id",
    UrlToken = "token",
});

/// How much a key in a notification proves about the owner; ordered from the weakest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HintStrength {
    /// A number that callers choose. Two tenants may choose the same number, so it only names candidates.
    Weak,
    /// An account that GatePay names. It decides if no other hint speaks against it.
    Strong,
    /// An id that GatePay made and gave to one tenant, or a URL that the proxy made for one tenant.
    Certain,
}

words!(HintStrength { Weak = "weak", Strong = "strong", Certain = "certain" });

impl LedgerKeyKind {
    /// Whether two tenants with the same key are a contradiction. Of a number that callers choose this is not so, except
    /// that of one refund of one order: one of the two has refunded the other's order, or has tried to. Beside the order's
    /// own key only tenants of the order's sub-account count.
    pub const fn is_of_one_tenant(self) -> bool {
        matches!(self.strength(), HintStrength::Certain) || matches!(self, Self::OrderRefund)
    }

    /// How much a key of this kind proves in a notification, if its field can hold nothing else.
    pub const fn strength(self) -> HintStrength {
        match self {
            Self::TradeNumber
            | Self::RefundNumber
            | Self::OrderRefund
            | Self::PayoutNumber
            | Self::RewardNumber
            | Self::ConversionNumber
            | Self::OtcNumber
            | Self::PlanNumber
            | Self::SubscriptionNumber
            | Self::DeductionNumber
            | Self::AddressLabel
            | Self::AccountRequest
            | Self::TransferNumber
            // GatePay's documentation leaves open whether its `batch_id` is the caller's or its own.
            | Self::PayoutId => HintStrength::Weak,
            Self::Account => HintStrength::Strong,
            Self::PrepayId
            | Self::RewardBatchId
            | Self::GiftBatchId
            | Self::DepositAddress
            | Self::ConversionId
            | Self::OtcId
            | Self::PlanId
            | Self::SubscriptionId
            | Self::DeductionId
            | Self::PaymentId
            | Self::UrlToken => HintStrength::Certain,
        }
    }
}

/// A number or id with its namespace: the key of a ledger row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerKey {
    kind: LedgerKeyKind,
    text: String,
}

/// The largest length of a key's text, in bytes. Order numbers have at most 100 characters (schemas.md).
pub const LONGEST_KEY: usize = 256;

impl LedgerKey {
    /// A key, if the text can be stored and indexed: 1 to [`LONGEST_KEY`] bytes without control characters.
    pub fn new(kind: LedgerKeyKind, text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        is_legible(&text).then_some(Self { kind, text })
    }

    /// The key of a fixed address. Both notifications and answers spell the chain in varying case, and the hex digits
    /// of an Ethereum-like address too; other addresses depend on case.
    pub fn deposit_address(chain: &str, address: &str) -> Option<Self> {
        let hex = address
            .strip_prefix("0x")
            .filter(|hex| hex.len() == 40 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let address = match hex {
            Some(_) => Cow::Owned(address.to_ascii_lowercase()),
            None => Cow::Borrowed(address),
        };
        Self::words(
            LedgerKeyKind::DepositAddress,
            &chain.to_ascii_uppercase(),
            &address,
        )
    }

    /// A key as an operator writes it: of two fields with a space between them.
    pub fn written(kind: LedgerKeyKind, text: &str) -> Option<Self> {
        let is_pair = matches!(
            kind,
            LedgerKeyKind::DepositAddress | LedgerKeyKind::AddressLabel
        );
        match text.split_once(' ').filter(|_| is_pair) {
            Some((first, second)) => Self::pair(kind, first, second),
            None => Self::new(kind, text),
        }
    }

    /// The namespace.
    pub fn kind(&self) -> LedgerKeyKind {
        self.kind
    }

    /// The number or id: as GatePay or the caller spelled it, for an address as [`Self::deposit_address`] says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The key of two fields. A first field without a space makes the key unambiguous.
    pub(crate) fn pair(kind: LedgerKeyKind, first: &str, second: &str) -> Option<Self> {
        match kind {
            LedgerKeyKind::DepositAddress => Self::deposit_address(first, second),
            LedgerKeyKind::AddressLabel => Self::words(kind, &first.to_ascii_uppercase(), second),
            _ => Self::words(kind, first, second),
        }
    }

    fn words(kind: LedgerKeyKind, first: &str, second: &str) -> Option<Self> {
        let is_pair = !first.is_empty() && !first.contains(' ') && !second.is_empty();
        let text = is_pair.then(|| format!("{first} {second}"))?;
        Self::new(kind, text)
    }
}

/// Whether a text can be stored and indexed as a whole.
pub(crate) fn is_legible(text: &str) -> bool {
    (1..=LONGEST_KEY).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A value as the text of a key. Clients and GatePay send ids as text or as a number; a number with a fraction or an
/// exponent is not an id.
pub(crate) fn key_text(value: &BodyValue<'_>) -> Option<String> {
    let is_number = matches!(value, BodyValue::Body(_)) && value.number().is_some();
    let text = value.text_or_number()?;
    let is_whole = text.bytes().all(|digit| digit.is_ascii_digit());
    (!is_number || is_whole).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_text_that_can_be_stored_whole() {
        let key = |text: &str| LedgerKey::new(LedgerKeyKind::PrepayId, text);
        assert_eq!(
            key("50620368071692288").unwrap().text(),
            "50620368071692288"
        );
        assert!(key(&"1".repeat(LONGEST_KEY)).is_some());
        for text in [
            "",
            "a\u{0}b",
            "a\nb",
            "\u{85}",
            &"1".repeat(LONGEST_KEY + 1),
        ] {
            assert_eq!(key(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_operator_writes_a_key_of_two_fields_with_a_space() {
        let (chain, address) = ("eth", "0x52908400098527886E0F7030069857D2E4169EE7");
        let written =
            LedgerKey::written(LedgerKeyKind::DepositAddress, &format!("{chain} {address}"));
        assert_eq!(written, LedgerKey::deposit_address(chain, address));
        let number = LedgerKey::written(LedgerKeyKind::TradeNumber, "eth 1");
        assert_eq!(number, LedgerKey::new(LedgerKeyKind::TradeNumber, "eth 1"));
    }

    #[test]
    fn one_address_is_one_key_and_another_address_is_another() {
        let key = |chain: &str, address: &str| LedgerKey::deposit_address(chain, address).unwrap();
        let checksummed = "0x52908400098527886E0F7030069857D2E4169EE7";
        assert_eq!(
            key("ETH", checksummed),
            key("eth", &checksummed.to_lowercase())
        );
        assert_ne!(key("ETH", checksummed), key("BSC", checksummed));
        let (upper, lower) = (
            "TQn9Y2khEsLJW1ChVWFMSMeRDow5KcbLSE",
            "tQn9Y2khEsLJW1ChVWFMSMeRDow5KcbLSE",
        );
        assert_ne!(
            key("TRX", upper),
            key("TRX", lower),
            "base58 depends on case"
        );
        assert_eq!(LedgerKey::deposit_address("ETH 0x", "1"), None);
        assert_eq!(LedgerKey::deposit_address("", "1"), None);
        assert_eq!(LedgerKey::deposit_address("ETH", ""), None);
    }
}
