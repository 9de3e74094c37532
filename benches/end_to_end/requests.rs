//! Requests: what the callers ask, signed before the clock starts, and what GatePay answers.

use std::io::Write as _;

use gatepay_core::{ClientId, Credential, SecretKey, sign};
use gatepay_proxy::process::clock::Clock;
use zeroize::Zeroizing;

use crate::load::whole;

/// Digits of an order number.
pub(crate) const DIGITS: usize = 14;
/// Length of an answer's body, in bytes.
const ANSWER: usize = 700;

/// The body of GatePay's answer.
pub(crate) fn answer(account: &[u8], order: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(ANSWER);
    text.extend_from_slice(b"{\"status\":\"SUCCESS\",\"code\":\"000000\",\"errorMessage\":\"\",\"data\":{\"account\":\"");
    text.extend_from_slice(account);
    text.extend_from_slice(b"\",\"merchantTradeNo\":\"");
    text.extend_from_slice(order);
    text.extend_from_slice(b"\",\"status\":\"PAID\",\"goodsName\":\"");
    text.resize(ANSWER - 3, b'g');
    text.extend_from_slice(b"\"}}");
    text
}

/// Signed requests, each valid once.
pub(crate) struct Requests {
    text: Vec<u8>,
    ends: Vec<usize>,
    tenants: usize,
    /// Whether the target acts on behalf of tenants.
    signs: bool,
}

impl Requests {
    /// Signs requests by this number of tenants in turn.
    pub(crate) fn sign(count: usize, tenants: usize, signs: bool) -> Self {
        let clock = Clock::system();
        let credentials: Vec<_> = (0..tenants).map(credential).collect();
        let mut all = Self {
            text: Vec::with_capacity(count * 700),
            ends: Vec::with_capacity(count),
            tenants,
            signs,
        };
        for number in 0..count {
            let body = format!(
                "{{\"merchantTradeNo\":\"{}\",\"note\":\"as long as such a body usually is, so that it is hashed in two blocks and a bit\"}}",
                order(number)
            );
            let credential = &credentials[all.tenant(number)];
            let fields = sign::headers(credential, &clock.stamp().as_stamp(), body.as_bytes());
            let _ = write!(
                all.text,
                "POST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\nUser-Agent: made-up-client/1.0\r\nAccept: */*\r\n",
                body.len()
            );
            for (name, value) in fields {
                let _ = write!(all.text, "{name}: {value}\r\n");
            }
            let _ = write!(all.text, "\r\n{body}");
            all.ends.push(all.text.len());
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn text(&self, number: usize) -> &[u8] {
        let from = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[from..self.ends[number]]
    }

    /// The tenant of a request. Tenants of successive requests are far apart.
    fn tenant(&self, number: usize) -> usize {
        number.wrapping_mul(7_919) % self.tenants
    }

    /// Whether the text is the answer to this request, byte for byte.
    pub(crate) fn fits(&self, number: usize, text: &[u8]) -> bool {
        let account = if self.signs {
            account(self.tenant(number))
        } else {
            "nobody".to_owned()
        };
        let expected = answer(account.as_bytes(), order(number).as_bytes());
        text.starts_with(b"HTTP/1.1 200 ")
            && whole(text)
                .is_some_and(|(head, all)| text[head..all] == expected && all == text.len())
    }
}

fn order(number: usize) -> String {
    format!("tea-{number:0width$}", width = DIGITS - 4)
}

pub(crate) fn client(tenant: usize) -> String {
    format!("client-{tenant}")
}

pub(crate) fn secret(tenant: usize) -> String {
    format!("made-up-secret-{tenant}")
}

pub(crate) fn account(tenant: usize) -> String {
    format!("account-{tenant}")
}

fn credential(tenant: usize) -> Credential {
    let secret = SecretKey::new(Zeroizing::new(secret(tenant))).unwrap();
    Credential::new(ClientId::parse(&client(tenant)).unwrap(), &secret)
}
