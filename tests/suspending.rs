//! A tenant is suspended over HTTP, even while the files have errors.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::InjectedFault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;

const ALICE: &str = "Bearer fake-alice-token";
const BOB: &str = "Bearer fake-bob-token";
const SHARED: &str = "Bearer fake-admin-token";

/// A folder whose admin address knows an operator by name, beside the token that all share.
fn folder(gatepay: &GatePay) -> Folder {
    let folder = Folder::before(&gatepay.url());
    folder.secret("admin", "fake-admin-token");
    folder.secret("alice", "fake-alice-token");
    folder.edit(
        "proxy.toml",
        "admin = { address = '127.0.0.2:0' }",
        "admin = { address = '127.0.0.2:0', token = { file = 'secrets/admin.key' }, \
         operator = [{ name = 'alice', token = { file = 'secrets/alice.key' } }] }",
    );
    folder
}

async fn status(program: &Program, shop: &Shop) -> u16 {
    let request = shop.post(QUERY, BY_NUMBER).request(&Clock::system());
    let mut caller = Connection::open(program.address).await;
    caller.send(request).await.status
}

async fn refund(program: &Program, shop: &Shop) -> Answer {
    let request = shop.post(REFUND, A_REFUND).request(&Clock::system());
    let mut caller = Connection::open(program.address).await;
    caller.send(request).await
}

async fn posts(program: &Program, token: &str, path: &str) -> (u16, Value) {
    let headers = [("authorization", token)];
    let answer = program.admin_with("POST", path, &headers).await;
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    (answer.status, body)
}

