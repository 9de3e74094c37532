//! Access line: the facts of a request at its end, and the two formats in which the line is written.
//!
//! A request only gathers the facts: party and operation are positions in the generation, and numbers stay numbers. The
//! access log's thread formats the text.

use std::fmt::{self, Display};
use std::hint::black_box;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_admission::limit_name::{LimitName, LimitSet};
use gatepay_core::Credential;
use gatepay_core::envelope::EnvelopeCode;
use gatepay_core::look_up::ObservedOutcome;
use gatepay_tenancy::Party;
use gatepay_tenancy::settings::LogFormat;

use crate::generation::Generation;
use crate::process::clock::nanos;
use crate::process::timestamp::{Rfc3339Cache, three_digits};
use crate::prom::outcome::RequestOutcome;
use crate::record::trace::TraceContext;

/// The facts of one request. They contain no secret: no signature, no body, no path that a caller chose.
///
/// The lines that a worker ends within some milliseconds wait in memory, so a line is small. A line owns no heap memory
/// that the writing thread would have to free: texts and shared values are in [`LineDetails`].
#[derive(Clone, Copy)]
pub struct AccessLine {
    /// When the request's head arrived, in milliseconds since 1970.
    pub time: u64,
    /// `X-Request-Id` of the answer. Its first half is the proxy's span in the caller's trace.
    pub id: [u8; 16],
    /// The caller's trace context.
    pub trace: Option<TraceContext>,
    /// How the request ended.
    pub end: RequestOutcome,
    /// The line's level, which follows from the party at fault.
    pub level: LineLevel,
    /// The position of the tenant or operator in the registry, once known.
    pub party: Option<u32>,
    /// The position of the signing credential among the party's credentials, once verified.
    pub credential: Option<u32>,
    /// The position of the operation in the catalogue.
    pub operation: Option<u32>,
    /// The slug of the proxy's refusal.
    pub refusal: Option<&'static str>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The envelope code of GatePay's answer.
    pub code: Option<EnvelopeCode>,
    /// Limits that would have refused the request, had they been enforced.
    pub shadow: LimitSet,
    /// Bytes of the request's body.
    pub bytes_in: usize,
    /// Bytes of the answer's body that were handed over.
    pub bytes_out: u64,
    /// The time spent in each phase.
    pub timings: PhaseTimings,
    /// Upstream attempts, whether sent or only tried.
    pub attempts: u32,
    /// The outcome that a look-up observed at GatePay for a call whose answer was lost.
    pub observed: Option<ObservedOutcome>,
    /// The caller's IP address.
    pub peer: IpAddr,
    /// Whether the caller left before the whole answer was handed over.
    pub caller_left: bool,
}

/// The parts of a line that have a length of their own or are shared.
#[derive(Clone, Copy, Default)]
pub struct LineDetails<'a> {
    /// The generation that the line's positions refer to.
    pub generation: Option<&'a Arc<Generation>>,
    /// The idempotency key's value.
    pub key: Option<&'a str>,
    /// Detail for the log that the caller's answer left out.
    pub detail: Option<&'a str>,
}

/// The level of a line, by the party at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineLevel {
    /// No fault, or the caller's.
    Info,
    /// A fault of GatePay or of the network to GatePay.
    Warn,
    /// A fault of the proxy.
    Error,
}

impl LineLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The phase of a request, from its head to the end of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPhase {
    /// The proxy works: reading, verifying, judging, signing, answering.
    Own,
    /// Waiting for the caller's body.
    Body,
    /// Waiting for the disk to store the audit journal's record.
    Journal,
    /// Waiting for a connection to GatePay.
    Connect,
    /// Waiting for GatePay's answer.
    Upstream,
    /// Waiting for GatePay's look-up of a call whose answer was lost.
    LookUp,
    /// Waiting for the caller to read the answer.
    Relay,
}

/// The time spent in each phase, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct PhaseTimings([u64; 7]);

impl PhaseTimings {
    /// Adds time spent in a phase.
    pub fn add(&mut self, phase: RequestPhase, time: Duration) {
        self.0[phase as usize] += nanos(time);
    }

