//! An access line: what is known of a request at its end, and the two forms in which it is written.
//!
//! Requests only gather it: who it was and what it asked for are places in the generation, numbers are numbers. Text is
//! made of it by the thread that writes.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::envelope::Code;
use gatepay_core::look_up::Observed;
use gatepay_tenancy::settings::LogFormat;
use serde::{Serialize, Serializer};

use crate::generation::Generation;
use crate::limit::Limits;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nobody's, or the caller's.
    Info,
    /// GatePay's, or the way's to it.
    Warn,
    /// Ours.
    Error,
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
    /// Writes it in this form, with its end of line.
    pub fn write(&self, format: LogFormat, out: &mut Vec<u8>) {
        // Numbers and strings always serialize, and memory takes what it is given.
        let _ = match format {
            LogFormat::Json => {
                serde_json::to_writer(&mut *out, &self.fields()).map_err(io::Error::from)
            }
            LogFormat::Human => write!(out, "{}", self.fields()),
        };
        out.push(b'\n');
    }

    fn fields(&self) -> Fields<'_> {
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
        let milliseconds = |turn| milliseconds(self.spent.of(turn));
        // Our part of a trace exists only if there is one.
        let (span, _) = self.id.split_at(8);
        Fields {
            time: Time(self.time),
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
            ms: self::milliseconds(self.spent.whole()),
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

/// A line as it is written. What it has no answer to is `null`.
#[derive(Serialize)]
struct Fields<'a> {
    time: Time,
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
    #[serde(skip_serializing_if = "Limits::is_empty")]
    shadow: Limits,
    bytes_in: usize,
    bytes_out: u64,
    ms: f64,
    own_ms: f64,
    body_ms: f64,
    journal_ms: f64,
    connect_ms: f64,
    upstream_ms: Option<f64>,
    look_up_ms: Option<f64>,
    relay_ms: f64,
    attempts: u32,
    observed: Option<&'a str>,
    peer: IpAddr,
    caller_left: bool,
}

/// For a terminal: what one looks for first comes first. A caller's own words are quoted, so that they are one word.
impl Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Info => "info ",
            Level::Warn => "warn ",
            Level::Error => "error",
        };
        let or = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let (tenant, operation) = (or(self.tenant), or(self.operation));
        write!(
            f,
            "{} {level} {tenant} {operation} {}",
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

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
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
        line.write(format, &mut out);
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
}
