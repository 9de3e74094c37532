//! Requests: those of the callers, signed before the clock starts, and GatePay's answers.

use std::io::Write as _;

use gatepay_core::{ClientId, Credential, SecretKey, sign};
use gatepay_proxy::process::clock::{self, Clock};
use zeroize::Zeroizing;

use crate::http2;

const HOST: &str = "pay.example";
const QUERY: &str = "/v1/pay/order/query";
const PAYOUT: &str = "/v1/pay/withdraw";
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

/// The version of HTTP that requests are written for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// The operation called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// An order: a read.
    Query,
    /// A payout to one address: a money call.
    Payout,
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
    pub(crate) fn sign(
        count: usize,
        tenants: usize,
        signs: bool,
        (version, call): (Version, Call),
    ) -> Self {
        let clock = Clock::system();
        let credentials: Vec<_> = (0..tenants).map(credential).collect();
        let mut all = Self {
            text: Vec::with_capacity(count * 700),
            ends: Vec::with_capacity(count),
            tenants,
            signs,
        };
        for number in 0..count {
            let order = order(number);
            let (path, body) = match call {
                Call::Query => (
                    QUERY,
                    format!(
                        "{{\"merchantTradeNo\":\"{order}\",\"note\":\"as long as such a body usually is, so that it is hashed in two blocks and a bit\"}}"
                    ),
                ),
                Call::Payout => (
                    PAYOUT,
                    format!(
                        "{{\"batch_id\":\"{0}\",\"merchantTradeNo\":\"{order}\",\"withdraw_list\":[{{\"merchant_withdraw_id\":\"W{0}\",\"currency\":\"USDT\",\"amount\":\"0.02\",\"chain\":\"TRX\",\"address\":\"T1\"}}]}}",
                        hex::encode(clock::random::<8>())
                    ),
                ),
            };
            let length = body.len().to_string();
            let credential = &credentials[all.tenant(number)];
            let signed = sign::headers(credential, &clock.stamp().as_stamp(), body.as_bytes());
            let mut fields = vec![
                ("Content-Type", "application/json"),
                ("Content-Length", &length),
                ("User-Agent", "made-up-client/1.0"),
                ("Accept", "*/*"),
            ];
            fields.extend(signed.iter().map(|(name, value)| (*name, &**value)));
            match version {
                Version::Http1 => http1(&mut all.text, path, &fields, &body),
                Version::Http2 => http2::request(&mut all.text, HOST, path, &fields, &body),
            }
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

    /// The body of the answer to this request.
    pub(crate) fn answer(&self, number: usize) -> Vec<u8> {
        let account = if self.signs {
            account(self.tenant(number))
        } else {
            "nobody".to_owned()
        };
        answer(account.as_bytes(), order(number).as_bytes())
    }
}

/// Adds a request as HTTP/1.1 has it.
fn http1(text: &mut Vec<u8>, path: &str, fields: &[(&str, &str)], body: &str) {
    let _ = write!(text, "POST {path} HTTP/1.1\r\nHost: {HOST}\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(text, "\r\n{body}");
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
