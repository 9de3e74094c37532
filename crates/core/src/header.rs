//! Header names of the protocol (protocol.md 1.2), in lower case as HTTP/2 wants them.

/// Says which secret signs.
pub const CLIENT_ID: &str = "x-gatepay-certificate-clientid";
/// UTC milliseconds since 1970.
pub const TIMESTAMP: &str = "x-gatepay-timestamp";
/// Random, used once.
pub const NONCE: &str = "x-gatepay-nonce";
/// Hexadecimal HMAC-SHA512.
pub const SIGNATURE: &str = "x-gatepay-signature";
/// The account in whose name an institution call is made. Not signed.
pub const ON_BEHALF_OF: &str = "x-gatepay-on-behalf-of";
/// The institution's merchant id, on fee settings only. Not signed.
pub const MERCHANT_ID: &str = "x-gatepay-merchantid";
