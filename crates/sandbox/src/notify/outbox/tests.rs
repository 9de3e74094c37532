use super::*;
use gatepay_core::delivery_schedule::{GATEPAY_CURRENT, GATEPAY_OLD_PAYMENT, GATEPAY_OLDER};
use gatepay_core::notification::{ACKNOWLEDGMENT, NO_ACKNOWLEDGMENT, Notification};
use gatepay_core::{ClientId, SecretKey, Signature, verify};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_767_225_600_000;
const URL: &str = "http://127.0.0.1:1/gatepay";

fn credential(secret: &str) -> Credential {
    let secret = SecretKey::new(secret.to_owned().into()).unwrap();
    Credential::new(ClientId::parse("institution").unwrap(), &secret)
}

fn outbox_with(schedule: DelaySteps, repetition_stamp: RepetitionStamp) -> Outbox {
    let one = NonZeroU32::MIN;
    let url = URL.to_owned();
    Outbox::new(
        credential("secret"),
        url,
        schedule,
        one,
        repetition_stamp,
        1000,
    )
}

fn outbox() -> Outbox {
    outbox_with(GATEPAY_CURRENT, RepetitionStamp::Fresh)
}

fn refund(id: &str) -> BusinessNews {
    let data = json!({"refundInfo": {"refundRequestId": id, "prepayId": "506"}});
    BusinessNews::enveloped(
        "PAY_REFUND",
        "506",
        &["REFUND_PROCESS", "REFUND_SUCCESS"],
        data,
    )
    .about(format!("refund {id}"))
}

fn payment(id: &str) -> BusinessNews {
    BusinessNews::enveloped(
        "PAY",
        id,
        &["PAY_SUCCESS"],
        json!({"merchantTradeNo": "17"}),
    )
}

fn payout() -> BusinessNews {
    let main_order = json!({"batch_id": "b_1", "merchant_id": 7, "status": ""});
    let order = |number| json!({"merchant_withdraw_id": number, "status": "DONE"});
    BusinessNews::payout("9", main_order, vec![order("w1"), order("w2")])
}

fn answer(status: u16, body: &'static str) -> CallbackAnswer {
    let body = Bytes::from_static(body.as_bytes());
    CallbackAnswer { status, body }
}

fn acknowledge(outbox: &mut Outbox, attempt: NotificationAttempt, now: u64) {
    outbox.finish(attempt, Ok(answer(200, ACKNOWLEDGMENT)), now);
}

/// Makes and acknowledges every attempt that is due, and gives the notifications as read, in order.
fn deliver(outbox: &mut Outbox, now: u64) -> Vec<Notification> {
    let mut read = Vec::new();
    loop {
        let due = outbox.take_due(now);
        if due.is_empty() {
            return read;
        }
        for attempt in due {
            read.push(Notification::read(&attempt.body));
            acknowledge(outbox, attempt, now);
        }
    }
}

/// Statuses in the order of delivery.
fn statuses(outbox: &mut Outbox, now: u64) -> Vec<String> {
    deliver(outbox, now)
        .into_iter()
        .map(|read| read.status)
        .collect()
}

#[test]
fn an_unacknowledged_notification_is_repeated_by_each_of_the_schedules() {
    for schedule in [GATEPAY_CURRENT, GATEPAY_OLDER, GATEPAY_OLD_PAYMENT] {
        let mut outbox = outbox_with(schedule, RepetitionStamp::Fresh);
        outbox.announce(&payment("1"), NOW);
        let mut now = NOW;
        for attempt in 1..=schedule.repetitions() + 1 {
            assert!(outbox.take_due(now.saturating_sub(1)).is_empty());
            let made = outbox.take_due(now).pop().expect("an attempt is due");
            assert!(outbox.take_due(u64::MAX).is_empty(), "it is under way");
            outbox.finish(made, Err("refused".to_owned()), now);
            assert_eq!(outbox.log.all().count(), attempt as usize);
            now += schedule.delay(attempt).map_or(0, millis);
        }
        assert_eq!((outbox.waiting(), outbox.next_due_ms()), (0, None));
        let bodies: Vec<_> = outbox.log.all().map(|sent| &sent.body).collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]));
        assert_eq!(outbox.log.all().last().unwrap().next_ms, None);
    }
}

