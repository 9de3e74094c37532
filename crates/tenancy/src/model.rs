//! The types that the files become: they cannot be wrong, and know no file.

pub mod caps;
pub(crate) mod configuration;
pub mod destinations;
pub(crate) mod facts;
pub mod notifications;
pub mod operator;
pub mod party;
pub mod permissions;
pub mod registry;
pub(crate) mod restriction;
pub mod settings;
pub(crate) mod snapshot;
pub mod tenant;
pub(crate) mod tls_files;
pub mod url;

pub(crate) mod claims;
