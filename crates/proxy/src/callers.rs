//! Callers: where they are, how much each may hold open, and how long each may take.

pub mod activity;
pub mod address_limits;
pub mod auth_throttle;
pub mod body_memory;
pub mod client_address;
pub mod connection_slots;
pub mod open_files;
