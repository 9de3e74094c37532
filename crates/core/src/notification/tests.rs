use super::*;
use crate::ledger_key::LedgerKeyKind::{self, *};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The body in both documented shapes of `data`: JSON in a string, and an object.
fn shapes(envelope: &Value, data: &Value) -> [String; 2] {
    let with = |data: Value| {
        let mut body = envelope.clone();
        body["data"] = data;
        body.to_string()
    };
    [with(data.to_string().into()), with(data.clone())]
}

fn read(body: &str) -> Notification {
    Notification::read(body.as_bytes())
}

/// A notification whose two shapes have one reading.
fn same_in_both_shapes(envelope: &Value, data: &Value) -> Notification {
    let [text, object] = shapes(envelope, data).map(|body| read(&body));
    let without_digest = |mut one: Notification| {
        one.body_sha256 = [0; 32];
        one.client_ids.clear();
        one
    };
    let text = without_digest(text);
    assert_eq!(text, without_digest(object), "{envelope} {data}");
    text
}

fn hint(kind: LedgerKeyKind, text: &str) -> OwnershipHint {
    OwnershipHint {
        key: LedgerKey::new(kind, text).unwrap(),
        strength: kind.strength(),
    }
}

fn strong(kind: LedgerKeyKind, text: &str) -> OwnershipHint {
    OwnershipHint {
        strength: HintStrength::Strong,
        ..hint(kind, text)
    }
}

/// A kind, with envelope and data of a notification, its object and its hints.
type KnownReading = (
    NotificationKind,
    Value,
    Value,
    &'static str,
    Vec<OwnershipHint>,
);

