//! The real binary ends in the middle of load, in order or not, and everything that was said to it is said again to the
//! next one: nothing that was forwarded is forwarded again.

use crate::support::program::{Folder, Program};
use crate::support::scripted::Scripted;
use crate::support::*;
use bytes::Bytes;
use gatepay_proxy::clock::Clock;
use http::Request;
use http_body_util::Full;
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A signed request as somebody on the way could have kept it.
type Captured = Request<Full<Bytes>>;

struct Load {
    callers: usize,
    /// How many requests are forwarded before the end comes.
    forwarded: usize,
    future_ms: u64,
}

/// The long form is the same with the default `future_ms` and thirty times the load.
const SHORT: Load = Load {
    callers: 8,
    forwarded: 300,
    future_ms: 3_000,
};
const LONG: Load = Load {
    callers: 64,
    forwarded: 10_000,
    future_ms: 10_000,
};

#[tokio::test]
async fn nothing_is_forwarded_again_after_an_orderly_restart_under_load() {
    orderly(&SHORT).await;
}

#[tokio::test]
async fn nothing_is_forwarded_again_after_a_kill_under_load() {
    killed(&SHORT).await;
}

#[tokio::test]
#[ignore = "the long form of the two restarts: ten thousand requests each, and the default guard"]
async fn nothing_is_forwarded_again_after_restarts_under_heavy_load() {
    orderly(&LONG).await;
    killed(&LONG).await;
}

async fn orderly(load: &Load) {
    let upstream = answering();
    let folder = folder(&upstream.url(), load.future_ms);
    let (first, callers) = load.begin(&folder, &upstream).await;
    first.terminate();
    let captured = callers.join_all().await.concat();
    assert_eq!(first.end().await.0, Some(0));
    let second = Program::serve(&folder).await;
    let answers = say_again(second.address, &captured).await;
    let replayed = answers.get("replayed").copied().unwrap_or(0);
    assert!(replayed >= load.forwarded, "{answers:?}");
    once_each(&upstream);
    // Without a guard: what the first admitted is known.
    let fresh = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
    let answer = Connection::open(second.address).await.send(fresh).await;
    assert_eq!(answer.refused(), (200, "not refused"));
}

#[expect(clippy::print_stdout, reason = "what was measured")]
async fn killed(load: &Load) {
    let upstream = answering();
    let folder = folder(&upstream.url(), load.future_ms);
    let (first, callers) = load.begin(&folder, &upstream).await;
    let killed = Instant::now();
    drop(first);
    let captured = callers.join_all().await.concat();

    let second = Program::serve(&folder).await;
    let started = killed.elapsed();
    // In the midst of the guard, and when it is over.
    let answers = say_again(second.address, &captured).await;
    assert!(answers.contains_key("starting"), "{answers:?}");
    let mut connection = Connection::open(second.address).await;
    loop {
        let fresh = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
        match connection.send(fresh).await.refused() {
            (200, _) => break,
            refused => assert_eq!(refused, (503, "starting")),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outage = killed.elapsed();
    println!("killed, served again after {outage:?}, of which {started:?} are the start");
    let guard = Duration::from_millis(load.future_ms);
    // The guard begins with the start; what a busy machine takes to ask and to answer is not its.
    assert!(
        outage <= started + guard + Duration::from_secs(1),
        "{outage:?}"
    );
    let answers = say_again(second.address, &captured).await;
    assert_eq!(
        answers.keys().collect::<Vec<_>>(),
        ["starting"],
        "{answers:?}"
    );
    once_each(&upstream);
}

fn answering() -> Scripted {
    Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#)
}

fn folder(url: &str, future_ms: u64) -> Folder {
    let folder = Folder::before(url);
    let rest = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let rest = rest.replace(
        "upstream = { ",
        "upstream = { quota = { requests_per_second = 100_000 }, ",
    );
    let first = format!("timestamp = {{ future_ms = {future_ms} }}\n");
    folder.file("proxy.toml", &(first + &rest));
    let fast = "limits = { in_flight = 1000, requests_per_second = 100_000 }";
    folder.tenant(&acme(), fast);
    folder
}

impl Load {
    /// Calls from all callers at once, which they do until the program ends; comes back in the midst of it.
    async fn begin(
        &self,
        folder: &Folder,
        upstream: &Scripted,
    ) -> (Program, JoinSet<Vec<Captured>>) {
        let program = Program::serve(folder).await;
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            callers.spawn(call_until_it_breaks(program.address, caller));
        }
        // On a busy machine that may take a while, but it goes on.
        while let before = upstream.count()
            && before < self.forwarded
        {
            until("more is forwarded", || upstream.count() > before).await;
        }
        (program, callers)
    }
}

async fn call_until_it_breaks(address: SocketAddr, caller: usize) -> Vec<Captured> {
    let mut said = Vec::new();
    let mut connection = Connection::open(address).await;
    for number in 0.. {
        let call = acme().post(CREATE, order(&format!("{caller}-{number}")));
        let request = call.request(&Clock::system());
        said.push(request.clone());
        if connection.try_send(request).await.is_err() {
            break;
        }
    }
    said
}

/// Says all of it again, and counts what is answered.
async fn say_again(address: SocketAddr, captured: &[Captured]) -> HashMap<String, usize> {
    let mut answers = HashMap::new();
    let mut connection = Connection::open(address).await;
    for request in captured {
        let answer = connection.send(request.clone()).await;
        if answer.refusal().is_some() {
            // It may have been executed, so it is not said not to have been.
            assert_eq!(answer.outcome(), Some("unknown"), "{:?}", answer.refused());
            let look_up = "ask POST /v1/pay/order/query by merchantTradeNo ";
            assert!(answer.message().contains(look_up), "{}", answer.message());
        }
        *answers.entry(answer.refused().1.to_owned()).or_default() += 1;
    }
    answers
}

fn once_each(upstream: &Scripted) {
    let mut orders = HashMap::new();
    for body in upstream.bodies() {
        if body != BY_NUMBER.as_bytes() {
            *orders.entry(body).or_insert(0) += 1;
        }
    }
    let twice: Vec<_> = orders.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        twice.is_empty(),
        "{} of {} orders came twice",
        twice.len(),
        orders.len()
    );
}
