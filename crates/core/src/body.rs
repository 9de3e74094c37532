//! Body reading: one pass over a request's query and body, for the guard, the checks, the idempotency key and the
//! look-up.

mod names;
mod value;

use std::borrow::Cow;

use arrayvec::ArrayVec;
use serde_json::value::RawValue;

use crate::json::{self, JsonMember, JsonShape, JsonText, JsonVisitor};
use crate::operation::{Kind, MediaType, Operation};
use crate::query::{self, decode};
use crate::reserved::ReservedName;
use names::SeenNames;

pub(crate) use value::BodyValue;

/// A place in a body, for messages to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPlace {
    /// The line, counted from 1.
    pub line: usize,
    /// Bytes of that line up to the place, counted from 1.
    pub column: usize,
}

/// The members and faults of a request, from one pass over its body.
///
/// Field names are matched without regard to ASCII case, since published clients differ in case. An ordinary body needs
/// no heap allocation.
pub struct BodyReading<'a> {
    query: &'a str,
    body: &'a [u8],
    fault: Option<BodyPlace>,
    found: WantedMembers<'a>,
    not_ascii: Option<BodyPlace>,
    repeated: Option<BodyPlace>,
    unreadable: Option<BodyPlace>,
    too_deep: Option<BodyPlace>,
}

impl<'a> BodyReading<'a> {
    /// Reads the query and body of a call to `operation`. A form has no members.
    pub fn read(operation: &Operation, query: Option<&'a str>, body: &'a [u8]) -> Self {
        let mut reading = Self::new(query.unwrap_or_default(), body);
        if operation.media == MediaType::Json && !body.trim_ascii().is_empty() {
            reading.read_body(operation.kind);
        }
        reading
    }

    fn new(query: &'a str, body: &'a [u8]) -> Self {
        Self {
            query,
            body,
            fault: None,
            found: WantedMembers::default(),
            not_ascii: None,
            repeated: None,
            unreadable: None,
            too_deep: None,
        }
    }

    fn read_body(&mut self, kind: Kind) {
        let text = match str::from_utf8(self.body) {
            Ok(text) => text,
            Err(error) => {
                self.fault = Some(place(self.body, error.valid_up_to()));
                return;
            }
        };
        // A parser may ignore a byte order mark (RFC 8259, 8.1), so GatePay is not certain to refuse it. In a money
        // call the mark is a fault, since parsers would differ.
        let text = match text.strip_prefix('\u{feff}') {
            Some(text) if kind != Kind::Money => text,
            _ => text,
        };
        let mut reader = BodyReader::new(kind, &mut self.found);
        match json::read_deep(text, &mut reader) {
            Ok(_) => {
                let place = |at: usize| place(text.as_bytes(), at);
                self.not_ascii = reader.not_ascii.map(place);
                self.repeated = reader.repeated.map(place);
                self.unreadable = reader.unreadable.map(place);
                self.too_deep = reader.too_deep.map(place);
            }
            Err(error) => {
                self.found = WantedMembers::default();
                self.fault = Some(BodyPlace {
                    line: error.line(),
                    column: error.column(),
                });
            }
        }
    }

    /// Reads a text that is not a call's body with the care that a money call's body gets: every repeated name, every
    /// value that some parsers cannot represent and too deep a nesting is found.
    pub(crate) fn strict(text: &'a [u8]) -> Self {
        let mut reading = Self::new("", text);
        reading.read_body(Kind::Money);
        reading
    }

    /// Whether every parser reads the same from this text. Only a [`strict`](Self::strict) reading finds every
    /// difference.
    pub(crate) fn has_one_reading(&self) -> bool {
        self.fault.is_none()
            && self.repeated.is_none()
            && self.unreadable.is_none()
            && self.too_deep.is_none()
    }

    /// The objects of a text, if it is a list. Items that are not objects are left out.
    pub(crate) fn objects_of_list(text: &'a str) -> Vec<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
        let objects = items.into_iter().map(|item| Self::of_object(item.get()));
        objects.flatten().collect()
    }

    /// The members of a text, if it is an object.
    pub(crate) fn of_object(text: &'a str) -> Option<Self> {
        let mut reading = Self::new("", text.as_bytes());
        let shape = json::read_deep(text, &mut BodyReader::new(Kind::Read, &mut reading.found));
        (shape.ok()? == JsonShape::Object).then_some(reading)
    }

    /// The body as received.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The place of the fault in a body that is not one JSON text.
    ///
    /// Such a body has no members here, not even the members before the fault. A blank body has neither members nor a
    /// fault.
    pub(crate) fn fault(&self) -> Option<BodyPlace> {
        self.fault
    }

