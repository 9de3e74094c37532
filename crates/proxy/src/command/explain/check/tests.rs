use super::*;
use bytes::Bytes;
use gatepay_core::{Catalogue, Credential};
use gatepay_proxy::journey::authenticate;
use gatepay_tenancy::{DatedCredential, PartyId, Registry, SubAccount, Tenant};
use http::HeaderMap;

const NOW: u64 = 1_767_225_600_000;
const WINDOW: StampWindow = StampWindow {
    past_ms: 300_000,
    future_ms: 10_000,
};
const BODY: &[u8] = b"{}";

fn secret() -> SecretKey {
    SecretKey::new("tenant-secret-0001".to_owned().into()).unwrap()
}

fn registry() -> Registry {
    let credential = Credential::new(ClientId::parse("acme").unwrap(), &secret());
    let tenant = Tenant::new(
        PartyId::parse("acme").unwrap(),
        SubAccount::parse("2124538349").unwrap(),
        &Catalogue::standard(),
        vec![DatedCredential::undated(credential)],
    );
    Registry::new(vec![tenant], Vec::new(), &[])
        .map_err(|conflicts| conflicts.len())
        .unwrap()
}

/// A valid request, except for the header that `wrong` names.
fn input(wrong: &str, value: Option<&str>) -> ExplainInput {
    let stamp = Stamp::parse(b"1767225600000", b"k64").unwrap();
    let credential = Credential::new(ClientId::parse("acme").unwrap(), &secret());
    let mut headers = HeaderMap::new();
    for (name, right) in gatepay_core::sign::headers(&credential, &stamp, BODY) {
        let value = if name.ends_with(wrong) {
            value
        } else {
            Some(&*right)
        };
        if let Some(value) = value {
            headers.insert(name, value.parse().unwrap());
        }
    }
    ExplainInput {
        line: None,
        headers,
        body: BODY.to_vec(),
        whole: true,
    }
}

fn first_wrong(input: &ExplainInput) -> Option<String> {
    let checks = all(input, &secret(), WINDOW, NOW, None);
    checks
        .into_iter()
        .find_map(|check| check.outcome.err())
        .map(|wrong| wrong.to_string())
}

fn refusal(input: &ExplainInput) -> Option<String> {
    let registry = registry();
    let body = Bytes::copy_from_slice(&input.body);
    let lines = input.lines();
    let found = authenticate::claimed(&registry, &lines);
    let authentic = authenticate::identify(found, &lines, NOW).and_then(|identified| {
        let caller = identified.in_force()?;
        let mut payload = caller.payload();
        payload.body(&body);
        caller.verify(payload, &body)
    });
    authentic.err().map(|refusal| refusal.to_string())
}

#[test]
fn the_first_failed_check_is_the_refusal_of_the_proxy() {
    let (digits, signature) = ("a".repeat(128), "a".repeat(127));
    for (wrong, value) in [
        ("-none", None),
        ("-clientid", None),
        ("-timestamp", None),
        ("-nonce", None),
        ("-signature", None),
        ("-timestamp", Some("")),
        ("-timestamp", Some("2026-01-01")),
        ("-timestamp", Some("1767225300000")),
        ("-timestamp", Some("1767225299999")),
        ("-timestamp", Some("1767225610001")),
        ("-timestamp", Some("1767225600")),
        ("-nonce", Some("")),
        ("-nonce", Some("k65")),
        ("-nonce", Some(&digits)),
        ("-nonce", Some("a\tb")),
        ("-signature", Some(&digits)),
        ("-signature", Some(&signature)),
        ("-signature", Some("")),
    ] {
        let input = input(wrong, value);
        assert_eq!(first_wrong(&input), refusal(&input), "{wrong} {value:?}");
    }
    let mut twice = input("-none", None);
    twice
        .headers
        .append(headers::NONCE, HeaderValue::from_static("k64"));
    assert_eq!(first_wrong(&twice), refusal(&twice));
    assert_eq!(
        first_wrong(&twice).as_deref(),
        Some("malformed request: x-gatepay-nonce stands more than once")
    );
}

#[test]
fn everything_right_is_seen_as_right() {
    let checks = all(&input("-none", None), &secret(), WINDOW, NOW + 7, None);
    let seen: Vec<_> = checks
        .iter()
        .map(|check| (check.name, check.outcome.as_deref().ok()))
        .collect();
    assert_eq!(
        seen,
        [
            ("headers", Some("all four, each once; client id acme")),
            ("timestamp", Some("1767225600000")),
            ("nonce", Some("k64, length 3")),
            (FORM, Some("128 hexadecimal digits")),
            (
                FRESHNESS,
                Some("7 ms behind the clock; at most 300000 ms are accepted")
            ),
            (SIGNATURE, Some("matches, over 2 bytes of body")),
        ]
    );
}

#[test]
fn the_received_digest_shows_whether_the_bytes_changed() {
    let stamp = Stamp::parse(b"1767225600000", b"k64").unwrap();
    for (arrived, seen) in [
        (&b"{}"[..], Ok("the proxy received exactly these bytes")),
        (
            b"{}\n",
            Err(
                "the body changed before it reached the proxy; the proxy received the body with a line feed after it",
            ),
        ),
        (
            b"[]",
            Err("the proxy received other bytes: another body, timestamp or nonce than these"),
        ),
    ] {
        let digest = payload::digest(&stamp, arrived);
        let checks = all(&input("-none", None), &secret(), WINDOW, NOW, Some(&digest));
        let last = checks.into_iter().next_back().unwrap();
        let outcome = last.outcome.map_err(|wrong| wrong.to_string());
        assert_eq!(
            (last.name, outcome.as_deref().map_err(String::as_str)),
            (ARRIVED, seen)
        );
    }
}
