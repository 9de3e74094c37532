//! The commands about the store that instances share, and `serve` before a store that it cannot use.

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use gatepay_store::postgres::{NEWEST_SCHEMA, OLDEST_SCHEMA};
use serde_json::Value;

use crate::support::postgres::{self, PgServer, StandbyMode};
use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;

/// The password of every role but the superuser's.
const PASSWORD: &str = "not-to-be-printed";

/// The connection string of a role.
fn conninfo(server: &PgServer, user: &str) -> String {
    let port = server.port;
    format!("host=127.0.0.1 port={port} dbname=postgres user={user}")
}

/// A folder with this table `[store]`, and the password in a file.
fn folder(store: &str) -> Folder {
    let folder = Folder::before(UNUSED);
    folder.secret("store", PASSWORD);
    folder.proxy(&format!(
        "timestamp = {{ future_ms = 1_000 }}\nstore = {{ {store} }}"
    ));
    folder
}

/// A folder before this server, as this role with its password, with more keys for `[store]`.
fn of(server: &PgServer, user: &str, more: &str) -> Folder {
    let conninfo = conninfo(server, user);
    folder(&format!(
        "postgres = '{conninfo}', password = {{ file = 'secrets/store.key' }}, timeout_ms = 10_000{more}"
    ))
}

/// A server with an owner of the tables and a role that serves, both with a password.
fn with_roles() -> PgServer {
    let server = PgServer::start();
    server.sql(&format!(
        "CREATE ROLE gatepay_owner LOGIN PASSWORD '{PASSWORD}';
        CREATE ROLE gatepay_serve LOGIN PASSWORD '{PASSWORD}';
        GRANT CREATE ON DATABASE postgres TO gatepay_owner"
    ));
    server.require_passwords();
    server
}

fn store(folder: &Folder, words: &[&str]) -> Output {
    let config = folder.name("proxy.toml");
    run(&[&["store"], words, &["--config", &config]].concat())
}

/// What a command printed, and its exit code. The password is nowhere.
fn said(folder: &Folder, words: &[&str]) -> (String, Option<i32>) {
    let (text, code) = printed(&store(folder, words));
    assert!(!text.contains(PASSWORD), "{text}");
    (text, code)
}

/// Makes the tables as their owner, for the role that serves.
fn migrate(folder: &Folder) -> (String, Option<i32>) {
    let password = folder.name("secrets/store.key");
    let owner = ["--user", "gatepay_owner", "--password-file", &password];
    let serve = ["--serve-role", "gatepay_serve"];
    said(folder, &[&["migrate"], &owner[..], &serve].concat())
}

/// Like `migrate`, which must succeed.
fn migrated(folder: &Folder) {
    let (text, code) = migrate(folder);
    assert_eq!(code, Some(0), "{text}");
}

/// `serve`, which must not start: the last line of its log, and its exit code.
fn refused(folder: &Folder) -> (String, Option<i32>) {
    let (text, code) = printed(&folder.run("serve"));
    assert!(!text.contains(PASSWORD), "{text}");
    let last = text.lines().last().unwrap_or_default();
    (last.to_owned(), code)
}

