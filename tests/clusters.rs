//! Instances of the program before one real PostgreSQL server, or one before a SQLite file.

mod failovers;
mod files;
mod halt_places;
mod halts;
mod lost_answers;
mod reads;
mod resends;
mod switching;

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::Request;
use http_body_util::Full;
use tokio::task::JoinSet;

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program};
use crate::support::*;

/// The time limit of a call to the store in most of these tests, which are not about it: longer than a busy machine takes.
const AMPLE: Duration = Duration::from_secs(10);
/// The time limit where the store falls silent. A busy machine may refuse calls by it.
const LIMIT: Duration = Duration::from_secs(1);

/// The folder of an instance with this store, and more lines for the table `[store]`.
fn folder(gatepay: &GatePay, server: &PgServer, more: &str) -> Folder {
    folder_at(&gatepay.url(), &[server.port], more)
}

/// Like [`folder`], before the upstream at this URL, with a store on the first of these ports that is writable.
fn folder_at(url: &str, ports: &[u16], more: &str) -> Folder {
    folder_within(AMPLE, url, ports, more)
}

/// Like [`folder_at`], with this time limit of a call to the store.
fn folder_within(limit: Duration, url: &str, ports: &[u16], more: &str) -> Folder {
    let folder = Folder::before(url);
    let limit = limit.as_millis();
    folder.uses_a_store(ports, &format!(", timeout_ms = {limit}{more}"));
    folder
}

/// Sends a call while the store is there.
async fn send(program: &Program, request: &Request<Full<Bytes>>) -> Answer {
    send_to_instance(program.address, request).await
}

/// Sends a call once, whether or not the store is there.
async fn send_once(program: &Program, request: &Request<Full<Bytes>>) -> Answer {
    let mut caller = Connection::open(program.address).await;
    caller.send(request.clone()).await
}

fn signed(call: &Call) -> Request<Full<Bytes>> {
    call.request(&Clock::system())
}

/// Sends reads until one is admitted.
///
/// After a crash or a failover of the store no seats are lent until all instances have declared theirs, or for five seconds.
async fn admits(program: &Program) {
    let began = Instant::now();
    loop {
        let read = send_once(program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
        if read.refusal().is_none() {
            return;
        }
        let log = || program.stderr();
        assert!(began.elapsed() < PATIENCE, "it admits nothing: {}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The middle of these durations, which a stall of the machine does not change.
fn middle(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// A refund that the emulator answers with a failure of its own: what counts is that it arrives once.
fn refund() -> Request<Full<Bytes>> {
    signed(&acme().post(REFUND, A_REFUND))
}

#[tokio::test]
async fn a_request_that_reaches_two_instances_is_forwarded_once() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [one, other] = instances([0, 1].map(|_| folder(&gatepay, &server, ""))).await;
    // One after the other, either way round.
    for (first, second) in [(&one, &other), (&other, &one)] {
        let request = refund();
        let before = gatepay.count();
        let answer = send(first, &request).await;
        assert_eq!(answer.refusal(), None, "{}", answer.text());
        let copy = send(second, &request).await;
        assert_eq!(copy.refusal(), Some("replayed"), "{}", copy.text());
        assert_eq!(copy.outcome(), Some("unknown"));
        assert!(copy.message().contains("ask GET"), "{}", copy.message());
        assert_eq!(gatepay.count(), before + 1);
    }
    // At once.
    for _ in 0..20 {
        let request = signed(&acme().post(QUERY, BY_NUMBER));
        let before = gatepay.count();
        let answers = tokio::join!(send(&one, &request), send(&other, &request));
        let refused = [answers.0.refusal(), answers.1.refusal()];
        let admitted = refused.iter().filter(|slug| slug.is_none()).count();
        assert_eq!(admitted, 1, "{refused:?}");
        assert!(refused.contains(&Some("replayed")), "{refused:?}");
        assert_eq!(gatepay.count(), before + 1);
    }
    let view = one.admin("GET", "/cluster").await.json();
    assert_eq!(
        view["instances"].as_array().map(Vec::len),
        Some(2),
        "{view}"
    );
    assert!(one.metric("store_available").await.ends_with('1'));
}

#[tokio::test]
async fn without_its_store_an_instance_refuses_at_once_and_serves_again_when_the_store_is_back() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), PgServer::migrated().await);
    let [program] = instances([folder(&gatepay, &server, "")]).await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    server.kill();
    let before = gatepay.count();
    let first = send_once(&program, &refund()).await;
    assert_eq!(first.refused(), (503, "store_unavailable"));
    assert_eq!(
        first.outcome(),
        Some("unknown"),
        "another instance may have it"
    );
    assert!(first.message().contains("ask GET"), "{}", first.message());
    let read = send_once(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(read.refusal(), Some("store_unavailable"));
    assert_eq!(read.outcome(), Some("not-executed"));
    let mut took = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let later = send_once(&program, &refund()).await;
        assert_eq!(later.refusal(), Some("store_unavailable"));
        took.push(began.elapsed());
    }
    assert!(middle(&mut took) < AMPLE / 20, "{took:?}");
    assert_eq!(gatepay.count(), before, "nothing was sent");
    program.ready_with(503).await;
    assert_eq!(program.admin("GET", "/live").await.status, 200);

    server.start_again();
    program.until_ready().await;
    admits(&program).await;
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    let copy = send(&program, &executed).await;
    assert_eq!(copy.refusal(), Some("replayed"));
}

#[tokio::test]
async fn nothing_is_sent_while_a_setting_of_the_running_server_may_lose_commits() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [program] = instances([folder(&gatepay, &server, "")]).await;
    server.sql("ALTER SYSTEM SET fsync = off");
    server.sql("SELECT pg_reload_conf()");
    until("the instance names the setting", || {
        program.stderr().contains("fsync = off")
    })
    .await;
    let before = gatepay.count();
    let refused = send_once(&program, &refund()).await;
    assert_eq!(refused.refusal(), Some("store_unavailable"));
    assert_eq!(gatepay.count(), before);
    server.sql("ALTER SYSTEM RESET fsync");
    server.sql("SELECT pg_reload_conf()");
    admits(&program).await;
}

