//! A tenant's call, as signed bytes for the wire.

use std::io::Write as _;

use gatepay_core::{ClientId, Credential, SecretKey, sign};
use gatepay_proxy::process::clock::Clock;
use zeroize::Zeroizing;

/// A tenant that signs.
pub(crate) struct Signer {
    credential: Credential,
    clock: Clock,
}

impl Signer {
    /// A signer with this client id and secret.
    pub(crate) fn new(client_id: &str, secret: &str) -> Self {
        let secret = SecretKey::new(Zeroizing::new(secret.to_owned())).unwrap();
        Self {
            credential: Credential::new(ClientId::parse(client_id).unwrap(), &secret),
            clock: Clock::system(),
        }
    }

    /// A POST with this body, signed now.
    pub(crate) fn post(&self, path: &str, media: &str, body: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(1024 + body.len());
        let length = body.len();
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: pay.example\r\ncontent-type: {media}\r\ncontent-length: {length}\r\n"
        )
        .unwrap();
        let stamp = self.clock.stamp();
        for (name, value) in sign::headers(&self.credential, &stamp.as_stamp(), body) {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        request
    }
}
