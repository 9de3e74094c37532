//! An access line: what is known of a request at its end, and the two forms in which it is written.
//!
//! Requests only gather it: who it was and what it asked for are places in the generation, numbers are numbers. Text is
//! made of it by the thread that writes.

use std::fmt::{self, Display};
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::envelope::Code;
use gatepay_core::look_up::Observed;
use gatepay_tenancy::settings::LogFormat;
use serde::{Serialize, Serializer};

use crate::generation::Generation;
use crate::limit::{Limit, Limits};
use crate::metrics::End;
use crate::trace::Trace;

/// One request, however it ended. Holds nothing secret: no signature, no body, no path a caller chose.
pub struct Line {
    /// When its head arrived, in milliseconds since 1970.
    pub time: u64,
    /// `X-Request-Id` of the answer; its first half is our span in the caller's trace.
    pub id: [u8; 16],
    /// The caller's trace.
    pub trace: Option<Trace>,
    /// How it ended.
    pub end: End,
    /// Whose fault that was.
    pub level: Level,
    /// What the places below are places in.
    pub generation: Option<Arc<Generation>>,
    /// The tenant, once known.
    pub party: Option<usize>,
    /// The place among its credentials of the one it signed with, once verified.
    pub credential: Option<usize>,
    /// The call.
    pub operation: Option<usize>,
    /// The idempotency key's value.
    pub key: Option<String>,
    /// Why the proxy refused it.
    pub refusal: Option<&'static str>,
    /// What the log may know beyond what the caller was told.
    pub detail: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// GatePay's code.
    pub code: Option<Code>,
    /// Limits that would have refused it, had they been enforced.
    pub shadow: Limits,
    /// Bytes of the request's body.
    pub bytes_in: usize,
    /// Bytes of the answer's body that were handed over.
    pub bytes_out: u64,
    /// Where the time went.
    pub spent: Spent,
    /// How often it was sent or tried to be.
    pub attempts: u32,
    /// What GatePay was seen to have of a call whose answer was lost.
    pub observed: Option<Observed>,
    /// Where it came from.
    pub peer: IpAddr,
    /// Whether the caller was gone before the answer was.
    pub caller_left: bool,
}

/// How much a line matters, by whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nobody's, or the caller's.
    Info,
    /// GatePay's, or the way's to it.
    Warn,
    /// Ours.
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Whose turn it is, from the head to the end of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The proxy's own: reading, verifying, judging, signing, answering.
    Own,
    /// The caller's, to send its body.
    Body,
    /// The disk's, to take the record in the audit journal.
    Journal,
    /// The network's, to connect to GatePay.
    Connect,
    /// GatePay's, to answer.
    Upstream,
    /// GatePay's, to say what became of a call whose answer was lost.
    LookUp,
    /// The caller's, to take the answer.
    Relay,
}

/// How long each had its turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent([Duration; 7]);

impl Spent {
    /// So much more was spent in this turn.
    pub fn add(&mut self, turn: Turn, time: Duration) {
        self.0[turn as usize] += time;
    }

    /// What was spent in this turn.
    pub fn of(&self, turn: Turn) -> Duration {
        self.0[turn as usize]
    }

