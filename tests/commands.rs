//! The commands besides `serve`: their output and their exit codes.

use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;
use gatepay_core::Catalogue;
use gatepay_proxy::process::clock::Clock;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

#[test]
fn five_mistakes_are_told_at_once_and_nothing_is_served() {
    let folder = Folder::before(UNUSED);
    folder.file(
        "proxy.toml",
        "poll_ms = 0\nlisten = { adress = '127.0.0.1:0' }\n",
    );
    folder.tenant(&acme(), "limits = { requests_per_second = 0 }");
    folder.tenant(
        &globex(),
        "standing = 'retired'\noperations = { allow = ['balanse'] }",
    );
    for command in ["check", "serve"] {
        let (said, code) = printed(&folder.run(command));
        assert_eq!(code, Some(64), "{command}: {said}");
        for problem in [
            "proxy.toml:1: poll_ms: ",
            "proxy.toml:2: listen: unknown key \"adress\" (did you mean \"address\"?)",
            "acme.toml:4: limits.requests_per_second: must be at least 1",
            "globex.toml:4: standing: must be ",
            "globex.toml:5: operations.allow[0]: unknown module, kind or operation (did you mean \"balance\"?)",
        ] {
            assert!(said.contains(problem), "{command}: {problem}\n{said}");
        }
    }
    assert!(!folder.path("state/used").exists(), "it did not even begin");
}

