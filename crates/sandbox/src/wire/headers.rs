//! Headers of a request.

use hyper::HeaderMap;

use crate::wire::failure::ApiFailure;

/// The value of a header that must be present exactly once.
pub(crate) fn single<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
) -> Result<&'h [u8], ApiFailure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        _ => Err(ApiFailure::Malformed(name)),
    }
}