    /// All of it.
    pub fn whole(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl Line {
    /// Writes it in this form, with its end of line. `times` is kept from line to line.
    pub fn write(&self, format: LogFormat, times: &mut Times, out: &mut Vec<u8>) {
        let time = times.text(self.time);
        match format {
            LogFormat::Json => self.fields(time).json(&mut Json(out)),
            // Memory takes what it is given.
            LogFormat::Human => drop(write!(out, "{}", self.fields(time))),
        }
        out.push(b'\n');
    }

    fn fields<'a>(&'a self, time: &'a str) -> Fields<'a> {
        let generation = self.generation.as_deref();
        let row = generation
            .zip(self.operation)
            .map(|(generation, at)| &generation.catalogue.rows()[at]);
        let party = generation
            .zip(self.party)
            .map(|(generation, at)| generation.registry.at(at).party());
        let credential = party
            .zip(self.credential)
            .map(|(party, place)| &party.credentials[place].credential);
        let milliseconds = |turn| Millis::of(self.spent.of(turn));
        // Our part of a trace exists only if there is one.
        let (span, _) = self.id.split_at(8);
        Fields {
            time,
            level: self.level,
            id: Hex(&self.id),
            trace_id: self.trace.as_ref().map(|trace| Hex(&trace.id)),
            parent_id: self.trace.as_ref().map(|trace| Hex(&trace.parent)),
            span_id: self.trace.as_ref().map(|_| Hex(span)),
            tenant: party.map(|party| party.id.as_str()),
            client_id: credential.map(|credential| credential.client_id.as_str()),
            operation: row.map(|row| row.name.as_ref()),
            kind: row.map(|row| row.kind.as_str()),
            key: self.key.as_deref(),
            outcome: self.end.as_str(),
            refusal: self.refusal,
            detail: self.detail.as_deref(),
            status: self.status,
            code: self.code.as_ref().map(Code::as_str),
            shadow: self.shadow,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ms: Millis::of(self.spent.whole()),
            own_ms: milliseconds(Turn::Own),
            body_ms: milliseconds(Turn::Body),
            journal_ms: milliseconds(Turn::Journal),
            connect_ms: milliseconds(Turn::Connect),
            upstream_ms: (self.attempts > 0).then(|| milliseconds(Turn::Upstream)),
            look_up_ms: self.observed.map(|_| milliseconds(Turn::LookUp)),
            relay_ms: milliseconds(Turn::Relay),
            attempts: self.attempts,
            observed: self.observed.map(Observed::as_str),
            peer: self.peer,
            caller_left: self.caller_left,
        }
    }
}

/// A line as it is written.
struct Fields<'a> {
    time: &'a str,
    level: Level,
    id: Hex<'a>,
    trace_id: Option<Hex<'a>>,
    parent_id: Option<Hex<'a>>,
    span_id: Option<Hex<'a>>,
    tenant: Option<&'a str>,
    client_id: Option<&'a str>,
    operation: Option<&'a str>,
    kind: Option<&'a str>,
    key: Option<&'a str>,
    outcome: &'a str,
    refusal: Option<&'a str>,
    detail: Option<&'a str>,
    status: Option<u16>,
    code: Option<&'a str>,
    shadow: Limits,
    bytes_in: usize,
    bytes_out: u64,
    ms: Millis,
    own_ms: Millis,
    body_ms: Millis,
    journal_ms: Millis,
    connect_ms: Millis,
    upstream_ms: Option<Millis>,
    look_up_ms: Option<Millis>,
    relay_ms: Millis,
    attempts: u32,
    observed: Option<&'a str>,
    peer: IpAddr,
    caller_left: bool,
}

/// `,"name":`, as one piece.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

impl Fields<'_> {
    /// For a program: an object with every member in every line, `null` where there is no answer; only `shadow` is left
    /// out if it is empty.
    fn json(&self, out: &mut Json<'_>) {
        out.raw("{\"time\":\"");
        out.raw(self.time);
        out.raw("\"");
        out.word(name!("level"), Some(self.level.as_str()));
        out.hex(name!("id"), Some(&self.id));
        out.hex(name!("trace_id"), self.trace_id.as_ref());
        out.hex(name!("parent_id"), self.parent_id.as_ref());
        out.hex(name!("span_id"), self.span_id.as_ref());
        out.text(name!("tenant"), self.tenant);
        out.text(name!("client_id"), self.client_id);
        out.text(name!("operation"), self.operation);
        out.word(name!("kind"), self.kind);
        out.text(name!("key"), self.key);
        out.word(name!("outcome"), Some(self.outcome));
        out.word(name!("refusal"), self.refusal);
        out.text(name!("detail"), self.detail);
        out.number(name!("status"), self.status);
        out.text(name!("code"), self.code);
        if !self.shadow.is_empty() {
            out.words(name!("shadow"), self.shadow.iter().map(Limit::as_str));
        }
        out.number(name!("bytes_in"), Some(self.bytes_in));
        out.number(name!("bytes_out"), Some(self.bytes_out));
        out.millis(name!("ms"), Some(self.ms));
        out.millis(name!("own_ms"), Some(self.own_ms));
        out.millis(name!("body_ms"), Some(self.body_ms));
        out.millis(name!("journal_ms"), Some(self.journal_ms));
        out.millis(name!("connect_ms"), Some(self.connect_ms));
        out.millis(name!("upstream_ms"), self.upstream_ms);
        out.millis(name!("look_up_ms"), self.look_up_ms);
        out.millis(name!("relay_ms"), Some(self.relay_ms));
        out.number(name!("attempts"), Some(self.attempts));
        out.word(name!("observed"), self.observed);
        out.address(name!("peer"), self.peer);
        out.raw(name!("caller_left"));
        out.raw(if self.caller_left { "true}" } else { "false}" });
    }
}

