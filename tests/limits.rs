use crate::support::scripted::{self, Scripted};
use crate::support::*;
use gatepay_tenancy::settings::{BreakerSettings, Settings};
use std::time::{Duration, Instant};

fn query(shop: &Shop) -> Call {
    shop.post(QUERY, BY_NUMBER)
}

#[tokio::test]
async fn a_burst_is_admitted_and_then_the_rate() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme().rate(2, 3)).start();
    for _ in 0..3 {
        assert_eq!(proxy.send(query(&acme())).await.status, 200);
    }
    for _ in 0..5 {
        let answer = proxy.send(query(&acme())).await;
        assert_eq!(answer.refused(), (429, "rate_limited"));
        assert_eq!(answer.outcome(), Some("not-executed"));
        proxy.clock.advance(Duration::from_millis(499));
        assert_eq!(
            proxy.send(query(&acme())).await.refused(),
            (429, "rate_limited")
        );
        proxy.clock.advance(Duration::from_millis(1));
        assert_eq!(proxy.send(query(&acme())).await.status, 200);
    }
    assert_eq!(gatepay.count(), 8);
}

#[tokio::test]
async fn a_request_that_came_too_early_is_good_as_it_is_when_it_was_told_to_come_back() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme().rate(1, 1)).start();
    let early = query(&acme()).nonce("early").timestamp(&T0);
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    let answer = proxy.send(early.clone()).await;
    assert_eq!(answer.refused(), (429, "rate_limited"));
    proxy
        .clock
        .advance(Duration::from_secs(answer.retry_after()));
    assert_eq!(proxy.send(early).await.status, 200);
}

#[tokio::test]
async fn a_429_states_the_policy_it_enforces() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme().rate(2, 1)).start();
    proxy.send(query(&acme())).await;
    let answer = proxy.send(query(&acme())).await;
    assert_eq!(answer.status, 429);
    assert!(
        answer.headers.contains_key("ratelimit-policy"),
        "{:?}",
        answer.headers
    );
    assert!(
        answer.headers.contains_key("ratelimit"),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn money_has_a_limit_of_its_own_within_the_tenants() {
    let gatepay = GatePay::start();
    let shop = acme().with(|tenant| tenant.limits.money = Some(rate(1, 1)));
    let proxy = Proxy::before(&gatepay).tenant(shop.rate(1, 3)).start();
    let refund = || acme().post(REFUND, A_REFUND);
    assert_eq!(proxy.send(refund()).await.status, 200);
    // A request refused by the narrower limit takes nothing from the wider limit.
    for _ in 0..5 {
        assert_eq!(proxy.send(refund()).await.refused(), (429, "rate_limited"));
    }
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    assert_eq!(
        proxy.send(query(&acme())).await.refused(),
        (429, "rate_limited")
    );
}

#[tokio::test]
async fn one_tenants_haste_is_no_other_tenants_wait() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(acme().rate(1, 1))
        .tenant(globex().rate(1, 1))
        .start();
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    assert_eq!(
        proxy.send(query(&acme())).await.refused(),
        (429, "rate_limited")
    );
    assert_eq!(proxy.send(query(&globex())).await.status, 200);
}

#[tokio::test]
async fn tenants_together_stay_within_the_institutions_quota() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(acme().rate(1, 2))
        .tenant(globex())
        .with(|settings| settings.upstream.quota.rate = rate(1, 2))
        .start();
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    assert_eq!(proxy.send(query(&globex())).await.status, 200);
    let early = query(&acme()).nonce("early").timestamp(&T0);
    let answer = proxy.send(early.clone()).await;
    assert_eq!(answer.refused(), (429, "institution_quota"));
    proxy
        .clock
        .advance(Duration::from_secs(answer.retry_after()));
    assert_eq!(proxy.send(early).await.status, 200);
    assert_eq!(gatepay.count(), 3);
}