    /// The time spent in a phase.
    pub fn of(&self, phase: RequestPhase) -> Duration {
        Duration::from_nanos(self.nanos(phase))
    }

    /// The sum of all phases.
    pub fn whole(&self) -> Duration {
        Duration::from_nanos(self.all_nanos())
    }

    fn nanos(&self, phase: RequestPhase) -> u64 {
        self.0[phase as usize]
    }

    fn all_nanos(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AccessLine {
    /// A line for a request whose head arrived at `time`, in milliseconds since 1970. Everything else is unknown.
    pub fn begin(time: u64, id: [u8; 16], trace: Option<TraceContext>, peer: IpAddr) -> Self {
        Self {
            time,
            id,
            trace,
            peer,
            end: RequestOutcome::CallerLeft,
            level: LineLevel::Info,
            party: None,
            credential: None,
            operation: None,
            refusal: None,
            status: None,
            code: None,
            shadow: LimitSet::default(),
            bytes_in: 0,
            bytes_out: 0,
            timings: PhaseTimings::default(),
            attempts: 0,
            observed: None,
            caller_left: false,
        }
    }

    /// Writes the line in this format, with a line feed. `times` caches formatted timestamps between lines.
    pub fn write(
        &self,
        rest: LineDetails<'_>,
        format: LogFormat,
        times: &mut Rfc3339Cache,
        out: &mut TextBuffer,
    ) {
        let time = times.text(self.time);
        match format {
            LogFormat::Json => self.fields(rest, time).json(&mut JsonWriter(out)),
            // Writing to memory does not fail.
            LogFormat::Human => drop(write!(out, "{}", self.fields(rest, time))),
        }
        out.push(b"\n");
    }

    /// Loads the names of the line's tenant and credential into the processor's cache before the line is written. The
    /// cache misses of several lines then overlap.
    pub fn prefetch(&self, rest: LineDetails<'_>) {
        let (party, credential) = self.who(rest);
        let id = party.map(|party| party.id.as_str().len());
        let client_id = credential.map(|credential| credential.client_id.as_str().len());
        black_box((id, client_id));
    }

    /// The line's party, and the credential that signed the request.
    fn who<'a>(&self, rest: LineDetails<'a>) -> (Option<&'a Party>, Option<&'a Credential>) {
        let party = rest.generation.zip(self.party);
        let party = party.map(|(generation, at)| generation.registry.at(at as usize).party());
        let credential = party.zip(self.credential);
        let credential =
            credential.map(|(party, place)| &party.credentials[place as usize].credential);
        (party, credential)
    }

    fn fields<'a>(&'a self, rest: LineDetails<'a>, time: &'a str) -> LineFields<'a> {
        let row = rest.generation.zip(self.operation);
        let row = row.map(|(generation, at)| &generation.catalogue.rows()[at as usize]);
        let (party, credential) = self.who(rest);
        let milliseconds = |phase| Milliseconds::of(self.timings.nanos(phase));
        LineFields {
            time,
            level: self.level,
            id: &self.id,
            trace: self.trace.as_ref(),
            tenant: party.map(|party| party.id.as_str()),
            client_id: credential.map(|credential| credential.client_id.as_str()),
            operation: row.map(|row| row.name.as_ref()),
            kind: row.map(|row| row.kind.as_str()),
            key: rest.key,
            outcome: self.end.as_str(),
            refusal: self.refusal,
            detail: rest.detail,
            status: self.status,
            code: self.code.as_ref().map(EnvelopeCode::as_str),
            shadow: self.shadow,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ms: Milliseconds::of(self.timings.all_nanos()),
            own_ms: milliseconds(RequestPhase::Own),
            body_ms: milliseconds(RequestPhase::Body),
            journal_ms: milliseconds(RequestPhase::Journal),
            connect_ms: milliseconds(RequestPhase::Connect),
            upstream_ms: (self.attempts > 0).then(|| milliseconds(RequestPhase::Upstream)),
            look_up_ms: self.observed.map(|_| milliseconds(RequestPhase::LookUp)),
            relay_ms: milliseconds(RequestPhase::Relay),
            attempts: self.attempts,
            observed: self.observed.map(ObservedOutcome::as_str),
            peer: self.peer,
            caller_left: self.caller_left,
        }
    }
}