#[tokio::test]
async fn the_owner_makes_the_tables_once_and_the_role_that_serves_uses_them() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let folder = of(&server, "gatepay_serve", "");
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    let missing = "problem: there are no tables yet; run `gatepay-proxy store migrate`";
    assert!(text.contains(missing), "{text}");
    let (line, code) = refused(&folder);
    assert_eq!(code, Some(1), "{line}");
    assert_eq!(
        line,
        "cannot start: store: there are no tables yet; run `gatepay-proxy store migrate`"
    );

    let (text, code) = migrate(&folder);
    assert_eq!(code, Some(0), "{text}");
    let place = format!(
        "PostgreSQL at 127.0.0.1:{}, database postgres, user gatepay_owner",
        server.port
    );
    for line in [
        place.as_str(),
        "schema 1 is made",
        "gatepay_serve may execute the functions and read the tables",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (text, code) = migrate(&folder);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("schema 1; nothing changes"), "{text}");
    // The role that serves changes no table.
    let (text, code) = said(&folder, &["migrate"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the user that migrates needs the right CREATE on the database"),
        "{text}"
    );

    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "fine: PostgreSQL ",
        "fine: the connection is plain, on this machine",
        "fine: schema 1",
        "fine: no standby is attached",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("problem: "), "{text}");
    let json: Value = serde_json::from_slice(&store(&folder, &["check", "--json"]).stdout).unwrap();
    assert_ne!(json["severity"], "problem", "{json}");
    assert!(
        json["store"].as_str().unwrap().contains("gatepay_serve"),
        "{json}"
    );
    assert!(json["findings"][0]["text"].is_string(), "{json}");

    let program = Program::serve(&folder).await;
    let log = program.stderr();
    let place = format!(
        "PostgreSQL at 127.0.0.1:{}, database postgres, user gatepay_serve",
        server.port
    );
    assert!(log.contains(&place), "the start names the store: {log}");
    assert!(!log.contains(PASSWORD), "{log}");
    let text = said(&folder, &["check"]).0;
    assert!(text.contains("fine: instances: 1"), "{text}");
}

