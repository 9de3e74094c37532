//! Sign: signs a body, and builds the headers of a signed request.

use crate::credential::{Credential, SigningKey};
use crate::payload::Payload;
use crate::signature::Signature;
use crate::stamp::Stamp;

/// The signature of a body under a stamp (protocol.md 1.3). Method, path, query and other headers are not signed.
pub fn sign(key: &SigningKey, stamp: &Stamp<'_>, body: &[u8]) -> Signature {
    let mut payload = Payload::begin(key, stamp);
    payload.body(body);
    payload.sign()
}

/// The four headers that every GatePay request carries (protocol.md 1.2), as name and value.
pub fn headers(
    credential: &Credential,
    stamp: &Stamp<'_>,
    body: &[u8],
) -> [(&'static str, String); 4] {
    use crate::header;
    [
        (header::CLIENT_ID, credential.client_id.to_string()),
        (header::TIMESTAMP, stamp.timestamp().to_owned()),
        (header::NONCE, stamp.nonce().to_owned()),
        (
            header::SIGNATURE,
            sign(&credential.key, stamp, body).to_string(),
        ),
    ]
}
