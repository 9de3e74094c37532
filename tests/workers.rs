use crate::support::program::Folder;
use crate::support::*;

#[tokio::test]
async fn a_worker_that_is_stuck_shows_in_readiness_metrics_and_log_until_it_turns_again() {
    let Some(wedge) = Wedge::build() else { return };
    let gatepay = GatePay::now();
    let program = wedge
        .serve(&Folder::before(&gatepay.url()), "worker-1")
        .await;
    let ready = program.admin("GET", "/ready").await;
    assert_eq!((ready.status, ready.body), (200, "ready\n".into()));
    assert_eq!(program.metric("workers_stalled").await, "0");

    wedge.stick();
    let said = program.ready_with(503).await;
    assert!(said.starts_with("stalled: 1 of 2 workers"), "{said}");
    assert_eq!(program.metric("workers_stalled").await, "1");
    assert_eq!(program.metric("worker_stalls_total").await, "1");
    assert_eq!(program.metric("ready").await, "0");
    assert_eq!(program.admin("GET", "/live").await.status, 200);
    let status = program.admin("GET", "/status").await.text();
    assert!(
        status.contains("workers have run no other task"),
        "{status}"
    );
    until("the log says so", || {
        program
            .stderr()
            .contains("has run no other task for a second")
    })
    .await;

    wedge.let_go();
    program.until_ready().await;
    assert_eq!(program.metric("workers_stalled").await, "0");
    assert_eq!(program.metric("ready").await, "1");
    until("the log says for how long", || {
        let log = program.stderr();
        let mut lines = log.lines();
        lines.any(|line| line.contains("a worker runs again") && line.contains("\"stalled\":\""))
    })
    .await;
    assert_eq!(program.metric("worker_stalls_total").await, "1");
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
}