#[test]
fn a_mistake_is_told_in_one_line_with_its_cure() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    server.sql(&format!("CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'"));
    migrated(&of(&server, "gatepay_serve", ""));
    // One port is open without an answer; the other is closed.
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = open.local_addr().unwrap().port();
    let closed = {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        bound.local_addr().unwrap().port()
    };
    let keys = |conninfo: &str| {
        folder(&format!(
            "postgres = '{conninfo}', password = {{ file = 'secrets/store.key' }}"
        ))
    };
    let right = conninfo(&server, "gatepay_serve");
    let other_password = of(&server, "gatepay_serve", "");
    other_password.secret("store", "another");
    for (folder, wrong, cure) in [
        (
            other_password,
            "password authentication failed for user \"gatepay_serve\"",
            "check the user, its password and the server's pg_hba.conf",
        ),
        (
            keys(&right.replace("user=gatepay_serve", "user=nobody_at_all")),
            "password authentication failed for user \"nobody_at_all\"",
            "check the user",
        ),
        (
            keys(&right.replace("dbname=postgres", "dbname=elsewhere")),
            "database \"elsewhere\" does not exist",
            "create the database, or correct dbname",
        ),
        (
            of(&server, "stranger", ""),
            "permission denied for schema gatepay",
            "the owner of the tables must run `gatepay-proxy store migrate --serve-role` with this user",
        ),
    ] {
        let (text, code) = said(&folder, &["check"]);
        assert_eq!(code, Some(1), "{text}");
        let problem = text.lines().find(|line| line.starts_with("problem: "));
        let problem = problem.unwrap_or_default();
        assert!(
            problem.contains(wrong) && problem.contains(cure),
            "{wrong}: {text}"
        );
        // `serve` says the same at its start, for waiting would not help.
        let (line, code) = refused(&folder);
        assert_eq!(code, Some(1), "{line}");
        assert!(
            line.starts_with("cannot start: store: ") && line.contains(wrong),
            "{line}"
        );
    }
    for (folder, wrong) in [
        (
            keys(&right.replace("127.0.0.1", "no-such-host.invalid")),
            "no host is usable: no-such-host.invalid:",
        ),
        (
            keys(&right.replace(&server.port.to_string(), &silent.to_string())),
            "no answer within 300 ms",
        ),
        (
            keys(&right.replace(&server.port.to_string(), &closed.to_string())),
            "Connection refused",
        ),
    ] {
        for command in ["check", "migrate", "distrust"] {
            let (text, code) = said(&folder, &[command]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains(wrong), "{wrong}: {text}");
        }
    }
    let none = Folder::before(UNUSED);
    assert_eq!(said(&none, &["check"]).1, Some(64), "there is no [store]");
    let urls = folder("postgres = 'postgres://db1/gatepay'");
    let (text, code) = said(&urls, &["check"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("store.postgres: must be keys and values"),
        "{text}"
    );
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

#[test]
fn a_plain_connection_leaves_the_machine_only_if_it_is_meant_to() {
    let Some(address) = own_address() else {
        say("SKIPPED: this machine has no address but loopback");
        return;
    };
    let listener = TcpListener::bind((address.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = folder(&format!(
        "postgres = 'host={address} port={port} dbname=gatepay user=gatepay_serve'"
    ));
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    let line = format!(
        "problem: {address} is not this machine: set `ca` to encrypt the connection, or `plaintext = true`"
    );
    assert!(text.contains(&line), "{text}");
    assert!(refused(&folder).0.contains("is not this machine"));
}

#[test]
fn a_certificate_that_is_not_trusted_is_told_with_its_cure() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let name = vec!["localhost".to_owned()];
    let right = rcgen::generate_simple_self_signed(name.clone()).unwrap();
    let other = rcgen::generate_simple_self_signed(name).unwrap();
    server.encrypt(&right.cert.pem(), &right.signing_key.serialize_pem());
    let at = |host: &str, pem: &str| {
        let conninfo = conninfo(&server, "gatepay_serve").replace("127.0.0.1", host);
        let folder = folder(&format!(
            "postgres = '{conninfo}', password = {{ file = 'secrets/store.key' }}, timeout_ms = 10_000, ca = 'ca.pem'"
        ));
        folder.file("ca.pem", pem);
        folder
    };
    let trusting = at("localhost", &right.cert.pem());
    migrated(&trusting);
    let (text, code) = said(&trusting, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("fine: the connection is encrypted"), "{text}");
    for (folder, cure) in [
        (
            at("localhost", &other.cert.pem()),
            "`ca` must hold the certificate of the authority that signed the server's",
        ),
        (
            at("127.0.0.1", &right.cert.pem()),
            "write the host as the server's certificate names it",
        ),
    ] {
        let (text, code) = said(&folder, &["check"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(cure), "{text}");
    }
}

#[test]
fn a_server_that_may_lose_commits_is_refused_with_the_setting() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let folder = of(&server, "gatepay_serve", "");
    migrated(&folder);
    for (change, back, setting) in [
        (
            "ALTER SYSTEM SET fsync = off",
            "ALTER SYSTEM RESET fsync",
            "fsync = off",
        ),
        (
            "ALTER ROLE gatepay_serve SET synchronous_commit = off",
            "ALTER ROLE gatepay_serve RESET synchronous_commit",
            "synchronous_commit = off",
        ),
        (
            "ALTER ROLE gatepay_serve SET default_transaction_read_only = on",
            "ALTER ROLE gatepay_serve RESET default_transaction_read_only",
            "the server is read-only",
        ),
    ] {
        server.sql(change);
        server.sql("SELECT pg_reload_conf()");
        let mut text = String::new();
        postgres::until(setting, || {
            text = said(&folder, &["check"]).0;
            text.contains("problem: ")
        });
        assert!(text.contains(setting), "{text}");
        server.sql(back);
        server.sql("SELECT pg_reload_conf()");
        postgres::until("it is put back", || said(&folder, &["check"]).1 == Some(0));
    }
}

#[test]
fn an_engine_whose_storage_keeps_the_log_may_show_fsync_as_off() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let guarded = of(&server, "gatepay_serve", "");
    let lossless = of(&server, "gatepay_serve", ", failover = 'lossless'");
    migrated(&guarded);
    for change in [
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET full_page_writes = off",
        "SELECT pg_reload_conf()",
    ] {
        server.sql(change);
    }
    let fsync = "problem: the engine may lose commits: fsync = off";
    postgres::until(fsync, || said(&lossless, &["check"]).0.contains(fsync));
    // As Aurora has it.
    server
        .sql("CREATE FUNCTION aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '15.18' $$");
    let (text, code) = said(&lossless, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    let text = said(&guarded, &["check"]).0;
    assert!(text.contains(fsync), "{text}");
    server.sql("ALTER ROLE gatepay_serve SET synchronous_commit = off");
    let text = said(&lossless, &["check"]).0;
    assert!(text.contains("synchronous_commit = off"), "{text}");
}

#[test]
fn a_schema_of_another_version_is_refused_with_the_command_that_helps() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let folder = of(&server, "gatepay_serve", "");
    migrated(&folder);
    let newer = |by| {
        let number = NEWEST_SCHEMA + by;
        server.sql(&format!(
            "INSERT INTO gatepay.schema_version VALUES ({number})"
        ));
        number
    };
    let known = newer(1);
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(0), "one newer works: {text}");
    let found = newer(2);
    let wrong = format!(
        "schema {found}; this version works with {OLDEST_SCHEMA} to {known}: use a newer version of the program"
    );
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&wrong), "{text}");
    let (line, code) = refused(&folder);
    assert_eq!(code, Some(1), "{line}");
    assert_eq!(line, format!("cannot start: store: {wrong}"));
}

