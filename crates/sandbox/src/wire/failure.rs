//! GatePay's failures (protocol.md 4.2).

use std::borrow::Cow;

/// The reason for a refused request, in the cases that the sandbox emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.code(), self.message())]
pub enum ApiFailure {
    /// 300000: a system error; the caller may retry the request.
    SystemError,
    /// 300001: an internal error; the caller may retry the request.
    InternalError,
    /// 400000: an unknown error; the caller may retry the request.
    UnknownError,
    /// 400001: the header or field named here is absent or malformed.
    Malformed(&'static str),
    /// 400001: the number in this field was used before, with other parameters. GatePay publishes no code for this
    /// failure.
    Reused(&'static str),
    /// 400002: the signature is invalid.
    InvalidSignature,
    /// 400003: the timestamp differs too much from GatePay's clock.
    StaleTimestamp,
    /// 400004: the client id is unknown.
    UnknownClient,
    /// 400007: the body is not of the media type that the call takes.
    UnsupportedContentType,
    /// 400020: the nonce is empty or not of the documented form.
    MalformedNonce,
    /// A repeated nonce. GatePay publishes no code for this failure; the sandbox uses 400020.
    RepeatedNonce,
    /// `X-GatePay-On-Behalf-Of` names no active sub-account. GatePay publishes no code for this failure; the sandbox
    /// uses 400203, "merchant number does not exist".
    UnknownSubAccount,
    /// 400203: an account in the call does not belong to the institution, or is not active.
    UnknownAccount,
    /// 400201: the merchant's order number is taken.
    OrderExists,
    /// 400202: the order does not exist, or belongs to another sub-account.
    UnknownOrder,
    /// 400202: the object that this parameter names does not exist, or belongs to another sub-account. GatePay
    /// publishes a code for orders only.
    NotFound(&'static str),
    /// 400204: the order's status does not allow the call.
    OrderStatus,
    /// 400205: the currency is unknown.
    InvalidCurrency,
    /// 400304: the refund does not exist, or belongs to another sub-account.
    UnknownRefund,
    /// 400603: the order has expired.
    OrderTimedOut,
    /// 400604: the order to refund may still be paid or closed.
    OrderNotFinal,
    /// 400605: the account's balance is too low.
    InsufficientBalance,
    /// 400608: the refund is zero, or exceeds the refundable amount of the order.
    RefundAmount,
    /// 400620: the order is paid already.
    DuplicatePayment,
    /// 400621: the amount cannot be paid or converted.
    WrongAmount,
    /// 400622: the quote has expired.
    RateMoved,
    /// 400624: the notification's URL is invalid, or the sandbox sends no notifications.
    NotificationUrl,
    /// 500008: `X-GatePay-MerchantId` is not the institution's id.
    UnknownMerchant,
    /// 500203: the order of a call of address payments does not exist.
    UnknownAddressOrder,
    /// 500205: a currency of the refund differs from the order's.
    RefundCurrency,
    /// 500208: the order was converted and the call is for unconverted orders, or the other way around.
    NotConverted,
    /// 550233: the account's balance is below the payout.
    PayoutBalance,
    /// 550235: an amount of the payout has more than six decimals.
    PayoutPrecision,
    /// 550238: the payout has too many sub-orders: more than 100 in the sandbox. GatePay publishes no maximum.
    PayoutTooLong,
    /// 550239: a sub-order without an amount above zero.
    PayoutAmount,
    /// 550240: a sub-order without a currency.
    PayoutCurrency,
    /// 550241: a sub-order without an address.
    PayoutAddress,
    /// 550242: a sub-order without a chain.
    PayoutChain,
    /// 550245: the batch id is taken.
    PayoutExists,
    /// 550249: the batch id or a sub-order's id is malformed, repeated or unknown.
    PayoutId,
}

impl ApiFailure {
    /// The `code` of the envelope.
    pub const fn code(self) -> &'static str {
        match self {
            Self::SystemError => "300000",
            Self::InternalError => "300001",
            Self::UnknownError => "400000",
            Self::Malformed(_) | Self::Reused(_) => "400001",
            Self::InvalidSignature => "400002",
            Self::StaleTimestamp => "400003",
            Self::UnknownClient => "400004",
            Self::UnsupportedContentType => "400007",
            Self::MalformedNonce | Self::RepeatedNonce => "400020",
            Self::OrderExists => "400201",
            Self::UnknownOrder | Self::NotFound(_) => "400202",
            Self::UnknownSubAccount | Self::UnknownAccount => "400203",
            Self::OrderStatus => "400204",
            Self::InvalidCurrency => "400205",
            Self::UnknownRefund => "400304",
            Self::OrderTimedOut => "400603",
            Self::OrderNotFinal => "400604",
            Self::InsufficientBalance => "400605",
            Self::RefundAmount => "400608",
            Self::DuplicatePayment => "400620",
            Self::WrongAmount => "400621",
            Self::RateMoved => "400622",
            Self::NotificationUrl => "400624",
            Self::UnknownMerchant => "500008",
            Self::UnknownAddressOrder => "500203",
            Self::RefundCurrency => "500205",
            Self::NotConverted => "500208",
            Self::PayoutBalance => "550233",
            Self::PayoutPrecision => "550235",
            Self::PayoutTooLong => "550238",
            Self::PayoutAmount => "550239",
            Self::PayoutCurrency => "550240",
            Self::PayoutAddress => "550241",
            Self::PayoutChain => "550242",
            Self::PayoutExists => "550245",
            Self::PayoutId => "550249",
        }
    }

    /// The `label` of the envelope. `INVALID_SIGNATURE` is GatePay's; the other labels are the sandbox's own, since no
    /// page lists GatePay's.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SystemError => "SYSTEM_ERROR",
            Self::InternalError => "INTERNAL_ERROR",
            Self::UnknownError => "UNKNOWN_ERROR",
            Self::Malformed(_) => "INVALID_PARAMETER",
            Self::Reused(_) => "REUSED_NUMBER",
            Self::InvalidSignature => "INVALID_SIGNATURE",
            Self::StaleTimestamp => "TIMESTAMP_EXPIRED",
            Self::UnknownClient => "INVALID_CLIENT_ID",
            Self::UnsupportedContentType => "UNSUPPORTED_CONTENT_TYPE",
            Self::MalformedNonce => "INVALID_NONCE",
            Self::RepeatedNonce => "REPEATED_NONCE",
            Self::UnknownSubAccount => "INVALID_ON_BEHALF_OF",
            Self::UnknownAccount => "ACCOUNT_NOT_FOUND",
            Self::OrderExists => "ORDER_EXISTS",
            Self::UnknownOrder => "ORDER_NOT_FOUND",
            Self::NotFound(_) => "NOT_FOUND",
            Self::OrderStatus => "INVALID_ORDER_STATUS",
            Self::InvalidCurrency => "INVALID_CURRENCY",
            Self::UnknownRefund => "REFUND_NOT_FOUND",
            Self::OrderTimedOut => "ORDER_TIMED_OUT",
            Self::OrderNotFinal => "ORDER_NOT_FINAL",
            Self::InsufficientBalance => "INSUFFICIENT_BALANCE",
            Self::RefundAmount => "INVALID_REFUND_AMOUNT",
            Self::DuplicatePayment => "DUPLICATE_PAYMENT",
            Self::WrongAmount => "WRONG_AMOUNT",
            Self::RateMoved => "RATE_MOVED",
            Self::NotificationUrl => "INVALID_NOTIFICATION_ADDRESS",
            Self::UnknownMerchant => "MERCHANT_NOT_FOUND",
            Self::UnknownAddressOrder => "ADDRESS_ORDER_NOT_FOUND",
            Self::RefundCurrency => "REFUND_CURRENCY_MISMATCH",
            Self::NotConverted => "NOT_CONVERTED",
            Self::PayoutBalance => "PAYOUT_BALANCE",
            Self::PayoutPrecision => "INVALID_PRECISION",
            Self::PayoutTooLong => "TOO_MANY_SUB_ORDERS",
            Self::PayoutAmount => "AMOUNT_MISSING",
            Self::PayoutCurrency => "CURRENCY_MISSING",
            Self::PayoutAddress => "ADDRESS_MISSING",
            Self::PayoutChain => "CHAIN_MISSING",
            Self::PayoutExists => "BATCH_EXISTS",
            Self::PayoutId => "INVALID_BATCH_ID",
        }
    }

