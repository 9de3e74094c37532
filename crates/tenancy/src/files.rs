//! The keys of each file: from a table to a type of the model.

pub(crate) mod admin_operators;
pub(crate) mod caps_file;
pub(crate) mod credentials;
pub(crate) mod destinations_file;
pub(crate) mod listener_keys;
pub(crate) mod notifications_file;
pub(crate) mod operation_paths;
pub(crate) mod operations;
pub(crate) mod operator_file;
pub(crate) mod party_file;
pub(crate) mod permissions;
pub(crate) mod proxy_file;
pub(crate) mod restrictions;
pub mod secrets;
pub(crate) mod store_file;
pub(crate) mod tenant_file;
pub(crate) mod written;
