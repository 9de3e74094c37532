//! TLS of both sides: the listener's certificate, and trust in GatePay's.

pub mod certificate;
pub mod config;
pub mod fault_text;
pub mod pinned;
