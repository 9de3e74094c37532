use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn each_fault_is_refused_under_its_own_name() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let good = || acme().post(QUERY, BY_NUMBER);
    let without = |name| good().without(name);
    let stranger = Shop::new("nobody", "client-nobody", "fake-secret", "1");
    let mismatched = [
        good().signing(BY_NUMBER.replace('1', "2")),
        good().secret("fake-other"),
        good().signature("ab"),
        good().signature(&"g".repeat(128)),
    ];
    let stale = [
        good().timestamp(&(T0 - 300_001)),
        good().timestamp(&(T0 + 10_001)),
        // Seconds for milliseconds.
        good().timestamp(&(T0 / 1_000)),
        good().timestamp(&u64::MAX),
    ];
    let malformed = [
        good().timestamp(&"soon"),
        good().timestamp(&""),
        without("x-gatepay-timestamp"),
        without("x-gatepay-nonce"),
        without("x-gatepay-signature"),
        good().header("x-gatepay-nonce", "second"),
        good().header("x-gatepay-certificate-clientid", "second"),
    ];
    let unknown = [
        stranger.post(QUERY, BY_NUMBER),
        without("x-gatepay-certificate-clientid"),
    ];
    let nonces = [
        good().nonce(""),
        good().nonce(&"n".repeat(129)),
        good().nonce("with\ttab"),
    ];
    until("it forgets what is too old", || {
        proxy.app().admission.replay.horizon() >= T0 - 300_001
    })
    .await;
    let mut refused = 0;
    for (status, slug, code, calls) in [
        (401, "signature_mismatch", "400002", &mismatched[..]),
        (401, "stale_timestamp", "400003", &stale),
        (400, "malformed_request", "400001", &malformed),
        (401, "unknown_client", "400004", &unknown),
        (401, "malformed_nonce", "400020", &nonces),
    ] {
        for (at, call) in calls.iter().enumerate() {
            let answer = proxy.send(call.clone()).await;
            assert_eq!(answer.refused(), (status, slug), "number {at}");
            assert_eq!(answer.code(), code, "{slug}, number {at}");
            // A copy of a request with a stamp older than the replay memory may have been admitted.
            let is_old = slug == "stale_timestamp" && [0, 2].contains(&at);
            let outcome = if is_old { "unknown" } else { "not-executed" };
            assert_eq!(answer.outcome(), Some(outcome), "{slug}, number {at}");
            refused += 1;
        }
    }
    assert_eq!(gatepay.count(), 0, "GatePay saw none of it");
    assert_eq!(proxy.stop().await.len(), refused, "one line for each");
}

#[tokio::test]
async fn the_header_spellings_of_clients_in_the_field_are_accepted() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let good = || acme().post(QUERY, BY_NUMBER);
    let signed = |spell: fn(&str) -> String| {
        let call = good().nonce("spelled").timestamp(&(T0 - 1));
        let lines = call.lines(&Clock::manual(T0));
        let signature = &lines
            .iter()
            .find(|line| line.0 == "x-gatepay-signature")
            .unwrap()
            .1;
        call.signature(&spell(signature))
    };
    for (name, call) in [
        ("300,000 ms behind", good().timestamp(&(T0 - 300_000))),
        ("10,000 ms ahead", good().timestamp(&(T0 + 10_000))),
        ("upper-case digits", signed(str::to_uppercase)),
        ("a nonce of one character", good().nonce("n")),
        ("a nonce of 128", good().nonce(&"n".repeat(128))),
        ("a nonce with marks", good().nonce("a-b_c.d e")),
        (
            "its own account",
            good().header("x-gatepay-on-behalf-of", acme().sub_account),
        ),
        (
            "an old key's number",
            good().header("x-gatepay-certificate-sn", "5"),
        ),
        ("a leading zero", good().timestamp(&format!("0{T0}"))),
    ] {
        assert_eq!(
            proxy.send(call).await.refused(),
            (200, "not refused"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn header_names_may_be_written_in_any_case() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for write in [str::to_uppercase, str::to_lowercase] {
        let request = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        let request = String::from_utf8(request).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let lines = head.split("\r\n").map(|line| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}", write(name)),
            None => line.to_owned(),
        });
        let lines: Vec<_> = lines.collect();
        let mut caller = proxy.raw().await;
        caller
            .write(format!("{}\r\n\r\n{body}", lines.join("\r\n")))
            .await;
        assert_eq!(caller.answer().await.refused(), (200, "not refused"));
    }
}

