//! Faults between the proxy and GatePay, as the sandbox injects them.

use std::time::Duration;

use gatepay_sandbox::{ApiFailure, InjectedFault};

use super::scenario::Mishap;
use crate::support::scripted::answer;

/// Delay of a slow answer, and of an answer that is in flight while a process ends.
pub(super) const SLOW: Duration = Duration::from_millis(250);
/// The short upstream deadline.
pub(super) const SHORT_DEADLINE: Duration = Duration::from_millis(100);

/// An answer that leaves the outcome of a call unclear.
struct Unclear {
    status: &'static str,
    lines: &'static str,
    body: &'static str,
}

const fn unclear(status: &'static str, lines: &'static str, body: &'static str) -> Unclear {
    Unclear {
        status,
        lines,
        body,
    }
}

const HTML: &str = "<html>not now</html>";
const REDIRECT: &str = "location: https://other.example/\r\n";
const UNCLEAR: [Unclear; 20] = [
    unclear("200 OK", "", ""),
    unclear("204 No Content", "", ""),
    unclear("200 OK", "", HTML),
    unclear("200 OK", "", r#"{"status":"SUCCESS","co"#),
    unclear("200 OK", "", "null"),
    unclear("200 OK", "", "{}"),
    unclear("200 OK", "", r#"{"other":1}"#),
    unclear(
        "200 OK",
        "",
        r#"{"status":"FAIL","code":"400000","data":null}"#,
    ),
    unclear(
        "200 OK",
        "",
        r#"{"status":"FAIL","code":"300000","data":null}"#,
    ),
    unclear(
        "200 OK",
        "",
        r#"{"status":"FAIL","code":"300001","data":null}"#,
    ),
    unclear("302 Found", REDIRECT, ""),
    unclear(
        "307 Temporary Redirect",
        REDIRECT,
        r#"{"status":"SUCCESS","code":"000000"}"#,
    ),
    unclear("408 Request Timeout", "", HTML),
    unclear("425 Too Early", "", HTML),
    unclear("429 Too Many Requests", "", HTML),
    unclear("500 Internal Server Error", "", ""),
    unclear("500 Internal Server Error", "", r#"{"error":"x"}"#),
    unclear("502 Bad Gateway", "", HTML),
    unclear(
        "503 Service Unavailable",
        "",
        r#"{"status":"SUCCESS","code":"000000"}"#,
    ),
    unclear("504 Gateway Timeout", "", HTML),
];

impl Mishap {
    /// The name in the tally.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LostUnread => "LostUnread",
            Self::LostBefore => "LostBefore",
            Self::LostAfter => "LostAfter",
            Self::CutAt(_) => "CutAt",
            Self::Halved => "Halved",
            Self::Slow => "Slow",
            Self::ExecutedBut(_) => "ExecutedBut",
            Self::Instead(_) => "Instead",
            Self::RefusesSignature => "RefusesSignature",
            Self::SystemError => "SystemError",
        }
    }

    pub(super) fn fault(self) -> InjectedFault {
        match self {
            Self::LostUnread => InjectedFault::ResetBeforeReading,
            Self::LostBefore => InjectedFault::ResetBeforeExecuting,
            Self::LostAfter => InjectedFault::ResetAfterExecuting,
            Self::CutAt(after) => InjectedFault::ResetMidAnswer {
                after_bytes: after.into(),
            },
            Self::Halved => InjectedFault::Truncated,
            Self::Slow => InjectedFault::Delay(SLOW),
            Self::ExecutedBut(which) => {
                let Unclear {
                    status,
                    lines,
                    body,
                } = which_of(which);
                InjectedFault::Garbage(wire(status, lines, body).into())
            }
            Self::Instead(which) => {
                let Unclear { status, body, .. } = which_of(which);
                let (digits, _) = status.split_once(' ').expect("a status line");
                InjectedFault::Status {
                    status: digits.parse().expect("digits"),
                    body: body.as_bytes().into(),
                }
            }
            Self::RefusesSignature => InjectedFault::Failure(ApiFailure::InvalidSignature),
            Self::SystemError => InjectedFault::Failure(ApiFailure::SystemError),
        }
    }
}

fn which_of(which: u8) -> &'static Unclear {
    &UNCLEAR[usize::from(which) % UNCLEAR.len()]
}

/// The complete response; a 204 is written without a body or a length.
fn wire(status: &str, lines: &str, body: &str) -> Vec<u8> {
    if status.starts_with("204") {
        return format!("HTTP/1.1 {status}\r\n{lines}\r\n").into_bytes();
    }
    answer(status, lines, body.as_bytes())
}
