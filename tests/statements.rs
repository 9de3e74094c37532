//! Statements: a tenant's calls and amounts of a day, to the last digit of GatePay's books.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::InjectedFault;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;

const PAYOUT: &str = "/v1/pay/withdraw";
const ONE: i128 = 1_000_000_000_000_000_000;
const FUNDS: i128 = 10_000_000;
const CALLERS: u64 = 8;
/// One of so many calls meets a fault.
const CALLS_OF_A_FAULT: usize = 10;
/// The variable with another number of calls for the long campaign.
const CALLS: &str = "STATEMENT_CALLS";
const DAYS: [&str; 2] = ["2026-02-01", "2026-02-02"];

/// The answers that the callers have seen.
#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    /// Reads that were answered, and reads whose instance was gone.
    reads: AtomicUsize,
    broken_reads: AtomicUsize,
    /// The numbers of calls of which the callers do not know whether they were executed.
    doubtful: Mutex<BTreeSet<String>>,
    /// The path and body of each write and money call, by its number.
    sent: Mutex<HashMap<String, (&'static str, String)>>,
    is_over: AtomicBool,
}

fn payout(number: &str, amount: &str) -> String {
    json!({ "batch_id": number, "withdraw_list": [
        { "merchant_withdraw_id": format!("w{number}"), "amount": amount, "currency": "USDT", "chain": "ETH", "address": "0xabc" } ] })
    .to_string()
}

async fn send(address: SocketAddr, path: &str, body: &str) -> Option<Answer> {
    let request = acme().post(path, body.to_owned()).request(&Clock::system());
    let sent = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let mut caller = Connection::over(stream).await;
        caller.try_send(request).await.ok()
    };
    tokio::time::timeout(Duration::from_secs(30), sent)
        .await
        .ok()
        .flatten()
}

/// Sends a call while the store is there.
async fn call(program: &Program, path: &str, body: &str) -> Answer {
    let request = acme().post(path, body.to_owned()).request(&Clock::system());
    send_to_instance(program.address, &request).await
}

/// Whether the caller knows of a write or money call that it was executed, or that it was not.
fn is_known(answer: &Answer) -> bool {
    answer.refusal().is_none() && matches!(answer.outcome(), Some("executed" | "refused"))
}

/// Makes calls of three kinds under new numbers, at any instance, until it is over.
async fn use_gatepay(addresses: Arc<Mutex<Vec<SocketAddr>>>, seen: Arc<Seen>, caller: u64) {
    let mut dice = Dice::new(caller + 1);
    for number in 0_u64.. {
        if seen.is_over.load(Ordering::Relaxed) {
            return;
        }
        let all = addresses.lock().unwrap().clone();
        let address = dice.one_of(&all);
        let number = format!("S{caller}x{number}");
        let amount = format!("{}.{:02}", dice.below(20), 1 + dice.below(99));
        let (path, body) = match dice.below(3) {
            0 => (PAYOUT, payout(&number, &amount)),
            1 => (CREATE, order(&number)),
            _ => (QUERY, BY_NUMBER.to_owned()),
        };
        let answer = send(address, path, &body).await;
        if path != QUERY {
            let mut sent = seen.sent.lock().unwrap();
            sent.insert(number.clone(), (path, body));
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
        match answer {
            Some(_) if path == QUERY => seen.reads.fetch_add(1, Ordering::Relaxed),
            None if path == QUERY => seen.broken_reads.fetch_add(1, Ordering::Relaxed),
            Some(answer) if is_known(&answer) => 0,
            Some(_) | None => {
                seen.doubtful.lock().unwrap().insert(number);
                0
            }
        };
    }
}

fn folder(gatepay: &GatePay, server: &PgServer) -> Folder {
    let folder = Folder::before(&gatepay.url());
    folder.uses_a_store(&[server.port], ", timeout_ms = 10_000");
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        "upstream = { resolve_ms = 300, breaker = { failures = 0 }, quota = { requests_per_second = 5000 }, ",
    );
    folder.tenant(
        &acme(),
        "limits = { in_flight = 1000, requests_per_second = 5000, burst = 5000 }",
    );
    folder
}

