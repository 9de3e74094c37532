use crate::support::scripted::{self, Scripted};
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use gatepay_tenancy::settings::{BreakerSettings, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn as_configured(settings: &mut Settings) {
    settings.upstream.breaker = BreakerSettings::default();
}

fn refund() -> Call {
    acme().post(REFUND, A_REFUND)
}

fn read() -> Call {
    acme().post(QUERY, BY_NUMBER)
}

#[tokio::test]
async fn when_gatepay_keeps_failing_nothing_is_sent_and_that_is_said() {
    let nowhere = Nowhere::reserve();
    let proxy = Proxy::at(&nowhere.url(), &Clock::manual(T0))
        .with(as_configured)
        .start();
    proxy.counts("upstream_breaker_open 0").await;
    for _ in 0..20 {
        let answer = proxy.send(refund()).await;
        if answer.refusal() == Some("upstream_unavailable") {
            break;
        }
        assert_eq!(answer.refused(), (502, "upstream_unreachable"));
    }
    proxy.counts("upstream_breaker_open 1").await;
    proxy.counts("upstream_breaker_opened_total 1").await;
    for _ in 0..3 {
        let answer = proxy.send(refund()).await;
        assert_eq!(answer.refused(), (503, "upstream_unavailable"));
        assert_eq!(
            (answer.outcome(), answer.retry_after()),
            (Some("not-executed"), 1)
        );
    }
}

#[tokio::test]
async fn where_only_money_is_moved_the_proxy_finds_out_by_itself() {
    let mut gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(as_configured).start();
    gatepay.sandbox.stop();
    until_open(&proxy).await;
    gatepay.again();
    proxy.counts("upstream_breaker_open 0").await;
    let received = gatepay.received();
    assert!(!received.is_empty(), "somebody asked");
    for asked in &received {
        assert!(asked.verified, "signed");
        assert_eq!(asked.operation.as_deref(), Some("list_accounts"));
        assert_eq!(asked.header("x-gatepay-on-behalf-of"), None);
    }
    assert_eq!(proxy.send(refund()).await.status, 200);
}

/// Sends money calls until a call is refused.
async fn until_open(proxy: &Proxy) {
    while proxy.send(refund()).await.refusal() != Some("upstream_unavailable") {}
}

#[tokio::test]
async fn failures_of_a_gateway_before_gatepay_open_the_breaker_and_gatepays_own_answers_do_not() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(as_configured)
        .with(|settings| settings.upstream.resolve = Duration::ZERO)
        .start();
    for failure in [
        ApiFailure::SystemError,
        ApiFailure::UnknownOrder,
        ApiFailure::InsufficientBalance,
        ApiFailure::InvalidSignature,
    ] {
        gatepay.inject(InjectedFault::Failure(failure).times(15));
        for _ in 0..15 {
            let answer = proxy.send(refund()).await;
            assert_ne!(answer.refusal(), Some("upstream_unavailable"), "{failure}");
        }
    }
    let down = InjectedFault::Status {
        status: 503,
        body: "<html>".into(),
    };
    gatepay.inject(down.times(10).on(format!("{PREFIX}{REFUND}")));
    for call in 0..10 {
        // Failures of a single party are not enough to open the breaker for GatePay.
        let shop = if call % 2 == 0 { acme() } else { globex() };
        let answer = proxy.send(shop.post(REFUND, A_REFUND)).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"));
    }
    let answer = proxy.send(refund()).await;
    assert_eq!(answer.refused(), (503, "upstream_unavailable"));
    proxy.counts("upstream_breaker_opened_total 1").await;
    proxy.counts("upstream_breaker_open 0").await;
    assert_eq!(proxy.send(refund()).await.status, 200);
}

/// The path of the proxy's own read.
const PROBE: &str = "/merchant/open/institution/v1/accounts/list";

const SUCCESS: &str = r#"{"status":"SUCCESS","code":"000000","data":{}}"#;

/// An upstream that drops requests for this shop, and answers all others.
fn dropping(shop: &Shop) -> Scripted {
    let account = shop.sub_account;
    Scripted::each(move |request| {
        let answer = || scripted::answer("200 OK", "", SUCCESS.as_bytes());
        (!request.contains(account)).then(answer)
    })
}

#[tokio::test]
async fn one_tenants_reads_that_get_no_answer_cost_no_other_tenant_anything() {
    let upstream = dropping(&acme());
    let proxy = Proxy::before_scripted(&upstream)
        .with(as_configured)
        .start();
    let mut refused = 0;
    for _ in 0..80 {
        for _ in 0..3 {
            let answer = proxy.send(read()).await;
            refused += usize::from(answer.refused() == (503, "upstream_unavailable"));
            assert_ne!(answer.status, 200);
        }
        let answer = proxy.send(globex().post(REFUND, A_REFUND)).await;
        assert_eq!(answer.refused(), (200, "not refused"));
    }
    assert!(refused > 100, "{refused} of 240 were kept back");
    let mut answer = proxy.send(refund()).await;
    if answer.refusal() == Some("outcome_unknown") {
        // The call that the breaker admits once the proxy's own read was answered.
        answer = proxy.send(refund()).await;
    }
    assert_eq!(answer.refused(), (503, "upstream_unavailable"));
    assert_eq!(answer.outcome(), Some("not-executed"));
    assert!(answer.message().contains("of this account"));
    assert!((1..=10).contains(&answer.retry_after()));
    for line in [
        "upstream_breaker_open 0",
        "upstream_breaker_opened_total 0",
        "upstream_breaker_open_tenants 1",
        "upstream_breaker_tenant_opened_total 1",
    ] {
        proxy.counts(line).await;
    }
    let tenant = async |path: &str| proxy.admin(path).await.json()["breaker_open"].clone();
    assert_eq!(tenant("/tenants/acme").await, true);
    assert_eq!(tenant("/tenants/globex").await, serde_json::Value::Null);
    let status = proxy.admin("/status").await.json();
    assert_eq!(status["upstream"]["failing"], serde_json::json!(["acme"]));
}

