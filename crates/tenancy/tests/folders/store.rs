//! `[store]` of `proxy.toml`.

use gatepay_tenancy::settings::{StoreEngine, StoreFailover};

use crate::support::folder;

/// The problems of a proxy.toml that has a state folder and this store.
fn problems(store: &str) -> Vec<String> {
    let folder = folder().proxy(&format!("state_dir = 'state'\n[store]\n{store}\n"));
    let problems = folder.problems();
    let text = |problem: &String| {
        problem
            .rsplit_once("proxy.toml:")
            .map(|(_, text)| text.to_owned())
    };
    problems.iter().filter_map(text).collect()
}

fn problem(store: &str) -> String {
    let mut problems = problems(store);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let text = problems.remove(0);
    text.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn a_store_is_a_server_or_a_file_with_the_documented_defaults() {
    let server = "store = { postgres = 'host=db1,db2 dbname=gatepay user=serve' }";
    let loaded = folder()
        .proxy(&format!("state_dir = 'state'\n{server}\n"))
        .loads();
    let store = loaded.settings.store.unwrap();
    let StoreEngine::Postgres(server) = &store.engine else {
        panic!("a server was named")
    };
    assert_eq!(server.conninfo, "host=db1,db2 dbname=gatepay user=serve");
    assert!(server.password.is_none() && server.ca.is_none() && !server.plaintext);
    assert_eq!(store.failover, StoreFailover::Guarded);
    assert_eq!(
        (store.timeout.as_millis(), store.max_skew_ms),
        (1_000, 1_000)
    );
    assert_eq!(store.instances_max.get(), 8);
    assert!(!store.reads_without_store);
    assert!(folder().loads().settings.store.is_none());
}

#[test]
fn a_store_needs_exactly_one_engine() {
    let text = "store.postgres: must be set, or else path: exactly one of the two";
    assert_eq!(problem("timeout_ms = 5"), text);
    assert_eq!(problem("path = 'a.db'\npostgres = 'dbname=a'"), text);
    assert_eq!(
        problem("path = 'a.db'\nplaintext = true"),
        "store.plaintext: requires postgres, which is not set"
    );
}

#[test]
fn a_quota_that_instances_share_has_a_burst_for_each_of_them() {
    let quota = |burst: u32, store: &str| {
        let lines = format!("state_dir = 'state'\nupstream = {{ quota = {{ burst = {burst} }} }}");
        folder().proxy(&format!("{lines}\nstore = {{ {store} }}\n"))
    };
    let problems = quota(8, "postgres = 'dbname=a'").problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let text = "upstream.quota.burst: must be more than store.instances_max, 8: instances share it, and each needs one request of it";
    assert!(problems[0].ends_with(text), "{problems:?}");
    quota(9, "postgres = 'dbname=a'").loads();
    quota(2, "postgres = 'dbname=a', instances_max = 1").loads();
    quota(1, "path = 'a.db'").loads();
}

#[test]
fn a_connection_string_holds_no_password_and_no_error_shows_it() {
    for text in [
        "dbname=a password=hunter22",
        "dbname=a PassWord = 'hunter22'",
        "sslpassword=hunter22",
        "postgres://serve:hunter22@db/gatepay",
    ] {
        let said = problem(&format!("postgres = \"{text}\""));
        assert!(said.starts_with("store.postgres: must "), "{said}");
        assert!(!said.contains("hunter22"), "{said}");
    }
    let inline = problem("postgres = 'dbname=a'\npassword = 'hunter22'");
    assert!(
        inline.contains("inline secrets are not allowed"),
        "{inline}"
    );
    assert!(!inline.contains("hunter22"), "{inline}");
}

#[test]
fn a_store_needs_a_state_folder() {
    let problems = folder().proxy("store.postgres = 'dbname=a'").problems();
    assert!(
        problems[0].contains("store: requires state_dir"),
        "{problems:?}"
    );
}