/// Members of an object, written as they come. A serializer that knows nothing of them takes ten times as long, on a
/// processor that workers could use.
struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn member<T>(&mut self, name: &str, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.raw(name);
        match value {
            Some(value) => write(self, value),
            None => self.raw("null"),
        }
    }

    /// Text of our own, which has nothing to escape.
    fn word(&mut self, name: &str, word: Option<&str>) {
        self.member(name, word, Self::quoted);
    }

    fn words<'w>(&mut self, name: &str, words: impl Iterator<Item = &'w str>) {
        self.raw(name);
        for (at, word) in words.enumerate() {
            self.raw(if at == 0 { "[" } else { "," });
            self.quoted(word);
        }
        self.raw("]");
    }

    fn quoted(&mut self, word: &str) {
        self.0.push(b'"');
        self.raw(word);
        self.0.push(b'"');
    }

    /// Anybody's text.
    fn text(&mut self, name: &str, text: Option<&str>) {
        self.member(name, text, |out, text| {
            // All bytes are looked at, so that many are at once.
            let odd = |byte: u8| u8::from(byte < 0x20 || byte == b'"' || byte == b'\\');
            if text.bytes().fold(0, |any, byte| any | odd(byte)) == 0 {
                out.quoted(text);
            } else {
                // Text always serializes.
                let _ = serde_json::to_writer(&mut *out.0, text);
            }
        });
    }

    fn hex(&mut self, name: &str, bytes: Option<&Hex<'_>>) {
        self.member(name, bytes, |out, Hex(bytes)| {
            let mut digits = [0; 32];
            let digits = &mut digits[..2 * bytes.len()];
            hex::encode_to_slice(bytes, digits).expect("two digits for every byte, of 16 at most");
            out.0.push(b'"');
            out.0.extend_from_slice(digits);
            out.0.push(b'"');
        });
    }

    fn number(&mut self, name: &str, number: Option<impl itoa::Integer>) {
        self.member(name, number, Self::digits);
    }

    fn digits(&mut self, number: impl itoa::Integer) {
        self.raw(itoa::Buffer::new().format(number));
    }

    /// With as many decimals as it needs, and at least one.
    fn millis(&mut self, name: &str, time: Option<Millis>) {
        self.member(name, time, |out, time| {
            if time.micros == 0 {
                return out.raw("0.0");
            }
            let (whole, decimals) = time.parts();
            out.digits(whole);
            out.0.push(b'.');
            out.0
                .extend_from_slice(decimals_of(&decimals).unwrap_or(b"0"));
        });
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        self.raw(name);
        self.raw("\"");
        match address {
            IpAddr::V4(address) => {
                for (at, part) in address.octets().into_iter().enumerate() {
                    self.raw(if at == 0 { "" } else { "." });
                    self.digits(part);
                }
            }
            // Memory takes what it is given.
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
        self.raw("\"");
    }
}

