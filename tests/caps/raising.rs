//! A raise that waits holds early once two operators have approved exactly its changes.

use serde_json::Value;

use super::approvals::{says, serving_with_operators, with_operators};
use super::*;

/// What waits, as `GET /caps` tells it.
async fn waiting(program: &Program) -> Vec<Value> {
    let (status, said) = says(program, "alice", ("GET", "/caps")).await;
    assert_eq!(status, 200, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    said["waiting"].as_array().unwrap().clone()
}

/// Waits until these limits wait, and returns the id of the changes.
async fn until_waiting(program: &Program, limit: Option<&str>) -> String {
    until_seen(async || match &waiting(program).await[..] {
        [only] if only["changes"][0]["limit"].as_str() == limit => {
            Ok(only["id"].as_str().unwrap().to_owned())
        }
        others => Err(format!("{others:?}")),
    })
    .await
}

async fn raises(program: &Program, name: &str, id: &str) -> (u16, String) {
    says(program, name, ("POST", &format!("/-/caps/raise?id={id}"))).await
}

async fn reload(program: &Program) {
    let (status, said) = says(program, "alice", ("POST", "/-/reload")).await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn a_raise_holds_early_once_two_operators_have_approved_exactly_these_changes() {
    let gatepay = gatepay();
    let (folder, program) = serving_with_operators(&gatepay, "per_day = '100'").await;
    assert_eq!(waiting(&program).await, [] as [Value; 0]);
    folder.tenant(&acme(), &caps("per_day = '200'"));
    reload(&program).await;
    let first = until_waiting(&program, Some("200")).await;
    for (name, expected) in [
        ("carol", 403),
        ("admin", 403),
        ("alice", 200),
        ("alice", 200),
    ] {
        let (status, said) = raises(&program, name, &first).await;
        assert_eq!(status, expected, "{name}: {said}");
        assert!(expected != 200 || said.contains("\"needs\":1"), "{said}");
    }
    is_refused(&send(&program, &payout("B1", "101")).await, "cap_exceeded");
    // Other changes are another raise, to be approved anew.
    folder.tenant(&acme(), &caps("per_day = '900'"));
    reload(&program).await;
    let second = until_waiting(&program, Some("900")).await;
    assert_ne!(first, second);
    assert_eq!(raises(&program, "bob", &first).await.0, 404);
    let (status, said) = raises(&program, "bob", &second).await;
    assert!(status == 200 && said.contains("\"needs\":1"), "{said}");
    is_refused(&send(&program, &payout("B2", "101")).await, "cap_exceeded");
    let (status, said) = raises(&program, "alice", &second).await;
    assert!(status == 200 && said.contains("\"needs\":0"), "{said}");
    let paid = send(&program, &payout("B3", "101")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    assert_eq!(waiting(&program).await, [] as [Value; 0]);
    // A removal too.
    folder.tenant(&acme(), "");
    reload(&program).await;
    let third = until_waiting(&program, None).await;
    for name in ["alice", "bob"] {
        assert_eq!(raises(&program, name, &third).await.0, 200);
    }
    let paid = send(&program, &payout("B4", "5000")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    program.stop().await;
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&["audit", "show", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    let order = format!("approve {} by ", acme().sub_account);
    assert_eq!(said.matches(&order).count(), 6, "{said}");
}

/// Waits until the changes of a scope wait, and returns their id.
async fn until_waiting_for(program: &Program, account: Option<&str>) -> String {
    until_seen(async || {
        let waiting = waiting(program).await;
        let own = waiting.iter().find(|it| it["account"].as_str() == account);
        let id = own.map(|own| own["id"].as_str().unwrap().to_owned());
        id.ok_or_else(|| format!("{waiting:?}"))
    })
    .await
}

#[tokio::test]
async fn an_operator_that_can_make_the_bounded_calls_raises_no_cap_of_them() {
    let gatepay = gatepay();
    let file =
        |holder: &str, limits: &str| format!("admin_operators = ['{holder}']\n{}", caps(limits));
    let folder = folder_of_file(&gatepay, &file("bob", "per_day = '100'"));
    with_operators(&folder);
    let all = |limit: &str| {
        format!(
            "caps = {{ approvals = 2, all = [{{ calls = ['payouts'], currency = 'USDT', per_day = '{limit}' }}] }}"
        )
    };
    folder.edit("proxy.toml", "caps = { approvals = 2 }", &all("1000"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    folder.tenant(&acme(), &file("bob", "per_day = '200'"));
    folder.edit("proxy.toml", &all("1000"), &all("2000"));
    reload(&program).await;
    let own = until_waiting_for(&program, Some(acme().sub_account)).await;
    let of_all = until_waiting_for(&program, None).await;
    for id in [&own, &of_all] {
        // One holds acme's secret, one has its name.
        for name in ["bob", "acme"] {
            let (status, said) = raises(&program, name, id).await;
            assert_eq!(status, 403, "{name}: {said}");
            assert!(
                said.contains("a cap that bounds calls of its own"),
                "{said}"
            );
        }
        let (status, said) = raises(&program, "alice", id).await;
        assert!(status == 200 && said.contains("\"needs\":1"), "{said}");
    }
    // A link that is found out later counts for what was approved before.
    folder.tenant(&acme(), &file("alice", "per_day = '200'"));
    reload(&program).await;
    for id in [&own, &of_all] {
        let (status, said) = raises(&program, "bob", id).await;
        assert_eq!(status, 409, "{said}");
        let told = "alice has approved it and holds the secret of acme";
        assert!(said.contains(told), "{said}");
    }
    is_refused(&send(&program, &payout("B1", "101")).await, "cap_exceeded");
}

#[tokio::test]
async fn an_operator_that_can_call_for_any_sub_account_raises_no_cap_of_one() {
    let gatepay = gatepay();
    let (folder, program) = serving_with_operators(&gatepay, "per_day = '100'").await;
    folder.operator(&office(), "admin_operators = ['alice']");
    folder.tenant(&acme(), &caps("per_day = '200'"));
    reload(&program).await;
    let id = until_waiting(&program, Some("200")).await;
    for (name, expected) in [("alice", 403), ("bob", 200)] {
        let (status, said) = raises(&program, name, &id).await;
        assert_eq!(status, expected, "{name}: {said}");
    }
}