#[tokio::test]
async fn a_refusal_says_how_far_off_the_clock_is_and_in_which_direction() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (timestamp, says) in [
        (
            T0 - 300_001,
            "300001 ms behind this clock; at most 300000 ms",
        ),
        (
            T0 + 10_001,
            "10001 ms ahead of this clock; at most 10000 ms",
        ),
    ] {
        let answer = proxy
            .send(acme().post(QUERY, BY_NUMBER).timestamp(&timestamp))
            .await;
        assert_eq!(answer.refused(), (401, "stale_timestamp"));
        assert!(answer.message().contains(says), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_refusal_says_what_was_verified_and_never_what_would_have_been_right() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(QUERY, BY_NUMBER).nonce("456").timestamp(&T0);
    let answer = proxy.send(call.clone().secret("fake-other")).await;
    assert_eq!(answer.refused(), (401, "signature_mismatch"));
    let message = answer.message();
    assert!(message.contains("28 bytes of body"), "{message}");
    // printf '1767225600000\n456\n{"merchantTradeNo":"A-0001"}\n' | sha256sum
    let digest = "76d07bbd63bff4d241dce6322a2cb84dfe30091f0737497fbb7a9cdfcbdb9a05";
    assert!(message.contains(digest), "{message}");
    for (name, value) in call.lines(&proxy.clock) {
        let right = name == "x-gatepay-signature" && answer.text().contains(&value);
        assert!(!right, "the right signature was given away");
    }
}

#[tokio::test]
async fn only_the_tenants_own_account_may_be_named() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let name = "x-gatepay-on-behalf-of";
    let good = || acme().post(QUERY, BY_NUMBER);
    for call in [
        good().header(name, globex().sub_account),
        good().header(name, ""),
        good().header(name, "2124538349, 2124538350"),
        good()
            .header(name, acme().sub_account)
            .header(name, acme().sub_account),
        good()
            .header(name, acme().sub_account)
            .header(name, globex().sub_account),
    ] {
        assert_eq!(
            proxy.send(call).await.refused(),
            (403, "on_behalf_of_mismatch")
        );
    }
    assert_eq!(gatepay.count(), 0);
}

async fn admin_json(proxy: &Proxy, path: &str) -> serde_json::Value {
    serde_json::from_slice(&proxy.admin(path).await.body).unwrap()
}

/// An answer without the parts that differ from request to request.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let lines = answer.headers.iter();
    let lines = lines.filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let lines = lines.map(|(name, value)| (name.to_string(), text(value)));
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    let body = body.replace(&answer.request_id(), "ID");
    (answer.status, lines.collect(), body)
}

/// Acme's credential has expired, and Globex's has not begun; only Acme has series of its own.
fn with_credentials_not_in_force(gatepay: &GatePay) -> Proxy {
    let dated = |shop: Shop, begin: Option<u64>, end: Option<u64>| {
        shop.with(move |tenant| {
            let credentials = Arc::get_mut(&mut tenant.credentials).unwrap();
            (credentials[0].not_before, credentials[0].not_after) = (begin, end);
        })
    };
    Proxy::before(gatepay)
        .tenant(dated(acme(), None, Some(T0 - 1_000)))
        .tenant(dated(globex(), Some(T0 + 86_400_000), None))
        .with(|settings| {
            settings.ratelimit_headers = true;
            // `globex` has no series of its own.
            settings.metrics.max_tenants = 1;
        })
        .start()
}

/// The access lines of requests that were right except for the dates of their credential.
fn lines_name_acme(lines: &[serde_json::Value], times: usize) {
    let named = lines.iter().filter(|line| line["tenant"] == "acme");
    let named: Vec<_> = named.collect();
    let right = named[0];
    assert_eq!(named.len(), times);
    assert_eq!(
        (&right["client_id"], &right["refusal"]),
        (&"client-acme".into(), &"unknown_client".into())
    );
    let detail = "the signature is right, but the credential was good until 2025-12-31T23:59:59Z";
    assert_eq!(right["detail"], detail);
}

