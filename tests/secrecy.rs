//! A canary stands wherever a secret or a caller's own words may stand, and must appear in no output.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::program::{Folder, Program, printed};
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::process::panic_hook;
use gatepay_sandbox::InjectedFault;

/// The value of every secret, and of every field that must not reach a log.
const CANARY: &str = "canary7f3a";
/// A card number, as test shops use it: its only place is a body.
const CARD: &str = "4111111111111111";
const TENANT_SECRET: &str = "canary7f3a-of-the-tenant";
const INSTITUTION_CANARY: &str = "canary7f3a-of-the-institution";

fn shop() -> Shop {
    Shop::new("acme", "client-acme", TENANT_SECRET, acme().sub_account)
}

/// Calls that are answered and calls that are refused, each with a value that no output may repeat.
fn calls() -> Vec<Call> {
    let query = || {
        shop().post(
            QUERY,
            format!(r#"{{"merchantTradeNo":"A-0001","x":"{CANARY}"}}"#),
        )
    };
    let wrong = "ca".repeat(64);
    vec![
        shop().post(CREATE, order("A-0001").replace("NF2T", CANARY)),
        query(),
        shop().get(&format!("{DETAILS}?x={CANARY}")),
        shop().post(REFUND, A_REFUND),
        query().signature(&wrong),
        query().signature(&format!("{CANARY}{}", "0".repeat(118))),
        query().signature(CANARY),
        query().timestamp(&CANARY),
        query().nonce(&CANARY.repeat(20)),
        query().instead("x-gatepay-certificate-clientid", CANARY),
        query().header("x-gatepay-on-behalf-of", CANARY),
        query().instead("content-type", CANARY),
        query()
            .header("authorization", CANARY)
            .header("cookie", CANARY),
        shop().post(
            CREATE,
            format!(r#"{{"merchantTradeNo":"A-0002","{CANARY}":"{CANARY}"}}"#),
        ),
        shop().post(QUERY, format!("{{{CANARY}")),
        shop().post(&format!("/{CANARY}"), "{}"),
        shop().post(&format!("/{CANARY}/.."), "{}"),
        shop().post(CREATE, order(&format!("{CANARY} {}", "x".repeat(200)))),
        shop().post(CREATE, order("A-0004").replace("NF2T", CARD)),
        shop().post(
            QUERY,
            format!(r#"{{"merchantTradeNo":"A-0004","card":"{CARD}"}}"#),
        ),
        shop().post(QUERY, format!(r#"{{"card":{CARD}}}"#)),
        shop().get(DETAILS).header("traceparent", CARD),
    ]
}

/// A GatePay and a proxy before it that sign with canaries.
fn proxy() -> (GatePay, Plan) {
    let gatepay = GatePay::with(|config| {
        config.institution = vec![credential(INSTITUTION_ID, INSTITUTION_CANARY)];
    });
    let plan = Proxy::before(&gatepay).tenant(shop()).with(|settings| {
        let credentials = &mut whole(&mut settings.institution).credentials;
        credentials[0].credential = credential(INSTITUTION_ID, INSTITUTION_CANARY);
    });
    (gatepay, plan)
}

#[tokio::test]
async fn no_answer_access_line_or_metric_repeats_a_secret_or_a_body() {
    let (gatepay, plan) = proxy();
    let proxy = plan.start();
    let (mut answered, mut signatures) = (0, Vec::new());
    for call in calls() {
        let request = call.request(&proxy.clock);
        let signature = request.headers()["x-gatepay-signature"].clone();
        let text = signature.to_str().unwrap();
        signatures.extend((text.len() == 128).then(|| text.to_owned()));
        let answer = proxy.connect().await.send(request).await;
        let text = answer.text();
        assert!(!text.contains(TENANT_SECRET) && !text.contains(INSTITUTION_CANARY));
        assert!(!text.contains(signature.to_str().unwrap()), "{text}");
        // GatePay may repeat the caller's words; the proxy may not.
        match answer.refusal() {
            // Its path is repeated to a caller alone.
            Some("unknown_operation") => {
                let text = text.replace(&format!("path: POST /{CANARY} ("), "");
                assert!(!text.contains(CANARY), "{text}");
            }
            Some(_) => assert!(!text.contains(CANARY) && !text.contains(CARD), "{text}"),
            None => answered += 1,
        }
    }
    // The outcome is unknown, and the request's values stay secret all the same.
    gatepay.inject(InjectedFault::Garbage(CANARY.into()).once());
    let lost = proxy.send(shop().post(CREATE, order("A-0003"))).await;
    assert!(!lost.text().contains(CANARY));
    assert!(answered >= 4, "some of them reached GatePay: {answered}");

    for path in [
        "/metrics",
        "/status",
        "/",
        "/operations",
        "/config",
        "/-/reload",
        "/tenants",
        "/tenants/acme",
        "/tenants/nobody",
        "/live",
        "/ready",
        "/institution",
        "/-/registry",
        "/version",
        "/nowhere",
    ] {
        let said = proxy.admin(path).await.text();
        for secret in [CANARY, CARD, TENANT_SECRET, INSTITUTION_CANARY] {
            assert!(!said.contains(secret), "{path}: {}", around(&said, secret));
        }
        for signature in &signatures {
            assert!(
                !said.contains(signature),
                "{path}: {}",
                around(&said, signature)
            );
        }
    }
    proxy.counts("in_flight 0").await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), calls().len() + 1);
    for line in lines {
        let line = line.to_string();
        assert!(!line.contains(CANARY) && !line.contains(CARD), "{line}");
    }
}

#[tokio::test]
async fn not_even_the_most_talkative_log_says_a_secret() {
    // These levels include the lines of the quieter levels.
    for (level, format) in [
        ("info", "json"),
        ("debug", "json"),
        ("trace", "json"),
        ("trace", "human"),
    ] {
        says_no_secret(level, format).await;
    }
}

async fn says_no_secret(level: &str, format: &str) {
    let gatepay = GatePay::now_for(INSTITUTION_CANARY);
    let folder = Folder::with(&gatepay.url(), INSTITUTION_CANARY, &[shop()]);
    folder.edit("proxy.toml", "'json'", &format!("'{format}'"));
    folder.keeps_a_journal();
    let program = Program::serve_logging(&folder, level).await;
    let mut signatures = Vec::new();
    for call in calls() {
        let request = call.request(&Clock::system());
        signatures.extend(request.headers().get("x-gatepay-signature").cloned());
        Connection::open(program.address).await.send(request).await;
    }
    let request = shop().get(DETAILS).request(&Clock::system());
    Http2::open(program.address).await.send(request).await;
    program.terminate();
    let (code, out, err) = program.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().count(), calls().len() + 1);
    assert!(err.contains("serving"));
    // The journal alone holds the tenant's signatures; it holds no signed text.
    let journal = folder.journal();
    let signed = |value: &http::HeaderValue| journal.contains(value.to_str().unwrap());
    assert!(
        signatures.iter().filter(|value| signed(value)).count() >= 3,
        "{journal}"
    );
    for secret in [CANARY, CARD] {
        assert!(!journal.contains(secret), "{}", around(&journal, secret));
    }
    for text in [out, err] {
        for secret in [CANARY, CARD] {
            assert!(!text.contains(secret), "{}", around(&text, secret));
        }
        let sent = gatepay.received();
        let sent = sent
            .iter()
            .filter_map(|received| received.header("x-gatepay-signature"));
        let tenants = signatures.iter().filter_map(|value| value.to_str().ok());
        for signature in sent
            .chain(tenants)
            .filter(|signature| signature.len() == 128)
        {
            assert!(!text.contains(signature), "{}", around(&text, signature));
        }
    }
}

/// An environment variable of the separate process in which a panic happens.
const PANICKING: &str = "GATEPAY_PROXY_TEST_PANICS";

#[test]
fn a_panic_says_where_and_never_what() {
    if std::env::var_os(PANICKING).is_some() {
        return panic_with_everything_in_flight();
    }
    // The handling of panics is set for a whole process.
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "secrecy::a_panic_says_where_and_never_what";
    command.args(["--exact", name, "--nocapture"]);
    // The steps stand in the backtrace.
    command.env("RUST_BACKTRACE", "1");
    let (said, code) = printed(&command.env(PANICKING, "1").output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(CANARY), "{}", around(&said, CANARY));
    assert!(!said.contains(CARD), "{}", around(&said, CARD));
    let places = said.matches("panicked").count();
    assert!(places >= 10 && said.contains("journey.rs:"), "{said}");
    assert!(said.contains("in so many words"), "{said}");
    for signature in said.lines().filter_map(|line| line.strip_prefix("signed ")) {
        let sent = said.matches(&format!("signed {signature}")).count();
        assert_eq!(said.matches(signature).count(), sent, "{signature}");
    }
}

/// With the most verbose log level, and with access lines on standard output.
fn panic_with_everything_in_flight() {
    panic_hook::report();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::stderr)
        .init();
    let long = format!("{CANARY}é");
    let messages: [fn(&str); 3] = [
        |text| panic!("{text}"),
        // The standard library's message names the text and the index of the cut.
        |text| drop(text[..text.len() - 1].to_owned()),
        |_| panic!("in so many words"),
    ];
    for message in messages {
        let text = long.clone();
        assert!(thread::spawn(move || message(&text)).join().is_err());
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let (_gatepay, plan) = proxy();
        // No clock can count so far: a call about to be sent panics, with body, caller, credential and record in
        // hand.
        let plan = plan.with(|settings| settings.upstream.deadline = Duration::MAX);
        let proxy = plan.start();
        let mut broken = 0;
        for call in calls() {
            let request = call.request(&proxy.clock);
            let signature = request.headers()["x-gatepay-signature"].clone();
            let signature = signature.to_str().unwrap();
            if signature.len() == 128 && !signature.contains(CANARY) {
                say(format_args!("signed {signature}"));
            }
            let answer = proxy.connect().await.try_send(request).await;
            broken += usize::from(answer.is_err());
        }
        assert!(broken >= 4, "{broken}");
        proxy.counts("in_flight 0").await;
        say(proxy.metrics().await);
        let lines = proxy.stop_and_read().await;
        assert_eq!(lines.matches("\"detail\":\"panicked\"").count(), broken);
        say(lines);
    });
}

