//! Destinations: where a tenant's money may go, as configured.

use std::collections::BTreeSet;
use std::time::Duration;

use gatepay_core::money::MoneyTarget;

/// The destinations of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDestinations {
    /// Whether money goes to listed targets only.
    pub mode: DestinationMode,
    /// How long a new destination waits before it is usable.
    pub hold: Duration,
    /// The list.
    pub listed: BTreeSet<MoneyTarget>,
}

/// Where a tenant's money may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationMode {
    /// Anywhere. The holds of listed targets are counted already.
    Any,
    /// To listed destinations only.
    Listed,
}

impl TenantDestinations {
    /// A day: as long as it takes that a destination that was added is noticed.
    pub const HOLD: Duration = Duration::from_hours(24);
}

impl DestinationMode {
    /// The word in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Listed => "listed",
        }
    }
}