#[tokio::test]
async fn a_party_that_signs_with_a_credential_not_in_force_is_named_to_the_institution_alone() {
    let gatepay = GatePay::start();
    let proxy = with_credentials_not_in_force(&gatepay);
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(200_000));
    let mut stranger = None;
    for call in [
        acme().post(QUERY, BY_NUMBER).secret("fake-other"),
        // A stale request proves nothing, however right its signature.
        acme().post(QUERY, BY_NUMBER).timestamp(&(T0 - 400_000)),
        acme().post(QUERY, BY_NUMBER).timestamp(&"soon"),
        acme().post(QUERY, BY_NUMBER).nonce(""),
        acme().post(QUERY, BY_NUMBER).signature("short"),
        // The body differs from the signed body.
        acme().post(QUERY, BY_NUMBER).with_body("{}"),
        // Longer than the proxy reads.
        acme().post(QUERY, vec![b'x'; 1_100_000]),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (401, "unknown_client"));
        stranger = Some(told(&answer));
    }
    proxy
        .counts(r#"credential_not_in_force_total{tenant="acme"} 0"#)
        .await;
    assert_eq!(
        admin_json(&proxy, "/status").await["problems"],
        serde_json::json!([])
    );

    for call in [
        acme().post(QUERY, BY_NUMBER),
        acme().get(DETAILS),
        acme().post(QUERY, large),
        globex().post(QUERY, BY_NUMBER),
    ] {
        let mut answer = told(&proxy.send(call).await);
        let mut stranger = stranger.clone().unwrap();
        // As for any refusal, the `connection` line depends on whether the body was read.
        for lines in [&mut answer.1, &mut stranger.1] {
            lines.retain(|(name, _)| name != "connection");
        }
        assert_eq!(answer, stranger);
    }
    proxy
        .counts(r#"credential_not_in_force_total{tenant="acme"} 3"#)
        .await;
    proxy
        .counts(r#"credential_not_in_force_total{tenant="other"} 1"#)
        .await;
    let since = "credential_not_in_force_since_timestamp_seconds";
    let at = T0 / 1_000;
    proxy
        .counts(&format!(
            r#"{since}{{client_id="client-acme",tenant="acme"}} {at}"#
        ))
        .await;
    proxy
        .counts(&format!(
            r#"{since}{{client_id="other",tenant="other"}} {at}"#
        ))
        .await;
    let status = admin_json(&proxy, "/status").await;
    let text = status["problems"][0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("acme is refused since 2026-01-01T00:00:00Z: it signs as client-acme")
            && text.contains("was good until 2025-12-31T23:59:59Z"),
        "{text}"
    );
    assert_eq!(status["not_in_force"][1]["party"], "globex");
    let acme_now = admin_json(&proxy, "/tenants/acme").await;
    assert_eq!(
        acme_now["refusals"],
        serde_json::json!({ "unknown_client": 3 })
    );
    let key = &acme_now["credentials"][0];
    assert_eq!(
        (&key["not_in_force"]["requests"], &key["uses"]),
        (&3.into(), &0.into())
    );
    for _ in 0..20 {
        proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    }
    assert!(
        proxy
            .app()
            .admission
            .auth_throttle
            .is_failing([127, 0, 0, 1].into()),
        "they are failures as before"
    );
    proxy
        .counts(r#"credential_not_in_force_total{tenant="acme"} 23"#)
        .await;
    assert_eq!(proxy.app().admission.replay.entries(), 0);
    proxy.clock.advance(Duration::from_mins(16));
    assert_eq!(
        admin_json(&proxy, "/status").await["not_in_force"],
        serde_json::json!([])
    );
    assert_eq!(gatepay.count(), 0);
    lines_name_acme(&proxy.stop().await, 23);
}

#[tokio::test]
async fn a_credential_is_good_from_its_beginning_to_its_end() {
    let gatepay = GatePay::start();
    let dated = acme().with(|tenant| {
        let credentials = Arc::get_mut(&mut tenant.credentials).unwrap();
        credentials[0].not_before = Some(T0 + 1_000);
        credentials[0].not_after = Some(T0 + 2_000);
    });
    let proxy = Proxy::before(&gatepay).tenant(dated).start();
    // One request, sent repeatedly and unchanged: a request refused as early may be accepted later.
    let call = acme().post(QUERY, BY_NUMBER).timestamp(&T0).nonce("early");
    assert_eq!(
        proxy.send(call.clone()).await.refused(),
        (401, "unknown_client")
    );
    proxy.clock.advance(Duration::from_secs(1));
    assert_eq!(proxy.send(call.clone()).await.status, 200);
    proxy.clock.advance(Duration::from_secs(2));
    assert_eq!(
        proxy.send(call.nonce("late")).await.refused(),
        (401, "unknown_client")
    );
    assert_eq!(gatepay.count(), 1);
}
