//! With `caps.approvals = 2` two operators assign a notification.

use super::*;

const CAPS: &str = "caps = { approvals = 2 }";

fn operators_are_known(folder: &Folder) {
    for name in ["admin", "alice", "bob"] {
        folder.secret(name, &format!("fake-{name}-token"));
    }
    let operator =
        |name| format!("{{ name = '{name}', token = {{ file = 'secrets/{name}.key' }} }}");
    let operators = ["alice", "bob"].map(operator).join(", ");
    folder.edit(
        "proxy.toml",
        "admin = { address = '127.0.0.2:0' }",
        &format!(
            "admin = {{ address = '127.0.0.2:0', token = {{ file = 'secrets/admin.key' }}, operator = [{operators}] }}"
        ),
    );
}

/// The status and the answer to an order of this operator's.
async fn orders(receiver: &Receiver, name: &str, path: &str) -> (u16, String) {
    let bearer = format!("Bearer fake-{name}-token");
    let headers = [("authorization", bearer.as_str())];
    let answer = receiver.program.admin_with("POST", path, &headers).await;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status, said)
}

#[tokio::test]
async fn a_notification_is_assigned_once_two_operators_have_ordered_the_same() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url(), &engine);
        folder.keeps_a_journal();
        operators_are_known(&folder);
        folder.proxy(CAPS);
        let receiver = Receiver::start(&folder).await;
        receiver.acknowledges(&paid("77", "A-0001")).await;
        receiver.shows(&quarantined("no_holder")).await;
        let lines = receiver.logged("notification");
        let id = lines[0]["event"].as_str().unwrap();
        let to = |tenant: &str| format!("/-/notifications/assign?id={id}&tenant={tenant}");

        // The token that all share names no operator.
        assert_eq!(orders(&receiver, "admin", &to("acme")).await.0, 403);
        // One operator is not two, however often.
        for _ in 0..2 {
            let (status, said) = orders(&receiver, "alice", &to("acme")).await;
            assert_eq!(status, 200, "{said}");
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(
                (&said["needs"], &said["state"]),
                (&json!(1), &json!("quarantined"))
            );
        }
        // Another tenant is not the same.
        let (status, said) = orders(&receiver, "bob", &to("globex")).await;
        assert_eq!(status, 409, "{said}");
        assert!(said.contains("alice has ordered it for acme"), "{said}");
        let (status, said) = orders(&receiver, "bob", &to("acme")).await;
        assert_eq!(status, 200, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (&said["needs"], &said["state"]),
            (&json!(0), &json!("waiting"))
        );
        assert_eq!(said["approved_by"], json!(["alice", "bob"]));
        let journal = folder.journal();
        let acts = journal.matches("\"action\":\"propose\"").count();
        assert_eq!(acts, 4, "{journal}");
        let assigned = "\"by\":\"bob\",\"proposed_by\":\"alice\"";
        assert_eq!(journal.matches(assigned).count(), 1, "{journal}");
        receiver.program.stop().await;
    }
}

#[test]
fn two_approvals_need_two_operators_in_the_configuration() {
    let folder = folder("http://127.0.0.1:1", &Engine::File);
    folder.proxy(CAPS);
    let (said, code) = printed(&run(&["check", "--config", &folder.name("proxy.toml")]));
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("caps.approvals: 2 requires two [[admin.operator]]"),
        "{said}"
    );
}
