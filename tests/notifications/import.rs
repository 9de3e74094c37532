//! `ledger import`: orders from before the ledger existed.

use super::*;

fn imports(folder: &Folder, more: &[&str]) -> (String, Option<i32>) {
    let config = folder.name("proxy.toml");
    printed(&run(
        &[&["ledger", "import", "--config", &config], more].concat()
    ))
}

#[tokio::test]
async fn an_order_from_before_the_ledger_is_led_back_after_an_import() {
    for engine in engines().await {
        // A life without a store, whose journal is all that is left of its calls.
        let gatepay = GatePay::now();
        let before = Folder::before(&gatepay.url());
        before.keeps_a_journal();
        let program = Program::serve(&before).await;
        program.until_ready().await;
        let mut caller = Connection::open(program.address).await;
        let mut created = async |shop: &Shop, number: &str| {
            let call = shop.post(CREATE, order(number)).request(&Clock::system());
            let answer = caller.send(call).await.json();
            answer["data"]["prepayId"].as_str().unwrap().to_owned()
        };
        let to_acme = created(&acme(), "A-0001").await;
        let to_globex = created(&globex(), "A-0001").await;
        program.stop().await;

        // The ledger of the next life does not know them.
        let folder = folder(&gatepay.url(), &engine);
        folder.keeps_a_journal();
        let receiver = Receiver::start(&folder).await;
        receiver.acknowledges(&paid(&to_acme, "A-0001")).await;
        receiver.shows(&quarantined("no_holder")).await;
        receiver.program.stop().await;

        let (dir, key) = (before.name("audit"), before.name("secrets/audit.key"));
        let from = ["--dir", &*dir, "--key-file", &*key];
        let (said, code) = imports(&folder, &[&from[..], &["--dry-run"]].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("2 calls, verified"), "{said}");
        assert!(
            said.contains("4 keys would be added, 0 were there"),
            "{said}"
        );
        let (said, code) = imports(&folder, &from);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("4 keys were added, 0 were there"), "{said}");
        // To import again changes nothing.
        let (said, code) = imports(&folder, &from);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("0 keys were added, 4 were there"), "{said}");

        let receiver = Receiver::start(&folder).await;
        // The one in quarantine leaves it, and the other's goes to its own tenant.
        receiver.acknowledges(&paid(&to_globex, "A-0001")).await;
        receiver.shows(&owned("globex")).await;
        until("it leaves quarantine", || {
            !receiver
                .logged("a notification has left quarantine")
                .is_empty()
        })
        .await;
        let ledger = receiver.looks(&format!("/ledger?key={to_acme}")).await;
        let holder = &ledger["holders"][0];
        assert_eq!(
            (&holder["tenant"], &holder["source"]),
            (&json!("acme"), &json!("journal"))
        );
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn deposits_to_a_fixed_address_from_before_the_ledger_are_led_back_after_an_import() {
    for engine in engines().await {
        let upstream = Scripted::each(|_| {
            let saved =
                r#"{"status":"SUCCESS","code":"000000","data":{"chain":"ETH","address":"0xabc"}}"#;
            Some(scripted::answer("200 OK", "", saved.as_bytes()))
        });
        let before = Folder::before(&upstream.url());
        before.keeps_a_journal();
        let program = Program::serve(&before).await;
        program.until_ready().await;
        let mut caller = Connection::open(program.address).await;
        let body = json!({ "channelId": "c1", "chain": "ETH", "currencies": "USDT" }).to_string();
        let call = acme().post(SAVE_ADDRESS, body).request(&Clock::system());
        let saved = caller.send(call).await;
        assert_eq!((saved.status, saved.refusal()), (200, None));
        program.stop().await;

        let deposit = |id: &str| {
            let data = json!({ "chain": "ETH", "address": "0xabc", "transactionId": id });
            json!({ "bizType": "PAY_FIXED_ADDRESS", "bizId": id, "bizStatus": "PAY_SUCCESS",
                "client_id": INSTITUTION_ID, "data": data.to_string() })
        };
        let folder = folder(&upstream.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        receiver.acknowledges(&deposit("d1")).await;
        receiver.shows(&quarantined("no_holder")).await;
        receiver.program.stop().await;

        let (dir, key) = (before.name("audit"), before.name("secrets/audit.key"));
        let (said, code) = imports(&folder, &["--dir", &dir, "--key-file", &key]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("1 calls, verified"), "{said}");
        assert!(said.contains("1 keys were added, 0 were there"), "{said}");

        // The deposit in quarantine leaves it, and the next one goes to the tenant at once.
        let receiver = Receiver::start(&folder).await;
        receiver.acknowledges(&deposit("d2")).await;
        receiver.shows(&owned("acme")).await;
        receiver.is_placed("d1").await;
        for id in ["d1", "d2"] {
            assert_eq!(receiver.placed(id).await[1..], ["acme", "certain"]);
        }
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn an_altered_journal_is_not_imported() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    receiver.order(&acme(), "A-0001").await;
    receiver.program.stop().await;
    let file = fs::read_dir(folder.path("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "jsonl"))
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("\"party\":\"acme\"", "\"party\":\"evil\""),
    )
    .unwrap();
    let (said, code) = imports(&folder, &[]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nothing was imported"), "{said}");
    fs::write(&file, text).unwrap();
    let (said, code) = imports(&folder, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0 keys were added, 2 were there"), "{said}");
    let (said, code) = imports(&folder, &["--dir", &folder.name("nowhere")]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("there is no journal here"), "{said}");
}
