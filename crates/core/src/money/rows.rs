//! The money rows: where each money call of the catalogue states its amounts and targets (schemas.md).

use super::{DemandKind, MoneyDirection};

/// Where one money operation states its amounts, currencies and targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoneyRow {
    /// The operation's name in the catalogue.
    pub operation: &'static str,
    /// What a call does.
    pub kind: DemandKind,
    /// The name under which caps count a call that names a target of its own, if such calls are payouts.
    pub payout_name: Option<&'static str>,
    /// Whether money leaves the account.
    pub direction: MoneyDirection,
    /// The fields of amounts and currencies.
    pub amounts: AmountPlace,
    /// The fields of targets.
    pub targets: TargetPlace,
    /// The key under which GatePay documents that a repetition is one transaction.
    pub key: Option<SpendKey>,
    /// The fields of the body that schemas.md describes for the call, and those that published clients send with it.
    pub fields: &'static [&'static str],
    /// Those of an item of its list.
    pub item_fields: &'static [&'static str],
}

/// The place of a call's key in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendKey {
    /// The field of the number that the caller chooses.
    pub field: &'static str,
    /// The field of the order beside which the number is unique. The pages call a refund's number unique, and do not say that it
    /// is so beyond its order: then one number for several orders is several refunds.
    pub order: Option<&'static str>,
    /// The longest number that the operation's page allows. What GatePay makes of a longer one is not documented.
    pub longest: usize,
}

/// The fields of a refund that may name a target, and further ones.
macro_rules! named_refund {
    ($($more:literal),*) => {
        &[
            "refundRequestId",
            "prepayId",
            "refundAmount",
            "refundReason",
            "refundStyle",
            "refundPayChannel",
            "refundToGateUid",
            "refundAddress",
            "refundChain",
            "memo",
            "refundBearType",
            "refundAmountTypeFull",
            $($more),*
        ]
    };
}
const NAMED_REFUND: &[&str] = named_refund!();
/// A published client sends two fields that no page describes.
const NAMED_REFUND_V3: &[&str] = named_refund!("merchant_id", "client_id");
/// The longest number where no page says one.
const UNBOUNDED: usize = 100;

impl SpendKey {
    const fn number(field: &'static str, longest: usize) -> Self {
        Self {
            field,
            order: None,
            longest,
        }
    }

    /// The fields of the key, in the order in which a key of two has them.
    pub fn fields(self) -> impl Iterator<Item = &'static str> {
        [self.order, Some(self.field)].into_iter().flatten()
    }

    /// The fields and values of a key as [`MoneyDemand::key`](super::MoneyDemand::key) has it; `None` if it is no such key.
    pub fn values(self, key: &str) -> Option<Vec<(&'static str, &str)>> {
        match (self.order, key.split_once(' ')) {
            (None, None) => Some(vec![(self.field, key)]),
            (Some(order), Some((of, number))) => Some(vec![(order, of), (self.field, number)]),
            _ => None,
        }
    }
}

/// The place of amounts and currencies in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountPlace {
    /// One amount, and its currency.
    Stated {
        /// The field of the amount.
        amount: &'static str,
        /// The field of the currency.
        currency: &'static str,
    },
    /// `refundAmount`, in the currency of the order that `prepayId` names.
    OfOrder,
    /// `refundOrderAmount` in `refundOrderCurrency`, and `refundPayAmount` in `refundPayCurrency` if it is stated.
    Converted,
    /// A list of objects with `amount` and `currency`.
    Items {
        /// The field of the list.
        list: &'static str,
        /// Whether an item without a currency has that of the top object.
        common_currency: bool,
    },
    /// `amount` in `currency` for each of `count` cards.
    Cards,
    /// The side that is given away: `cryptoAmount` of a sale, `fiatAmount` of a purchase.
    Exchanged,
}

