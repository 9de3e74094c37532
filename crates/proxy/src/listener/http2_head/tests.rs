use super::*;
use http::Request;

fn checked(method: &str, uri: &str, lines: &[(&str, &str)]) -> Result<(), FramingError> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    check(&request.body(()).unwrap().into_parts().0)
}

#[test]
fn an_authority_and_a_host_are_one_or_the_request_is_refused() {
    for (uri, lines, expected) in [
        ("https://pay.example/v1", &[][..], Ok(())),
        ("/v1", &[("host", "pay.example")], Ok(())),
        ("https://pay.example/v1", &[("host", "PAY.example")], Ok(())),
        (
            "https://pay.example:443/v1",
            &[("host", "pay.example")],
            Ok(()),
        ),
        (
            "http://pay.example/v1",
            &[("host", "pay.example:80")],
            Ok(()),
        ),
        (
            "https://[2001:db8::1]:8443/v1",
            &[("host", "[2001:DB8::1]:8443")],
            Ok(()),
        ),
        (
            "https://pay.example/v1",
            &[("host", "other.example")],
            Err(FramingError::OtherHost),
        ),
        (
            "https://pay.example/v1",
            &[("host", "pay.example:80")],
            Err(FramingError::OtherHost),
        ),
        (
            "http://pay.example/v1",
            &[("host", "pay.example:443")],
            Err(FramingError::OtherHost),
        ),
        (
            "https://pay.example/v1",
            &[("host", "")],
            Err(FramingError::OddHost),
        ),
        (
            "https://pay.example/v1",
            &[("host", "x@pay.example")],
            Err(FramingError::OddHost),
        ),
        (
            "https://user@pay.example/v1",
            &[],
            Err(FramingError::OddHost),
        ),
        (
            "https://user:key@pay.example/v1",
            &[("host", "pay.example")],
            Err(FramingError::OddHost),
        ),
        ("/v1", &[], Err(FramingError::NoHost)),
        (
            "/v1",
            &[("host", "a"), ("host", "a")],
            Err(FramingError::Hosts),
        ),
    ] {
        assert_eq!(checked("POST", uri, lines), expected, "{uri} {lines:?}");
    }
}

#[test]
fn methods_targets_and_expectations_are_those_of_http_1() {
    let uri = "https://pay.example/v1";
    for (method, uri, lines, expected) in [
        ("TRACE", uri, &[][..], Err(FramingError::Method)),
        ("CONNECT", "pay.example:443", &[], Err(FramingError::Method)),
        ("OPTIONS", "*", &[("host", "a")], Err(FramingError::Target)),
        ("GET", "https://a/v1?é", &[], Err(FramingError::Target)),
        ("GET", "https://a/v1?a=b", &[], Ok(())),
        ("POST", uri, &[("expect", "100-Continue")], Ok(())),
        (
            "POST",
            uri,
            &[("expect", "200-ok")],
            Err(FramingError::Expect),
        ),
        (
            "POST",
            uri,
            &[("expect", "100-continue"), ("expect", "100-continue")],
            Err(FramingError::Expect),
        ),
    ] {
        assert_eq!(
            checked(method, uri, lines),
            expected,
            "{method} {uri} {lines:?}"
        );
    }
}
