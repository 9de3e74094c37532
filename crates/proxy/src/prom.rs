//! Building blocks of metrics.

pub mod histogram;
pub mod outcome;
pub mod registrar;
