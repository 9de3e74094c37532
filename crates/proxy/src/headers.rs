//! Header names and lists: what is read, what goes to GatePay, what comes back.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// `X-GatePay-Certificate-ClientId`.
pub const CLIENT_ID: HeaderName = HeaderName::from_static(gatepay_core::header::CLIENT_ID);
/// `X-GatePay-Timestamp`.
pub const TIMESTAMP: HeaderName = HeaderName::from_static(gatepay_core::header::TIMESTAMP);
/// `X-GatePay-Nonce`.
pub const NONCE: HeaderName = HeaderName::from_static(gatepay_core::header::NONCE);
/// `X-GatePay-Signature`.
pub const SIGNATURE: HeaderName = HeaderName::from_static(gatepay_core::header::SIGNATURE);
/// `X-GatePay-On-Behalf-Of`.
pub const ON_BEHALF_OF: HeaderName = HeaderName::from_static(gatepay_core::header::ON_BEHALF_OF);

/// `X-GatePay-MerchantId`.
pub const MERCHANT_ID: HeaderName = HeaderName::from_static(gatepay_core::header::MERCHANT_ID);

/// The id of this request in logs and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's trace (W3C Trace Context), and what it is told of our part of it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The answer to it.
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
/// The slug of a refusal: marks answers that are ours, not GatePay's.
pub const REFUSAL: HeaderName = HeaderName::from_static("x-gatepay-proxy-refusal");
/// The limit that was met.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of it.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What became of the call: `not-executed`, `unknown` or `found`.
pub const OUTCOME: HeaderName = HeaderName::from_static("x-gatepay-proxy-outcome");

/// What of a tenant's head is sent on, besides `Content-Type` (design: nothing else is). Its own `X-GatePay-*` values are
/// rebuilt.
pub const TO_GATEPAY: [HeaderName; 3] =
    [header::ACCEPT, header::ACCEPT_LANGUAGE, header::USER_AGENT];

/// What of an answer stays here: what belongs to one hop, to GatePay's own site, or marks an answer as ours.
const NOT_TO_CALLER: [HeaderName; 17] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    // Written anew from the body that is relayed.
    header::CONTENT_LENGTH,
    header::SET_COOKIE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::SERVER,
    REQUEST_ID,
    REFUSAL,
    OUTCOME,
];

/// A header that must be single stood more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

/// The value of a header that may stand once.
pub fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Repeated> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        Err(Repeated)
    } else {
        Ok(first)
    }
}

/// Writes one line of a request's head; the value has no line end in it.
pub fn write(head: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// Removes from GatePay's answer what must not reach a caller, with everything its `Connection` headers name.
pub fn keep_for_caller(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &NOT_TO_CALLER {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_repeated_header_is_never_read_as_its_first_value() {
        let headers = map(&[("x-gatepay-nonce", "a"), ("x-gatepay-nonce", "b")]);
        assert_eq!(single(&headers, &NONCE), Err(Repeated));
        assert_eq!(single(&headers, &SIGNATURE), Ok(None));
    }

    #[test]
    fn what_connection_names_does_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("x-gatepay-proxy-refusal", "forged"),
            ("x-lab", "stays"),
        ]);
        keep_for_caller(&mut headers);
        assert_eq!(headers, map(&[("x-lab", "stays")]));
    }
}
