//! One process with its store in a SQLite file.

use std::fs;

use super::*;
use crate::support::program::{printed, run};

/// A folder with a store in the file `state/gatepay.db`, migrated by the command.
fn file_folder(gatepay: &GatePay) -> Folder {
    let folder = Folder::before(&gatepay.url());
    folder.proxy(
        "timestamp = { future_ms = 300 }\n\
         store = { path = 'store/gatepay.db', max_skew_ms = 200 }",
    );
    fs::create_dir(folder.path("store")).unwrap();
    let (said, code) = store_command(&folder, "migrate");
    assert_eq!(code, Some(0), "{said}");
    folder
}

/// Waits until a start relies on the store for all stamps of the present run.
async fn until_joined(folder: &Folder) {
    until("the store has all stamps of this run", || {
        folder.path("state/store-joined").exists()
    })
    .await;
}

fn store_command(folder: &Folder, command: &str) -> (String, Option<i32>) {
    let config = folder.name("proxy.toml");
    printed(&run(&["store", command, "--config", &config]))
}

/// Copies the file and its log aside, or back.
fn copy(folder: &Folder, from: &str, to: &str) {
    for end in ["db", "db-wal"] {
        let (from, to) = (
            folder.path(&format!("{from}/gatepay.{end}")),
            folder.path(&format!("{to}/gatepay.{end}")),
        );
        let _ = fs::remove_file(&to);
        if from.exists() {
            fs::copy(from, to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_process_with_a_file_admits_once_suspends_and_starts_again_without_a_wait() {
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    let mode = {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = fs::metadata(folder.path("store/gatepay.db")).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode, 0o600, "it holds the fingerprints' key");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    let copy = send(&program, &executed).await;
    assert_eq!(copy.refusal(), Some("replayed"));
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let view = program.admin("GET", "/cluster").await.json();
    assert_eq!(view["halts"][0]["scope"], "suspended:acme", "{view}");
    // The crash loses nothing.
    program.signal("-KILL");
    let _ended = program.end().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let copy = send(&program, &executed).await;
    assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
    let refused = send(&program, &refund()).await;
    assert_eq!(refused.refusal(), Some("tenant_suspended"));
    let said = program.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    program.stop().await;
    let (said, code) = store_command(&folder, "check");
    assert_eq!(code, Some(0), "{said}");
}

/// A refund that is refused before the store is asked.
fn refused_here(stamp_ms: u64) -> Request<Full<Bytes>> {
    let twice = r#"{"refundRequestId":"r7","prepayId":"1","refundAmount":"1","refundAmount":"2"}"#;
    signed(&acme().post(REFUND, twice).timestamp(&stamp_ms))
}

fn now_ms() -> u64 {
    Clock::system().unix_ms()
}

/// Further ahead than any stamp that can have been admitted.
const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_refusal_says_not_executed_unless_an_earlier_run_with_the_file_may_have_admitted_a_copy()
{
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(refused.refusal(), Some("stale_timestamp"));
    assert_eq!(
        refused.outcome(),
        Some("unknown"),
        "this folder knows of no run before"
    );
    until_joined(&folder).await;
    let early_ms = now_ms();
    program.stop().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(refused.outcome(), Some("not-executed"));
    let refused = send_once(&program, &refused_here(early_ms)).await;
    assert_eq!(refused.refusal(), Some("invalid_body"));
    assert_eq!(
        refused.outcome(),
        Some("unknown"),
        "the run before may have admitted its stamp"
    );
    // Once stamps are later than any that the run before can have admitted.
    let begun = Instant::now();
    loop {
        let refused = send_once(&program, &refused_here(now_ms())).await;
        assert_eq!(refused.refusal(), Some("invalid_body"));
        if refused.outcome() == Some("not-executed") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", refused.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    // The crash leaves no memory. The next run refuses what this one has executed, and does not call it not executed.
    program.signal("-KILL");
    let _ended = program.end().await;
    folder.tenant(&acme(), "standing = 'read_only'");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let copy = send_once(&program, &executed).await;
    let refusal = copy.refusal();
    assert_eq!(refusal, Some("operation_not_allowed"), "{}", copy.text());
    assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
    let copy = send_once(&program, &on_path_of_read(&executed)).await;
    assert!(copy.refusal().is_some(), "{}", copy.text());
    assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
}

/// A copy on the path of a read, which is refused: the signature does not cover the path.
fn on_path_of_read(executed: &Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let mut on_read = executed.clone();
    *on_read.uri_mut() = QUERY.parse().unwrap();
    let headers = on_read.headers_mut();
    headers.insert("x-gatepay-on-behalf-of", "1".parse().unwrap());
    on_read
}

#[tokio::test]
async fn a_copy_of_a_crashed_run_s_write_is_in_doubt_on_the_path_of_a_read_whoever_else_had_the_file()
 {
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    until_joined(&folder).await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    program.signal("-KILL");
    let _ended = program.end().await;
    // Without it the file counts as put back, so that any run may have had it.
    fs::remove_file(folder.path("state/store-contact")).unwrap();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let before = gatepay.count();
    let copy = send_once(&program, &on_path_of_read(&executed)).await;
    assert!(copy.refusal().is_some(), "{}", copy.text());
    assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
    assert_eq!(gatepay.count(), before);
}

#[tokio::test]
async fn a_file_that_is_exchanged_while_it_is_in_use_admits_nothing_more() {
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    let before = gatepay.count();
    let (file, copy) = (folder.path("store/gatepay.db"), folder.path("copy.db"));
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    let refused = send_once(&program, &refund()).await;
    let refusal = refused.refusal();
    assert_eq!(refusal, Some("store_unavailable"), "{}", refused.text());
    assert_eq!(gatepay.count(), before);
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(
        said.status,
        503,
        "the next start does not have it: {}",
        said.text()
    );
    let log = program.stop().await;
    assert!(log.contains("restart this instance"), "{log}");
    assert!(!log.contains("the store admits again"), "{log}");
}

#[tokio::test]
async fn a_refusal_does_not_say_not_executed_once_another_process_may_have_the_file() {
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    until_joined(&folder).await;
    program.stop().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(refused.outcome(), Some("not-executed"));
    let (file, away) = (
        folder.path("store/gatepay.db"),
        folder.path("store/away.db"),
    );
    fs::rename(&file, &away).unwrap();
    // No sign of life has to notice it before.
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(refused.outcome(), Some("unknown"));
    fs::rename(&away, &file).unwrap();
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(refused.outcome(), Some("unknown"), "it was away");
    let refused = send_once(&program, &refund()).await;
    let refusal = refused.refusal();
    assert_eq!(refusal, Some("store_unavailable"), "{}", refused.text());
}

#[tokio::test]
async fn a_file_that_was_put_back_refuses_money_until_it_is_distrusted() {
    let gatepay = GatePay::now();
    let folder = file_folder(&gatepay);
    fs::create_dir(folder.path("copy")).unwrap();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    program.stop().await;
    copy(&folder, "store", "copy");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    program.stop().await;
    copy(&folder, "copy", "store");

    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let before = gatepay.count();
    let refused = send_once(&program, &refund()).await;
    assert_eq!(refused.refused(), (503, "store_unavailable"));
    assert_eq!(refused.outcome(), Some("unknown"));
    let copied = send_once(&program, &executed).await;
    assert!(copied.refusal().is_some(), "{}", copied.text());
    assert_eq!(copied.outcome(), Some("unknown"));
    let refused = send_once(&program, &refused_here(now_ms() + HOUR_MS)).await;
    assert_eq!(
        refused.outcome(),
        Some("unknown"),
        "any run may have had the file"
    );
    assert_eq!(gatepay.count(), before);
    let read = send(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(read.refusal(), None, "reads go on");
    let log = program.stop().await;
    assert!(log.contains("store distrust"), "{log}");

    let (said, code) = store_command(&folder, "distrust");
    assert_eq!(code, Some(0), "{said}");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    let copied = send(&program, &executed).await;
    assert_eq!(copied.outcome(), Some("unknown"), "{}", copied.text());
    assert_eq!(gatepay.count(), before + 2);
}
