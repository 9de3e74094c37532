use super::*;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::{CurrencyCode, TargetEntry};
use std::num::NonZeroU32;

const SPENT: RateExceeded = RateExceeded {
    wait: Duration::from_secs(1),
    rate: Rate {
        per_second: NonZeroU32::new(50).unwrap(),
        burst: NonZeroU32::new(120).unwrap(),
    },
};

fn one_of_each() -> Vec<Refusal> {
    let second = Duration::from_secs(1);
    vec![
        Refusal::MalformedRequest("x".into()),
        Refusal::InvalidBody("x".into()),
        Refusal::UnsupportedMediaType {
            wanted: "application/json",
        },
        Refusal::SignatureMismatch(SignatureMismatch::Bytes {
            body_bytes: 1,
            digest: [0; 32],
        }),
        Refusal::StaleTimestamp(StaleStamp::Forgotten),
        Refusal::UnknownClient("x"),
        Refusal::MalformedNonce(StampError::NonceEmpty),
        Refusal::Replayed {
            what: "this timestamp and nonce were",
            admitted_ms_ago: 1,
        },
        Refusal::OnBehalfOfMismatch("x".into()),
        Refusal::TenantSuspended,
        Refusal::OperationNotAllowed("x".into()),
        Refusal::RateLimited(SPENT),
        Refusal::TooManyInFlight { seats: 1 },
        Refusal::InstitutionQuota(QuotaDenied::Rate(SPENT)),
        Refusal::Overloaded("x"),
        Refusal::UpstreamUnreachable,
        Refusal::UpstreamUnavailable(BreakerOpen::Institution),
        Refusal::OutcomeUnknown {
            what: "x",
            advice: "x".into(),
            observation: None,
        },
        Refusal::RequestTimeout { limit: second },
        Refusal::BodyTooLarge { limit: 1 },
        Refusal::Internal(CallOutcome::Unknown),
        Refusal::AddressNotAllowed,
        Refusal::unknown_operation("GET", "/x"),
        Refusal::HeadTooLarge,
        Refusal::InstitutionRejected,
        Refusal::Starting { retry: second },
        Refusal::JournalUnavailable,
        Refusal::StoreUnavailable,
        Refusal::Halted,
        Refusal::CapExceeded {
            breach: Box::new(CapBreach {
                over_all: false,
                currency: CurrencyCode::parse("USDT").unwrap(),
                rule: None,
                left: ExactAmount::ZERO,
                frees_ms: None,
            }),
            frees: Some(second),
        },
        Refusal::ApprovalRequired(Box::new(ApprovalDemand {
            id: None,
            is_rejected: false,
            begins: false,
            is_crowded: false,
            breach: CapBreach {
                over_all: false,
                currency: CurrencyCode::parse("USDT").unwrap(),
                rule: None,
                left: ExactAmount::ZERO,
                frees_ms: None,
            },
        })),
        Refusal::DestinationNotAllowed(DestinationFault::Unlisted(TargetEntry {
            field: "withdraw_list",
            index: Some(0),
        })),
    ]
}

#[test]
fn every_slug_is_listed_for_the_metrics() {
    for refusal in one_of_each() {
        assert!(
            Refusal::SLUGS.contains(&refusal.slug()),
            "{}",
            refusal.slug()
        );
    }
    assert_eq!(one_of_each().len(), Refusal::SLUGS.len());
}

#[test]
fn a_429_a_503_and_a_full_cap_say_when_to_come_back() {
    for refusal in one_of_each() {
        let (slug, status) = (refusal.slug(), refusal.status());
        let (_, headers, _) = refusal.into_answer(RefusalStatus::Http, &RefusedCall::default());
        let wanted = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) || slug == "cap_exceeded";
        assert_eq!(
            headers.get(&header::RETRY_AFTER).is_some(),
            wanted,
            "{slug}"
        );
    }
}

#[test]
fn a_429_names_the_limit_that_was_met() {
    let refusal = Refusal::RateLimited(SPENT);
    let (_, headers, _) = refusal.into_answer(RefusalStatus::Http, &RefusedCall::default());
    let policy = headers.get(&headers::RATELIMIT_POLICY);
    assert_eq!(policy, Some(&b"\"tenant\";q=120;w=3"[..]));
    let left = headers.get(&headers::RATELIMIT);
    assert_eq!(left, Some(&b"\"tenant\";r=0;t=1"[..]));
}

#[test]
fn retry_after_is_rounded_up_and_never_zero() {
    for (wait, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
        let refusal = Refusal::RateLimited(RateExceeded {
            wait: Duration::from_millis(wait),
            ..SPENT
        });
        assert_eq!(refusal.retry_after(), Some(seconds), "{wait} ms");
    }
}

fn call(kind: Option<Kind>, has_key: bool, why: Option<EarlierCopy>) -> RefusedCall {
    let answer = kind.map(|_| AnswerForm::Envelope);
    let doubt = why.map(|why| DuplicateDoubt {
        why,
        advice: "ask X".into(),
    });
    RefusedCall {
        kind,
        answer,
        has_key,
        doubt,
        request_id: [b'7'; 32],
    }
}