#[test]
fn speed_divides_the_delays() {
    let mut outbox = outbox();
    outbox.speed = NonZeroU32::new(1000).unwrap();
    outbox.announce(&payment("1"), NOW);
    let attempt = outbox.take_due(NOW).pop().unwrap();
    outbox.finish(attempt, Err("refused".to_owned()), NOW);
    assert_eq!(outbox.next_due_ms(), Some(NOW + 15));
}

#[test]
fn only_status_200_with_the_return_code_acknowledges() {
    for (result, acknowledged) in [
        (Ok(answer(200, ACKNOWLEDGMENT)), true),
        (
            Ok(answer(
                200,
                r#"{"returnMessage":null,"returnCode":"SUCCESS"}"#,
            )),
            true,
        ),
        (Ok(answer(200, NO_ACKNOWLEDGMENT)), false),
        (Ok(answer(200, r#"{"returnCode":"success"}"#)), false),
        (Ok(answer(200, "")), false),
        (Ok(answer(200, "SUCCESS")), false),
        (Ok(answer(201, ACKNOWLEDGMENT)), false),
        (Ok(answer(204, "")), false),
        (Ok(answer(302, ACKNOWLEDGMENT)), false),
        (Ok(answer(500, ACKNOWLEDGMENT)), false),
        (Err("no answer in time".to_owned()), false),
    ] {
        let mut outbox = outbox();
        outbox.announce(&payment("1"), NOW);
        let attempt = outbox.take_due(NOW).pop().unwrap();
        outbox.finish(attempt, result.clone(), NOW);
        assert_eq!(outbox.waiting(), usize::from(!acknowledged), "{result:?}");
        let sent = outbox.log.all().next().unwrap();
        assert_eq!(sent.acknowledged, acknowledged, "{result:?}");
        let next = (!acknowledged).then_some(NOW + 15_000);
        assert_eq!(sent.next_ms, next, "{result:?}");
    }
}

#[test]
fn a_repetition_has_a_fresh_stamp_or_the_first_one() {
    for (setting, is_same) in [
        (RepetitionStamp::Fresh, false),
        (RepetitionStamp::Same, true),
    ] {
        let mut outbox = outbox_with(GATEPAY_CURRENT, setting);
        outbox.announce(&payment("1"), NOW);
        let first = outbox.take_due(NOW).pop().unwrap();
        outbox.finish(first.clone(), Err(String::new()), NOW);
        let second = outbox.take_due(NOW + 15_000).pop().unwrap();
        let parts = |attempt: &NotificationAttempt| {
            let NotificationAttempt {
                timestamp,
                nonce,
                signature,
                ..
            } = attempt.clone();
            [timestamp, nonce, signature]
        };
        let [first, second] = [parts(&first), parts(&second)];
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one == other, is_same, "{setting:?}");
        }
    }
}

#[test]
fn statuses_of_one_object_are_first_sent_in_order_and_other_objects_do_not_wait() {
    let mut outbox = outbox();
    outbox.announce(&payout(), NOW);
    outbox.announce(&refund("r1"), NOW);
    let first = outbox.take_due(NOW);
    let kinds: Vec<_> = first
        .iter()
        .map(|attempt| Notification::read(&attempt.body).status)
        .collect();
    assert_eq!(kinds, ["INIT", "REFUND_PROCESS"]);
    let [payout, refund] = first.try_into().unwrap();
    assert!(outbox.take_due(NOW).is_empty(), "both are under way");
    outbox.finish(payout, Err("refused".to_owned()), NOW);
    let next = outbox.take_due(NOW).pop().unwrap();
    assert_eq!(Notification::read(&next.body).status, "PROCESSING");
    acknowledge(&mut outbox, refund, NOW);
    assert_eq!(statuses(&mut outbox, NOW), ["REFUND_SUCCESS"]);
}

#[test]
fn a_payouts_sub_orders_follow_its_status() {
    let mut outbox = outbox();
    for (fault, expected) in [
        (None, ["DONE", "DONE"]),
        (Some("PARTIAL"), ["DONE", "FAIL"]),
        (Some("FAIL"), ["FAIL", "FAIL"]),
    ] {
        if let Some(status) = fault {
            outbox
                .faults
                .inject(SendingFault::Status(status.to_owned()).times(3));
        }
        outbox.announce(&payout(), NOW);
        let mut last = Value::Null;
        while let Some(attempt) = outbox.take_due(NOW).pop() {
            last = serde_json::from_slice(&attempt.body).unwrap();
            acknowledge(&mut outbox, attempt, NOW);
        }
        let status = fault.unwrap_or("SUCCESS");
        assert_eq!(last["main_order"]["status"], status);
        for (order, expected) in last["suborders"].as_array().unwrap().iter().zip(expected) {
            assert_eq!(order["status"], expected, "{status}");
        }
    }
}

#[test]
fn faults_of_order_and_number() {
    let mut twice = outbox();
    twice.faults.inject(SendingFault::Twice.once());
    twice.announce(&payment("1"), NOW);
    let both = twice.take_due(NOW);
    assert_eq!(both.len(), 2, "at the same time");
    assert_eq!(both[0].body, both[1].body);
    assert_ne!(both[0].nonce, both[1].nonce);

    let mut late = outbox();
    let by = Duration::from_mins(1);
    late.faults.inject(SendingFault::Late(by).once());
    late.announce(&refund("r1"), NOW);
    assert_eq!(statuses(&mut late, NOW), ["REFUND_SUCCESS"]);
    assert_eq!(late.next_due_ms(), Some(NOW + 60_000));
    assert_eq!(statuses(&mut late, NOW + 60_000), ["REFUND_PROCESS"]);

    let mut crossed = outbox();
    crossed.faults.inject(SendingFault::OutOfOrder.once());
    crossed.announce(&payment("1"), NOW);
    assert!(crossed.take_due(NOW).is_empty(), "no later one was sent");
    crossed.announce(&payment("2"), NOW);
    let objects: Vec<_> = deliver(&mut crossed, NOW)
        .into_iter()
        .map(|read| read.object)
        .collect();
    assert_eq!(objects, ["2", "1"]);

    let mut reversed = outbox();
    reversed
        .faults
        .inject(SendingFault::ReversedStatuses.once());
    reversed.announce(&payment("1"), NOW);
    reversed.announce(&payout(), NOW);
    assert_eq!(
        statuses(&mut reversed, NOW),
        ["PAY_SUCCESS", "SUCCESS", "PROCESSING", "INIT"]
    );
}

/// The body of a struck payment, and its attempt.
fn struck(fault: SendingFault) -> (Value, NotificationAttempt) {
    let mut outbox = outbox();
    outbox.faults.inject(fault.once().of_kind("PAY"));
    outbox.announce(&refund("r1"), NOW);
    outbox.announce(&payment("1"), NOW);
    outbox.announce(&payment("2"), NOW);
    let due = outbox.take_due(NOW);
    let kind_is_pay = Notification::read(&due[2].body);
    assert_eq!(kind_is_pay.object, "2", "only one is struck");
    let struck = due.into_iter().nth(1).unwrap();
    let body = serde_json::from_slice(&struck.body).unwrap_or_default();
    (body, struck)
}

fn verifies(attempt: &NotificationAttempt) -> bool {
    let stamp = Stamp::parse(attempt.timestamp.as_bytes(), attempt.nonce.as_bytes()).unwrap();
    let signature = Signature::parse(attempt.signature.as_bytes()).unwrap();
    verify(&credential("secret").key, &stamp, &attempt.body, &signature)
}

#[test]
fn faults_of_the_body_strike_the_kind_that_is_asked_for_and_are_signed() {
    let (body, attempt) = struck(SendingFault::Late(Duration::ZERO));
    assert_eq!(body["client_id"], "institution");
    let data: Value = serde_json::from_str(body["data"].as_str().unwrap()).unwrap();
    assert_eq!(data, json!({"merchantTradeNo": "17"}));
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::WithoutClientId);
    assert!(body.get("client_id").is_none() && body.get("clientId").is_none());
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::CamelClientId);
    assert!(body.get("client_id").is_none() && body["clientId"] == "institution");
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::DataAsObject);
    assert_eq!(body["data"], json!({"merchantTradeNo": "17"}));
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::UnknownKind);
    assert_eq!(body["bizType"], UNKNOWN_KIND);
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::Status("PAY_ERROR".to_owned()));
    assert_eq!(body["bizStatus"], "PAY_ERROR");
    assert!(verifies(&attempt));

    let (body, attempt) = struck(SendingFault::NotJson);
    assert_eq!(body, Value::Null);
    assert!(!attempt.body.is_empty() && verifies(&attempt));

    let (body, attempt) = struck(SendingFault::WrongSignature);
    assert_eq!(body["bizStatus"], "PAY_SUCCESS");
    assert!(!verifies(&attempt));
}

