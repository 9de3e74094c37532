//! The audit journal of the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::program::{Folder, Program, printed, run};
use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_core::{ChainLink, SecretKey, SigningKey};
use gatepay_proxy::process::clock::Clock;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A folder whose proxy keeps a journal.
fn folder(url: &str) -> Folder {
    let folder = Folder::before(url);
    folder.keeps_a_journal();
    folder
}

fn audit(folder: &Folder, command: &str, more: &[&str]) -> (String, Option<i32>) {
    let config = folder.name("proxy.toml");
    printed(&run(
        &[&["audit", command, "--config", &config], more].concat()
    ))
}

async fn send(program: &Program, call: Call) -> Answer {
    let request = call.request(&Clock::system());
    Connection::open(program.address).await.send(request).await
}

#[tokio::test]
async fn audit_show_finds_a_calls_party_content_and_outcome_by_its_key() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    let program = Program::serve(&folder).await;
    let created = send(&program, acme().post(CREATE, order("A-0001"))).await;
    assert_eq!(created.code(), "000000");
    send(&program, acme().post(QUERY, BY_NUMBER)).await;
    send(&program, globex().post(REFUND, A_REFUND)).await;
    let log = program.stop().await;

    let (shown, code) = audit(
        &folder,
        "show",
        &["--key", "A-0001", "--since", "1h", "--json"],
    );
    assert_eq!(code, Some(0), "{shown}");
    let call: Value = serde_json::from_str(&shown).unwrap();
    let (before, after) = (&call["before"], &call["after"]);
    assert_eq!(before["id"], created.request_id());
    assert_eq!(before["party"], "acme");
    assert_eq!(before["client_id"], "client-acme");
    assert_eq!(before["account"], "2124538349");
    assert_eq!(before["operation"], "create_order");
    assert_eq!(after["outcome"], "success");
    assert_eq!(after["ids"]["prepayId"], created.json()["data"]["prepayId"]);
    assert_eq!(after["attempts"].as_array().unwrap().len(), 1);

    let text = folder.journal();
    assert_eq!(
        text.matches("\"record\":\"before\"").count(),
        2,
        "reads are not written down: {text}"
    );
    assert!(
        !text.contains("goodsName") && !text.contains("fake-"),
        "no body and no secret: {text}"
    );
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
    let head = said
        .lines()
        .find_map(|line| line.strip_prefix("head: "))
        .unwrap();
    assert!(log.contains(head), "its end is in the log: {head}");
}

/// A call that GatePay has read and has not answered.
async fn call_at_gatepay(
    program: &Program,
    upstream: &Scripted,
) -> JoinHandle<hyper::Result<Answer>> {
    let call = acme()
        .post(CREATE, order("A-0001"))
        .request(&Clock::system());
    let mut connection = Connection::open(program.address).await;
    let caller = tokio::spawn(async move { connection.try_send(call).await });
    until("the call is at GatePay", || upstream.count() == 1).await;
    caller
}

#[tokio::test]
async fn every_write_and_money_call_at_gatepay_is_in_the_journal() {
    let upstream = Scripted::held();
    let folder = folder(&upstream.url());
    let program = Program::serve(&folder).await;
    let caller = call_at_gatepay(&program, &upstream).await;
    let text = folder.journal();
    assert!(
        text.contains("\"key\":\"A-0001\"") && !text.contains("\"record\":\"after\""),
        "{text}"
    );
    upstream.release();
    caller.await.unwrap().unwrap();
    program.stop().await;
}

#[tokio::test]
async fn a_journal_outlives_a_kill_and_shows_what_was_in_flight() {
    let upstream = Scripted::held();
    let folder = folder(&upstream.url());
    let program = Program::serve(&folder).await;
    let caller = call_at_gatepay(&program, &upstream).await;
    // A killed process writes nothing more.
    drop(program);
    let _cut = caller.await.unwrap();
    Program::serve(&folder).await.stop().await;

    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("note: run 1 has no end") && said.contains("1 of them without"),
        "{said}"
    );
    let (shown, _) = audit(&folder, "show", &["--tenant", "acme"]);
    assert!(
        shown.contains("in flight, or the record of its end was lost"),
        "{shown}"
    );
}

