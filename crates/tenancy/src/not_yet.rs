//! Keys that this version understands but does not act on. They are refused: a setting that is silently ignored is
//! believed in. Whoever makes one work takes its line out.

use crate::document::Value;
use crate::reader::Reader;

/// A key, and the value of it that is not supported.
pub(crate) struct NotYet(&'static str, Which);

enum Which {
    Any,
    True,
    Word(&'static str),
}

/// In `proxy.toml`.
pub(crate) const PROXY: &[NotYet] = &[
    NotYet("operators", Which::Any),
    NotYet("clock", Which::Word("follow")),
    NotYet("listen.trusted_proxies", Which::Any),
    NotYet("listen.proxy_protocol", Which::True),
    NotYet("listen.tls.client_ca", Which::Any),
    NotYet("admin.token", Which::Any),
    NotYet("upstream.proxy", Which::Any),
    NotYet("upstream.quota.reserve", Which::Any),
    NotYet("upstream.quota.floor", Which::Any),
    NotYet("audit", Which::Any),
];

/// In a tenant's table.
pub(crate) const TENANT: &[NotYet] = &[NotYet("replay", Which::Word("nonce"))];

/// Reports what of the list stands in a table.
pub(crate) fn refuse(list: &[NotYet], reader: &Reader<'_>) {
    for NotYet(path, which) in list {
        let refused = reader.peek(path).is_some_and(|value| match (which, value) {
            (Which::Any, _) | (Which::True, Value::Flag(true)) => true,
            (Which::Word(word), Value::Text(text)) => word == text,
            _ => false,
        });
        if refused {
            reader.problem(path, "is not supported by this version yet");
        }
    }
}
