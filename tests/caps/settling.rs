//! What counts as spent: all but what is proven not to be.

use super::*;

/// The path of the look-up of a payout.
const DETAIL: &str = "/withdraw/open/institution/v1/pay/payouts/detail";

#[tokio::test]
async fn a_refusal_of_gatepay_gives_the_amount_back() {
    let gatepay = gatepay();
    let (_folder, program) = serving(&gatepay, &caps("per_day = '150000'")).await;
    // Acme has 100,000. The answer is explicit, so that no look-up has to show anything.
    let refused = send(&program, &payout("B1", "140000")).await;
    assert_eq!(refused.outcome(), Some("refused"), "{}", refused.text());
    gatepay
        .sandbox
        .fund(acme().sub_account, "USDT", "100000")
        .unwrap();
    let whole = until_answered(&program, "150000", None).await;
    assert_eq!(whole.outcome(), Some("executed"), "{}", whole.text());
    let refused = send(&program, &payout("B2", "1")).await;
    is_refused(&refused, "cap_exceeded");
}

#[tokio::test]
async fn a_call_of_unknown_outcome_counts_also_after_a_crash_until_gatepay_has_it() {
    let gatepay = gatepay();
    let folder = folder_of_file(&gatepay, &caps("per_day = '100'"));
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        "upstream = { resolve_ms = 1, ",
    );
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let lost = send(&program, &payout("B1", "80")).await;
    is_refused(&lost, "outcome_unknown");
    let refused = send(&program, &payout("B2", "21")).await;
    is_refused(&refused, "cap_exceeded");
    program.signal("-KILL");
    let _ended = program.end().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send(&program, &payout("B3", "21")).await;
    is_refused_saying(&refused, "cap_exceeded", "20 left");
    // A look-up finds it; it goes on counting.
    until("the reservation is told to go on", || {
        program.stderr().contains("it goes on counting as spent")
    })
    .await;
    let refused = send(&program, &payout("B4", "21")).await;
    is_refused(&refused, "cap_exceeded");
}

#[tokio::test]
async fn a_call_that_was_not_sent_gives_its_amount_back_and_one_key_is_one_spend() {
    let gatepay = gatepay();
    let (_folder, program) = serving(&gatepay, &caps("per_day = '100'")).await;
    // The second answer is "exists already", which proves nothing and releases nothing.
    assert_eq!(
        send(&program, &payout("B1", "60")).await.outcome(),
        Some("executed")
    );
    let again = send(&program, &payout("B1", "60")).await;
    assert_eq!(again.refusal(), None, "{}", again.text());
    // A larger amount under the key counts.
    let larger = send(&program, &payout("B1", "90")).await;
    assert_eq!(larger.refusal(), None, "{}", larger.text());
    let refused = send(&program, &payout("B2", "11")).await;
    assert!(
        refused.message().contains("10 left"),
        "{}",
        refused.message()
    );
    gatepay.sandbox.stop();
    let unsent = send(&program, &payout("B3", "10")).await;
    is_refused(&unsent, "upstream_unreachable");
    until_answered(&program, "10", Some("upstream_unreachable")).await;
}

#[tokio::test]
async fn what_a_look_up_finds_counts_once_whatever_code_refused_the_call() {
    let gatepay = gatepay();
    let refuses = || gatepay.inject(InjectedFault::Failure(ApiFailure::PayoutId).once());
    let (_folder, program) = serving(&gatepay, &caps("per_day = '100'")).await;
    let paid = send(&program, &payout("B1", "80")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    refuses();
    let again = send(&program, &payout("B1", "80")).await;
    assert_eq!(again.outcome(), Some("found"), "{}", again.text());
    let refused = send(&program, &payout("B2", "21")).await;
    is_refused_saying(&refused, "cap_exceeded", "20 left");
    // This one's store does not know the delivery that made the payout.
    let (_folder, other) = serving(&gatepay, &caps("per_day = '100'")).await;
    refuses();
    let again = send(&other, &payout("B1", "80")).await;
    assert_eq!(&*again.code(), "550249");
    assert_eq!(again.outcome(), Some("found"), "{}", again.text());
    until_so("the report of the call has come", async || {
        let told = other.admin("GET", "/caps").await;
        told.text()
            .contains(r#""reserved":"0","unknown":"0","spent":"80""#)
    })
    .await;
    let refused = send(&other, &payout("B2", "21")).await;
    is_refused_saying(&refused, "cap_exceeded", "20 left");
}

#[tokio::test]
async fn caps_hold_over_all_instances_and_a_lower_one_holds_after_a_reload() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (gatepay(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| {
        let folder = Folder::before(&gatepay.url());
        folder.uses_a_store(&[server.port], ", timeout_ms = 10_000");
        folder.tenant(&acme(), &caps("per_day = '100'"));
        folder
    });
    let programs = Program::serve_all(&folders).await;
    let [one, other] = &programs[..] else {
        panic!("there are two");
    };
    let first = until_answered(one, "50", None).await;
    assert_eq!(first.outcome(), Some("executed"), "{}", first.text());
    let refused = send(other, &payout("B2", "50.5")).await;
    is_refused_saying(&refused, "cap_exceeded", "50 left");
    folders[0].tenant(&acme(), &caps("per_day = '60'"));
    let (status, said) = one.reload("").await;
    assert_eq!(status, 200, "{said}");
    let began = std::time::Instant::now();
    loop {
        let refused = send(other, &payout("B3", "50.5")).await;
        is_refused(&refused, "cap_exceeded");
        if refused
            .message()
            .contains("per_day cap of 60 USDT: 10 left")
        {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", refused.text());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // A higher one does not hold for a day.
    folders[0].tenant(&acme(), &caps("per_day = '1000'"));
    let (status, said) = one.reload("").await;
    assert_eq!(status, 200, "{said}");
    until_log(one, "the store has the money caps of this configuration", 3).await;
    let refused = send(one, &payout("B4", "10.5")).await;
    assert!(
        refused.message().contains("per_day cap of 60 USDT"),
        "{}",
        refused.message()
    );
}

async fn until_log(program: &Program, text: &str, times: usize) {
    until(&format!("{times} times: {text}"), || {
        program.stderr().matches(text).count() >= times
    })
    .await;
}

#[tokio::test]
async fn a_call_that_gatepay_refused_and_about_which_no_look_up_was_answered_goes_on_counting() {
    let gatepay = gatepay();
    let (_folder, first) = serving(&gatepay, &caps("per_day = '100'")).await;
    let paid = send(&first, &payout("B1", "80")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    // This one's store does not know the delivery that made the payout.
    let (_folder, program) = serving(&gatepay, &caps("per_day = '100'")).await;
    for fault in [
        InjectedFault::ResetBeforeReading.times(1_000).on(DETAIL),
        InjectedFault::Failure(ApiFailure::PayoutId).once(),
    ] {
        gatepay.inject(fault);
    }
    let again = send(&program, &payout("B1", "80")).await;
    assert_eq!(&*again.code(), "550249");
    assert_eq!(again.outcome(), Some("unknown"), "{}", again.text());
    let refused = send(&program, &payout("B2", "21")).await;
    is_refused_saying(&refused, "cap_exceeded", "20 left");
}