#[tokio::test]
async fn a_halt_of_money_refuses_money_everywhere_and_spends_its_stamp() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [program] = instances([folder(&gatepay, &server, "")]).await;
    server.sql("SELECT gatepay.halt_v1('money', 'alice')");
    let (before, request) = (gatepay.count(), refund());
    let refused = send(&program, &request).await;
    assert_eq!(refused.refused(), (503, "halted"));
    assert_eq!(
        refused.outcome(),
        Some("not-executed"),
        "the stamp was looked up"
    );
    assert_eq!(gatepay.count(), before);
    let read = send(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(read.refusal(), None, "reads go on");
    server.sql("SELECT gatepay.resume_v1(scope, epoch) FROM gatepay.halt WHERE scope = 'money'");
    // So `not-executed` stays true whatever happens to other copies.
    assert_eq!(send(&program, &request).await.refusal(), Some("replayed"));
    let admitted = send(&program, &refund()).await;
    assert_eq!(admitted.refusal(), None, "{}", admitted.text());
}

#[tokio::test]
async fn an_instance_that_crashed_starts_again_without_a_wait_because_the_store_has_its_stamps() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let folder = folder(&gatepay, &server, "");
    // So long that the test would fail if the start waited for it.
    folder.edit("proxy.toml", "future_ms = 300", "future_ms = 3_000");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    program.signal("-KILL");
    let _ended = program.end().await;
    let program = Program::serve(&folder).await;
    assert_eq!(program.admin("GET", "/ready").await.status, 200);
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    let copy = send(&program, &executed).await;
    assert_eq!(copy.refusal(), Some("replayed"), "{}", copy.text());
}

/// A program with the folder that it needs while it runs.
struct Instance {
    program: Program,
    _folder: Folder,
}

