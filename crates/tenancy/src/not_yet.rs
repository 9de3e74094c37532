//! Keys that this version understands but does not act on. They are refused: a setting that is silently ignored is
//! believed in. Whoever makes one work takes its line out.

use serde_json::json;

use crate::document::Value;
use crate::reader::Reader;

/// A key, and the value of it that is not supported.
pub(crate) struct NotYet(&'static str, Which);

enum Which {
    Any,
    /// Every number but this one, which is the default.
    NumberOtherThan(i64),
}

/// In `proxy.toml`.
pub(crate) const PROXY: &[NotYet] = &[
    NotYet("poll_ms", Which::NumberOtherThan(2_000)),
    NotYet("admin.token", Which::Any),
];

/// Reports what of the list stands in a table.
pub(crate) fn refuse(list: &[NotYet], reader: &Reader<'_>) {
    for NotYet(path, which) in list {
        reader.narrow(path, || match which {
            Which::Any => json!({ "not": {} }),
            Which::NumberOtherThan(default) => json!({ "const": default }),
        });
        let Some(value) = reader.peek(path) else {
            continue;
        };
        let text = "is not supported by this version yet";
        match (which, value) {
            (Which::Any, _) => reader.problem(path, text),
            // A number that can never be right is a problem of its own already.
            (Which::NumberOtherThan(default), Value::Integer(number))
                if *number > 0 && number != default =>
            {
                reader.problem(path, format!("{text}; leave it at {default}"));
            }
            _ => {}
        }
    }
}