#[tokio::test]
async fn an_altered_amount_of_history_is_found_with_file_and_line() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    let program = Program::serve(&folder).await;
    send(&program, acme().post(CREATE, order("A-0001"))).await;
    program.stop().await;
    let file = "audit/audit-000001-0001.jsonl";
    let text = fs::read_to_string(folder.path(file)).unwrap();
    folder.file(file, &text.replace("A-0001", "A-0002"));
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("audit-000001-0001.jsonl:2: does not follow"),
        "{said}"
    );
}

#[tokio::test]
async fn a_journal_that_cannot_grow_stops_money_and_nothing_else() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    // The limit of 32 KiB per file is less than the size of a journal file.
    let program = Program::serve_under(
        &folder,
        &["env", "--ignore-signal=XFSZ", "prlimit", "--fsize=32768"],
    )
    .await;
    let mut last = send(&program, acme().post(CREATE, order("A-0000"))).await;
    assert_eq!(last.status, 200);
    for number in 1..100 {
        last = send(
            &program,
            acme().post(CREATE, order(&format!("A-{number:04}"))),
        )
        .await;
        if last.status != 200 {
            break;
        }
    }
    assert_eq!(last.refused(), (503, "journal_unavailable"));
    assert_eq!(last.outcome(), Some("not-executed"));
    let executed = gatepay.received().len();
    assert_eq!(
        send(&program, acme().post(CREATE, order("A-1000")))
            .await
            .refusal(),
        Some("journal_unavailable")
    );
    assert_eq!(gatepay.received().len(), executed, "nothing was sent");
    assert_eq!(
        send(&program, acme().post(QUERY, BY_NUMBER)).await.status,
        200
    );
    let metrics = http::Request::get("/metrics")
        .header("host", "admin")
        .body(http_body_util::Full::default());
    let metrics = Connection::open(program.admin)
        .await
        .send(metrics.unwrap())
        .await;
    assert!(
        metrics.text().contains("gatepay_proxy_journal_available 0"),
        "{}",
        metrics.text()
    );
    let log = program.stop().await;
    assert!(log.contains("the audit journal cannot be written"), "{log}");
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
}

/// A kind of harm to a journal that is being written, and whether the harm can be undone.
#[derive(Debug, Clone, Copy)]
enum Harm {
    FileMoved,
    FileRemoved,
    FileReplaced,
    FolderMoved,
    FolderRemoved,
}

impl Harm {
    const ALL: [Self; 5] = [
        Self::FileMoved,
        Self::FileRemoved,
        Self::FileReplaced,
        Self::FolderMoved,
        Self::FolderRemoved,
    ];

    fn is_done_to(self, folder: &Folder) {
        let (file, aside) = (folder.path(FIRST), folder.path("aside"));
        let done = match self {
            Self::FileMoved => fs::rename(file, aside),
            Self::FileRemoved => fs::remove_file(file),
            // The same bytes in another file.
            Self::FileReplaced => {
                fs::rename(&file, &aside).and_then(|()| fs::copy(&aside, &file).map(drop))
            }
            Self::FolderMoved => fs::rename(folder.path("audit"), aside),
            Self::FolderRemoved => fs::remove_dir_all(folder.path("audit")),
        };
        done.unwrap();
    }

    /// Puts back the moved files; false if there is nothing to put back.
    fn is_undone(self, folder: &Folder) -> bool {
        let to = match self {
            Self::FileMoved | Self::FileReplaced => FIRST,
            Self::FolderMoved => "audit",
            Self::FileRemoved | Self::FolderRemoved => return false,
        };
        fs::rename(folder.path("aside"), folder.path(to)).unwrap();
        true
    }
}

const FIRST: &str = "audit/audit-000001-0001.jsonl";

