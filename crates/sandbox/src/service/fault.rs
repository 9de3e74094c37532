//! Faults on demand: the failures that can occur between a request and its answer.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::failure::ApiFailure;

/// A fault. Variants are in the order in which they take effect. Each variant states whether the request was executed,
/// because the caller cannot know that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectedFault {
    /// A TCP reset as soon as the head is known; the body is not read. Not executed.
    ResetBeforeReading,
    /// A TCP reset after the whole request was read. Not executed.
    ResetBeforeExecuting,
    /// A failure answer of GatePay's. Not executed.
    Failure(ApiFailure),
    /// Any answer, as from an intermediary in front of GatePay. Not executed.
    Status {
        /// The HTTP status, 200 to 599.
        status: u16,
        /// The body, sent as `text/plain`.
        body: Bytes,
    },
    /// A TCP reset in place of the answer. Executed.
    ResetAfterExecuting,
    /// The answer comes late. Executed at once.
    Delay(Duration),
    /// The answer comes byte by byte, with this pause before each. Executed.
    Drip(Duration),
    /// A TCP reset after `after_bytes` of the answer, counted from its status line. A shorter answer is sent whole
    /// before the reset. Executed.
    ResetMidAnswer {
        /// The number of bytes sent before the reset.
        after_bytes: usize,
    },
    /// Half of the body that `Content-Length` promises, then an orderly close. Executed.
    Truncated,
    /// A chunked answer without its last chunk. Sending stops at the first of the two bounds, or when the caller
    /// disconnects. Executed.
    Endless {
        /// The maximum size of the body, in bytes.
        max_bytes: u64,
        /// The maximum time of sending.
        max_time: Duration,
    },
    /// These bytes in place of the answer, meant not to be HTTP, then an orderly close. Executed.
    Garbage(Bytes),
}

impl InjectedFault {
    /// Strikes the next request.
    pub fn once(self) -> FaultInjection {
        self.times(1)
    }

    /// Strikes the next `times` requests.
    pub fn times(self, times: u32) -> FaultInjection {
        FaultInjection {
            fault: self,
            left: Some(times),
            path: None,
            account: None,
        }
    }

    /// Strikes every request until faults are cleared.
    pub fn always(self) -> FaultInjection {
        FaultInjection {
            fault: self,
            left: None,
            path: None,
            account: None,
        }
    }
}

/// A fault and the filter of the requests that it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultInjection {
    fault: InjectedFault,
    /// The number of requests left to strike; `None` is unlimited.
    left: Option<u32>,
    /// The path of requests to strike; `None` is any path.
    path: Option<String>,
    /// The `X-GatePay-On-Behalf-Of` of requests to strike; `None` is any value.
    account: Option<String>,
}

impl FaultInjection {
    /// Strikes only requests for this path: an institution path without a query.
    #[must_use]
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Strikes only requests on behalf of this account.
    #[must_use]
    pub fn of(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    fn fits(&self, path: &str, account: Option<&str>) -> bool {
        self.path.as_deref().is_none_or(|only| only == path)
            && self
                .account
                .as_deref()
                .is_none_or(|only| Some(only) == account)
    }
}

/// The queue of faults. Only the first matching fault strikes a request.
#[derive(Default)]
pub(crate) struct FaultQueue(Vec<FaultInjection>);

impl FaultQueue {
    pub(crate) fn inject(&mut self, injection: FaultInjection) {
        self.0.push(injection);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the fault for a request to `path` on behalf of `account`, and counts it down.
    pub(crate) fn strike(&mut self, path: &str, account: Option<&str>) -> Option<InjectedFault> {
        self.0.retain(|injection| injection.left != Some(0));
        let injection = self
            .0
            .iter_mut()
            .find(|injection| injection.fits(path, account))?;
        injection.left = injection.left.map(|left| left - 1);
        Some(injection.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_asked_and_where_asked() {
        let mut faults = FaultQueue::default();
        faults.inject(InjectedFault::Truncated.times(2).on("/a"));
        faults.inject(InjectedFault::ResetBeforeReading.always());
        let strikes: Vec<_> = ["/b", "/a", "/a", "/a"]
            .map(|path| faults.strike(path, None))
            .into();
        let reset = Some(InjectedFault::ResetBeforeReading);
        let truncated = Some(InjectedFault::Truncated);
        assert_eq!(
            strikes,
            [reset.clone(), truncated.clone(), truncated, reset]
        );
        faults.clear();
        assert_eq!(faults.strike("/a", None), None);
    }

    #[test]
    fn a_fault_of_one_account_strikes_no_other() {
        let mut faults = FaultQueue::default();
        faults.inject(InjectedFault::Truncated.always().of("7"));
        for (account, struck) in [(Some("7"), true), (Some("77"), false), (None, false)] {
            assert_eq!(
                faults.strike("/a", account).is_some(),
                struck,
                "{account:?}"
            );
        }
    }

    #[test]
    fn a_fault_injected_for_no_request_strikes_none() {
        let mut faults = FaultQueue::default();
        faults.inject(InjectedFault::Truncated.times(0));
        assert_eq!(faults.strike("/a", None), None);
    }
}
