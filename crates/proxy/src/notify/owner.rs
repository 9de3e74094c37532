//! Owner: which tenant a notification belongs to. The rules are [`gatepay_core::ownership`]'s; this room resolves the
//! hints, and decides again about notifications in quarantine.

pub mod placement;
pub mod quarantine;
pub mod registered_tenants;
