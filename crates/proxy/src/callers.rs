//! Callers: their addresses, their limits for connections, requests and memory, and their timeouts.

pub mod activity;
pub mod address_limits;
pub mod auth_throttle;
pub mod body_memory;
pub mod client_address;
pub mod connection_slots;
pub mod open_files;
