//! TOML and JSON: a file as a tree with lines, its tables read key by key, and the problems found.

pub(crate) mod document;
pub mod problem;
pub(crate) mod schema_recorder;
pub(crate) mod table_reader;
pub(crate) mod value;