#[tokio::test]
async fn an_asynchronous_standby_is_warned_about_by_check_and_at_the_start() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let guarded = of(&server, "gatepay_serve", "");
    migrated(&guarded);
    let standby = server.standby(StandbyMode::Asynchronous);
    let (text, code) = said(&guarded, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("warning: 1 standbys are asynchronous"),
        "{text}"
    );
    let lossless = of(&server, "gatepay_serve", ", failover = 'lossless'");
    let (text, code) = said(&lossless, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    let program = Program::serve(&guarded).await;
    let warned = "the store's standbys are asynchronous";
    postgres::until(warned, || program.stderr().contains(warned));
    assert_eq!(program.metric("store_asynchronous_standbys").await, "1");
    let status = program.admin("GET", "/status").await.json();
    assert_eq!(status["store"]["asynchronous_standbys"], 1, "{status}");
    drop(standby);
}

#[tokio::test]
async fn an_engine_that_hides_its_identity_needs_lossless() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let guarded = of(&server, "gatepay_serve", "");
    migrated(&guarded);
    // As some managed engines do.
    server.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let wrong = "permission denied for function pg_control_system";
    let cure = "or set failover = \"lossless\"";
    let (text, code) = said(&guarded, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(wrong) && text.contains(cure), "{text}");
    let (line, code) = refused(&guarded);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(wrong) && line.contains(cure), "{line}");
    let lossless = of(&server, "gatepay_serve", ", failover = 'lossless'");
    let (text, code) = said(&lossless, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning: the server's identity"), "{text}");
    let program = Program::serve(&lossless).await;
    program.until_ready().await;
}

#[tokio::test]
async fn distrust_makes_all_instances_refuse_what_may_have_been_admitted() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let folder = of(&server, "gatepay_serve", ", max_skew_ms = 4_000");
    migrated(&folder);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    // All of it within the five seconds of a guard, unless the machine stalls.
    in_one_of_some_looks(async || {
        let (text, code) = said(&folder, &["distrust"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("stamps are refused for the next "), "{text}");
        let began = Instant::now();
        let mut ready = program.admin("GET", "/ready").await;
        while ready.status == 200 && began.elapsed() < Duration::from_secs(5) {
            ready = program.admin("GET", "/ready").await;
        }
        let checked = said(&folder, &["check"]).0;
        let is_told = ready.text().contains("starting")
            && checked.contains("warning: stamps are refused for ");
        if_so(is_told, || format!("{}: {checked}", ready.text()))
    })
    .await;
    program.until_ready().await;
}