#[tokio::test]
async fn a_journal_that_is_moved_or_removed_while_it_is_written_stops_money_at_once() {
    for harm in Harm::ALL {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url());
        let program = Program::serve(&folder).await;
        let order = |number| acme().post(CREATE, order(number));
        assert_eq!(send(&program, order("A-0001")).await.status, 200);
        harm.is_done_to(&folder);
        let refused = send(&program, order("A-0002")).await;
        assert_eq!(refused.refused(), (503, "journal_unavailable"), "{harm:?}");
        assert_eq!(refused.outcome(), Some("not-executed"), "{harm:?}");
        assert_eq!(
            send(&program, acme().post(QUERY, BY_NUMBER)).await.status,
            200
        );
        let is_undone = harm.is_undone(&folder);
        if is_undone {
            until_so("the journal can be written again", async || {
                send(&program, order("A-0003")).await.status == 200
            })
            .await;
        }
        let log = program.stop().await;
        assert!(log.contains("was moved, removed or replaced"), "{log}");
        let (said, code) = audit(&folder, "verify", &[]);
        assert_eq!(code, Some(i32::from(!is_undone)), "{harm:?}: {said}");
    }
}

/// Without any request, the harm is known within a moment.
#[tokio::test]
async fn a_journal_that_is_removed_while_nothing_is_written_is_seen_in_the_metrics() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    let program = Program::serve(&folder).await;
    fs::remove_file(folder.path(FIRST)).unwrap();
    until_so("the metric says so", async || {
        let metrics = http::Request::get("/metrics").header("host", "admin");
        let metrics = metrics.body(http_body_util::Full::default()).unwrap();
        let metrics = Connection::open(program.admin).await.send(metrics).await;
        metrics.text().contains("gatepay_proxy_journal_available 0")
    })
    .await;
    program.stop().await;
}

#[tokio::test]
async fn the_last_runs_files_are_missed_and_its_number_is_not_given_again() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    for number in ["A-0001", "A-0002"] {
        let program = Program::serve(&folder).await;
        send(&program, acme().post(CREATE, order(number))).await;
        program.stop().await;
    }
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
    fs::remove_file(folder.path("audit/audit-000002-0001.jsonl")).unwrap();
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("run 2 is known from its head and is not here"),
        "{said}"
    );
    let log = Program::serve(&folder).await.stop().await;
    assert!(log.contains("lacks its last known record"), "{log}");
    assert!(folder.path("audit/audit-000003-0001.jsonl").exists());
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("as run 3 began, record"), "{said}");

    // Away from the proxy, options name the heads; otherwise the command prints which comparison is missing.
    let name = |name: &str| folder.name(name);
    let away = |more: &[&str]| {
        let (dir, key) = (name("audit"), name("secrets/audit.key"));
        let command = [
            "audit",
            "verify",
            "--dir",
            &dir,
            "--key-file",
            &key,
            "--from-run",
            "3",
        ];
        printed(&run(&[&command, more].concat()))
    };
    let (said, code) = away(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("note: no --state-dir is given"), "{said}");
    let text = folder.journal();
    let record = text.lines().next_back().unwrap().to_owned() + "\n";
    let cut = fs::read_to_string(folder.path("audit/audit-000003-0001.jsonl")).unwrap();
    folder.file(
        "audit/audit-000003-0001.jsonl",
        cut.strip_suffix(&record).unwrap(),
    );
    let (said, _) = away(&["--state-dir", &name("state")]);
    assert!(
        said.contains("the end of run 3 was cut or altered"),
        "{said}"
    );
    assert!(!said.contains("no --state-dir"), "{said}");
}

#[test]
fn a_configured_journal_that_is_not_there_is_a_finding() {
    let folder = folder("http://127.0.0.1:1");
    for exists in [false, true] {
        if exists {
            fs::create_dir(folder.path("audit")).unwrap();
        }
        let (said, code) = audit(&folder, "verify", &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("there is no journal here"), "{said}");
    }
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    folder.file("proxy.toml", &proxy.replace("state_dir = 'state'\n", ""));
    let (said, _) = audit(&folder, "verify", &[]);
    assert!(said.contains("note: no state_dir is configured"), "{said}");
}

/// The journal's records before calls, in order.
fn befores(folder: &Folder) -> Vec<Value> {
    let text = folder.journal();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["record"] == "before")
        .collect()
}

