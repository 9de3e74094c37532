//! What a refusal says, and which calls caps cover.

use super::*;

#[tokio::test]
async fn a_call_beyond_a_cap_is_refused_with_what_is_left_and_is_not_sent() {
    let gatepay = gatepay();
    let (_folder, program) = serving(&gatepay, &caps("per_day = '100'")).await;
    let first = send(&program, &payout("B1", "60")).await;
    assert_eq!(first.outcome(), Some("executed"), "{}", first.text());
    let sent = gatepay.count();
    let request = payout("B2", "40.000000000000000001");
    let refused = send(&program, &request).await;
    assert_eq!(
        refused.refused(),
        (403, "cap_exceeded"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.json()["code"], "900023");
    assert_eq!(refused.outcome(), Some("not-executed"));
    let message = refused.message();
    assert!(
        message.contains("per_day cap of 100 USDT: 40 left"),
        "{message}"
    );
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    // Its stamp is spent, so that no copy is executed once there is room.
    let copy = send(&program, &request).await;
    is_refused(&copy, "replayed");
    assert_eq!(gatepay.count(), sent);
    let rest = send(&program, &payout("B3", "40")).await;
    assert_eq!(rest.outcome(), Some("executed"), "{}", rest.text());
    let refusals = program.metric("cap_refusals_total{cap=\"per_day\",tenant=\"acme\"}");
    assert_eq!(refusals.await, "1");
    // Reads, and the other tenant's payouts, are covered by none.
    let other = signed(&globex().post(PAYOUT, payout_of("B1", "500", "USDT")));
    assert_eq!(send(&program, &other).await.refusal(), None);
}

#[tokio::test]
async fn the_audit_journal_records_which_cap_refused_a_call() {
    let gatepay = gatepay();
    let folder = folder_of_file(&gatepay, &caps("per_call = '100'"));
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send(&program, &payout("B1", "101")).await;
    is_refused(&refused, "cap_exceeded");
    let id = refused.header("x-request-id").unwrap().to_owned();
    program.signal("-TERM");
    let _ended = program.end().await;
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&[
        "audit", "show", "--kind", "refused", "--config", &config,
    ]));
    assert_eq!(code, Some(0), "{said}");
    let line = format!(
        "request {id} (create_payout) of acme from 127.0.0.1: cap_exceeded, by the per_call cap of 100 USDT"
    );
    assert!(said.contains(&line), "{said}");
}

#[tokio::test]
async fn a_currency_without_a_cap_and_an_amount_that_is_not_exact_are_refused_once_there_are_caps()
{
    let gatepay = gatepay();
    let (_folder, program) = serving(&gatepay, &caps("per_call = '100'")).await;
    let sent = gatepay.count();
    let foreign = signed(&acme().post(PAYOUT, payout_of("B1", "1", "ETH")));
    let refused = send(&program, &foreign).await;
    assert_eq!(
        refused.refused(),
        (403, "cap_exceeded"),
        "{}",
        refused.text()
    );
    assert!(
        refused.message().contains("no cap for ETH"),
        "{}",
        refused.message()
    );
    for amount in [
        "1e2",
        "0.0000000000000000001",
        "100000000000000000000",
        "-1",
        "0",
    ] {
        let body = payout_of("B2", amount, "USDT");
        let refused = send(&program, &signed(&acme().post(PAYOUT, body))).await;
        assert_eq!(
            refused.refused(),
            (400, "invalid_body"),
            "{amount}: {}",
            refused.text()
        );
    }
    let twice =
        payout_of("B3", "1", "USDT").replace("\"amount\":", "\"amount\":\"100000\",\"amount\":");
    let refused = send(&program, &signed(&acme().post(PAYOUT, twice))).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(gatepay.count(), sent);
    // The amounts of several currencies in one call count each by itself.
    let both = json!({ "batch_id": "B4", "withdraw_list": [
        { "merchant_withdraw_id": "x1", "amount": "60", "currency": "USDT", "chain": "ETH", "address": "0xabc" },
        { "merchant_withdraw_id": "x2", "amount": 41, "currency": "usdt", "chain": "ETH", "address": "0xabc" } ] });
    let refused = send(&program, &signed(&acme().post(PAYOUT, both.to_string()))).await;
    is_refused_saying(&refused, "cap_exceeded", "per_call cap of 100 USDT");
}

