//! Files as such: their metadata, opening, listing and durable writing, with any content.

pub(crate) mod durable_write;
pub(crate) mod file_stamp;
pub(crate) mod party_files;
pub(crate) mod regular_file;
