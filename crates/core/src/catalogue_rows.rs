//! Catalogue rows: the calls of GatePay's documentation, in its order. `docs/gatepay/endpoints.json` lists the source
//! of each row, and a test compares the rows with the file.

use ApiModule::{
    Accounts, Address, Balance, Channel, Charge, CommissionRule, Convert, FixedAddress, GiftCard,
    Mcp, Otc, Payment, Payout, Subscription, Transfer,
};
use Kind::{Money, Read, Write};
use Method::{Delete, Get, Post, Put};

use crate::field::{self, AmountField, BodyField};
use crate::operation::{
    AccountHeader, AnswerForm, AnsweredAmounts, ApiModule, IdempotencyKey, Kind, LookUp, MediaType,
    Method, Operation, OperationScope, RowSwitch, Translation,
};

/// The prefix that turns most merchant paths into institution paths. A row with another institution path states it.
const PREFIX: &str = "/payment/open/institution";

/// The body limit of forms, in bytes: five files of 4 MB in each of a few lists (endpoints.json: material/supplement),
/// and the form around them.
const MULTIPART_LIMIT: u64 = 64 << 20;

/// The price fields of an order: an order with the same number and another price belongs to another call.
const PRICE: &[&str] = &["orderAmount", "currency"];

const ORDER_AMOUNTS: &[AmountField] = &[
    AmountField::with_currency("orderAmount", "currency"),
    AmountField::with_currency("fiatAmount", "fiatCurrency"),
];

/// A refund's amount. The currency is the order's, which the body does not contain.
const REFUND_AMOUNT: &[AmountField] = &[AmountField::new("refundAmount")];

const CONVERTED_REFUND_AMOUNTS: &[AmountField] = &[
    AmountField::new("refundAmount"),
    AmountField::with_currency("refundOrderAmount", "refundOrderCurrency"),
    AmountField::with_currency("refundPayAmount", "refundPayCurrency"),
];

const CONVERSION_AMOUNTS: &[AmountField] = &[
    AmountField::with_currency("sellAmount", "sellCurrency"),
    AmountField::with_currency("buyAmount", "buyCurrency"),
];

const PAYOUT_AMOUNTS: &[AmountField] = &[AmountField::with_currency(
    "withdraw_list.amount",
    "currency",
)];

const TRANSFER_AMOUNTS: &[AmountField] = &[AmountField::with_currency(
    "batchorderList.amount",
    "currency",
)];

const OTC_AMOUNTS: &[AmountField] = &[
    AmountField::with_currency("cryptoAmount", "cryptoCurrency"),
    AmountField::with_currency("fiatAmount", "fiatCurrency"),
];

/// The amount of a refund as its details state it. `amount` and `currency` are of the payment, after a conversion.
const REQUESTED: AnsweredAmounts = AnsweredAmounts::Stated {
    amount: "requestAmount",
    currency: "requestCurrency",
};

const BOOKED: AnsweredAmounts = AnsweredAmounts::Stated {
    amount: "amount",
    currency: "currency",
};

/// The amount of each card.
const GIFT_AMOUNT: &[AmountField] =
    &[AmountField::with_currency("amount", "currency").times("count")];

const AMOUNT: &[AmountField] = &[AmountField::with_currency("amount", "currency")];