async fn statement(program: &Program, day: &str) -> Value {
    let path = format!("/statements?tenant=acme&day={day}");
    let answer = program.admin("GET", &path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The part of a statement that does not change after the end of its day.
fn lasting(statement: &Value) -> Value {
    let mut lasting = statement.clone();
    let fields = lasting.as_object_mut().unwrap();
    fields.remove("state");
    fields.remove("counts_lost_after");
    lasting
}

fn units(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{part:0<18}");
    whole.parse::<i128>().unwrap() * ONE + part.parse::<i128>().unwrap()
}

/// Calls and amounts in USDT by operation and outcome.
type Sums = BTreeMap<(String, String), (i64, i128)>;

/// Statements with their corrections.
fn sums(statements: &[Value]) -> Sums {
    let mut sums = Sums::new();
    for statement in statements {
        let calls = statement["calls"].as_array().unwrap();
        let corrections = statement["corrections"].as_array().unwrap();
        let told = calls.iter().map(|call| (call, "outcome", 1));
        let corrected = corrections
            .iter()
            .flat_map(|it| [(it, "was", -1), (it, "is", 1)]);
        for (of, outcome, sign) in told.chain(corrected) {
            let word = |name: &str| of[name].as_str().unwrap().to_owned();
            let sum = sums.entry((word("operation"), word(outcome))).or_default();
            sum.0 += sign * of["calls"].as_i64().unwrap();
            let amount = of["amounts"]["USDT"].as_str().map_or(0, units);
            sum.1 += i128::from(sign) * amount;
        }
    }
    sums
}

fn sum(sums: &Sums, operation: &str, outcome: &str) -> (i64, i128) {
    let name = (operation.to_owned(), outcome.to_owned());
    sums.get(&name).copied().unwrap_or_default()
}

fn reads(statements: &[Value]) -> usize {
    let requests = statements
        .iter()
        .flat_map(|it| it["requests"].as_array().unwrap());
    let reads = requests.filter(|it| it["operation"] == "query_order");
    let reads: u64 = reads.map(|it| it["requests"].as_u64().unwrap()).sum();
    usize::try_from(reads).unwrap()
}

/// The numbers of the objects that GatePay has made by calls of an operation.
fn made(gatepay: &GatePay, operation: &str, key: &str) -> BTreeSet<String> {
    let received = gatepay.received().into_iter();
    let made = received.filter_map(|one| {
        let answer: Value = serde_json::from_slice(&one.answer_body).ok()?;
        let is_made = one.executed
            && one.operation.as_deref() == Some(operation)
            && answer["status"] == "SUCCESS";
        let body: Value = serde_json::from_slice(&one.body).ok()?;
        is_made.then(|| body[key].as_str().unwrap().to_owned())
    });
    made.collect()
}

/// Sends a call until the caller knows whether it was executed.
async fn repeat(address: SocketAddr, path: &str, body: &str) {
    let began = Instant::now();
    loop {
        let answer = send(address, path, body).await;
        let outcome = answer.as_ref().and_then(Answer::outcome);
        if matches!(outcome, Some("executed" | "refused" | "found"))
            && answer.as_ref().is_some_and(|it| it.refusal().is_none())
        {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{body}: {outcome:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Holds the statements against GatePay's books. Returns how many crashes they tell, and the figures.
fn compare(gatepay: &GatePay, statements: &[Value], seen: &Seen) -> (usize, String) {
    let sums = sums(statements);
    let moved = FUNDS * ONE - units(&gatepay.sandbox.balance(acme().sub_account, "USDT"));
    let payouts = made(gatepay, "create_payout", "batch_id").len();
    let orders = made(gatepay, "create_order", "merchantTradeNo").len();
    let (counted, answered) = (reads(statements), seen.reads.load(Ordering::Relaxed));
    let broken = seen.broken_reads.load(Ordering::Relaxed);
    let told = format!(
        "GatePay made {payouts} payouts of {moved} units and {orders} orders; {answered} reads were answered, {broken} broken and \
         {counted} counted; {} corrections; sums {sums:?}",
        statements[1]["corrections"].as_array().unwrap().len(),
    );
    let as_calls = |number: usize| i64::try_from(number).unwrap();
    let executed = sum(&sums, "create_payout", "executed");
    assert_eq!(executed, (as_calls(payouts), moved), "{told}");
    let executed = sum(&sums, "create_order", "executed");
    assert_eq!(executed.0, as_calls(orders), "{told}");
    for operation in ["create_payout", "create_order"] {
        assert_eq!(sum(&sums, operation, "unknown"), (0, 0), "{told}");
    }
    assert!(counted <= answered + broken, "{told}");
    let lost = |it: &Value| it["counts_lost_after"].as_array().unwrap().len();
    (statements.iter().map(lost).sum(), told)
}

const FAR: i64 = 9_000_000_000_000_000;

/// Ends the first day now.
fn begin_next_day(server: &PgServer) {
    server.sql(&format!(
        "WITH t AS (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now),
            u AS (UPDATE gatepay.usage_day SET ends = t.now FROM t)
        INSERT INTO gatepay.usage_day SELECT '{}', t.now, {FAR} FROM t",
        DAYS[1]
    ));
}

/// At least so many calls with faults and so many crashes of an instance, and the end of a day in between.
#[expect(clippy::print_stderr, reason = "the figures of the campaign")]
async fn campaign(calls: usize, kills: usize) {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now_and(|config| config.record = 1_000_000);
    let funded = FUNDS.to_string();
    gatepay
        .sandbox
        .fund(acme().sub_account, "USDT", &funded)
        .unwrap();
    let server = PgServer::migrated().await;
    server.sql(&format!(
        "INSERT INTO gatepay.usage_day VALUES ('{}', 0, {FAR})",
        DAYS[0]
    ));
    let folders = [0, 1].map(|_| folder(&gatepay, &server));
    let mut programs = Program::serve_all(&folders).await;
    let addresses: Vec<SocketAddr> = programs.iter().map(|program| program.address).collect();
    let addresses = Arc::new(Mutex::new(addresses));
    let seen = Arc::new(Seen::default());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (addresses, seen) = (Arc::clone(&addresses), Arc::clone(&seen));
            tokio::spawn(use_gatepay(addresses, seen, caller))
        })
        .collect();
    let (began, mut dice) = (Instant::now(), Dice::new(9));
    let (mut killed, mut faults, mut is_next_day) = (0, 0, false);
    while seen.calls.load(Ordering::Relaxed) < calls || killed < kills || !is_next_day {
        let made = seen.calls.load(Ordering::Relaxed);
        while faults < made / CALLS_OF_A_FAULT {
            gatepay.inject(dice.fault_of_money(8).once());
            faults += 1;
        }
        if !is_next_day && made > calls / 2 {
            begin_next_day(&server);
            is_next_day = true;
        }
        if killed < kills && made > (killed + 1) * calls / (kills + 1) {
            let at = killed % folders.len();
            let program = programs.remove(at);
            program.signal("-KILL");
            let _ended = program.end().await;
            let program = Program::serve(&folders[at]).await;
            addresses.lock().unwrap()[at] = program.address;
            programs.insert(at, program);
            killed += 1;
        }
        assert!(began.elapsed() < Duration::from_mins(50), "{made} calls");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen.is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    gatepay.sandbox.clear_faults();
    for program in &programs {
        program.until_ready().await;
    }
    let ended = lasting(&statement(&programs[0], DAYS[0]).await);

    // The tenant repeats the calls whose outcome it or its statement does not know, under the same numbers.
    let mut doubtful = std::mem::take(&mut *seen.doubtful.lock().unwrap());
    let unknown = server.sql(
        "SELECT coalesce(string_agg(key, ' '), '') FROM gatepay.usage_call WHERE result IS NULL",
    );
    doubtful.extend(unknown.split_whitespace().map(str::to_owned));
    let sent = std::mem::take(&mut *seen.sent.lock().unwrap());
    for (path, body) in doubtful.iter().map(|number| &sent[number]) {
        repeat(programs[1].address, path, body).await;
    }
    for program in programs {
        program.stop().await;
    }
    // Instances that have not flushed for a minute are gone.
    server.sql("UPDATE gatepay.usage_writer SET flushed = flushed - 61000 WHERE NOT ended");
    let program = Program::serve(&folders[0]).await;
    program.until_ready().await;
    let first = statement(&program, DAYS[0]).await;
    assert_eq!(
        lasting(&first),
        ended,
        "a day that has ended changes no more"
    );
    let second = statement(&program, DAYS[1]).await;
    let statements = [first, second];
    let (lost, told) = compare(&gatepay, &statements, &seen);
    eprintln!(
        "{} calls in {:.0} s, {killed} kills, {faults} faults, {} repeated by the tenant: {told}",
        seen.calls.load(Ordering::Relaxed),
        began.elapsed().as_secs_f64(),
        doubtful.len(),
    );
    let (counted, answered) = (reads(&statements), seen.reads.load(Ordering::Relaxed));
    assert_eq!(lost, killed, "each crash is told");
    assert!(kills > 0 || counted == answered, "{counted} of {answered}");
    assert!(!doubtful.is_empty());
}

#[tokio::test]
async fn statements_equal_gatepays_books_over_the_end_of_a_day_with_faults_and_a_crash() {
    campaign(500, 1).await;
}

#[tokio::test]
async fn without_a_crash_each_read_is_counted() {
    campaign(300, 0).await;
}

#[tokio::test]
#[ignore = "takes minutes: 100,000 calls"]
async fn statements_equal_gatepays_books_after_100_000_calls() {
    let given = std::env::var(CALLS).ok();
    let given = given.map(|calls| calls.parse().expect("a number of calls"));
    campaign(given.unwrap_or(100_000), 20).await;
}

/// A program with its store in a file.
async fn with_a_file(gatepay: &GatePay) -> (Folder, Program) {
    let folder = Folder::before(&gatepay.url());
    folder.proxy(
        "timestamp = { future_ms = 300 }\n\
         store = { path = 'store/gatepay.db', max_skew_ms = 200 }",
    );
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&["store", "migrate", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    let made = std::fs::metadata(folder.path("store")).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
    folder.tenant(&acme(), "");
    folder.tenant(&globex(), "");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    (folder, program)
}

#[tokio::test]
async fn a_tenant_sees_its_own_statement_and_operators_see_it_by_command() {
    let gatepay = GatePay::now();
    gatepay
        .sandbox
        .fund(acme().sub_account, "USDT", "100")
        .unwrap();
    let (folder, program) = with_a_file(&gatepay).await;
    let paid = call(&program, PAYOUT, &payout("p1", "12.5")).await;
    assert_eq!(paid.outcome(), Some("executed"));
    let refused = call(&program, PAYOUT, &payout("p2", "1000")).await;
    assert_eq!(refused.outcome(), Some("refused"));
    for _ in 0..3 {
        call(&program, QUERY, BY_NUMBER).await;
    }
    // The end of the process brings the last counts to the store.
    program.stop().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let days = program.admin("GET", "/statements").await.json();
    let day = days["days"][0]["day"].as_str().unwrap().to_owned();
    let seen = statement(&program, &day).await;
    let payouts = json!([
        { "operation": "create_payout", "outcome": "executed", "calls": 1, "amounts": { "USDT": "12.5" } },
        { "operation": "create_payout", "outcome": "refused", "calls": 1, "amounts": { "USDT": "1000" } },
    ]);
    assert_eq!(seen["calls"], payouts);
    assert_eq!(reads(std::slice::from_ref(&seen)), 3);
    assert!(seen["peak"]["requests_per_second"].as_u64() > Some(0));

    let own = |shop: Shop, query: String| {
        let call = shop.get(&format!("/-/statement{query}"));
        let request = call.request(&Clock::system());
        async move {
            let mut caller = Connection::open(program.address).await;
            caller.send(request).await
        }
    };
    let told = own(acme(), format!("?day={day}")).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(told.json()["data"]["calls"], payouts);
    let other = own(globex(), format!("?day={day}")).await;
    assert_eq!(other.json()["data"]["calls"], json!([]), "another tenant's");
    for wrong in ["", "?day=today", "?day=1999-01-01"] {
        let answer = own(acme(), wrong.to_owned()).await;
        assert_eq!(answer.refusal(), Some("malformed_request"), "{wrong}");
    }

    let (admin, config) = (program.admin.to_string(), folder.name("proxy.toml"));
    let command = |more: &str| {
        let words = [
            "statement",
            "--tenant",
            "acme",
            "--day",
            &day,
            "--admin",
            &admin,
            "--config",
            &config,
        ];
        let words: Vec<&str> = words.into_iter().chain(more.split_whitespace()).collect();
        let (said, code) = printed(&run(&words));
        assert_eq!(code, Some(0), "{said}");
        said
    };
    let csv = command("--csv");
    for line in [
        format!(
            "calls,{day},,create_payout,,executed,,1,,{}",
            acme().sub_account
        ),
        format!(
            "calls,{day},,create_payout,,executed,USDT,,12.5,{}",
            acme().sub_account
        ),
    ] {
        assert!(csv.lines().any(|it| it == line), "{line} in {csv}");
    }
    assert!(command("").contains("create_payout"));
    let shown: Value = serde_json::from_str(&command("--json")).unwrap();
    assert_eq!(shown["calls"], payouts);

    // An id that nothing is known of has no statement; that of a removed tenant stays.
    let path = format!("/statements?tenant=nobody&day={day}");
    let unknown = program.admin("GET", &path).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    let said = unknown.text();
    assert!(said.contains("no tenant or operator has this id"), "{said}");
    assert!(said.contains("`gatepay-proxy tenant list`"), "{said}");
    program.stop().await;
    folder.remove("tenants.d/acme.toml");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let kept = statement(&program, &day).await;
    assert_eq!(kept["calls"].as_array().unwrap().len(), 2, "{kept}");
}

/// How calls to an operation stand on a day.
async fn standings(program: &Program, day: &str, operation: &str) -> Vec<(String, u64)> {
    let statement = statement(program, day).await;
    let calls = statement["calls"].as_array().unwrap().iter();
    let own = calls.filter(|call| call["operation"] == operation);
    own.map(|call| {
        let outcome = call["outcome"].as_str().unwrap().to_owned();
        (outcome, call["calls"].as_u64().unwrap())
    })
    .collect()
}

/// A program with its store in a server, on the first of the days. Acme has 100 USDT.
async fn with_a_server(gatepay: &GatePay) -> (PgServer, Folder, Program) {
    gatepay
        .sandbox
        .fund(acme().sub_account, "USDT", "100")
        .unwrap();
    let server = PgServer::migrated().await;
    server.sql(&format!(
        "INSERT INTO gatepay.usage_day VALUES ('{}', 0, {FAR})",
        DAYS[0]
    ));
    let folder = folder(gatepay, &server);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    (server, folder, program)
}

#[tokio::test]
async fn calls_that_no_cap_counts_are_looked_up_for_their_statement() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (server, _folder, program) = with_a_server(&gatepay).await;
    for (path, body) in [(CREATE, order("L1")), (PAYOUT, payout("L2", "5"))] {
        gatepay.inject(InjectedFault::ResetAfterExecuting.once());
        let lost = call(&program, path, &body).await;
        assert_eq!(lost.refusal(), Some("outcome_unknown"), "{}", lost.text());
    }
    // A minute later.
    server.sql("UPDATE gatepay.usage_call SET at = at - 61000");
    let began = Instant::now();
    for operation in ["create_order", "create_payout"] {
        loop {
            let told = standings(&program, DAYS[0], operation).await;
            if told == [("executed".to_owned(), 1)] {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{operation}: {told:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn of_two_amounts_under_one_number_that_one_is_executed_which_gatepay_shows() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (server, _folder, program) = with_a_server(&gatepay).await;
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let lost = call(&program, PAYOUT, &payout("T1", "5")).await;
    assert_eq!(lost.refusal(), Some("outcome_unknown"));
    let other = call(&program, PAYOUT, &payout("T1", "70")).await;
    assert_eq!(other.json()["code"], "550245", "{}", other.text());
    assert_eq!(
        other.outcome(),
        Some("unknown"),
        "what GatePay has is not it"
    );
    // A minute later.
    server.sql("UPDATE gatepay.usage_call SET at = at - 61000");
    let began = Instant::now();
    let settled = json!([
        { "operation": "create_payout", "outcome": "executed", "calls": 1, "amounts": { "USDT": "5" } },
        { "operation": "create_payout", "outcome": "repeated", "calls": 1, "amounts": { "USDT": "70" } },
    ]);
    loop {
        let told = statement(&program, DAYS[0]).await;
        if told["calls"] == settled {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_refund_of_a_whole_order_is_one_transaction_however_often_it_is_sent() {
    let gatepay = GatePay::now();
    let (_folder, program) = with_a_file(&gatepay).await;
    let made = call(&program, CREATE, &order("W1")).await;
    let prepay = made.json()["data"]["prepayId"].as_str().unwrap().to_owned();
    gatepay.sandbox.pay(acme().sub_account, &prepay).unwrap();
    let refund = json!({ "refundRequestId": "R1", "prepayId": prepay, "refundAmount": "1.21",
        "refundAmountTypeFull": 1 });
    for _ in 0..2 {
        let sent = send(
            program.address,
            "/v2/standard/order/refund",
            &refund.to_string(),
        )
        .await;
        let sent = sent.unwrap();
        assert_eq!(sent.refusal(), None, "{}", sent.text());
    }
    let began = Instant::now();
    let one = [("executed".to_owned(), 1), ("repeated".to_owned(), 1)];
    loop {
        let days = program.admin("GET", "/statements").await.json();
        let told = match days["days"][0]["day"].as_str() {
            Some(day) => standings(&program, day, "refund_order_v2").await,
            None => Vec::new(),
        };
        if told == one {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