impl Deref for Instance {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// Instances with these folders, all ready.
async fn instances<const N: usize>(folders: [Folder; N]) -> [Instance; N] {
    let programs = Program::serve_all(&folders).await;
    let mut programs = programs.into_iter();
    folders.map(|folder| Instance {
        program: programs.next().unwrap(),
        _folder: folder,
    })
}

/// Races a copy of each of so many calls at each of `N` instances: the upstream gets each call once, and the other copies
/// are `replayed`. A stamp may be spent without a call where an instance gave up its wait for the store, shed load, or had no
/// tokens left while the store was slow.
///
/// After each round of so many calls the figures so far are checked and printed.
#[expect(clippy::print_stderr, reason = "a long proof shows how far it is")]
async fn raced<const N: usize>(rounds: usize, calls: usize, callers: usize) {
    let (upstream, server) = (Counting::start(rounds * calls), PgServer::migrated().await);
    let folders = [(); N].map(|()| folder_at(&upstream.url(), &[server.port], ""));
    for folder in &folders {
        folder.tenant(
            &acme(),
            "limits = { in_flight = 1000, requests_per_second = 100000 }",
        );
        folder.edit(
            "proxy.toml",
            "upstream = { ",
            "upstream = { quota = { requests_per_second = 100000 }, ",
        );
    }
    let programs = instances(folders).await;
    let addresses: [SocketAddr; N] = std::array::from_fn(|n| programs[n].address);
    let mut races = Races::default();
    for round in 1..=rounds {
        let numbers = (round - 1) * calls..round * calls;
        let mut racing = JoinSet::new();
        for caller in 0..callers {
            let numbers = numbers.clone().skip(caller).step_by(callers);
            racing.spawn(async move {
                let mut connections = Vec::new();
                for address in addresses {
                    connections.push((address, Connection::open(address).await));
                }
                let mut races = Races::default();
                for number in numbers {
                    races.add(&race(&mut connections, number).await);
                }
                races
            });
        }
        while let Some(ended) = racing.join_next().await {
            let logs = || programs.iter().map(|program| program.stderr());
            races.add(
                &ended.unwrap_or_else(|error| panic!("{error}: {}", logs().collect::<String>())),
            );
        }
        let raced = round * calls;
        assert_eq!(upstream.got(1), races.admitted);
        assert_eq!(upstream.got(0), rounds * calls - races.admitted);
        assert!(raced - races.admitted <= races.without_verdict, "{races:?}");
        eprintln!("{raced} calls, a copy at each of {N} instances: {races:?}");
    }
}

/// The answers of raced copies.
#[derive(Debug, Default)]
struct Races {
    admitted: usize,
    replayed: usize,
    without_verdict: usize,
}

impl Races {
    fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.replayed += other.replayed;
        self.without_verdict += other.without_verdict;
    }
}

/// Sends a copy of one call over each connection at the same time, in an order that differs from call to call, until each
/// copy has a verdict of the store.
async fn race(connections: &mut [(SocketAddr, Connection)], number: usize) -> Races {
    let request = signed(&acme().post(CREATE, order(&format!("L-{number}"))));
    let first = number.wrapping_mul(0x9E37_79B9) % connections.len();
    connections.rotate_left(first);
    let copies = connections.iter_mut().map(|(address, connection)| {
        let request = request.clone();
        async move {
            let mut races = Races::default();
            while races.admitted + races.replayed == 0 {
                // A connection lasts an hour at most, and may end while nothing is under way on it.
                let Ok(answer) = connection.try_send(request.clone()).await else {
                    races.without_verdict += 1;
                    *connection = Connection::open(*address).await;
                    continue;
                };
                if answer.closes() {
                    *connection = Connection::open(*address).await;
                }
                match answer.refusal() {
                    None => races.admitted += 1,
                    Some("replayed") => races.replayed += 1,
                    Some("store_unavailable" | "overloaded" | "rate_limited") => {
                        races.without_verdict += 1;
                    }
                    Some(other) => panic!("{other}: {}", answer.text()),
                }
            }
            races
        }
    });
    let mut races = Races::default();
    for copy in futures_util::future::join_all(copies).await {
        races.add(&copy);
    }
    assert!(races.admitted <= 1, "call {number}: {races:?}");
    races
}

#[tokio::test]
async fn of_raced_copies_of_hundreds_of_calls_each_is_forwarded_once() {
    if !postgres::is_missing() {
        raced::<4>(2, 160, 16).await;
    }
}

#[tokio::test]
#[ignore = "takes half an hour"]
async fn of_ten_million_copies_raced_at_four_instances_each_call_is_forwarded_once() {
    if !postgres::is_missing() {
        raced::<4>(10, 250_000, 64).await;
    }
}

#[tokio::test]
async fn instances_tell_each_other_their_configuration_and_the_head_of_their_journal() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let folder = folder(&gatepay, &server, "");
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let told = async |name: &str| {
        let view = program.admin("GET", "/cluster").await.json();
        view["instances"][0][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let in_force = async || {
        let reload = program.admin("GET", "/-/reload").await.json();
        reload["hash"].as_str().unwrap().to_owned()
    };
    let is_told = async |before: &str| {
        let began = Instant::now();
        loop {
            let hash = in_force().await;
            if hash != before && told("configuration").await == hash {
                return hash;
            }
            assert!(began.elapsed() < PATIENCE, "{}", program.stderr());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let first = is_told("").await;
    folder.tenant(&globex(), "limits = { requests_per_second = 7 }");
    assert_eq!(program.reload("").await.0, 200);
    is_told(&first).await;
    // The head is that of the log.
    let head = told("journal_head").await;
    assert!(head.starts_with("1.1."), "{head}");
    until("the log has it", || program.stderr().contains(&head)).await;
}
