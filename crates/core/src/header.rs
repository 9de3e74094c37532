//! Header: header names of the protocol (protocol.md 1.2), in lower case as HTTP/2 requires.

/// The client id, which identifies the signing secret.
pub const CLIENT_ID: &str = "x-gatepay-certificate-clientid";
/// The timestamp: UTC milliseconds since 1970.
pub const TIMESTAMP: &str = "x-gatepay-timestamp";
/// The nonce: random, used once.
pub const NONCE: &str = "x-gatepay-nonce";
/// The signature: HMAC-SHA512 in hexadecimal.
pub const SIGNATURE: &str = "x-gatepay-signature";
/// The account that an institution call acts for. Not signed.
pub const ON_BEHALF_OF: &str = "x-gatepay-on-behalf-of";
/// The institution's merchant id, on fee settings only. Not signed.
pub const MERCHANT_ID: &str = "x-gatepay-merchantid";