#[expect(clippy::too_many_lines, reason = "a table reads best whole")]
pub(crate) fn rows() -> Vec<Operation> {
    vec![
        // payment
        tenant("create_order", Payment, Write, Post, "/v1/pay/order")
            .key(one("merchantTradeNo"))
            .look_up("query_order", one("merchantTradeNo"))
            .same(PRICE)
            .fields(field::CREATE_ORDER)
            .derived()
            .amounts(ORDER_AMOUNTS)
            .row(),
        tenant("query_order", Payment, Read, Post, "/v1/pay/order/query")
            .fields(field::ORDER_ID)
            .row(),
        tenant("close_order", Payment, Write, Post, "/v1/pay/order/close")
            .key(either("merchantTradeNo", "prepayId"))
            .look_up("query_order", either("merchantTradeNo", "prepayId"))
            .proves_nothing()
            .fields(field::ORDER_ID)
            .row(),
        tenant("refund_order", Payment, Money, Post, "/v1/pay/order/refund")
            .key(one("refundRequestId"))
            .refund_look_up("refund_details")
            .answers(REQUESTED)
            .fields(field::REFUND_ORDER)
            .amounts(REFUND_AMOUNT)
            .row(),
        tenant(
            "query_refund",
            Payment,
            Read,
            Post,
            "/v1/pay/order/refund/query",
        )
        .fields(field::REFUND_ID)
        .derived()
        .row(),
        tenant(
            "create_native_order",
            Payment,
            Write,
            Post,
            "/v1/pay/transactions/native",
        )
        .key(one("merchantTradeNo"))
        .look_up("query_order", one("merchantTradeNo"))
        .same(PRICE)
        .amounts(ORDER_AMOUNTS)
        .row(),
        tenant(
            "create_checkout_order",
            Payment,
            Write,
            Post,
            "/v1/pay/checkout/order",
        )
        .key(one("merchantTradeNo"))
        .look_up("query_order", one("merchantTradeNo"))
        .same(PRICE)
        .amounts(ORDER_AMOUNTS)
        .row(),
        tenant(
            "refund_checkout_order",
            Payment,
            Money,
            Post,
            "/v1/pay/checkout/refund",
        )
        .key(one("refundRequestId"))
        .refund_look_up("refund_details")
        .answers(REQUESTED)
        .derived()
        .amounts(CONVERTED_REFUND_AMOUNTS)
        .row(),
        tenant(
            "refund_order_v2",
            Payment,
            Money,
            Post,
            "/v2/standard/order/refund",
        )
        .key(one("refundRequestId"))
        .refund_look_up("refund_details")
        .answers(REQUESTED)
        .amounts(REFUND_AMOUNT)
        .row(),
        tenant("query_order_v2", Payment, Read, Get, "/v2/pay/order/query").row(),
        tenant(
            "refund_details",
            Payment,
            Read,
            Get,
            "/v2/pay/refund/details",
        )
        .row(),
        tenant(
            "refund_chains",
            Payment,
            Read,
            Get,
            "/v2/refund/support/chains",
        )
        .row(),
        tenant("query_order_v3", Payment, Read, Get, "/v3/pay/order/query")
            .derived()
            .row(),
        tenant("refund_order_v3", Payment, Money, Post, "/v3/order/refund")
            .key(one("refundRequestId"))
            .refund_look_up("refund_details_v3")
            .derived()
            .amounts(REFUND_AMOUNT)
            .row(),
        tenant(
            "refund_details_v3",
            Payment,
            Read,
            Get,
            "/v3/pay/refund/details",
        )
        .derived()
        .row(),
        tenant(
            "refund_chains_v3",
            Payment,
            Read,
            Get,
            "/v3/refund/support/chains",
        )
        .derived()
        .row(),
        // address
        tenant(
            "address_chains",
            Address,
            Read,
            Get,
            "/v1/pay/address/chains",
        )
        .row(),
        tenant(
            "address_currencies",
            Address,
            Read,
            Get,
            "/v1/pay/address/currencies",
        )
        .derived()
        .row(),
        tenant(
            "address_convert_currencies",
            Address,
            Read,
            Get,
            "/v1/pay/address/supportedconvertcurrencies",
        )
        .row(),
        tenant(
            "create_address_order",
            Address,
            Write,
            Post,
            "/v1/pay/address/create",
        )
        .key(one("merchantTradeNo"))
        .look_up("query_address_order", one("merchantTradeNo"))
        .same(PRICE)
        .amounts(ORDER_AMOUNTS)
        .row(),
        tenant(
            "query_address_order",
            Address,
            Read,
            Get,
            "/v1/pay/address/query",
        )
        .row(),
        tenant(
            "refund_address_order",
            Address,
            Money,
            Post,
            "/v1/pay/address/refund",
        )
        .key(one("refundRequestId"))
        .refund_look_up("refund_details")
        .answers(REQUESTED)
        .derived()
        .amounts(REFUND_AMOUNT)
        .bare()
        .row(),
        tenant(
            "refund_converted_address_order",
            Address,
            Money,
            Post,
            "/v1/pay/address/refundconvert",
        )
        .key(one("refundRequestId"))
        .refund_look_up("refund_details")
        .answers(REQUESTED)
        .amounts(CONVERTED_REFUND_AMOUNTS)
        .row(),
        tenant(
            "address_transactions",
            Address,
            Read,
            Get,
            "/v1/pay/address/transactiondetail",
        )
        .row(),
        // fixedaddress
        tenant(
            "save_fixed_address",
            FixedAddress,
            Write,
            Post,
            "/v1/pay/fixedaddress/save",
        )
        .or_at(&[(Post, "/merchant/open/institution/v1/pay/fixedaddress/save")])
        .key(both("channelId", "chain"))
        .look_up("fixed_address_detail", both("channelId", "chain"))
        .proves_nothing()
        .row(),
        tenant(
            "fixed_address_detail",
            FixedAddress,
            Read,
            Get,
            "/v1/pay/fixedaddress/detail",
        )
        .row(),
        tenant(
            "fixed_address_orders",
            FixedAddress,
            Read,
            Get,
            "/v1/pay/fixedaddress/order/query",
        )
        .row(),
        // balance
        tenant("query_balance", Balance, Read, Get, "/v1/pay/balance/query")
            .at("/payment/open/institution/v1/balance")
            .translated(Translation::Balance, Post)
            .or_at(&[(Get, "/payment/open/institution/v1/pay/balance/query")])
            .row(),
        tenant("all_balances", Balance, Read, Get, "/v1/pay/balance").row(),
        tenant("list_bills", Balance, Read, Get, "/v1/pay/bill/orderlist").row(),
        // convert
        tenant(
            "convert_currencies",
            Convert,
            Read,
            Get,
            "/v1/pay/convert/currency",
        )
        .or_at(&[(Get, "/transfer/open/institution/v1/pay/convert/currency")])
        .row(),
        tenant("convert_pairs", Convert, Read, Get, "/v1/pay/convert/pair").row(),
        tenant(
            "preview_conversion",
            Convert,
            Read,
            Post,
            "/v1/pay/convert/preview",
        )
        .row(),
        tenant("create_conversion", Convert, Money, Post, "/v1/pay/convert")
            .or_at(&[(Post, "/transfer/open/institution/v1/pay/convert")])
            .key(one("clientReqId"))
            .amounts(CONVERSION_AMOUNTS)
            .row(),
        tenant(
            "query_conversion",
            Convert,
            Read,
            Get,
            "/v1/pay/convert/order",
        )
        .row(),
        // payout
        tenant("create_payout", Payout, Money, Post, "/v1/pay/withdraw")
            .at("/withdraw/open/institution/v1/pay/create/payouts")
            .or_at(&[(Post, "/payment/open/institution/v1/pay/withdraw")])
            .key(one("batch_id"))
            .look_up("query_payout", one("batch_id"))
            .with(&[("detail_status", "ALL")])
            .answers(AnsweredAmounts::Items("withdraw_list"))
            .amounts(PAYOUT_AMOUNTS)
            .row(),
        tenant("query_payout", Payout, Read, Post, "/v1/pay/withdraw/query")
            .at("/withdraw/open/institution/v1/pay/payouts/detail")
            .or_at(&[(Post, "/payment/open/institution/v1/pay/withdraw/query")])
            .row(),
        tenant(
            "wallet_chains",
            Payout,
            Read,
            Get,
            "/v1/pay/wallet/currency_chains",
        )
        .bare()
        .row(),
        tenant(
            "wallet_withdraw_status",
            Payout,
            Read,
            Get,
            "/v1/pay/wallet/withdraw_status",
        )
        .bare()
        .row(),
        tenant(
            "wallet_withdrawals",
            Payout,
            Read,
            Get,
            "/v1/pay/wallet/withdrawals",
        )
        .bare()
        .row(),
        tenant(
            "wallet_total_balance",
            Payout,
            Read,
            Get,
            "/v1/pay/wallet/total_balance",
        )
        .derived()
        .bare()
        .row(),
        tenant(
            "create_batch_transfer",
            Payout,
            Money,
            Post,
            "/v1/pay/batch/transfer",
        )
        .at("/v1/pay/batch/transfer")
        .key(one("merchant_batch_no"))
        .look_up("query_batch_transfer", one("merchant_batch_no"))
        .with(&[("detail_status", "ALL")])
        .amounts(TRANSFER_AMOUNTS)
        .row(),
        tenant(
            "query_batch_transfer",
            Payout,
            Read,
            Post,
            "/v1/pay/batch/transfer/query",
        )
        .at("/v1/pay/batch/transfer/query")
        .derived()
        .row(),
        // otc
        tenant(
            "otc_quote",
            Otc,
            Read,
            Post,
            "/withdraw/open/otc/api/v1/quote",
        )
        .at("/withdraw/open/institution/otc/api/v1/quote")
        .row(),
        tenant(
            "create_otc_order",
            Otc,
            Money,
            Post,
            "/withdraw/open/otc/api/order/create",
        )
        .at("/withdraw/open/institution/otc/api/order/create")
        .key(one("clientOrderId"))
        .look_up("otc_order_detail", one("clientOrderId"))
        .answers(AnsweredAmounts::Exchanged)
        .amounts(OTC_AMOUNTS)
        .row(),
        tenant(
            "list_otc_orders",
            Otc,
            Read,
            Post,
            "/withdraw/open/otc/api/order/list",
        )
        .at("/withdraw/open/institution/otc/api/order/list")
        .row(),
        tenant(
            "otc_order_detail",
            Otc,
            Read,
            Get,
            "/withdraw/open/otc/api/order/detail",
        )
        .at("/withdraw/open/institution/otc/api/order/detail")
        .derived()
        .row(),
        tenant(
            "create_otc_bank",
            Otc,
            Write,
            Post,
            "/withdraw/open/otc/api/bank/create",
        )
        .at("/withdraw/open/institution/otc/api/bank/create")
        .multipart()
        .row(),
        tenant(
            "list_otc_banks",
            Otc,
            Read,
            Get,
            "/withdraw/open/otc/api/bank/list",
        )
        .at("/withdraw/open/institution/otc/api/bank/list")
        .row(),
        tenant(
            "supplement_otc_bank",
            Otc,
            Write,
            Post,
            "/withdraw/open/otc/api/bank/material/supplement",
        )
        .at("/withdraw/open/institution/otc/api/bank/material/supplement")
        .multipart()
        .row(),
        tenant(
            "otc_deposit_detail",
            Otc,
            Read,
            Get,
            "/open/otc/api/recharge/detail",
        )
        .at("/open/institution/otc/api/recharge/detail")
        .derived()
        .row(),
        // giftcard
        tenant(
            "create_gift_card",
            GiftCard,
            Money,
            Post,
            "/v1/pay/gift/create",
        )
        .amounts(GIFT_AMOUNT)
        .row(),
        tenant(
            "list_gift_templates",
            GiftCard,
            Read,
            Get,
            "/v1/pay/gift/temp/list",
        )
        .row(),
        tenant(
            "query_gift_card",
            GiftCard,
            Read,
            Post,
            "/v1/pay/gift/query",
        )
        .row(),
        // subscription
        tenant(
            "save_plan",
            Subscription,
            Write,
            Post,
            "/pay-subscription/open/v1/plan/save",
        )
        .at("/pay-subscription/open/institution/v1/plan/save")
        .key(one("merchantPlanNo"))
        .derived()
        .row(),
        tenant(
            "list_plans",
            Subscription,
            Read,
            Get,
            "/pay-subscription/open/v1/plan/list",
        )
        .at("/pay-subscription/open/institution/v1/plan/list")
        .derived()
        .row(),
        tenant(
            "plan_detail",
            Subscription,
            Read,
            Get,
            "/pay-subscription/open/v1/plan/detail",
        )
        .at("/pay-subscription/open/institution/v1/plan/detail")
        .row(),
        tenant(
            "create_subscription",
            Subscription,
            Write,
            Post,
            "/pay-subscription/open/v1/order/create",
        )
        .at("/pay-subscription/open/institution/v1/order/create")
        .key(one("merchantSubscriptionOrderNo"))
        .row(),
        tenant(
            "list_subscriptions",
            Subscription,
            Read,
            Get,
            "/pay-subscription/open/v1/order/list",
        )
        .at("/pay-subscription/open/institution/v1/order/list")
        .row(),
        tenant(
            "subscription_detail",
            Subscription,
            Read,
            Get,
            "/pay-subscription/open/v1/order/detail",
        )
        .at("/pay-subscription/open/institution/v1/order/detail")
        .derived()
        .row(),
        tenant(
            "complete_subscription",
            Subscription,
            Write,
            Post,
            "/pay-subscription/open/v1/order/complete",
        )
        .at("/pay-subscription/open/institution/v1/order/complete")
        .key(either("subscriptionOrderNo", "merchantSubscriptionOrderNo"))
        .row(),
        tenant(
            "deduct_subscription",
            Subscription,
            Money,
            Post,
            "/pay-subscription/open/v1/order/deduct",
        )
        .at("/pay-subscription/open/institution/v1/order/deduct")
        .key(one("merchantDeductNo"))
        .amounts(AMOUNT)
        .row(),
        tenant(
            "deduction_detail",
            Subscription,
            Read,
            Get,
            "/pay-subscription/open/v1/deduction/order/detail",
        )
        .at("/pay-subscription/open/institution/v1/deduction/order/detail")
        .row(),
        tenant(
            "create_product",
            Subscription,
            Write,
            Post,
            "/merchant/open/v1/pay/merchant/product/create",
        )
        .at("/merchant/open/institution/v1/pay/merchant/product/create")
        .derived()
        .row(),
        tenant(
            "list_products",
            Subscription,
            Read,
            Get,
            "/merchant/open/v1/pay/merchant/product/pageQuery",
        )
        .at("/merchant/open/institution/v1/pay/merchant/product/pageQuery")
        .derived()
        .row(),
        tenant(
            "query_product",
            Subscription,
            Read,
            Get,
            "/merchant/open/v1/pay/merchant/product/queryOne",
        )
        .at("/merchant/open/institution/v1/pay/merchant/product/queryOne")
        .derived()
        .row(),
        // channel
        tenant(
            "save_channel",
            Channel,
            Write,
            Post,
            "/v1/pay/channelmanage/save",
        )
        .derived()
        .row(),
        tenant(
            "list_channels",
            Channel,
            Read,
            Get,
            "/v1/pay/channelmanage/list",
        )
        .derived()
        .row(),
        tenant(
            "update_channel",
            Channel,
            Write,
            Put,
            "/v1/pay/channelmanage/update",
        )
        .derived()
        .row(),
        tenant(
            "delete_channel",
            Channel,
            Write,
            Delete,
            "/v1/pay/channelmanage/delete",
        )
        .derived()
        .row(),
        // mcp
        tenant("mcp_call", Mcp, Money, Post, "/payment/open/api/mcp")
            .unpublished()
            .derived()
            .row(),
        // accounts
        institution(
            "create_account",
            Accounts,
            Write,
            Post,
            "/merchant/open/institution/v1/accounts/create",
        )
        .account(AccountHeader::None)
        .key(one("request_id"))
        .look_up("list_accounts", one("request_id"))
        .row(),
        institution(
            "update_account",
            Accounts,
            Write,
            Post,
            "/merchant/open/institution/v1/accounts/update",
        )
        .row(),
        institution(
            "query_account",
            Accounts,
            Read,
            Get,
            "/merchant/open/institution/v1/accounts/query",
        )
        .account(AccountHeader::None)
        .row(),
        institution(
            "list_accounts",
            Accounts,
            Read,
            Get,
            "/merchant/open/institution/v1/accounts/list",
        )
        .account(AccountHeader::None)
        .row(),
        // commission_rule
        institution(
            "create_fee_rule",
            CommissionRule,
            Write,
            Post,
            "/rate/commission_rule",
        )
        .account(AccountHeader::MerchantId)
        .row(),
        institution(
            "upgrade_fee_rule",
            CommissionRule,
            Write,
            Post,
            "/rate/commission_rule/upgrade",
        )
        .account(AccountHeader::MerchantId)
        .row(),
        institution(
            "query_fee_rule",
            CommissionRule,
            Read,
            Get,
            "/rate/commission_rule",
        )
        .account(AccountHeader::MerchantId)
        .row(),
        institution(
            "list_fee_rules",
            CommissionRule,
            Read,
            Post,
            "/rate/commission_rule/list",
        )
        .account(AccountHeader::MerchantId)
        .row(),
        // transfer
        institution(
            "create_transfer",
            Transfer,
            Money,
            Post,
            "/transfer/open/institution/v1/pay/transfer",
        )
        .key(one("merchantBatchNo"))
        .look_up("transfer_detail", one("merchantBatchNo"))
        .same(&["amount", "currency"])
        .answers(BOOKED)
        .amounts(AMOUNT)
        .row(),
        institution(
            "transfer_detail",
            Transfer,
            Read,
            Get,
            "/transfer/open/institution/v1/pay/transfer/detail",
        )
        .row(),
        // charge
        institution(
            "create_charge",
            Charge,
            Money,
            Post,
            "/transfer/open/institution/v1/pay/charge",
        )
        .key(one("merchantBatchNo"))
        .look_up("charge_detail", one("merchantBatchNo"))
        .same(&["amount", "currency"])
        .answers(BOOKED)
        .amounts(AMOUNT)
        .row(),
        institution(
            "charge_detail",
            Charge,
            Read,
            Get,
            "/transfer/open/institution/v1/pay/charges/detail",
        )
        .row(),
    ]
}