/// The place of targets in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetPlace {
    /// The money stays in the account, or goes back to its payer.
    None,
    /// `refundAddress`, `refundChain`, `memo` and `refundToGateUid`, if the refund names a target.
    Refund,
    /// A Gate user in this field.
    User(&'static str),
    /// A Gate user in `user_id` of each item.
    Users,
    /// `chain`, `address` and `memo` of each item.
    Addresses,
    /// A bank account in this field.
    Bank(&'static str),
    /// An account of the institution in this field.
    Account(&'static str),
}

/// Every money operation of the catalogue, in the catalogue's order. `mcp_call` has no published body, so it has no row.
pub const MONEY_ROWS: &[MoneyRow] = &[
    refund("refund_order", AmountPlace::OfOrder, TargetPlace::None),
    converted_refund("refund_checkout_order", "refund_checkout_order/payout"),
    named_refund("refund_order_v2", "refund_order_v2/payout"),
    MoneyRow {
        // No page describes its body, so no page documents its key.
        key: None,
        fields: NAMED_REFUND_V3,
        ..named_refund("refund_order_v3", "refund_order_v3/payout")
    },
    MoneyRow {
        payout_name: Some("refund_address_order/payout"),
        fields: &[
            "refundRequestId",
            "prepayId",
            "receiverId",
            "refundAmount",
            "refundReason",
        ],
        ..refund(
            "refund_address_order",
            AmountPlace::OfOrder,
            TargetPlace::User("receiverId"),
        )
    },
    converted_refund(
        "refund_converted_address_order",
        "refund_converted_address_order/payout",
    ),
    MoneyRow {
        key: Some(SpendKey::number("clientReqId", UNBOUNDED)),
        // The last two belong to the quote; published clients send them in this body.
        fields: &[
            "clientReqId",
            "quoteId",
            "buyAmount",
            "buyCurrency",
            "sellAmount",
            "sellCurrency",
            "price",
            "rate",
        ],
        ..row(
            "create_conversion",
            DemandKind::Conversion,
            stated("sellAmount", "sellCurrency"),
        )
    },
    MoneyRow {
        targets: TargetPlace::Addresses,
        key: Some(SpendKey::number("batch_id", 32)),
        fields: &["batch_id", "withdraw_list", "channel_id"],
        item_fields: &[
            "merchant_withdraw_id",
            "currency",
            "amount",
            "chain",
            "address",
            "memo",
            "fee_type",
        ],
        ..row(
            "create_payout",
            DemandKind::Payout,
            AmountPlace::Items {
                list: "withdraw_list",
                common_currency: false,
            },
        )
    },
    MoneyRow {
        // No page says that a repetition under `merchant_batch_no` is one transaction.
        targets: TargetPlace::Users,
        fields: &[
            "merchant_batch_no",
            "currency",
            "batchorderList",
            "scenario",
            "bizscene",
            "name",
            "description",
            "channelId",
            "batchId",
            "merchant_id",
            "client_id",
        ],
        item_fields: &["user_id", "amount", "currency", "rewardId"],
        ..row(
            "create_batch_transfer",
            DemandKind::Reward,
            AmountPlace::Items {
                list: "batchorderList",
                common_currency: true,
            },
        )
    },
    MoneyRow {
        // No page documents a key, `clientOrderId` neither.
        targets: TargetPlace::Bank("bankAccountId"),
        // The amounts and currencies belong to the quote; published clients send them in this body.
        fields: &[
            "clientOrderId",
            "quoteToken",
            "bankAccountId",
            "cryptoCurrency",
            "fiatCurrency",
            "cryptoAmount",
            "fiatAmount",
            "type",
            "side",
            "promotionCode",
            "validPeriod",
            "fiatRate",
            "cryptoRate",
        ],
        ..row("create_otc_order", DemandKind::Otc, AmountPlace::Exchanged)
    },
    MoneyRow {
        fields: &["title", "templateId", "currency", "amount", "count"],
        ..row("create_gift_card", DemandKind::GiftCard, AmountPlace::Cards)
    },
    MoneyRow {
        direction: MoneyDirection::In,
        key: Some(SpendKey::number("merchantDeductNo", UNBOUNDED)),
        fields: &[
            "merchantDeductNo",
            "amount",
            "currency",
            "subscriptionOrderNo",
            "merchantSubscriptionOrderNo",
            "description",
        ],
        ..row(
            "deduct_subscription",
            DemandKind::Deduction,
            stated("amount", "currency"),
        )
    },
    booking("create_transfer", DemandKind::Transfer),
    booking("create_charge", DemandKind::Charge),
];

const fn row(operation: &'static str, kind: DemandKind, amounts: AmountPlace) -> MoneyRow {
    MoneyRow {
        operation,
        kind,
        payout_name: None,
        direction: MoneyDirection::Out,
        amounts,
        targets: TargetPlace::None,
        key: None,
        fields: &[],
        item_fields: &[],
    }
}

const fn refund(operation: &'static str, amounts: AmountPlace, targets: TargetPlace) -> MoneyRow {
    MoneyRow {
        targets,
        key: Some(SpendKey {
            order: Some("prepayId"),
            ..SpendKey::number("refundRequestId", 32)
        }),
        fields: &[
            "refundRequestId",
            "prepayId",
            "refundAmount",
            "refundReason",
        ],
        ..row(operation, DemandKind::Refund, amounts)
    }
}

const fn converted_refund(operation: &'static str, payout_name: &'static str) -> MoneyRow {
    MoneyRow {
        payout_name: Some(payout_name),
        fields: &[
            "refundRequestId",
            "prepayId",
            "receiverId",
            "refundOrderCurrency",
            "refundPayCurrency",
            "refundReason",
            "refundOrderAmount",
            "refundPayAmount",
            "refundAmount",
        ],
        ..refund(
            operation,
            AmountPlace::Converted,
            TargetPlace::User("receiverId"),
        )
    }
}

const fn named_refund(operation: &'static str, payout_name: &'static str) -> MoneyRow {
    MoneyRow {
        payout_name: Some(payout_name),
        fields: NAMED_REFUND,
        ..refund(operation, AmountPlace::OfOrder, TargetPlace::Refund)
    }
}

const fn booking(operation: &'static str, kind: DemandKind) -> MoneyRow {
    MoneyRow {
        targets: TargetPlace::Account("accountId"),
        key: Some(SpendKey::number("merchantBatchNo", UNBOUNDED)),
        fields: &["merchantBatchNo", "accountId", "currency", "amount"],
        ..row(operation, kind, stated("amount", "currency"))
    }
}

const fn stated(amount: &'static str, currency: &'static str) -> AmountPlace {
    AmountPlace::Stated { amount, currency }
}
