//! A restart on sockets that outlive the process: no caller is refused, no request is forwarded twice.

use crate::support::program::{Folder, Launcher, Program, printed, run};
use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn the_next_process_serves_while_the_last_calls_of_the_old_one_end() {
    let upstream = Scripted::held();
    let folder = Folder::before(&upstream.url());
    let launcher = Launcher::bind();
    let old = launcher.start(&folder).serving().await;
    let first = acme()
        .post(CREATE, order("A-0001"))
        .request(&Clock::system());
    let calling = call(&launcher, first.clone());
    until("it is at GatePay", || upstream.count() == 1).await;

    let new = launcher.start(&folder);
    until("the next one waits for its turn", || {
        new.stderr().contains("waiting for the process before")
    })
    .await;
    old.terminate();
    let new = new.serving().await;
    assert!(!calling.is_finished(), "the old one still has a call");
    let second = acme()
        .post(CREATE, order("A-0002"))
        .request(&Clock::system());
    let next = call(&launcher, second);
    until("another goes through the next one", || {
        upstream.count() == 2
    })
    .await;
    let repeated = call(&launcher, first).await.unwrap();
    assert_eq!(
        repeated.refused(),
        (401, "replayed"),
        "the memory has one owner, who knows all"
    );

    upstream.release();
    assert_eq!(calling.await.unwrap().status, 200);
    assert_eq!(next.await.unwrap().status, 200);
    let (code, _, err) = old.end().await;
    assert_eq!(code, Some(0), "{err}");
    new.terminate();
    let (code, lines, err) = new.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(lines.lines().count(), 3, "each of the three once");
}

#[tokio::test]
async fn the_next_process_waits_for_the_file_of_the_store_until_the_last_calls_of_the_old_one_end()
{
    let upstream = Scripted::held();
    let folder = Folder::before(&upstream.url());
    folder.proxy(
        "timestamp = { future_ms = 300 }\n\
         store = { path = 'gatepay.db', max_skew_ms = 200 }",
    );
    let (said, code) = printed(&run(&[
        "store",
        "migrate",
        "--config",
        &folder.name("proxy.toml"),
    ]));
    assert_eq!(code, Some(0), "{said}");
    let launcher = Launcher::bind();
    let old = launcher.start(&folder).serving().await;
    old.until_ready().await;
    let first = acme()
        .post(CREATE, order("A-0001"))
        .request(&Clock::system());
    let calling = call(&launcher, first.clone());
    until("it is at GatePay", || upstream.count() == 1).await;

    let new = launcher.start(&folder);
    old.terminate();
    // SQLite itself waits five seconds for the other process.
    until("the next one waits for the file", || {
        new.stderr().contains("to close the store")
    })
    .await;
    let repeated = call(&launcher, first);
    upstream.release();
    assert_eq!(calling.await.unwrap().status, 200);
    let (code, _, err) = old.end().await;
    assert_eq!(code, Some(0), "{err}");
    let new = new.serving().await;
    assert_eq!(repeated.await.unwrap().refusal(), Some("replayed"));
    new.terminate();
    let (code, _, err) = new.end().await;
    assert_eq!(code, Some(0), "{err}");
}

/// On a connection of its own.
fn call(
    launcher: &Launcher,
    request: http::Request<http_body_util::Full<bytes::Bytes>>,
) -> tokio::task::JoinHandle<Answer> {
    let address = launcher.address();
    tokio::spawn(async move { Connection::open(address).await.send(request).await })
}

#[tokio::test]
async fn the_service_manager_is_notified_of_each_stage() {
    let folder = Folder::before(UNUSED);
    let launcher = Launcher::bind();
    let program = launcher.start(&folder).serving().await;
    let mut told = Vec::new();
    until("it serves, and goes on telling that it does", || {
        told.extend(launcher.told());
        told.iter().filter(|told| *told == "WATCHDOG=1").count() > 1
    })
    .await;
    assert!(told.contains(&"READY=1".to_owned()), "{told:?}");
    told.clear();
    program.hang_up();
    until("it reloads and is ready again", || {
        told.extend(launcher.told());
        let news: Vec<_> = told.iter().filter(|told| *told != "WATCHDOG=1").collect();
        news == ["RELOADING=1", "READY=1"]
    })
    .await;
    program.terminate();
    until("it ends", || {
        told.extend(launcher.told());
        told.contains(&"STOPPING=1".to_owned())
    })
    .await;
    assert_eq!(program.end().await.0, Some(0));
}

