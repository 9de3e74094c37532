//! The answer to a tenant's own query teaches the ledger GatePay's id of an order whose own answer was lost.

use super::asking::asking_folder;
use super::*;

const QUERY: &str = "/v1/pay/order/query";

impl Receiver {
    /// Queries an order by its number, as its tenant does.
    async fn queries(&self, shop: &Shop, number: &str) {
        let body = json!({ "merchantTradeNo": number }).to_string();
        let answer = self.call(&shop.post(QUERY, body)).await;
        assert_eq!((answer.status, answer.refusal()), (200, None));
    }

    async fn holders(&self, prepay_id: &str) -> Vec<Value> {
        let page = self.looks(&format!("/ledger?key={prepay_id}")).await;
        page["holders"].as_array().unwrap().clone()
    }

    async fn until_learned(&self, prepay_id: &str) -> Value {
        until_seen(async || match &self.holders(prepay_id).await[..] {
            [holder] => Ok(holder.clone()),
            others => Err(format!("{others:?}")),
        })
        .await
    }
}

#[tokio::test]
async fn a_query_of_its_tenant_leads_an_order_back_whose_answer_was_lost() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = asking_folder(&gatepay, &engine);
        let receiver = Receiver::start(&folder).await;
        let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
        receiver.acknowledges(&paid(&lost, "L-0001")).await;
        receiver.shows(&quarantined("unproved")).await;
        receiver.queries(&acme(), "L-0001").await;
        let holder = receiver.until_learned(&lost).await;
        assert_eq!(
            (&holder["tenant"], &holder["source"], &holder["operation"]),
            (&json!("acme"), &json!("asked"), &json!("query_order"))
        );
        receiver.is_placed(&lost).await;
        assert_eq!(receiver.placed(&lost).await[1..], ["acme", "certain"]);
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_query_teaches_nothing_of_a_number_or_an_account_that_two_tenants_have() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = asking_folder(&gatepay, &engine);
        let twin = Shop::new(
            "twin",
            "client-twin",
            "fake-twin-secret-0003",
            globex().sub_account,
        );
        for shop in [&globex(), &twin] {
            folder.tenant(shop, "shared_sub_account = true");
        }
        let receiver = Receiver::start(&folder).await;
        // Another tenant has an order of its own under the same number.
        receiver.order(&globex(), "L-0001").await;
        let of_both = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
        receiver.queries(&acme(), "L-0001").await;
        let of_shared = receiver.lost_order(&gatepay, &globex(), "L-0002").await;
        receiver.queries(&globex(), "L-0002").await;
        // The ledger takes what is learned in the order of the answers.
        let own = receiver.lost_order(&gatepay, &acme(), "L-0003").await;
        receiver.queries(&acme(), "L-0003").await;
        receiver.until_learned(&own).await;
        for id in [&of_both, &of_shared] {
            assert_eq!(receiver.holders(id).await, [Value::Null; 0], "{id}");
        }
        receiver.program.stop().await;
    }
}
