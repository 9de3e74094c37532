//! Tests of explain: each mistake is made here by hand, and has to be found.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use sha2::Sha512;

use super::*;
use crate::{SigningKey, Stamp, payload, sign};

const SECRET: &str = "aB3-tenant-secret=";
const TIMESTAMP: &str = "1767225600123";
const NONCE: &str = "k64Nonce";
const BODY: &str = "{\n  \"b\": \"é\",\r\n  \"a\": [1.50]\n}";
const POST: Option<RequestLine<'_>> = Some(RequestLine {
    method: "POST",
    target: "/v1/pay/order",
});
const GET: Option<RequestLine<'_>> = Some(RequestLine {
    method: "GET",
    target: "/v1/pay/list?page=1",
});

#[test]
fn a_right_signature_needs_no_explanation() {
    let right = format!("{TIMESTAMP}\n{NONCE}\n{BODY}\n");
    for signature in [
        hmac512(SECRET, &right),
        hmac512(SECRET, &right).to_uppercase(),
    ] {
        assert_eq!(
            explain(SECRET, &request(BODY, &signature)),
            Vec::<String>::new()
        );
    }
}

#[test]
fn the_right_layout_is_what_payload_signs() {
    let request = request(BODY, "");
    let stamp = Stamp::parse(TIMESTAMP.as_bytes(), NONCE.as_bytes()).unwrap();
    let secret = secret(SECRET);
    let attempt = SigningAttempt::right(&secret, &request);
    let mac = attempt
        .recipe
        .compute(mac::HashFunction::Sha512, attempt.key, &attempt.string());
    assert_eq!(
        hex::encode(mac),
        sign(&SigningKey::new(&secret), &stamp, BODY.as_bytes()).to_string()
    );
    assert_eq!(
        Sha256::digest(attempt.string())[..],
        payload::digest(&stamp, BODY.as_bytes())
    );
}

#[test]
fn each_wrong_key_is_named() {
    let string = format!("{TIMESTAMP}\n{NONCE}\n{BODY}\n");
    for (issued, used, what) in [
        (
            SECRET,
            &b"aB3-tenant-secret=\n"[..],
            "the secret with a line feed after it",
        ),
        (
            SECRET,
            b"aB3-tenant-secret=\r\n",
            "the secret with CR LF after it",
        ),
        (
            SECRET,
            b"aB3-tenant-secret= ",
            "the secret with a space after it",
        ),
        (
            SECRET,
            b" aB3-tenant-secret=",
            "the secret with a space before it",
        ),
        (
            SECRET,
            b"\"aB3-tenant-secret=\"",
            "the secret in double quotes",
        ),
        (
            SECRET,
            b"'aB3-tenant-secret='",
            "the secret in single quotes",
        ),
        (
            "\"quoted\"",
            b"quoted",
            "the secret without the quotes around it",
        ),
        (
            "'quoted'",
            b"quoted",
            "the secret without the quotes around it",
        ),
        (
            SECRET,
            b"\xef\xbb\xbfaB3-tenant-secret=",
            "the secret with a byte order mark before it",
        ),
        (
            "\u{feff}marked",
            b"marked",
            "the secret without the byte order mark before it",
        ),
        ("abc==", b"abc", "the secret without the `=` at its end"),
        (SECRET, b"aB3-tenant-secret==", "the secret with `=` added"),
        ("abc-x", b"abc-", "the secret without its last character"),
        ("abc-é", b"abc-", "the secret without its last character"),
        (
            SECRET,
            b"B3-tenant-secret=",
            "the secret without its first character",
        ),
        (
            "00ffA1",
            b"\x00\xff\xa1",
            "the secret decoded from hexadecimal",
        ),
        (
            "c2VjcmV0LWtleS0wMDAx=",
            b"secret-key-0001",
            "the secret decoded from base64",
        ),
        ("-_-_", b"\xfb\xff\xbf", "the secret decoded from base64"),
        (SECRET, b"AB3-TENANT-SECRET=", "the secret in upper case"),
        (SECRET, b"ab3-tenant-secret=", "the secret in lower case"),
        (SECRET, b"", "nothing: the secret was empty"),
    ] {
        let signature = hmac512(used, &string);
        assert_eq!(
            explain(issued, &request(BODY, &signature)),
            [format!("used as the key: {what}")]
        );
    }
}