fn one(field: &'static str) -> IdempotencyKey {
    IdempotencyKey::One(field.into())
}

fn either(first: &'static str, second: &'static str) -> IdempotencyKey {
    IdempotencyKey::Either(first.into(), second.into())
}

fn both(first: &'static str, second: &'static str) -> IdempotencyKey {
    IdempotencyKey::Both(first.into(), second.into())
}

/// A row under construction. The defaults are the values that most rows share.
struct RowDraft(Operation);

fn tenant(
    name: &'static str,
    module: ApiModule,
    kind: Kind,
    method: Method,
    path: &'static str,
) -> RowDraft {
    RowDraft(Operation {
        name: name.into(),
        module,
        method,
        merchant_path: Some(path.into()),
        institution_method: method,
        institution_path: Some(format!("{PREFIX}{path}").into()),
        alternatives: &[],
        account: AccountHeader::OnBehalfOf,
        scope: OperationScope::Tenant,
        kind,
        key: IdempotencyKey::None,
        look_up: None,
        confirmed: true,
        fields: &[],
        amounts: &[],
        translation: Translation::Verbatim,
        media: MediaType::Json,
        answer: AnswerForm::Envelope,
        switch: RowSwitch::Default,
        body_limit: None,
    })
}

/// A row of the tenants' with one path on both sides, and the defaults of the catalogue.
pub(crate) fn tenant_row(
    name: &'static str,
    module: ApiModule,
    kind: Kind,
    method: Method,
    path: &'static str,
) -> Operation {
    tenant(name, module, kind, method, path).at(path).row()
}

