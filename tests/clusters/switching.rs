//! Switching: an instance that leaves the store, one that joins it after a run without it, and one that starts without it.

use super::*;

/// Removes the store from the configuration, and returns the line.
fn leave_store(folder: &Folder) -> String {
    let text = std::fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let (store, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("store"));
    folder.file("proxy.toml", &rest.join("\n"));
    store.join("\n")
}

#[tokio::test]
async fn an_instance_that_leaves_the_store_refuses_stamps_that_the_others_may_have_admitted() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let leaving = Program::serve(&folders[0]).await;
    let other = Program::serve(&folders[1]).await;
    leaving.until_ready().await;
    other.until_ready().await;
    let executed = refund();
    assert_eq!(send(&other, &executed).await.refusal(), None);
    other.stop().await;
    leaving.stop().await;
    let before = gatepay.count();
    leave_store(&folders[0]);
    // The second start is in the guard of the first.
    for _ in 0..2 {
        let alone = Program::serve(&folders[0]).await;
        let copy = send(&alone, &executed).await;
        assert!(copy.refusal().is_some(), "{}", copy.text());
        assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
        alone.stop().await;
    }
    assert_eq!(gatepay.count(), before);
    // The guard ends.
    let alone = Program::serve(&folders[0]).await;
    admits(&alone).await;
    alone.stop().await;
    let alone = Program::serve(&folders[0]).await;
    // A restart that takes longer than timestamp.future_ms has a guard of its own.
    admits(&alone).await;
    assert_eq!(send(&alone, &refund()).await.refusal(), None);
    let log = alone.stop().await;
    assert!(!log.contains("the last run had a store"), "{log}");
}

#[tokio::test]
async fn what_an_instance_admitted_before_it_had_the_store_is_refused_by_the_others_once_it_joins()
{
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let store = leave_store(&folders[0]);
    let other = Program::serve(&folders[1]).await;
    other.until_ready().await;
    admits(&other).await;
    let joining = Program::serve(&folders[0]).await;
    joining.until_ready().await;
    let executed = refund();
    assert_eq!(send(&joining, &executed).await.refusal(), None);
    joining.stop().await;
    let before = gatepay.count();
    folders[0].proxy(&store);
    let joining = Program::serve(&folders[0]).await;
    for program in [&other, &joining] {
        let copy = send(program, &executed).await;
        assert!(copy.refusal().is_some(), "{}", copy.text());
        assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
    }
    assert_eq!(gatepay.count(), before);
    admits(&other).await;
    admits(&joining).await;
}