#[test]
fn each_wrong_layout_is_named() {
    for (line, name) in [
        (None, "timestamp LF nonce LF body"),
        (None, "timestamp nonce body"),
        (None, r"timestamp \n nonce \n body \n"),
        (None, r"timestamp \n nonce \n body"),
        (None, "timestamp CR LF nonce CR LF body CR LF"),
        (None, "timestamp CR LF nonce CR LF body"),
        (None, "timestamp & nonce & body &"),
        (None, "timestamp & nonce & body"),
        (None, "timestamp . nonce . body"),
        (None, "timestamp , nonce , body"),
        (None, "timestamp : nonce : body"),
        (None, "timestamp | nonce | body"),
        (None, "timestamp space nonce space body"),
        (None, "timestamp - nonce - body"),
        (None, "nonce LF timestamp LF body LF"),
        (None, "nonce LF timestamp LF body"),
        (None, "nonce timestamp body"),
        (None, "timestamp LF body LF nonce LF"),
        (None, "body LF timestamp LF nonce LF"),
        (None, "nonce LF body LF timestamp LF"),
        (None, "body LF nonce LF timestamp LF"),
        (None, "timestamp LF body LF"),
        (None, "nonce LF body LF"),
        (None, "timestamp LF nonce"),
        (None, "body"),
        (POST, "timestamp LF nonce LF path LF body LF"),
        (POST, "timestamp LF nonce LF method LF path LF body LF"),
        (POST, "method LF path LF timestamp LF nonce LF body LF"),
        (POST, "method path timestamp nonce body"),
        (GET, "timestamp LF nonce LF query LF body LF"),
        (GET, "timestamp LF nonce LF path?query LF body LF"),
        (GET, "timestamp LF nonce LF method LF path?query LF body LF"),
        (
            GET,
            "timestamp LF nonce LF method LF path LF query LF body LF",
        ),
        (GET, "method LF path?query LF timestamp LF nonce LF body LF"),
        (
            GET,
            "method LF path LF query LF timestamp LF nonce LF body LF",
        ),
        (GET, "method LF path LF query LF SHA-512(body) LF timestamp"),
    ] {
        let signature = hmac512(SECRET, spelled(name, line));
        let causes = explain(
            SECRET,
            &ClaimedRequest {
                line,
                ..request(BODY, &signature)
            },
        );
        let [cause] = &causes[..] else {
            panic!("{name}: {causes:?}")
        };
        assert!(
            cause.starts_with(&format!("signed: `{name}`")),
            "{name}: {cause}"
        );
    }
}

/// The bytes that a layout's name describes.
fn spelled(name: &str, line: Option<RequestLine<'_>>) -> String {
    let RequestLine { method, target } = line.unwrap_or(RequestLine {
        method: "",
        target: "",
    });
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let hash = hex::encode(Sha512::digest(BODY));
    let word = |word| match word {
        "timestamp" => TIMESTAMP,
        "nonce" => NONCE,
        "body" => BODY,
        "method" => method,
        "path" => path,
        "query" => query,
        "path?query" => target,
        "SHA-512(body)" => &hash,
        "LF" => "\n",
        "CR" => "\r",
        "space" => " ",
        other => other,
    };
    name.split(' ').map(word).collect()
}

#[test]
fn without_a_body_two_line_feeds_are_still_wanted() {
    let signature = hmac512(SECRET, format!("{TIMESTAMP}\n{NONCE}\n"));
    assert_eq!(
        explain(SECRET, &request("", &signature)),
        ["signed: `timestamp LF nonce LF body`"]
    );
}

