use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::InjectedFault;
use gatepay_tenancy::Standing;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

use crate::support::*;

async fn status(proxy: &Proxy) -> Value {
    let answer = proxy.admin("/status").await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

/// The texts of the reported problems.
fn problems(status: &Value) -> Vec<(&str, &str)> {
    let problems = status["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            (
                problem["severity"].as_str().unwrap(),
                problem["text"].as_str().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_look_says_how_things_are_and_the_next_what_came_since() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.resolve = Duration::from_millis(600))
        .start();
    proxy.clock.advance(Duration::from_secs(10));
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(CREATE, order("A-0001")),
        globex().post(QUERY, "{}"),
    ] {
        proxy.send(call).await;
    }
    proxy.counts("in_flight 0").await;
    let first = status(&proxy).await;
    assert_eq!(
        (&first["phase"], &first["window_seconds"]),
        (&"serving".into(), &10.0.into())
    );
    assert_eq!(first["traffic"]["requests_per_second"], 0.3);
    let outcomes =
        json!({"success": 1, "failure": 1, "unknown": 0, "refused": 1, "caller_left": 0});
    assert_eq!(first["traffic"]["outcomes"], outcomes);
    assert_eq!(
        first["refusals"],
        json!([{"reason": "invalid_body", "count": 1, "total": 1}])
    );
    assert_eq!(first["tenants_total"], 2);
    assert_eq!(problems(&first), []);
    let busiest: Vec<_> = first["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(busiest, ["acme"], "globex got no further than the proxy");
    let used: Vec<_> = first["credentials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["client_id"])
        .collect();
    assert_eq!(used, ["client-acme", "client-globex"]);
    assert_eq!(first["credentials"][0]["last_used_ms"], T0 + 10_000);
    assert_eq!(first["credentials"][0]["uses"], 2);
    let seconds = (T0 + 10_000) / 1_000;
    let line = r#"credential_last_used_timestamp_seconds{client_id="client-acme",tenant="acme"}"#;
    proxy.counts(&format!("{line} {seconds}")).await;

    proxy.clock.advance(Duration::from_secs(5));
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    proxy.send(globex().post(REFUND, A_REFUND)).await;
    proxy.counts("in_flight 0").await;
    let second = status(&proxy).await;
    assert_eq!(second["window_seconds"], 5.0);
    let outcomes =
        json!({"success": 0, "failure": 0, "unknown": 1, "refused": 0, "caller_left": 0});
    assert_eq!(second["traffic"]["outcomes"], outcomes);
    let (severity, text) = problems(&second)[0];
    assert!(
        severity == "bad" && text.starts_with("1 money calls have no known outcome"),
        "{text}"
    );
    // Earlier refusals are still listed, but not as new.
    let refused = json!({"reason": "invalid_body", "count": 0, "total": 1});
    assert!(second["refusals"].as_array().unwrap().contains(&refused));
}

/// The minutes of the last hour, once they are as wanted. A minute passes before each look.
async fn minutes(proxy: &Proxy, are_there: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut minutes = Vec::new();
    for _ in 0..20 {
        proxy.clock.advance(Duration::from_secs(61));
        // The clock is asked every second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let view = status(proxy).await;
        view["hour"].as_array().unwrap().clone_into(&mut minutes);
        if are_there(&minutes) {
            return minutes;
        }
    }
    panic!("{minutes:?}");
}

#[tokio::test]
async fn the_last_hour_is_kept_minute_by_minute_before_anybody_looks() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let quiet = minutes(&proxy, |minutes| !minutes.is_empty()).await;
    assert!(quiet.iter().all(|minute| minute["requests"] == 0));
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(CREATE, order("A-0001")),
        globex().post(QUERY, "{}"),
    ] {
        proxy.send(call).await;
    }
    proxy.counts("in_flight 0").await;
    let sum = |minutes: &[Value], name: &str| -> u64 {
        minutes.iter().map(|one| one[name].as_u64().unwrap()).sum()
    };
    let all = minutes(&proxy, |minutes| sum(minutes, "requests") == 3).await;
    let repeated = sum(&all, "failure") + sum(&all, "unknown");
    assert_eq!((repeated, sum(&all, "refused")), (1, 1), "{all:?}");
    let last = all.last().unwrap();
    assert!(last["ended_ms"].as_u64().unwrap() <= proxy.clock.unix_ms());
    let busy = all.iter().find(|minute| minute["requests"] != 0).unwrap();
    assert!(busy["seconds"].as_f64().unwrap() >= 60.0);
    assert!(busy["p99_ms"].is_number() && busy["quota_used"].is_number());
}