#[expect(clippy::too_many_lines, reason = "a table reads best whole")]
fn known_readings() -> Vec<KnownReading> {
    use NotificationKind as Kind;
    vec![
        (
            Kind::Pay,
            json!({"bizType": "PAY", "bizId": "50620368071692288", "bizStatus": "PAY_SUCCESS", "client_id": "c"}),
            json!({"merchantTradeNo": "4379824792349592345", "payerId": "1", "orderAmount": "0.1"}),
            "50620368071692288",
            vec![
                hint(TradeNumber, "4379824792349592345"),
                hint(PrepayId, "50620368071692288"),
            ],
        ),
        (
            Kind::Pay,
            json!({"bizType": "PAY", "bizId": "", "bizStatus": "PAY_CLOSE"}),
            json!({"merchantTradeNo": "17"}),
            "17",
            vec![hint(TradeNumber, "17")],
        ),
        (
            Kind::PayAddress,
            json!({"bizType": "PAY_ADDRESS", "bizId": 506, "bizStatus": "PAY_BLOCK"}),
            json!({"merchantTradeNo": "17", "accountId": "7000000001", "address": "0x1", "chain": "ETH"}),
            "506",
            vec![
                hint(TradeNumber, "17"),
                hint(PrepayId, "506"),
                hint(Account, "7000000001"),
            ],
        ),
        (
            Kind::TransferAddress,
            json!({"bizType": "TRANSFER_ADDRESS", "bizId": "506", "bizStatus": "TRANSFERRED_ADDRESS_DELAY"}),
            json!({"transactionId": "t-9", "address": "0x1", "chain": "ETH"}),
            "t-9",
            vec![hint(PrepayId, "506")],
        ),
        (
            Kind::PayFixedAddress,
            json!({"bizType": "PAY_FIXED_ADDRESS", "bizId": "88", "bizStatus": "PAY_SUCCESS"}),
            json!({"transactionId": "t-9", "chain": "TRX", "address": "TQn9", "channelId": "shop", "fromAddress": "TXx",
                "accountId": "7000000001"}),
            "t-9",
            vec![
                hint(AddressLabel, "TRX shop"),
                hint(DepositAddress, "TRX TQn9"),
                hint(Account, "7000000001"),
            ],
        ),
        (
            Kind::FixedAddressRisk,
            json!({"bizType": "FIXED_ADDRESS_RISK", "bizId": "88"}),
            json!({"chain": "TRX", "address": "TQn9"}),
            "88",
            vec![hint(DepositAddress, "TRX TQn9")],
        ),
        // In the sample `bizId` is the order's, though the table calls it the refund's.
        (
            Kind::PayRefund,
            json!({"bizType": "PAY_REFUND", "bizId": "506", "bizStatus": "REFUND_SUCCESS"}),
            json!({"refundInfo": {"refundRequestId": "156123911", "prepayId": "506", "refundAmount": "0.8"},
                "receiverId": "7000000002"}),
            "156123911",
            vec![
                hint(RefundNumber, "156123911"),
                hint(OrderRefund, "506 156123911"),
                hint(RefundNumber, "506"),
                strong(PrepayId, "506"),
                hint(PrepayId, "506"),
            ],
        ),
        (
            Kind::PayBatch,
            json!({"bizType": "PAY_BATCH", "bizId": "31", "bizStatus": "PAID"}),
            json!({"batch_id": "31", "merchant_batch_no": "m31"}),
            "31",
            vec![
                hint(RewardNumber, "31"),
                hint(RewardNumber, "m31"),
                strong(RewardBatchId, "31"),
                hint(RewardBatchId, "31"),
            ],
        ),
        (
            Kind::PayGiftBatch,
            json!({"bizType": "PAY_GIFT_BATCH", "bizId": "B31", "bizStatus": "PAID"}),
            json!({}),
            "B31",
            vec![
                hint(RewardNumber, "B31"),
                strong(RewardBatchId, "B31"),
                strong(GiftBatchId, "B31"),
            ],
        ),
        (
            Kind::SubscriptionPayment,
            json!({"bizType": "SUBSCRIPTION_PAYMENT", "bizId": "9", "bizStatus": "SUCCESS"}),
            json!({"paymentOrderNo": "PO1", "subscriptionOrderNo": "SO1", "merchantSubscriptionOrderNo": "m1", "accountId": "7"}),
            "PO1",
            vec![
                hint(SubscriptionNumber, "m1"),
                hint(SubscriptionId, "SO1"),
                hint(PaymentId, "PO1"),
            ],
        ),
        (
            Kind::AccountAuthDeduction,
            json!({"bizType": "ACCOUNT_AUTH_DEDUCTION", "bizId": "9", "bizStatus": "DEDUCT_FAILED"}),
            json!({"deductOrderNo": "D1", "merchantDeductNo": "m1", "account_id": "7"}),
            "D1",
            vec![hint(DeductionNumber, "m1"), hint(DeductionId, "D1")],
        ),
        (
            Kind::Institution,
            json!({"bizType": "INSTITUTION", "bizId": "9", "bizStatus": "INSTITUTION_ACCOUNT_SUCCESS"}),
            json!({"request_id": "r1", "account_id": "7000000001"}),
            "r1",
            vec![],
        ),
        (
            Kind::Otc,
            json!({"bizType": "FIAT_ORDER", "bizStatus": "DISPATCHED"}),
            json!({"orderId": "77", "clientOrderId": "c77", "status": "DISPATCHED"}),
            "77",
            vec![hint(OtcNumber, "c77"), hint(OtcId, "77")],
        ),
        (
            Kind::Unknown,
            json!({"bizType": "PAY_LATER", "bizId": "506", "bizStatus": "PAY_SUCCESS"}),
            json!({"prepayId": "506", "orderId": "1", "address": "0x1", "chain": "ETH"}),
            "506",
            vec![hint(PrepayId, "506")],
        ),
    ]
}

