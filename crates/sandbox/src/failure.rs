//! The ways GatePay says no (protocol.md 4.2).

use std::borrow::Cow;

/// A request that GatePay refuses, in the cases the sandbox knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.code(), self.message())]
pub enum Failure {
    /// 300000: something broke; the same request may be repeated.
    SystemError,
    /// 300001: something broke; the same request may be repeated.
    InternalError,
    /// 400000: something broke; the same request may be repeated.
    UnknownError,
    /// 400001: the header or field named here is absent or malformed.
    Malformed(&'static str),
    /// 400002: the signature does not fit.
    InvalidSignature,
    /// 400003: the timestamp is too far from GatePay's clock.
    StaleTimestamp,
    /// 400004: nobody has this client id.
    UnknownClient,
    /// 400007: the body is not of the media type that the call takes.
    UnsupportedContentType,
    /// 400020: the nonce is empty or not of the documented form.
    MalformedNonce,
    /// A nonce for the second time. GatePay publishes no code for it; the sandbox uses 400020.
    RepeatedNonce,
    /// `X-GatePay-On-Behalf-Of` names no active sub-account. GatePay publishes no code for it; the sandbox uses
    /// 400203, "merchant number does not exist".
    UnknownSubAccount,
    /// 400201: the merchant's order number is taken.
    OrderExists,
    /// 400202: there is no such order, or it is another sub-account's.
    UnknownOrder,
    /// 400204: the order is in another state than the call needs.
    OrderStatus,
    /// 400304: there is no such refund, or it is another sub-account's.
    UnknownRefund,
    /// 400603: the order's time is over.
    OrderTimedOut,
    /// 400604: the order to refund may still be paid or closed.
    OrderNotFinal,
    /// 400608: the refund is nothing, or more than is left of the order.
    RefundAmount,
    /// 400620: the order is paid already.
    DuplicatePayment,
}

impl Failure {
    /// The code in the envelope.
    pub const fn code(self) -> &'static str {
        match self {
            Self::SystemError => "300000",
            Self::InternalError => "300001",
            Self::UnknownError => "400000",
            Self::Malformed(_) => "400001",
            Self::InvalidSignature => "400002",
            Self::StaleTimestamp => "400003",
            Self::UnknownClient => "400004",
            Self::UnsupportedContentType => "400007",
            Self::MalformedNonce | Self::RepeatedNonce => "400020",
            Self::OrderExists => "400201",
            Self::UnknownOrder => "400202",
            Self::UnknownSubAccount => "400203",
            Self::OrderStatus => "400204",
            Self::UnknownRefund => "400304",
            Self::OrderTimedOut => "400603",
            Self::OrderNotFinal => "400604",
            Self::RefundAmount => "400608",
            Self::DuplicatePayment => "400620",
        }
    }

    /// The label in the envelope. `INVALID_SIGNATURE` is GatePay's; the others are the sandbox's own, since no page
    /// lists them.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SystemError => "SYSTEM_ERROR",
            Self::InternalError => "INTERNAL_ERROR",
            Self::UnknownError => "UNKNOWN_ERROR",
            Self::Malformed(_) => "INVALID_PARAMETER",
            Self::InvalidSignature => "INVALID_SIGNATURE",
            Self::StaleTimestamp => "TIMESTAMP_EXPIRED",
            Self::UnknownClient => "INVALID_CLIENT_ID",
            Self::UnsupportedContentType => "UNSUPPORTED_CONTENT_TYPE",
            Self::MalformedNonce => "INVALID_NONCE",
            Self::RepeatedNonce => "REPEATED_NONCE",
            Self::UnknownSubAccount => "INVALID_ON_BEHALF_OF",
            Self::OrderExists => "ORDER_EXISTS",
            Self::UnknownOrder => "ORDER_NOT_FOUND",
            Self::OrderStatus => "INVALID_ORDER_STATUS",
            Self::UnknownRefund => "REFUND_NOT_FOUND",
            Self::OrderTimedOut => "ORDER_TIMED_OUT",
            Self::OrderNotFinal => "ORDER_NOT_FINAL",
            Self::RefundAmount => "INVALID_REFUND_AMOUNT",
            Self::DuplicatePayment => "DUPLICATE_PAYMENT",
        }
    }

    /// The sentence in the envelope.
    pub fn message(self) -> Cow<'static, str> {
        let message = match self {
            Self::SystemError => "system error",
            Self::InternalError => "internal error",
            Self::UnknownError => "unknown error",
            Self::Malformed(what) => return format!("{what} is absent or malformed").into(),
            Self::InvalidSignature => "signature verification failed",
            Self::StaleTimestamp => "timestamp expired",
            Self::UnknownClient => "client id not found",
            Self::UnsupportedContentType => "unsupported Content-Type",
            Self::MalformedNonce => "nonce must be 1 to 32 letters and digits",
            Self::RepeatedNonce => "nonce was used before",
            Self::UnknownSubAccount => "X-GatePay-On-Behalf-Of names no active sub-account",
            Self::OrderExists => "merchantTradeNo already exists",
            Self::UnknownOrder => "order does not exist",
            Self::OrderStatus => "order status does not allow it",
            Self::UnknownRefund => "refundRequestId does not exist",
            Self::OrderTimedOut => "order timed out",
            Self::OrderNotFinal => "order is not in a final state",
            Self::RefundAmount => "refund amount is zero or above what is left of the order",
            Self::DuplicatePayment => "order is paid already",
        };
        message.into()
    }

    /// The HTTP status it comes with: a failure of GatePay's own is 500, any other is a business answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::SystemError | Self::InternalError | Self::UnknownError => 500,
            Self::Malformed(_)
            | Self::InvalidSignature
            | Self::StaleTimestamp
            | Self::UnknownClient
            | Self::UnsupportedContentType
            | Self::MalformedNonce
            | Self::RepeatedNonce
            | Self::UnknownSubAccount
            | Self::OrderExists
            | Self::UnknownOrder
            | Self::OrderStatus
            | Self::UnknownRefund
            | Self::OrderTimedOut
            | Self::OrderNotFinal
            | Self::RefundAmount
            | Self::DuplicatePayment => 200,
        }
    }
}
