use super::*;
use gatepay_http1::request_head::RequestHead;
use proptest::prelude::*;

const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn parse(text: &str) -> Option<TraceContext> {
    TraceContext::parse(text.as_bytes())
}

#[test]
fn a_trace_is_answered_with_our_own_part_of_it() {
    let trace = parse(GOOD).unwrap();
    assert!(trace.is_sampled());
    assert_eq!(
        &trace.answer([0xab; 8]),
        b"00-0af7651916cd43dd8448eb211c80319c-abababababababab-01"
    );
    let unsampled = parse(&GOOD.replace("-01", "-02")).unwrap();
    assert!(!unsampled.is_sampled());
    assert!(unsampled.answer([1; 8]).ends_with(b"-00"));
}

#[test]
fn the_known_part_of_a_later_traceparent_version_is_read() {
    let later = GOOD.replace("00-0", "cc-0");
    assert_eq!(parse(&later), parse(GOOD));
    assert_eq!(
        parse(&format!("{later}-what-the-future-holds")),
        parse(GOOD)
    );
    assert_eq!(parse(&format!("{later}.")), None);
}

#[test]
fn a_traceparent_that_the_standard_forbids_is_ignored() {
    for bad in [
        "",
        "00",
        &GOOD[..54],
        &format!("{GOOD}-"),
        &format!("{GOOD}-01"),
        &GOOD.replace("00-0", "ff-0"),
        &GOOD.to_uppercase(),
        &GOOD.replace('-', "_"),
        &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
        &GOOD.replace('b', "g"),
        &format!(" {}", &GOOD[1..]),
    ] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn a_repeated_traceparent_is_ignored() {
    let read = |lines: &[&str]| {
        let request = lines
            .iter()
            .fold(http::Request::builder(), |request, line| {
                request.header("traceparent", *line)
            });
        let (parts, ()) = request.body(()).unwrap().into_parts();
        TraceContext::read(&KnownHeaders::read(RequestHead::of_parts(&parts).lines()))
    };
    assert_eq!(read(&[GOOD]), parse(GOOD));
    assert_eq!(read(&[GOOD, GOOD]), None);
}

proptest! {
    #[test]
    fn the_traceresponse_is_well_formed_for_any_traceparent(text in "[0-9a-fg]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}") {
        if let Some(trace) = parse(&text) {
            let answer = trace.answer([7; 8]);
            prop_assert_eq!(TraceContext::parse(&answer).unwrap().id, trace.id);
            prop_assert_eq!(&answer[3..35], &text.as_bytes()[3..35]);
        }
    }
}