#[test]
fn a_notification_is_sent_again_as_a_new_one_while_the_log_has_it() {
    let mut outbox = outbox();
    assert_eq!(outbox.add_again(1, NOW), None);
    outbox.announce(&payment("1"), NOW);
    deliver(&mut outbox, NOW);
    assert_eq!(outbox.add_again(1, NOW), Some(2));
    assert_eq!(outbox.add_again(2, NOW), Some(3), "it still waits");
    assert_eq!(deliver(&mut outbox, NOW).len(), 2);
    let bodies: Vec<_> = outbox.log.all().map(|sent| sent.body.clone()).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    outbox.log = SentLog::new(0);
    assert_eq!(outbox.add_again(1, NOW), None);
}

#[test]
fn repetitions_go_to_the_institutions_url_in_force_or_to_the_objects_own() {
    let mut outbox = outbox();
    outbox.announce(&payment("1"), NOW);
    outbox.announce(&payment("2").to("http://127.0.0.1:2/own"), NOW);
    for attempt in outbox.take_due(NOW) {
        outbox.finish(attempt, Err(String::new()), NOW);
    }
    outbox.move_to("http://127.0.0.1:3/moved".to_owned());
    let due = outbox.take_due(NOW + 15_000).into_iter();
    let urls: Vec<_> = due.map(|attempt| attempt.url).collect();
    assert_eq!(urls, ["http://127.0.0.1:3/moved", "http://127.0.0.1:2/own"]);
    let again = [outbox.add_again(1, NOW), outbox.add_again(2, NOW)];
    assert_eq!(again, [Some(3), Some(4)]);
    let due = outbox.take_due(NOW + 15_000).into_iter();
    let urls: Vec<_> = due.map(|attempt| attempt.url).collect();
    assert_eq!(urls, ["http://127.0.0.1:3/moved", "http://127.0.0.1:2/own"]);
}

