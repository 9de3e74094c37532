//! JSON reader: one pass over a text hands over the members of its objects, with their values as unparsed text.

mod plain;
mod walk;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The type of a JSON text's top value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonShape {
    Object,
    Array,
    Scalar,
}

/// A callback that takes one member: its unescaped name and its value.
type Found<'f, 'a> = &'f mut dyn FnMut(&[u8], JsonText<'a>);

/// Reads a whole text and hands over the name and value of each member of its top object, in order.
///
/// Every value is checked for grammar at every depth, and is not interpreted. For a text that is not JSON, members
/// before the fault may have been handed over.
pub(crate) fn read<'a>(
    text: &'a str,
    found: Found<'_, 'a>,
) -> Result<JsonShape, serde_json::Error> {
    let mut handed_over = 0;
    let plain = plain::read(text, &mut |name, value| {
        handed_over += 1;
        found(name, value);
    });
    match plain {
        Some(shape) => Ok(shape),
        None => read_by_serde(text, &mut |name, value| {
            if handed_over == 0 {
                found(name, value);
            } else {
                handed_over -= 1;
            }
        }),
    }
}

/// A member of an object, at any depth.
pub(crate) struct JsonMember<'a> {
    /// The byte offset where the member's object begins, which identifies the object.
    pub(crate) object: usize,
    /// The number of arrays and objects around the object.
    pub(crate) depth: usize,
    /// The byte range of the name in the text, quotes included.
    pub(crate) place: Range<usize>,
    /// The unescaped name.
    pub(crate) name: Cow<'a, [u8]>,
    pub(crate) value: JsonText<'a>,
}

/// Takes the members and faults of a text in one pass. If the text is not JSON, the calls before the fault mean
/// nothing.
pub(crate) trait JsonVisitor<'a> {
    /// Discards all earlier calls: the reader starts again at the beginning of the text.
    fn again(&mut self);
    /// A member. The members inside its value come first.
    fn member(&mut self, member: JsonMember<'a>);
    /// A value that some parsers cannot represent begins at `at`: half of a surrogate pair, or a number beyond the
    /// largest.
    fn unreadable(&mut self, at: usize);
    /// An array or object inside [`DEEPEST`] others begins at `at`. Its members are not handed over.
    fn too_deep(&mut self, at: usize);
}

/// The maximum nesting depth of arrays and objects, the outermost included.
pub(crate) const DEEPEST: usize = 128;

/// Reads a whole text and hands over each member of each object. Nesting costs no stack, and only a text that is not
/// plain JSON is read twice.
pub(crate) fn read_deep<'a>(
    text: &'a str,
    visit: &mut dyn JsonVisitor<'a>,
) -> Result<JsonShape, serde_json::Error> {
    if let Some(shape) = plain::read_deep(text, visit) {
        return Ok(shape);
    }
    visit.again();
    let shape = read_by_serde(text, &mut |_, _| {})?;
    walk::walk(text, visit);
    Ok(shape)
}

/// Reads a text that is not plain JSON. If the text is not JSON at all, the error names the fault.
#[cold]
fn read_by_serde<'a>(text: &'a str, found: Found<'_, 'a>) -> Result<JsonShape, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let shape = match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => {
            deserializer.deserialize_map(MemberNames(found))?;
            JsonShape::Object
        }
        first => {
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            if first == Some(&b'[') {
                JsonShape::Array
            } else {
                JsonShape::Scalar
            }
        }
    };
    deserializer.end()?;
    Ok(shape)
}

/// One value as unparsed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonText<'a>(&'a str);

impl<'a> JsonText<'a> {
    /// The value's own text, quotes and escapes included.
    pub(crate) fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether both values are equal, even if their escapes differ.
    #[cold]
    pub(crate) fn same(self, other: Self) -> bool {
        self == other || self.text().is_some_and(|text| other.text() == Some(text))
    }

    /// Whether the value is null or an empty string, which count as absent (schemas.md).
    pub(crate) fn is_nothing(self) -> bool {
        matches!(self.0, "null" | "\"\"")
    }