#[tokio::test]
async fn a_cap_over_all_tenants_sums_them_and_a_shadow_cap_only_counts() {
    let gatepay = gatepay();
    let shadow = format!("{}shadow = true\n", caps("count_per_hour = 1"));
    let folder = folder_of_file(&gatepay, &shadow);
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let all = "[[caps.all]]\ncalls = ['money']\ncurrency = '*'\nper_24h = '100'\n";
    folder.file("proxy.toml", &format!("{proxy}{all}"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let globex = |number, amount| signed(&globex().post(PAYOUT, payout_of(number, amount, "USDT")));
    assert_eq!(send(&program, &globex("G1", "50")).await.refusal(), None);
    for number in ["B1", "B2"] {
        assert_eq!(send(&program, &payout(number, "20")).await.refusal(), None);
    }
    let refused = send(&program, &globex("G2", "11")).await;
    is_refused(&refused, "cap_exceeded");
    let message = refused.message();
    assert!(
        message.contains("per_24h cap of 100 USDT over all tenants: 10 left"),
        "{message}"
    );
    let breaches =
        program.metric("cap_shadow_breaches_total{cap=\"count_per_hour\",tenant=\"acme\"}");
    assert_eq!(breaches.await, "1");
    let refusals = program.metric("cap_refusals_total{cap=\"all_per_24h\",tenant=\"globex\"}");
    assert_eq!(refusals.await, "1");
    assert!(program.stderr().contains("shadow"), "{}", program.stderr());
}

#[tokio::test]
async fn a_refund_is_counted_in_the_currency_of_its_order() {
    let gatepay = gatepay();
    let refunds = "[[cap]]\ncalls = ['refunds']\ncurrency = 'USDT'\nper_24h = '5'\n";
    let (_folder, program) = serving(&gatepay, refunds).await;
    let body = order("PAID").replace("1.21", "100");
    let made = send(&program, &signed(&acme().post(CREATE, body)))
        .await
        .json();
    let prepay_id = made["data"]["prepayId"].as_str().unwrap().to_owned();
    gatepay.sandbox.pay(acme().sub_account, &prepay_id).unwrap();
    let refund = |number: &str, amount: &str, order: &str| {
        let body = json!({ "prepayId": order, "refundRequestId": number, "refundAmount": amount, "refundReason": "x" });
        signed(&acme().post(REFUND, body.to_string()))
    };
    // GatePay's id is noted after its answer.
    let began = std::time::Instant::now();
    let mut number = 0;
    loop {
        number += 1;
        let answer = send(
            &program,
            &refund(&format!("refund-{number}"), "3", &prepay_id),
        )
        .await;
        if answer.refusal().is_none() {
            assert_eq!(answer.outcome(), Some("executed"), "{}", answer.text());
            break;
        }
        assert_eq!(answer.refused(), (400, "invalid_body"), "{}", answer.text());
        assert!(began.elapsed() < PATIENCE, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let refused = send(&program, &refund("refund-b", "3", &prepay_id)).await;
    is_refused_saying(&refused, "cap_exceeded", "per_24h cap of 5 USDT: 2 left");
    let unknown = send(&program, &refund("refund-c", "1", "123456")).await;
    is_refused_saying(&unknown, "invalid_body", "currency is not known");
}

#[tokio::test]
async fn caps_need_a_store_and_words_that_name_money_calls() {
    let folder = Folder::before(UNUSED);
    folder.tenant(&acme(), &caps("per_day = '1'"));
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("cap: requires [store] in proxy.toml"),
        "{said}"
    );
    let gatepay = gatepay();
    for (text, problem) in [
        (
            "[[cap]]\ncalls = ['query_order']\ncurrency = 'USDT'\nper_day = '1'\n",
            "is a call that moves no money",
        ),
        (
            "[[cap]]\ncalls = ['payouts']\ncurrency = 'USDT'\n",
            "sets no limit",
        ),
        (
            "[[cap]]\ncalls = ['payouts']\ncurrency = 'US DT'\nper_day = '1'\n",
            "must be a currency",
        ),
        (
            "[[cap]]\ncalls = ['payouts']\ncurrency = '*'\nper_day = '1e3'\n",
            "has an exponent",
        ),
        (
            "[[cap]]\ncalls = ['payouts']\ncurrency = '*'\nper_day = 1\n",
            "must be a string",
        ),
    ] {
        let folder = folder_of_file(&gatepay, text);
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(problem), "{said}");
    }
}
