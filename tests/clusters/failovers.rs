//! Failovers and restores of the store under instances that go on: an executed call is not sent again.

#![expect(
    clippy::print_stderr,
    reason = "the time until instances serve again is printed"
)]

use super::*;
use crate::support::postgres::{StandbyMode, until as server_until};
use crate::support::postgres_relay::PgRelay;

/// A money call that the upstream of these tests counts by its number.
fn call(number: usize) -> Request<Full<Bytes>> {
    signed(&acme().post(CREATE, order(&format!("L-{number}"))))
}

/// Two instances with a store on any of these servers.
async fn pair(upstream: &Counting, ports: &[u16]) -> [Instance; 2] {
    instances([0, 1].map(|_| folder_at(&upstream.url(), ports, ""))).await
}

/// The same with a store that loses no commit.
async fn lossless_pair(upstream: &Counting, ports: &[u16]) -> [Instance; 2] {
    let folder = || folder_at(&upstream.url(), ports, r#", failover = "lossless""#);
    instances([folder(), folder()]).await
}

/// Lets the store lend seats after a crash by the word of all instances only, and never after five seconds without it.
fn waits_for_all_words(server: &PgServer) {
    let function = "'gatepay.tick_limits'::regproc";
    server.sql(&format!(
        "DO $$ BEGIN EXECUTE replace(pg_get_functiondef({function}), 'o_now >= 5000', 'false'); END $$"
    ));
    let is_so = format!(
        "SELECT count(*) FROM pg_proc WHERE oid = {function} AND prosrc LIKE '%OR false;%'"
    );
    assert_eq!(server.sql(&is_so), "1");
}

/// Waits until both instances serve again. The store [waits](waits_for_all_words) for the word of both, so they need not wait
/// for the five seconds; the promise is two seconds on a machine that is not busy.
async fn serve_soon(programs: &[Instance; 2], since: Instant, what: &str) {
    admits(&programs[0]).await;
    admits(&programs[1]).await;
    let out = since.elapsed();
    eprintln!("{what}: served again after {} ms", out.as_millis());
}

/// Sends calls with these numbers through one instance; returns those that it forwarded.
async fn execute(
    program: &Program,
    numbers: impl IntoIterator<Item = usize>,
) -> Vec<Request<Full<Bytes>>> {
    let mut executed = Vec::new();
    for number in numbers {
        let request = call(number);
        let answer = send(program, &request).await;
        assert_eq!(answer.refusal(), None, "{}", answer.text());
        executed.push(request);
    }
    executed
}

/// Sends calls again at both instances: none is forwarded, and none is reported as not executed.
async fn none_again(programs: &[Instance; 2], executed: &[Request<Full<Bytes>>]) {
    for program in programs {
        let mut caller = Connection::open(program.address).await;
        for request in executed {
            let copy = caller.send(request.clone()).await;
            assert!(copy.refusal().is_some(), "{}", copy.text());
            assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
        }
    }
}

/// Waits until both instances serve, and sends one new call at each.
async fn serve_again(programs: &[Instance; 2], numbers: [usize; 2]) {
    for (program, number) in programs.iter().zip(numbers) {
        admits(program).await;
        execute(program, [number]).await;
    }
}

/// Sends calls again at once, during and after the guard; then all go on.
async fn survives(programs: &[Instance; 2], executed: &[Request<Full<Bytes>>], new: [usize; 2]) {
    none_again(programs, executed).await;
    admits(&programs[0]).await;
    admits(&programs[1]).await;
    none_again(programs, executed).await;
    serve_again(programs, new).await;
}

/// How often a guard began, as the instances saw it.
async fn guards(programs: &[Instance; 2]) -> u32 {
    let mut guards = 0;
    for program in programs {
        guards += program
            .metric("store_lives_total")
            .await
            .parse::<u32>()
            .unwrap();
    }
    guards
}

#[tokio::test]
async fn a_primary_killed_with_a_synchronous_standby_loses_no_call() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut primary) = (Counting::start(100), PgServer::migrated().await);
    let standby = primary.standby(StandbyMode::Synchronous);
    let programs = pair(&upstream, &[primary.port, standby.port]).await;
    let executed = execute(&programs[0], 0..30).await;
    primary.kill();
    standby.promote();
    // It waits for no standby any more.
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    standby.sql("SELECT pg_reload_conf()");
    let promoted = Instant::now();
    none_again(&programs, &executed).await;
    serve_again(&programs, [30, 31]).await;
    let out = promoted.elapsed();
    eprintln!(
        "promotion with a guard: served again after {} ms",
        out.as_millis()
    );
    none_again(&programs, &executed).await;
    assert_eq!((upstream.got(1), upstream.got(2)), (32, 0));
}