#[tokio::test]
async fn a_seat_is_taken_until_the_answer_is_over() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().seats(2))
        .tenant(globex())
        .start();
    let mut seated = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (mut caller, request) = (proxy.connect().await, query(&acme()).request(&proxy.clock));
        seated.spawn(async move { caller.send(request).await.status });
    }
    until("both are at GatePay", || upstream.count() == 2).await;
    let early = query(&acme()).nonce("early").timestamp(&T0);
    let answer = proxy.send(early.clone()).await;
    assert_eq!(answer.refused(), (429, "too_many_in_flight"));
    assert!(answer.retry_after() > 0);
    assert_eq!(upstream.count(), 2);

    // The other tenant has permits of its own.
    let (mut caller, request) = (
        proxy.connect().await,
        query(&globex()).request(&proxy.clock),
    );
    seated.spawn(async move { caller.send(request).await.status });
    until("globex is at GatePay too", || upstream.count() == 3).await;

    upstream.release();
    assert_eq!(seated.join_all().await, [200, 200, 200]);
    proxy.counts("in_flight 0").await;
    assert_eq!(proxy.send(early).await.status, 200);
}

#[tokio::test]
async fn a_request_without_a_seat_gets_both_tokens_back() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().rate(1, 2).seats(1))
        .with(|settings| settings.upstream.quota.rate = rate(1, 2))
        .start();
    let (mut caller, request) = (proxy.connect().await, query(&acme()).request(&proxy.clock));
    let first = tokio::spawn(async move { caller.send(request).await.status });
    until("the first is at GatePay", || upstream.count() == 1).await;
    for _ in 0..5 {
        assert_eq!(
            proxy.send(query(&acme())).await.refused(),
            (429, "too_many_in_flight")
        );
    }
    upstream.release();
    assert_eq!(first.await.unwrap(), 200);
    proxy.counts("in_flight 0").await;
    assert_eq!(proxy.send(query(&acme())).await.status, 200);
    assert_eq!(
        proxy.send(query(&acme())).await.refused(),
        (429, "rate_limited")
    );
}

#[tokio::test]
async fn one_tenants_polling_leaves_the_other_its_share_and_payments_their_reserve() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.quota.rate = rate(20, 40))
        .start();
    // A tenant that polls alone and at once gets most of the burst.
    let mut polled = 0;
    while proxy.send(query(&acme())).await.status == 200 {
        polled += 1;
    }
    assert!((25..=36).contains(&polled), "{polled}");
    // The other tenant is served at once, and so is a payment of the polling tenant.
    assert_eq!(proxy.send(query(&globex())).await.status, 200);
    assert_eq!(proxy.send(acme().post(REFUND, A_REFUND)).await.status, 200);
    assert_eq!(
        proxy.send(query(&acme())).await.refused(),
        (429, "institution_quota")
    );
    for line in [
        "quota_active_tenants 2",
        "quota_requests_per_second{rate=\"in_force\"} 20",
        "quota_share_requests_per_second{tenant=\"globex\"} 9",
        "limit_refusals_total{limit=\"institution\",tenant=\"acme\"} 2",
        "limit_refusals_total{limit=\"institution\",tenant=\"globex\"} 0",
    ] {
        proxy.counts(line).await;
    }
}

#[tokio::test]
async fn a_limit_in_shadow_is_counted_and_named_but_refuses_no_request() {
    let gatepay = GatePay::start();
    let shop = acme().with(|tenant| tenant.limits.shadow.all = true);
    let proxy = Proxy::before(&gatepay).tenant(shop.rate(1, 1)).start();
    // On one connection, and so in one worker: lines of several workers may change places.
    let mut caller = proxy.connect().await;
    for _ in 0..4 {
        let request = query(&acme()).request(&proxy.clock);
        assert_eq!(caller.send(request).await.status, 200);
    }
    drop(caller);
    proxy
        .counts("limit_shadow_total{limit=\"rate\",tenant=\"acme\"} 3")
        .await;
    proxy
        .counts("limit_refusals_total{limit=\"rate\",tenant=\"acme\"} 0")
        .await;
    let lines = proxy.stop().await;
    let named: Vec<_> = lines
        .iter()
        .map(|line| line["shadow"].to_string())
        .collect();
    let rate = "[\"rate\"]";
    assert_eq!(named, ["null", rate, rate, rate]);
}

