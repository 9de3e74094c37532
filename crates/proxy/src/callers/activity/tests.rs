use super::*;
use tokio::time::advance;

const HEAD: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_mins(2);
const LIMITS: ActivityLimits = ActivityLimits {
    head: HEAD,
    answer: ANSWER,
    idle: IDLE,
};

const PARTY: NonZeroUsize = NonZeroUsize::MIN;

/// A connection on which a request was verified and answered.
fn verified() -> Arc<ConnectionActivity> {
    let activity = ConnectionActivity::new(LIMITS);
    activity.request().verified(PARTY);
    activity
}

/// Checks the timeouts whenever a check is due, for `time`; returns the last result.
async fn watch(activity: &ConnectionActivity, time: Duration) -> TimeoutCheck {
    let end = Instant::now() + time;
    loop {
        match activity.check_timeouts() {
            TimeoutCheck::Fine(next) if next < end => advance(next - Instant::now()).await,
            TimeoutCheck::Fine(_) => {
                advance(end - Instant::now()).await;
                return activity.check_timeouts();
            }
            late => return late,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_late_after_the_heads_time() {
    let activity = ConnectionActivity::new(LIMITS);
    advance(HEAD.saturating_sub(Duration::from_millis(1))).await;
    assert!(matches!(activity.check_timeouts(), TimeoutCheck::Fine(_)));
    advance(Duration::from_millis(1)).await;
    assert_eq!(activity.check_timeouts(), TimeoutCheck::Late);
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_idle_between_requests_but_a_begun_head_has_a_deadline() {
    let activity = verified();
    activity.read(1);
    drop(activity.request());
    advance(Duration::from_mins(1)).await;
    assert!(matches!(activity.check_timeouts(), TimeoutCheck::Fine(_)));
    activity.read(1);
    advance(HEAD).await;
    assert_eq!(activity.check_timeouts(), TimeoutCheck::Late);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_not_a_slow_head() {
    let activity = ConnectionActivity::new(LIMITS);
    let _busy = activity.request();
    advance(Duration::from_mins(1)).await;
    assert!(matches!(activity.check_timeouts(), TimeoutCheck::Fine(_)));
}

#[tokio::test(start_paused = true)]
async fn an_unread_answer_counts_as_stalled_during_other_activity() {
    let activity = ConnectionActivity::new(LIMITS);
    activity.http2();
    let mut stalled = activity.request();
    stalled.answering();
    for second in 0.. {
        assert!(second <= 2 * ANSWER.as_secs(), "it was never noticed");
        // Other answers of the connection, and pings.
        let mut other = activity.request();
        other.answering();
        drop(other);
        activity.read(1);
        activity.wrote(17);
        if watch(&activity, Duration::from_secs(1)).await == TimeoutCheck::Stalled {
            assert!(second + 1 >= ANSWER.as_secs(), "after {second} s");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_being_taken_is_not_stalled() {
    let activity = verified();
    let mut long = activity.request();
    for _ in 0..100 {
        long.answering();
        activity.wrote(1);
        assert!(matches!(
            watch(&activity, ANSWER / 2).await,
            TimeoutCheck::Fine(_)
        ));
    }
    drop(long);
    assert!(matches!(
        watch(&activity, IDLE / 2).await,
        TimeoutCheck::Fine(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_a_byte_now_and_then_is_stalled_one_that_is_slow_is_not() {
    let activity = ConnectionActivity::new(LIMITS);
    drop(activity.request());
    activity.blocked();
    for _ in 0..29 {
        assert!(matches!(
            watch(&activity, Duration::from_secs(1)).await,
            TimeoutCheck::Fine(_)
        ));
        activity.wrote(10);
    }
    assert_eq!(
        watch(&activity, Duration::from_secs(2)).await,
        TimeoutCheck::Stalled
    );

    let activity = verified();
    for _ in 0..100 {
        activity.blocked();
        assert!(matches!(
            watch(&activity, Duration::from_secs(10)).await,
            TimeoutCheck::Fine(_)
        ));
        activity.wrote(20 * 1024);
    }
    activity.flushed();
    assert!(matches!(
        watch(&activity, IDLE / 2).await,
        TimeoutCheck::Fine(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_connection_that_asks_for_nothing() {
    let activity = ConnectionActivity::new(LIMITS);
    activity.http2();
    let ping = || {
        activity.read(1);
        activity.wrote(17);
    };
    ping();
    assert_eq!(
        watch(&activity, HEAD).await,
        TimeoutCheck::Late,
        "no first request"
    );

    let activity = verified();
    activity.http2();
    for _ in 0..11 {
        activity.read(1);
        activity.wrote(17);
        assert!(matches!(
            watch(&activity, HEAD).await,
            TimeoutCheck::Fine(_)
        ));
    }
    assert_eq!(watch(&activity, HEAD).await, TimeoutCheck::Late);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_was_verified_idles_no_longer_than_a_head_may_take() {
    for http2 in [false, true] {
        let activity = ConnectionActivity::new(LIMITS);
        if http2 {
            activity.http2();
        }
        for _ in 0..3 {
            drop(activity.request());
            advance(HEAD / 2).await;
            assert!(matches!(activity.check_timeouts(), TimeoutCheck::Fine(_)));
        }
        // A request that waits for its body or for GatePay is not under this timeout.
        let active = activity.request();
        assert!(matches!(
            watch(&activity, IDLE).await,
            TimeoutCheck::Fine(_)
        ));
        drop(active);
        assert_eq!(
            watch(&activity, HEAD).await,
            TimeoutCheck::Late,
            "http2: {http2}"
        );
        let activity = verified();
        assert!(matches!(
            watch(&activity, IDLE / 2).await,
            TimeoutCheck::Fine(_)
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_between_an_answer_and_the_next_complete_head() {
    let activity = ConnectionActivity::new(LIMITS);
    let created = Instant::now();
    advance(Duration::from_secs(1)).await;
    assert_eq!(
        activity.idle_since(),
        Some(created),
        "it waits for its first head"
    );
    let active = activity.request();
    assert_eq!(activity.idle_since(), None);
    drop(active);
    activity.blocked();
    assert_eq!(activity.idle_since(), None, "its answer is being written");
    activity.flushed();
    assert_eq!(activity.idle_since(), Some(Instant::now()));
    advance(Duration::from_secs(1)).await;
    activity.head_begun();
    let begun = Instant::now();
    // A connection with a slowly arriving head is idle since that head began.
    advance(Duration::from_secs(1)).await;
    activity.read(1);
    assert_eq!(activity.idle_since(), Some(begun));
}

#[tokio::test]
async fn a_connection_that_is_asked_to_leave_learns_it_once_and_keeps_the_first_reason() {
    let activity = ConnectionActivity::new(LIMITS);
    assert_eq!(activity.leaves(), None);
    activity.leave(LeaveReason::Age);
    activity.leave(LeaveReason::Full);
    activity.asked_to_leave().await;
    assert_eq!(activity.leaves(), Some(LeaveReason::Age));
}
