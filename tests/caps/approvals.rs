//! A call above `approve_above` passes once, after operators have approved exactly this call.

use super::*;

const TWO: &str = "caps = { approvals = 2 }";

/// A folder with three operators that may approve, one of them with the tenant's name, and one that may not.
pub(super) fn with_operators(folder: &Folder) {
    let operators = ["alice", "bob", "acme", "carol"].map(|name| {
        folder.secret(&format!("admin-{name}"), &format!("fake-{name}-token"));
        let approve = name != "carol";
        format!("{{ name = '{name}', token = {{ file = 'secrets/admin-{name}.key' }}, approve = {approve} }}")
    });
    folder.secret("admin", "fake-admin-token");
    folder.edit(
        "proxy.toml",
        "admin = { address = '127.0.0.2:0' }",
        &format!(
            "admin = {{ address = '127.0.0.2:0', token = {{ file = 'secrets/admin.key' }}, operator = [{}] }}",
            operators.join(", ")
        ),
    );
    folder.proxy(TWO);
    folder.keeps_a_journal();
}

pub(super) async fn serving_with_operators(gatepay: &GatePay, limits: &str) -> (Folder, Program) {
    let folder = folder_of_file(gatepay, &caps(limits));
    with_operators(&folder);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    (folder, program)
}