#[tokio::test]
async fn places_at_gatepay_are_shared_and_come_back_when_a_caller_leaves() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.upstream.quota.in_flight = Some(2.try_into().unwrap()))
        .start();
    // A single reader has its permit; one permit is kept from borrowers.
    let mut first = proxy.raw().await;
    first.write(query(&acme()).bytes(&proxy.clock)).await;
    until("the first is at GatePay", || upstream.count() == 1).await;
    let (mut caller, request) = (
        proxy.connect().await,
        query(&globex()).request(&proxy.clock),
    );
    let second = tokio::spawn(async move { caller.send(request).await.status });
    until("the second is at GatePay", || upstream.count() == 2).await;
    let early = query(&acme()).nonce("early").timestamp(&T0);
    let answer = proxy.send(early.clone()).await;
    assert_eq!(answer.refused(), (429, "institution_quota"));
    assert_eq!(answer.retry_after(), 1);
    assert!(
        answer.headers["ratelimit-policy"]
            .to_str()
            .unwrap()
            .contains("institution-in-flight")
    );
    // A caller that leaves frees its permit.
    first.reset();
    proxy.counts("quota_in_flight 1").await;
    let (mut caller, request) = (proxy.connect().await, early.request(&proxy.clock));
    let third = tokio::spawn(async move { caller.send(request).await.status });
    until("the third is at GatePay", || upstream.count() == 3).await;
    upstream.release();
    assert_eq!((second.await.unwrap(), third.await.unwrap()), (200, 200));
    proxy.counts("quota_in_flight 0").await;
}

#[tokio::test]
async fn with_ratelimit_headers_every_answer_states_the_rest_of_the_rate() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(acme().rate(2, 5))
        .with(|settings| settings.ratelimit_headers = true)
        .start();
    for left in [4, 3] {
        let answer = proxy.send(query(&acme())).await;
        assert_eq!(answer.headers["ratelimit-policy"], "\"tenant\";q=5;w=3");
        assert_eq!(answer.headers["ratelimit"], format!("\"tenant\";r={left}"));
    }
    // A refusal of an unknown caller states no limits.
    let stranger = proxy.send(query(&globex())).await;
    assert_eq!(stranger.status, 401);
    assert!(!stranger.headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn a_retry_at_the_told_time_is_not_refused_again() {
    for (own, quota) in [((1, 1), (9, 9)), ((9, 9), (1, 4)), ((2, 3), (3, 2))] {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay)
            .tenant(acme().rate(own.0, own.1))
            .with(move |settings| settings.upstream.quota.rate = rate(quota.0, quota.1))
            .start();
        let mut refused = 0;
        for _ in 0..40 {
            let answer = proxy.send(query(&acme())).await;
            if answer.status == 200 {
                continue;
            }
            refused += 1;
            proxy
                .clock
                .advance(Duration::from_secs(answer.retry_after()));
            assert_eq!(
                proxy.send(query(&acme())).await.status,
                200,
                "{own:?} {quota:?}"
            );
        }
        assert!(refused > 5, "{refused}");
    }
}

/// A push-back of GatePay's: a status with more lines, and the code of the envelope.
fn push_back(lines: &str, code: &str) -> Vec<u8> {
    let body = format!("{{\"status\":\"FAIL\",\"code\":\"{code}\",\"errorMessage\":\"\"}}");
    let (status, more) = lines.split_once("\r\n").unwrap_or((lines, ""));
    let more = if more.is_empty() {
        String::new()
    } else {
        format!("{more}\r\n")
    };
    scripted::answer(status, &more, body.as_bytes())
}

fn a_hundred(settings: &mut Settings) {
    settings.upstream.quota.rate = rate(100, 100);
    settings.upstream.quota.pushback_codes = vec!["400603".to_owned()];
}

const IN_FORCE: &str = "quota_requests_per_second{rate=\"in_force\"}";