/// The entry of one party in `/tenants`.
async fn tenant(proxy: &Proxy, id: &str) -> Value {
    let answer = proxy.admin(&format!("/tenants/{id}")).await;
    assert_eq!(answer.status, 200, "{id}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn every_refusal_of_a_verified_request_is_counted_by_reason_for_its_tenant() {
    let gatepay = GatePay::start();
    let suspended = globex().with(|tenant| tenant.standing = Standing::Suspended);
    let proxy = Proxy::before(&gatepay)
        .tenant(acme().rate(1, 1))
        .tenant(suspended)
        .start();
    let once = acme().post(QUERY, BY_NUMBER).nonce("once");
    let elsewhere = acme().post(QUERY, BY_NUMBER);
    let elsewhere = elsewhere.header("x-gatepay-on-behalf-of", globex().sub_account);
    for (call, wanted) in [
        (once.clone(), None),
        (once, Some("replayed")),
        (acme().post(QUERY, "{}"), Some("invalid_body")),
        (acme().post(QUERY, "[]"), Some("invalid_body")),
        (elsewhere, Some("on_behalf_of_mismatch")),
        (acme().post(QUERY, BY_NUMBER), Some("rate_limited")),
        (acme().post(CREATE, order("A-0001")), Some("rate_limited")),
        (acme().post(REFUND, A_REFUND), Some("rate_limited")),
        (globex().post(QUERY, BY_NUMBER), Some("tenant_suspended")),
        // These requests carry no proof of acme's secret.
        (
            acme().post(QUERY, "{}").secret("fake-other"),
            Some("signature_mismatch"),
        ),
        (acme().get("/none"), Some("unknown_operation")),
    ] {
        let answer = proxy.send(call).await;
        let slug = answer.headers.get("x-gatepay-proxy-refusal");
        assert_eq!(slug.map(|slug| slug.to_str().unwrap()), wanted);
    }
    proxy.counts("in_flight 0").await;
    let by_reason = r#""refused":7,"refusals":{"rate_limited":3,"invalid_body":2,"on_behalf_of_mismatch":1,"replayed":1}"#;
    let listed = proxy.admin("/tenants").await.body;
    let listed = str::from_utf8(&listed).unwrap();
    assert!(
        listed.contains(by_reason),
        "the most frequent first: {listed}"
    );
    let (acme, globex) = (tenant(&proxy, "acme").await, tenant(&proxy, "globex").await);
    assert_eq!(
        (&acme["refused"], &globex["refused"]),
        (&7.into(), &1.into())
    );
    assert_eq!(globex["refusals"], json!({ "tenant_suspended": 1 }));

    let shown = status(&proxy).await;
    let parties = &shown["refused_tenants"];
    assert_eq!(parties[0]["id"], "acme");
    assert_eq!(parties[0]["refusals"], acme["refusals"]);
    assert_eq!(
        parties[1],
        json!({"id": "globex", "refused": 1, "refusals": {"tenant_suspended": 1}, "last_ms": T0})
    );
    assert_eq!(shown["tenants"][0]["refused"], 7);
    proxy.clock.advance(Duration::from_mins(11));
    assert_eq!(status(&proxy).await["refused_tenants"], json!([]));
    assert_eq!(tenant(&proxy, "acme").await["refused"], 7);
}

#[tokio::test]
async fn the_page_runs_itself_and_nothing_else() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let answer = proxy.admin("/").await;
    let page = String::from_utf8_lossy(&answer.body);
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    for outside in [
        "http:",
        "https:",
        "//",
        "src=",
        "@import",
        "url(",
        " style=",
        " onclick",
        "innerHTML",
    ] {
        let comments = page.replace("// ", "");
        assert!(!comments.contains(outside), "{outside}");
    }
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    for element in ["script", "style"] {
        let (_, rest) = page.split_once(&format!("<{element}>")).unwrap();
        let (inside, rest) = rest.split_once(&format!("</{element}>")).unwrap();
        assert!(!rest.contains(&format!("<{element}")), "one {element}");
        let digest = STANDARD.encode(Sha256::digest(inside));
        assert!(
            policy.contains(&format!("{element}-src 'sha256-{digest}'")),
            "{policy}"
        );
    }
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
}

#[tokio::test]
async fn only_our_own_page_may_ask_from_a_browser_and_only_look() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let address = proxy.admin_address();
    let own = address.to_string();
    let page = [("host", own.as_str()), ("sec-fetch-site", "same-origin")];
    for (method, path, lines, wanted) in [
        (Method::GET, "/status", &page[..], 200),
        (
            Method::GET,
            "/status",
            &[("host", "localhost:1"), ("sec-fetch-site", "none")],
            200,
        ),
        (
            Method::GET,
            "/status",
            &[("host", own.as_str()), ("sec-fetch-site", "cross-site")],
            403,
        ),
        (
            Method::GET,
            "/status",
            &[("host", own.as_str()), ("sec-fetch-site", "same-site")],
            403,
        ),
        (
            Method::GET,
            "/status",
            &[
                ("host", "rebound.example"),
                ("sec-fetch-site", "same-origin"),
            ],
            403,
        ),
        (
            Method::GET,
            "/status",
            &[("host", own.as_str()), ("origin", "http://evil.example")],
            403,
        ),
        (Method::POST, "/-/reload", &page, 403),
        (
            Method::GET,
            "/",
            &[("host", own.as_str()), ("sec-fetch-site", "cross-site")],
            200,
        ),
        (Method::GET, "/operations", &[("host", own.as_str())], 200),
    ] {
        let mut request = Request::builder().method(&method).uri(path);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = Connection::open(address).await.send(request).await;
        assert_eq!(answer.status, wanted, "{method} {path} {lines:?}");
    }
}

#[tokio::test]
async fn operations_are_listed_as_they_are_configured() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let rows: Value = serde_json::from_slice(&proxy.admin("/operations").await.body).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), gatepay_core::Catalogue::standard().rows().len());
    let create = rows
        .iter()
        .find(|row| row["name"] == "create_order")
        .unwrap();
    assert_eq!(
        (&create["kind"], &create["merchant_path"]),
        (&"write".into(), &CREATE.into())
    );
}