#[tokio::test]
async fn one_tenants_reads_that_get_no_answer_leave_the_others_their_repeats() {
    let is_first = AtomicBool::new(true);
    let upstream = Scripted::each(move |request| {
        let is_dropped = request.contains(acme().sub_account)
            || (request.contains(globex().sub_account) && is_first.swap(false, Ordering::Relaxed));
        (!is_dropped).then(|| scripted::answer("200 OK", "", SUCCESS.as_bytes()))
    });
    let never = BreakerSettings {
        failures: 100_000,
        ratio: 0.0,
    };
    let proxy = Proxy::before_scripted(&upstream)
        .with(move |settings| settings.upstream.breaker = never)
        .start();
    for _ in 0..60 {
        assert_eq!(proxy.send(read()).await.status, 504);
    }
    // Only the first read was repeated: after it, the party is known to fail.
    proxy
        .counts(r#"upstream_repeats_total{reason="lost"} 2"#)
        .await;
    let answer = proxy.send(globex().post(QUERY, BY_NUMBER)).await;
    assert_eq!(answer.refused(), (200, "not refused"));
}

#[tokio::test]
async fn a_tenant_that_is_answered_again_is_served_again() {
    let drops = Arc::new(AtomicBool::new(true));
    let upstream = Scripted::each({
        let drops = Arc::clone(&drops);
        move |request| {
            let is_dropped = drops.load(Ordering::Relaxed) && request.contains(acme().sub_account);
            (!is_dropped).then(|| scripted::answer("200 OK", "", SUCCESS.as_bytes()))
        }
    });
    let proxy = Proxy::before_scripted(&upstream)
        .with(as_configured)
        .start();
    until_open(&proxy).await;
    proxy.counts("upstream_breaker_open_tenants 1").await;
    drops.store(false, Ordering::Relaxed);
    // One of the proxy's own reads detects the recovery, within half a second.
    until_read(&proxy).await;
    proxy.counts("upstream_breaker_open_tenants 0").await;
    assert_eq!(proxy.send(refund()).await.status, 200);
}

#[tokio::test]
async fn no_call_of_a_tenant_tests_an_open_breaker() {
    let upstream = Scripted::each(|_| None);
    let proxy = Proxy::before_scripted(&upstream)
        .with(as_configured)
        .start();
    until_open(&proxy).await;
    proxy.counts("upstream_breaker_open 1").await;
    let sent = |upstream: &Scripted| {
        let text = upstream.received_text();
        let all = text.matches(" HTTP/1.1").count();
        (all, all - text.matches(PROBE).count())
    };
    let (before, tenants) = sent(&upstream);
    while sent(&upstream).0 < before + 3 {
        let answer = proxy.send(globex().post(QUERY, BY_NUMBER)).await;
        assert_eq!(answer.refused(), (503, "upstream_unavailable"));
    }
    assert_eq!(sent(&upstream).1, tenants);
}

#[tokio::test]
async fn of_a_thousand_tenants_few_lose_a_call_before_nothing_is_sent() {
    let upstream = Scripted::each(|_| None);
    let shops: Vec<Shop> = (0..1_000).map(numbered).collect();
    let mut plan = Proxy::before_scripted(&upstream).with(as_configured);
    for shop in &shops {
        plan = plan.tenant(shop.clone());
    }
    let proxy = plan.start();
    let mut lost = 0;
    for shop in &shops {
        let answer = proxy.send(shop.post(REFUND, A_REFUND)).await;
        match answer.refused() {
            (503, "upstream_unavailable") => {
                assert_eq!(answer.outcome(), Some("not-executed"));
            }
            refused => {
                assert_eq!(refused, (504, "outcome_unknown"));
                lost += 1;
            }
        }
    }
    let sent = upstream.received_text().matches(REFUND).count();
    assert_eq!(sent, lost);
    let failures = usize::try_from(BreakerSettings::default().failures).unwrap();
    assert!(
        (failures..=failures + 2).contains(&sent),
        "{sent} were sent"
    );
    proxy.counts("upstream_breaker_open 1").await;
}

/// One of many shops.
fn numbered(number: usize) -> Shop {
    let text = |text: String| -> &'static str { text.leak() };
    Shop::new(
        text(format!("shop-{number}")),
        text(format!("client-{number}")),
        text(format!("fake-secret-of-shop-{number:06}")),
        text(format!("2224{number:06}")),
    )
}

/// Reads until one read succeeds.
async fn until_read(proxy: &Proxy) {
    while proxy.send(read()).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