#[tokio::test]
async fn stamps_that_an_asynchronous_failover_lost_are_not_used_again() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut primary) = (Counting::start(100), PgServer::migrated().await);
    let link = PgRelay::start(primary.port);
    let standby = primary.standby_by_way_of(link.port, StandbyMode::Asynchronous);
    let programs = pair(&upstream, &[primary.port, standby.port]).await;
    link.hold(true);
    let before = guards(&programs).await;
    let lost = execute(&programs[0], 0..30).await;
    primary.kill();
    link.sever();
    standby.promote();
    assert_eq!(
        standby.sql("SELECT count(*) FROM gatepay.stamp"),
        "0",
        "they are lost"
    );
    survives(&programs, &lost, [30, 31]).await;
    assert!(guards(&programs).await > before);
    assert_eq!((upstream.got(1), upstream.got(2)), (32, 0));
}

#[tokio::test]
async fn a_primary_that_was_paused_over_a_failover_admits_nothing_when_it_goes_on() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, old) = (Counting::start(100), PgServer::migrated().await);
    let new = old.standby(StandbyMode::Synchronous);
    let ports = [old.port, new.port];
    let folder = || folder_within(LIMIT, &upstream.url(), &ports, "");
    let programs = instances([folder(), folder()]).await;
    let executed = execute(&programs[0], 0..20).await;
    old.pause();
    new.promote();
    new.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    new.sql("SELECT pg_reload_conf()");
    tokio::time::sleep(Duration::from_secs(1)).await;
    old.resume();
    // The old one may be asked first again: its commits wait for a standby that has left it. It is fenced then.
    none_again(&programs, &executed).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    none_again(&programs, &executed).await;
    assert_eq!((upstream.got(1), upstream.got(2)), (20, 0));
}

#[tokio::test]
async fn a_data_directory_put_back_is_recognized_and_no_call_is_sent_again() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Counting::start(100), PgServer::migrated().await);
    let programs = pair(&upstream, &[server.port]).await;
    server.stop();
    server.save("snapshot");
    server.start_again();
    // Both have seen more of it than the copy has.
    admits(&programs[0]).await;
    admits(&programs[1]).await;
    let before = guards(&programs).await;
    let lost = execute(&programs[0], 0..20).await;
    server.kill();
    server.restore("snapshot");
    server.start_again();
    assert_eq!(
        server.sql("SELECT count(*) FROM gatepay.stamp"),
        "0",
        "they are lost"
    );
    survives(&programs, &lost, [20, 21]).await;
    assert!(guards(&programs).await > before);
    assert_eq!((upstream.got(1), upstream.got(2)), (22, 0));
}

/// Waits until the store has the suspension of acme. No call of acme's is answered meanwhile, and none after it.
async fn is_suspended_again(programs: &[Instance], server: &PgServer) {
    let halts = "SELECT string_agg(scope, ',') FROM gatepay.halt";
    let begun = Instant::now();
    let mut has_it = false;
    while !has_it {
        assert!(begun.elapsed() < PATIENCE, "{}", programs[0].stderr());
        has_it = server.sql(halts) == "suspended:acme";
        for program in programs {
            let refused = send_once(program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
            assert!(refused.refusal().is_some(), "{}", refused.text());
        }
    }
    for program in programs {
        let begun = Instant::now();
        loop {
            let refused = send_once(program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
            match refused.refusal() {
                Some("tenant_suspended") => break,
                slug => assert!(slug.is_some(), "{}", refused.text()),
            }
            assert!(begun.elapsed() < PATIENCE, "{}", refused.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn suspends_acme(program: &Program) {
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
}

async fn resumes_acme(program: &Program) {
    let said = program.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
}

#[tokio::test]
async fn a_suspension_that_an_asynchronous_failover_lost_is_in_force_again_until_a_resume() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut primary) = (Counting::start(10), PgServer::migrated().await);
    let link = PgRelay::start(primary.port);
    let standby = primary.standby_by_way_of(link.port, StandbyMode::Asynchronous);
    let programs = pair(&upstream, &[primary.port, standby.port]).await;
    link.hold(true);
    suspends_acme(&programs[0]).await;
    primary.kill();
    link.sever();
    standby.promote();
    is_suspended_again(&programs, &standby).await;
    until("a log has it", || {
        let mut logs = programs.iter().map(|program| program.stderr());
        logs.any(|log| log.contains("the store had lost halts"))
    })
    .await;
    resumes_acme(&programs[1]).await;
    // No instance brings it back after that.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    serve_again(&programs, [0, 1]).await;
    assert_eq!(standby.sql("SELECT count(*) FROM gatepay.halt"), "0");
}

#[tokio::test]
async fn a_suspension_that_a_snapshot_put_back_has_lost_is_brought_back_by_the_next_run() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Counting::start(10), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder_at(&upstream.url(), &[server.port], ""));
    let programs = Program::serve_all(&folders).await;
    server.stop();
    server.save("snapshot");
    server.start_again();
    for program in &programs {
        program.until_ready().await;
    }
    suspends_acme(&programs[0]).await;
    for program in programs {
        program.stop().await;
    }
    server.kill();
    server.restore("snapshot");
    server.start_again();
    let programs = instances(folders).await;
    is_suspended_again(&programs, &server).await;
    resumes_acme(&programs[0]).await;
    serve_again(&programs, [0, 1]).await;
}

#[tokio::test]
async fn after_a_switchover_instances_leave_the_read_only_server_without_a_restart() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, old) = (Counting::start(100), PgServer::migrated().await);
    let new = old.standby(StandbyMode::Asynchronous);
    let programs = pair(&upstream, &[old.port, new.port]).await;
    let executed = execute(&programs[0], 0..10).await;
    let position = old.sql("SELECT pg_current_wal_lsn()");
    server_until("the standby has it", || {
        new.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")) == "t"
    });
    new.promote();
    old.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    old.sql("SELECT pg_reload_conf()");
    server_until("it is read-only", || {
        old.sql("SHOW transaction_read_only") == "on"
    });
    let switched = Instant::now();
    serve_again(&programs, [10, 11]).await;
    let out = switched.elapsed();
    eprintln!(
        "switchover with a guard: served again after {} ms",
        out.as_millis()
    );
    none_again(&programs, &executed).await;
    assert_eq!((upstream.got(1), upstream.got(2)), (12, 0));
}