#[tokio::test]
async fn a_push_back_on_two_parties_lowers_the_rate_at_once() {
    for (lines, code, in_force) in [
        ("429 Too Many Requests", "400001", 70),
        ("200 OK", "400603", 70),
        ("429 Too Many Requests\r\nretry-after: 30", "400001", 10),
        // The configuration does not list this code as a push-back.
        ("200 OK", "400604", 100),
    ] {
        let upstream = Scripted::always(scripted::Then::Answer(push_back(lines, code)));
        let proxy = Proxy::before_scripted(&upstream).with(a_hundred).start();
        for (shop, in_force) in [(acme(), 100), (globex(), in_force)] {
            // GatePay's answer is relayed unchanged.
            let answer = proxy.send(query(&shop)).await;
            assert_eq!((answer.code(), answer.refusal()), (code.to_owned(), None));
            proxy.counts(&format!("{IN_FORCE} {in_force}")).await;
        }
        let pushed_back = if in_force < 100 { 2 } else { 0 };
        let count = |name: &str| format!("{name} {pushed_back}");
        proxy.counts(&count("quota_pushbacks_total")).await;
        proxy.counts(&count("quota_pushed_back_tenants")).await;
        proxy.clock.advance(Duration::from_mins(10));
        proxy.counts(&format!("{IN_FORCE} 100")).await;
        proxy.counts("quota_pushed_back_tenants 0").await;
    }
}

