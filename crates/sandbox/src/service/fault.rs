//! Misbehavior on demand: what can go wrong between a request and its answer.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::failure::ApiFailure;

/// One way to misbehave. Variants are in the order in which they strike; each says whether the request was executed,
/// for that is what the caller cannot know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectedFault {
    /// A TCP reset as soon as the head is known; the body is not read. Not executed.
    ResetBeforeReading,
    /// A TCP reset after the whole request was read. Not executed.
    ResetBeforeExecuting,
    /// An answer of GatePay's that says no. Not executed.
    Failure(ApiFailure),
    /// Any answer, as from something that stands before GatePay. Not executed.
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
    /// A TCP reset after so many bytes of the answer, counted from its status line, or after all if it is shorter.
    /// Executed.
    ResetMidAnswer {
        /// How many bytes are sent.
        after_bytes: usize,
    },
    /// Half of the body that `Content-Length` promises, then an orderly close. Executed.
    Truncated,
    /// A chunked answer without an end. It stops at whichever bound comes first, still without its last chunk, or
    /// when the caller hangs up. Executed.
    Endless {
        /// How many bytes of body are sent at most.
        max_bytes: u64,
        /// For how long at most.
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

    /// Strikes the next so many requests.
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

/// A fault, and which requests it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultInjection {
    fault: InjectedFault,
    /// How many requests it will still strike; `None` is all.
    left: Option<u32>,
    /// The only path it strikes; `None` is any.
    path: Option<String>,
    /// The only `X-GatePay-On-Behalf-Of` it strikes; `None` is any.
    account: Option<String>,
}

impl FaultInjection {
    /// Strikes requests for this path only, the institution path without a query.
    #[must_use]
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Strikes requests on behalf of this account only.
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

/// The faults that wait. A request is struck by the first that fits it, and by no other.
#[derive(Default)]
pub(crate) struct FaultQueue(Vec<FaultInjection>);

impl FaultQueue {
    pub(crate) fn inject(&mut self, injection: FaultInjection) {
        self.0.push(injection);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for a request to `path` on behalf of `account`, counted as spent.
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