async fn looks(program: &Program, path: &str) -> Value {
    let headers = [("authorization", ALICE)];
    let answer = program.admin_with("GET", path, &headers).await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_from_the_answer_on_with_three_other_files_broken() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.proxy("poll_ms = 3_600_000");
    let program = Program::serve(&folder).await;
    folder.tenant(&globex(), "limits = { requests_per_second = 0 }");
    folder.file("tenants.d/initech.toml", "id = ");
    folder.file("tenants.d/hooli.json", "{");
    assert_eq!(status(&program, &acme()).await, 200);

    let (code, said) = posts(&program, ALICE, "/-/suspend?tenant=acme").await;
    assert_eq!(code, 200, "{said}");
    assert_eq!(said["standing"], "suspended");
    assert_eq!(said["file_standing"], "active");
    assert_eq!(
        (&said["changed"], &said["kept"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(said["suspended"]["by"], "alice");
    // Every worker, without waiting.
    for _ in 0..8 {
        let refused = refund(&program, &acme()).await;
        assert_eq!(refused.status, 403);
        let slug = refused.header("x-gatepay-proxy-refusal");
        assert_eq!(slug, Some("tenant_suspended"));
    }
    assert_eq!(status(&program, &globex()).await, 200, "no other is");

    // A reload of files in any state leaves the suspension in force.
    for mend in [false, true] {
        if mend {
            folder.tenant(&globex(), "");
            folder.remove("tenants.d/initech.toml");
            folder.remove("tenants.d/hooli.json");
        }
        let (code, _) = posts(&program, SHARED, "/-/reload").await;
        assert_eq!(code, if mend { 200 } else { 422 });
        assert_eq!(status(&program, &acme()).await, 403);
    }
    // The suspension also survives removal and re-creation of the tenant.
    let acmes = fs::read_to_string(folder.path("tenants.d/acme.toml")).unwrap();
    folder.remove("tenants.d/acme.toml");
    assert_eq!(posts(&program, SHARED, "/-/reload").await.0, 200);
    assert_eq!(status(&program, &acme()).await, 401);
    folder.file("tenants.d/acme.toml", &acmes);
    assert_eq!(posts(&program, SHARED, "/-/reload").await.0, 200);
    assert_eq!(status(&program, &acme()).await, 403);
    let (code, said) = posts(&program, ALICE, "/-/resume?tenant=acme").await;
    assert_eq!(
        (code, &said["standing"], &said["changed"]),
        (200, &json!("active"), &json!(true))
    );
    assert_eq!(status(&program, &acme()).await, 200);
}

#[tokio::test]
async fn with_two_approvals_a_suspension_ends_once_two_operators_have_ordered_it() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.secret("bob", "fake-bob-token");
    folder.edit(
        "proxy.toml",
        "operator = [",
        "operator = [{ name = 'bob', token = { file = 'secrets/bob.key' } }, ",
    );
    folder.proxy("caps = { approvals = 2 }");
    let program = serving_without_acme(&folder).await;
    let resume = "/-/resume?tenant=acme";
    // Whoever has the shared token has no name, and one operator is not two.
    assert_eq!(posts(&program, SHARED, resume).await.0, 403);
    for _ in 0..2 {
        let (code, said) = posts(&program, ALICE, resume).await;
        assert_eq!((code, &said["needs"]), (200, &json!(1)), "{said}");
        assert_eq!(said["standing"], "suspended", "{said}");
        assert_eq!(said["approved_by"], json!(["alice"]));
        assert_eq!(status(&program, &acme()).await, 403);
    }
    // Who is suspended once more stays so until two have ordered the end of that.
    assert_eq!(posts(&program, BOB, "/-/suspend?tenant=acme").await.0, 200);
    let (_, said) = posts(&program, BOB, resume).await;
    assert_eq!(
        (&said["needs"], &said["changed"]),
        (&json!(1), &json!(false)),
        "{said}"
    );
    let (code, said) = posts(&program, ALICE, resume).await;
    assert_eq!((code, &said["standing"]), (200, &json!("active")), "{said}");
    assert_eq!(said["approved_by"], json!(["bob", "alice"]));
    assert_eq!(status(&program, &acme()).await, 200);
}

#[tokio::test]
async fn a_suspension_outlives_an_orderly_end_and_a_kill_and_so_does_its_end() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.proxy("timestamp = { future_ms = 0 }");
    let program = serving_without_acme(&folder).await;
    let log = program.stop().await;
    assert!(log.contains("suspended by hand") && log.contains("alice"));
    let kept = folder.path("state/suspended");
    let mode = fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let program = Program::serve(&folder).await;
    until_answered(&program, &acme(), 403).await;
    let one = looks(&program, "/tenants/acme").await;
    assert_eq!(
        (&one["standing"], &one["file_standing"]),
        (&json!("suspended"), &json!("active"))
    );
    assert_eq!(one["suspended"]["by"], "alice");
    let page = looks(&program, "/status").await;
    assert_eq!(page["suspensions"]["parties"][0]["party"], "acme");
    assert!(
        page["problems"]
            .to_string()
            .contains("acme is suspended by hand: by alice")
    );
    assert_eq!(program.metric("suspensions").await, "1");
    assert_eq!(
        posts(&program, ALICE, "/-/suspend?tenant=globex").await.0,
        200
    );
    // Killed.
    drop(program);

    let program = Program::serve(&folder).await;
    for shop in [acme(), globex()] {
        until_answered(&program, &shop, 403).await;
    }
    assert_eq!(posts(&program, ALICE, "/-/resume?tenant=acme").await.0, 200);
    drop(program);
    let program = Program::serve(&folder).await;
    until_answered(&program, &acme(), 200).await;
    until_answered(&program, &globex(), 403).await;
}

/// A program that serves, with acme suspended by Alice.
async fn serving_without_acme(folder: &Folder) -> Program {
    let program = Program::serve(folder).await;
    assert_eq!(
        posts(&program, ALICE, "/-/suspend?tenant=acme").await.0,
        200
    );
    program
}

/// After a kill the first stamps are refused.
async fn until_answered(program: &Program, shop: &Shop, wanted: u16) {
    let begun = std::time::Instant::now();
    loop {
        let status = status(program, shop).await;
        if status == wanted {
            return;
        }
        assert_eq!(status, 503, "{} is not as it was left", shop.id);
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_damaged_list_of_suspensions_is_no_start_and_says_what_to_do() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = serving_without_acme(&folder).await;
    program.stop().await;
    let path = folder.path("state/suspended");
    let whole = fs::read(&path).unwrap();
    for damage in [&b""[..], &whole[..whole.len() / 2], b"{}\n"] {
        fs::write(&path, damage).unwrap();
        let (said, code) = printed(&folder.run("serve"));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("suspended is damaged"), "{said}");
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(64), "{said}");
    }
    fs::write(&path, whole).unwrap();
    let program = Program::serve(&folder).await;
    assert_eq!(status(&program, &acme()).await, 403);
}

