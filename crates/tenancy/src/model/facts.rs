//! Facts: plain statements of a configuration, without secrets.

use std::collections::BTreeMap;

use serde_json::Value;

/// A JSON value for each key; keys as in the files, sorted.
pub type ConfigFacts = BTreeMap<String, Value>;