/// The fields of a line, resolved for writing.
struct LineFields<'a> {
    time: &'a str,
    level: LineLevel,
    id: &'a [u8; 16],
    trace: Option<&'a TraceContext>,
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
    shadow: LimitSet,
    bytes_in: usize,
    bytes_out: u64,
    ms: Milliseconds,
    own_ms: Milliseconds,
    body_ms: Milliseconds,
    journal_ms: Milliseconds,
    connect_ms: Milliseconds,
    upstream_ms: Option<Milliseconds>,
    look_up_ms: Option<Milliseconds>,
    relay_ms: Milliseconds,
    attempts: u32,
    observed: Option<&'a str>,
    peer: IpAddr,
    caller_left: bool,
}

/// A JSON member's name and the characters after it, as one piece.
struct JsonName {
    value: &'static str,
    text: &'static str,
    null: &'static str,
}

macro_rules! name {
    ($name:literal) => {
        JsonName {
            value: concat!(",\"", $name, "\":"),
            text: concat!(",\"", $name, "\":\""),
            null: concat!(",\"", $name, "\":null"),
        }
    };
}

impl LineFields<'_> {
    /// The proxy's span in the caller's trace.
    fn span(&self) -> &[u8; 8] {
        self.id.first_chunk().expect("8 of 16")
    }

    /// Writes the line as a JSON object that always has every member, `null` where a value is unknown. Only an empty
    /// `shadow` is left out.
    fn json(&self, out: &mut JsonWriter<'_>) {
        out.raw("{\"time\":\"");
        out.raw(self.time);
        out.raw("\"");
        out.word(&name!("level"), Some(self.level.as_str()));
        out.hex(&name!("id"), self.id);
        if let Some(trace) = self.trace {
            out.hex(&name!("trace_id"), &trace.id);
            out.hex(&name!("parent_id"), &trace.parent);
            out.hex(&name!("span_id"), self.span());
        } else {
            // The proxy has a span only in a caller's trace.
            out.raw(",\"trace_id\":null,\"parent_id\":null,\"span_id\":null");
        }
        out.text(&name!("tenant"), self.tenant);
        out.text(&name!("client_id"), self.client_id);
        out.text(&name!("operation"), self.operation);
        out.word(&name!("kind"), self.kind);
        out.text(&name!("key"), self.key);
        out.word(&name!("outcome"), Some(self.outcome));
        out.word(&name!("refusal"), self.refusal);
        out.text(&name!("detail"), self.detail);
        out.number(&name!("status"), self.status.map(u64::from));
        out.text(&name!("code"), self.code);
        if !self.shadow.is_empty() {
            out.words(&name!("shadow"), self.shadow.iter().map(LimitName::as_str));
        }
        out.number(&name!("bytes_in"), Some(self.bytes_in as u64));
        out.number(&name!("bytes_out"), Some(self.bytes_out));
        out.millis(&name!("ms"), Some(self.ms));
        out.millis(&name!("own_ms"), Some(self.own_ms));
        out.millis(&name!("body_ms"), Some(self.body_ms));
        out.millis(&name!("journal_ms"), Some(self.journal_ms));
        out.millis(&name!("connect_ms"), Some(self.connect_ms));
        out.millis(&name!("upstream_ms"), self.upstream_ms);
        out.millis(&name!("look_up_ms"), self.look_up_ms);
        out.millis(&name!("relay_ms"), Some(self.relay_ms));
        out.number(&name!("attempts"), Some(self.attempts.into()));
        out.word(&name!("observed"), self.observed);
        out.address(&name!("peer"), self.peer);
        out.raw(name!("caller_left").value);
        out.raw(if self.caller_left { "true}" } else { "false}" });
    }
}

/// A text buffer that is appended to and reused after it is cleared.
///
/// Like a `Vec`, but the code that grows it is not inlined where a piece is written: a line has some sixty pieces.
#[derive(Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
    length: usize,
}