/// The status and the answer to a request of this operator's.
pub(super) async fn says(
    program: &Program,
    name: &str,
    (method, path): (&str, &str),
) -> (u16, String) {
    let bearer = format!("Bearer fake-{name}-token");
    let headers = [("authorization", bearer.as_str())];
    let answer = program.admin_with(method, path, &headers).await;
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

async fn approves(program: &Program, name: &str, id: &str) -> (u16, String) {
    let path = format!("/-/approvals/approve?id={id}");
    says(program, name, ("POST", &path)).await
}

/// Waits until a metric has this value.
async fn until_metric(program: &Program, series: &str, value: &str) {
    until_so(&format!("{series} is {value}"), async || {
        program.metric(series).await == value
    })
    .await;
}

/// The id that a refusal tells.
fn id_of(answer: &Answer) -> String {
    assert_eq!(
        answer.refused(),
        (403, "approval_required"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["code"], "900025");
    assert_eq!(answer.outcome(), Some("not-executed"), "{}", answer.text());
    let message = answer.message();
    let is_id = |word: &&str| word.len() == 16 && word.bytes().all(|it| it.is_ascii_hexdigit());
    let mut words = message.split([' ', ',', ';']);
    words
        .find(is_id)
        .unwrap_or_else(|| panic!("{message}"))
        .to_owned()
}

async fn approved_by_two(program: &Program, id: &str) {
    for (name, needs) in [("alice", 1), ("bob", 0)] {
        let (status, said) = approves(program, name, id).await;
        assert_eq!(status, 200, "{said}");
        assert!(said.contains(&format!("\"needs\":{needs}")), "{said}");
    }
}

#[tokio::test]
async fn a_call_above_the_limit_passes_once_after_two_operators_have_approved_it() {
    let gatepay = gatepay();
    let (folder, program) = serving_with_operators(&gatepay, "approve_above = '100'").await;
    let small = send(&program, &payout("S1", "100")).await;
    assert_eq!(small.outcome(), Some("executed"), "{}", small.text());
    let sent = gatepay.count();
    let refused = send(&program, &payout("B1", "100.5")).await;
    let id = id_of(&refused);
    assert!(
        refused
            .message()
            .contains("approve_above of 100 USDT; once your institution has approved"),
        "{}",
        refused.message()
    );
    assert_eq!(
        id_of(&send(&program, &payout("B1", "100.5")).await),
        id,
        "it asks once"
    );

    // Not by the shared token, by an operator that may not, or by the caller; and one operator is not two.
    for (name, status) in [
        ("admin", 403),
        ("carol", 403),
        ("acme", 403),
        ("alice", 200),
        ("alice", 200),
    ] {
        let (told, said) = approves(&program, name, &id).await;
        assert_eq!(told, status, "{name}: {said}");
    }
    assert_eq!(id_of(&send(&program, &payout("B1", "100.5")).await), id);
    let (status, said) = says(&program, "carol", ("GET", "/approvals?state=waiting")).await;
    assert_eq!(status, 200, "{said}");
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let [listed] = &listed["approvals"].as_array().unwrap()[..] else {
        panic!("{said}");
    };
    assert_eq!(listed["id"], *id);
    assert_eq!(listed["party"], "acme");
    assert_eq!(listed["key"], "B1");
    assert_eq!(listed["amounts"], "100.5 USDT");
    assert_eq!(listed["targets"], "address ETH 0xabc");
    assert_eq!(listed["approved_by"], json!(["alice"]));
    assert_eq!(listed["needs"], 1);
    until_metric(&program, "approvals_waiting", "1").await;
    let (_, status) = says(&program, "carol", ("GET", "/status")).await;
    assert!(
        status.contains("1 money calls wait for an operator"),
        "{status}"
    );
    assert_eq!(approves(&program, "bob", &id).await.0, 200);
    until_metric(&program, "approvals_waiting", "0").await;

    // Another body, or another key, is another call.
    for other in [payout("B1", "100.50"), payout("B2", "100.5")] {
        assert_ne!(id_of(&send(&program, &other).await), id);
    }
    assert_eq!(gatepay.count(), sent, "nothing was sent until now");
    let passed = send(&program, &payout("B1", "100.5")).await;
    assert_eq!(passed.outcome(), Some("executed"), "{}", passed.text());
    assert_ne!(
        id_of(&send(&program, &payout("B1", "100.5")).await),
        id,
        "once"
    );
    assert_eq!(gatepay.count(), sent + 1);
    assert_eq!(approves(&program, "bob", &id).await.0, 409, "it is used");
    assert_eq!(approves(&program, "bob", "0123456789abcdef").await.0, 404);
    let refusals = program.metric("cap_refusals_total{cap=\"approve_above\",tenant=\"acme\"}");
    assert_eq!(refusals.await, "6");
    program.stop().await;
    let journal = folder.journal();
    let acts = |action: &str| {
        let act = format!("\"record\":\"approval\",\"action\":\"{action}\",\"approval\":\"{id}\"");
        journal.matches(&act).count()
    };
    assert_eq!(
        (acts("ask"), acts("approve"), acts("order_failed")),
        (1, 4, 1),
        "{journal}"
    );
}

#[tokio::test]
async fn a_rejected_call_stays_refused_and_caps_hold_for_an_approved_one() {
    let gatepay = gatepay();
    let limits = "approve_above = '10'\nper_24h = '100'";
    let (folder, program) = serving_with_operators(&gatepay, limits).await;
    let id = id_of(&send(&program, &payout("B1", "20")).await);
    let config = folder.name("proxy.toml");
    let command = |words: &[&str], name: &str| {
        let admin = program.admin.to_string();
        let token = folder.name(&format!("secrets/admin-{name}.key"));
        let more = [
            "--config",
            &config,
            "--admin",
            &admin,
            "--admin-token-file",
            &token,
        ];
        printed(&run(&[words, &more].concat()))
    };
    let (said, code) = command(&["approvals"], "carol");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!(
            "{id}  create_payout B1 of acme: 20 USDT to address ETH 0xabc"
        )),
        "{said}"
    );
    let (said, code) = command(&["approve", &id], "alice");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("another operator has to approve it too"),
        "{said}"
    );
    let (said, code) = command(&["reject", &id], "bob");
    assert_eq!(code, Some(0), "{said}");
    let (said, code) = command(&["approve", &id], "bob");
    assert_eq!(code, Some(1), "{said}");
    let refused = send(&program, &payout("B1", "20")).await;
    assert_eq!(id_of(&refused), id);
    assert!(
        refused.message().contains("has rejected"),
        "{}",
        refused.message()
    );

    // An approval is no room.
    let id = id_of(&send(&program, &payout("B2", "60")).await);
    approved_by_two(&program, &id).await;
    let other = id_of(&send(&program, &payout("B3", "60")).await);
    approved_by_two(&program, &other).await;
    assert_eq!(
        send(&program, &payout("B2", "60")).await.outcome(),
        Some("executed")
    );
    let full = send(&program, &payout("B3", "60")).await;
    is_refused_saying(&full, "cap_exceeded", "per_24h cap of 100 USDT: 40 left");
}