    /// The first name outside ASCII, in a write or money call.
    pub(crate) fn not_ascii(&self) -> Option<BodyPlace> {
        self.not_ascii
    }

    /// The first repetition of a name within one object: in a money call at every depth, in a write at the top.
    pub(crate) fn repeated(&self) -> Option<BodyPlace> {
        self.repeated
    }

    /// The first value of a money call that some parsers cannot represent.
    pub(crate) fn unreadable(&self) -> Option<BodyPlace> {
        self.unreadable
    }

    /// The first array or object inside [`json::DEEPEST`] others, in a write or money call.
    pub(crate) fn too_deep(&self) -> Option<BodyPlace> {
        self.too_deep
    }

    /// Members with a reserved name: in a money call at every depth, in other calls at the top.
    pub(crate) fn reserved(&self) -> &[(ReservedName, JsonText<'a>)] {
        &self.found.reserved
    }

    /// The members at the top of the body.
    pub(crate) fn top(&self) -> impl Iterator<Item = (&[u8], JsonText<'a>)> {
        let members = self.found.few.iter().chain(&self.found.more);
        members.map(|(name, value)| (&**name, *value))
    }

    /// The query's parameters, names and values verbatim.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        query::pairs(self.query)
    }

    pub(crate) fn parameters_are_ascii(&self) -> bool {
        self.parameters().all(|(name, _)| decode(name).is_ascii())
    }

    /// Whether the request has a field. Null and empty text count as absent (schemas.md).
    pub(crate) fn has(&self, field: &str) -> bool {
        self.members(field).next().is_some() || self.in_query(field).next().is_some()
    }

    /// Every value of a field, the query before the body.
    pub(crate) fn values<'f>(
        &self,
        field: &'f str,
    ) -> impl Iterator<Item = BodyValue<'a>> + use<'a, 'f, '_> {
        let parameters = self.in_query(field).map(BodyValue::Query);
        parameters.chain(self.members(field).map(BodyValue::Body))
    }

    /// The names of the request that have a value: members of the object in the body, and parameters. Zero counts as absent, for
    /// clients send it so (schemas.md).
    pub(crate) fn stated_names(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let members = self.top().filter(|(_, value)| states(*value));
        let members = members.map(|(name, _)| Cow::Borrowed(name));
        let parameters = self.parameters();
        let parameters = parameters.filter(|(_, value)| parameter_states(value));
        members
            .chain(parameters.map(|(name, _)| Cow::Owned(decode(name).into_owned().into_bytes())))
    }

    fn in_query<'f>(&self, field: &'f str) -> impl Iterator<Item = Cow<'a, str>> + use<'a, 'f> {
        query::pairs(self.query)
            .filter(move |(name, value)| {
                !value.is_empty() && decode(name).eq_ignore_ascii_case(field)
            })
            .map(|(_, value)| decode(value))
    }

    fn members<'f>(&self, field: &'f str) -> impl Iterator<Item = JsonText<'a>> + use<'a, 'f, '_> {
        self.top()
            .filter(move |(name, value)| is_field(name, field) && !value.is_nothing())
            .map(|(_, value)| value)
    }

    /// The last value of a field, which most parsers take, if the value is text or a number.
    pub(crate) fn last(&self, field: &str) -> Option<Cow<'a, str>> {
        self.clear(field)?.last()?.text_or_number()
    }

    /// The value of a field, if all its occurrences have the same value.
    pub fn only(&self, field: &str) -> Option<Cow<'a, str>> {
        let mut values = self.clear(field)?.map(|value| value.text_or_number());
        let first = values.next()??;
        values
            .all(|other| other.as_ref() == Some(&first))
            .then_some(first)
    }

    /// The values of a field; `None` if the field stands in a query with values that parsers delimit differently.
    fn clear<'f>(
        &self,
        field: &'f str,
    ) -> Option<impl Iterator<Item = BodyValue<'a>> + use<'a, 'f, '_>> {
        (query::is_clear(self.query) || self.in_query(field).next().is_none())
            .then(|| self.values(field))
    }
}

/// The members that a [`BodyReading`] keeps.
#[derive(Default)]
struct WantedMembers<'a> {
    /// The first members of the top object, by name.
    few: ArrayVec<(Cow<'a, [u8]>, JsonText<'a>), 16>,
    /// The members of the top object that exceed the capacity of `few`.
    more: Vec<(Cow<'a, [u8]>, JsonText<'a>)>,
    reserved: Vec<(ReservedName, JsonText<'a>)>,
}