#[test]
fn each_wrong_timestamp_is_named() {
    for (header, signed, what) in [
        (
            TIMESTAMP,
            "1767225600",
            "the time in seconds, where the header has milliseconds",
        ),
        (
            TIMESTAMP,
            "1767225600.123",
            "the time in seconds with a fraction",
        ),
        (
            TIMESTAMP,
            "1767225600120",
            "a time 3 ms earlier than the header's: the clock was read twice",
        ),
        (
            TIMESTAMP,
            "1767225600223",
            "a time 100 ms later than the header's: the clock was read twice",
        ),
        (
            "1767225600",
            "1767225600000",
            "the time in milliseconds, where the header has seconds",
        ),
        (
            "1767225600",
            "1767225600123",
            "the time in milliseconds, where the header has seconds",
        ),
        (
            "1767225600123456",
            TIMESTAMP,
            "the time in milliseconds, where the header has microseconds",
        ),
        (
            "1767225600123456789",
            TIMESTAMP,
            "the time in milliseconds, where the header has nanoseconds",
        ),
    ] {
        let signature = hmac512(SECRET, format!("{signed}\n{NONCE}\n{BODY}\n"));
        let request = ClaimedRequest {
            timestamp: header,
            ..request(BODY, &signature)
        };
        assert_eq!(
            explain(SECRET, &request),
            [format!("signed as the timestamp: {what}")]
        );
    }
}

#[test]
fn each_wrong_end_of_the_body_is_named() {
    for (sent, signed, what) in [
        ("odd", "", "nothing, though a body was sent"),
        ("odd", "odd\n", "the body with a line feed after it"),
        ("odd", "odd\r\n", "the body with CR LF after it"),
        ("odd\n\n", "odd\n", "the body without the line end after it"),
        (" odd ", "odd", "the body without the white space around it"),
        ("od\r\nd", "od\nd", "the body with LF where it has CR LF"),
        ("od\nd", "od\r\nd", "the body with CR LF where it has LF"),
        (
            "o\r\nd\nd",
            "odd",
            "the body without its line ends, as `curl --data @file` makes it; `--data-binary` keeps them",
        ),
    ] {
        body_is_named(None, sent, signed, what);
    }
}