fn institution(
    name: &'static str,
    module: ApiModule,
    kind: Kind,
    method: Method,
    path: &'static str,
) -> RowDraft {
    let mut row = tenant(name, module, kind, method, path);
    row.0.merchant_path = None;
    row.0.institution_path = Some(path.into());
    row.0.scope = OperationScope::Institution;
    row
}

impl RowDraft {
    fn row(self) -> Operation {
        self.0
    }

    /// Sets an institution path other than the usual prefix with the merchant path.
    fn at(mut self, path: &'static str) -> Self {
        self.0.institution_path = Some(path.into());
        self
    }

    /// Adds institution paths that other sources print (protocol.md 7).
    fn or_at(mut self, alternatives: &'static [(Method, &'static str)]) -> Self {
        self.0.alternatives = alternatives;
        self
    }

    fn unpublished(mut self) -> Self {
        self.0.institution_path = None;
        self.0.account = AccountHeader::None;
        self
    }

    fn account(mut self, account: AccountHeader) -> Self {
        self.0.account = account;
        self
    }

    fn translated(mut self, translation: Translation, method: Method) -> Self {
        self.0.translation = translation;
        self.0.institution_method = method;
        self
    }

    fn key(mut self, key: IdempotencyKey) -> Self {
        self.0.key = key;
        self
    }

    fn look_up(mut self, operation: &'static str, by: IdempotencyKey) -> Self {
        self.0.look_up = Some(LookUp {
            operation,
            by,
            with: &[],
            same: &[],
            of_order: &[],
            amounts: AnsweredAmounts::Undocumented,
            proves: true,
        });
        self
    }

    /// Adds parameters that the look-up requires beside the key.
    fn with(mut self, with: &'static [(&'static str, &'static str)]) -> Self {
        self.0.look_up.as_mut().expect("it has a look-up").with = with;
        self
    }

    /// Sets the fields that identify the call: if one differs, the object under the key belongs to another call.
    fn same(mut self, same: &'static [&'static str]) -> Self {
        self.0.look_up.as_mut().expect("it has a look-up").same = same;
        self
    }

    /// Sets where the look-up's answer states the amounts of the call (schemas.md).
    fn answers(mut self, amounts: AnsweredAmounts) -> Self {
        self.0.look_up.as_mut().expect("it has a look-up").amounts = amounts;
        self
    }

    /// Looks a refund up by its number. Its order is `prepayId` in the answers to refunds and `orderId` in the details.
    fn refund_look_up(self, operation: &'static str) -> Self {
        let mut row = self.look_up(operation, one("refundRequestId"));
        row.0.look_up.as_mut().expect("it has a look-up").of_order = &["prepayId", "orderId"];
        row
    }

    /// Marks a look-up as no proof: the object under the key may be older than the call.
    fn proves_nothing(mut self) -> Self {
        self.0.look_up.as_mut().expect("it has a look-up").proves = false;
        self
    }

    /// Sets the rules for the body.
    fn fields(mut self, fields: &'static [BodyField]) -> Self {
        self.0.fields = fields;
        self
    }

    /// Sets the amount fields of the body.
    fn amounts(mut self, amounts: &'static [AmountField]) -> Self {
        self.0.amounts = amounts;
        self
    }

    /// Marks an institution path that no page shows: the rule of its module gives the path.
    fn derived(mut self) -> Self {
        self.0.confirmed = false;
        self
    }

    /// Marks a row with a successful answer that has no envelope (protocol.md 4.1).
    fn bare(mut self) -> Self {
        self.0.answer = AnswerForm::Bare;
        self
    }

    fn multipart(mut self) -> Self {
        self.0.media = MediaType::Multipart;
        self.0.body_limit = Some(MULTIPART_LIMIT);
        self
    }
}
