//! Rules that the parts of the API share.

pub(crate) mod call;
pub(crate) mod market;
pub(crate) mod news;
pub(crate) mod numbers;
pub(crate) mod page;