#[tokio::test]
async fn restarts_and_reloads_under_load_fail_no_request() {
    // Two restarts, four reloads and 4,000 requests; the next test has ten, fifty and 200,000.
    println!("{}", change_under_load(2, 2, 4_000).await);
}

#[tokio::test]
#[ignore = "takes minutes: ten restarts and fifty reloads under 200,000 requests"]
async fn ten_restarts_and_fifty_reloads_under_load_fail_no_request() {
    println!("{}", change_under_load(10, 5, 200_000).await);
}

/// Spreads restarts over the load, and this many reloads before each.
async fn change_under_load(restarts: usize, reloads: usize, calls: usize) -> String {
    let most = 4 * calls + 100_000;
    let upstream = Counting::start(most);
    let folder = folder_for_load(&upstream, 200);
    let launcher = Launcher::bind();
    let mut running = launcher.start(&folder).serving().await;
    let load = Load::on(launcher.address(), acme(), calls, most);
    let loading = tokio::spawn(Arc::clone(&load).run(16));
    let step = calls / (restarts * (reloads + 1) + 1);
    for restart in 0..restarts {
        let due = restart * (reloads + 1) * step;
        for reload in 1..=reloads {
            reached(&load, due + reload * step).await;
            reload_with(&folder, &running, reload).await;
        }
        reached(&load, due + (reloads + 1) * step).await;
        running = replace(&launcher, &folder, running).await;
    }
    load.enough();
    let report = loading.await.unwrap();
    running.terminate();
    let (code, lines, err) = running.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert!(
        report.failed.is_empty(),
        "{} failed: {:?}",
        report.failed.len(),
        &report.failed[..report.failed.len().min(5)]
    );
    let answered = report.answered;
    assert!((calls..most).contains(&answered), "{answered}");
    assert_eq!(upstream.got(1), answered, "each was forwarded once");
    assert_eq!(upstream.got(0), most - answered, "and nothing else was");
    assert_eq!(lines.lines().count(), answered, "and recorded once");
    assert!(
        report.sent_away >= restarts,
        "nobody was asked to go elsewhere: {report:?}"
    );
    let reloads = restarts * reloads;
    format!("{restarts} restarts, {reloads} reloads, {report:?}")
}

/// Gives a tenant another limit, and waits until the process has reached this generation. A signal triggers the reload,
/// or the process detects the change by polling.
async fn reload_with(folder: &Folder, program: &Program, number: usize) {
    let limit = 100_000 + number;
    folder.tenant(
        &acme(),
        &format!("limits = {{ in_flight = 1000, requests_per_second = {limit} }}"),
    );
    if number.is_multiple_of(2) {
        program.hang_up();
    }
    let applied = format!("gatepay_proxy_reloads_total{{result=\"applied\"}} {number}");
    let began = Instant::now();
    loop {
        let request = http::Request::get("/metrics").header("host", "admin");
        let request = request.body(http_body_util::Full::default()).unwrap();
        let metrics = Connection::open(program.admin).await.send(request).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        if metrics.lines().any(|line| line == applied) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{}", program.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Tells one process to end and starts the next, which serves as soon as the first has handed over.
async fn replace(launcher: &Launcher, folder: &Folder, old: Program) -> Program {
    old.terminate();
    let new = launcher.start(folder).serving().await;
    let (code, _, err) = old.end().await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("replay memory handed over"), "{err}");
    new
}

async fn reached(load: &Load, due: usize) {
    while load.done() < due {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A folder whose limits do not matter.
fn folder_for_load(upstream: &Counting, grace_ms: u64) -> Folder {
    let folder = Folder::before(&upstream.url());
    folder.edit("proxy.toml", "state_dir", "poll_ms = 500\nstate_dir");
    folder.edit(
        "proxy.toml",
        "grace_ms = 1",
        &format!("grace_ms = {grace_ms}"),
    );
    let limits = "requests_per_second = 100000, burst = 100000";
    let quota = format!("upstream = {{ quota = {{ {limits} }},");
    folder.edit("proxy.toml", "upstream = {", &quota);
    folder.tenant(
        &acme(),
        &format!("limits = {{ in_flight = 1000, {limits} }}"),
    );
    folder
}
