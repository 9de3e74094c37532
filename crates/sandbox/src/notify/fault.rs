//! Faults of notifications on demand: errors of GatePay's, and behavior that its pages leave open.

use std::time::Duration;

/// A fault of one notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendingFault {
    /// The notification is sent twice with the same body, perhaps at the same time. Each is repeated by itself.
    Twice,
    /// The first attempt is late by this time on the sandbox's clock. Later notifications do not wait.
    Late(Duration),
    /// The first attempt follows the first attempt of any later notification.
    OutOfOrder,
    /// The statuses of one object come in the reverse order, the final status first. Strikes news of several statuses,
    /// as a whole.
    ReversedStatuses,
    /// The body names no client id.
    WithoutClientId,
    /// The body names the client id in `clientId` instead of `client_id`.
    CamelClientId,
    /// `data` is an object instead of JSON text in a string. A payout has no `data`.
    DataAsObject,
    /// Every attempt has a signature that does not verify.
    WrongSignature,
    /// A `bizType` that no page has. A payout has no `bizType`.
    UnknownKind,
    /// Another status than the ledger's, such as `REFUND_REJECTED`. The ledger does not change. With `PARTIAL` a
    /// payout's first sub-order is `DONE`, and the others are `FAIL`.
    Status(String),
    /// The body is cut in half, and so is no JSON. It is signed as it is sent.
    NotJson,
}

impl SendingFault {
    /// Strikes the next notification.
    pub fn once(self) -> SendingInjection {
        self.times(1)
    }

    /// Strikes the next `times` notifications.
    pub fn times(self, times: u32) -> SendingInjection {
        SendingInjection {
            fault: self,
            left: Some(times),
            kind: None,
        }
    }

    /// Strikes every notification until faults are cleared.
    pub fn always(self) -> SendingInjection {
        SendingInjection {
            fault: self,
            left: None,
            kind: None,
        }
    }
}

/// A fault and the filter of the notifications that it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendingInjection {
    fault: SendingFault,
    /// The number of notifications left to strike; `None` is unlimited.
    left: Option<u32>,
    /// The kind of notifications to strike; `None` is any kind.
    kind: Option<String>,
}

impl SendingInjection {
    /// Strikes only notifications of this kind: a `bizType`, or `WITHDRAW` for payouts.
    #[must_use]
    pub fn of_kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }
}

/// The queue of faults. Only the first matching fault strikes a notification.
#[derive(Default)]
pub(crate) struct SendingFaults(Vec<SendingInjection>);

impl SendingFaults {
    pub(crate) fn inject(&mut self, injection: SendingInjection) {
        self.0.push(injection);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the fault for a notification of this kind, and counts it down.
    pub(crate) fn strike(&mut self, kind: &str) -> Option<SendingFault> {
        self.strike_if(kind, |fault| *fault != SendingFault::ReversedStatuses)
    }

    /// Whether the statuses of news of this kind come in the reverse order.
    pub(crate) fn strike_order(&mut self, kind: &str) -> bool {
        self.strike_if(kind, |fault| *fault == SendingFault::ReversedStatuses)
            .is_some()
    }

    fn strike_if(
        &mut self,
        kind: &str,
        may: impl Fn(&SendingFault) -> bool,
    ) -> Option<SendingFault> {
        self.0.retain(|injection| injection.left != Some(0));
        let injection = self.0.iter_mut().find(|injection| {
            may(&injection.fault) && injection.kind.as_deref().is_none_or(|only| only == kind)
        })?;
        injection.left = injection.left.map(|left| left - 1);
        Some(injection.fault.clone())
    }
}