#[tokio::test]
async fn a_call_is_written_down_with_its_amounts_as_they_were_sent() {
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let folder = folder(&upstream.url());
    let program = Program::serve(&folder).await;
    let payout = r#"{"batch_id":"B1","withdraw_list":[
        {"merchant_withdraw_id":"1","currency":"USDT","amount":"0.1","chain":"MATIC","address":"0x1"},
        {"merchant_withdraw_id":"2","currency":"USDT","amount":"0.20","chain":"MATIC","address":"0x2"},
        {"merchant_withdraw_id":"3","currency":"GT","amount":7,"chain":"MATIC","address":"0x3"}]}"#;
    let hostile = |amount: &str| {
        format!(r#"{{"refundRequestId":"R-2","prepayId":"1","refundAmount":"{amount}"}}"#)
    };
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(REFUND, A_REFUND),
        acme().post("/v1/pay/withdraw", payout),
        acme().post(REFUND, hostile(&"9".repeat(10_000))),
        acme().post(REFUND, hostile("=1\\u0022,\\\\+2")),
        acme().post(CLOSE, BY_NUMBER),
    ] {
        assert_eq!(send(&program, call).await.status, 200);
    }
    program.stop().await;
    let before = befores(&folder);
    let amounts: Vec<&Value> = before.iter().map(|record| &record["amounts"]).collect();
    let refund: Value = serde_json::from_str(A_REFUND).unwrap();
    let field = "withdraw_list.amount";
    assert_eq!(
        amounts,
        [
            &json!([{"field": "orderAmount", "amount": "1.21", "currency": "USDT"}]),
            &json!([{"field": "refundAmount", "amount": refund["refundAmount"]}]),
            &json!([
                {"field": field, "amount": "0.30", "currency": "USDT", "count": 2},
                {"field": field, "amount": "7", "currency": "GT"},
            ]),
            &json!([{"field": "refundAmount"}]),
            &json!([{"field": "refundAmount", "amount": "=1\",\\+2"}]),
            &Value::Null,
        ]
    );
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
}

/// Standard output and standard error of `audit show`, and its exit code.
fn shown(folder: &Folder, more: &[&str]) -> (String, String, Option<i32>) {
    let config = folder.name("proxy.toml");
    let output = run(&[&["audit", "show", "--config", &config], more].concat());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        text(&output.stdout),
        text(&output.stderr),
        output.status.code(),
    )
}

/// The keys of the calls that are shown, a dash for anything else.
fn keys_of(folder: &Folder, more: &[&str]) -> String {
    let (shown, said, code) = shown(folder, &[more, &["--json"]].concat());
    assert_eq!(code, Some(i32::from(shown.is_empty())), "{more:?}: {said}");
    let lines = shown.lines();
    let keys = lines.map(|line| {
        let found: Value = serde_json::from_str(line).unwrap();
        assert_eq!(found["verified"], true, "{line}");
        found["before"]["key"].as_str().unwrap_or("-").to_owned()
    });
    keys.collect::<Vec<_>>().join(" ")
}

fn initech() -> Shop {
    Shop::new(
        "initech",
        "client-initech",
        "fake-initech-secret-0003",
        "2124538399",
    )
}

/// Two orders of which one is refused, a refund, and a change of the configuration between them.
async fn some_history() -> Folder {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    let program = Program::serve(&folder).await;
    send(&program, acme().post(CREATE, order("A-0001"))).await;
    folder.tenant(&initech(), "");
    let (status, _) = program.reload("").await;
    assert_eq!(status, 200);
    send(&program, acme().post(CREATE, order("A-0001"))).await;
    send(&program, globex().post(REFUND, A_REFUND)).await;
    program.stop().await;
    folder
}