    /// The content of a string; `None` for another value, and for half of a surrogate pair, which the grammar allows.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        let content = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if content.as_bytes().contains(&b'\\') {
            self.unescaped().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(content))
        }
    }

    #[cold]
    fn unescaped(self) -> Option<String> {
        serde_json::from_str(self.0).ok()
    }

    /// The content of a string as bytes. Half of a surrogate pair becomes bytes that are not UTF-8.
    pub(crate) fn bytes(self) -> Cow<'a, [u8]> {
        match self
            .0
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
        {
            Some(content) if !content.as_bytes().contains(&b'\\') => {
                Cow::Borrowed(content.as_bytes())
            }
            _ => Cow::Owned(self.unescaped_bytes()),
        }
    }

    #[cold]
    fn unescaped_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut deserializer = serde_json::Deserializer::from_str(self.0);
        // A value that is not a string leaves `bytes` empty.
        let _no_string = MemberName(&mut bytes).deserialize(&mut deserializer);
        bytes
    }

    /// The digits of a number, as written.
    pub(crate) fn number(self) -> Option<&'a str> {
        self.0
            .starts_with(|first: char| first == '-' || first.is_ascii_digit())
            .then_some(self.0)
    }

    /// A string's content or a number's digits: clients and GatePay send ids and codes as either.
    pub(crate) fn text_or_number(self) -> Option<Cow<'a, str>> {
        self.number().map(Cow::Borrowed).or_else(|| self.text())
    }
}

struct MemberNames<'f, 'a>(Found<'f, 'a>);

impl<'a> Visitor<'a> for MemberNames<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut name = Vec::new();
        while map.next_key_seed(MemberName(&mut name))?.is_some() {
            let value: &RawValue = map.next_value()?;
            (self.0)(&name, JsonText(value.get()));
        }
        Ok(())
    }
}

/// Reads a member's name as bytes. Read as text, half a surrogate pair in an irrelevant name would be an error.
struct MemberName<'n>(&'n mut Vec<u8>);