#[test]
fn repetitions_are_signed_with_the_credential_in_use() {
    let mut outbox = outbox();
    outbox.announce(&payment("1"), NOW);
    let first = outbox.take_due(NOW).pop().unwrap();
    outbox.finish(first, Err(String::new()), NOW);
    outbox.sign_with(credential("other"));
    let second = outbox.take_due(NOW + 15_000).pop().unwrap();
    assert!(!verifies(&second));
}

fn any_fault() -> impl Strategy<Value = Option<SendingFault>> {
    prop_oneof![
        2 => Just(None),
        1 => prop::sample::select(vec![
            SendingFault::Twice,
            SendingFault::Late(Duration::from_secs(5)),
            SendingFault::OutOfOrder,
            SendingFault::ReversedStatuses,
        ])
        .prop_map(Some),
    ]
}

proptest! {
    #[test]
    fn every_notification_ends_and_none_is_sent_after_its_acknowledgment(
        news in prop::collection::vec((any_fault(), 0..3_usize), 1..12),
        answers in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut outbox = outbox();
        let mut now = NOW;
        for (number, (fault, kind)) in news.into_iter().enumerate() {
            outbox.faults.clear();
            if let Some(fault) = fault {
                outbox.faults.inject(fault.once());
            }
            let number = number.to_string();
            outbox.announce(&[payment(&number), refund(&number), payout()][kind], now);
        }
        // Releases an out-of-order notification that is the last.
        outbox.add_by_hand(None, Bytes::new(), now);
        let mut answers = answers.into_iter().cycle();
        while let Some(due_ms) = outbox.next_due_ms() {
            now = now.max(due_ms);
            for attempt in outbox.take_due(now) {
                let result = match answers.next() {
                    Some(true) => Ok(answer(200, ACKNOWLEDGMENT)),
                    _ => Ok(answer(503, "")),
                };
                outbox.finish(attempt, result, now);
            }
        }
        prop_assert_eq!(outbox.waiting(), 0);
        for id in 1..=outbox.made {
            let attempts: Vec<_> = outbox.log.all().filter(|sent| sent.id == id).collect();
            let (last, earlier) = attempts.split_last().expect("each was sent");
            prop_assert!(earlier.iter().all(|sent| !sent.acknowledged));
            let is_last = attempts.len() == GATEPAY_CURRENT.repetitions() as usize + 1;
            prop_assert!(last.acknowledged || is_last);
        }
    }
}