#[tokio::test]
async fn a_state_folder_is_marked_once_and_then_its_first_start_does_not_wait() {
    let folder = Folder::never_marked(UNUSED, INSTITUTION_SECRET, &[acme()]);
    let config = folder.name("proxy.toml");
    let init = |more: &[&str]| {
        let words = [&["state", "init", "--config", &config], more].concat();
        printed(&run(&words))
    };
    let check = || printed(&folder.run("check")).0;
    let waits = "the first start with this state_dir waits 10000 ms";
    assert!(check().contains(waits), "{}", check());
    let (said, code) = init(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the first start waits 10000 ms"), "{said}");
    let mode = fs::metadata(folder.path("state"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(check().contains(waits), "it is made, and not marked");

    let (said, code) = init(&["--never-served"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!check().contains(waits));
    let program = Program::serve(&folder).await;
    assert_eq!(program.admin("GET", "/ready").await.status, 200);
    let (said, code) = init(&["--never-served"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use"), "{said}");
    drop(program);

    let (said, code) = init(&["--never-served"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was used before"), "{said}");
    let program = Program::serve(&folder).await;
    assert_eq!(program.admin("GET", "/ready").await.status, 503);
}

#[test]
fn the_demo_shows_itself_and_ends() {
    let (said, code) = printed(&run(&["demo", "--once"]));
    assert_eq!(code, Some(0), "{said}");
    for word in [
        "creates",
        "it says PAY PAY_SUCCESS",
        "globex has none",
        "refund",
        "replayed",
    ] {
        assert!(said.contains(word), "{word}\n{said}");
    }
}

/// The emulator by itself, ended when dropped.
struct Emulator {
    child: Child,
    url: String,
}

impl Emulator {
    fn start(folder: &Folder, more: &[&str]) -> Self {
        let secret = folder.name("secrets/institution.key");
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepay-proxy"))
            .args(["sandbox", "--listen", "127.0.0.1:0"])
            .args(["--client-id", INSTITUTION_ID, "--secret-file", &secret])
            .args(["--sub-account", acme().sub_account])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let url = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

#[tokio::test]
async fn the_sandbox_answers_as_client_libraries_read_it_or_as_the_documentation_prints_it() {
    let folder = Folder::before(UNUSED);
    for (more, code, has_status) in [
        (&[][..], "000000", true),
        (&["--answer-forms", "clients"], "000000", true),
        (&["--answer-forms", "documentation"], "SUCCESS", false),
    ] {
        let emulator = Emulator::start(&folder, more);
        let proxy = Proxy::at(&emulator.url, &Clock::system()).start();
        let answer = proxy.send(acme().post(CREATE, order("A-0001"))).await;
        assert_eq!(answer.code(), code, "{more:?}");
        assert_eq!(answer.outcome(), Some("executed"), "{more:?}");
        assert_eq!(answer.json().get("status").is_some(), has_status);
    }
}

#[test]
fn the_sandbox_notifies_the_url_that_it_is_given() {
    let folder = Folder::before(UNUSED);
    let receiver = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/gatepay", receiver.local_addr().unwrap());
    let emulator = Emulator::start(&folder, &["--notify", &url]);
    let body = r#"{"body":{"bizType":"FIXED_ADDRESS_RISK","bizId":"88"}}"#;
    let length = body.len();
    let asked = format!(
        "POST /-/sandbox/notify HTTP/1.1\r\nHost: sandbox\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut sandbox = TcpStream::connect(emulator.url.trim_start_matches("http://")).unwrap();
    sandbox.write_all(asked.as_bytes()).unwrap();
    let (called, _) = receiver.accept().unwrap();
    let lines = BufReader::new(called).lines().map_while(Result::ok);
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    assert_eq!(head[0], "POST /gatepay HTTP/1.1");
    assert!(
        head.iter()
            .any(|line| line.starts_with("x-gatepay-signature: "))
    );
}

#[test]
fn the_catalogue_can_be_read_by_programs() {
    let output = run(&["operations", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let catalogue = Catalogue::standard();
    let expected: Vec<&str> = catalogue.rows().iter().map(|row| &*row.name).collect();
    assert_eq!(names, expected);
}

#[test]
fn the_page_of_operations_has_the_table_that_the_command_prints() {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/operations.md"
    );
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page
        .split_once("<!-- operations:begin -->")
        .expect("the page has the table");
    let (table, _) = table
        .split_once("<!-- operations:end -->")
        .expect("the table ends");
    let printed = String::from_utf8(run(&["operations"]).stdout).unwrap();
    assert_eq!(
        table.trim(),
        printed.trim(),
        "copy it from `gatepay-proxy operations`"
    );
}

#[test]
fn a_tenant_is_onboarded_by_one_command() {
    let folder = Folder::before(UNUSED);
    let tenants = folder.name("tenants.d");
    let add = |id| {
        run(&[
            "tenant",
            "add",
            id,
            "--sub-account",
            "77",
            "--tenants",
            &tenants,
            "--json",
        ])
    };
    let added = add("initech");
    assert_eq!(added.status.code(), Some(0));
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("initech") && said.contains("77"), "{said}");
    assert!(
        !said.contains(added["secret"].as_str().unwrap()),
        "the secret was told once"
    );
    assert_eq!(add("initech").status.code(), Some(64), "not twice");
    assert_eq!(
        add("Ini/tech").status.code(),
        Some(64),
        "not under any name"
    );
}

#[test]
fn the_command_line_explains_itself() {
    for (arguments, code, says) in [
        (&["--help"][..], 0, "serve"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&["serve", "--help"], 0, "--config"),
        (&[], 64, "Usage"),
        (&["srve"], 64, "serve"),
        (&["serve", "--confg", "x"], 64, "--config"),
        (
            &["check", "--config", "/no/such/file"],
            64,
            "no configuration is at /no/such/file, which --config names",
        ),
        (&["start"], 64, "`gatepay-proxy serve` starts the proxy"),
        (&["validate"], 64, "`gatepay-proxy check`"),
        (
            &["version"],
            0,
            concat!("gatepay-proxy ", env!("CARGO_PKG_VERSION"), " ("),
        ),
        (&["completions", "bash"], 0, "complete -F _gatepay__proxy"),
        (&["completions", "tcsh"], 64, "fish"),
    ] {
        let (said, ended) = printed(&run(arguments));
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

fn tenant(folder: &Folder, arguments: &[&str]) -> (Value, Option<i32>) {
    let config = folder.name("proxy.toml");
    let arguments = [&["tenant"], arguments, &["--json", "--config", &config]].concat();
    let output = run(&arguments);
    let (said, code) = printed(&output);
    assert!(code == Some(0) || output.stdout.is_empty(), "{said}");
    (
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        code,
    )
}

fn against(folder: &Folder, before: &Folder) -> (String, Option<i32>) {
    let (config, before) = (folder.name("proxy.toml"), before.name("."));
    printed(&run(&["check", "--config", &config, "--against", &before]))
}

#[test]
fn a_tenants_life_is_a_line_of_commands_each() {
    let folder = Folder::before(UNUSED);
    let (list, code) = tenant(&folder, &["list"]);
    assert_eq!((list[1]["id"].as_str(), code), (Some("globex"), Some(0)));
    let (said, _) = tenant(&folder, &["suspend", "acme"]);
    assert_eq!(
        (&said["standing"], &said["changed"]),
        (&"suspended".into(), &true.into())
    );
    let (said, _) = tenant(&folder, &["suspend", "acme"]);
    assert_eq!(said["changed"], false);
    let (shown, _) = tenant(&folder, &["show", "acme"]);
    assert_eq!(shown["standing"], "suspended");
    assert!(
        shown["file"]
            .as_str()
            .unwrap()
            .ends_with("tenants.d/acme.toml")
    );
    tenant(&folder, &["resume", "acme"]);

    let (rotated, _) = tenant(&folder, &["rotate", "acme", "--overlap", "2h"]);
    let (secret, client_id) = (
        rotated["secret"].as_str().unwrap(),
        rotated["client_id"].as_str().unwrap(),
    );
    assert_eq!((secret.len(), client_id.len()), (64, 36));
    assert_eq!(rotated["ending"][0], acme().client_id);
    let (shown, _) = tenant(&folder, &["show", "acme"]);
    let credentials = shown["credentials"].as_array().unwrap();
    assert_eq!(credentials[0]["not_after"], rotated["ends"]);
    assert_eq!(credentials[1]["client_id"], client_id);
    assert!(credentials.iter().all(|it| it["state"] == "valid"));
    for command in ["list", "show"] {
        let id = if command == "show" {
            &["acme"][..]
        } else {
            &[]
        };
        let config = folder.name("proxy.toml");
        let (said, code) = printed(&run(
            &[&["tenant", command], id, &["--config", &config]].concat()
        ));
        assert!(
            code == Some(0) && said.contains("acme") && !said.contains(secret),
            "{said}"
        );
    }

    let (removed, _) = tenant(&folder, &["remove", "acme"]);
    assert_eq!(removed["secrets_removed"].as_array().unwrap().len(), 2);
    assert_eq!(tenant(&folder, &["show", "acme"]).1, Some(64), "it is gone");
    assert_eq!(folder.run("check").status.code(), Some(0));
    folder.file("tenants.d/half.toml", "id = ");
    let (_, code) = tenant(&folder, &["suspend", "globex"]);
    assert_eq!(
        code,
        Some(0),
        "rights can be taken away whatever else is wrong"
    );
    let (_, code) = tenant(&folder, &["resume", "globex"]);
    assert_eq!(code, Some(64), "and given only in a folder that is whole");
}

#[test]
fn check_against_a_folder_prints_the_changes_and_exits_accordingly() {
    let [before, after] = [(); 2].map(|()| Folder::before(UNUSED));
    assert_eq!(
        against(&after, &before),
        ("nothing changes\n".to_owned(), Some(0))
    );
    after.tenant(&globex(), "standing = 'suspended'");
    let (said, code) = against(&after, &before);
    assert_eq!(code, Some(3), "{said}");
    for line in [
        "~ tenant globex: standing: active -> suspended\n",
        "tenants: 1 changed\nhash ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(
        !said.contains("confirm"),
        "suspending is the kill switch: {said}"
    );
    let moved = fs::read_to_string(after.path("tenants.d/acme.toml")).unwrap();
    after.file(
        "tenants.d/acme.toml",
        &moved.replace(acme().sub_account, "777"),
    );
    let (said, _) = against(&after, &before);
    assert!(
        said.contains("has to be confirmed: it moves tenant acme from sub-account"),
        "{said}"
    );
    let (config, other) = (after.name("proxy.toml"), before.name("proxy.toml"));
    let output = run(&["check", "--config", &config, "--against", &other, "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&plan["changes"], output.status.code()),
        (&true.into(), Some(3))
    );
    fs::remove_dir_all(after.path("secrets")).unwrap();
    assert_eq!(
        against(&after, &before).1,
        Some(64),
        "a folder that is not whole is not compared"
    );
    let output = run(&["check", "--config", &config, "--without-secrets"]);
    assert_eq!(output.status.code(), Some(0), "a checkout has none");
}

/// A tenant handles a refusal: it saves its request, and runs the command with its own secret and the refusal's
/// details.
#[tokio::test]
async fn a_refused_request_is_explained_offline() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("secret"), acme().secret).unwrap();
    let call = || acme().post(QUERY, BY_NUMBER).timestamp(&T0).nonce("k64");
    // As other programs computed these signatures: with a line feed behind the secret, and by SHA-256.
    let line_feed = "5899cbe865af872adb9821de233d487e48bf293ba9b6b35262d21a8cad7cb28047889b6ff8d6647840713b454a372d9c004752a57d03aad259eef027a50679b7";
    let sha256 = "5956d77f1240b714540efe92e9f40bcfc9811ecb82ff2d75ce678ee08046786b";
    for (call, slug, seen, found) in [
        (
            call().timestamp(&(T0 / 1000)),
            "stale_timestamp",
            "1765458374400 ms behind",
            "seconds",
        ),
        (
            call().timestamp(&(T0 + 10_001)),
            "stale_timestamp",
            "10001 ms ahead",
            "ahead of",
        ),
        (
            call().signing(r#"{"merchantTradeNo": "A-0001"}"#),
            "signature_mismatch",
            "28 bytes of body",
            "signed as the body: ",
        ),
        (
            call().secret("fake-acme-secret-000"),
            "signature_mismatch",
            "28 bytes of body",
            "used as the key: the secret without its last character",
        ),
        (
            call().signature(line_feed),
            "signature_mismatch",
            "28 bytes of body",
            "used as the key: the secret with a line feed after it",
        ),
        (
            call().signature(sha256),
            "signature_mismatch",
            "64",
            "computed: SHA-256 instead of SHA-512",
        ),
    ] {
        let answer = proxy.send(call.clone()).await;
        assert_eq!(answer.refused(), (401, slug), "{found}");
        let message = answer.message();
        assert!(message.contains(seen), "{message}");

        fs::write(path("request"), call.bytes(&proxy.clock)).unwrap();
        let (secret, request, now) = (path("secret"), path("request"), T0.to_string());
        let mut command = vec!["explain", "--secret-file", &secret, "--request", &request];
        command.extend(["--now", &now]);
        let digest = message
            .split(' ')
            .find(|word| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
        command.extend(digest.map_or([].as_slice(), |_| &["--received-digest"]));
        command.extend(digest);
        let (said, code) = printed(&run(&command));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(found), "{found}: {said}");
        assert!(
            digest.is_none() || said.contains("the proxy received exactly these bytes"),
            "{said}"
        );
        assert!(!said.contains(acme().secret), "{said}");
    }
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn check_against_the_running_process_prints_the_changes() {
    let served = Folder::before(UNUSED);
    let program = Program::serve(&served).await;
    let admin = program.admin.to_string();
    let check_at = |folder: &Folder, admin: &str| {
        let config = folder.name("proxy.toml");
        let arguments = [
            "check",
            "--config",
            &config,
            "--against",
            "running",
            "--admin",
            admin,
        ];
        let output = run(&arguments);
        let shown = printed(&output);
        let (said, _) = &shown;
        assert!(!said.contains(acme().secret), "{said}");
        shown
    };
    let check = |folder: &Folder| check_at(folder, &admin);
    assert_eq!(check(&served), ("nothing changes\n".to_owned(), Some(0)));
    let other = Folder::before(UNUSED);
    other.tenant(&globex(), "standing = 'read_only'");
    let (said, code) = check(&other);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("~ tenant globex: standing: active -> read_only"),
        "{said}"
    );
    other.secret("acme", "another-fake-secret");
    let (said, _) = check(&other);
    assert!(said.contains(": another secret"), "{said}");
    let (said, code) = check_at(&served, "127.0.0.1:9");
    assert_eq!(code, Some(1), "nobody answers: {said}");
}