impl<'a> WantedMembers<'a> {
    fn push(&mut self, name: Cow<'a, [u8]>, value: JsonText<'a>) {
        if let Err(full) = self.few.try_push((name, value)) {
            self.more.push(full.element());
        }
    }
}

/// Collects members and faults during one pass over a text.
struct BodyReader<'r, 'a> {
    kind: Kind,
    found: &'r mut WantedMembers<'a>,
    seen: SeenNames<'a>,
    not_ascii: Option<usize>,
    repeated: Option<usize>,
    unreadable: Option<usize>,
    too_deep: Option<usize>,
}

impl<'r, 'a> BodyReader<'r, 'a> {
    fn new(kind: Kind, found: &'r mut WantedMembers<'a>) -> Self {
        Self {
            kind,
            found,
            seen: SeenNames::default(),
            not_ascii: None,
            repeated: None,
            unreadable: None,
            too_deep: None,
        }
    }
}

impl<'a> JsonVisitor<'a> for BodyReader<'_, 'a> {
    fn again(&mut self) {
        *self.found = WantedMembers::default();
        self.seen = SeenNames::default();
        self.not_ascii = None;
        self.repeated = None;
    }

    fn member(&mut self, member: JsonMember<'a>) {
        let JsonMember {
            object,
            depth,
            place,
            name,
            value,
        } = member;
        let is_top = depth == 0;
        if self.kind != Kind::Read && self.not_ascii.is_none() && !name.is_ascii() {
            self.not_ascii = Some(place.start);
        }
        if !is_top && self.kind != Kind::Money {
            return;
        }
        match ReservedName::of(&name) {
            // Below the top, GatePay has no field of this name.
            Some(ReservedName::Callback) if !is_top => {}
            Some(reserved) => self.found.reserved.push((reserved, value)),
            None => {}
        }
        if self.kind != Kind::Read
            && self.repeated.is_none()
            && self.seen.repeats(depth, object, name.clone())
        {
            self.repeated = Some(place.end - 1);
        }
        if is_top {
            self.found.push(name, value);
        }
    }

    fn unreadable(&mut self, at: usize) {
        if self.kind == Kind::Money {
            self.unreadable.get_or_insert(at);
        }
    }

    fn too_deep(&mut self, at: usize) {
        if self.kind != Kind::Read {
            self.too_deep.get_or_insert(at);
        }
    }
}

/// Whether a member's value says something.
pub(crate) fn states(value: JsonText<'_>) -> bool {
    !value.is_nothing() && value.text_or_number().is_none_or(|text| text != "0")
}

/// Whether a parameter's value says something.
pub(crate) fn parameter_states(value: &str) -> bool {
    !matches!(value, "" | "0")
}

/// Whether a name is that of a field, in any case. Nearly always it is spelt alike, and that is found at once.
fn is_field(name: &[u8], field: &str) -> bool {
    name == field.as_bytes() || name.eq_ignore_ascii_case(field.as_bytes())
}