#[expect(
    clippy::inline_always,
    reason = "a piece takes a few instructions, and calling for them as many"
)]
impl TextBuffer {
    /// The text so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Empties the buffer and shrinks it to at most this number of bytes.
    pub fn clear(&mut self, most: usize) {
        self.length = 0;
        self.bytes.truncate(most);
        self.bytes.shrink_to(most);
    }

    #[inline(always)]
    fn push(&mut self, piece: &[u8]) {
        let end = self.length + piece.len();
        if end > self.bytes.len() {
            self.grow(end);
        }
        self.bytes[self.length..end].copy_from_slice(piece);
        self.length = end;
    }

    /// Appends the first `count` of these bytes.
    #[inline(always)]
    fn push_first(&mut self, count: usize, of: [u8; 4]) {
        self.push(&of);
        self.length -= of.len().saturating_sub(count);
    }

    #[cold]
    fn grow(&mut self, least: usize) {
        self.bytes.resize(least.max(2 * self.bytes.len()), 0);
    }
}

impl Write for TextBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes the members of a JSON object in turn. With `serde_json` and `hex` in its place a request costs 10.9 % more
/// instructions (docs/explanation/performance.md, "Hand-written or a crate"), on a processor that workers could use.
struct JsonWriter<'a>(&'a mut TextBuffer);

#[expect(
    clippy::inline_always,
    reason = "in one place all names are of known length"
)]
impl JsonWriter<'_> {
    #[inline(always)]
    fn raw(&mut self, text: &str) {
        self.0.push(text.as_bytes());
    }

    /// Writes a text of the proxy's own, which needs no escaping.
    #[inline(always)]
    fn word(&mut self, name: &JsonName, word: Option<&str>) {
        let Some(word) = word else {
            return self.raw(name.null);
        };
        self.raw(name.text);
        self.raw(word);
        self.raw("\"");
    }

    fn words<'w>(&mut self, name: &JsonName, words: impl Iterator<Item = &'w str>) {
        self.raw(name.value);
        for (at, word) in words.enumerate() {
            self.raw(if at == 0 { "[\"" } else { ",\"" });
            self.raw(word);
            self.raw("\"");
        }
        self.raw("]");
    }

    /// Writes any text, escaped where JSON requires it.
    #[inline(always)]
    fn text(&mut self, name: &JsonName, text: Option<&str>) {
        if text.is_none_or(is_plain) {
            return self.word(name, text);
        }
        self.raw(name.value);
        // Text always serializes.
        let _ = serde_json::to_writer(&mut *self.0, &text);
    }

    #[inline(always)]
    fn hex<const N: usize>(&mut self, name: &JsonName, bytes: &[u8; N]) {
        self.raw(name.text);
        let digits = bytes.map(|byte| DIGITS[usize::from(byte)]);
        self.0.push(digits.as_flattened());
        self.raw("\"");
    }

    #[inline(always)]
    fn number(&mut self, name: &JsonName, number: Option<u64>) {
        let Some(number) = number else {
            return self.raw(name.null);
        };
        self.raw(name.value);
        self.digits(number);
    }

    fn digits(&mut self, number: u64) {
        match number {
            ..10 => self.0.push(&three_digits(number)[2..]),
            10..100 => self.0.push(&three_digits(number)[1..]),
            100..1_000 => self.0.push(&three_digits(number)),
            _ => self.raw(itoa::Buffer::new().format(number)),
        }
    }

    /// Writes milliseconds with as many decimals as needed, and at least one.
    #[inline(always)]
    fn millis(&mut self, name: &JsonName, time: Option<Milliseconds>) {
        let Some(time) = time else {
            return self.raw(name.null);
        };
        self.raw(name.value);
        if time.micros == 0 {
            return self.raw("0.0");
        }
        let (whole, [a, b, c]) = time.parts();
        self.digits(whole);
        let needed = decimals_of(&[a, b, c]).map_or(1, <[u8]>::len);
        self.0.push_first(1 + needed, [b'.', a, b, c]);
    }

    fn address(&mut self, name: &JsonName, address: IpAddr) {
        self.raw(name.text);
        match address {
            IpAddr::V4(address) => {
                for (at, part) in address.octets().into_iter().enumerate() {
                    self.raw(if at == 0 { "" } else { "." });
                    self.digits(part.into());
                }
            }
            // Writing to memory does not fail.
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
        self.raw("\"");
    }
}

