//! Body: mistakes in the signed body.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256, Sha512};

use super::{ClaimedRequest, MistakeChange, MistakeHypothesis, RequestLine, restyle};

/// The bodies that serializers write for "nothing".
const NOTHINGS: [(&str, &str); 6] = [
    ("`{}`, though no body was sent", "{}"),
    ("`[]`, though no body was sent", "[]"),
    ("`null`, though no body was sent", "null"),
    ("`\"\"`, though no body was sent", "\"\""),
    ("`undefined`, though no body was sent", "undefined"),
    ("`None`, though no body was sent", "None"),
];

type Named = (Cow<'static, str>, Vec<u8>);

/// The bodies that may have been signed: each differs from the sent body and from the others.
pub(super) fn hypotheses(request: &ClaimedRequest<'_>) -> Vec<MistakeHypothesis> {
    let body = request.body;
    let mut distinct: Vec<Named> = Vec::new();
    let all = ends(body)
        .chain(json(body))
        .chain(nothings(body))
        .chain(hashes(body))
        .chain(
            request
                .line
                .into_iter()
                .flat_map(|line| with_line(line, body)),
        );
    for (what, bytes) in all {
        if bytes != body && distinct.iter().all(|(_, other)| *other != bytes) {
            distinct.push((what, bytes));
        }
    }
    distinct
        .into_iter()
        .map(|(what, bytes)| MistakeHypothesis::new(what, MistakeChange::Body(bytes)))
        .collect()
}

/// Bodies with other line ends and white space, which files, editors and tools add and remove.
fn ends(body: &[u8]) -> impl Iterator<Item = Named> {
    let one_end_less = body
        .strip_suffix(b"\r\n")
        .or_else(|| body.strip_suffix(b"\n"))
        .unwrap_or(body);
    let unix: Vec<u8> = body
        .iter()
        .enumerate()
        .filter(|(at, byte)| !(**byte == b'\r' && body.get(at + 1) == Some(&b'\n')))
        .map(|(_, byte)| *byte)
        .collect();
    let windows: Vec<u8> = unix
        .iter()
        .flat_map(|byte| {
            if *byte == b'\n' {
                &b"\r\n"[..]
            } else {
                std::slice::from_ref(byte)
            }
        })
        .copied()
        .collect();
    let one_line: Vec<u8> = body
        .iter()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .copied()
        .collect();
    named([
        ("nothing, though a body was sent", Vec::new()),
        ("the body with a line feed after it", [body, b"\n"].concat()),
        ("the body with CR LF after it", [body, b"\r\n"].concat()),
        (
            "the body without the line end after it",
            one_end_less.to_vec(),
        ),
        (
            "the body without the white space around it",
            body.trim_ascii().to_vec(),
        ),
        ("the body with LF where it has CR LF", unix),
        ("the body with CR LF where it has LF", windows),
        (
            "the body without its line ends, as `curl --data @file` makes it; `--data-binary` keeps them",
            one_line,
        ),
    ])
}

/// The same JSON in the styles of other serializers.
fn json(body: &[u8]) -> impl Iterator<Item = Named> {
    let text = str::from_utf8(body).ok().filter(|text| !text.is_empty());
    let twice = text.and_then(|text| serde_json::to_vec(text).ok());
    let inner = text.and_then(|text| serde_json::from_str::<String>(text).ok());
    let restyled = text.map(restyle::all).unwrap_or_default();
    restyled
        .into_iter()
        .map(|(what, text)| (Cow::Owned(what), text.into_bytes()))
        .chain(twice.map(|bytes| ("the body as a JSON string: serialized twice".into(), bytes)))
        .chain(inner.map(|text| {
            (
                "the text inside the JSON string that was sent".into(),
                text.into_bytes(),
            )
        }))
}

fn nothings(body: &[u8]) -> impl Iterator<Item = Named> {
    let empty = body.is_empty();
    NOTHINGS
        .iter()
        .filter(move |_| empty)
        .map(|(what, text)| ((*what).into(), text.as_bytes().to_vec()))
}

fn hashes(body: &[u8]) -> impl Iterator<Item = Named> {
    named([
        (
            "the SHA-256 of the body, in hexadecimal",
            hex::encode(Sha256::digest(body)).into_bytes(),
        ),
        (
            "the SHA-512 of the body, in hexadecimal",
            hex::encode(Sha512::digest(body)).into_bytes(),
        ),
    ])
}

/// Method, path and query before the body or in its place. If line feeds separate them, they belong to `layout`.
fn with_line(
    RequestLine { method, target }: RequestLine<'_>,
    body: &[u8],
) -> impl Iterator<Item = Named> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let marked = if query.is_empty() {
        String::new()
    } else {
        format!("?{query}")
    };
    let before = |parts: &[&str]| [parts.concat().as_bytes(), body].concat();
    let instead = |text: &str| text.as_bytes().to_vec();
    named([
        ("the query instead of the body", instead(query)),
        (
            "the query with its `?` instead of the body",
            instead(&marked),
        ),
        ("the path instead of the body", instead(path)),
        ("path and query instead of the body", instead(target)),
        ("the query with the body after it", before(&[query])),
        (
            "the query with its `?` with the body after it",
            before(&[&marked]),
        ),
        ("the path with the body after it", before(&[path])),
        ("path and query with the body after them", before(&[target])),
        (
            "method and path with the body after them",
            before(&[method, path]),
        ),
        (
            "method, path and query with the body after them",
            before(&[method, target]),
        ),
    ])
}

fn named<const N: usize>(all: [(&'static str, Vec<u8>); N]) -> impl Iterator<Item = Named> {
    all.into_iter().map(|(what, bytes)| (what.into(), bytes))
}
