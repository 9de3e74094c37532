//! The whole story of an id, from the store and the audit journal.

use super::*;

fn find(folder: &Folder, receiver: &Receiver, id: &str, more: &[&str]) -> (String, Option<i32>) {
    let (config, admin) = (
        folder.name("proxy.toml"),
        receiver.program.admin.to_string(),
    );
    let words = ["find", id, "--config", &config, "--admin", &admin];
    printed(&run(&[&words, more].concat()))
}

#[tokio::test]
async fn one_id_finds_the_call_its_answer_and_what_gatepay_said_later_in_the_order_of_time() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url(), &engine);
        folder.keeps_a_journal();
        let receiver = Receiver::start(&folder).await;
        let answer = receiver.call(&acme().post(CREATE, order("A-0001"))).await;
        let request = answer.header("x-request-id").unwrap().to_owned();
        let prepay = answer.json()["data"]["prepayId"]
            .as_str()
            .unwrap()
            .to_owned();
        receiver.has_recorded(&prepay).await;
        receiver.acknowledges(&paid(&prepay, "A-0001")).await;
        receiver.shows(&owned("acme")).await;
        let listed = receiver.program.admin("GET", "/notifications").await.json();
        let event = listed["notifications"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();

        // The ids of an answer and the record of its end are written after the answer.
        for (id, says) in [
            ("A-0001", &["journal", "ledger"][..]),
            (prepay.as_str(), &["journal", "ledger", "notification"]),
            (request.as_str(), &["journal"]),
            (event.as_str(), &["notification"]),
        ] {
            let began = Instant::now();
            let (said, entries) = loop {
                let (said, code) = find(&folder, &receiver, id, &["--json"]);
                assert!(code.is_some(), "{said}");
                let entries: Vec<Value> = said
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect();
                let has = |source: &&str| entries.iter().any(|it| it["source"] == **source);
                if says.iter().all(has) {
                    break (said, entries);
                }
                assert!(began.elapsed() < PATIENCE, "{id}: {says:?}\n{said}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let at = |it: &Value| {
                it["at"]
                    .as_str()
                    .unwrap()
                    .parse::<jiff::Timestamp>()
                    .unwrap()
            };
            let times: Vec<_> = entries.iter().map(at).collect();
            assert!(times.is_sorted(), "{said}");
            for call in entries.iter().filter(|it| it["source"] == "journal") {
                assert_eq!(call["before"]["party"], "acme");
                assert_eq!(call["before"]["key"], "A-0001");
                assert_eq!(call["before"]["id"], *request);
            }
        }
        let (said, code) = find(&folder, &receiver, &prepay, &[]);
        assert_eq!(code, Some(0), "{said}");
        for words in [
            "create_order key A-0001 by acme",
            "GatePay notified PAY",
            "prepayId",
        ] {
            assert!(said.contains(words), "{words}\n{said}");
        }
        let (said, code) = find(&folder, &receiver, "A-000", &[]);
        assert_eq!(code, Some(1), "a part of an id is another id: {said}");
        let (said, code) = find(&folder, &receiver, "acme", &["--no-journal"]);
        assert_eq!(code, Some(1), "a tenant is no id: {said}");
        let page = receiver.program.admin("GET", "/").await;
        assert!(page.text().contains("id=\"sought\""));
        for (path, status) in [("/find", 400), ("/find?id=", 400), ("/find?id=%0a", 400)] {
            assert_eq!(
                receiver.program.admin("GET", path).await.status,
                status,
                "{path}"
            );
        }
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn without_a_store_this_machines_journal_is_read_with_its_progress_and_the_command_says_so() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    let mut caller = Connection::open(program.address).await;
    let call = acme().post(CREATE, order("A-0001"));
    assert_eq!(
        caller.send(call.request(&Clock::system())).await.status,
        200
    );
    let (config, admin) = (folder.name("proxy.toml"), program.admin.to_string());
    let words = ["find", "A-0001", "--config", &config, "--admin", &admin];
    let (said, code) = printed(&run(&words));
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "proxy.toml has no [store]",
        "reading only this machine's journal",
        "journal: 0 of 1 files read",
        "journal: 1 of 1 files read",
        "create_order key A-0001 by acme",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    program.stop().await;
    let (said, code) = printed(&run(&words));
    assert_eq!(code, Some(0), "nor is a running process needed: {said}");
}

/// An operator pastes what a customer has sent, and that may be a card number.
#[tokio::test]
async fn what_an_operator_looks_for_is_in_no_log_at_any_level_and_in_no_journal() {
    const SOUGHT: &str = "4111111111111111";
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    let level = receiver.program.admin("POST", "/-/log?level=trace").await;
    assert_eq!(level.status, 200);
    for (path, status) in [
        (format!("/find?id={SOUGHT}"), 200),
        (format!("/find?id={SOUGHT}%0a"), 400),
        (format!("/find?id={}", SOUGHT.repeat(20)), 400),
        (format!("/find?id={SOUGHT}&id={SOUGHT}"), 400),
        (format!("/find?{SOUGHT}={SOUGHT}"), 400),
        (format!("/find/{SOUGHT}?id={SOUGHT}"), 404),
        (format!("/ledger?key={SOUGHT}"), 200),
        (format!("/ledger?kind={SOUGHT}&key={SOUGHT}"), 400),
        (format!("/notifications/{SOUGHT}"), 400),
    ] {
        let answer = receiver.program.admin("GET", &path).await;
        assert_eq!(answer.status, status, "{path}");
        let refused = receiver.program.admin("POST", &path).await;
        assert!(refused.status >= 400, "{path}");
    }
    for options in [&[][..], &["--no-journal"], &["--json"]] {
        let (said, code) = find(&folder, &receiver, SOUGHT, options);
        assert_eq!(code, Some(1), "{said}");
        assert!(!said.contains(SOUGHT), "{said}");
    }
    assert!(!folder.journal().contains(SOUGHT));
    receiver.program.terminate();
    let (_, lines, log) = receiver.program.end().await;
    assert!(log.contains("trace"), "the level has changed: {log}");
    assert!(!lines.contains(SOUGHT), "{lines}");
    assert!(!log.contains(SOUGHT), "{log}");
}