#[tokio::test]
async fn only_one_party_that_is_there_is_named_and_only_by_post() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = Program::serve(&folder).await;
    for action in ["suspend", "resume"] {
        for (query, wanted) in [
            ("", 400),
            ("?", 400),
            ("?tenant", 400),
            ("?tenant=", 400),
            ("?id=acme", 400),
            ("?Tenant=acme", 400),
            ("?%74enant=acme", 400),
            ("?tenant=acme&", 400),
            ("?tenant=acme&tenant=globex", 400),
            ("?tenant=acme&token=fake-alice-token", 400),
            ("?token=fake-alice-token&tenant=acme", 400),
            ("?tenant=acne", 404),
            ("?tenant=ACME", 404),
            ("?tenant=acme%26x", 404),
            ("?tenant=acme%0a", 404),
            ("?tenant=..%2facme", 404),
            ("?tenant=%00", 404),
            ("?tenant=%f0%9f%92%a9", 404),
        ] {
            let path = format!("/-/{action}{query}");
            let answer = program
                .admin_with("POST", &path, &[("authorization", ALICE)])
                .await;
            assert_eq!(answer.status, wanted, "{path}");
            let said = String::from_utf8(answer.body.to_vec()).unwrap();
            assert_eq!(said.contains("did you mean acme?"), query == "?tenant=acne");
        }
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let path = format!("/-/{action}?tenant=acme");
            let answer = program
                .admin_with(method, &path, &[("authorization", ALICE)])
                .await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
    assert_eq!(status(&program, &acme()).await, 200, "nobody was suspended");
    // The same tenant, written with escapes.
    let (code, said) = posts(&program, ALICE, "/-/suspend?tenant=%61cme").await;
    assert_eq!((code, &said["party"]), (200, &json!("acme")));
}

#[tokio::test]
async fn only_the_holder_of_a_token_may_suspend_and_no_page_of_a_browser() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = Program::serve(&folder).await;
    let path = "/-/suspend?tenant=acme";
    for headers in [
        &[][..],
        &[("authorization", "Bearer fake-other-token")],
        &[("authorization", "Bearer fake-alice-toke")],
        &[("authorization", "Bearer fake-alice-token-")],
        &[("authorization", "Basic YWxpY2U6ZmFrZS1hbGljZS10b2tlbg==")],
        &[("authorization", ALICE), ("authorization", ALICE)],
        &[("cookie", "token=fake-alice-token")],
    ] {
        let answer = program.admin_with("POST", path, headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
    }
    for line in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let headers = [("authorization", ALICE), line];
        let answer = program.admin_with("POST", path, &headers).await;
        assert_eq!(answer.status, 403, "{line:?}");
    }
    assert_eq!(status(&program, &acme()).await, 200);
    // The shared token has no name of its own.
    let (code, said) = posts(&program, SHARED, path).await;
    assert_eq!(
        (code, &said["suspended"]["by"]),
        (200, &json!("admin.token"))
    );
    let log = program.stop().await;
    for secret in ["fake-alice-token", "fake-admin-token"] {
        assert!(!log.contains(secret));
    }
}

#[tokio::test]
async fn a_resume_never_overrides_the_file() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.tenant(&acme(), "standing = 'read_only'");
    folder.tenant(&globex(), "standing = 'suspended'");
    let program = Program::serve(&folder).await;
    for (shop, read, file) in [(acme(), 200, "read_only"), (globex(), 403, "suspended")] {
        let path = |action| format!("/-/{action}?tenant={}", shop.id);
        for changed in [true, false] {
            let (code, said) = posts(&program, ALICE, &path("suspend")).await;
            assert_eq!((code, &said["changed"]), (200, &json!(changed)));
            assert_eq!(status(&program, &shop).await, 403);
        }
        for changed in [true, false] {
            let (code, said) = posts(&program, ALICE, &path("resume")).await;
            assert_eq!((code, &said["changed"]), (200, &json!(changed)));
            assert_eq!(
                (&said["standing"], &said["file_standing"]),
                (&json!(file), &json!(file))
            );
            assert!(said["notes"][0].as_str().unwrap().contains(file), "{said}");
            assert_eq!(status(&program, &shop).await, read);
            assert_eq!(refund(&program, &shop).await.status, 403);
        }
    }
}

