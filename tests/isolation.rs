//! Globex stays within its limits and does all the harm it can; at the same time every refund of acme's is executed.
//!
//! Each test begins with the attack and waits until it has taken place. A refund uses a connection of its own, from an
//! address that no attacker has, so that the refund also needs a connection slot.

use crate::support::*;
use gatepay_sandbox::InjectedFault;
use gatepay_tenancy::settings::BreakerSettings;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// How many refunds acme makes beside an attack.
const REFUNDS: usize = 20;
const FORM: &str = "multipart/form-data; boundary=b";
const BANK: &str = "/withdraw/open/otc/api/bank/create";

/// This many attackers at once, each of which goes on until the set is dropped.
fn attackers<F>(count: usize, mut attack: impl FnMut(usize) -> F) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut all = JoinSet::new();
    for number in 0..count {
        all.spawn(attack(number));
    }
    all
}

/// Refunds parts of acme's order, one after the other; each has to be executed.
async fn every_refund_is_executed(gatepay: &GatePay, proxy: &Proxy, paid: &str) {
    let before = gatepay.cents();
    for number in 0..REFUNDS {
        let body = format!(
            r#"{{"refundRequestId":"R-{number:04}","prepayId":"{paid}","refundAmount":"0.01"}}"#
        );
        let mut caller = proxy.raw_from("127.0.0.200").await;
        caller
            .write(acme().post(REFUND, body).bytes(&proxy.clock))
            .await;
        let answer = caller.answer().await;
        assert_eq!(answer.refused(), (200, "not refused"), "{}", answer.text());
        assert_eq!(answer.outcome(), Some("executed"));
    }
    assert_eq!(before - gatepay.cents(), REFUNDS);
}

/// Bodies that cost a careless parser more than their length, and their paths.
fn costly_bodies() -> Vec<(&'static str, &'static str, String)> {
    let member = |number: usize| format!(r#""member{number}":{{}}"#);
    let members: Vec<_> = (0..40_000).map(member).collect();
    vec![
        (BANK, FORM, "=name".repeat(60_000)),
        (BANK, FORM, "name=\"".repeat(60_000)),
        (BANK, FORM, "name*".repeat(60_000)),
        (
            REFUND,
            "application/json",
            format!("{{{}}}", members.join(",")),
        ),
        (REFUND, "application/json", "[".repeat(900_000)),
        (
            QUERY,
            "application/json",
            format!(r#"{{"{}":1}}"#, r"\u0061".repeat(150_000)),
        ),
        (QUERY, "application/json", r#"{"accountId""#.repeat(75_000)),
    ]
}

#[tokio::test]
async fn a_tenant_is_served_beside_bodies_that_are_costly_to_read() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let paid = gatepay.paid_order(&proxy).await;
    let bodies = costly_bodies();
    let (address, clock) = (proxy.address(), proxy.clock.clone());
    let sent = Arc::new(AtomicUsize::new(0));
    let _attack = attackers(8, |number| {
        let (path, media, body) = bodies[number % bodies.len()].clone();
        let (clock, sent) = (clock.clone(), Arc::clone(&sent));
        async move {
            loop {
                sent.fetch_add(1, Ordering::Relaxed);
                let mut caller = Connection::open(address).await;
                let call = globex()
                    .post(path, body.clone())
                    .instead("content-type", media);
                let _answer = caller.try_send(call.request(&clock)).await;
            }
        }
    });
    let all = bodies.len();
    until("all of them are sent", || {
        sent.load(Ordering::Relaxed) >= all
    })
    .await;
    every_refund_is_executed(&gatepay, &proxy, &paid).await;
}

#[tokio::test]
async fn a_tenant_is_served_beside_reads_that_never_get_an_answer() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.breaker = BreakerSettings::default())
        .start();
    let paid = gatepay.paid_order(&proxy).await;
    for fault in [
        InjectedFault::ResetBeforeExecuting,
        InjectedFault::Status {
            status: 502,
            body: "bad gateway".into(),
        },
    ] {
        gatepay.sandbox.clear_faults();
        gatepay.inject(fault.always().of(globex().sub_account));
        let mut attack = proxy.connect().await;
        for _ in 0..60 {
            let call = globex().post(QUERY, BY_NUMBER);
            let _answer = attack.try_send(call.request(&proxy.clock)).await;
        }
    }
    let (address, clock) = (proxy.address(), proxy.clock.clone());
    let _attack = attackers(4, |_| {
        let clock = clock.clone();
        async move {
            let mut caller = Connection::open(address).await;
            loop {
                let call = globex().post(QUERY, BY_NUMBER);
                let _answer = caller.try_send(call.request(&clock)).await;
            }
        }
    });
    every_refund_is_executed(&gatepay, &proxy, &paid).await;
}

