//! Reads `multipart/form-data` (RFC 7578), as far as two calls need: fields by name, and the names of files.

use serde_json::{Map, Value};

use crate::wire::failure::ApiFailure;

/// The fields of a form. The value of a file field is the file's name; the content is not read.
pub(crate) fn fields(content_type: &str, body: &[u8]) -> Result<Map<String, Value>, ApiFailure> {
    let boundary = boundary(content_type).ok_or(ApiFailure::UnsupportedContentType)?;
    parts(body, boundary)
        .and_then(|parts| parts.into_iter().map(field).collect())
        .ok_or(ApiFailure::Malformed("body"))
}

fn boundary(content_type: &str) -> Option<&str> {
    content_type
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim().trim_matches('"'))
        .filter(|boundary| !boundary.is_empty())
}

/// The parts between the delimiters, up to the closing delimiter.
fn parts<'b>(body: &'b [u8], boundary: &str) -> Option<Vec<&'b [u8]>> {
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n")?;
        let (part, after) = split(rest, delimiter.as_bytes())?;
        parts.push(part);
        rest = after;
    }
    Some(parts)
}

/// A field's name and value.
fn field(part: &[u8]) -> Option<(String, Value)> {
    let (head, value) = split(part, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(head);
    let disposition = head.lines().find(|line| {
        line.get(..20)
            .is_some_and(|name| name.eq_ignore_ascii_case("Content-Disposition:"))
    })?;
    let name = quoted(disposition, "; name=\"")?;
    let value = match quoted(disposition, "; filename=\"") {
        Some(file) => file,
        None => String::from_utf8_lossy(value).into_owned(),
    };
    Some((name, Value::String(value)))
}

/// The text between `start` and the next quotation mark.
fn quoted(line: &str, start: &str) -> Option<String> {
    let (_, rest) = line.split_once(start)?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The bytes before and after the first `mark`.
fn split<'b>(bytes: &'b [u8], mark: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let at = bytes
        .windows(mark.len())
        .position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const TYPE: &str = "multipart/form-data; charset=utf-8; Boundary=\"x y\"";
    const FORM: &str = "--x y\r\nContent-Disposition: form-data; name=\"iban\"\r\n\r\nDE02\r\n\
        --x y\r\ncontent-type: application/pdf\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\n%PDF\r\n\r\n-\r\n--x y--\r\n";

    #[test]
    fn fields_are_read_by_name_and_files_by_theirs() {
        assert_eq!(
            fields(TYPE, FORM.as_bytes()).map(Value::Object),
            Ok(json!({"iban": "DE02", "file": "a.pdf"}))
        );
    }

    #[test]
    fn a_file_name_is_read_whole_and_names_no_field() {
        for (disposition, field, value) in [
            ("filename=\"x; name=q\"; name=\"file\"", "file", "x; name=q"),
            ("name=\"a; filename=z\"", "a; filename=z", "%PDF"),
            (
                "name=\"file\"; filename*=UTF-8''%C3%A4; filename=\"a\"",
                "file",
                "a",
            ),
        ] {
            let form = format!(
                "--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n%PDF\r\n--b--"
            );
            assert_eq!(
                fields("multipart/form-data; boundary=b", form.as_bytes()).map(Value::Object),
                Ok(json!({ field: value })),
                "{disposition}"
            );
        }
    }

    #[test]
    fn a_form_without_a_boundary_or_an_end_is_refused() {
        let without = fields("multipart/form-data", FORM.as_bytes());
        assert_eq!(without, Err(ApiFailure::UnsupportedContentType));
        for cut in 0..FORM.len() - 4 {
            let refused = fields(TYPE, &FORM.as_bytes()[..cut]);
            assert_eq!(refused, Err(ApiFailure::Malformed("body")), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_multipart_form_never_panics(body: Vec<u8>) {
            let _ = fields(TYPE, &body);
        }
    }
}
