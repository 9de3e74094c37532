use crate::support::*;

#[tokio::test]
async fn two_shops_with_one_order_number_each_see_their_own_order() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let mut ids = Vec::new();
    for shop in [acme(), globex()] {
        let created = proxy.send(shop.post(CREATE, order("A-0001"))).await;
        assert_eq!(created.code(), "000000");
        ids.push(
            created.json()["data"]["prepayId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_ne!(ids[0], ids[1]);
    for (shop, id) in [acme(), globex()].iter().zip(&ids) {
        let found = proxy.send(shop.post(QUERY, BY_NUMBER)).await;
        assert_eq!(found.json()["data"]["prepayId"], **id, "{}", shop.id);
    }
}

#[tokio::test]
async fn an_order_is_out_of_reach_for_any_other_shop() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let created = proxy
        .send(acme().post(CREATE, order("A-0001")))
        .await
        .json();
    let id = created["data"]["prepayId"].as_str().unwrap();
    gatepay.sandbox.pay(acme().sub_account, id).unwrap();
    let by_id = format!(r#"{{"prepayId":"{id}"}}"#);
    let refund = format!(r#"{{"refundRequestId":"R-1","prepayId":"{id}","refundAmount":"1"}}"#);
    for (path, body) in [(QUERY, &by_id), (CLOSE, &by_id), (REFUND, &refund)] {
        let theirs = proxy.send(globex().post(path, body.clone())).await;
        assert_eq!(
            (theirs.status, theirs.code()),
            (200, "400202".to_owned()),
            "{path}"
        );
    }
    let own = proxy.send(acme().post(REFUND, refund)).await;
    assert_eq!(own.code(), "000000");
}