#[test]
fn no_refusal_says_not_executed_of_a_call_another_copy_of_which_may_have_been() {
    for refusal in one_of_each() {
        let slug = refusal.slug();
        let call = call(Some(Kind::Money), false, Some(EarlierCopy::UnderWay));
        let (_, lines, body) = refusal.into_answer(RefusalStatus::Http, &call);
        assert_eq!(
            lines.get(&headers::OUTCOME),
            Some(&b"unknown"[..]),
            "{slug}"
        );
        let body = String::from_utf8(body.into()).unwrap();
        assert!(
            slug == "outcome_unknown" || body.contains("ask X"),
            "{body}"
        );
        assert!(!body.contains("sign anew"), "{body}");
    }
}

#[test]
fn of_a_call_that_another_instance_may_have_executed_only_a_429_asks_for_the_same_bytes() {
    for refusal in one_of_each() {
        let (slug, status) = (refusal.slug(), refusal.status());
        if ["outcome_unknown", "replayed"].contains(&slug) {
            continue; // Both have a text of their own.
        }
        let call = call(Some(Kind::Money), false, Some(EarlierCopy::OtherInstance));
        let (_, lines, body) = refusal.into_answer(RefusalStatus::Http, &call);
        assert_eq!(
            lines.get(&headers::OUTCOME),
            Some(&b"unknown"[..]),
            "{slug}"
        );
        let body = String::from_utf8(body.into()).unwrap();
        let again = status == StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(body.contains("ask X"), !again, "{body}");
        assert!(
            !again || body.contains("send the same bytes again"),
            "{body}"
        );
    }
}

/// What the refusal of a copy of an executed write or money call says about the call's outcome, at an instance that does not
/// know of the first copy.
#[derive(Debug, PartialEq, Eq)]
enum CopyOutcome {
    /// Unknown: the look-up is named.
    LookUp,
    /// Unknown: the same bytes are to be sent again.
    SameBytes,
    /// The refusal is that of the one copy that the store admitted: what became of it is known here.
    Own,
}

/// No wildcard: a new refusal does not compile without its verdict.
fn of_a_copy(refusal: &Refusal) -> CopyOutcome {
    match refusal {
        Refusal::RateLimited(_)
        | Refusal::TooManyInFlight { .. }
        | Refusal::InstitutionQuota(_) => CopyOutcome::SameBytes,
        Refusal::OutcomeUnknown { .. }
        | Refusal::UpstreamUnreachable
        | Refusal::UpstreamUnavailable(_)
        | Refusal::InstitutionRejected
        | Refusal::Internal(_) => CopyOutcome::Own,
        Refusal::MalformedRequest(_)
        | Refusal::InvalidBody(_)
        | Refusal::UnsupportedMediaType { .. }
        | Refusal::SignatureMismatch(_)
        | Refusal::StaleTimestamp(_)
        | Refusal::UnknownClient(_)
        | Refusal::MalformedNonce(_)
        | Refusal::Replayed { .. }
        | Refusal::OnBehalfOfMismatch(_)
        | Refusal::TenantSuspended
        | Refusal::OperationNotAllowed(_)
        | Refusal::OperationOff { .. }
        | Refusal::Overloaded(_)
        | Refusal::RequestTimeout { .. }
        | Refusal::BodyTooLarge { .. }
        | Refusal::AddressNotAllowed
        | Refusal::UnknownOperation(_)
        | Refusal::HeadTooLarge
        | Refusal::Starting { .. }
        | Refusal::JournalUnavailable
        | Refusal::StoreUnavailable
        | Refusal::Halted
        | Refusal::CapExceeded { .. }
        | Refusal::DestinationNotAllowed(_)
        | Refusal::ApprovalRequired(_) => CopyOutcome::LookUp,
    }
}

#[test]
fn of_a_copy_of_an_executed_call_every_refusal_leaves_the_outcome_open_under_either_status() {
    for statuses in [RefusalStatus::Http, RefusalStatus::Gatepay] {
        for kind in [Kind::Write, Kind::Money] {
            for refusal in one_of_each() {
                let (slug, verdict) = (refusal.slug(), of_a_copy(&refusal));
                if verdict == CopyOutcome::Own {
                    continue;
                }
                let call = call(Some(kind), true, Some(EarlierCopy::OtherInstance));
                let (status, lines, body) = refusal.into_answer(statuses, &call);
                let outcome = lines.get(&headers::OUTCOME);
                assert_eq!(outcome, Some(&b"unknown"[..]), "{slug}");
                let body = String::from_utf8(body.into()).unwrap();
                let again = body.contains("send the same bytes again");
                assert_eq!(again, verdict == CopyOutcome::SameBytes, "{body}");
                assert_eq!(body.contains("ask X"), !again, "{body}");
                // Clients that read only the envelope take any other code for final.
                let is_open = status == StatusCode::INTERNAL_SERVER_ERROR;
                let reads_envelopes = statuses == RefusalStatus::Gatepay;
                assert_eq!(is_open, reads_envelopes, "{slug}");
            }
        }
    }
}