#[tokio::test]
async fn one_account_that_gatepay_pushes_back_costs_no_other_tenant_anything() {
    for (lines, code, left) in [
        ("429 Too Many Requests", "400001", 70),
        ("200 OK", "400603", 70),
        ("429 Too Many Requests\r\nretry-after: 30", "400001", 10),
    ] {
        let pushed_back = push_back(lines, code);
        let upstream = Scripted::each(move |request| {
            let body = br#"{"status":"SUCCESS","code":"000000","data":{}}"#;
            Some(if request.contains(acme().sub_account) {
                pushed_back.clone()
            } else {
                scripted::answer("200 OK", "", body)
            })
        });
        let proxy = Proxy::before_scripted(&upstream)
            .with(a_hundred)
            .tenant(acme().rate(100, 100))
            .tenant(globex())
            .start();
        // The tenant calls without restraint, for a minute.
        let mut relayed = 0;
        for _ in 0..30 {
            relayed += usize::from(proxy.send(query(&acme())).await.refusal().is_none());
            proxy.clock.advance(Duration::from_secs(2));
        }
        proxy
            .counts(&format!("quota_pushbacks_total {relayed}"))
            .await;
        proxy.counts(&format!("{IN_FORCE} 100")).await;
        proxy.counts("quota_pushed_back_tenants 1").await;
        let floor = proxy.admin("/tenants/acme").await.json();
        assert_eq!(floor["pushed_back_to"], 10, "the floor, by then");
        let other = proxy.admin("/tenants/globex").await.json();
        assert_eq!(other.get("pushed_back_to"), None);
        // The tenant's own rate grows back, and falls again with the next push-back.
        proxy.clock.advance(Duration::from_mins(3));
        assert_eq!(proxy.send(query(&acme())).await.code(), code);
        let lowered = proxy.admin("/tenants/acme").await.json();
        assert_eq!(lowered["pushed_back_to"], left);
        let mut more = 0;
        while proxy.send(query(&acme())).await.refusal().is_none() {
            more += 1;
        }
        assert!(more < left, "{more} more within {left} a second");
        let refused = proxy.send(query(&acme())).await;
        assert_eq!(refused.refused(), (429, "rate_limited"));
        proxy.clock.advance(Duration::from_secs(10));
        for _ in 0..60 {
            assert_eq!(proxy.send(query(&globex())).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_request_refused_by_the_open_breaker_gets_its_tokens_and_seat_back() {
    let nowhere = Nowhere::reserve();
    let proxy = Proxy::at(
        &nowhere.url(),
        &gatepay_proxy::process::clock::Clock::manual(T0),
    )
    .tenant(acme().rate(1, 40))
    .with(|settings| {
        settings.upstream.breaker = BreakerSettings::default();
        settings.upstream.quota.rate = rate(1, 40);
    })
    .start();
    let refund = || acme().post(REFUND, A_REFUND);
    let mut sent = 0;
    while proxy.send(refund()).await.refusal() != Some("upstream_unavailable") {
        sent += 1;
        assert!(sent < 30, "the breaker opens");
    }
    for _ in 0..60 {
        assert_eq!(
            proxy.send(refund()).await.refused(),
            (503, "upstream_unavailable")
        );
    }
}

/// In real time, through the real listener, with two workers: a small form of `quota/simulation`.
#[tokio::test]
async fn a_flood_leaves_all_other_tenants_their_share() {
    const SECONDS: u32 = 5;
    const QUOTA: u32 = 100;
    let shops = [
        ("one", "client-one", "fake-one-secret-0001", "2124538401"),
        ("two", "client-two", "fake-two-secret-0002", "2124538402"),
        (
            "three",
            "client-three",
            "fake-three-secret-03",
            "2124538403",
        ),
        ("four", "client-four", "fake-four-secret-004", "2124538404"),
        (
            "flood",
            "client-flood",
            "fake-flood-secret-05",
            "2124538405",
        ),
    ]
    .map(|(id, client_id, secret, account)| {
        Shop::new(id, client_id, secret, account).rate(100_000, 100_000)
    });
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let mut plan = Proxy::at(
        &upstream.url(),
        &gatepay_proxy::process::clock::Clock::system(),
    )
    .with(|settings| settings.upstream.quota.rate = rate(QUOTA, QUOTA));
    for shop in &shops {
        plan = plan.tenant(shop.clone());
    }
    let proxy = plan.start();
    let (begun, mut all_looks) = (Instant::now(), 0);
    in_one_of_some_looks(async || {
        let shares = shares_beside_a_flood(&proxy, &shops, SECONDS).await;
        all_looks += shares.admitted;
        let (took, all) = (begun.elapsed().as_secs_f64(), all_looks);
        let figures = format!(
            "in {took:.2} s: {}; in all {all}, at most {:.0} and a burst of {QUOTA}",
            shares.told,
            f64::from(QUOTA) * took
        );
        println!("{figures}");
        assert!(
            f64::from(all) <= f64::from(QUOTA) * took + f64::from(QUOTA),
            "{figures}"
        );
        assert_eq!(upstream.count(), all as usize);
        let is_served =
            |(asked, admitted): &(u32, u32)| f64::from(*admitted) >= 0.95 * f64::from(*asked);
        // A busy machine may slow the flood down.
        let least = 0.8 * f64::from(QUOTA) * f64::from(SECONDS);
        let is_flood = f64::from(shares.admitted) >= least;
        if_so(is_flood && shares.polite.iter().all(is_served), || figures)
    })
    .await;
}

/// What the tenants below their share asked for and were admitted, and what all were.
struct SharesBesideFlood {
    polite: [(u32, u32); 4],
    admitted: u32,
    told: String,
}

/// Four tenants stay below their share, and the fifth calls as fast as it can.
async fn shares_beside_a_flood(
    proxy: &Proxy,
    shops: &[Shop; 5],
    seconds: u32,
) -> SharesBesideFlood {
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let ask = async |shop: &Shop, pause: Option<Duration>| {
        let (mut asked, mut admitted) = (0_u32, 0_u32);
        let mut caller = proxy.connect().await;
        let mut tick = pause.map(tokio::time::interval);
        if let Some(tick) = &mut tick {
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        while Instant::now() < until {
            if let Some(tick) = &mut tick {
                tick.tick().await;
            }
            let answer = caller.send(query(shop).request(&proxy.clock)).await;
            asked += 1;
            match answer.status {
                200 => admitted += 1,
                _ => assert_eq!(answer.refused(), (429, "institution_quota")),
            }
        }
        (asked, admitted)
    };
    // Nine tenths of a share of 18 a second; the fifth tenant calls as fast as it can, over three connections.
    let polite = Some(Duration::from_micros(1_000_000 * 10 / (18 * 9)));
    let [one, two, three, four, flood] = shops;
    let (polite, flood) = tokio::join!(
        async {
            tokio::join!(
                ask(one, polite),
                ask(two, polite),
                ask(three, polite),
                ask(four, polite)
            )
        },
        async { tokio::join!(ask(flood, None), ask(flood, None), ask(flood, None)) },
    );
    let polite: [(u32, u32); 4] = polite.into();
    let flood: [(u32, u32); 3] = flood.into();
    SharesBesideFlood {
        polite,
        admitted: polite.iter().chain(&flood).map(|it| it.1).sum(),
        told: format!("polite (asked, admitted) {polite:?}, the flood {flood:?}"),
    }
}
