//! Money goes only to listed destinations, and to new ones only after their hold.

use super::*;
use serde_json::Value;

const EVM: &str = "0x52908400098527886E0F7030069857D2E4169EE7";

/// The table, with a list of addresses on ETH.
fn listed(hold: &str, addresses: &[&str]) -> String {
    let table = format!("[destinations]\nmode = 'listed'\nhold = '{hold}'\n");
    addresses.iter().fold(table, |text, address| {
        format!("{text}[[destination]]\nchain = 'ETH'\naddress = '{address}'\n")
    })
}

fn item(address: &str) -> Value {
    json!({ "amount": "1", "currency": "USDT", "chain": "ETH", "address": address })
}

fn payout_to(number: &str, items: &[Value]) -> Request<Full<Bytes>> {
    let mut items = items.to_vec();
    for (place, item) in items.iter_mut().enumerate() {
        item["merchant_withdraw_id"] = format!("w{number}-{place}").into();
    }
    let body = json!({ "batch_id": number, "withdraw_list": items });
    signed(&acme().post(PAYOUT, body.to_string()))
}

/// Sends payouts of new numbers until one is refused with this text, or goes through if there is none.
async fn until_payout(program: &Program, prefix: &str, address: &str, refused: Option<&str>) {
    let began = std::time::Instant::now();
    for number in 0.. {
        let request = payout_to(&format!("{prefix}{number}"), &[item(address)]);
        let answer = send(program, &request).await;
        let is_it = match refused {
            None => answer.refusal().is_none(),
            Some(text) => {
                answer.refusal() == Some("destination_not_allowed")
                    && answer.message().contains(text)
            }
        };
        if is_it {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Waits until this process has taken its lists to the store so many times.
async fn until_the_store_has(program: &Program, times: usize) {
    until("the store has the lists", || lists_taken(program) >= times).await;
}

/// How often this process has taken its lists to the store.
pub(super) fn lists_taken(program: &Program) -> usize {
    let log = program.stderr();
    log.matches("the lists of destinations").count()
}

async fn reload(program: &Program) {
    let answer = program.admin("POST", "/-/reload").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn money_goes_to_listed_destinations_only_whatever_call_sends_it() {
    let gatepay = gatepay();
    let more = "[[destination]]\ngate_uid = '10002'\n[[destination]]\nbank_account = '88'\n";
    let list = format!("{}{more}", listed("0", &[EVM, "0xabc"]));
    let folder = folder_of_file(&gatepay, &list);
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let on = "[[operation]]\nname = 'refund_address_order'\nenabled = true\n";
    folder.file("proxy.toml", &format!("{proxy}{on}"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let lower = EVM.to_lowercase();
    let both = [item(&lower), item("0xabc")];
    let answer = send(&program, &payout_to("B1", &both)).await;
    assert_eq!(answer.outcome(), Some("executed"), "{}", answer.text());

    let sent = gatepay.count();
    let request = payout_to("B2", &[item("0xabc"), item("0xABC"), item("0xdef")]);
    let refused = send(&program, &request).await;
    assert_eq!(refused.refused(), (403, "destination_not_allowed"));
    assert_eq!(refused.json()["code"], "900024");
    assert_eq!(
        refused.outcome(),
        Some("not-executed"),
        "{}",
        refused.text()
    );
    let said = refused.message();
    assert!(
        said.contains("withdraw_list[1] names a destination that is not in your list"),
        "{said}"
    );
    assert!(!said.contains("0xABC"), "{said}");
    is_refused(&send(&program, &request).await, "replayed");

    let refund = |rest: &str| {
        format!(
            r#"{{"prepayId":"1","refundRequestId":"r1","refundAmount":"1","refundReason":"x",{rest}}}"#
        )
    };
    let address =
        r#""refundStyle":2,"refundPayChannel":2,"refundChain":"ETH","refundAddress":"0xdef""#;
    for (path, body, said) in [
        (
            "/v2/standard/order/refund",
            refund(address),
            "refundAddress names",
        ),
        (
            "/v2/standard/order/refund",
            refund(r#""refundStyle":2,"refundPayChannel":1,"refundToGateUid":"10003""#),
            "refundToGateUid names",
        ),
        (
            "/v1/pay/address/refund",
            refund(r#""receiverId":"10003""#),
            "receiverId names",
        ),
        (
            "/v1/pay/batch/transfer",
            json!({ "merchant_batch_no": "m1", "batchorderList": [
                { "rewardId": "o1", "amount": "1", "currency": "USDT", "user_id": "10002" },
                { "rewardId": "o2", "amount": "1", "currency": "USDT", "user_id": "10003" } ] })
            .to_string(),
            "batchorderList[1] names",
        ),
        (
            PAYOUT,
            payout_of("B3", "1", "USDT").replace("\"address\"", "\"adress\""),
            "address is missing",
        ),
        (
            PAYOUT,
            payout_of("B4", "1", "USDT").replace("\"address\"", "\"to\":\"TEvil\",\"address\""),
            "body has the field to, which no page describes",
        ),
    ] {
        let answer = send(&program, &signed(&acme().post(path, body))).await;
        is_refused_saying(&answer, "destination_not_allowed", said);
        assert_eq!(answer.outcome(), Some("not-executed"), "{said}");
    }
    assert_eq!(gatepay.count(), sent, "nothing of them was sent");
    let other = signed(&globex().post(PAYOUT, payout_of("B1", "5", "USDT")));
    assert_eq!(send(&program, &other).await.refusal(), None);
    let counted =
        |reason| format!("destination_refusals_total{{reason=\"{reason}\",tenant=\"acme\"}}");
    assert_eq!(program.metric(&counted("unlisted")).await, "5");
    assert_eq!(program.metric(&counted("unreadable")).await, "2");
    assert_eq!(program.metric(&counted("held")).await, "0");
}

#[tokio::test]
async fn a_new_destination_waits_over_restarts_and_a_removed_one_is_refused_at_once() {
    let gatepay = gatepay();
    let (folder, program) = serving(&gatepay, &listed("0", &["a"])).await;
    until_payout(&program, "A", "a", None).await;
    // A longer hold holds at once for new targets.
    folder.tenant(&acme(), &listed("24h", &["a", "b"]));
    reload(&program).await;
    until_payout(&program, "B", "b", Some("held until 2")).await;
    until_payout(&program, "A1", "a", None).await;
    program.stop().await;

    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let held = send(&program, &payout_to("C", &[item("b")])).await;
    is_refused_saying(&held, "destination_not_allowed", "held until 2");
    // A shorter hold in the same reload opens nothing: neither targets that wait, nor new ones.
    folder.tenant(&acme(), &listed("0", &["a", "b", "c"]));
    reload(&program).await;
    until_payout(&program, "D", "c", Some("held until 2")).await;
    let held = send(&program, &payout_to("E", &[item("b")])).await;
    is_refused_saying(&held, "destination_not_allowed", "held until 2");

    // The removal holds with the answer to the reload.
    folder.tenant(&acme(), &listed("0", &["b", "c"]));
    reload(&program).await;
    let removed = send(&program, &payout_to("F", &[item("a")])).await;
    is_refused_saying(&removed, "destination_not_allowed", "not in your list");
    until_the_store_has(&program, 3).await;
    folder.tenant(&acme(), &listed("0", &["a", "b", "c"]));
    reload(&program).await;
    until_payout(&program, "G", "a", Some("held until 2")).await;

    // Nor does a file without the list open it.
    folder.tenant(&acme(), "");
    reload(&program).await;
    let open = send(&program, &payout_to("H", &[item("d")])).await;
    is_refused_saying(&open, "destination_not_allowed", "not in your list");
    program.stop().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let open = send(&program, &payout_to("I", &[item("d")])).await;
    is_refused_saying(&open, "destination_not_allowed", "not in your list");
}

#[tokio::test]
async fn a_hold_that_has_passed_at_one_instance_has_passed_at_all() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = gatepay();
    let server = PgServer::migrated().await;
    let folders = folders_of_two(&gatepay, &server, &listed("1s", &["a"]));
    let programs = Program::serve_all(&folders).await;
    for (number, program) in programs.iter().enumerate() {
        until_payout(program, &format!("A{number}"), "a", None).await;
    }
    // A target that one instance has removed is refused by another one too, though its own file still lists it.
    folders[0].tenant(&acme(), &listed("1s", &["b"]));
    reload(&programs[0]).await;
    let removed = send(&programs[0], &payout_to("B", &[item("a")])).await;
    is_refused_saying(&removed, "destination_not_allowed", "not in your list");
    until_payout(&programs[1], "C", "a", Some("whose hold begins now")).await;
}

#[tokio::test]
async fn lists_need_a_store_and_entries_that_name_one_destination() {
    let folder = Folder::before(UNUSED);
    folder.tenant(&acme(), &listed("24h", &["a"]));
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("destinations.mode: requires [store] in proxy.toml"),
        "{said}"
    );
    let gatepay = gatepay();
    let table = "[destinations]\nmode = 'listed'\n[[destination]]\n";
    for (text, problem) in [
        (format!("{table}memo = '5'\n"), "chain: is required"),
        (
            format!("{table}gate_uid = '1'\nbank_account = '2'\n"),
            "names one destination",
        ),
        (
            format!("{table}chain = 'ETH'\naddress = 'a b'\n"),
            "must be 1 to 120 visible ASCII characters",
        ),
        (
            format!(
                "{}{}",
                listed("24h", &[EVM]),
                "[[destination]]\nchain = 'eth'\naddress = '0x52908400098527886e0f7030069857d2e4169ee7'\n"
            ),
            "names a destination twice",
        ),
        (
            "[[destination]]\ngate_uid = '1'\n".to_owned(),
            "requires [destinations]",
        ),
        (
            "[destinations]\nmode = 'some'\n".to_owned(),
            "must be \"listed\" or \"any\"",
        ),
        (
            "[destinations]\nmode = 'listed'\nhold = '1'\n".to_owned(),
            "must be a time like \"24h\"",
        ),
    ] {
        let folder = folder_of_file(&gatepay, &text);
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(problem), "{said}");
    }
    let folder = folder_of_file(&gatepay, &listed("1s", &["a"]));
    let (said, _) = printed(&folder.run("check"));
    assert!(said.contains("a new one is held 1s"), "{said}");
    let folder = folder_of_file(&gatepay, &listed("24h", &["a", "b"]));
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(
            "destinations: acme: money goes to 2 listed ones only; a new one is held 24h"
        ),
        "{said}"
    );
    assert!(said.contains("deny create_gift_card"), "{said}");
}
