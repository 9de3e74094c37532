//! Query fields: the parameters of an admin request, each known and given at most once.

use std::borrow::Cow;

use gatepay_core::query_text;
use http::StatusCode;

use crate::admin::reply::AdminFailure;

/// The values of these parameters, decoded, in the order of the names.
pub(super) fn query_fields<'q, const N: usize>(
    query: Option<&'q str>,
    names: [&'static str; N],
) -> Result<[Option<Cow<'q, str>>; N], AdminFailure> {
    let bad = |text| AdminFailure(StatusCode::BAD_REQUEST, text);
    let mut values = [const { None }; N];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = names.iter().position(|known| *known == name) else {
            let known = names.join(", ");
            return Err(bad(format!("the parameters are {known}\n").into()));
        };
        if values[at].replace(query_text(value)).is_some() {
            return Err(bad(format!("{} stands more than once\n", names[at]).into()));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_known_decoded_and_given_once() {
        let read = |query| {
            let fields = query_fields(Some(query), ["state", "after"]);
            fields.map_err(|AdminFailure(_, text)| text.into_owned())
        };
        let value = |text: &str| Some(Cow::Owned::<str>(text.to_owned()));
        assert_eq!(read("after=a%2Bb&state="), Ok([value(""), value("a+b")]));
        assert_eq!(read(""), Ok([None, None]));
        let twice = "state stands more than once\n".to_owned();
        assert_eq!(read("state=dead&state=dead"), Err(twice));
        let unknown = "the parameters are state, after\n".to_owned();
        assert_eq!(read("before=1"), Err(unknown));
    }
}
