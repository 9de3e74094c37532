//! Restyle: writes the same JSON in the styles of other serializers.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// Maximum nesting depth of a body that is restyled; serializers stop at about the same depth.
const DEEPEST: usize = 100;

/// The text in every style, with the name of each style, the plainest styles first. Empty if the text is not JSON.
pub(super) fn all(text: &str) -> Vec<(String, String)> {
    let Some(node) = parse(text) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for numbers in [NumberStyle::Kept, NumberStyle::Short, NumberStyle::Float] {
        for escapes in [
            EscapeStyle::Kept,
            EscapeStyle::Fewest,
            EscapeStyle::Ascii,
            EscapeStyle::Slashes,
            EscapeStyle::Html,
        ] {
            for sorted in [false, true] {
                for space in [
                    SpaceStyle::Compact,
                    SpaceStyle::Wide,
                    SpaceStyle::Indent(2),
                    SpaceStyle::Indent(4),
                ] {
                    let style = JsonStyle {
                        space,
                        sorted,
                        escapes,
                        numbers,
                    };
                    let mut out = String::with_capacity(text.len());
                    style.write(&node, 0, &mut out);
                    all.push((style.name(), out));
                }
            }
        }
    }
    all
}

#[derive(Clone, Copy)]
struct JsonStyle {
    space: SpaceStyle,
    sorted: bool,
    escapes: EscapeStyle,
    numbers: NumberStyle,
}

#[derive(Clone, Copy)]
enum SpaceStyle {
    /// As `JSON.stringify` and most others.
    Compact,
    /// As Python's `json.dumps`.
    Wide,
    Indent(usize),
}

#[derive(Clone, Copy)]
enum EscapeStyle {
    Kept,
    /// As `JSON.stringify` and `serde_json`.
    Fewest,
    /// As Python's `json.dumps`.
    Ascii,
    /// As PHP's `json_encode`.
    Slashes,
    /// As Go's `json.Marshal`.
    Html,
}

#[derive(Clone, Copy)]
enum NumberStyle {
    Kept,
    /// `10.00` as `10`: JavaScript.
    Short,
    /// `10.00` as `10.0`: Python, Java, Rust.
    Float,
}

impl JsonStyle {
    fn name(self) -> String {
        let space: Cow<'_, str> = match self.space {
            SpaceStyle::Compact => "the body as compact JSON".into(),
            SpaceStyle::Wide => "the body as JSON with `, ` and `: `".into(),
            SpaceStyle::Indent(by) => format!("the body as JSON indented by {by} spaces").into(),
        };
        let sorted = if self.sorted { ", keys sorted" } else { "" };
        let escapes = match self.escapes {
            EscapeStyle::Kept => "",
            EscapeStyle::Fewest => ", nothing escaped that need not be",
            EscapeStyle::Ascii => ", beyond ASCII as \\u",
            EscapeStyle::Slashes => ", `/` as `\\/`, beyond ASCII as \\u",
            EscapeStyle::Html => ", `<`, `>` and `&` as \\u",
        };
        let numbers = match self.numbers {
            NumberStyle::Kept => "",
            NumberStyle::Short => ", 10.00 as 10",
            NumberStyle::Float => ", 10.00 as 10.0",
        };
        format!("{space}{sorted}{escapes}{numbers}")
    }

    fn write(self, node: &JsonNode<'_>, depth: usize, out: &mut String) {
        match node {
            JsonNode::Word(word) => out.push_str(&self.numbers.write(word)),
            JsonNode::Text(token) => self.escapes.write(token, out),
            JsonNode::List(items) => self.write_all('[', ']', items, depth, out, |item, out| {
                self.write(item, depth + 1, out);
            }),
            JsonNode::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if self.sorted {
                    members.sort_by_cached_key(|(name, _)| unescaped(name));
                }
                let colon = if matches!(self.space, SpaceStyle::Compact) {
                    ":"
                } else {
                    ": "
                };
                self.write_all('{', '}', &members, depth, out, |(name, value), out| {
                    self.escapes.write(name, out);
                    out.push_str(colon);
                    self.write(value, depth + 1, out);
                });
            }
        }
    }

    fn write_all<T>(
        self,
        open: char,
        close: char,
        all: &[T],
        depth: usize,
        out: &mut String,
        each: impl Fn(&T, &mut String),
    ) {
        let line = |depth: usize, out: &mut String| {
            if let SpaceStyle::Indent(by) = self.space
                && !all.is_empty()
            {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', by * depth));
            }
        };
        out.push(open);
        for (at, one) in all.iter().enumerate() {
            if at > 0 {
                out.push_str(if matches!(self.space, SpaceStyle::Wide) {
                    ", "
                } else {
                    ","
                });
            }
            line(depth + 1, out);
            each(one, out);
        }
        line(depth, out);
        out.push(close);
    }
}

impl NumberStyle {
    fn write(self, word: &str) -> Cow<'_, str> {
        let float = word
            .contains(['.', 'e', 'E'])
            .then(|| word.parse::<f64>().ok())
            .flatten();
        match (self, float) {
            (Self::Short, Some(float)) => float.to_string().into(),
            (Self::Float, Some(float)) => format!("{float:?}").into(),
            (Self::Kept, _) | (_, None) => word.into(),
        }
    }
}

impl EscapeStyle {
    fn write(self, token: &str, out: &mut String) {
        let fewest = match self {
            Self::Kept => None,
            // Half of a surrogate pair is not text, so the string keeps its escapes.
            _ => serde_json::from_str::<String>(token)
                .and_then(|text| serde_json::to_string(&text))
                .ok(),
        };
        let Some(fewest) = fewest else {
            return out.push_str(token);
        };
        for c in fewest.chars() {
            match (self, c) {
                (Self::Ascii | Self::Slashes, '\u{80}'..)
                | (Self::Html, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                    out.extend(
                        c.encode_utf16(&mut [0; 2])
                            .iter()
                            .map(|unit| format!("\\u{unit:04x}")),
                    );
                }
                (Self::Slashes, '/') => out.push_str("\\/"),
                _ => out.push(c),
            }
        }
    }
}