#[tokio::test]
async fn a_tenant_is_served_beside_more_unanswered_reads_than_connections_to_gatepay() {
    const READS: usize = 12;
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.upstream.max_connections = 4.try_into().expect("not zero");
            settings.upstream.deadline = Duration::from_secs(20);
        })
        .start();
    let paid = gatepay.paid_order(&proxy).await;
    gatepay.inject(
        InjectedFault::Delay(Duration::from_mins(10))
            .always()
            .of(globex().sub_account),
    );
    let before = proxy.app().metrics.upstream.waits.get();
    let (address, clock) = (proxy.address(), proxy.clock.clone());
    let _attack = attackers(READS, |_| {
        let clock = clock.clone();
        async move {
            let mut caller = Connection::open(address).await;
            loop {
                let call = globex().post(QUERY, BY_NUMBER);
                let _answer = caller.try_send(call.request(&clock)).await;
            }
        }
    });
    until("reads wait in line", || {
        proxy.app().metrics.upstream.waits.get() - before >= 2
    })
    .await;
    every_refund_is_executed(&gatepay, &proxy, &paid).await;
}

#[tokio::test]
async fn a_tenant_is_served_beside_calls_that_gatepay_answers_with_429() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.quota.rate = rate(1_000, 60))
        .start();
    let paid = gatepay.paid_order(&proxy).await;
    let too_many = InjectedFault::Status {
        status: 429,
        body: "slow down".into(),
    };
    gatepay.inject(too_many.always().of(globex().sub_account));
    for _ in 0..40 {
        let answer = proxy.send(globex().post(QUERY, BY_NUMBER)).await;
        assert_eq!(answer.status, 429);
        proxy.clock.advance(Duration::from_millis(50));
    }
    every_refund_is_executed(&gatepay, &proxy, &paid).await;
}

/// Fills all connection slots from ten addresses, with connections that ask once and then idle.
async fn idle_connections(proxy: &Proxy, ask: impl Fn() -> Vec<u8>) -> Vec<Raw> {
    let mut held = Vec::new();
    for number in 0..PLACES {
        let mut caller = proxy
            .raw_from(&format!("127.0.0.{}", 10 + number % 10))
            .await;
        if caller.try_write(&ask()).await.is_ok() {
            held.push(caller);
        }
    }
    held
}

const PLACES: usize = 60;

/// The first bytes of each connection.
type Ask<'a> = &'a dyn Fn(&Proxy) -> Vec<u8>;

#[tokio::test]
async fn beside_idle_connections_in_every_place() {
    let verified = |proxy: &Proxy| globex().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    let unknown = |_: &Proxy| b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let silent = |_: &Proxy| Vec::new();
    let half = |_: &Proxy| b"POST /v1/pay/order HTTP/1.1\r\nhost:".to_vec();
    let kinds: [(&str, Ask); 4] = [
        ("verified", &verified),
        ("unknown", &unknown),
        ("silent", &silent),
        ("half a head", &half),
    ];
    for (kind, ask) in kinds {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay)
            .with(|settings| {
                settings.listen.max_connections = PLACES.try_into().expect("not zero");
                // Far longer than this test: no timeout ends an attack.
                settings.listen.head_timeout = Duration::from_mins(10);
            })
            .start();
        let paid = gatepay.paid_order(&proxy).await;
        say(format_args!("{kind}"));
        let _held = idle_connections(&proxy, || ask(&proxy)).await;
        every_refund_is_executed(&gatepay, &proxy, &paid).await;
    }
}
