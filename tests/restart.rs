//! A restart on sockets that outlive the process: nobody is refused, nothing is forwarded twice.

use crate::support::program::{Folder, Launcher, Program};
use crate::support::*;
use std::sync::Arc;

#[tokio::test]
async fn a_restart_under_load_fails_nobody() {
    // Two restarts and 3,000 requests; the next test has ten and 200,000.
    println!("{}", restart_under_load(2, 3_000).await);
}

#[tokio::test]
#[ignore = "takes minutes: ten restarts under 200,000 requests"]
async fn nor_do_ten_restarts() {
    println!("{}", restart_under_load(10, 200_000).await);
}

/// Spreads restarts over the load.
async fn restart_under_load(restarts: usize, calls: usize) -> String {
    let upstream = Counting::start(calls);
    let folder = folder_for_load(&upstream, 200);
    let launcher = Launcher::bind();
    let mut running = launcher.start(&folder).serving().await;
    let load = Load::on(launcher.address(), acme(), calls);
    let loading = tokio::spawn(Arc::clone(&load).run(16));
    for number in 1..=restarts {
        let due = number * calls / (restarts + 1);
        reached(&load, due).await;
        running = replace(&launcher, &folder, running).await;
    }
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
    assert_eq!(
        (report.answered, upstream.got(1)),
        (calls, calls),
        "each was forwarded once"
    );
    assert_eq!(lines.lines().count(), calls, "and recorded once");
    assert!(
        report.sent_away >= restarts,
        "nobody was asked to go elsewhere: {report:?}"
    );
    format!("{restarts} restarts, {report:?}")
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
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A folder whose limits do not matter.
fn folder_for_load(upstream: &Counting, grace_ms: u64) -> Folder {
    let folder = Folder::before(&upstream.url());
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
