//! Every fault, as it looks on the wire, and whether the request was executed.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_sandbox::{ApiFailure, InjectedFault, Sandbox};

use crate::support::{ACME, CREATE, QUERY, call, config, create_body, exchange, post, start};

/// A sandbox with one fault injected, and the response to an order created through it.
fn struck_by(fault: InjectedFault) -> (Sandbox, Vec<u8>, Result<(), ErrorKind>) {
    let sandbox = start(config());
    sandbox.inject(fault.once());
    let (answer, end) = exchange(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    (sandbox, answer, end.map_err(|error| error.kind()))
}

/// Whether the order exists; the record of its execution must agree.
fn executed(sandbox: &Sandbox) -> bool {
    let recorded = sandbox.received()[0].executed;
    let query = post(QUERY, ACME, r#"{"merchantTradeNo":"order-1"}"#);
    let there = call(sandbox, &query).2.contains("PENDING");
    assert_eq!(recorded, there);
    there
}

#[test]
fn a_reset_before_reading_leaves_nothing_done() {
    let (sandbox, answer, end) = struck_by(InjectedFault::ResetBeforeReading);
    assert_eq!((answer.len(), end), (0, Err(ErrorKind::ConnectionReset)));
    assert_eq!(sandbox.received()[0].body, "");
    assert!(!executed(&sandbox));
}

#[test]
fn a_reset_before_executing_leaves_nothing_done() {
    let (sandbox, answer, end) = struck_by(InjectedFault::ResetBeforeExecuting);
    assert_eq!((answer.len(), end), (0, Err(ErrorKind::ConnectionReset)));
    let received = &sandbox.received()[0];
    assert!(received.verified && !received.body.is_empty());
    assert_eq!(received.answer_status, None);
    assert!(!executed(&sandbox));
}

#[test]
fn a_reset_after_executing_hides_what_was_done() {
    let (sandbox, answer, end) = struck_by(InjectedFault::ResetAfterExecuting);
    assert_eq!((answer.len(), end), (0, Err(ErrorKind::ConnectionReset)));
    assert_eq!(sandbox.received()[0].answer_status, Some(200));
    assert!(executed(&sandbox));
}

#[test]
fn a_reset_in_the_middle_comes_after_as_many_bytes_as_asked() {
    for after_bytes in [1, 17, 100] {
        let (sandbox, answer, end) = struck_by(InjectedFault::ResetMidAnswer { after_bytes });
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        assert_eq!(answer.len(), after_bytes);
        assert!(answer.starts_with(b"H"));
        assert!(executed(&sandbox));
    }
    let after_bytes = usize::MAX;
    let (_, answer, end) = struck_by(InjectedFault::ResetMidAnswer { after_bytes });
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert!(answer.ends_with(b"}"), "the whole answer came");
}

#[test]
fn a_truncated_answer_is_shorter_than_it_says() {
    let (sandbox, answer, end) = struck_by(InjectedFault::Truncated);
    assert_eq!(end, Ok(()));
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, promised) = head.split_once("content-length: ").unwrap();
    let promised: usize = promised.lines().next().unwrap().parse().unwrap();
    assert!(!body.is_empty() && body.len() < promised);
    assert!(executed(&sandbox));
}

#[test]
fn an_endless_answer_stops_at_its_bound_without_a_last_chunk() {
    let (sandbox, answer, end) = struck_by(InjectedFault::Endless {
        max_bytes: 3000,
        max_time: Duration::from_mins(1),
    });
    assert_eq!(end, Ok(()));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("transfer-encoding: chunked"));
    assert_eq!(answer.matches("\r\n400\r\n").count(), 2);
    assert_eq!(answer.matches("\r\n3b8\r\n").count(), 1);
    assert!(!answer.contains("\r\n0\r\n"));
    assert!(executed(&sandbox));
}

#[test]
fn an_endless_answer_stops_when_its_time_is_over() {
    let began = Instant::now();
    let (_, _, end) = struck_by(InjectedFault::Endless {
        max_bytes: u64::MAX,
        max_time: Duration::from_millis(50),
    });
    assert_eq!(end, Ok(()));
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_garbage_fault_sends_its_bytes_as_given() {
    let garbage = Bytes::from_static(b"\x16\x03\x01 this is not HTTP\r\n\r\n");
    let (sandbox, answer, end) = struck_by(InjectedFault::Garbage(garbage.clone()));
    assert_eq!((answer, end), (garbage.to_vec(), Ok(())));
    assert!(executed(&sandbox));
}

#[test]
fn a_dripping_answer_arrives_whole() {
    let (sandbox, answer, end) = struck_by(InjectedFault::Drip(Duration::from_micros(10)));
    assert_eq!(end, Ok(()));
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"}"));
    assert!(executed(&sandbox));
}

#[test]
fn a_delayed_answer_is_late_but_executed_at_once() {
    let sandbox = start(config());
    sandbox.inject(InjectedFault::Delay(Duration::from_millis(30)).once());
    let began = Instant::now();
    let (status, _, _) = call(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    assert_eq!(status, 200);
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert!(executed(&sandbox));
}

#[test]
fn a_status_or_failure_is_answered_in_place_of_executing() {
    let sandbox = start(config());
    let create = || call(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    let body = Bytes::from_static(b"<html>bad gateway</html>");
    sandbox.inject(InjectedFault::Status { status: 502, body }.once());
    let (status, _, body) = create();
    assert_eq!((status, body.as_str()), (502, "<html>bad gateway</html>"));

    for (failure, status) in [
        (ApiFailure::SystemError, 500),
        (ApiFailure::InternalError, 500),
        (ApiFailure::UnknownError, 500),
        (ApiFailure::InvalidSignature, 200),
    ] {
        sandbox.inject(InjectedFault::Failure(failure).once());
        let (answered, _, body) = create();
        assert_eq!(answered, status);
        assert!(body.contains(failure.code()), "{body}");
    }
    assert!(!executed(&sandbox));
}

#[test]
fn faults_strike_where_and_as_often_as_asked_until_cleared() {
    let sandbox = start(config());
    let body = Bytes::new();
    sandbox.inject(
        InjectedFault::Status { status: 503, body }
            .always()
            .on(QUERY),
    );
    let query = || call(&sandbox, &post(QUERY, ACME, "{}")).0;
    assert_eq!([query(), query()], [503, 503]);
    assert_eq!(call(&sandbox, &post(CREATE, ACME, "{}")).0, 200);
    sandbox.clear_faults();
    assert_eq!(query(), 200);
}