#[test]
fn a_caller_is_told_if_gatepay_has_another_amount_under_the_key() {
    let lost = |has_other_amounts| Refusal::OutcomeUnknown {
        what: "x",
        advice: "ask".into(),
        observation: Some(LookUpObservation {
            has_other_amounts,
            ..LookUpObservation::UNKNOWN
        }),
    };
    assert!(matches!(lost(true).outcome(), CallOutcome::Unknown));
    let told = lost(true).to_string();
    let expected = "GatePay has another amount under the call's key, as data.order says: ask";
    assert!(told.contains(expected), "{told}");
    assert_eq!(lost(false).to_string(), "outcome unknown: x; ask");
}

#[test]
fn clients_that_read_only_the_envelope_are_never_told_of_a_failure_that_is_not_certain() {
    let lost = || Refusal::OutcomeUnknown {
        what: "x",
        advice: "x".into(),
        observation: None,
    };
    let starting = || Refusal::Starting {
        retry: Duration::from_secs(1),
    };
    let doubt = Some(EarlierCopy::BeforeTheStart);
    let bare = |kind, doubt| RefusedCall {
        answer: Some(AnswerForm::Bare),
        ..call(kind, false, doubt)
    };
    let (money, read) = (Some(Kind::Money), Some(Kind::Read));
    for (refusal, call, status, code) in [
        (lost(), call(money, true, None), 500, "400000"),
        (lost(), call(money, false, None), 500, "900011"),
        (lost(), call(read, false, None), 200, "900011"),
        (lost(), bare(read, None), 504, "900011"),
        (lost(), bare(money, None), 500, "900011"),
        (starting(), bare(money, None), 503, "900019"),
        (starting(), bare(money, doubt), 500, "900019"),
        (starting(), call(money, true, doubt), 500, "400000"),
        (starting(), call(money, false, doubt), 500, "900019"),
        (starting(), call(None, false, doubt), 500, "900019"),
        (starting(), call(money, true, None), 200, "900019"),
        (
            Refusal::unknown_operation("GET", "/x"),
            call(None, false, None),
            404,
            "900016",
        ),
    ] {
        let slug = refusal.slug();
        let (got, lines, body) = refusal.into_answer(RefusalStatus::Gatepay, &call);
        assert_eq!(lines.get(&headers::REFUSAL), Some(slug.as_bytes()));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (got.as_u16(), &body["status"], &body["code"]),
            (status, &"FAIL".into(), &code.into()),
            "{slug} {call:?}"
        );
    }
}

/// The rows of a page's first table under this heading that begins with a code word, by cells.
fn rows(page: &'static str, heading: &str) -> Vec<Vec<&'static str>> {
    let (_, rows) = page.split_once(heading).unwrap();
    let rows = rows.lines().skip_while(|line| !line.starts_with("| `"));
    rows.take_while(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn the_reference_lists_every_refusal_with_its_status_and_code() {
    let page = include_str!("../../../../docs/reference/refusals.md");
    let mut listed: Vec<_> = rows(page, "# Refusals")
        .into_iter()
        .map(|cells| {
            (
                cells[0].to_owned(),
                cells[1].to_owned(),
                cells[2].to_owned(),
            )
        })
        .collect();
    let mut refusals: Vec<_> = one_of_each()
        .iter()
        .map(|refusal| {
            let (slug, code) = refusal.code();
            let status = refusal.status().as_u16().to_string();
            (format!("`{slug}`"), status, code.to_owned())
        })
        .collect();
    listed.sort();
    refusals.sort();
    assert_eq!(listed, refusals);
}

#[test]
fn the_page_for_tenants_lists_every_refusal_and_every_code_that_leaves_the_outcome_open() {
    let page = include_str!("../../../../docs/for-tenants/tenants.md");
    let mut listed = Vec::new();
    for cells in rows(page, "## Refusals") {
        let slugs: Vec<_> = cells[0].split(", ").collect();
        let codes: Vec<_> = cells[1].split(", ").collect();
        assert_eq!(slugs.len(), codes.len(), "{cells:?}");
        let pairs = slugs.into_iter().zip(codes);
        listed.extend(pairs.map(|(slug, code)| (slug.to_owned(), code.to_owned())));
    }
    let mut refusals: Vec<_> = one_of_each()
        .iter()
        .map(|refusal| (format!("`{}`", refusal.slug()), refusal.code().1.to_owned()))
        .collect();
    listed.sort();
    refusals.sort();
    assert_eq!(listed, refusals);

    let listed = rows(page, "## Without headers");
    let listed: Vec<_> = listed.iter().map(|cells| (cells[0], cells[1])).collect();
    let open: Vec<_> = one_of_each()
        .iter()
        .filter(|refusal| refusal.outcome() != CallOutcome::NotExecuted)
        .map(|refusal| {
            (
                format!("`{}`", refusal.code().1),
                format!("`{}`", refusal.slug()),
            )
        })
        .collect();
    let open: Vec<_> = open.iter().map(|(code, slug)| (&**code, &**slug)).collect();
    assert_eq!(listed, open);
}