/// For a terminal: what one looks for first comes first. A caller's own words are quoted, so that they are one word.
impl Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level.as_str();
        let or = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let (tenant, operation) = (or(self.tenant), or(self.operation));
        write!(
            f,
            "{} {level:5} {tenant} {operation} {}",
            self.time, self.outcome
        )?;
        if let Some(refusal) = self.refusal {
            write!(f, ":{refusal}")?;
        }
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        if let Some(code) = self.code {
            write!(f, " code={code:?}")?;
        }
        if let Some(key) = self.key {
            write!(f, " key={key:?}")?;
        }
        write!(f, " {}ms own={}ms", self.ms, self.own_ms)?;
        if let Some(upstream) = self.upstream_ms {
            write!(f, " gatepay={upstream}ms attempts={}", self.attempts)?;
        }
        write!(
            f,
            " in={} out={} peer={}",
            self.bytes_in, self.bytes_out, self.peer
        )?;
        if let Some(client_id) = self.client_id {
            write!(f, " client={client_id:?}")?;
        }
        write!(f, " id={}", self.id)?;
        if let Some(trace) = &self.trace_id {
            write!(f, " trace={trace}")?;
        }
        if let Some(observed) = self.observed {
            write!(f, " observed={observed}")?;
        }
        if let Some(detail) = self.detail {
            write!(f, " detail={detail:?}")?;
        }
        if self.caller_left {
            f.write_str(" caller_left")?;
        }
        Ok(())
    }
}

/// Lower-case digits.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Milliseconds since 1970, written as RFC 3339.
pub(crate) struct Time(pub(crate) u64);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0).ok();
        let time = time.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        write!(f, "{:.3}", time.unwrap_or_default())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Times as `Time` writes them. Lines mostly follow one another within a second, whose text is kept.
#[derive(Default)]
pub struct Times {
    second: Option<u64>,
    text: String,
}

impl Times {
    fn text(&mut self, unix_ms: u64) -> &str {
        let (second, millis) = (unix_ms / 1_000, unix_ms % 1_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = Time(second * 1_000).to_string();
        }
        self.text.truncate(self.text.len() - "000Z".len());
        let digits = three_digits(millis);
        let digits = str::from_utf8(&digits).expect("digits are ASCII");
        self.text.push_str(digits);
        self.text.push('Z');
        &self.text
    }
}

/// Milliseconds, kept and written to the microsecond.
#[derive(Clone, Copy)]
struct Millis {
    micros: u64,
}

impl Millis {
    fn of(time: Duration) -> Self {
        let micros = time.as_secs() * 1_000_000 + u64::from(time.subsec_nanos() + 500) / 1_000;
        Self { micros }
    }

    /// The whole ones, and the digits behind the point.
    fn parts(self) -> (u64, [u8; 3]) {
        (self.micros / 1_000, three_digits(self.micros % 1_000))
    }
}

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = self.parts();
        write!(f, "{whole}")?;
        let Some(decimals) = decimals_of(&decimals) else {
            return Ok(());
        };
        let decimals = str::from_utf8(decimals).expect("digits are ASCII");
        write!(f, ".{decimals}")
    }
}

/// Those that are needed, if any is.
fn decimals_of(digits: &[u8; 3]) -> Option<&[u8]> {
    let last = digits.iter().rposition(|digit| *digit != b'0')?;
    Some(&digits[..=last])
}

