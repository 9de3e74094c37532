//! Hint fields: where each kind of notification names a key of the ledger (protocol.md 5.3).

use super::kind::NotificationKind::{
    self, AccountAuthDeduction, FixedAddressRisk, Institution, Otc, Pay, PayAddress, PayBatch,
    PayFixedAddress, PayGiftBatch, PayRefund, SubscriptionPayment, TransferAddress, Unknown,
    Withdraw,
};
use crate::ledger_key::HintStrength::{self, Certain, Strong, Weak};
use crate::ledger_key::LedgerKeyKind::{
    self, Account, AddressLabel, DeductionId, DeductionNumber, DepositAddress, GiftBatchId,
    OrderRefund, OtcId, OtcNumber, PaymentId, PayoutId, PayoutNumber, PrepayId, RefundNumber,
    RewardBatchId, RewardNumber, SubscriptionId, SubscriptionNumber, TradeNumber,
};

/// A part of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyPart {
    /// The object that the body is.
    Envelope,
    /// `data`, or the envelope's own members if a body has no `data`.
    Data,
    /// `data.refundInfo`, or `data` itself.
    Refund,
    /// `main_order` of a payout.
    MainOrder,
    /// Each of the `suborders` of a payout.
    SubOrders,
}

/// A field that holds a key, or two fields that form one.
#[derive(Debug, Clone, Copy)]
pub(super) struct HintField {
    pub(super) part: BodyPart,
    pub(super) fields: &'static [&'static str],
    pub(super) key: LedgerKeyKind,
    pub(super) strength: HintStrength,
}

/// The hint fields of a kind.
///
/// Other fields are never searched: a payout names the destination's address, a refund its receiver, and either may
/// belong to another tenant.
pub(super) fn hint_fields(kind: NotificationKind) -> impl Iterator<Item = &'static HintField> {
    let own = TABLE.iter().filter(move |(kinds, _)| kinds.contains(&kind));
    own.flat_map(|(_, fields)| *fields)
}

/// A key that no other number can stand in place of.
const fn field(part: BodyPart, name: &'static [&'static str], key: LedgerKeyKind) -> HintField {
    let strength = key.strength();
    HintField {
        part,
        fields: name,
        key,
        strength,
    }
}

/// `bizId` where it may be GatePay's id or a number of the caller's. The number's own row makes two tenants that have
/// it disagree.
const fn either(key: LedgerKeyKind) -> HintField {
    let strength = match key.strength() {
        Weak => Weak,
        Strong | Certain => Strong,
    };
    HintField {
        part: BodyPart::Envelope,
        fields: &["bizId"],
        key,
        strength,
    }
}

/// Kinds whose account is the tenant's. A deduction may name the account that it debits.
const OF_ACCOUNT: &[NotificationKind] = &[
    Pay,
    PayAddress,
    TransferAddress,
    PayFixedAddress,
    FixedAddressRisk,
    PayRefund,
    PayBatch,
    PayGiftBatch,
    Otc,
    Unknown,
];

const TABLE: &[(&[NotificationKind], &[HintField])] = &[
    // `bizId` is the order's `prepayId`.
    (
        &[Pay, PayAddress, TransferAddress],
        &[field(BodyPart::Envelope, &["bizId"], PrepayId)],
    ),
    (
        &[Pay, PayAddress, TransferAddress, Unknown],
        &[
            field(BodyPart::Data, &["prepayId"], PrepayId),
            field(BodyPart::Data, &["merchantTradeNo"], TradeNumber),
        ],
    ),
    (
        &[PayRefund, Unknown],
        &[
            field(BodyPart::Refund, &["prepayId"], PrepayId),
            field(BodyPart::Refund, &["merchantTradeNo"], TradeNumber),
            field(BodyPart::Refund, &["refundRequestId"], RefundNumber),
            field(
                BodyPart::Refund,
                &["prepayId", "refundRequestId"],
                OrderRefund,
            ),
        ],
    ),
    // The table calls `bizId` the refund's, the sample shows the order's.
    (&[PayRefund], &[either(PrepayId), either(RefundNumber)]),
    (
        &[PayFixedAddress, FixedAddressRisk],
        &[
            field(BodyPart::Data, &["chain", "address"], DepositAddress),
            field(BodyPart::Data, &["chain", "channelId"], AddressLabel),
        ],
    ),
    // A reward batch may be a batch of gift cards: its scenario says so (schemas.md).
    (
        &[PayBatch, PayGiftBatch],
        &[
            either(RewardBatchId),
            either(RewardNumber),
            field(BodyPart::Data, &["batch_id"], RewardBatchId),
            field(BodyPart::Data, &["merchant_batch_no"], RewardNumber),
        ],
    ),
    (
        &[PayGiftBatch],
        &[
            either(GiftBatchId),
            field(BodyPart::Data, &["batchId"], GiftBatchId),
        ],
    ),
    (
        &[Withdraw],
        &[
            field(BodyPart::MainOrder, &["batch_id"], PayoutId),
            field(BodyPart::MainOrder, &["batch_id"], PayoutNumber),
            field(BodyPart::MainOrder, &["merchant_id"], Account),
            field(BodyPart::SubOrders, &["merchant_id"], Account),
        ],
    ),
    (
        &[SubscriptionPayment, AccountAuthDeduction],
        &[
            field(BodyPart::Data, &["paymentOrderNo"], PaymentId),
            field(BodyPart::Data, &["deductOrderNo"], DeductionId),
            field(BodyPart::Data, &["merchantDeductNo"], DeductionNumber),
            field(BodyPart::Data, &["subscriptionOrderNo"], SubscriptionId),
            field(
                BodyPart::Data,
                &["merchantSubscriptionOrderNo"],
                SubscriptionNumber,
            ),
        ],
    ),
    (
        &[Otc],
        &[
            field(BodyPart::Data, &["orderId"], OtcId),
            field(BodyPart::Data, &["clientOrderId"], OtcNumber),
        ],
    ),
    (
        OF_ACCOUNT,
        &[
            field(BodyPart::Envelope, &["accountId"], Account),
            field(BodyPart::Envelope, &["account_id"], Account),
            field(BodyPart::Envelope, &["merchant_id"], Account),
            field(BodyPart::Data, &["accountId"], Account),
            field(BodyPart::Data, &["account_id"], Account),
            field(BodyPart::Data, &["merchant_id"], Account),
        ],
    ),
    // The institution's own news goes to its operators.
    (&[Institution], &[]),
];