#[tokio::test]
async fn with_a_lossless_store_both_instances_serve_soon_after_a_promotion() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut primary) = (Counting::start(100), PgServer::migrated().await);
    let standby = primary.standby(StandbyMode::Synchronous);
    let programs = lossless_pair(&upstream, &[primary.port, standby.port]).await;
    let executed = execute(&programs[0], 0..10).await;
    waits_for_all_words(&primary);
    primary.kill();
    standby.promote();
    let promoted = Instant::now();
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    standby.sql("SELECT pg_reload_conf()");
    serve_soon(&programs, promoted, "promotion").await;
    none_again(&programs, &executed).await;
    assert_eq!(upstream.got(2), 0);
}

#[tokio::test]
async fn with_a_lossless_store_both_instances_serve_soon_after_a_switchover() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, old) = (Counting::start(100), PgServer::migrated().await);
    let new = old.standby(StandbyMode::Synchronous);
    let programs = lossless_pair(&upstream, &[old.port, new.port]).await;
    let executed = execute(&programs[0], 0..10).await;
    waits_for_all_words(&old);
    let position = old.sql("SELECT pg_current_wal_lsn()");
    server_until("the standby has it", || {
        new.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")) == "t"
    });
    old.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    old.sql("SELECT pg_reload_conf()");
    server_until("it is read-only", || {
        old.sql("SHOW transaction_read_only") == "on"
    });
    new.promote();
    let switched = Instant::now();
    new.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    new.sql("SELECT pg_reload_conf()");
    serve_soon(&programs, switched, "switchover").await;
    none_again(&programs, &executed).await;
    assert_eq!(upstream.got(2), 0);
}

#[tokio::test]
async fn after_a_crash_of_the_server_both_instances_serve_soon_after_its_return() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Counting::start(100), PgServer::migrated().await);
    let programs = pair(&upstream, &[server.port]).await;
    let executed = execute(&programs[0], 0..10).await;
    waits_for_all_words(&server);
    admits(&programs[1]).await;
    server.kill();
    // Until both have met it.
    none_again(&programs, &executed).await;
    server.start_again();
    serve_soon(&programs, Instant::now(), "crash").await;
    none_again(&programs, &executed).await;
    assert_eq!(upstream.got(2), 0);
}

/// The calls of one life of a primary.
const CALLS: usize = 200;

/// Kills the primary under load so often, each time with a new synchronous standby.
#[tokio::test]
#[ignore = "takes minutes"]
async fn a_primary_killed_twenty_times_loses_no_call() {
    if postgres::is_missing() {
        return;
    }
    for _ in 0..20 {
        let (upstream, mut primary) = (Counting::start(CALLS + 2), PgServer::migrated().await);
        let standby = primary.standby(StandbyMode::Synchronous);
        let programs = pair(&upstream, &[primary.port, standby.port]).await;
        let executed = execute(&programs[0], 0..CALLS).await;
        primary.kill();
        standby.promote();
        standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        standby.sql("SELECT pg_reload_conf()");
        survives(&programs, &executed, [CALLS, CALLS + 1]).await;
        assert_eq!((upstream.got(1), upstream.got(2)), (CALLS + 2, 0));
    }
}