#[tokio::test]
async fn without_a_state_folder_nothing_is_suspended_that_a_restart_would_forget() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.edit(
        "proxy.toml",
        "state_dir = 'state'",
        "timestamp.future_ms = 0",
    );
    let program = Program::serve(&folder).await;
    for action in ["suspend", "resume"] {
        let path = format!("/-/{action}?tenant=acme");
        assert_eq!(posts(&program, ALICE, &path).await.0, 409);
    }
    until_answered(&program, &acme(), 200).await;
}

#[tokio::test]
async fn suspensions_and_resumes_are_in_the_audit_journal_with_operator_and_party() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    for action in ["suspend", "resume"] {
        let (code, said) = posts(&program, ALICE, &format!("/-/{action}?tenant=acme")).await;
        assert_eq!((code, &said["journaled"]), (200, &json!(true)), "{said}");
        let written = folder.journal();
        let record = format!(
            r#""record":"suspension","action":"{action}","party":"acme","by":"alice","peer":"127."#
        );
        assert!(written.contains(&record), "{written}");
    }
    // The journal is missing: rights can be withdrawn, but not granted.
    fs::rename(folder.path("audit"), folder.path("away")).unwrap();
    let (code, said) = posts(&program, ALICE, "/-/suspend?tenant=acme").await;
    assert_eq!((code, &said["journaled"]), (200, &json!(false)), "{said}");
    assert_eq!(
        (&said["kept"], status(&program, &acme()).await),
        (&json!(true), 403)
    );
    let (code, said) = posts(&program, ALICE, "/-/resume?tenant=acme").await;
    assert_eq!(
        (code, &said["standing"]),
        (503, &json!("suspended")),
        "{said}"
    );
    assert_eq!(status(&program, &acme()).await, 403);
    fs::rename(folder.path("away"), folder.path("audit")).unwrap();
    until("it is written once it can be", || {
        folder.journal().matches(r#""action":"suspend""#).count() == 2
    })
    .await;
    program.stop().await;
    assert_eq!(folder.journal().matches(r#""action":"resume","#).count(), 1);
    let (said, code) = printed(&run(&[
        "audit",
        "verify",
        "--config",
        &folder.name("proxy.toml"),
    ]));
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn where_the_state_folder_fails_a_suspension_is_in_force_and_a_resume_is_not() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = serving_without_acme(&folder).await;
    fs::rename(folder.path("state"), folder.path("away")).unwrap();
    let (code, said) = posts(&program, ALICE, "/-/suspend?tenant=globex").await;
    assert_eq!((code, &said["kept"]), (500, &json!(false)), "{said}");
    assert_eq!(said["standing"], "suspended");
    let (code, said) = posts(&program, ALICE, "/-/resume?tenant=acme").await;
    assert_eq!((code, &said["standing"]), (500, &json!("suspended")));
    for shop in [acme(), globex()] {
        assert_eq!(status(&program, &shop).await, 403);
    }
    assert_eq!(program.metric("suspensions_unkept").await, "1");
    fs::rename(folder.path("away"), folder.path("state")).unwrap();
    program.stop().await;
    let program = Program::serve(&folder).await;
    for shop in [acme(), globex()] {
        assert_eq!(status(&program, &shop).await, 403, "the end made up for it");
    }
}

#[tokio::test]
async fn the_commands_name_the_parties_suspended_by_hand() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = serving_without_acme(&folder).await;
    let config = folder.name("proxy.toml");
    for words in [
        &["tenant", "list"][..],
        &["tenant", "show", "acme"],
        &["tenant", "resume", "acme"],
        &["check"],
    ] {
        let (said, code) = printed(&run(&[words, &["--config", &config]].concat()));
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("acme is suspended by hand"),
            "{words:?}: {said}"
        );
        assert!(said.contains("by alice"), "{words:?}: {said}");
    }
    assert_eq!(
        status(&program, &acme()).await,
        403,
        "its file does not resume it"
    );
    for words in [
        &["tenant", "list", "--json"][..],
        &["tenant", "show", "acme", "--json"],
    ] {
        let (said, _) = printed(&run(&[words, &["--config", &config]].concat()));
        let json: Value = serde_json::from_str(
            said.lines()
                .find(|line| line.starts_with(['[', '{']))
                .unwrap(),
        )
        .unwrap();
        let one = if json.is_array() { &json[0] } else { &json };
        assert_eq!(
            (&one["standing"], &one["suspended"]["by"]),
            (&json!("suspended"), &json!("alice"))
        );
    }
}