#[tokio::test]
async fn a_file_is_made_by_migrate_alone_and_is_used_by_one_process() {
    let folder = folder("path = 'state/gatepay.db'");
    for command in ["check", "distrust"] {
        let (text, code) = said(&folder, &[command]);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("gatepay.db is missing; run `gatepay-proxy store migrate`"),
            "{text}"
        );
        assert!(!folder.path("state/gatepay.db").exists());
    }
    let (text, code) = said(&folder, &["migrate", "--serve-role", "gatepay_serve"]);
    assert_eq!(code, Some(64), "{text}");
    let (text, code) = said(&folder, &["migrate"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("SQLite file ") && text.contains("schema 1 is made"),
        "{text}"
    );
    let text = said(&folder, &["migrate"]).0;
    assert!(text.contains("schema 1; nothing changes"), "{text}");
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("fine: the file is readable"), "{text}");
    let program = Program::serve(&folder).await;
    assert!(program.stderr().contains("SQLite file "));
    let (text, code) = said(&folder, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    let held = "a process that serves holds the file: stop it first";
    assert!(text.contains(held), "{text}");
    program.stop().await;
    let (text, code) = said(&folder, &["distrust"]);
    assert_eq!(code, Some(0), "{text}");
    let file = folder.path("state/gatepay.db");
    fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
    let (text, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("world-accessible: run `chmod o="), "{text}");
    let other = self::folder("path = 'nowhere/gatepay.db'");
    let (text, _) = printed(&other.run("check"));
    assert!(!text.contains("is no folder"), "it is made: {text}");
    assert!(!other.path("nowhere").exists());
    other.file("nowhere", "a file");
    let (text, code) = printed(&other.run("check"));
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("store: ") && text.contains("is no folder"),
        "{text}"
    );
}

#[test]
fn each_command_shows_an_example() {
    for (command, shows) in [
        (
            "migrate",
            "--user gatepay_owner --password-file owner.key --serve-role gatepay_serve",
        ),
        ("check", "gatepay-proxy store check --json | jq"),
        ("distrust", "gatepay-proxy store distrust --config"),
    ] {
        let (text, code) = printed(&run(&["store", command, "--help"]));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(shows), "{text}");
    }
}

#[tokio::test]
async fn check_names_the_store_and_finds_its_faults_without_asking_it() {
    let folder = folder(
        "postgres = 'host=db1,db2 port=5433 dbname=gatepay user=gatepay_serve', ca = 'tls/store-ca.pem', failover = 'lossless', reads_without_store = true",
    );
    let (text, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("store: ") && text.contains("store-ca.pem"),
        "{text}"
    );
    folder.edit("proxy.toml", ", ca = 'tls/store-ca.pem'", "");
    let (text, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "store: PostgreSQL at db1:5433, db2:5433, database gatepay, user gatepay_serve; failover lossless, 1000 ms a call",
        "writes without a body are always refused",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let alone = Folder::before(UNUSED);
    let (text, _) = printed(&alone.run("check"));
    let line =
        "store: none; a second process with its own state_dir would admit the same requests again";
    assert!(text.contains(line), "{text}");
    // A store that is added is a change, and takes a restart.
    let (config, before) = (folder.name("proxy.toml"), alone.name("."));
    let (text, code) = printed(&run(&["check", "--config", &config, "--against", &before]));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("store.postgres"), "{text}");
    // Its start line says so too.
    let program = Program::serve(&alone).await;
    let line = "no [store]: a second process with its own state_dir";
    postgres::until(line, || program.stderr().contains(line));
}