#[tokio::test]
async fn of_two_racing_repeats_at_two_instances_one_passes() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = gatepay();
    let server = PgServer::migrated().await;
    let folders = folders_of_two(&gatepay, &server, &caps("approve_above = '10'"));
    for folder in &folders {
        with_operators(folder);
    }
    let programs = Program::serve_all(&folders).await;
    let sent = gatepay.count();
    let mut ids = Vec::new();
    for round in 0..4 {
        let number = format!("B{round}");
        let id = id_of(&send(&programs[0], &payout(&number, "20")).await);
        approved_by_two(&programs[1], &id).await;
        let (one, other) = (payout(&number, "20"), payout(&number, "20"));
        let (one, other) = tokio::join!(send(&programs[0], &one), send(&programs[1], &other));
        let passed = [&one, &other]
            .iter()
            .filter(|it| it.refusal().is_none())
            .count();
        assert_eq!(passed, 1, "{} {}", one.text(), other.text());
        let refused = if one.refusal().is_some() { one } else { other };
        ids.push(id_of(&refused));
        assert_ne!(ids.last(), Some(&id));
    }
    assert_eq!(gatepay.count(), sent + 4);
}

/// A folder with operators, and the text of acme's file: bob holds acme's secret.
fn of_a_secret_that_bob_holds(gatepay: &GatePay) -> (Folder, String) {
    let file = format!(
        "admin_operators = ['bob']\n{}",
        caps("approve_above = '10'")
    );
    let folder = folder_of_file(gatepay, &file);
    with_operators(&folder);
    (folder, file)
}

