//! A tenant goes over to another credential: deliveries and pulled pages follow its calls, over a restart and at every
//! instance of a store.

use super::delivered::{EndpointPair, verifies};
use super::*;
use crate::support::tenant_endpoint::{Delivery, TenantEndpoint};

const NEXT: &str = "x-gatepay-proxy-signature-next";

/// Acme with its new credential.
fn renewed() -> Shop {
    Shop::new(
        acme().id,
        "client-acme-new",
        "fake-acme-secret-0009",
        acme().sub_account,
    )
}

/// Adds acme's new credential to its file.
fn adds_credential(folder: &Folder) {
    folder.edit(
        "tenants.d/acme.toml",
        "credential = [",
        "credential = [{ client_id = 'client-acme-new', secret = { file = '../secrets/acme-new.key' } }, ",
    );
    // The older one stands second, as its date says.
    folder.edit(
        "tenants.d/acme.toml",
        "acme-new.key' }",
        "acme-new.key' }, not_before = 2020-01-01T00:00:00Z",
    );
    folder.secret("acme-new", renewed().secret);
}

/// Sends the news about an order of acme's to this instance, and returns the delivery.
async fn delivered(receiver: &Receiver, endpoint: &TenantEndpoint, id: &str) -> Delivery {
    receiver.acknowledges(&paid(id, id)).await;
    until("it is delivered", || endpoint.count() == 1).await;
    endpoint.take().remove(0)
}

/// Asserts that this credential has signed, and the other one as well.
fn is_signed_by(delivery: &Delivery, signing: &Shop, other: &Shop) {
    let client_id = delivery.header("x-gatepay-certificate-clientid");
    assert_eq!(client_id, signing.client_id);
    assert!(verifies(delivery, signing.secret));
    assert!(delivery.head.headers.contains_key(NEXT));
    let body: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!(body["client_id"], signing.client_id);
    assert!(!verifies(delivery, other.secret));
}

#[tokio::test]
async fn the_credential_of_a_tenants_last_call_signs_after_a_restart_too() {
    for engine in engines().await {
        let pair = EndpointPair::start();
        let folder = pair.folder(&engine);
        let receiver = Receiver::start(&folder).await;
        let mut ids = Vec::new();
        for number in ["A-0001", "A-0002", "A-0003"] {
            ids.push(receiver.order(&acme(), number).await);
        }
        receiver.program.stop().await;
        adds_credential(&folder);

        // The old one was used last: before there was a choice.
        let receiver = Receiver::start(&folder).await;
        let delivery = delivered(&receiver, &pair.to_acme, &ids[0]).await;
        is_signed_by(&delivery, &acme(), &renewed());
        receiver.pulls(&renewed(), "").await;
        receiver.program.stop().await;

        let receiver = Receiver::start(&folder).await;
        let delivery = delivered(&receiver, &pair.to_acme, &ids[1]).await;
        is_signed_by(&delivery, &renewed(), &acme());
        // The tenant goes back.
        let page = receiver.pulls(&acme(), "").await;
        assert!(!page.to_string().contains(renewed().client_id), "{page}");
        receiver.program.stop().await;

        let receiver = Receiver::start(&folder).await;
        let delivery = delivered(&receiver, &pair.to_acme, &ids[2]).await;
        is_signed_by(&delivery, &acme(), &renewed());
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn an_instance_signs_with_the_credential_of_calls_at_another_one() {
    if postgres::is_missing() {
        return;
    }
    let engine = Engine::Server(Box::new(PgServer::migrated().await));
    let pair = EndpointPair::start();
    let folders = [(); 2].map(|()| pair.folder(&engine));
    folders.iter().for_each(adds_credential);
    let delivering = Receiver::start(&folders[1]).await;
    let Engine::Server(server) = &engine else {
        unreachable!("it is a server");
    };
    for (signing, other) in [(renewed(), acme()), (acme(), renewed())] {
        let called = Receiver::start(&folders[0]).await;
        // Then the tenants are registered.
        called.acknowledges(&paid("77", "A-0077")).await;
        called.pulls(&signing, "").await;
        let stored = "SELECT client_id FROM gatepay.last_credential WHERE party = 'acme'";
        until("it is stored", || server.sql(stored) == signing.client_id).await;
        called.program.stop().await;
        // The other instance hears of it without a call of its own.
        let began = Instant::now();
        let delivery = loop {
            let (said, code) = delivering.command(&["notifications", "test", "--tenant", "acme"]);
            assert_eq!(code, Some(0), "{said}");
            let delivery = pair.to_acme.take().remove(0);
            if delivery.header("x-gatepay-certificate-clientid") == signing.client_id {
                break delivery;
            }
            assert!(began.elapsed() < PATIENCE, "{said}");
        };
        is_signed_by(&delivery, &signing, &other);
    }
    delivering.program.stop().await;
}

#[test]
fn check_warns_of_a_third_credential_in_force_since_a_delivery_has_two_signatures() {
    let folder = folder("http://127.0.0.1:9", &Engine::File);
    let warning = "the tenant acme has more than two credentials in force at once";
    let says = || {
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(0), "{said}");
        said.contains(warning)
    };
    adds_credential(&folder);
    assert!(!says());
    let third = "{ client_id = 'client-acme-3', secret = { file = '../secrets/acme-3.key' }";
    folder.secret("acme-3", "fake-acme-secret-0010");
    for (dates, is_crowded) in [
        ("", true),
        (", not_before = 2099-01-01T00:00:00Z", true),
        (", not_after = 2020-06-01T00:00:00Z", false),
    ] {
        folder.edit(
            "tenants.d/acme.toml",
            "credential = [",
            &format!("credential = [{third}{dates} }}, "),
        );
        assert_eq!(says(), is_crowded, "{dates}");
        folder.edit("tenants.d/acme.toml", &format!("{third}{dates} }}, "), "");
    }
}
