//! A request from a file, or from its parts.

use gatepay_proxy::headers::KnownHeaders;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};

/// A request as it was sent.
#[derive(Debug)]
pub(super) struct ExplainInput {
    /// Method and target.
    pub(super) line: Option<(String, String)>,
    /// The headers of a request file, or the three that were given as options.
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Whether the head is complete, so that an absent header is really missing.
    pub(super) whole: bool,
}

impl ExplainInput {
    /// The headers that the proxy reads.
    pub(super) fn lines(&self) -> KnownHeaders<'_> {
        let head = self.headers.iter();
        KnownHeaders::read(head.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    }

    /// A header's first value as text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<String> {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// Builds a request from the given parts.
pub(super) fn of_parts(
    values: [(HeaderName, String); 3],
    line: Option<(String, String)>,
    body: Vec<u8>,
) -> Result<ExplainInput, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in values {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| format!("{name} cannot stand in a header"))?;
        headers.insert(name, value);
    }
    Ok(ExplainInput {
        line,
        headers,
        body,
        whole: false,
    })
}

/// Reads a raw request: first line, headers, an empty line, body. Lines may end in CR LF or LF.
pub(super) fn parse(raw: &[u8]) -> Result<ExplainInput, String> {
    let mut rest = raw;
    let first = line(&mut rest)
        .filter(|line| !line.is_empty())
        .ok_or("there is no request in it")?;
    let request_line =
        request_line(first).ok_or("line 1: must be like `POST /v1/pay/order HTTP/1.1`")?;
    let mut headers = HeaderMap::new();
    for number in 2.. {
        let text = line(&mut rest).ok_or("there is no empty line after the headers")?;
        if text.is_empty() {
            break;
        }
        let (name, value) =
            header(text).ok_or_else(|| format!("line {number}: must be like `Name: value`"))?;
        headers.append(name, value);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err("its body is chunked; save it decoded, without Transfer-Encoding".to_owned());
    }
    let body = body(&headers, rest)?;
    Ok(ExplainInput {
        line: Some(request_line),
        headers,
        body: body.to_vec(),
        whole: true,
    })
}

/// The next line, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn request_line(line: &[u8]) -> Option<(String, String)> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None)
            if !method.is_empty() && version.starts_with("HTTP/") =>
        {
            Some((method.to_owned(), target.to_owned()))
        }
        _ => None,
    }
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    Some((
        HeaderName::from_bytes(name).ok()?,
        HeaderValue::from_bytes(value.trim_ascii()).ok()?,
    ))
}

/// The announced number of body bytes: an editor may have added a line feed to the file.
fn body<'a>(headers: &HeaderMap, rest: &'a [u8]) -> Result<&'a [u8], String> {
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return Ok(rest);
    };
    let length: usize = length
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("Content-Length is no number")?;
    rest.get(..length).ok_or_else(|| {
        format!(
            "Content-Length announces {length} bytes of body, and {} are there",
            rest.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_either_line_end() {
        for raw in [
            &b"POST /v1/pay/order?a=1 HTTP/1.1\r\nHost: x\r\nX-GatePay-Nonce:  n \r\n\r\n{\n}\n"[..],
            b"POST /v1/pay/order?a=1 HTTP/1.1\nHost: x\nX-GatePay-Nonce:  n \n\n{\n}\n",
        ] {
            let input = parse(raw).unwrap();
            assert_eq!(
                input.line,
                Some(("POST".to_owned(), "/v1/pay/order?a=1".to_owned()))
            );
            assert_eq!(
                (&input.headers["x-gatepay-nonce"], &input.body[..]),
                (&HeaderValue::from_static("n"), &b"{\n}\n"[..])
            );
        }
    }

    #[test]
    fn a_line_feed_added_by_an_editor_is_not_part_of_the_body() {
        let input = parse(b"POST / HTTP/1.1\nContent-Length: 2\n\n{}\n").unwrap();
        assert_eq!(input.body, b"{}");
        let input = parse(b"GET / HTTP/1.1\n\n").unwrap();
        assert_eq!(input.body, b"");
    }

    #[test]
    fn a_malformed_request_file_is_refused_with_the_line_number() {
        for (raw, error) in [
            (&b""[..], "there is no request in it"),
            (b"\n", "there is no request in it"),
            (
                b"X-GatePay-Nonce: n\n\n",
                "line 1: must be like `POST /v1/pay/order HTTP/1.1`",
            ),
            (
                b"GET / HTTP/1.1\nHost: x\nodd\n\n",
                "line 3: must be like `Name: value`",
            ),
            (
                b"GET / HTTP/1.1\nHost: x\n",
                "there is no empty line after the headers",
            ),
            (
                b"POST / HTTP/1.1\nContent-Length: 3\n\n{}",
                "Content-Length announces 3 bytes of body, and 2 are there",
            ),
            (
                b"POST / HTTP/1.1\nContent-Length: x\n\n{}",
                "Content-Length is no number",
            ),
            (
                b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n0\n\n",
                "its body is chunked; save it decoded, without Transfer-Encoding",
            ),
        ] {
            assert_eq!(parse(raw).unwrap_err(), error);
        }
    }
}