#[tokio::test]
async fn an_operator_that_holds_the_callers_secret_approves_none_of_its_calls() {
    let gatepay = gatepay();
    let (folder, file) = of_a_secret_that_bob_holds(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let id = id_of(&send(&program, &payout("B1", "20")).await);
    let (status, said) = approves(&program, "bob", &id).await;
    assert_eq!(status, 403, "{said}");
    assert!(
        said.contains("no operator approves a call of its own"),
        "{said}"
    );
    assert_eq!(approves(&program, "alice", &id).await.0, 200);

    // A link that is found out later counts for what was approved before.
    let file = file.replace("bob", "alice");
    folder.tenant(&acme(), &file);
    let (status, said) = says(&program, "alice", ("POST", "/-/reload")).await;
    assert_eq!(status, 200, "{said}");
    let (status, said) = approves(&program, "bob", &id).await;
    assert_eq!(status, 409, "{said}");
    assert!(
        said.contains("alice has approved it and holds the secret of acme"),
        "{said}"
    );
    assert_eq!(id_of(&send(&program, &payout("B1", "20")).await), id);
}

#[tokio::test]
async fn an_operator_that_got_another_name_in_proxy_toml_approves_nothing_by_its_old_one() {
    let gatepay = gatepay();
    let (folder, file) = of_a_secret_that_bob_holds(&gatepay);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let id = id_of(&send(&program, &payout("B1", "20")).await);
    // The tenants' links are live, and the operators' names are those of the start.
    folder.edit("proxy.toml", "name = 'bob'", "name = 'robert'");
    folder.tenant(&acme(), &file.replace("bob", "robert"));
    let (status, said) = says(&program, "alice", ("POST", "/-/reload")).await;
    assert_eq!(status, 200, "{said}");
    let (status, said) = approves(&program, "bob", &id).await;
    assert_eq!(status, 403, "{said}");
    assert_eq!(approves(&program, "alice", &id).await.0, 200);
}

#[tokio::test]
async fn fewer_approvers_hold_only_after_raise_after_and_more_at_once() {
    let gatepay = gatepay();
    let (folder, program) = serving_with_operators(&gatepay, "approve_above = '10'").await;
    let two = id_of(&send(&program, &payout("B1", "20")).await);
    program.stop().await;
    folder.edit("proxy.toml", "approvals = 2", "approvals = 1");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let (status, said) = approves(&program, "alice", &two).await;
    assert_eq!(status, 200, "{said}");
    assert!(said.contains("\"needs\":1"), "{said}");
    assert_eq!(id_of(&send(&program, &payout("B1", "20")).await), two);
    // So it is for the end of a halt.
    assert_eq!(
        says(&program, "alice", ("POST", "/-/halt?scope=payouts"))
            .await
            .0,
        200
    );
    let end = ("POST", "/-/halt/end?scope=payouts");
    let (status, said) = says(&program, "alice", end).await;
    assert_eq!(status, 200, "{said}");
    assert!(said.contains("\"halted\":true"), "{said}");
    let (_, said) = says(&program, "bob", end).await;
    assert!(said.contains("\"halted\":false"), "{said}");
    assert_eq!(approves(&program, "bob", &two).await.0, 200);
    let passed = send(&program, &payout("B1", "20")).await;
    assert_eq!(passed.outcome(), Some("executed"), "{}", passed.text());
}

#[tokio::test]
async fn what_one_operator_has_approved_waits_once_two_are_needed() {
    let gatepay = gatepay();
    let folder = folder_of_file(&gatepay, &caps("approve_above = '10'"));
    with_operators(&folder);
    folder.edit("proxy.toml", "approvals = 2", "approvals = 1");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let id = id_of(&send(&program, &payout("B1", "20")).await);
    let (_, said) = approves(&program, "alice", &id).await;
    assert!(said.contains("\"needs\":0"), "{said}");
    program.stop().await;
    folder.edit("proxy.toml", "approvals = 1", "approvals = 2");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    until_seen(async || {
        let (_, said) = says(&program, "carol", ("GET", "/approvals?state=waiting")).await;
        let is_listed = said.contains(&id);
        assert!(!is_listed || said.contains("\"needs\":1"), "{said}");
        if_so(is_listed, || said)
    })
    .await;
    assert_eq!(id_of(&send(&program, &payout("B1", "20")).await), id);
}

#[tokio::test]
async fn an_approval_shows_every_target_and_nothing_that_only_looks_like_one() {
    let gatepay = gatepay();
    let (folder, program) = serving_with_operators(&gatepay, "approve_above = '10'").await;
    let items: Vec<_> = (10..70)
        .map(|number| {
            json!({ "merchant_withdraw_id": format!("w{number}"), "amount": "1", "currency": "USDT",
                "chain": "ETH", "address": format!("0xaddress{number}"), "memo": "7, address ETH 0xother \u{202e}1" })
        })
        .collect();
    let body = json!({ "batch_id": "B1", "withdraw_list": items }).to_string();
    let id = id_of(&send(&program, &signed(&acme().post(PAYOUT, body))).await);
    let (_, said) = says(&program, "carol", ("GET", "/approvals?party=acme")).await;
    assert!(!said.contains('\u{202e}'), "{said}");
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed["next"], serde_json::Value::Null);
    let targets = listed["approvals"][0]["targets"].as_str().unwrap();
    for number in 10..70 {
        let target =
            format!("address ETH 0xaddress{number} memo \"7, address ETH 0xother \\u{{202e}}1\"");
        assert!(targets.contains(&target), "{number}: {targets}");
    }
    let (_, said) = says(&program, "carol", ("GET", "/approvals?party=globex")).await;
    assert!(!said.contains(&id), "{said}");
    for (path, known) in [("/approvals?party=", "acme"), ("/caps?tenant=", "acme")] {
        let (status, said) = says(&program, "carol", ("GET", &format!("{path}{known}"))).await;
        assert_eq!(status, 200, "{said}");
        let (status, said) = says(&program, "carol", ("GET", &format!("{path}nobody"))).await;
        assert_eq!(status, 404, "{said}");
        assert!(said.contains("no tenant or operator has this id"), "{said}");
    }
    for wrong in ["state=open", "party=A", "after=1"] {
        let path = format!("/approvals?{wrong}");
        assert_eq!(says(&program, "carol", ("GET", &path)).await.0, 400);
    }
    drop(folder);
}
