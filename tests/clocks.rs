use crate::support::program::{Folder, Program};
use crate::support::*;
use gatepay_core::header;
use gatepay_proxy::process::clock::Clock;
use http_body_util::Full;
use std::fs;
use std::time::Duration;

/// A program before a GatePay whose clock is ahead by this much.
async fn before(gatepay: &GatePay, clock: &str) -> Program {
    let folder = Folder::before(&gatepay.url());
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    folder.file("proxy.toml", &format!("clock = '{clock}'\n{proxy}"));
    Program::serve(&folder).await
}

async fn create(program: &Program, number: &str) -> Answer {
    let call = acme().post(CREATE, order(number));
    let mut connection = Connection::open(program.address).await;
    connection.send(call.request(&Clock::system())).await
}

/// The value of a metric.
async fn metric(program: &Program, name: &str) -> f64 {
    let request = http::Request::get("/metrics").header("host", "admin");
    let request = request.body(Full::default()).unwrap();
    let answer = Connection::open(program.admin).await.send(request).await;
    let text = String::from_utf8(answer.body.into()).unwrap();
    let name = format!("gatepay_proxy_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

async fn until_known(program: &Program) {
    let known = async {
        while metric(program, "clock_offset_answers").await < 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await;
    known.expect("two answers show GatePay's clock");
}

/// How far the last stamp was behind GatePay's clock, in milliseconds.
fn behind(gatepay: &GatePay) -> u64 {
    let last = gatepay.last();
    let stamp: u64 = last.header(header::TIMESTAMP).unwrap().parse().unwrap();
    last.at_ms.abs_diff(stamp)
}

#[tokio::test]
async fn at_half_of_what_is_tolerated_it_warns_and_serves() {
    let gatepay = GatePay::ahead(Duration::from_secs(8));
    let program = before(&gatepay, "local").await;
    for number in ["A-0001", "A-0002"] {
        assert_eq!(create(&program, number).await.status, 200);
    }
    assert!(behind(&gatepay) > 6_000, "stamps are the machine's");
    let offset = metric(&program, "clock_offset_seconds").await;
    assert!((7.0..=9.0).contains(&offset), "{offset}");
    until("it warns", || {
        let said = program.stderr();
        said.contains("this machine's clock is off GatePay's: GatePay refuses")
    })
    .await;
}

/// A program that follows GatePay's clock, which is ahead by this much: stamps have GatePay's time, and the log says so.
async fn follows(ahead: Duration, log: &str) -> Program {
    let gatepay = GatePay::ahead(ahead);
    let program = before(&gatepay, "follow").await;
    until_known(&program).await;
    assert_eq!(create(&program, "A-0001").await.status, 200);
    assert!(behind(&gatepay) < 2_500, "{} ms", behind(&gatepay));
    until("the log says so", || program.stderr().contains(log)).await;
    program
}

#[tokio::test]
async fn a_proxy_that_follows_stamps_gatepays_time() {
    let log = "off GatePay's: requests to GatePay are stamped with GatePay's time";
    follows(Duration::from_secs(8), log).await;
}

#[tokio::test]
async fn half_a_minute_is_followed_too_and_is_an_alarm() {
    let log = "by more than is tolerated: requests to GatePay are stamped with GatePay's time";
    let program = follows(Duration::from_secs(30), log).await;
    let offset = metric(&program, "clock_offset_seconds").await;
    assert!((29.0..=31.0).contains(&offset), "{offset}");
}

#[tokio::test]
async fn a_proxy_that_does_not_follow_half_a_minute_of_offset_is_refused_and_logs_the_reason() {
    let gatepay = GatePay::ahead(Duration::from_secs(30));
    let program = before(&gatepay, "local").await;
    let answer = create(&program, "A-0001").await;
    assert_eq!(answer.refused(), (502, "institution_rejected"));
    assert_eq!(answer.outcome(), Some("not-executed"));
    until("it says so", || {
        let said = program.stderr();
        said.contains("by more than is tolerated: GatePay refuses")
    })
    .await;
    program.terminate();
    let (_, lines, _) = program.end().await;
    assert!(lines.contains("ahead of this one"), "{lines}");
}
