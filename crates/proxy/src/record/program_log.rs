//! Program log: the lines on standard error, in the format of the access lines.
//!
//! Both logs write `time` (RFC 3339 in UTC, to the millisecond) and `level` (lower case) first and alike, so that one
//! rule of a log collector reads both.

use std::fmt;
use std::io;

use gatepay_tenancy::settings::LogFormat;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use tracing::{Event, Level, Subscriber};
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::process::clock::Clock;
use crate::process::timestamp::Rfc3339;

/// Formats one event of the program's log as one line.
pub struct ProgramLogFormat {
    format: LogFormat,
    clock: Clock,
}

impl ProgramLogFormat {
    /// Lines in this format, with the time of this clock.
    pub fn new(format: LogFormat, clock: Clock) -> Self {
        Self { format, clock }
    }
}

impl<S, N> FormatEvent<S, N> for ProgramLogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (time, level) = (Rfc3339(self.clock.unix_ms()), *event.metadata().level());
        match self.format {
            LogFormat::Json => {
                let line = json_line(&time, level, event).map_err(|_| fmt::Error)?;
                writer.write_str(&line)?;
            }
            LogFormat::Human => {
                write!(writer, "{time} {:5} ", level_name(level))?;
                context.format_fields(writer.by_ref(), event)?;
            }
        }
        writeln!(writer)
    }
}

/// An event as a JSON object: `time`, `level`, `message`, and the event's fields.
fn json_line(time: &Rfc3339, level: Level, event: &Event<'_>) -> io::Result<String> {
    let mut line = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut members = serializer.serialize_map(None)?;
    members.serialize_entry("time", time)?;
    members.serialize_entry("level", level_name(level))?;
    let mut visitor = SerdeMapVisitor::new(members);
    event.record(&mut visitor);
    visitor.finish()?;
    String::from_utf8(line).map_err(io::Error::other)
}

/// The level's name in both logs. Access lines use the last three.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct SharedOutput(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_examples_in_the_page_on_logs_are_program_log_lines_as_written() {
        let page = include_str!("../../../../docs/reference/access-log.md");
        for format in [LogFormat::Json, LogFormat::Human] {
            let output = SharedOutput::default();
            let writer = output.clone();
            let log = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .event_format(ProgramLogFormat::new(
                    format,
                    Clock::manual(1_767_225_600_000),
                ))
                .finish();
            tracing::subscriber::with_default(log, || {
                tracing::warn!(
                    error = "no space left",
                    retry_ms = 500,
                    "state_dir cannot be written"
                );
            });
            let written = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
            assert!(page.contains(&written) && !written.is_empty(), "{written}");
        }
    }
}
