//! Which caps hold: those of the store, whatever the files of a process say.

use super::*;

#[tokio::test]
async fn caps_that_files_have_no_more_hold_on_and_are_counted_after_a_restart() {
    let gatepay = gatepay();
    let folder = folder_of_file(&gatepay, &caps("per_day = '100'"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let first = send(&program, &payout("B1", "60")).await;
    assert_eq!(first.outcome(), Some("executed"), "{}", first.text());
    program.signal("-TERM");
    let _ended = program.end().await;
    folder.tenant(&acme(), "");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let refused = send(&program, &payout("B2", "41")).await;
    is_refused_saying(&refused, "cap_exceeded", "per_day cap of 100 USDT: 40 left");
    let rest = send(&program, &payout("B3", "40")).await;
    assert_eq!(rest.outcome(), Some("executed"), "{}", rest.text());
    let refused = send(&program, &payout("B4", "1")).await;
    is_refused_saying(&refused, "cap_exceeded", "0 left");
    let unread = send(&program, &payout("B5", "1e-9")).await;
    is_refused(&unread, "invalid_body");
    let other = signed(&globex().post(PAYOUT, payout_of("B1", "500", "USDT")));
    let other = send(&program, &other).await;
    assert_eq!(other.outcome(), Some("executed"), "{}", other.text());
}