/// Whether a text stands in JSON without escapes.
fn is_plain(text: &str) -> bool {
    /// Whether one of eight bytes needs an escape. A subtraction that borrows from a byte's highest bit shows that the
    /// byte was less.
    fn odd(eight: [u8; 8]) -> bool {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        let eight = u64::from_ne_bytes(eight);
        let less = |than: u8, bytes: u64| bytes.wrapping_sub(ONES * u64::from(than)) & !bytes;
        let is = |byte: u8| less(1, eight ^ (ONES * u64::from(byte)));
        (less(0x20, eight) | is(b'"') | is(b'\\')) & (ONES << 7) != 0
    }
    let (eights, rest) = text.as_bytes().as_chunks();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    !eights.iter().any(|eight| odd(*eight)) && !odd(last)
}

/// The format for a terminal, with the most important fields first. A caller's own texts are quoted, so that each stays
/// a single word.
impl Display for LineFields<'_> {
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
        write!(f, " id={}", HexDigits(self.id))?;
        if let Some(trace) = self.trace {
            write!(f, " trace={}", HexDigits(&trace.id))?;
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

/// Bytes as lower-case hexadecimal digits.
struct HexDigits<'a>(&'a [u8]);

impl Display for HexDigits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The two lower-case hexadecimal digits of every byte.
static DIGITS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    all
};

/// Milliseconds, kept and written to the microsecond.
#[derive(Clone, Copy)]
struct Milliseconds {
    micros: u64,
}

impl Milliseconds {
    fn of(nanos: u64) -> Self {
        Self {
            micros: nanos.saturating_add(500) / 1_000,
        }
    }

    /// The whole milliseconds, and the three decimals.
    fn parts(self) -> (u64, [u8; 3]) {
        (self.micros / 1_000, three_digits(self.micros % 1_000))
    }
}

impl Display for Milliseconds {
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

/// The decimals up to the last that is not zero, if any.
fn decimals_of(digits: &[u8; 3]) -> Option<&[u8]> {
    let last = digits.iter().rposition(|digit| *digit != b'0')?;
    Some(&digits[..=last])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An arbitrary line.
    pub(crate) fn line() -> AccessLine {
        AccessLine {
            end: RequestOutcome::Unknown,
            level: LineLevel::Warn,
            refusal: Some("outcome_unknown"),
            status: Some(504),
            bytes_in: 120,
            bytes_out: 340,
            attempts: 1,
            observed: Some(ObservedOutcome::Found),
            caller_left: true,
            ..AccessLine::begin(
                1_767_225_600_000,
                [0xab; 16],
                TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                [127, 0, 0, 1].into(),
            )
        }
    }

    fn content(out: &TextBuffer) -> String {
        String::from_utf8(out.as_bytes().to_vec()).unwrap()
    }

    fn written(line: &AccessLine, format: LogFormat) -> String {
        let mut out = TextBuffer::default();
        let rest = LineDetails {
            key: Some("A-1\n\u{1b}[31m \"x\""),
            ..LineDetails::default()
        };
        line.write(rest, format, &mut Rfc3339Cache::default(), &mut out);
        content(&out)
    }

    #[test]
    fn the_examples_in_the_page_on_logs_are_access_lines_as_written() {
        let mut line = line();
        line.timings
            .add(RequestPhase::Upstream, Duration::from_micros(11_500));
        line.timings
            .add(RequestPhase::Own, Duration::from_micros(250));
        let page = include_str!("../../../../docs/reference/access-log.md");
        for format in [LogFormat::Json, LogFormat::Human] {
            let mut out = TextBuffer::default();
            let rest = LineDetails {
                key: Some("A-1"),
                ..LineDetails::default()
            };
            line.write(rest, format, &mut Rfc3339Cache::default(), &mut out);
            let written = content(&out);
            assert!(page.contains(&written), "{written}");
        }
    }

    #[test]
    fn a_line_that_waits_is_small() {
        // Four cache lines of the processor.
        assert!(
            size_of::<AccessLine>() <= 256,
            "{}",
            size_of::<AccessLine>()
        );
    }

    #[test]
    fn a_line_without_a_trace_says_so_in_every_member() {
        let mut line = line();
        line.trace = None;
        let value: serde_json::Value =
            serde_json::from_str(&written(&line, LogFormat::Json)).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 30);
        for member in ["trace_id", "parent_id", "span_id"] {
            assert!(value[member].is_null(), "{member}");
        }
    }