#[test]
fn each_body_written_anew_is_named() {
    let sent = "{ \"b\":\"é/<\",\r\n\"a\":[1.50] }";
    for (signed, what) in [
        (r#"{"b":"é/<","a":[1.50]}"#, "the body as compact JSON"),
        (
            r#"{"a":[1.50],"b":"é/<"}"#,
            "the body as compact JSON, keys sorted",
        ),
        (
            r#"{"b": "é/<", "a": [1.50]}"#,
            "the body as JSON with `, ` and `: `",
        ),
        (
            r#"{"b": "\u00e9/<", "a": [1.50]}"#,
            r"the body as JSON with `, ` and `: `, beyond ASCII as \u",
        ),
        (
            r#"{"b":"\u00e9\/<","a":[1.50]}"#,
            r"the body as compact JSON, `/` as `\/`, beyond ASCII as \u",
        ),
        (
            r#"{"b":"é/\u003c","a":[1.50]}"#,
            r"the body as compact JSON, `<`, `>` and `&` as \u",
        ),
        (
            r#"{"b":"é/<","a":[1.5]}"#,
            "the body as compact JSON, 10.00 as 10",
        ),
        (
            "{\n  \"b\": \"é/<\",\n  \"a\": [\n    1.50\n  ]\n}",
            "the body as JSON indented by 2 spaces",
        ),
        (
            "{\n    \"b\": \"é/<\",\n    \"a\": [\n        1.50\n    ]\n}",
            "the body as JSON indented by 4 spaces",
        ),
        (
            r#""{ \"b\":\"é/<\",\r\n\"a\":[1.50] }""#,
            "the body as a JSON string: serialized twice",
        ),
        (
            &hex::encode(Sha256::digest(sent)),
            "the SHA-256 of the body, in hexadecimal",
        ),
        (
            &hex::encode(Sha512::digest(sent)),
            "the SHA-512 of the body, in hexadecimal",
        ),
    ] {
        body_is_named(None, sent, signed, what);
    }
    body_is_named(
        None,
        r#""{\"a\":1}""#,
        r#"{"a":1}"#,
        "the text inside the JSON string that was sent",
    );
}

#[test]
fn each_body_made_of_nothing_is_named() {
    for signed in ["{}", "[]", "null", "\"\"", "undefined", "None"] {
        body_is_named(
            None,
            "",
            signed,
            &format!("`{signed}`, though no body was sent"),
        );
    }
}

#[test]
fn each_piece_of_the_first_line_in_the_body_is_named() {
    for (line, sent, signed, what) in [
        (GET, "", "page=1", "the query instead of the body"),
        (
            GET,
            "",
            "?page=1",
            "the query with its `?` instead of the body",
        ),
        (GET, "", "/v1/pay/list", "the path instead of the body"),
        (
            GET,
            "",
            "/v1/pay/list?page=1",
            "path and query instead of the body",
        ),
        (GET, "{}", "page=1{}", "the query with the body after it"),
        (
            GET,
            "{}",
            "?page=1{}",
            "the query with its `?` with the body after it",
        ),
        (
            GET,
            "{}",
            "/v1/pay/list{}",
            "the path with the body after it",
        ),
        (
            GET,
            "{}",
            "/v1/pay/list?page=1{}",
            "path and query with the body after them",
        ),
        (
            POST,
            "{}",
            "POST/v1/pay/order{}",
            "method and path with the body after them",
        ),
        (
            GET,
            "{}",
            "GET/v1/pay/list?page=1{}",
            "method, path and query with the body after them",
        ),
    ] {
        body_is_named(line, sent, signed, what);
    }
}

/// Checks that the body is named as the signed body, and as the body that arrived. Some of these strings are explained
/// by a layout as well.
fn body_is_named(line: Option<RequestLine<'_>>, sent: &str, signed: &str, what: &str) {
    let string = format!("{TIMESTAMP}\n{NONCE}\n{signed}\n");
    let signature = hmac512(SECRET, &string);
    let request = ClaimedRequest {
        line,
        ..request(sent, &signature)
    };
    let mut causes = explain(SECRET, &request);
    causes.retain(|cause| !cause.starts_with("signed: "));
    assert_eq!(causes, [format!("signed as the body: {what}")]);
    assert_eq!(
        arrived(&request, &Sha256::digest(&string).into()).as_deref(),
        Some(what)
    );
}

#[test]
fn each_wrong_function_is_named() {
    let string = format!("{TIMESTAMP}\n{NONCE}\n{BODY}\n");
    for (signature, what) in [
        (
            hmac512(&string, SECRET),
            "HMAC with the string as its key and the secret as its message",
        ),
        (
            hex::encode(Sha512::digest(format!("{SECRET}{string}"))),
            "a plain hash of secret and string, without HMAC",
        ),
        (
            hex::encode(Sha512::digest(format!("{string}{SECRET}"))),
            "a plain hash of string and secret, without HMAC",
        ),
        (
            hex::encode(Sha512::digest(&string)),
            "a plain hash of the string, without any secret",
        ),
    ] {
        assert_eq!(
            explain(SECRET, &request(BODY, &signature)),
            [format!("computed: {what}")]
        );
    }
}

#[test]
fn each_wrong_writing_is_named() {
    const SHA256: &str = "computed: SHA-256 instead of SHA-512";
    // One request in sixteen has a signature that begins with a zero.
    let nonce = (0..1000)
        .map(|n| format!("n{n}"))
        .find(|nonce| hmac512(SECRET, format!("1\n{nonce}\n\n")).starts_with('0'))
        .unwrap();
    let string = format!("1\n{nonce}\n\n");
    let right = hmac512(SECRET, &string);
    let bytes = hex::decode(&right).unwrap();
    let short = {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(string.as_bytes());
        mac.finalize().into_bytes()
    };
    for (signature, causes) in [
        (BASE64_STANDARD.encode(&bytes), vec!["written: in base64"]),
        (
            BASE64_URL_SAFE_NO_PAD.encode(&bytes),
            vec!["written: in base64"],
        ),
        (
            BASE64_STANDARD.encode(&right),
            vec!["written: the hexadecimal digits once more in base64"],
        ),
        (
            right[..127].to_owned(),
            vec!["written: only the first 127 of 128 digits"],
        ),
        (
            right[..64].to_owned(),
            vec!["written: only the first 64 of 128 digits"],
        ),
        (
            right.trim_start_matches('0').to_owned(),
            vec!["written: without its leading zeros, as a number"],
        ),
        (hex::encode(short), vec![SHA256]),
        (
            BASE64_STANDARD.encode(short),
            vec![SHA256, "written: in base64"],
        ),
    ] {
        let request = ClaimedRequest {
            timestamp: "1",
            nonce: &nonce,
            signature: &signature,
            body: b"",
            line: None,
        };
        assert_eq!(explain(SECRET, &request), [causes.join(" + ")]);
    }
}

#[test]
fn two_mistakes_are_found_together() {
    let compact = "{\"b\":\"é\",\"a\":[1.50]}";
    for (key, string, causes) in [
        (
            "aB3-tenant-secret=\n",
            format!("{TIMESTAMP}\n{NONCE}\n{compact}\n"),
            "used as the key: the secret with a line feed after it + signed as the body: the body as compact JSON",
        ),
        (
            SECRET,
            format!("{NONCE}\n{TIMESTAMP}\n{compact}\n"),
            "signed: `nonce LF timestamp LF body LF` + signed as the body: the body as compact JSON",
        ),
    ] {
        let signature = hmac512(key, &string);
        assert_eq!(explain(SECRET, &request(BODY, &signature)), [causes]);
    }
    let base64 = BASE64_STANDARD
        .encode(hex::decode(hmac512(SECRET, format!("{TIMESTAMP}{NONCE}{BODY}"))).unwrap());
    assert_eq!(
        explain(SECRET, &request(BODY, &base64)),
        ["signed: `timestamp nonce body` with nothing between + written: in base64"]
    );
}

#[test]
fn a_foreign_signature_stays_unexplained() {
    let signature = hmac512("another secret", format!("{TIMESTAMP}\n{NONCE}\n{BODY}\n"));
    for text in [
        &*signature,
        "",
        "signature",
        &signature[..100],
        &"0".repeat(128),
    ] {
        let request = ClaimedRequest {
            line: GET,
            ..request(BODY, text)
        };
        assert_eq!(explain(SECRET, &request), Vec::<String>::new(), "{text}");
        assert_eq!(arrived(&request, &[0; 32]), None);
    }
}

/// The tables above cover each kind of mistake by hand. This test covers every single mistake.
#[test]
fn every_mistake_made_is_the_mistake_found() {
    for (issued, body, line) in [
        (SECRET, BODY, GET),
        ("\"00ffA1\"", "", GET),
        ("c2VjcmV0", "\"{\\\"a\\\": \\\"/é<\\\"}\"\r\n", POST),
    ] {
        let secret = secret(issued);
        let unsigned = ClaimedRequest {
            line,
            ..request(body, "")
        };
        for one in all(&secret, &unsigned) {
            let mut attempt = SigningAttempt::right(&secret, &unsigned);
            one.change.apply(&mut attempt);
            let signature = hex::encode(attempt.recipe.compute(
                mac::HashFunction::Sha512,
                attempt.key,
                &attempt.string(),
            ));
            let found = hypotheses(
                &secret,
                &ClaimedRequest {
                    signature: &signature,
                    ..unsigned
                },
            );
            let same_part: Vec<_> = found
                .into_iter()
                .filter(|other| {
                    other
                        .causes
                        .iter()
                        .any(|cause| cause.part == one.cause.part)
                })
                .map(|finding| finding.causes)
                .collect();
            assert_eq!(same_part, [[one.cause.clone()]]);
        }
    }
}

#[test]
fn the_published_negative_vectors_are_explained() {
    #[derive(serde::Deserialize)]
    struct File {
        must_be_refused: Vec<Vector>,
    }
    #[derive(serde::Deserialize)]
    struct Vector {
        id: String,
        key: String,
        timestamp: String,
        nonce: String,
        body: String,
        signature: String,
    }
    let file = include_str!("../../../../docs/gatepay/test-vectors.json");
    let vectors = serde_json::from_str::<File>(file).unwrap().must_be_refused;
    for (id, want) in [
        ("n01-sha256", "computed: SHA-256 instead of SHA-512"),
        (
            "n02-no-final-newline",
            "signed: `timestamp LF nonce LF body`",
        ),
        ("n03-base64", "written: in base64"),
        (
            "n04-concatenated",
            "signed: `timestamp nonce body` with nothing between",
        ),
        (
            "n05-body-changed",
            "signed as the body: the body as compact JSON",
        ),
    ] {
        let vector = vectors.iter().find(|vector| vector.id == id).unwrap();
        let Vector {
            key,
            timestamp,
            nonce,
            body,
            signature,
            ..
        } = vector;
        let request = ClaimedRequest {
            timestamp,
            nonce,
            signature,
            body: body.as_bytes(),
            line: None,
        };
        assert_eq!(explain(key, &request), [want], "{id}");
    }
}

#[test]
fn no_finding_holds_a_secret_or_a_signature() {
    let canary = "canary-7f3c";
    let string = format!("{TIMESTAMP}\n{NONCE}\n{BODY}\n");
    let right = hmac512(canary, &string);
    for key in ["canary-7f3c\n", "CANARY-7F3C", "canary-7f3", ""] {
        let text = format!(
            "{:?}",
            hypotheses(&secret(canary), &request(BODY, &hmac512(key, &string)))
        );
        assert!(text.contains("the secret"), "{text}");
        assert!(
            !text.to_lowercase().contains(canary) && !text.contains(&right),
            "{text}"
        );
    }
}

proptest! {
    // Each case without an explanation costs thousands of MACs.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_right_signature_has_no_findings_for_any_request(key in "[!-~]{1,64}", nonce in "[ -~]{0,40}", time: u64, body: Vec<u8>) {
        let time = time.to_string();
        let string = [time.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &body, b"\n"].concat();
        let signature = hmac512(&key, &string);
        let request = ClaimedRequest { timestamp: &time, nonce: &nonce, signature: &signature, body: &body, line: None };
        prop_assert_eq!(explain(&key, &request), Vec::<String>::new());
    }

    #[test]
    fn explaining_a_signature_never_panics(
        key in "[!-~]{1,20}", timestamp in "[0-9]{0,20}|\\PC{0,13}", nonce in "\\PC{0,10}", body: Vec<u8>,
        signature in "[0-9a-f]{0,128}|[0-9a-zA-Z+/=]{0,90}|\\PC{0,130}", method in "\\PC{0,4}", target in "\\PC{0,10}",
    ) {
        let line = Some(RequestLine { method: &method, target: &target });
        let request = ClaimedRequest { timestamp: &timestamp, nonce: &nonce, signature: &signature, body: &body, line };
        // Random texts agree with no hypothesis.
        prop_assert_eq!(explain(&key, &request), Vec::<String>::new());
    }
}

fn explain(issued: &str, request: &ClaimedRequest<'_>) -> Vec<String> {
    let findings = hypotheses(&secret(issued), request);
    let text = |finding: &ExplainFinding| {
        finding
            .causes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" + ")
    };
    findings.iter().map(text).collect()
}

fn request<'a>(body: &'a str, signature: &'a str) -> ClaimedRequest<'a> {
    ClaimedRequest {
        timestamp: TIMESTAMP,
        nonce: NONCE,
        signature,
        body: body.as_bytes(),
        line: None,
    }
}

fn secret(text: &str) -> SecretKey {
    // A secret that explain finds at fault may be accepted by `secret_text = "any"`.
    SecretKey::of_any_text(text.to_owned().into()).unwrap()
}

fn hmac512(key: impl AsRef<[u8]>, string: impl AsRef<[u8]>) -> String {
    let mut mac = Hmac::<Sha512>::new_from_slice(key.as_ref()).unwrap();
    mac.update(string.as_ref());
    hex::encode(mac.finalize().into_bytes())
}