#[test]
fn a_complaint_about_a_file_names_the_place_and_not_the_words() {
    let spoiled = [
        (
            "proxy.toml",
            format!("institution = {{ secret = '{CANARY}' }}\n"),
        ),
        (
            "proxy.toml",
            format!("[[institution.credential]]\nclient_id = 'x'\nsecret = '{CANARY}'\n"),
        ),
        ("proxy.toml", format!("checks = {CANARY}\n")),
        ("tenants.d/acme.toml", format!("secret = '{CANARY}'\n")),
        (
            "tenants.d/acme.toml",
            format!("id = 'acme\nsecret = '{CANARY}'\n"),
        ),
        (
            "tenants.d/acme.json",
            format!("{{\"secret\": \"{CANARY}\",,}}"),
        ),
        ("secrets/acme.key", format!("{CANARY} {CANARY}")),
        ("secrets/acme.key", format!("{CANARY}\n\n")),
    ];
    for (file, text) in spoiled {
        let folder = Folder::before(UNUSED);
        folder.file(file, &text);
        for command in ["check", "serve"] {
            let (said, code) = printed(&folder.run(command));
            assert_eq!(code, Some(64), "{file}: {said}");
            assert!(!said.contains(CANARY), "{file}: {said}");
            let name = file.rsplit('/').next().unwrap_or(file);
            assert!(
                said.contains(name) || said.contains("secret"),
                "{file}: {said}"
            );
        }
    }
}

/// The surroundings in a text of a value that must not stand there.
fn around<'a>(text: &'a str, what: &str) -> &'a str {
    text.lines()
        .find(|line| line.contains(what))
        .unwrap_or_default()
}
