//! How requests are read and answers are written.

pub(crate) mod amount;
pub(crate) mod answer;
pub(crate) mod failure;
pub(crate) mod headers;
pub(crate) mod multipart;
pub(crate) mod parameters;