fn place(text: &[u8], at: usize) -> BodyPlace {
    let before = &text[..at];
    let mut lines = before.rsplit(|byte| *byte == b'\n');
    let last = lines.next().unwrap_or_default();
    BodyPlace {
        line: lines.count() + 1,
        column: last.len() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;
    use proptest::prelude::*;

    fn with<T>(row: &str, query: &str, body: &str, ask: impl Fn(&BodyReading<'_>) -> T) -> T {
        let catalogue = Catalogue::standard();
        let row = catalogue.named(row).unwrap();
        ask(&BodyReading::read(row, Some(query), body.as_bytes()))
    }

    /// The places of a repeated name, of too deep a nesting and of an unreadable value.
    fn places(row: &str, body: &str) -> [Option<BodyPlace>; 3] {
        with(row, "", body, |reading| {
            [reading.repeated(), reading.too_deep(), reading.unreadable()]
        })
    }

    #[test]
    fn fields_are_found_in_any_case_in_query_and_body() {
        let texts = |query: &str, body: &str| {
            with("close_order", query, body, |reading| {
                let values = reading.values("prepayId");
                values
                    .map(|value| value.text_or_number().unwrap().into_owned())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(texts("", r#"{"PrepayID":"1"}"#), ["1"]);
        assert_eq!(
            texts("PREPAYID=1;x&prepay%49d=2", r#"{"prepay\u0069d":3}"#),
            ["1", "2", "3"]
        );
        assert_eq!(
            texts("prepayId=", r#"{"prepayId":null,"prepayID":""}"#),
            [""; 0]
        );
        assert_eq!(
            texts("prepay_id=1", r#"{"prepay":"1","a":{"prepayId":"2"}}"#),
            [""; 0]
        );
    }

    #[test]
    fn a_query_value_with_an_ambiguous_end_is_not_an_idempotency_key() {
        let ask = |query: &str, body: &str| {
            with("close_order", query, body, |reading| {
                let text = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned);
                (
                    text(reading.last("prepayId")),
                    text(reading.only("prepayId")),
                )
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ask("prepayId=A", ""), (some("A"), some("A")));
        assert_eq!(ask("prepayId=A;B", ""), (None, None));
        assert_eq!(ask("x=1;prepayId=A", r#"{"prepayId":"A"}"#), (None, None));
        assert_eq!(ask("x=1;y", r#"{"prepayId":"A"}"#), (some("A"), some("A")));
        assert_eq!(ask("prepayId=B", r#"{"PREPAYID":"A"}"#), (some("A"), None));
    }

    #[test]
    fn a_repeated_name_is_found_among_any_number_of_names() {
        for others in [0, 1, 15, 16, 17, 31, 32, 33, 500] {
            let members: Vec<_> = (0..others)
                .map(|at| format!(r#""m{at}":{{"a":[1,{{"b":1}}]}},"#))
                .collect();
            let members = members.concat();
            for (row, first, second, at_top, repeats) in [
                ("refund_order", "a", "a", true, true),
                (
                    "refund_order",
                    "merchantTradeNo",
                    "MerchantTradeNo",
                    true,
                    true,
                ),
                ("refund_order", "a", "A", false, true),
                ("close_order", "a", "A", true, true),
                ("close_order", "a", "a", false, false),
                ("query_order", "a", "a", true, false),
                ("refund_order", "a", "a ", true, false),
                ("refund_order", "a", "b", false, false),
            ] {
                let pair = format!(r#""{first}":1,{members}"{second}":2"#);
                let body = if at_top {
                    format!("{{{pair}}}")
                } else {
                    format!(r#"{{"x":[{{{pair}}}]}}"#)
                };
                let found = places(row, &body)[0].is_some();
                assert_eq!(found, repeats, "{row} {others}: {first}, then {second}");
            }
        }
    }

    #[test]
    fn objects_beside_each_other_may_have_the_same_names() {
        let items = |count: usize| vec![r#"{"id":1,"to":{"id":2}}"#; count].join(",");
        for body in [
            format!(r#"{{"a":[{}],"b":[{}]}}"#, items(3), items(100)),
            format!("[[{}],{},[[{}]]]", items(1), items(2), items(40)),
            r#"{"a":{"x":1,"a":{"x":2}},"x":{"a":1}}"#.to_owned(),
        ] {
            assert_eq!(places("refund_order", &body)[0], None, "{body}");
        }
    }

    #[test]
    fn nesting_is_limited_for_calls_that_change_something() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for (deep, fits) in [
                (16, true),
                (17, true),
                (128, true),
                (129, false),
                (300_000, false),
            ] {
                // The outermost object counts toward the depth.
                let nested = open.repeat(deep - 1) + "1" + &close.repeat(deep - 1);
                let body = format!(r#"{{"prepayId":{nested},"x":1}}"#);
                for row in ["refund_order", "close_order", "query_order"] {
                    let too_deep = places(row, &body)[1];
                    assert_eq!(
                        too_deep.is_none(),
                        fits || row == "query_order",
                        "{row} {deep}"
                    );
                    assert!(
                        with(row, "", &body, |reading| reading.has("x")),
                        "{row} {deep}"
                    );
                }
            }
        }
    }

    #[test]
    fn numbers_and_escapes_that_some_parsers_cannot_hold_are_located_in_money_calls() {
        for (value, readable) in [
            ("1e999", false),
            ("-1E+400", false),
            (r#"["\ud83d"]"#, false),
            (r#"{"a":"\udc00\ud800"}"#, false),
            (r#""\ud83d\ude00""#, true),
            ("1e-999", true),
            ("0.1e5", true),
            (&"9".repeat(300), true),
            (&"9".repeat(400), false),
        ] {
            let body = format!(r#"{{"a":{value}}}"#);
            let found = places("refund_order", &body)[2];
            assert_eq!(found.is_none(), readable, "{value}");
            assert_eq!(places("close_order", &body)[2], None, "a write: {value}");
        }
    }

    proptest! {
        #[test]
        fn reading_body_fields_never_panics(body: Vec<u8>, text: String, query: String) {
            for row in ["refund_order", "close_order", "query_order", "create_otc_bank"] {
                with(row, &query, &text, |reading| reading.has("prepayId"));
                let catalogue = Catalogue::standard();
                let _reading = BodyReading::read(catalogue.named(row).unwrap(), None, &body);
            }
        }
    }
}