#[test]
fn every_kind_is_read_alike_in_both_shapes_of_data() {
    for (kind, envelope, data, object, mut hints) in known_readings() {
        let read = same_in_both_shapes(&envelope, &data);
        assert_eq!((read.kind, &*read.object), (kind, object), "{envelope}");
        assert_eq!(read.biz_type, envelope["bizType"], "{envelope}");
        assert_eq!(
            read.status,
            envelope["bizStatus"].as_str().unwrap_or_default()
        );
        assert_eq!(read.rank, kind.rank(&read.status), "{envelope}");
        hints.sort();
        assert_eq!(read.hints, hints, "{envelope}");
        assert_eq!(read.fault, None);
    }
    let known: BTreeSet<_> = known_readings().iter().map(|known| known.0).collect();
    let others: Vec<_> = NotificationKind::ALL
        .iter()
        .filter(|kind| !known.contains(kind))
        .collect();
    assert_eq!(
        others,
        [&NotificationKind::Withdraw],
        "which has no envelope"
    );
}

#[test]
fn the_order_alone_does_not_prove_whose_a_refund_is() {
    let envelope = json!({"bizType": "PAY_REFUND", "bizId": "506", "bizStatus": "REFUND_SUCCESS"});
    for data in [json!({"refundInfo": {"prepayId": "506"}}), json!({})] {
        for body in shapes(&envelope, &data) {
            let order = OwnershipHint {
                strength: HintStrength::Weak,
                ..hint(PrepayId, "506")
            };
            assert_eq!(read(&body).hints, [hint(RefundNumber, "506"), order]);
        }
    }
}

fn payout(status: &str, orders: &[(&str, &str)]) -> Value {
    let orders: Vec<_> = orders
        .iter()
        .map(|(number, status)| {
            json!({"merchant_withdraw_id": number, "suborder_id": 4, "merchant_id": "10002", "batch_withdraw_id": "",
                "chain": "ETH", "address": "0x1", "currency": "USDT", "amount": 1.5, "status": status, "memo": null})
        })
        .collect();
    json!({"main_order": {"batch_id": "b_1", "merchant_id": 7_000_000_001_u64, "status": status, "client_id": "inst",
        "pay_back_status": null, "channel_id": ""}, "suborders": orders})
}

#[test]
fn a_payout_is_read_without_an_envelope() {
    let body = payout("PROCESSING", &[("w2", "PENDING"), ("w1", "DONE")]).to_string();
    let read = read(&body);
    assert_eq!(
        (read.kind, &*read.object),
        (NotificationKind::Withdraw, "b_1 w1,w2")
    );
    assert_eq!(&*read.status, "PROCESSING");
    let expected = [
        hint(PayoutNumber, "b_1"),
        hint(PayoutId, "b_1"),
        hint(Account, "10002"),
        hint(Account, "7000000001"),
    ];
    assert_eq!(read.hints, expected, "the two accounts may differ");
    let ids: Vec<_> = read
        .client_ids
        .iter()
        .map(|span| &body[span.range.clone()])
        .collect();
    assert_eq!(ids, ["\"inst\""]);
}

#[test]
fn a_payout_in_an_envelope_is_the_same_payout() {
    let bare = payout("SUCCESS", &[("w1", "DONE")]);
    let envelope = json!({"bizType": "WITHDRAW", "bizStatus": "OTHER"});
    let wrapped = same_in_both_shapes(&envelope, &bare);
    let bare = read(&bare.to_string());
    assert_eq!(
        (
            wrapped.kind,
            wrapped.object,
            wrapped.status,
            wrapped.rank,
            wrapped.hints
        ),
        (bare.kind, bare.object, bare.status, bare.rank, bare.hints)
    );
}

#[test]
fn a_payouts_rank_grows_with_its_sub_orders() {
    let rank = |status: &str, orders: &[(&str, &str)]| {
        read(&payout(status, orders).to_string()).rank.unwrap()
    };
    let steps = [
        rank("INIT", &[("1", "PENDING"), ("2", "PENDING")]),
        rank("PROCESSING", &[("1", "PENDING"), ("2", "PENDING")]),
        rank("PROCESSING", &[("1", "FAIL"), ("2", "PENDING")]),
        rank("PROCESSING", &[("1", "FAIL"), ("2", "DONE")]),
        rank("PARTIAL", &[("1", "FAIL"), ("2", "DONE")]),
    ];
    assert!(
        steps.is_sorted_by(|earlier, later| earlier < later),
        "{steps:?}"
    );
    assert_eq!(steps[4], rank("SUCCESS", &[]));
}

