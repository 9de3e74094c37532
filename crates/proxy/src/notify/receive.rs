//! Receive: GatePay's calls, from the connection to the acknowledgment. A notification is acknowledged once it is
//! committed, with its owner or in quarantine.

pub mod caller_shares;
pub mod institution_keys;
pub mod listener;
mod log_budget;
pub mod meters;
pub mod notification_exchange;
pub mod reception;
