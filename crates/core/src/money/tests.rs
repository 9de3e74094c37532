use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Catalogue;
use crate::exact_amount::PLACES;
use crate::spelling::tests::FOLDED;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::standard);

fn read(row: &str, query: &str, body: &str) -> Result<MoneyDemand, DemandFault> {
    let row = CATALOGUE.named(row).unwrap();
    let reading = BodyReading::read(row, Some(query), body.as_bytes());
    MoneyCall::new(row, &reading).demand().unwrap()
}

fn demand(row: &str, body: &str) -> Result<MoneyDemand, DemandFault> {
    read(row, "", body)
}

/// A demand as a line: `kind counted_as: amount currency, … -> target, … key`.
fn line(row: &str, body: &str) -> String {
    let demand = match demand(row, body) {
        Ok(demand) => demand,
        Err(fault) => return fault.to_string(),
    };
    let parts = demand.parts.iter().map(|part| match &part.currency {
        PartCurrency::Stated(currency) => format!("{} {currency}", part.amount),
        PartCurrency::OfOrder(key) => format!("{} of order {}", part.amount, key.text()),
    });
    let targets = demand.targets.iter().map(|it| it.target.to_string());
    let [parts, targets] = [parts.collect::<Vec<_>>(), targets.collect()].map(|it| it.join(", "));
    let key = demand.key.unwrap_or_else(|| "-".to_owned());
    format!(
        "{} {}: {parts} -> {targets} [{key}]",
        demand.kind, demand.counted_as
    )
}

#[test]
fn every_money_row_says_where_its_amounts_stand_and_no_other_row_does() {
    let money = CATALOGUE
        .rows()
        .iter()
        .filter(|row| row.kind == Kind::Money);
    let names = money.map(|row| &*row.name).filter(|it| *it != "mcp_call");
    let listed = MONEY_ROWS.iter().map(|row| row.operation);
    assert_eq!(names.collect::<Vec<_>>(), listed.collect::<Vec<_>>());
    for row in MONEY_ROWS {
        let operation = CATALOGUE.named(row.operation).unwrap();
        let documented = operation.key.fields().next();
        assert!(
            row.key.is_none_or(|key| Some(key.field) == documented),
            "{}",
            row.operation
        );
    }
    let order = CATALOGUE.named("create_order").unwrap();
    let reading = BodyReading::read(order, None, b"{}");
    assert_eq!(MoneyCall::new(order, &reading).demand(), None);
    assert_eq!(
        demand("mcp_call", r#"{"amount":"1","currency":"USDT"}"#),
        Err(DemandFault::UnknownOperation)
    );
}

#[test]
fn the_refund_that_gatepay_prints_is_read_to_the_last_digit() {
    let samples = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/gatepay/samples.json"
    ));
    let samples: Value = serde_json::from_str(samples).unwrap();
    let mut read = Vec::new();
    for sample in samples["samples"].as_array().unwrap() {
        let path = sample["merchant_path"].as_str().unwrap();
        let row = CATALOGUE
            .rows()
            .iter()
            .find(|row| row.merchant_path.as_deref() == Some(path) && row.kind == Kind::Money);
        if let Some(row) = row {
            read.push(line(&row.name, &sample["request"].to_string()));
        }
    }
    let refund =
        "refunds refund_order: 0.8 of order 1647438500687506 ->  [1647438500687506 156123911]";
    assert_eq!(read, [refund]);
}

#[test]
fn each_money_call_is_read_where_gatepay_reads_it() {
    for (row, body, expected) in [
        (
            "refund_checkout_order",
            r#"{"refundRequestId":"r1","prepayId":"p","receiverId":7,"refundOrderCurrency":"GT","refundPayCurrency":"USDT","refundOrderAmount":"2","refundPayAmount":"9.5"}"#,
            "payouts refund_checkout_order/payout: 2 GT, 9.5 USDT -> user 7 [p r1]",
        ),
        (
            "refund_order_v2",
            r#"{"refundRequestId":"r1","prepayId":"p","refundAmount":"3","refundStyle":1,"refundAddress":"","refundToGateUid":0}"#,
            "refunds refund_order_v2: 3 of order p ->  [p r1]",
        ),
        (
            "refund_address_order",
            r#"{"refundRequestId":"r1","prepayId":"p","refundAmount":"3","receiverId":"10"}"#,
            "payouts refund_address_order/payout: 3 of order p -> user 10 [p r1]",
        ),
        (
            "refund_converted_address_order",
            r#"{"refundRequestId":"r1","prepayId":"p","receiverId":7,"refundOrderCurrency":"GT","refundPayCurrency":"GT","refundOrderAmount":"2","refundPayAmount":"1.5"}"#,
            "payouts refund_converted_address_order/payout: 2 GT -> user 7 [p r1]",
        ),
        (
            "create_conversion",
            r#"{"clientReqId":"c1","sellAmount":"1.5","sellCurrency":"gt","buyAmount":"9.5","buyCurrency":"USDT"}"#,
            "conversions create_conversion: 1.5 GT ->  [c1]",
        ),
        (
            "create_payout",
            r#"{"batch_id":"b_1","withdraw_list":[
                {"amount":"0.1","currency":"GT","chain":"eth","address":"0x52908400098527886E0F7030069857D2E4169EE7","memo":""},
                {"amount":"0.2","currency":"gt","chain":"ETH","address":"0x52908400098527886e0f7030069857d2e4169ee7"},
                {"amount":5,"currency":"BTC","chain":"BTC","address":"bc1q","memo":"9"}]}"#,
            "payouts create_payout: 5 BTC, 0.3 GT -> address BTC bc1q 9, address ETH 0x52908400098527886e0f7030069857d2e4169ee7 [b_1]",
        ),
        (
            "create_batch_transfer",
            r#"{"merchant_batch_no":"m-1","currency":"USDT","batchorderList":[{"user_id":2,"amount":1},{"user_id":1,"amount":2.50,"currency":"USDT"}]}"#,
            "rewards create_batch_transfer: 3.5 USDT -> user 1, user 2 [-]",
        ),
        (
            "create_otc_order",
            r#"{"clientOrderId":"o1","type":"SELL","bankAccountId":"77","cryptoAmount":"10","cryptoCurrency":"USDT","fiatAmount":"9","fiatCurrency":"USD"}"#,
            "otc_orders create_otc_order: 10 USDT -> bank 77 [-]",
        ),
        (
            "create_otc_order",
            r#"{"clientOrderId":"o1","type":"BUY","bankAccountId":"77","cryptoAmount":"10","cryptoCurrency":"USDT","fiatAmount":"9","fiatCurrency":"USD"}"#,
            "otc_orders create_otc_order: 9 USD -> bank 77 [-]",
        ),
        (
            "create_gift_card",
            r#"{"amount":"0.5","currency":"USDT","count":3}"#,
            "gift_cards create_gift_card: 1.5 USDT ->  [-]",
        ),
        (
            "create_gift_card",
            r#"{"amount":"0.5","currency":"USDT","count":"0"}"#,
            "gift_cards create_gift_card: 0.5 USDT ->  [-]",
        ),
        (
            "deduct_subscription",
            r#"{"merchantDeductNo":"d","amount":5.00,"currency":"USDT"}"#,
            "deductions deduct_subscription: 5 USDT ->  [d]",
        ),
        (
            "create_transfer",
            r#"{"merchantBatchNo":"t","accountId":"2124","AMOUNT":"5","Currency":"USDT"}"#,
            "transfers create_transfer: 5 USDT -> account 2124 [t]",
        ),
        (
            "create_charge",
            r#"{"merchantBatchNo":"t","accountId":2124,"amount":"5","currency":"USDT"}"#,
            "charges create_charge: 5 USDT -> account 2124 [t]",
        ),
    ] {
        assert_eq!(line(row, body), expected, "{row}");
    }
}