#[test]
fn payouts_of_other_sub_orders_are_other_objects() {
    let object = |orders: &[(&str, &str)]| read(&payout("PROCESSING", orders).to_string()).object;
    let objects = [
        object(&[]),
        object(&[("1", "DONE")]),
        object(&[("2", "DONE")]),
        object(&[("1", "DONE"), ("2", "DONE")]),
        object(&[("1,2", "DONE")]),
    ];
    let different: BTreeSet<_> = objects.iter().collect();
    assert_eq!(different.len(), objects.len(), "{objects:?}");
    assert_eq!(object(&[("2", "DONE"), ("1", "DONE")]), objects[3]);
    let numbers: Vec<String> = (0..100)
        .map(|number| format!("withdrawal{number}"))
        .collect();
    let many: Vec<_> = numbers.iter().map(|number| (&**number, "DONE")).collect();
    let object_of_many = object(&many);
    assert!(
        object_of_many.starts_with("sub-orders:"),
        "{object_of_many}"
    );
    assert_eq!(
        object_of_many,
        object(&many.iter().rev().copied().collect::<Vec<_>>())
    );
    assert_ne!(object_of_many, object(&many[1..]));
    let nameless = json!({"main_order": {"batch_id": "b"}, "suborders": [{"suborder_id": 1}]});
    assert!(read(&nameless.to_string()).object.starts_with("sha256:"));
}

#[test]
fn a_body_without_its_duplicate_key_has_an_object_of_its_own() {
    for kind in NotificationKind::ALL {
        let body = |amount| {
            json!({"bizType": kind.as_str(), "bizStatus": "X", "amount": amount}).to_string()
        };
        let [one, other] = [read(&body(1)), read(&body(2))];
        assert!(one.object.starts_with("sha256:"), "{kind}");
        assert_ne!(one.object, other.object, "{kind}");
    }
    // Two refunds of one order have one `bizId`.
    let body = r#"{"bizType":"PAY_REFUND","bizId":"506","bizStatus":"REFUND_PROCESS"}"#;
    assert!(read(body).object.starts_with("sha256:"));
}

