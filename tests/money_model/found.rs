//! Scenarios that once broke a promise.

use super::run::run;
use super::scenario::{
    Back, Change, Deadline, End, FUTURE_MS, Flaw, Merchant, Mishap, Restart, Scenario, Setup, Sort,
    StateMove, Step,
};
use super::tally::Tally;
use super::world::World;

const STATE_DIR: Setup = Setup {
    state_dir: true,
    journal: false,
    look_ups: false,
    deadline: Deadline::Long,
};
const REFUND: Step = Step::Call(Sort::Refund, Merchant::Acme, 0, None);
const AGAIN: Step = Step::Again(Back(0));
const PAST_THE_GUARD: Step = Step::Pass(FUTURE_MS + 1);

const fn restart(end: End, state: StateMove) -> Step {
    Step::Restart(Restart {
        end,
        in_flight: None,
        state,
        change: Change::Nothing,
    })
}

async fn hold(setup: Setup, steps: &[Step]) -> Tally {
    let world = World::new().await;
    let scenario = Scenario {
        setup,
        steps: steps.to_vec(),
    };
    let report = run(&world, &scenario).await;
    assert_eq!(report.violations, [], "{}in\n{scenario:?}", report.story);
    report.tally
}

#[tokio::test]
async fn the_bytes_of_a_refund_are_sent_again_after_a_crash() {
    let crash = restart(End::Crash, StateMove::Stays);
    hold(STATE_DIR, &[REFUND, crash, AGAIN, Step::Obey(Back(0))]).await;
    hold(STATE_DIR, &[REFUND, crash, PAST_THE_GUARD, AGAIN]).await;
}

#[tokio::test]
async fn a_call_is_at_gatepay_while_its_process_crashes() {
    let crash = Step::Restart(Restart {
        end: End::Crash,
        in_flight: Some(Sort::Payout),
        state: StateMove::Stays,
        change: Change::Nothing,
    });
    hold(STATE_DIR, &[crash, AGAIN, Step::Obey(Back(0))]).await;
    hold(Setup::default(), &[crash, AGAIN, Step::Obey(Back(0))]).await;
}

#[tokio::test]
async fn a_state_folder_is_used_for_the_first_time_after_a_run_without_one() {
    for end in [End::Crash, End::Drain] {
        let first = restart(end, StateMove::Fresh);
        hold(Setup::default(), &[REFUND, first, AGAIN]).await;
    }
}

#[tokio::test]
async fn a_state_folder_is_replaced_between_two_runs() {
    for end in [End::Crash, End::Drain] {
        for state in [
            StateMove::Fresh,
            StateMove::Emptied,
            StateMove::Copied,
            StateMove::Moved,
        ] {
            hold(STATE_DIR, &[REFUND, restart(end, state), AGAIN]).await;
        }
    }
}

#[tokio::test]
async fn a_state_folder_comes_back_from_a_copy_of_before() {
    let drain = restart(End::Drain, StateMove::Stays);
    for end in [End::Crash, End::Drain] {
        // The copy made at the end of the first run, not the copy of the second run.
        let restored = restart(end, StateMove::Restored(Back(1)));
        hold(STATE_DIR, &[drain, REFUND, restored, AGAIN]).await;
    }
}

#[tokio::test]
async fn the_bytes_of_a_refund_are_sent_again_when_they_have_grown_old() {
    hold(STATE_DIR, &[REFUND, Step::Pass(311_000), AGAIN]).await;
    let step = Step::WallClock(700_000);
    hold(STATE_DIR, &[REFUND, step, AGAIN, Step::Housekeeping, AGAIN]).await;
    let back = Step::WallClock(-290_000);
    hold(STATE_DIR, &[REFUND, back, AGAIN]).await;
}

#[tokio::test]
async fn a_copy_of_a_call_is_answered_while_its_last_byte_is_awaited() {
    for wait in [1, 1_000, 311_000] {
        let overtaken = Step::Overtaken(Sort::Refund, Merchant::Globex, wait);
        let spends = Step::Call(Sort::CreateOrder, Merchant::Globex, 0, None);
        hold(STATE_DIR, &[spends, overtaken, AGAIN]).await;
    }
}

#[tokio::test]
async fn a_gateway_before_gatepay_answers_without_proving_an_outcome() {
    for which in 0..20 {
        for mishap in [Mishap::ExecutedBut(which), Mishap::Instead(which)] {
            let call = Step::Call(Sort::Refund, Merchant::Acme, 0, Some(mishap));
            hold(STATE_DIR, &[call, Step::Obey(Back(0))]).await;
        }
    }
}

#[tokio::test]
async fn a_refund_whose_answer_is_lost_is_found() {
    let setup = Setup {
        look_ups: true,
        ..STATE_DIR
    };
    let lost = Step::Call(Sort::Refund, Merchant::Acme, 0, Some(Mishap::LostAfter));
    let tally = hold(setup, &[lost, AGAIN]).await;
    assert_eq!(tally.of("outcome", "found"), 1, "{tally}");
}

#[tokio::test]
async fn a_refund_is_asked_for_while_the_journal_cannot_be_written() {
    let setup = Setup {
        journal: true,
        ..STATE_DIR
    };
    let obey = Step::Obey(Back(0));
    let steps = [
        Step::JournalBreaks,
        REFUND,
        obey,
        AGAIN,
        Step::JournalMends,
        obey,
        AGAIN,
    ];
    let tally = hold(setup, &steps).await;
    assert!(tally.of("refusal", "journal_unavailable") > 0, "{tally}");
}

#[tokio::test]
async fn the_bytes_of_a_refund_are_sent_again_when_their_shop_may_not_call_any_more() {
    for change in [
        Change::Suspended,
        Change::ReadOnly,
        Change::OtherAddress,
        Change::Unknown,
        Change::GatePayIsDown,
    ] {
        for end in [End::Crash, End::Drain] {
            let restart = Step::Restart(Restart {
                end,
                in_flight: None,
                state: StateMove::Stays,
                change,
            });
            hold(STATE_DIR, &[REFUND, restart, AGAIN]).await;
        }
    }
}

#[tokio::test]
async fn the_stamp_of_a_refund_comes_again_in_another_request() {
    let flaws = [
        Flaw::Body,
        Flaw::Signature,
        Flaw::NoDigits,
        Flaw::MediaType,
        Flaw::OnBehalfOf,
    ];
    let crash = restart(End::Crash, StateMove::Stays);
    for again in flaws.map(|flaw| Step::Flawed(Back(0), flaw)) {
        hold(
            STATE_DIR,
            &[REFUND, again, crash, again, PAST_THE_GUARD, again],
        )
        .await;
    }
    let again = Step::Elsewhere(Back(0));
    hold(
        STATE_DIR,
        &[REFUND, again, crash, again, PAST_THE_GUARD, again],
    )
    .await;
}