#[tokio::test]
async fn the_cluster_and_the_status_show_instances_and_their_configurations() {
    if postgres::is_missing() {
        return;
    }
    let server = with_roles();
    let folders = [0, 1].map(|_| of(&server, "gatepay_serve", ""));
    migrated(&folders[0]);
    let one = Program::serve(&folders[0]).await;
    let other = Program::serve(&folders[1]).await;
    let sees = async |instances: usize, configurations: usize| {
        let began = Instant::now();
        loop {
            let view = one.admin("GET", "/cluster").await.json();
            let listed = view["instances"].as_array().map_or(0, Vec::len);
            if listed == instances && view["configurations"] == configurations {
                return view;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "not {instances} instances with {configurations} configurations: {view}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let view = sees(2, 1).await;
    let place = view["store"].as_str().unwrap();
    assert!(
        place.contains("database postgres, user gatepay_serve"),
        "{view}"
    );
    assert_eq!(view["store_available"], true);
    assert_eq!(view["replication"], "none");
    let instances = view["instances"].as_array().unwrap();
    let this: Vec<_> = instances.iter().filter(|one| one["this"] == true).collect();
    assert_eq!(this.len(), 1, "{view}");
    assert_eq!(this[0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(!this[0]["host"].as_str().unwrap().is_empty(), "{view}");
    assert!(this[0]["lag_ms"].as_u64().unwrap() < 5_000, "{view}");
    // The hash is the one that `check` prints of the same files.
    let said = printed(&folders[0].run("check")).0;
    let hash = format!(
        "configuration: {}",
        this[0]["configuration"].as_str().unwrap()
    );
    assert!(said.contains(&hash), "{hash}: {said}");
    let status = one.admin("GET", "/status").await.json();
    let store = &status["store"];
    assert_eq!(
        (&store["instances"], &store["available"]),
        (&2.into(), &true.into())
    );
    assert_eq!(store["place"], view["store"]);

    // One instance gets another tenant.
    folders[1].tenant(&acme(), "limits = { requests_per_second = 7 }");
    let (code, answer) = other.reload("").await;
    assert_eq!(code, 200, "{answer}");
    sees(2, 2).await;
    let status = one.admin("GET", "/status").await.json();
    let differ = "the instances have 2 different configurations: GET /cluster shows which";
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|one| one["text"] == differ), "{status}");
    other.stop().await;
    sees(1, 1).await;
    server.sql("SELECT gatepay.halt_v1('money', 'alice')");
    let halted = "halted on all instances: money";
    until_so(halted, async || {
        let status = one.admin("GET", "/status").await.json();
        let problems = status["problems"].as_array().unwrap().clone();
        problems.iter().any(|one| one["text"] == halted)
    })
    .await;
    // The server's clock steps back by two hours.
    let view = one.admin("GET", "/cluster").await.json();
    assert_eq!(
        (&view["clock_step_ms"], &view["deletion_held"]),
        (&0.into(), &false.into())
    );
    server.sql(
        "CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
            SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 7200000 $$",
    );
    until_so("the step of the store's clock", async || {
        let view = one.admin("GET", "/cluster").await.json();
        let step = view["clock_step_ms"].as_i64().unwrap();
        (-7_200_000..-7_100_000).contains(&step) && view["deletion_held"] == true
    })
    .await;
}

#[tokio::test]
async fn a_process_without_a_store_has_no_cluster_to_show() {
    let program = Program::serve(&Folder::before(UNUSED)).await;
    let answer = program.admin("GET", "/cluster").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body, "no [store] is configured\n");
    let status = program.admin("GET", "/status").await.json();
    assert!(status.get("store").is_none(), "{status}");
    assert_eq!(program.metric("store_configured").await, "0");
}

#[tokio::test]
async fn an_instance_whose_store_is_away_starts_and_says_so_until_the_store_is_back() {
    if postgres::is_missing() {
        return;
    }
    let mut server = with_roles();
    let folder = of(&server, "gatepay_serve", "");
    migrated(&folder);
    server.kill();
    let program = Program::serve(&folder).await;
    let ready = program.admin("GET", "/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(program.admin("GET", "/live").await.status, 200);
    let away = "the store does not answer";
    postgres::until(away, || program.stderr().contains(away));
    assert!(
        program.stderr().contains("Connection refused"),
        "{}",
        program.stderr()
    );
    let status = program.admin("GET", "/status").await.json();
    assert_eq!(status["store"]["available"], false, "{status}");
    let says = "the store that instances share does not answer: requests are refused and not sent";
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|one| one["text"] == says), "{status}");
    let cluster = program.admin("GET", "/cluster").await;
    assert_eq!(cluster.status, 503, "{}", cluster.text());
    server.start_again();
    program.until_ready().await;
}
