//! The real binary ends in the middle of load, in order or not, and all requests sent to it are sent again to the next
//! process: no forwarded request is forwarded again.

use crate::support::program::{Folder, Program, printed};
use crate::support::scripted::Scripted;
use crate::support::*;
use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::Request;
use http_body_util::Full;
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A signed request as an attacker on the path could have kept it.
type Captured = Request<Full<Bytes>>;

struct Load {
    callers: usize,
    /// How many requests are forwarded before the process ends.
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
    // Without a guard, even if a busy machine takes seconds to start the next process.
    let future_ms = LONG.future_ms;
    orderly(&Load { future_ms, ..SHORT }).await;
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
    // No guard is needed: the replay memory of the first process is known.
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
    // In the midst of the guard, and when the guard is over.
    let answers = say_again(second.address, &captured).await;
    assert!(answers.contains_key("starting"), "{answers:?}");
    let mut connection = Connection::open(second.address).await;
    let guard = Duration::from_millis(load.future_ms);
    loop {
        let signed = killed.elapsed();
        let fresh = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
        match connection.send(fresh).await.refused() {
            (200, _) => break,
            refused => assert_eq!(refused, (503, "starting")),
        }
        // The guard begins with the start, and refuses no stamp that is made after it.
        assert!(
            signed <= started + guard + Duration::from_millis(100),
            "refused after {signed:?}, of which {started:?} are the start"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outage = killed.elapsed();
    println!("killed, served again after {outage:?}, of which {started:?} are the start");
    let answers = say_again(second.address, &captured).await;
    assert_eq!(
        answers.keys().collect::<Vec<_>>(),
        ["starting"],
        "{answers:?}"
    );
    once_each(&upstream);
}

/// A configuration folder in which `state` does not exist yet, and whose guard is short.
fn unmarked(upstream: &Scripted) -> Folder {
    let folder = Folder::never_marked(&upstream.url(), INSTITUTION_SECRET, &[acme()]);
    folder.proxy("timestamp = { future_ms = 1500 }");
    folder
}

/// A refund that a process with this folder executes, once the guard is over. The process then ends in order.
async fn executes(folder: &Folder, upstream: &Scripted, number: &str) -> Captured {
    let program = Program::serve(folder).await;
    let before = upstream.count();
    let body = A_REFUND.replace("R-0001", number);
    let request = loop {
        let request = acme().post(REFUND, body.clone()).request(&Clock::system());
        let mut connection = Connection::open(program.address).await;
        match connection.send(request.clone()).await.refused() {
            (200, _) => break request,
            refused => assert_eq!(refused, (503, "starting")),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(upstream.count(), before + 1);
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
    request
}

/// A process with this folder executes none of these requests again, neither at once nor when it is ready.
async fn executes_nothing_again(folder: &Folder, upstream: &Scripted, sent: &[&Captured]) {
    let program = Program::serve(folder).await;
    let before = upstream.count();
    loop {
        let ready = program.admin("GET", "/ready").await.status == 200;
        for request in sent {
            let mut connection = Connection::open(program.address).await;
            let answer = connection.send((*request).clone()).await;
            assert_eq!(answer.outcome(), Some("unknown"), "{:?}", answer.refused());
        }
        if ready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(upstream.count(), before, "{}", program.stderr());
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
}

#[tokio::test]
async fn a_request_served_without_a_state_folder_is_not_executed_again_with_one() {
    let upstream = answering();
    let folder = unmarked(&upstream);
    folder.edit("proxy.toml", "state_dir = 'state'", "");
    let without = executes(&folder, &upstream, "R-0001").await;
    folder.proxy("state_dir = 'state'");
    executes_nothing_again(&folder, &upstream, &[&without]).await;
    // Nor with another folder, or the same folder by another configuration.
    folder.edit(
        "proxy.toml",
        "state_dir = 'state'",
        "state_dir = 'elsewhere'",
    );
    let elsewhere = executes(&folder, &upstream, "R-0002").await;
    folder.edit(
        "proxy.toml",
        "state_dir = 'elsewhere'",
        "state_dir = 'another'",
    );
    executes_nothing_again(&folder, &upstream, &[&without, &elsewhere]).await;
}

#[tokio::test]
async fn a_request_served_elsewhere_meanwhile_is_not_executed_again() {
    let upstream = answering();
    let folder = unmarked(&upstream);
    let here = executes(&folder, &upstream, "R-0001").await;
    folder.edit("proxy.toml", "state_dir = 'state'", "");
    let without = executes(&folder, &upstream, "R-0002").await;
    folder.proxy("state_dir = 'state'");
    executes_nothing_again(&folder, &upstream, &[&here, &without]).await;
}

#[tokio::test]
async fn a_state_folder_that_is_restored_from_a_copy_executes_nothing_again() {
    let upstream = answering();
    let folder = unmarked(&upstream);
    let [state, copy] = ["state", "copy"].map(|name| folder.path(name));
    let copy_all = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    let first = executes(&folder, &upstream, "R-0001").await;
    copy_all(&state, &copy);
    let second = executes(&folder, &upstream, "R-0002").await;
    fs::remove_dir_all(&state).unwrap();
    copy_all(&copy, &state);
    executes_nothing_again(&folder, &upstream, &[&first, &second]).await;
    // Into the existing folder, file by file.
    let third = executes(&folder, &upstream, "R-0003").await;
    copy_all(&copy.join("."), &state);
    executes_nothing_again(&folder, &upstream, &[&first, &second, &third]).await;
}

#[tokio::test]
async fn a_state_folder_that_is_moved_hands_its_memory_over() {
    let upstream = answering();
    let folder = Folder::before(&upstream.url());
    let request = executes(&folder, &upstream, "R-0001").await;
    fs::rename(folder.path("state"), folder.path("moved")).unwrap();
    folder.edit("proxy.toml", "state_dir = 'state'", "state_dir = 'moved'");
    let program = Program::serve(&folder).await;
    let mut connection = Connection::open(program.address).await;
    let answer = connection.send(request).await;
    assert_eq!(answer.refused(), (401, "replayed"));
    let fresh = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
    assert_eq!(connection.send(fresh).await.status, 200, "and nobody waits");
}

#[tokio::test]
async fn a_process_that_loses_its_state_folder_admits_no_more_requests() {
    let upstream = answering();
    let folder = Folder::before(&upstream.url());
    folder.proxy("timestamp = { future_ms = 0 }");
    let program = Program::serve(&folder).await;
    fs::remove_dir_all(folder.path("state")).unwrap();
    let began = Instant::now();
    loop {
        let call = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
        let answer = Connection::open(program.address).await.send(call).await;
        if answer.refused() == (503, "overloaded") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it goes on");
    }
    until("the log says why", || {
        program.stderr().contains("state_dir cannot be written")
    })
    .await;
}

#[tokio::test]
async fn a_world_accessible_state_folder_is_refused_with_a_remedy() {
    let folder = Folder::before(UNUSED);
    let state = folder.path("state");
    let refused = |says: &str| {
        for command in ["check", "serve"] {
            let (text, code) = printed(&folder.run(command));
            assert!(text.contains("state_dir") && text.contains(says), "{text}");
            assert_eq!(
                code,
                Some(if command == "serve" { 1 } else { 64 }),
                "{text}"
            );
        }
    };
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    refused("chmod o-w");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["used", "mark", "replay", "lock", "never-served"] {
        let path = state.join(name);
        let kept = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        symlink(folder.path("elsewhere"), &path).unwrap();
        refused("symbolic link");
        assert!(!folder.path("elsewhere").exists(), "{name}");
        fs::remove_file(&path).unwrap();
        if let Some(kept) = kept {
            fs::write(&path, kept).unwrap();
            refused("chmod o=");
            fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(printed(&folder.run("check")).1, Some(0));
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
    /// Calls from all callers at once, until the program ends; returns while the calls go on.
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
        // On a busy machine that may take a while, but the count still grows.
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

/// Sends all requests again, and counts the answers.
async fn say_again(address: SocketAddr, captured: &[Captured]) -> HashMap<String, usize> {
    let mut answers = HashMap::new();
    let mut connection = Connection::open(address).await;
    for request in captured {
        let answer = connection.send(request.clone()).await;
        if answer.refusal().is_some() {
            // The request may have been executed, so its outcome is not `not-executed`.
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