/// A JSON value; words and strings are kept as written.
enum JsonNode<'a> {
    Word(&'a str),
    Text(&'a str),
    List(Vec<JsonNode<'a>>),
    Object(Vec<(&'a str, JsonNode<'a>)>),
}

fn unescaped(token: &str) -> String {
    serde_json::from_str(token).unwrap_or_else(|_| token.to_owned())
}

/// Parses a text. `serde_json` checks the grammar first, so `node` only has to find the end of each token.
fn parse(text: &str) -> Option<JsonNode<'_>> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    node(&mut { text }, 0)
}

fn node<'a>(rest: &mut &'a str, depth: usize) -> Option<JsonNode<'a>> {
    if depth > DEEPEST {
        return None;
    }
    match next(rest)? {
        b'"' => Some(JsonNode::Text(string(rest)?)),
        b'[' => {
            let mut items = Vec::new();
            while enter(rest)? != b']' {
                items.push(node(rest, depth + 1)?);
            }
            leave(rest);
            Some(JsonNode::List(items))
        }
        b'{' => {
            let mut members = Vec::new();
            while enter(rest)? != b'}' {
                let name = string(rest)?;
                next(rest)?;
                *rest = rest.strip_prefix(':')?;
                members.push((name, node(rest, depth + 1)?));
            }
            leave(rest);
            Some(JsonNode::Object(members))
        }
        _ => {
            let end = rest
                .find([',', ']', '}', ' ', '\t', '\r', '\n'])
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            *rest = after;
            Some(JsonNode::Word(word))
        }
    }
}

/// The first byte of the next token.
fn next(rest: &mut &str) -> Option<u8> {
    *rest = rest.trim_start();
    rest.bytes().next()
}

/// Skips the bracket or comma before an element, and returns the element's first byte or the closing bracket.
fn enter(rest: &mut &str) -> Option<u8> {
    if matches!(next(rest)?, b'[' | b'{' | b',') {
        *rest = &rest[1..];
    }
    next(rest)
}

/// Skips the closing bracket.
fn leave(rest: &mut &str) {
    *rest = &rest[1..];
}

/// Takes a string with its quotes.
fn string<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let mut escaped = false;
    let end = rest.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let (token, after) = rest.split_at(end + 2);
    *rest = after;
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = r#" { "b" : "a\/<\u00e9>" , "a":[10.00, {} , [ ],-1,{"x": null}]} "#;

    fn written(name: &str) -> String {
        let all = all(TEXT);
        all.into_iter()
            .find(|(other, _)| other == name)
            .unwrap_or_else(|| panic!("{name}"))
            .1
    }

    #[test]
    fn each_style_is_what_its_serializer_writes() {
        for (name, want) in [
            (
                "the body as compact JSON",
                r#"{"b":"a\/<\u00e9>","a":[10.00,{},[],-1,{"x":null}]}"#,
            ),
            (
                "the body as JSON with `, ` and `: `",
                r#"{"b": "a\/<\u00e9>", "a": [10.00, {}, [], -1, {"x": null}]}"#,
            ),
            (
                "the body as JSON indented by 2 spaces",
                "{\n  \"b\": \"a\\/<\\u00e9>\",\n  \"a\": [\n    10.00,\n    {},\n    [],\n    -1,\n    {\n      \"x\": null\n    }\n  ]\n}",
            ),
            (
                "the body as JSON indented by 4 spaces, keys sorted, nothing escaped that need not be, 10.00 as 10",
                "{\n    \"a\": [\n        10,\n        {},\n        [],\n        -1,\n        {\n            \"x\": null\n        }\n    ],\n    \"b\": \"a/<é>\"\n}",
            ),
            (
                "the body as JSON with `, ` and `: `, beyond ASCII as \\u, 10.00 as 10.0",
                r#"{"b": "a/<\u00e9>", "a": [10.0, {}, [], -1, {"x": null}]}"#,
            ),
            (
                "the body as compact JSON, `/` as `\\/`, beyond ASCII as \\u",
                r#"{"b":"a\/<\u00e9>","a":[10.00,{},[],-1,{"x":null}]}"#,
            ),
            (
                "the body as compact JSON, keys sorted, `<`, `>` and `&` as \\u",
                r#"{"a":[10.00,{},[],-1,{"x":null}],"b":"a/\u003cé\u003e"}"#,
            ),
        ] {
            assert_eq!(written(name), want, "{name}");
        }
    }

    #[test]
    fn every_json_style_has_its_own_name() {
        let mut names: Vec<_> = all("1").into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_body_that_is_not_json_or_nests_too_deep_has_no_style() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in ["", "{a:1}", "{} {}", &deep] {
            assert!(all(text).is_empty(), "{text:.20}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_style_has_the_same_content(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            for (name, text) in all(&text) {
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&text).unwrap(), &value, "{}", name);
            }
        }

        #[test]
        fn the_compact_and_pretty_styles_equal_serde_jsons_output(value in json()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            let all = all(&text);
            prop_assert_eq!(&all[0].1, &serde_json::to_string(&value).unwrap());
            prop_assert_eq!(&all[2].1, &text);
        }

        #[test]
        fn restyling_a_body_never_panics(text in r#"[ \[\]{}:,"a\\u01e.\-tnrf]{0,24}"#) {
            let _ = all(&text);
        }
    }
}