fn three_digits(number: u64) -> [u8; 3] {
    let digit = |place: u64| b'0' + u8::try_from(number / place % 10).expect("one digit");
    [digit(100), digit(10), digit(1)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any line.
    pub(crate) fn line() -> Line {
        Line {
            time: 1_767_225_600_000,
            id: [0xab; 16],
            trace: Trace::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            end: End::Unknown,
            level: Level::Warn,
            generation: None,
            party: None,
            credential: None,
            operation: None,
            key: Some("A-1\n\u{1b}[31m \"x\"".to_owned()),
            refusal: Some("outcome_unknown"),
            detail: None,
            status: Some(504),
            code: None,
            shadow: Limits::default(),
            bytes_in: 120,
            bytes_out: 340,
            spent: Spent::default(),
            attempts: 1,
            observed: Some(Observed::Found),
            peer: [127, 0, 0, 1].into(),
            caller_left: true,
        }
    }

    fn written(line: &Line, format: LogFormat) -> String {
        let mut out = Vec::new();
        line.write(format, &mut Times::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_shows_one_line_whatever_a_caller_writes() {
        let mut line = line();
        line.spent
            .add(Turn::Upstream, Duration::from_micros(11_500));
        line.spent.add(Turn::Own, Duration::from_micros(250));
        assert_eq!(
            written(&line, LogFormat::Human),
            "2026-01-01T00:00:00.000Z warn  - - unknown:outcome_unknown 504 key=\"A-1\\n\\u{1b}[31m \\\"x\\\"\" 11.75ms \
             own=0.25ms gatepay=11.5ms attempts=1 in=120 out=340 peer=127.0.0.1 id=abababababababababababababababab \
             trace=0af7651916cd43dd8448eb211c80319c observed=found caller_left\n"
        );
    }

    #[test]
    fn a_program_reads_one_object_with_every_field() {
        let text = written(&line(), LogFormat::Json);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 30);
        assert_eq!(value["key"], "A-1\n\u{1b}[31m \"x\"");
        assert_eq!(value["span_id"], "abababababababab");
        assert_eq!(value["parent_id"], "b7ad6b7169203331");
        assert_eq!(value["level"], "warn");
    }

    #[test]
    fn a_program_finds_every_member_in_its_place() {
        let mut line = line();
        line.shadow.add(Limit::Rate);
        line.shadow.add(Limit::Money);
        line.code = Code::new("400202");
        line.bytes_out = u64::MAX;
        line.spent.add(Turn::Own, Duration::from_nanos(250_499));
        line.spent.add(Turn::Relay, Duration::from_millis(61_030));
        assert_eq!(
            written(&line, LogFormat::Json),
            "{\"time\":\"2026-01-01T00:00:00.000Z\",\"level\":\"warn\",\"id\":\"abababababababababababababababab\",\
             \"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\"parent_id\":\"b7ad6b7169203331\",\
             \"span_id\":\"abababababababab\",\"tenant\":null,\"client_id\":null,\"operation\":null,\"kind\":null,\
             \"key\":\"A-1\\n\\u001b[31m \\\"x\\\"\",\"outcome\":\"unknown\",\"refusal\":\"outcome_unknown\",\
             \"detail\":null,\"status\":504,\"code\":\"400202\",\"shadow\":[\"rate\",\"money\"],\"bytes_in\":120,\
             \"bytes_out\":18446744073709551615,\"ms\":61030.25,\"own_ms\":0.25,\"body_ms\":0.0,\"journal_ms\":0.0,\
             \"connect_ms\":0.0,\"upstream_ms\":0.0,\"look_up_ms\":0.0,\"relay_ms\":61030.0,\"attempts\":1,\
             \"observed\":\"found\",\"peer\":\"127.0.0.1\",\"caller_left\":true}\n"
        );
    }

    #[test]
    fn lines_of_one_second_share_its_text_and_no_more() {
        let mut times = Times::default();
        for unix_ms in [
            1_767_225_600_000,
            1_767_225_600_007,
            1_767_225_600_999,
            1_767_225_601_010,
            12,
        ] {
            assert_eq!(times.text(unix_ms), Time(unix_ms).to_string());
        }
    }

    proptest! {
        /// As a serializer would write them.
        #[test]
        fn texts_numbers_and_addresses_are_json(text: String, number: u64, address: IpAddr) {
            let mut out = Vec::new();
            let mut json = Json(&mut out);
            json.text("", Some(&text));
            json.raw(" ");
            json.number("", Some(number));
            json.raw(" ");
            json.address("", address);
            let [text, address] = [serde_json::to_string(&text), serde_json::to_string(&address)];
            let expected = format!("{} {number} {}", text.unwrap(), address.unwrap());
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }

        #[test]
        fn milliseconds_are_written_as_floating_point_would_write_them(micros in 0_u64..1 << 40, nanos in 0_u64..499) {
            let time = Millis::of(Duration::from_nanos(micros * 1_000 + nanos));
            #[expect(clippy::cast_precision_loss, reason = "a week and more fits")]
            let float = micros as f64 / 1e3;
            let mut out = Vec::new();
            Json(&mut out).millis("", Some(time));
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&float).unwrap());
            prop_assert_eq!(time.to_string(), float.to_string());
        }
    }
}