#[tokio::test]
async fn an_operator_of_the_institution_is_suspended_and_resumed_like_a_tenant() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    folder.operator(&office(), "");
    let program = Program::serve(&folder).await;
    let asks = async || {
        let request = crate::operators::query_for(acme().sub_account).request(&Clock::system());
        let mut caller = Connection::open(program.address).await;
        caller.send(request).await
    };
    assert_eq!(asks().await.status, 200);
    let path = |action| format!("/-/{action}?tenant={}", office().id);
    assert_eq!(posts(&program, ALICE, &path("suspend")).await.0, 200);
    let refused = asks().await;
    let slug = refused.header("x-gatepay-proxy-refusal");
    assert_eq!((refused.status, slug), (403, Some("tenant_suspended")));
    assert_eq!(status(&program, &acme()).await, 200);
    assert_eq!(posts(&program, ALICE, &path("resume")).await.0, 200);
    assert_eq!(asks().await.status, 200);
}

#[tokio::test]
async fn a_refund_under_way_ends_with_its_own_answer_after_the_tenant_is_suspended() {
    let gatepay = GatePay::now();
    gatepay.inject(InjectedFault::Delay(Duration::from_millis(400)).times(1));
    let folder = folder(&gatepay);
    let program = Program::serve(&folder).await;
    let begun = gatepay.count();
    let acme = acme();
    let (first, ()) = tokio::join!(refund(&program, &acme), async {
        until("the refund is at GatePay", || gatepay.count() > begun).await;
        let (code, _) = posts(&program, ALICE, "/-/suspend?tenant=acme").await;
        assert_eq!(code, 200);
        assert_eq!(refund(&program, &acme).await.status, 403);
    });
    // GatePay has no such order: this answer is GatePay's own, and no refusal of the proxy's.
    assert_eq!(first.header("x-gatepay-proxy-refusal"), None);
    assert_eq!(first.status, 200);
    assert_eq!(gatepay.count(), begun + 1);
}

#[tokio::test]
async fn where_no_token_is_configured_this_machine_suspends_under_the_name_loopback() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let program = Program::serve(&folder).await;
    let answer = program.admin("POST", "/-/suspend?tenant=acme").await;
    let said = answer.json();
    assert_eq!(
        (answer.status, &said["suspended"]["by"]),
        (200, &json!("loopback"))
    );
    assert_eq!(status(&program, &acme()).await, 403);
}

#[tokio::test]
async fn a_body_of_any_length_neither_delays_nor_prevents_a_suspension() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay);
    let program = Program::serve(&folder).await;
    for (shop, length) in [(acme(), "99999999999"), (globex(), "1")] {
        let mut raw = tokio::net::TcpStream::connect(program.admin).await.unwrap();
        let head = format!(
            "POST /-/suspend?tenant={} HTTP/1.1\r\nhost: {}\r\nauthorization: {ALICE}\r\ncontent-length: {length}\r\n\r\n",
            shop.id, program.admin
        );
        raw.write_all(head.as_bytes()).await.unwrap();
        // No byte of the body is ever sent.
        let mut answer = [0; 12];
        raw.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200", "{}", shop.id);
        assert_eq!(status(&program, &shop).await, 403);
    }
}
