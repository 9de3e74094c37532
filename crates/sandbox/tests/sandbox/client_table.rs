//! The members and types that GatePay's official client libraries decode, by operation. Written from their public
//! types.

/// A type that a decoder accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Text,
    /// Text of digits only: one library reads it as text, another as a number.
    Digits,
    /// A decimal number, as a non-empty text or as a number.
    Decimal,
    Integer,
    Number,
    Boolean,
    /// An object with text values.
    Texts,
    Object,
}
use Type::{Boolean, Decimal, Digits, Integer, Number, Object, Text, Texts};

/// Whether the data stands in the standard envelope. Wallet queries have no envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    Standard,
    None,
}

/// An operation's answer: paths of members, from `data` down, by type. `[]` is every item of a list, `*` at the end is
/// a member that may be null.
pub(crate) type Row = (
    &'static str,
    Envelope,
    &'static [(Type, &'static [&'static str])],
);

const ORDER: &[&str] = &[
    "prepayId",
    "merchantTradeNo",
    "transactionId",
    "goodsName",
    "currency",
    "orderAmount",
    "status",
    "order_name",
    "pay_currency",
    "pay_amount",
    "rate",
    "channel_type",
    "appName",
    "appLogo",
    "inUsdt",
    "channelId",
];
const ORDER_NUMBERS: &[&str] = &["merchantId", "createTime", "expireTime", "transactTime"];
const ORDER_V2: &[&str] = &[
    "fiatCurrency",
    "fiatAmount",
    "returnUrl",
    "merchantName",
    "location",
    "address",
    "chain",
    "fullCurrType",
    "transaction_info.done_amount",
];
const CREATED: &[&str] = &["prepayId", "terminalType"];
const REFUND: &[&str] = &["refundRequestId", "prepayId", "orderAmount", "refundAmount"];
const CONVERTED: &[&str] = &[
    "refundRequestId",
    "prepayId",
    "orderCurrency",
    "payCurrency",
];
const CONVERTED_AMOUNTS: &[&str] = &[
    "orderAmount",
    "refundOrderAmount",
    "payAmount",
    "refundPayAmount",
];
const REFUND_DETAILS: &[&str] = &[
    "refundRequestId",
    "gateRefundId",
    "refundId",
    "orderId",
    "merchantTradeNo",
    "transactionId",
    "txHash",
    "orderAmount",
    "orderCurrency",
    "requestAmount",
    "requestCurrency",
    "amount",
    "currency",
    "status",
    "remark",
    "refund_address",
    "refund_chain",
    "refund_fail_reason",
];
const REFUND_NUMBERS: &[&str] = &[
    "createTime",
    "transactTime",
    "refund_style",
    "refund_pay_channel",
    "refund_bear_type",
    "refund_amount_type",
    "refund_to_gate_uid",
];
const CHAINS: &[&str] = &[
    "currency",
    "chains[].chain",
    "chains[].currency",
    "chains[].full_curr_type",
    "chains[].symbol",
    "chains[].explorer_url",
    "chains[].show_chain_name_en",
];
const CONVERSION: &[(Type, &[&str])] = &[
    (
        Text,
        &[
            "order_id",
            "sellCurrency",
            "buyCurrency",
            "sellAmount",
            "buyAmount",
            "quoteId",
        ],
    ),
    (Integer, &["userId", "status", "createTime"]),
    (Number, &["rate"]),
];
const CHECKOUT_REFUND: &[(Type, &[&str])] = &[(Text, CONVERTED), (Decimal, CONVERTED_AMOUNTS)];
const REFUND_CHAINS: &[(Type, &[&str])] = &[
    (Text, CHAINS),
    (Text, &["chains[].withdrawPercent", "chains[].withdrawFix"]),
    (Integer, &["chains[].hasWithdrawMemo"]),
];
const ORDER_QUERY_V2: &[(Type, &[&str])] = &[
    (Text, ORDER),
    (Integer, ORDER_NUMBERS),
    (Text, ORDER_V2),
    (
        Object,
        &["transaction_info.confirming_list[]", "whiteBrandInfo*"],
    ),
];
const DETAILS: &[(Type, &[&str])] = &[
    (Text, REFUND_DETAILS),
    (Integer, REFUND_NUMBERS),
    (Object, &["refundDetails[]"]),
];
const REFUND_V2: &[(Type, &[&str])] = &[
    (Text, REFUND),
    (
        Text,
        &[
            "refundGateId",
            "errMsg",
            "orderCurrency",
            "payCurrency",
            "payAmount",
        ],
    ),
];

pub(crate) const ROWS: &[Row] = &[
    (
        "create_order",
        Envelope::Standard,
        &[(Text, CREATED), (Integer, &["expireTime"])],
    ),
    (
        "create_native_order",
        Envelope::Standard,
        &[
            (Text, CREATED),
            (Text, &["qrContent", "location"]),
            (Integer, &["expireTime"]),
        ],
    ),
    (
        "query_order",
        Envelope::Standard,
        &[(Text, ORDER), (Integer, ORDER_NUMBERS)],
    ),
    ("close_order", Envelope::Standard, &[(Text, &["result"])]),
    ("query_order_v2", Envelope::Standard, ORDER_QUERY_V2),
    ("query_order_v3", Envelope::Standard, ORDER_QUERY_V2),
    ("refund_order", Envelope::Standard, &[(Text, REFUND)]),
    (
        "query_refund",
        Envelope::Standard,
        &[(Text, REFUND), (Text, &["refundStatus", "channelId"])],
    ),
    ("refund_order_v2", Envelope::Standard, REFUND_V2),
    ("refund_order_v3", Envelope::Standard, REFUND_V2),
    ("refund_details", Envelope::Standard, DETAILS),
    ("refund_details_v3", Envelope::Standard, DETAILS),
    ("refund_chains", Envelope::Standard, REFUND_CHAINS),
    ("refund_chains_v3", Envelope::Standard, REFUND_CHAINS),
    (
        "create_checkout_order",
        Envelope::Standard,
        &[
            (Text, CREATED),
            (
                Text,
                &[
                    "qrContent",
                    "location",
                    "payCurrency",
                    "payAmount",
                    "orderAmount",
                    "surchargeAmount",
                    "currency",
                    "fiatCurrency",
                    "fiatAmount",
                    "toleranceAmount",
                    "chain.chain_type",
                    "chain.address",
                    "chain.fullCurrType",
                    "appName",
                    "appLogo",
                    "goodsName",
                    "inUsdt",
                ],
            ),
            (Integer, &["expireTime"]),
        ],
    ),
    ("refund_checkout_order", Envelope::Standard, CHECKOUT_REFUND),
    (
        "address_chains",
        Envelope::Standard,
        &[(Text, CHAINS), (Integer, &["chains[].hasWithdrawMemo"])],
    ),
    (
        "address_currencies",
        Envelope::Standard,
        &[(Text, &["currencies[]"])],
    ),
    (
        "address_convert_currencies",
        Envelope::Standard,
        &[(Text, &["currencies[]"])],
    ),
    (
        "create_address_order",
        Envelope::Standard,
        &[
            (Text, CREATED),
            (
                Text,
                &["chain.chain_type", "chain.address", "chain.fullCurrType"],
            ),
            (Integer, &["expireTime"]),
        ],
    ),
    (
        "query_address_order",
        Envelope::Standard,
        &[
            (Text, ORDER),
            (Integer, ORDER_NUMBERS),
            (Text, &["payCurrency", "address", "chain"]),
            (
                Decimal,
                &["payAmount", "rate", "transaction_info.done_amount"],
            ),
            (Object, &["transaction_info.confirming_list[]"]),
        ],
    ),
    (
        "refund_address_order",
        Envelope::Standard,
        &[(Text, REFUND)],
    ),
    (
        "refund_converted_address_order",
        Envelope::Standard,
        CHECKOUT_REFUND,
    ),
    (
        "address_transactions",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "prepayId",
                    "merchantTradeNo",
                    "transactionId",
                    "goodsName",
                    "currency",
                    "orderAmount",
                    "payCurrency",
                    "payAmount",
                    "status",
                    "utcCreateTime",
                    "utcExpireTime",
                    "utcUpdateTime",
                    "order_name",
                    "channelId",
                    "transactionDetail.inTerm.done.txList[].chain",
                    "transactionDetail.inTerm.done.txList[].address",
                    "transactionDetail.inTerm.done.txList[].fullCurrType",
                    "transactionDetail.inTerm.done.txList[].txId",
                    "transactionDetail.inTerm.done.txList[].utcCreateTime",
                    "transactionDetail.inTerm.done.txList[].utcUpdateTime",
                    "transactionDetail.inTerm.done.txList[].fromAddress",
                ],
            ),
            (Integer, &["merchantId", "transactTime"]),
            (
                Decimal,
                &[
                    "transactionDetail.inTerm.done.amount",
                    "transactionDetail.inTerm.done.txList[].amount",
                    "transactionDetail.inTerm.wait.amount",
                    "transactionDetail.outOfTerm.done.amount",
                    "transactionDetail.outOfTerm.wait.amount",
                ],
            ),
        ],
    ),
    ("all_balances", Envelope::Standard, &[(Texts, &[""])]),
    (
        "list_bills",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "balance_history_item_list[].transactId",
                    "balance_history_item_list[].orderId",
                    "balance_history_item_list[].merchantTradeNo",
                    "balance_history_item_list[].financialType",
                    "balance_history_item_list[].payAmount",
                    "balance_history_item_list[].currency",
                    "balance_history_item_list[].balance",
                    "balance_history_item_list[].balanceCurrency",
                    "balance_history_item_list[].status",
                    "balance_history_item_list[].buyer",
                    "balance_history_item_list[].fullChain",
                    "balance_history_item_list[].hash",
                    "balance_history_item_list[].address",
                    "balance_history_item_list[].payChannel",
                    "balance_history_item_list[].refund_gate_id",
                ],
            ),
            (
                Integer,
                &[
                    "merchant_id",
                    "total",
                    "nextPage",
                    "balance_history_item_list[].transactTime",
                    "balance_history_item_list[].payer",
                ],
            ),
            (Boolean, &["hasNext"]),
        ],
    ),
    (
        "convert_currencies",
        Envelope::Standard,
        &[(Text, &["currency[]"])],
    ),
    (
        "convert_pairs",
        Envelope::Standard,
        &[(
            Text,
            &[
                "[].pair",
                "[].sellCurrency",
                "[].sellCurrencyMax",
                "[].sellCurrencyMin",
                "[].buyCurrency",
                "[].buyCurrencyMax",
                "[].buyCurrencyMin",
            ],
        )],
    ),
    (
        "preview_conversion",
        Envelope::Standard,
        &[(
            Text,
            &[
                "sellCurrency",
                "buyCurrency",
                "sellAmount",
                "buyAmount",
                "price",
                "rate",
                "quoteId",
            ],
        )],
    ),
    ("create_conversion", Envelope::Standard, CONVERSION),
    ("query_conversion", Envelope::Standard, CONVERSION),
    (
        "create_payout",
        Envelope::Standard,
        &[(Text, &["batch_id"])],
    ),
    (
        "query_payout",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "batch_id",
                    "client_id",
                    "status",
                    "channel_id*",
                    "withdraw_list[].batch_id",
                    "withdraw_list[].suborder_id",
                    "withdraw_list[].withdraw_id",
                    "withdraw_list[].chain",
                    "withdraw_list[].address",
                    "withdraw_list[].currency",
                    "withdraw_list[].tx_id",
                    "withdraw_list[].memo",
                    "withdraw_list[].status",
                    "withdraw_list[].merchant_withdraw_id",
                    "withdraw_list[].err_msg",
                    "withdraw_list[].desc",
                    "withdraw_list[].channel_id*",
                ],
            ),
            (
                Integer,
                &[
                    "merchant_id",
                    "create_time",
                    "withdraw_list[].id",
                    "withdraw_list[].merchant_id",
                    "withdraw_list[].timestamp",
                    "withdraw_list[].create_time",
                    "withdraw_list[].update_time",
                    "withdraw_list[].fee_type",
                    "withdraw_list[].finish_time",
                ],
            ),
            (
                Decimal,
                &[
                    "withdraw_list[].amount",
                    "withdraw_list[].fee",
                    "withdraw_list[].sub_amount",
                    "withdraw_list[].done_amount",
                ],
            ),
        ],
    ),
    (
        "wallet_chains",
        Envelope::None,
        &[
            (
                Text,
                &[
                    "[].chain",
                    "[].name_cn",
                    "[].name_en",
                    "[].contract_address",
                ],
            ),
            (
                Integer,
                &[
                    "[].is_disabled",
                    "[].is_deposit_disabled",
                    "[].is_withdraw_disabled",
                ],
            ),
        ],
    ),
    (
        "wallet_withdraw_status",
        Envelope::None,
        &[
            (
                Text,
                &[
                    "[].currency",
                    "[].name",
                    "[].name_cn",
                    "[].deposit",
                    "[].withdraw_percent",
                    "[].withdraw_fix",
                    "[].withdraw_day_limit",
                    "[].withdraw_day_limit_remain",
                    "[].withdraw_amount_mini",
                    "[].withdraw_eachtime_limit",
                ],
            ),
            (
                Texts,
                &["[].withdraw_fix_on_chains", "[].withdraw_percent_on_chains"],
            ),
        ],
    ),
    (
        "wallet_total_balance",
        Envelope::None,
        &[(
            Text,
            &[
                "total.currency",
                "total.amount",
                "details.spot.currency",
                "details.spot.amount",
            ],
        )],
    ),
    (
        "create_batch_transfer",
        Envelope::Standard,
        &[(Text, &["merchant_batch_no", "batch_id"])],
    ),
    (
        "query_batch_transfer",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "batch_id",
                    "merchant_batch_no",
                    "status",
                    "currency",
                    "channel_id",
                    "orders_list[].amount",
                    "orders_list[].status",
                    "orders_list[].reward_id",
                    "orders_list[].transaction_id",
                    "orders_list[].channel_id",
                ],
            ),
            (
                Integer,
                &[
                    "merchant_id",
                    "orders_list[].receiver_id",
                    "orders_list[].create_time",
                ],
            ),
        ],
    ),
    (
        "create_gift_card",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "card_num",
                    "card_key",
                    "currency",
                    "card_temp_id",
                    "creator_name",
                    "batchId",
                    "reason",
                    "err_msg",
                ],
            ),
            (Decimal, &["amount"]),
            (
                Integer,
                &[
                    "status",
                    "creator",
                    "exchange_uid",
                    "owner",
                    "give_count",
                    "last_give_time",
                    "create_time",
                ],
            ),
        ],
    ),
    (
        "list_gift_templates",
        Envelope::Standard,
        &[(
            Text,
            &[
                "[].card_temp_id",
                "[].image_url",
                "[].title_en",
                "[].title_cn",
                "[].cover_type",
            ],
        )],
    ),
    (
        "query_gift_card",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "card_num",
                    "key",
                    "title",
                    "creator_name",
                    "amount",
                    "currency",
                    "card_temp_id",
                ],
            ),
            (
                Integer,
                &["status", "create_time", "exchange_uid", "exchange_time"],
            ),
        ],
    ),
    ("save_channel", Envelope::Standard, &[(Texts, &[""])]),
    ("update_channel", Envelope::Standard, &[(Texts, &[""])]),
    ("delete_channel", Envelope::Standard, &[(Texts, &[""])]),
    (
        "list_channels",
        Envelope::Standard,
        &[
            (
                Text,
                &[
                    "merchantChannelList[].channelId",
                    "merchantChannelList[].desc",
                    "merchantChannelList[].channelType",
                    "merchantChannelList[].chain",
                    "merchantChannelList[].currency",
                    "merchantChannelList[].address",
                    "merchantChannelList[].result",
                ],
            ),
            (
                Digits,
                &[
                    "merchantChannelList[].createTime",
                    "merchantChannelList[].updateTime",
                ],
            ),
            (Object, &["merchantChannelList[].customFields[]"]),
            (Integer, &["total"]),
        ],
    ),
];

/// Operations with a documented form that no library can decode.
pub(crate) const DOCUMENTED_OTHERWISE: &[&str] = &[
    "address_transactions",
    "create_gift_card",
    "create_order",
    "list_bills",
    "list_channels",
    "list_gift_templates",
    "query_address_order",
    "query_batch_transfer",
    "query_gift_card",
    "query_order_v2",
    "query_order_v3",
    "query_payout",
    "refund_checkout_order",
    "refund_converted_address_order",
];