#[test]
fn a_refund_that_names_a_target_is_a_payout() {
    let refund = |rest: &str| {
        let body = format!(
            r#"{{"refundRequestId":"r1","prepayId":"p","refundAmount":"3","refundAmountTypeFull":2,{rest}}}"#
        );
        ["refund_order_v2", "refund_order_v3"].map(|row| line(row, &body))
    };
    for (rest, expected) in [
        (
            r#""refundStyle":2,"refundPayChannel":2,"refundAddress":"TQn9","refundChain":"TRX","memo":"5""#,
            "address TRX TQn9 5",
        ),
        (
            r#""refundStyle":"2","refundPayChannel":1,"refundToGateUid":10002"#,
            "user 10002",
        ),
        // GatePay may go by the target that is stated.
        (
            r#""refundStyle":1,"refundAddress":"TQn9","refundChain":"TRX""#,
            "address TRX TQn9",
        ),
        (
            r#""refundAddress":"TQn9","refundChain":"TRX","refundToGateUid":"7""#,
            "address TRX TQn9, user 7",
        ),
    ] {
        let [second, third] = refund(rest);
        assert_eq!(
            second,
            format!("payouts refund_order_v2/payout: 3 of order p -> {expected} [p r1]")
        );
        assert_eq!(
            third,
            format!("payouts refund_order_v3/payout: 3 of order p -> {expected} [-]"),
            "no page documents the key of v3"
        );
    }
    for (rest, fault) in [
        (r#""refundStyle":2"#, "refundAddress is missing"),
        (
            r#""refundStyle":2,"refundToGateUid":0"#,
            "refundAddress is missing",
        ),
        (
            r#""refundStyle":3"#,
            "refundStyle is not of the documented form",
        ),
        (
            r#""refundStyle":2,"refundAddress":"TQn9""#,
            "refundChain is missing",
        ),
    ] {
        assert_eq!(refund(rest), [fault, fault], "{rest}");
    }
}

#[test]
fn another_spelling_of_a_field_that_moves_money_has_no_certain_reading() {
    let refund = r#""refundRequestId":"r1","prepayId":"p","refundAmount":"3""#;
    let item = r#""amount":"1","currency":"GT""#;
    for (row, body) in [
        (
            "refund_order_v2",
            format!(r#"{{{refund},"refund_style":2,"refund_address":"T"}}"#),
        ),
        (
            "refund_order_v2",
            format!(r#"{{{refund},"refundAddress[0]":"T"}}"#),
        ),
        (
            "refund_order_v2",
            format!(r#"{{{refund},"Refund-Address":"T"}}"#),
        ),
        (
            "create_payout",
            format!(r#"{{"withdrawList":[{{{item},"chain":"E","address":"a"}}]}}"#),
        ),
        (
            "create_payout",
            format!(r#"{{"withdraw_list":[{{{item},"chain":"E","address":"a","address_":"b"}}]}}"#),
        ),
        (
            "create_batch_transfer",
            format!(r#"{{"batchorderList":[{{{item},"user_id":"1","userId":"2"}}]}}"#),
        ),
    ] {
        assert_eq!(
            demand(row, &body).unwrap_err(),
            DemandFault::Ambiguous,
            "{body}"
        );
    }
    let other_case = format!(r#"{{{refund},"REFUNDSTYLE":1,"refundReason_":"a"}}"#);
    assert!(demand("refund_order_v2", &other_case).is_ok());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of calls")]
fn a_field_that_moves_money_in_another_call_has_no_certain_reading() {
    let refund = r#""refundRequestId":"r1","prepayId":"p","refundAmount":"3""#;
    let converted = r#""refundRequestId":"r1","receiverId":7,"refundOrderCurrency":"GT","refundOrderAmount":"2""#;
    let item = r#""amount":"1","currency":"GT""#;
    let address = r#""chain":"E","address":"a""#;
    let (payout, users) = ("create_payout", "create_batch_transfer");
    for (row, body, field, is_target) in [
        (
            "refund_order",
            format!(r#"{refund},"refundAddress":"T""#),
            "address",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"refundToGateUid":7"#),
            "gateuid",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"refundStyle":"2""#),
            "refundstyle",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"receiverId":7"#),
            "receiver",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"toAddress":"T""#),
            "address",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"payee":{{"id":1}}"#),
            "payee",
            true,
        ),
        (
            "refund_order",
            format!(r#"{refund},"refundPayAmount":"9""#),
            "refundPayAmount",
            false,
        ),
        (
            "refund_order",
            format!(r#"{refund},"AMOUNT":"9""#),
            "amount",
            false,
        ),
        (
            "refund_order_v2",
            format!(r#"{refund},"receiverId":7"#),
            "receiver",
            true,
        ),
        (
            "refund_address_order",
            format!(r#"{refund},"receiverId":7,"refundChain":"E""#),
            "chain",
            true,
        ),
        (
            "refund_checkout_order",
            format!(r#"{converted},"refundAmountTypeFull":1"#),
            "refundAmountTypeFull",
            false,
        ),
        (
            "create_conversion",
            r#""sellAmount":"1","sellCurrency":"GT","address":"a""#.to_owned(),
            "address",
            true,
        ),
        (
            "create_gift_card",
            format!(r#"{item},"recipientId":"1""#),
            "recipient",
            true,
        ),
        (
            "deduct_subscription",
            format!(r#"{item},"accountId":"1""#),
            "accountid",
            true,
        ),
        (
            "create_transfer",
            format!(r#"{item},"accountId":"1","toUserId":"2""#),
            "userid",
            true,
        ),
        (
            payout,
            format!(r#""withdraw_list":[{{{item},{address}}}],"amount":"5""#),
            "amount",
            false,
        ),
        (
            payout,
            format!(r#""withdraw_list":[{{{item},{address}}}],"batchorderList":[1]"#),
            "batchorderlist",
            true,
        ),
        (
            payout,
            format!(r#""withdraw_list":[{{{item},{address},"toAddress":"b"}}]"#),
            "address",
            true,
        ),
        (
            users,
            format!(r#""batchorderList":[{{{item},"user_id":"1","address":"a"}}]"#),
            "address",
            true,
        ),
    ] {
        let fault = DemandFault::Undocumented(field);
        let body = format!("{{{body}}}");
        assert_eq!(demand(row, &body).unwrap_err(), fault, "{row} {body}");
        let operation = CATALOGUE.named(row).unwrap();
        let reading = BodyReading::read(operation, None, body.as_bytes());
        let targets = MoneyCall::new(operation, &reading).stated_targets();
        assert_eq!(targets.err(), is_target.then_some(fault), "{row} {body}");
    }
    let in_query = read("refund_order", "refundAddress=T", &format!("{{{refund}}}"));
    assert_eq!(in_query.unwrap_err(), DemandFault::Undocumented("address"));
    let absent = r#""refundAddress":"","refundToGateUid":0,"refundChain":null,"receiverId":"0""#;
    assert!(demand("refund_order", &format!("{{{refund},{absent}}}")).is_ok());
}

#[test]
fn a_refund_may_be_a_payout_unless_it_is_known_to_go_back_to_its_payer() {
    let catalogue = Catalogue::standard();
    let may_be = |row: &str, body: &str| {
        let operation = catalogue.named(row).unwrap();
        let reading = BodyReading::read(operation, None, body.as_bytes());
        MoneyCall::new(operation, &reading).may_be_disguised_payout()
    };
    for (body, expected) in [
        // It moves the whole order, so that its demand cannot be read; its target can.
        (r#"{"prepayId":"p","refundAmountTypeFull":1}"#, false),
        (
            r#"{"prepayId":"p","refundStyle":1,"refundToGateUid":0}"#,
            false,
        ),
        (r#"{"refundAddress":"TQn9","refundChain":"TRX"}"#, true),
        (r#"{"refundAddress":"TQn9"}"#, true),
        (r#"{"refundAmountTypeFull":1,"refundToGateUid":7}"#, true),
        (r#"{"refundStyle":2}"#, true),
        (r#"{"refundStyle":3}"#, true),
        (r#"{"prepayId":"p","prepayId":"p"}"#, true),
        ("", true),
    ] {
        for row in ["refund_order_v2", "refund_order_v3"] {
            assert_eq!(may_be(row, body), expected, "{row} {body}");
        }
        // It has no target to name, so that any field of that kind is not what it seems.
        let states_target = ["refundStyle", "refundAddress", "refundToGateUid\":7"];
        let states_target = states_target.iter().any(|field| body.contains(field));
        assert_eq!(may_be("refund_order", body), states_target, "{body}");
        // It goes to a receiver in each case, and here to one that is not read.
        assert!(may_be("refund_address_order", body), "{body}");
        assert!(!may_be("create_order", body) && !may_be("create_payout", body));
    }
    let to_receiver = r#"{"prepayId":"p","receiverId":7}"#;
    assert!(may_be("refund_address_order", to_receiver));
    assert!(may_be("refund_order", to_receiver));
}

#[test]
fn each_refund_that_can_name_a_target_is_a_payout_where_it_names_one() {
    let refunds = MONEY_ROWS
        .iter()
        .filter(|row| row.kind == DemandKind::Refund);
    let mut named = 0;
    for row in refunds {
        let can_name = row.targets != TargetPlace::None;
        assert_eq!(row.payout_name.is_some(), can_name, "{}", row.operation);
        named += usize::from(can_name);
    }
    assert_eq!(named, 5);
}

#[test]
fn a_word_selects_the_calls_that_caps_count_under_it() {
    let payouts = MoneyRow::selected_by("payouts");
    assert_eq!(
        payouts,
        [
            "refund_checkout_order/payout",
            "refund_order_v2/payout",
            "refund_order_v3/payout",
            "refund_address_order/payout",
            "refund_converted_address_order/payout",
            "create_payout"
        ]
    );
    let refunds = MoneyRow::selected_by("refunds");
    assert!(refunds.contains(&"refund_order") && refunds.contains(&"refund_order_v2/payout"));
    assert_eq!(
        MoneyRow::selected_by("refund_order_v2"),
        ["refund_order_v2", "refund_order_v2/payout"]
    );
    assert_eq!(MoneyRow::selected_by("query_order"), [""; 0]);
    let all: BTreeSet<_> = DemandKind::ALL
        .iter()
        .flat_map(|kind| MoneyRow::selected_by(kind.as_str()))
        .collect();
    let names: BTreeSet<_> = MONEY_ROWS
        .iter()
        .flat_map(MoneyRow::counted_names)
        .collect();
    assert_eq!(all, names, "every call is of a kind");
}

#[test]
fn an_amount_that_gatepay_may_read_otherwise_is_refused() {
    let transfer = |amount: &str| {
        line(
            "create_transfer",
            &format!(r#"{{"accountId":"1","currency":"USDT","amount":{amount}}}"#),
        )
    };
    for (amount, expected) in [
        (r#""0.000000000000000001""#, "0.000000000000000001 USDT"),
        (r#""99999999999999999999""#, "99999999999999999999 USDT"),
        ("0.1", "0.1 USDT"),
        (r#""\u0031""#, "1 USDT"),
    ] {
        let whole = format!("transfers create_transfer: {expected} -> account 1 [-]");
        assert_eq!(transfer(amount), whole, "{amount}");
    }
    for (amount, fault) in [
        (
            r#""0.0000000000000000001""#,
            "amount has more than 18 decimals",
        ),
        (r#""100000000000000000000""#, "amount is 10^20 or more"),
        (r#""1e3""#, "amount has an exponent; write all digits"),
        ("1e3", "amount has an exponent; write all digits"),
        (
            "1E400",
            "body is not one JSON object that is read in one way",
        ),
        (r#""-1""#, "amount is negative"),
        ("-1", "amount is negative"),
        (r#"" 1""#, "amount is not a plain decimal amount"),
        (r#""1,5""#, "amount is not a plain decimal amount"),
        (
            "0.3333333333333333",
            "amount is a number of more than 15 digits, which parsers round; send it as text",
        ),
        ("[1]", "amount is not of the documented form"),
        (r#"{"a":1}"#, "amount is not of the documented form"),
        ("true", "amount is not of the documented form"),
        ("null", "amount is missing"),
        (r#""""#, "amount is missing"),
        ("0", "amount is missing"),
        (r#""0.00""#, "amount is missing"),
        (
            r#""1","amount":"2""#,
            "body is not one JSON object that is read in one way",
        ),
        (
            r#""1","Amount":"1""#,
            "body is not one JSON object that is read in one way",
        ),
        (
            r#""1","\u0061mount":"1""#,
            "body is not one JSON object that is read in one way",
        ),
        (
            r#""1","аmount":"2""#,
            "body is not one JSON object that is read in one way",
        ),
    ] {
        assert_eq!(transfer(amount), fault, "{amount}");
    }
}

#[test]
fn a_list_is_counted_whole_or_not_at_all() {
    let item = r#"{"amount":"1","currency":"GT","chain":"ETH","address":"a"}"#;
    let payout = |list: &str| demand("create_payout", &format!(r#"{{"withdraw_list":{list}}}"#));
    let list = "withdraw_list";
    for (text, fault) in [
        ("[]", DemandFault::Missing(list)),
        ("null", DemandFault::Misshapen(list)),
        (item, DemandFault::Misshapen(list)),
        (r#""[{}]""#, DemandFault::Misshapen(list)),
        ("[1]", DemandFault::Misshapen(list)),
        (&format!("[{item},[{item}]]"), DemandFault::Misshapen(list)),
        (&format!("[{item},{{}}]"), DemandFault::Missing("currency")),
        (
            r#"[{"amount":"1","amount":"2","currency":"GT","chain":"E","address":"a"}]"#,
            DemandFault::Ambiguous,
        ),
        (
            r#"[{"amount":"1","currency":"U SDT","chain":"E","address":"a"}]"#,
            DemandFault::Currency("currency"),
        ),
        (
            &format!(
                "[{}]",
                vec![item.replace('1', "99999999999999999999"); 2].join(",")
            ),
            DemandFault::TooMuch,
        ),
        (
            &format!("[{}]", vec![item; MOST_ITEMS + 1].join(",")),
            DemandFault::TooMany(list),
        ),
        (
            &format!(
                "[{}]",
                (0..=MOST_PARTS)
                    .map(|number| item.replace("GT", &format!("C{number}")))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            DemandFault::TooMany("currency"),
        ),
    ] {
        assert_eq!(payout(text), Err(fault), "{text:.80}");
    }
    let most = payout(&format!("[{}]", vec![item; MOST_ITEMS].join(","))).unwrap();
    assert_eq!(most.parts[0].amount, ExactAmount::parse("2000").unwrap());
    let mixed =
        r#"{"currency":"GT","batchorderList":[{"user_id":1,"amount":"1","currency":"USDT"}]}"#;
    assert_eq!(
        demand("create_batch_transfer", mixed),
        Err(DemandFault::Misshapen("currency"))
    );
}

#[test]
fn a_demand_that_the_body_does_not_contain_is_refused() {
    for (row, body, fault) in [
        (
            "refund_order",
            r#"{"prepayId":"p"}"#,
            DemandFault::Missing("refundAmount"),
        ),
        (
            "refund_order",
            r#"{"refundAmount":"1"}"#,
            DemandFault::Missing("prepayId"),
        ),
        (
            "refund_order_v2",
            r#"{"prepayId":"p","refundAmount":"1","refundAmountTypeFull":1}"#,
            DemandFault::WholeOrder,
        ),
        (
            "refund_converted_address_order",
            r#"{"refundOrderCurrency":"GT","refundPayCurrency":"USDT","receiverId":1}"#,
            DemandFault::Missing("refundOrderAmount"),
        ),
        (
            "create_otc_order",
            r#"{"cryptoAmount":"10","cryptoCurrency":"USDT"}"#,
            DemandFault::Misshapen("type"),
        ),
        (
            "create_gift_card",
            r#"{"amount":"1","currency":"GT","count":1.5}"#,
            DemandFault::Misshapen("count"),
        ),
        ("create_gift_card", "", DemandFault::Ambiguous),
        ("create_gift_card", r#"["amount"]"#, DemandFault::Ambiguous),
        ("create_gift_card", "{", DemandFault::Ambiguous),
    ] {
        assert_eq!(demand(row, body), Err(fault), "{row} {body}");
    }
}

#[test]
fn a_query_that_repeats_a_field_agrees_with_the_body_or_the_call_is_refused() {
    let body = r#"{"amount":"1","currency":"GT"}"#;
    let card = |query: &str| read("create_gift_card", query, body);
    assert!(card("amount=1").is_ok());
    for query in ["amount=2", "AMOUNT=2", "amount=1;x"] {
        assert_eq!(
            card(query),
            Err(DemandFault::Misshapen("amount")),
            "{query}"
        );
    }
}

#[test]
fn a_key_counts_only_in_its_documented_spelling() {
    let key = |members: &str, query: &str| {
        let body = format!(r#"{{"prepayId":"p","refundAmount":"1",{members}}}"#);
        read("refund_order", query, &body).unwrap().key
    };
    let whole = r#""refundRequestId":"a-B_9""#;
    assert_eq!(key(whole, "").as_deref(), Some("p a-B_9"));
    for members in [
        r#""refundrequestid":"a""#,
        r#""refundRequestId":7"#,
        r#""refundRequestId":"a ""#,
        r#""refundRequestId":"a.b""#,
        r#""refundRequestId":"""#,
        r#""refundRequestId":null"#,
        &format!(r#""refundRequestId":"{}""#, "a".repeat(101)),
    ] {
        assert_eq!(key(members, ""), None, "{members}");
    }
    assert_eq!(key(whole, "refundRequestId=a-B_9"), None);
}

/// Amounts of a payout: currency and units of the 18th place.
fn items() -> impl Strategy<Value = Vec<(u8, u128)>> {
    prop::collection::vec((0_u8..4, 1..10_u128.pow(36)), 1..20)
}

fn payout_of(items: &[(u8, u128)]) -> String {
    let items = items.iter().map(|(currency, units)| {
        let one = 10_u128.pow(18);
        let places = format!("{:0PLACES$}", units % one);
        let amount = format!("{}.{places}", units / one);
        format!(r#"{{"amount":"{amount}","currency":"C{currency}","chain":"E","address":"a"}}"#)
    });
    format!(
        r#"{{"withdraw_list":[{}]}}"#,
        items.collect::<Vec<_>>().join(",")
    )
}

proptest! {
    #[test]
    fn a_payout_demands_the_exact_sum_of_each_currency(items in items()) {
        let demand = demand("create_payout", &payout_of(&items)).unwrap();
        let mut sums = BTreeMap::new();
        for (currency, units) in &items {
            *sums.entry(format!("C{currency}")).or_insert(0) += units;
        }
        let read: BTreeMap<_, _> = demand
            .parts
            .iter()
            .map(|part| match &part.currency {
                PartCurrency::Stated(currency) => (currency.to_string(), part.amount.units()),
                PartCurrency::OfOrder(_) => unreachable!("a payout states its currencies"),
            })
            .collect();
        prop_assert_eq!(read, sums);
    }

    #[test]
    fn the_order_of_a_list_changes_nothing(items in items(), by in 0_usize..20) {
        let mut turned = items.clone();
        turned.rotate_left(by % items.len());
        prop_assert_eq!(
            demand("create_payout", &payout_of(&items)),
            demand("create_payout", &payout_of(&turned))
        );
    }

    #[test]
    fn no_body_makes_a_demand_of_nothing(
        row in prop::sample::select(MONEY_ROWS),
        query in "(amount=[0-9.]{1,3})?",
        members in prop::collection::vec((
            prop::sample::select(vec![
                "amount", "refundAmount", "currency", "count", "prepayId", "refundOrderAmount",
                "refundOrderCurrency", "type", "withdraw_list", "batchorderList", "receiverId", "accountId",
            ]),
            prop::sample::select(vec![
                "0", "1", "\"1\"", "\"0\"", "-1", "\"GT\"", "null", "\"SELL\"", "[]", "[{}]", "{}", "1e2",
                r#"[{"amount":"1","currency":"GT","chain":"E","address":"a","user_id":1}]"#, "\"\\ud800\"",
            ]),
        ), 0..8),
    ) {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let body = format!("{{{}}}", members.join(","));
        if let Ok(demand) = read(row.operation, &query, &body) {
            prop_assert!(!demand.parts.is_empty());
            prop_assert!(demand.parts.iter().all(|part| part.amount > ExactAmount::ZERO));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
        for row in MONEY_ROWS {
            let operation = CATALOGUE.named(row.operation).unwrap();
            let reading = BodyReading::read(operation, None, &body);
            prop_assert!(MoneyCall::new(operation, &reading).demand().unwrap().is_err());
        }
    }
}

#[test]
fn a_number_in_a_notification_leads_to_the_names_of_the_calls_that_it_is_the_key_of() {
    assert_eq!(
        MoneyRow::keyed_by(LedgerKeyKind::PayoutNumber),
        ["create_payout"]
    );
    let number = MoneyRow::keyed_by(LedgerKeyKind::RefundNumber);
    assert_eq!(number, [""; 0], "the number alone names no refund");
    let refunds = MoneyRow::keyed_by(LedgerKeyKind::OrderRefund);
    assert!(refunds.contains(&"refund_order") && refunds.contains(&"refund_order_v2/payout"));
    assert!(!refunds.contains(&"create_payout"));
    assert_eq!(MoneyRow::keyed_by(LedgerKeyKind::PrepayId), [""; 0]);
    let row = MoneyRow::counted_as("refund_order_v2/payout").unwrap();
    assert_eq!(row.operation, "refund_order_v2");
}

#[test]
fn a_target_is_told_with_the_first_entry_that_names_it_though_an_amount_cannot_be_read() {
    let stated = |row: &str, body: &str| {
        let row = CATALOGUE.named(row).unwrap();
        let reading = BodyReading::read(row, None, body.as_bytes());
        let mut targets = MoneyCall::new(row, &reading).stated_targets()?;
        targets.sort_by_key(|it| it.entry);
        let targets = targets
            .iter()
            .map(|it| format!("{}: {}", it.entry, it.target));
        Ok::<_, DemandFault>(targets.collect::<Vec<_>>().join(", "))
    };
    let item = |address: &str| {
        format!(r#"{{"amount":"1e3","currency":"USDT","chain":"TRX","address":"{address}"}}"#)
    };
    let body = format!(
        r#"{{"withdraw_list":[{},{},{}]}}"#,
        item("b"),
        item("a"),
        item("b")
    );
    assert_eq!(
        stated("create_payout", &body).unwrap(),
        "withdraw_list[0]: address TRX b, withdraw_list[1]: address TRX a"
    );
    let refund =
        r#"{"refundAmountTypeFull":1,"refundAddress":"a","refundChain":"TRX","refundToGateUid":7}"#;
    assert_eq!(
        stated("refund_order_v2", refund).unwrap(),
        "refundAddress: address TRX a, refundToGateUid: user 7"
    );
    assert_eq!(
        stated("create_otc_order", r#"{"bankAccountId":"9"}"#).unwrap(),
        "bankAccountId: bank 9"
    );
    assert_eq!(stated("create_gift_card", "{}").unwrap(), "");
    assert_eq!(stated("query_order", "{}").unwrap(), "");
    let body = r#"{"withdraw_list":[{"chain":"TRX"}]}"#;
    assert_eq!(
        stated("create_payout", body).unwrap_err(),
        DemandFault::Missing("address")
    );
    assert_eq!(
        stated("mcp_call", "{}").unwrap_err(),
        DemandFault::UnknownOperation
    );
    assert_eq!(
        stated("create_payout", "[]").unwrap_err(),
        DemandFault::Ambiguous
    );
}

#[test]
fn one_number_for_refunds_of_several_orders_is_several_refunds() {
    let key = |number: &str, order: &str| {
        let body = json!({ "refundRequestId": number, "prepayId": order, "refundAmount": "100" });
        demand("refund_order", &body.to_string()).unwrap().key
    };
    assert_eq!(key("R", "P1").as_deref(), Some("P1 R"));
    assert_eq!(key("R", "P2").as_deref(), Some("P2 R"));
    let parts = MoneyRow::counted_as("refund_order").unwrap().key.unwrap();
    let values = parts.values("P2 R").unwrap();
    assert_eq!(values, [("prepayId", "P2"), ("refundRequestId", "R")]);
    assert_eq!(parts.values("R"), None);
    for (number, order) in [("R", "P 1"), ("R", " P1"), ("R P1", "P1"), ("R", "P\u{e9}")] {
        assert_eq!(key(number, order), None, "{number:?} of {order:?}");
    }
}

#[test]
fn a_key_is_as_long_as_its_page_allows() {
    let key = |row: &str, field: &str, length: usize| {
        let operation = CATALOGUE.named(row).unwrap();
        let body = json!({ field: "k".repeat(length), "prepayId": "P" }).to_string();
        let reading = BodyReading::read(operation, None, body.as_bytes());
        MoneyCall::new(operation, &reading)
            .documented_key()
            .is_some()
    };
    for (row, field) in [
        ("create_payout", "batch_id"),
        ("refund_order", "refundRequestId"),
    ] {
        assert!(key(row, field, 32) && !key(row, field, 33), "{row}");
    }
    assert!(
        key("create_conversion", "clientReqId", 100),
        "no page bounds it"
    );
    assert!(!key("create_conversion", "clientReqId", 101));
}

#[test]
fn a_refund_of_the_whole_order_has_its_key_though_no_amount() {
    let catalogue = Catalogue::standard();
    let key = |operation: &str, body: &str| {
        let operation = catalogue.named(operation).unwrap();
        let reading = BodyReading::read(operation, None, body.as_bytes());
        MoneyCall::new(operation, &reading).documented_key()
    };
    let whole = r#"{"refundRequestId":"R-1","prepayId":"P","refundAmountTypeFull":1}"#;
    assert_eq!(key("refund_order", whole).as_deref(), Some("P R-1"));
    assert_eq!(key("refund_order_v3", whole), None, "no page documents it");
    let number = r#"{"refundRequestId":17,"prepayId":"P","refundAmountTypeFull":1}"#;
    assert_eq!(key("refund_order", number), None);
    let twice = r#"{"refundRequestId":"R-1","refundRequestId":"R-2","prepayId":"P"}"#;
    assert_eq!(key("refund_order", twice), None);
    assert_eq!(key("create_order", r#"{"merchantTradeNo":"N"}"#), None);
}

#[test]
fn with_a_list_of_destinations_no_field_is_sent_that_no_page_describes_for_the_call() {
    let bounded = |row: &str, query: &str, body: &str| {
        let operation = CATALOGUE.named(row).unwrap();
        let reading = BodyReading::read(operation, Some(query), body.as_bytes());
        MoneyCall::new(operation, &reading)
            .bounded_targets()
            .map(|targets| targets.len())
    };
    let item = r#""merchant_withdraw_id":"w","currency":"USDT","amount":"1","chain":"E","address":"a","memo":"7","fee_type":1"#;
    let payout = |item: &str, top: &str| {
        format!(r#"{{"batch_id":"b","withdraw_list":[{{{item}}}],"channel_id":"c"{top}}}"#)
    };
    assert_eq!(bounded("create_payout", "", &payout(item, "")), Ok(1));
    let names = "to target payment_id tag dest_tag email phone account_no toAddr ens invoice uid dest alias xpub";
    for name in names.split(' ') {
        let fault = DemandFault::Unknown(FieldName::of(name.as_bytes()));
        for value in [
            r#""TEvil""#,
            "7",
            "true",
            r#"{"a":"TEvil"}"#,
            r#"["TEvil"]"#,
        ] {
            let field = format!(r#","{name}":{value}"#);
            let in_item = payout(&format!("{item}{field}"), "");
            assert_eq!(
                bounded("create_payout", "", &in_item),
                Err(fault),
                "{in_item}"
            );
            let at_top = payout(item, &field);
            assert_eq!(
                bounded("create_payout", "", &at_top),
                Err(fault),
                "{at_top}"
            );
            for (row, body) in [
                ("refund_order", r#""prepayId":"p","refundAmount":"1""#),
                ("refund_order_v2", r#""prepayId":"p","refundToGateUid":7"#),
                ("refund_address_order", r#""prepayId":"p","receiverId":7"#),
                ("create_otc_order", r#""bankAccountId":"1""#),
                ("create_gift_card", r#""title":"t""#),
            ] {
                let body = format!("{{{body}{field}}}");
                assert_eq!(bounded(row, "", &body), Err(fault), "{row} {body}");
            }
        }
        let query = format!("{name}=TEvil");
        assert_eq!(
            bounded("create_payout", &query, &payout(item, "")),
            Err(fault)
        );
        // Without a list nothing changes.
        let in_item = payout(&format!(r#"{item},"{name}":"TEvil""#), "");
        assert!(demand("create_payout", &in_item).is_ok(), "{in_item}");
    }
    // A documented field that holds fields names no target that anything compares.
    let nested = payout(&item.replace(r#""w""#, r#"{"to":"TEvil"}"#), "");
    assert_eq!(
        bounded("create_payout", "", &nested),
        Err(DemandFault::Misshapen("merchant_withdraw_id"))
    );
    for name in ["channel_id[to]", "batch_id[0]"] {
        let fault = DemandFault::Unknown(FieldName::of(name.as_bytes()));
        let body = payout(item, &format!(r#","{name}":"TEvil""#));
        assert_eq!(bounded("create_payout", "", &body), Err(fault), "{body}");
    }
    let told = DemandFault::Unknown(FieldName::of("t\u{0}o\u{202e}".as_bytes())).to_string();
    assert!(told.contains(r"t\x00o\xe2\x80\xae"), "{told}");
}

#[test]
fn with_a_list_of_destinations_the_bodies_of_published_clients_are_read() {
    let bounded = |row: &str, body: &str| {
        let operation = CATALOGUE.named(row).unwrap();
        let reading = BodyReading::read(operation, None, body.as_bytes());
        MoneyCall::new(operation, &reading)
            .bounded_targets()
            .map(|targets| targets.len())
    };
    let base = r#""api":"PAYMENT","headers":{},"version":null"#;
    let refund = r#""refundRequestId":"r","prepayId":"p","refundAmount":"1","refundReason":null"#;
    for (row, body, targets) in [
        ("refund_order", refund.to_owned(), 0),
        (
            "refund_order_v2",
            format!(
                r#"{refund},"refundStyle":1,"refundPayChannel":null,"refundToGateUid":null,"refundAddress":null,"refundChain":null,"refundBearType":1,"memo":null"#
            ),
            0,
        ),
        (
            "refund_order_v3",
            format!(
                r#"{refund},"merchantId":null,"clientId":null,"emailCode":null,"fundPass":null,"mId":null,"needNotify":false,"refundLimit":false,"refundGateId":null,"refundSource":0"#
            ),
            0,
        ),
        (
            "create_batch_transfer",
            r#""batchId":null,"merchant_batch_no":"m","bizscene":"REWARDS","merchant_id":"","clientId":"","currency":"GT","name":"n","description":"d","batchorderList":[{"user_id":7,"amount":"1"}]"#.to_owned(),
            1,
        ),
        (
            "create_payout",
            r#""batch_id":"b","withdraw_list":[{"merchant_withdraw_id":"w","currency":"GT","amount":"1","chain":"E","address":"a","memo":null,"fee_type":0}],"channel_id":"""#.to_owned(),
            1,
        ),
        (
            "create_conversion",
            r#""clientReqId":"c","quoteId":"q","sellCurrency":"GT","sellAmount":"1","buyCurrency":"USDT","buyAmount":"2","price":"2""#.to_owned(),
            0,
        ),
    ] {
        let body = format!("{{{base},{body}}}");
        assert_eq!(bounded(row, &body), Ok(targets), "{row} {body}");
        let header = r#""Header":{"X-GatePay-Certificate-ClientId":"c"},"Version":"""#;
        let body = body.replacen(base, header, 1);
        assert_eq!(bounded(row, &body), Ok(targets), "{row} {body}");
        let fault = DemandFault::Unknown(FieldName::of(b"Header"));
        for (header, is_taken) in [
            ("x-gatepay-timestamp", true),
            ("X-GatePay-Nonce", true),
            ("X-GatePay-Signature", true),
            ("X-GatePay-Certificate-SN", true),
            ("to", false),
            ("X-GatePay-To", false),
            ("X-GatePay-Address", false),
            ("X-GatePay-Nonce[to]", false),
            ("X-GatePay_Nonce", false),
            // They name an account, and a request has them outside its body only.
            ("X-GatePay-On-Behalf-Of", false),
            ("X-GatePay-MerchantId", false),
        ] {
            let body = body.replacen("X-GatePay-Certificate-ClientId", header, 1);
            let expected = if is_taken { Ok(targets) } else { Err(fault) };
            assert_eq!(bounded(row, &body), expected, "{row} {body}");
        }
        for name in ["Header[0]", "head_er"] {
            let body = body.replacen("Header", name, 1);
            let fault = DemandFault::Unknown(FieldName::of(name.as_bytes()));
            assert_eq!(bounded(row, &body), Err(fault), "{row} {body}");
        }
    }
}

#[test]
fn every_field_of_an_amount_a_target_or_a_key_is_a_known_field_of_its_call() {
    for row in MONEY_ROWS {
        let known = |field: &str| row.fields.iter().any(|it| it.eq_ignore_ascii_case(field));
        let mut fields: Vec<&str> = row.key.into_iter().flat_map(SpendKey::fields).collect();
        match row.amounts {
            AmountPlace::Stated { amount, currency } => fields.extend([amount, currency]),
            AmountPlace::OfOrder => fields.extend(["refundAmount", "prepayId"]),
            AmountPlace::Converted => fields.extend(["refundOrderAmount", "refundPayAmount"]),
            AmountPlace::Items { list, .. } => {
                fields.push(list);
                assert!(row.item_fields.contains(&"amount"), "{}", row.operation);
            }
            AmountPlace::Cards => fields.extend(["amount", "currency", "count"]),
            AmountPlace::Exchanged => fields.extend(["type", "cryptoAmount", "fiatAmount"]),
        }
        match row.targets {
            TargetPlace::None => {}
            TargetPlace::Refund => fields.extend(["refundStyle", "refundAddress", "memo"]),
            TargetPlace::User(own) | TargetPlace::Bank(own) | TargetPlace::Account(own) => {
                fields.push(own);
            }
            TargetPlace::Users => assert!(row.item_fields.contains(&"user_id")),
            TargetPlace::Addresses => assert!(row.item_fields.contains(&"memo")),
        }
        for field in fields {
            assert!(known(field), "{} {field}", row.operation);
        }
    }
}

#[test]
fn a_target_that_has_no_certain_reading_is_refused_by_the_name_of_its_field() {
    let fault = |part: &str, value: &str| {
        let item = r#"{"amount":"1","currency":"GT","chain":"E","address":"a","memo":"7"}"#;
        let mut item: Value = serde_json::from_str(item).unwrap();
        item[part] = value.into();
        demand("create_payout", &format!(r#"{{"withdraw_list":[{item}]}}"#)).unwrap_err()
    };
    for (field, value) in [("chain", "E T"), ("address", "a b"), ("memo", " 7")] {
        let fault = fault(field, value);
        assert_eq!(fault, DemandFault::Misshapen(field));
        assert!(!fault.is_of_amount());
    }
    let refund = r#"{"prepayId":"p","refundAmount":"1","refundAddress":"a","refundChain":"E T"}"#;
    assert_eq!(
        demand("refund_order_v2", refund).unwrap_err(),
        DemandFault::Misshapen("refundChain")
    );
    assert!(fault("amount", "1e3").is_of_amount());
}

#[test]
fn each_name_of_a_body_is_folded_once_for_all_questions_about_its_money() {
    const NAMES: usize = 2_000;
    let names = |prefix: &str| {
        let names = (0..NAMES).map(|number| format!(r#""{prefix}{number}":1"#));
        names.collect::<Vec<_>>().join(",")
    };
    for row in MONEY_ROWS {
        let operation = CATALOGUE.named(row.operation).unwrap();
        // The names of the second kind are of as many letters as the names of fields, and the third differ from these late.
        for prefix in ["n", "refund_Am-", "refundaddres"] {
            let top = format!("{{{}}}", names(prefix));
            let mut bodies = vec![top];
            if let AmountPlace::Items { list, .. } = row.amounts {
                let items = names(prefix).replace(',', "},{");
                bodies.push(format!(r#"{{"{list}":[{{{items}}}]}}"#));
            }
            for body in bodies {
                let reading = BodyReading::read(operation, None, body.as_bytes());
                FOLDED.set(0);
                let call = MoneyCall::new(operation, &reading);
                let _answers = (call.demand(), call.bounded_targets());
                let _answers = (call.documented_key(), call.may_be_disguised_payout());
                // Some more for the first name that no list of fields has.
                let folded = FOLDED.get();
                assert!(
                    folded <= NAMES + 100,
                    "{folded}: {} {prefix}",
                    row.operation
                );
            }
        }
    }
}