#[test]
fn a_body_with_several_readings_is_kept_as_unknown() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    for (body, fault) in [
        ("", NotificationFault::NotJson),
        ("{", NotificationFault::NotJson),
        ("bizType=PAY", NotificationFault::NotJson),
        ("\u{feff}{}", NotificationFault::NotJson),
        (r#"{"bizId":"1"}{"bizId":"2"}"#, NotificationFault::NotJson),
        (
            r#"[{"bizType":"PAY","bizId":"1"}]"#,
            NotificationFault::NotAnObject,
        ),
        (r#""PAY""#, NotificationFault::NotAnObject),
        (
            r#"{"bizId":"1","bizId":"2"}"#,
            NotificationFault::RepeatedName,
        ),
        (
            r#"{"bizId":"1","BIZID":"1"}"#,
            NotificationFault::RepeatedName,
        ),
        (
            r#"{"bizId":"1","biz\u0049d":"2"}"#,
            NotificationFault::RepeatedName,
        ),
        (
            r#"{"bizId":"1","data":{"a":[{"b":1,"b":2}]}}"#,
            NotificationFault::RepeatedName,
        ),
        (
            r#"{"bizId":"1","amount":1e999}"#,
            NotificationFault::UnreadableValue,
        ),
        (r#"{"bizId":"\ud800"}"#, NotificationFault::UnreadableValue),
        (
            &format!(r#"{{"bizId":"1","x":{deep}}}"#),
            NotificationFault::TooDeep,
        ),
        (
            r#"{"bizId":"1","data":"{\"prepayId\":\"1\",\"prepayId\":\"2\"}"}"#,
            NotificationFault::Data,
        ),
        (
            r#"{"bizId":"1","data":"{\"prepayId\":\"1\""}"#,
            NotificationFault::Data,
        ),
        (r#"{"bizId":"1","data":"paid"}"#, NotificationFault::Data),
        (r#"{"bizId":"1","data":"[1]"}"#, NotificationFault::Data),
    ] {
        let body = body.replacen(
            '{',
            r#"{"bizType":"PAY","#,
            usize::from(body.starts_with(r#"{"bizId"#)),
        );
        let read = read(&body);
        let kept = Notification {
            fault: Some(fault),
            ..Notification::unknown(body.as_bytes())
        };
        assert_eq!(read, kept, "{body:.80}");
        assert_eq!(read.audience(), NotificationAudience::Unreadable);
    }
    let invalid = Notification::read(b"{\"bizId\":\"\xff\"}");
    assert_eq!(invalid.fault, Some(NotificationFault::NotJson));
}

#[test]
fn data_that_says_nothing_is_no_fault() {
    for data in [
        "null",
        r#""""#,
        r#"" ""#,
        r#""null""#,
        "[]",
        "1",
        "{}",
        r#""{}""#,
    ] {
        let body =
            format!(r#"{{"bizType":"PAY","bizId":"1","bizStatus":"PAY_SUCCESS","data":{data}}}"#);
        let read = read(&body);
        assert_eq!(
            (read.fault, read.kind),
            (None, NotificationKind::Pay),
            "{data}"
        );
        assert_eq!(read.hints, [hint(PrepayId, "1")], "{data}");
    }
}

#[test]
fn values_that_cannot_be_stored_are_no_hints_and_no_status() {
    let long = "1".repeat(300);
    for id in [
        json!(null),
        json!(""),
        json!({}),
        json!(true),
        json!(1.5),
        json!(-1),
        json!("a\nb"),
        json!("\u{0}"),
        json!(long),
    ] {
        let body = json!({"bizType": "PAY", "bizId": id, "bizStatus": id}).to_string();
        let read = read(&body);
        assert_eq!(
            (read.kind, &*read.status),
            (NotificationKind::Pay, ""),
            "{body:.80}"
        );
        assert_eq!(read.hints, [], "{body:.80}");
        assert_eq!(
            read.audience(),
            NotificationAudience::Tenant,
            "for an operator to decide"
        );
    }
}

#[test]
fn the_audience_follows_the_kind() {
    for (body, audience) in [
        (
            r#"{"bizType":"INSTITUTION","data":{"prepayId":"1","account_id":"7"}}"#,
            NotificationAudience::Institution,
        ),
        (
            r#"{"bizType":"NEW","bizId":"1"}"#,
            NotificationAudience::Unstated,
        ),
        ("{}", NotificationAudience::Unstated),
        (
            r#"{"bizType":"NEW","data":{"prepayId":"1"}}"#,
            NotificationAudience::Tenant,
        ),
        (r#"{"bizType":"PAY"}"#, NotificationAudience::Tenant),
        (r#"{"bizType":"WITHDRAW"}"#, NotificationAudience::Tenant),
    ] {
        assert_eq!(read(body).audience(), audience, "{body}");
    }
}

#[test]
fn a_duplicate_is_the_same_bytes_about_the_same_status() {
    let key = |body: &str| read(body).duplicate_key();
    let one = key(r#"{"bizType":"PAY","bizId":"1","bizStatus":"PAY_SUCCESS"}"#);
    let spaced = key(r#"{"bizType":"PAY","bizId":"1", "bizStatus":"PAY_SUCCESS"}"#);
    let closed = key(r#"{"bizType":"PAY","bizId":"1","bizStatus":"PAY_CLOSE"}"#);
    assert!(one.same_news(&spaced) && !one.same_news(&closed));
    assert_ne!(one, spaced);
    let digests: BTreeSet<_> = [&one, &spaced, &closed].map(DuplicateKey::digest).into();
    assert_eq!(digests.len(), 3);
    let moved = DuplicateKey {
        object: "1P".into(),
        status: "AY_SUCCESS".into(),
        ..one.clone()
    };
    assert_ne!(
        moved.digest(),
        one.digest(),
        "lengths are part of the digest"
    );
}

fn client(id: &str) -> ClientId {
    ClientId::parse(id).unwrap()
}

#[test]
fn the_client_id_is_replaced_where_it_stands_whichever_of_the_institutions_it_is() {
    let tenant = client(r#"t"e\n"#);
    for (body, expected) in [
        (
            r#"{"client_id" : "inst-now","bizType":"PAY"}"#,
            r#"{"client_id" : "t\"e\\n","bizType":"PAY"}"#,
        ),
        (
            r#"{"clientId":"inst\/before"}"#,
            r#"{"clientId":"t\"e\\n"}"#,
        ),
        (
            r#"{"x":"inst-now","CLIENTID":"inst-now","client_id":"inst-now"}"#,
            r#"{"x":"inst-now","CLIENTID":"t\"e\\n","client_id":"t\"e\\n"}"#,
        ),
        (
            r#"{"main_order":{"batch_id":"inst-now","client_id":"inst-now"},"suborders":[]}"#,
            r#"{"main_order":{"batch_id":"inst-now","client_id":"t\"e\\n"},"suborders":[]}"#,
        ),
        (
            r#"{"client_id":"removed from the configuration"}"#,
            r#"{"client_id":"t\"e\\n"}"#,
        ),
        (r#"{"client_id":""}"#, r#"{"client_id":""}"#),
        (r#"{"client_id":null}"#, r#"{"client_id":null}"#),
        (
            r#"{"client_id":["inst-now"]}"#,
            r#"{"client_id":["inst-now"]}"#,
        ),
        (
            r#"{"data":{"client_id":"inst-now"}}"#,
            r#"{"data":{"client_id":"inst-now"}}"#,
        ),
        (
            r#"{"data":"{\"client_id\":\"inst-now\"}"}"#,
            r#"{"data":"{\"client_id\":\"inst-now\"}"}"#,
        ),
        (
            r#"{"client_id":"inst-now","client_id":"inst-now"}"#,
            r#"{"client_id":"inst-now","client_id":"inst-now"}"#,
        ),
        ("client_id inst-now", "client_id inst-now"),
    ] {
        let read = read(body);
        let sent = read.for_tenant(body.as_bytes(), &tenant);
        assert_eq!(str::from_utf8(&sent).unwrap(), expected);
    }
}

proptest! {
    #[test]
    fn every_body_is_read(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let read = Notification::read(&body);
        let digest: [u8; 32] = Sha256::digest(&body).into();
        prop_assert_eq!(read.body_sha256, digest);
    }

    #[test]
    fn a_truncated_body_is_never_another_notification(at in 0..200_usize) {
        let (_, envelope, data, _, _) = &known_readings()[6];
        for body in shapes(envelope, data) {
            let at = at % body.len();
            prop_assert_eq!(read(&body[..at]).fault, Some(NotificationFault::NotJson));
        }
    }

    #[test]
    fn replacing_the_client_id_changes_no_other_value(
        members in prop::collection::vec(("[a-z]{1,3}", "[ -~]{0,12}"), 0..6),
        at in 0..6_usize,
        tenant in "[!-~]{1,64}",
    ) {
        let mut members: Vec<(String, String)> = members;
        let at = at.min(members.len());
        members.insert(at, ("client_id".into(), "inst".into()));
        let mut body: serde_json::Map<String, Value> =
            members.into_iter().map(|(name, value)| (name, value.into())).collect();
        let text = serde_json::to_string_pretty(&body).unwrap();
        let read = read(&text);
        let sent = read.for_tenant(text.as_bytes(), &client(&tenant));
        body["client_id"] = tenant.into();
        prop_assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), Value::Object(body));
    }
}
