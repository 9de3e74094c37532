//! What metrics are made with.

pub mod histogram;
pub mod outcome;
pub mod registrar;