    /// The sentence in the envelope.
    pub fn message(self) -> Cow<'static, str> {
        let message = match self {
            Self::SystemError => "system error",
            Self::InternalError => "internal error",
            Self::UnknownError => "unknown error",
            Self::Malformed(what) => return format!("{what} is absent or malformed").into(),
            Self::Reused(what) => {
                return format!("{what} was used before, with other parameters").into();
            }
            Self::NotFound(what) => return format!("{what} does not exist").into(),
            Self::InvalidSignature => "signature verification failed",
            Self::StaleTimestamp => "timestamp expired",
            Self::UnknownClient => "client id not found",
            Self::UnsupportedContentType => "unsupported Content-Type",
            Self::MalformedNonce => "nonce must be 1 to 32 letters and digits",
            Self::RepeatedNonce => "nonce was used before",
            Self::UnknownSubAccount => "X-GatePay-On-Behalf-Of names no active sub-account",
            Self::UnknownAccount => "account does not exist or is not active",
            Self::OrderExists => "merchantTradeNo already exists",
            Self::UnknownOrder => "order does not exist",
            Self::OrderStatus => "order status does not allow it",
            Self::InvalidCurrency => "currency is unknown",
            Self::UnknownRefund => "refundRequestId does not exist",
            Self::OrderTimedOut => "order timed out",
            Self::OrderNotFinal => "order is not in a final state",
            Self::InsufficientBalance => "insufficient balance",
            Self::RefundAmount => "refund amount is zero or above what is left of the order",
            Self::DuplicatePayment => "order is paid already",
            Self::WrongAmount => "wrong payment amount",
            Self::RateMoved => "exchange rate moved",
            Self::NotificationUrl => "invalid notification address",
            Self::UnknownMerchant => "merchant not found",
            Self::UnknownAddressOrder => "address payment order not found",
            Self::RefundCurrency => "refund currency does not match",
            Self::NotConverted => "order is of the other kind: converted or direct",
            Self::PayoutBalance => "insufficient balance for the payout",
            Self::PayoutPrecision => "amount has more than six decimals",
            Self::PayoutTooLong => "too many sub-orders",
            Self::PayoutAmount => "amount is missing",
            Self::PayoutCurrency => "currency is missing",
            Self::PayoutAddress => "address is missing",
            Self::PayoutChain => "chain is missing",
            Self::PayoutExists => "batch_id exists",
            Self::PayoutId => "invalid batch_id or merchant_withdraw_id",
        };
        message.into()
    }

    /// The HTTP status of the answer: 500 for a failure of GatePay's own; any other failure is a business answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::SystemError | Self::InternalError | Self::UnknownError => 500,
            Self::Malformed(_)
            | Self::Reused(_)
            | Self::InvalidSignature
            | Self::StaleTimestamp
            | Self::UnknownClient
            | Self::UnsupportedContentType
            | Self::MalformedNonce
            | Self::RepeatedNonce
            | Self::UnknownSubAccount
            | Self::UnknownAccount
            | Self::OrderExists
            | Self::UnknownOrder
            | Self::NotFound(_)
            | Self::OrderStatus
            | Self::InvalidCurrency
            | Self::UnknownRefund
            | Self::OrderTimedOut
            | Self::OrderNotFinal
            | Self::InsufficientBalance
            | Self::RefundAmount
            | Self::DuplicatePayment
            | Self::WrongAmount
            | Self::RateMoved
            | Self::NotificationUrl
            | Self::UnknownMerchant
            | Self::UnknownAddressOrder
            | Self::RefundCurrency
            | Self::NotConverted
            | Self::PayoutBalance
            | Self::PayoutPrecision
            | Self::PayoutTooLong
            | Self::PayoutAmount
            | Self::PayoutCurrency
            | Self::PayoutAddress
            | Self::PayoutChain
            | Self::PayoutExists
            | Self::PayoutId => 200,
        }
    }
}