impl<'a> DeserializeSeed<'a> for MemberName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for MemberName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<(), E> {
        self.0.clear();
        self.0.extend_from_slice(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    fn values<'a>(text: &'a str, name: &str) -> Option<Vec<JsonText<'a>>> {
        let mut values = Vec::new();
        let mut found = |other: &[u8], value| {
            if other == name.as_bytes() {
                values.push(value);
            }
        };
        read(text, &mut found).ok()?;
        Some(values)
    }

    #[test]
    fn every_member_is_handed_over_with_its_original_text() {
        let text = r#" {"a":1,"b":{"a":9},"\u0061" : "x\u0041" , "a":[1, 2]} "#;
        let values = values(text, "a").unwrap();
        let raw: Vec<_> = values.iter().map(|value| value.as_str()).collect();
        assert_eq!(raw, ["1", r#""x\u0041""#, "[1, 2]"]);
        assert_eq!(values[1].text().as_deref(), Some("xA"));
        assert_eq!(values[0].number(), Some("1"));
        assert_eq!(values[2].text_or_number(), None);
    }

    #[test]
    fn unusual_json_within_the_grammar_is_accepted() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in [
            r#"{"\ud800":"\ud800","a":"\udfff"}"#,
            &format!(r#"{{"a":{deep},"b":{deep}}}"#),
            &deep,
            "1e999",
            r#"{"a":1e999,"b":1e999}"#,
        ] {
            assert!(values(text, "a").is_some(), "{text:.40}");
        }
        assert_eq!(
            values(r#"{"a":"\ud800"}"#, "a").unwrap()[0].text(),
            None,
            "half a pair is no text"
        );
    }

    #[test]
    fn a_text_outside_the_json_grammar_is_refused() {
        for text in [
            "",
            " ",
            "{} x",
            "{}{}",
            "[1,]",
            r#"{"a":1,}"#,
            "{'a':1}",
            "nul",
            "\u{feff}{}",
        ] {
            assert!(values(text, "a").is_none(), "{text}");
        }
    }

    #[test]
    fn bodies_of_gatepay_and_its_clients_take_the_fast_path() {
        for text in [
            r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"createTime":1673838183000,"rate":-0.5e-3}}"#,
            r#"{"code":"SUCCESS","message":"订单创建成功","data":{"url":"https:\/\/x","name":"\u8ba2","a":[true,false,null]}}"#,
            " [ ] ",
            "\r\n{\t} ",
            "0",
        ] {
            assert!(plain::read(text, &mut |_, _| {}).is_some(), "{text}");
        }
    }

    /// A reader's result for a text, and the members handed over, including those before a fault.
    type Reading = (Result<JsonShape, String>, Vec<(Vec<u8>, String)>);

    fn reading<'a>(
        text: &'a str,
        read: fn(&'a str, Found<'_, 'a>) -> Result<JsonShape, serde_json::Error>,
    ) -> Reading {
        let mut members = Vec::new();
        let mut found = |name: &[u8], value: JsonText<'_>| {
            members.push((name.to_vec(), value.as_str().to_owned()));
        };
        let shape = read(text, &mut found).map_err(|error| error.to_string());
        (shape, members)
    }

    /// A member at any depth: its object and depth, its name, its value as unparsed text.
    type Deep = (usize, usize, Vec<u8>, String);

    #[derive(Default)]
    struct Collected(Vec<Deep>);

    impl<'a> JsonVisitor<'a> for Collected {
        fn member(&mut self, member: JsonMember<'a>) {
            let name = member.name.into_owned();
            let value = member.value.as_str().to_owned();
            self.0.push((member.object, member.depth, name, value));
        }

        fn again(&mut self) {
            self.0.clear();
        }

        fn unreadable(&mut self, _: usize) {}

        fn too_deep(&mut self, _: usize) {}
    }

    /// Every member, each after the members in its value, by reading value after value with `serde_json`.
    fn deep_by_serde(whole: &str, text: &str, depth: usize, all: &mut Vec<Deep>) {
        let text = text.trim_ascii_start();
        let object = text.as_ptr().addr() - whole.as_ptr().addr();
        let mut members = Vec::new();
        match text.as_bytes().first() {
            Some(b'{') => {
                let mut found = |name: &[u8], value: JsonText<'_>| {
                    deep_by_serde(whole, value.as_str(), depth + 1, &mut members);
                    members.push((object, depth, name.to_vec(), value.as_str().to_owned()));
                };
                // Members handed over have the lifetime of the text, so that their addresses give their place in the
                // text.
                read_by_serde(text, &mut found).unwrap();
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).unwrap();
                for item in items {
                    deep_by_serde(whole, item.get(), depth + 1, &mut members);
                }
            }
            _ => {}
        }
        all.append(&mut members);
    }

    /// A text is read as `serde_json` alone reads it.
    fn is_read_as_by_serde(text: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(text) = str::from_utf8(text) {
            prop_assert_eq!(reading(text, read), reading(text, read_by_serde));
            let mut deep_members = Collected::default();
            let deep = read_deep(text, &mut deep_members);
            let shape = read_by_serde(text, &mut |_, _| {});
            let is_json = deep.is_ok();
            let text_of = |shape: Result<JsonShape, serde_json::Error>| {
                shape.map_err(|error| error.to_string())
            };
            prop_assert_eq!(text_of(deep), text_of(shape));
            if is_json {
                let mut want = Vec::new();
                deep_by_serde(text, text, 0, &mut want);
                prop_assert_eq!(&deep_members.0, &want);
                let mut walked = Collected::default();
                walk::walk(text, &mut walked);
                prop_assert_eq!(&walked.0, &want);
            }
        }
        Ok(())
    }

    /// JSON with all its oddities, and texts that are almost JSON.
    fn texts() -> impl Strategy<Value = String> {
        let scalars = prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-0",
            "17",
            "-1.50",
            "1e999",
            "0.0E-07",
            "2E+1",
            "1e",
            "01",
            "-",
            "1.",
            ".5",
            "+1",
            "nul",
            "truee",
            "NaN",
            r#""""#,
            r#""SUCCESS""#,
            r#""a \"b\" \\""#,
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            r#""\u12G4""#,
            r#""\x""#,
            r#""订单创建成功 and more""#,
            "\"a\tb\"",
            "\"\u{7f}\"",
            "\"open",
        ]);
        let texts = prop_oneof![
            scalars.prop_map(str::to_owned),
            r#""[ -~é]{0,20}""#,
            "-?[0-9]{1,20}"
        ];
        let names = prop::sample::select(vec![
            "\"code\"",
            "\"status\"",
            "\"success\"",
            "\"data\"",
            "\"\"",
            r#""c\u006fde""#,
            r#""\ud800""#,
            "\"a\nb\"",
            "\"订单\"",
            "code",
            r#""a name of more than eight bytes""#,
        ]);
        let space = || prop::sample::select(vec!["", "", "", " ", "\r\n\t", "\u{b}", "\u{feff}"]);
        let compound = move |inner: BoxedStrategy<String>| {
            let item = (space(), inner.clone(), space()).prop_map(|(a, b, c)| [a, &b, c].concat());
            let member = (space(), names.clone(), space(), item.clone())
                .prop_map(|(a, b, c, d)| [a, b, c, ":", &d].concat());
            prop_oneof![
                prop::collection::vec(item, 0..5)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(member, 0..7)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
                (inner, 1..20_usize)
                    .prop_map(|(inner, deep)| "[".repeat(deep) + &inner + &"]".repeat(deep)),
            ]
        };
        let whole = texts.prop_recursive(4, 24, 6, compound);
        (space(), whole, space()).prop_map(|(a, b, c)| [a, &b, c].concat())
    }

    /// A text of `texts` with at most two faults: a flipped bit, a removed or inserted byte, a repeated or cut end.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            any::<u8>(),
            prop::sample::select(b"{}[]\":,\\u0e.- \n\0".to_vec())
        ];
        let damage = prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), byte), 0..3);
        (texts(), damage).prop_map(|(text, damage)| {
            let mut bytes = text.into_bytes();
            for (how, at, byte) in damage {
                let at = at.index(bytes.len() + 1);
                match (how, at < bytes.len()) {
                    (0, true) => bytes[at] ^= 1 << (byte % 8),
                    (1, true) => drop(bytes.remove(at)),
                    (2, _) => bytes.insert(at, byte),
                    (3, _) => bytes.truncate(at),
                    _ => bytes.extend_from_within(at..),
                }
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn every_text_is_read_as_serde_json_reads_it(text in damaged()) {
            is_read_as_by_serde(&text)?;
        }

        #[test]
        fn every_few_characters_are_read_as_serde_json_reads_them(text in r#"[ \[\]{}:,"a\\u01e.\-tnrf]{0,24}"#) {
            is_read_as_by_serde(text.as_bytes())?;
        }
    }

    /// Five million cases of the first test above, which has two thousand.
    #[test]
    #[ignore = "the long form: minutes, in a release build"]
    fn millions_of_texts_are_read_as_serde_json_reads_them() {
        let config = ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(5_000_000)
        };
        let mut runner = TestRunner::new(config);
        runner
            .run(&damaged(), |text| is_read_as_by_serde(&text))
            .unwrap();
    }

    /// The fault stands at every place relative to the eight bytes that are compared at once.
    #[test]
    fn a_json_string_ends_at_its_first_unescaped_quote() {
        for length in 0..40 {
            for end in 0..=u8::MAX {
                for behind in ["\"", "", "\"\u{1}\\x\"\""] {
                    let text = [
                        b"\"",
                        &b"a".repeat(length)[..],
                        &[end],
                        b"aaaaaaaaa",
                        behind.as_bytes(),
                    ]
                    .concat();
                    is_read_as_by_serde(&text).unwrap();
                }
            }
        }
    }
}