#[tokio::test]
async fn calls_and_changes_are_found_by_everything_that_is_asked_together() {
    let folder = some_history().await;
    for (asked, found) in [
        (&[][..], "A-0001 - A-0001 R-0001"),
        (&["--operation", "create_order"], "A-0001 A-0001"),
        (
            &["--operation", "create_order,refund_order"],
            "A-0001 A-0001 R-0001",
        ),
        (
            &["--operation", "create_order", "--operation", "refund_order"],
            "A-0001 A-0001 R-0001",
        ),
        (&["--operation", "create_order", "--tenant", "globex"], ""),
        (&["--kind", "write"], "A-0001 A-0001"),
        (&["--kind", "money"], "R-0001"),
        (&["--kind", "money,configuration"], "- R-0001"),
        (&["--kind", "configuration"], "-"),
        (&["--kind", "configuration", "--tenant", "initech"], "-"),
        (&["--kind", "configuration", "--tenant", "acme"], ""),
        (&["--kind", "configuration", "--outcome", "success"], ""),
        (&["--kind", "suspension"], ""),
        (&["--tenant", "initech"], "-"),
        (&["--tenant", "acme,globex"], "A-0001 A-0001 R-0001"),
        (&["--outcome", "success"], "A-0001"),
        (&["--outcome", "failure", "--tenant", "acme"], "A-0001"),
        (
            &["--outcome", "success,failure", "--tenant", "acme"],
            "A-0001 A-0001",
        ),
        (&["--outcome", "open"], ""),
        (
            &["--key", "R-0001", "--key", "A-0001"],
            "A-0001 A-0001 R-0001",
        ),
        (&["--limit", "1"], "R-0001"),
        (&["--limit", "3"], "- A-0001 R-0001"),
        (
            &["--limit", "1", "--kind", "write", "--outcome", "success"],
            "A-0001",
        ),
        (
            &["--limit", "100", "--since", "1h"],
            "A-0001 - A-0001 R-0001",
        ),
        (&["--until", "1h"], ""),
    ] {
        assert_eq!(keys_of(&folder, asked), found, "{asked:?}");
    }
    let (text, _, _) = shown(&folder, &[]);
    assert!(
        text.contains("  configuration ") && text.contains("+ tenant initech"),
        "{text}"
    );
    assert!(text.contains("1.21 USDT (orderAmount)"), "{text}");
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_with_the_nearest() {
    let folder = some_history().await;
    for (asked, said) in [
        (
            &["--operation", "creat_order"][..],
            "did you mean create_order",
        ),
        (&["--operation", "refund"], "did you mean refund_order"),
        (
            &["--operation", "create_order,refnd_order"],
            "\"refnd_order\": is no operation; did you mean refund_order",
        ),
        (&["--operation", "query_order"], "is a read"),
        (&["--operation", ""], "is no operation"),
        (&["--tenant", "acne"], "did you mean acme"),
        (&["--tenant", "nobody-near"], "is no tenant or operator"),
        (&["--kind", "monney"], "'money'"),
        (
            &["--kind", "read"],
            "possible values: write, money, configuration, suspension",
        ),
        (&["--outcome", "sucess"], "'success'"),
        (&["--outcome", "Success"], "'success'"),
        (&["--limit", "0"], "zero"),
        (&["--limit=-1"], "invalid digit"),
        (&["--limit", "many"], "many"),
        (&["--csv", "--json"], "cannot be used with"),
    ] {
        let (shown, complained, code) = shown(&folder, asked);
        assert_eq!(
            (code, shown.as_str()),
            (Some(64), ""),
            "{asked:?}: {complained}"
        );
        assert!(complained.contains(said), "{asked:?}: {complained}");
    }
}

#[tokio::test]
async fn a_table_has_a_line_for_each_and_no_formula() {
    let upstream =
        Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{"refundId":"@id"}}"#);
    let folder = folder(&upstream.url());
    let program = Program::serve(&folder).await;
    let refund = |id: &str, amount: &str| {
        let body =
            format!(r#"{{"refundRequestId":"{id}","prepayId":"1","refundAmount":"{amount}"}}"#);
        acme().post(REFUND, body)
    };
    send(&program, refund("=1+1", "=cmd|'/C calc'!A0")).await;
    send(&program, refund("a;=1,\\u0022b", "-5")).await;
    send(&program, acme().post(CREATE, order("A-0001"))).await;
    program.stop().await;
    let (table, said, code) = shown(&folder, &["--csv"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let lines: Vec<&str> = table.split("\r\n").collect();
    assert_eq!(
        lines.len(),
        5,
        "a header, three calls, and nothing behind: {table}"
    );
    assert!(
        lines[0].starts_with("time,kind,operation,outcome,amount,currency,count,"),
        "{table}"
    );
    assert!(
        lines[1].contains(",money,refund_order,success,\"'=cmd|'/C calc'!A0\",,1,,acme,"),
        "{table}"
    );
    assert!(lines[1].contains(",\"'=1+1\","), "{table}");
    assert!(lines[1].contains(",\"refundId @id\","), "{table}");
    assert!(
        lines[2].contains(",-5,,1,,acme,") && lines[2].contains(",\"a;'=1,\"\"b\","),
        "{table}"
    );
    assert!(
        lines[3].contains(",write,create_order,success,1.21,USDT,1,,acme,"),
        "{table}"
    );
    assert!(
        lines[1..4].iter().all(|line| line.ends_with(",yes,")),
        "{table}"
    );
}

#[tokio::test]
async fn altered_records_that_audit_show_prints_are_marked_and_reported() {
    let folder = some_history().await;
    let whole = fs::read_to_string(folder.path(FIRST)).unwrap();
    // The last call is altered; then a record is cut out in front of it; then the whole file is removed.
    folder.file(
        FIRST,
        &whole.replace("\"amount\":\"1\"", "\"amount\":\"9\""),
    );
    let (text, said, code) = shown(&folder, &["--kind", "money"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        text.contains("9 - (refundAmount)") && text.contains("NOT VERIFIED"),
        "{text}"
    );
    assert!(
        said.contains("1 of 1 records shown cannot be verified"),
        "{said}"
    );
    let (json, _, _) = shown(&folder, &["--json"]);
    let verified: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["verified"].take())
        .collect();
    assert_eq!(verified, [true, true, true, false]);

    // The shown calls are whole; another part of the journal is broken.
    let (_, said, code) = shown(&folder, &["--outcome", "success", "--csv"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(!said.contains("shown cannot be verified"), "{said}");
    assert!(
        said.contains("audit-000001-0001.jsonl:") && said.contains("findings: 2"),
        "{said}"
    );

    fs::remove_file(folder.path(FIRST)).unwrap();
    let (_, said, code) = shown(&folder, &["--key", "R-0001"]);
    assert_eq!(
        code,
        Some(4),
        "what was asked for may be what is gone: {said}"
    );

    // A copy without its key is shown and not verified; with the key, the copy is verified.
    folder.file(FIRST, &whole);
    let (dir, key, state) = (
        folder.name("audit"),
        folder.name("secrets/audit.key"),
        folder.name("state"),
    );
    for (more, noted, verified) in [
        (&[][..], true, Value::Null),
        (
            &["--key-file", &key, "--state-dir", &state],
            false,
            json!(true),
        ),
    ] {
        let command = ["audit", "show", "--dir", &dir, "--json", "--limit", "1"];
        let (said, code) = printed(&run(&[&command, more].concat()));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(
            said.contains("note: the records are not verified"),
            noted,
            "{said}"
        );
        let line = said.lines().find(|line| line.starts_with('{')).unwrap();
        let call: Value = serde_json::from_str(line).unwrap();
        assert_eq!(call["verified"], verified, "{said}");
    }
}

/// A run in the format before amounts, without its links.
const BEFORE_AMOUNTS: [&str; 4] = [
    r#"{"run":1,"seq":1,"time":"2026-01-01T00:00:00.000Z","record":"begun","version":"0.1.0""#,
    r#"{"run":1,"seq":2,"time":"2026-01-01T00:00:01.000Z","record":"before","id":"00000000000000000000000000000001","party":"acme","client_id":"client-acme","peer":"127.0.0.1","operation":"refund_order","kind":"money","account":"2124538349","key":"R-1","timestamp":"1767225601000","nonce":"n1","signature":"aa","signed_sha256":"bb","body_bytes":23"#,
    r#"{"run":1,"seq":3,"time":"2026-01-01T00:00:02.000Z","record":"after","id":"00000000000000000000000000000001","party":"acme","outcome":"success","status":200,"code":"000000","attempts":[],"ids":{"refundId":"7"}"#,
    r#"{"run":1,"seq":4,"time":"2026-01-01T00:00:03.000Z","record":"ended""#,
];

/// The records with their links.
fn linked(key: &str, records: &[&str]) -> String {
    let key = SigningKey::new(&SecretKey::new(key.to_owned().into()).unwrap());
    let mut link = ChainLink::ORIGIN;
    let lines = records.iter().map(|record| {
        link = link.next(&key, record.as_bytes());
        format!("{record},\"link\":\"{link}\"}}\n")
    });
    lines.collect()
}

/// A journal of the previous version, which has no amounts, and which this version continues.
#[tokio::test]
async fn a_journal_without_amounts_verifies_is_shown_and_goes_on() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    let key = fs::read_to_string(folder.path("secrets/audit.key")).unwrap();
    fs::create_dir(folder.path("audit")).unwrap();
    folder.file(FIRST, &linked(key.trim_end(), &BEFORE_AMOUNTS));
    let program = Program::serve(&folder).await;
    send(&program, acme().post(CREATE, order("A-0001"))).await;
    program.stop().await;
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
    let (table, said, code) = shown(&folder, &["--csv", "--kind", "write,money"]);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<&str> = table.split("\r\n").collect();
    assert!(
        lines[1].contains(",money,refund_order,success,,,,,acme,"),
        "{table}"
    );
    assert!(
        lines[2].contains(",write,create_order,success,1.21,USDT,1,,acme,"),
        "{table}"
    );
}

/// Errors in other files do not prevent a look at the journal.
#[tokio::test]
async fn a_journal_can_be_looked_at_while_a_tenants_file_is_wrong() {
    let folder = some_history().await;
    folder.file("tenants.d/broken.toml", "id = ");
    for command in ["verify", "show"] {
        let (said, code) = audit(&folder, command, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("broken.toml"), "{said}");
    }
}

/// Any user with write permission for the folder may remove the journal in it.
#[tokio::test]
async fn a_world_writable_journal_folder_is_refused_by_check_and_at_the_start() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    fs::create_dir(folder.path("audit")).unwrap();
    let set_mode = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.path("audit"), mode).unwrap();
    };
    for mode in [0o777, 0o1777, 0o702] {
        set_mode(mode);
        for command in ["check", "serve"] {
            let (said, code) = printed(&folder.run(command));
            assert_ne!(code, Some(0), "{command} {mode:o}: {said}");
            assert!(said.contains("chmod o-w "), "{command} {mode:o}: {said}");
            assert!(said.contains("remove the audit journal"), "{said}");
        }
        assert_eq!(fs::read_dir(folder.path("audit")).unwrap().count(), 0);
    }
    for mode in [0o700, 0o755, 0o2770] {
        set_mode(mode);
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(0), "{mode:o}: {said}");
    }
}

