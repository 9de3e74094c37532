use gatepay_proxy::process::clock::Clock;

use crate::support::program::{Folder, Program};
use crate::support::*;

/// A folder whose proxy drains within this deadline, and keeps an audit journal.
fn folder(gatepay: &GatePay, deadline_ms: u32) -> Folder {
    let folder = Folder::before(&gatepay.url());
    let drain = format!("grace_ms = 1, deadline_ms = {deadline_ms}");
    folder.edit("proxy.toml", "grace_ms = 1", &drain);
    folder.keeps_a_journal();
    folder
}

/// Whether the process has ended; checked without waiting for the process.
fn is_gone(program: &Program) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", program.id()));
    // The state stands behind the name: Z for a process that has ended and was not waited for.
    status.map_or(true, |status| {
        status.rsplit(')').next().unwrap().trim().starts_with('Z')
    })
}

async fn executes_an_order(program: &Program, number: &str) {
    let request = acme().post(CREATE, order(number)).request(&Clock::system());
    let answer = Connection::open(program.address).await.send(request).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_thread_that_is_stuck_does_not_keep_the_process_from_ending() {
    let Some(wedge) = Wedge::build() else { return };
    let gatepay = GatePay::now();
    for thread in ["worker-0", "worker-1", "control", "journal"] {
        in_one_of_some_looks(async || {
            let folder = folder(&gatepay, 500);
            let program = wedge.serve(&folder, thread).await;
            executes_an_order(&program, thread).await;
            wedge.stick();
            program.terminate();
            until("it ends", || is_gone(&program)).await;
            let (code, out, err) = program.end().await;
            wedge.let_go();
            assert_eq!(code, Some(2), "{thread}: {err}");
            assert!(err.contains("does not"), "{thread}: {err}");
            // The other threads' output is written, unless the machine stalls for the whole of the deadline.
            let lines = out.lines().count();
            let has_ended = folder.journal().contains("ended");
            let has_memory = folder.path("state/replay").exists();
            assert!(!has_ended || thread != "journal");
            if_so(
                lines == 1 && has_ended == (thread != "journal") && has_memory,
                || format!("{thread}: {lines} lines, {has_ended}, {has_memory}: {err}"),
            )
        })
        .await;
    }
}

#[tokio::test]
async fn a_thread_that_only_reads_files_or_writes_access_lines_does_not_make_the_end_late() {
    let Some(wedge) = Wedge::build() else { return };
    let gatepay = GatePay::now();
    for thread in ["reload", "access-log"] {
        let folder = folder(&gatepay, 20_000);
        let program = wedge.serve(&folder, thread).await;
        executes_an_order(&program, thread).await;
        wedge.stick();
        program.hang_up();
        program.terminate();
        until("it ends", || is_gone(&program)).await;
        let (code, _, err) = program.end().await;
        assert_eq!(code, Some(0), "{thread}: {err}");
        assert!(folder.journal().contains("ended"), "{thread}");
        wedge.let_go();
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_although_a_thread_is_stuck_and_a_third_ends_the_process_at_once()
 {
    let Some(wedge) = Wedge::build() else { return };
    let gatepay = GatePay::now();
    for signals in [2, 3] {
        let folder = folder(&gatepay, 600_000);
        let program = wedge.serve(&folder, "worker-0").await;
        wedge.stick();
        for said in &["signal received: draining", "second signal", "third signal"][..signals] {
            program.terminate();
            until(said, || {
                program.stderr().contains(said) || is_gone(&program)
            })
            .await;
        }
        until("it ends", || is_gone(&program)).await;
        let (code, _, err) = program.end().await;
        assert_eq!(code, Some(2), "{err}");
        wedge.let_go();
    }
}