    #[test]
    fn an_access_line_is_one_terminal_line_for_any_text_of_a_caller() {
        let mut line = line();
        line.timings
            .add(RequestPhase::Upstream, Duration::from_micros(11_500));
        line.timings
            .add(RequestPhase::Own, Duration::from_micros(250));
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
        line.shadow.add(LimitName::Rate);
        line.shadow.add(LimitName::Money);
        line.code = EnvelopeCode::new("400202");
        line.bytes_out = u64::MAX;
        line.timings
            .add(RequestPhase::Own, Duration::from_nanos(250_499));
        line.timings
            .add(RequestPhase::Relay, Duration::from_millis(61_030));
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
    fn every_byte_has_its_digits_and_the_odd_ones_are_found_in_every_place() {
        let mut out = TextBuffer::default();
        let all: [u8; 256] = std::array::from_fn(|byte| u8::try_from(byte).unwrap());
        JsonWriter(&mut out).hex(&name!("a"), &all);
        assert_eq!(content(&out), format!(",\"a\":\"{}\"", hex::encode(all)));
        for byte in 0..0x80_u8 {
            let odd = byte < 0x20 || byte == b'"' || byte == b'\\';
            for before in 0..20 {
                let text = format!("{}{}é~", " ".repeat(before), char::from(byte));
                assert_eq!(is_plain(&text), !odd, "{text:?}");
            }
        }
    }

    #[test]
    fn lines_of_one_second_share_its_text_and_no_more() {
        let mut times = Rfc3339Cache::default();
        for unix_ms in [
            1_767_225_600_000,
            1_767_225_600_007,
            1_767_225_600_999,
            1_767_225_601_010,
            12,
        ] {
            assert_eq!(
                times.text(unix_ms),
                crate::process::timestamp::Rfc3339(unix_ms).to_string()
            );
        }
    }

    proptest! {
        /// The hand-written members equal those of a serializer.
        #[test]
        fn texts_numbers_and_addresses_are_json(text: String, plain in "[ -~]{0,40}", number: u64, address: IpAddr) {
            let mut out = TextBuffer::default();
            let mut json = JsonWriter(&mut out);
            json.text(&name!("a"), Some(&text));
            json.text(&name!("b"), Some(&plain));
            json.number(&name!("c"), Some(number));
            json.address(&name!("d"), address);
            let [text, plain] = [text, plain].map(|text| serde_json::to_string(&text).unwrap());
            let address = serde_json::to_string(&address).unwrap();
            let expected = format!(",\"a\":{text},\"b\":{plain},\"c\":{number},\"d\":{address}");
            prop_assert_eq!(content(&out), expected);
        }

        #[test]
        fn milliseconds_are_written_as_floating_point_would_write_them(micros in 0_u64..1 << 40, nanos in 0_u64..499) {
            let time = Milliseconds::of(micros * 1_000 + nanos);
            #[expect(clippy::cast_precision_loss, reason = "a week and more fits")]
            let float = micros as f64 / 1e3;
            let mut out = TextBuffer::default();
            JsonWriter(&mut out).millis(&name!("a"), Some(time));
            prop_assert_eq!(content(&out), format!(",\"a\":{}", serde_json::to_string(&float).unwrap()));
            prop_assert_eq!(time.to_string(), float.to_string());
        }
    }
}