/// A symbolic or hard link under the name of a past or future head file is refused.
#[tokio::test]
async fn a_link_where_the_journals_heads_are_is_refused_by_check_and_at_the_start() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    Program::serve(&folder).await.stop().await;
    folder.file("precious", "keep me");
    for name in [
        "audit-000001.head",
        "audit-000777.head",
        "audit-latest",
        "audit-latest.unfinished",
    ] {
        let path = folder.path(&format!("state/{name}"));
        let before = fs::read(&path).ok();
        for (kind, said) in [("soft", "symbolic link"), ("hard", "hard link")] {
            let _gone = fs::remove_file(&path);
            if kind == "soft" {
                std::os::unix::fs::symlink(folder.path("precious"), &path).unwrap();
            } else {
                fs::hard_link(folder.path("precious"), &path).unwrap();
            }
            for command in ["check", "serve"] {
                let (printed, code) = printed(&folder.run(command));
                assert_ne!(code, Some(0), "{command} {name}: {printed}");
                assert!(
                    printed.contains(said) && printed.contains(name),
                    "{command}: {printed}"
                );
            }
        }
        fs::remove_file(&path).unwrap();
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
        }
    }
    assert_eq!(
        fs::read_to_string(folder.path("precious")).unwrap(),
        "keep me"
    );
    Program::serve(&folder).await.stop().await;
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_last_run_that_was_removed_with_its_head_is_missed() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url());
    for number in ["A-0001", "A-0002"] {
        let program = Program::serve(&folder).await;
        send(&program, acme().post(CREATE, order(number))).await;
        program.stop().await;
    }
    folder.remove("audit/audit-000002-0001.jsonl");
    folder.remove("state/audit-000002.head");
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run 2 is known to have begun"), "{said}");
    let log = Program::serve(&folder).await.stop().await;
    assert!(
        log.contains("latest run and its head were removed"),
        "{log}"
    );
    let (said, code) = audit(&folder, "verify", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run 2 is not here"), "{said}");
}
