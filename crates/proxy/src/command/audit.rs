//! `audit`: the journal of write and money calls, verified and searched.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gatepay_core::SigningKey;
use gatepay_proxy::clock::Clock;
use gatepay_proxy::journal::folder::Disk;
use gatepay_proxy::journal::head::HeadFolder;
use gatepay_proxy::journal::show::{Call, Wanted, show};
use gatepay_proxy::journal::verify::{Head, Known, Report, verify_against};
use gatepay_tenancy::settings::{Audit as AuditSettings, Settings};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::{Map, Value, json};

use super::from::SecretFrom;
use super::{Exit, complain, environment, fail, say};

/// Verify the audit journal, or find a call in it.
#[derive(Subcommand)]
pub(crate) enum Audit {
    Verify(Verify),
    Show(Show),
}

/// Verify that no record was altered, removed, inserted or reordered.
///
/// The end of the last run can be cut without a trace in the journal itself, so it is compared with the heads that the
/// proxy keeps in `state_dir`. A head is in the proxy's log too, once a minute
/// (`"message":"audit journal","head":"3.1207.…"`): give one or more with --head, and a cut shows although `state_dir`
/// was changed as well. Works beside a running proxy. Exits with 0 if everything is as it was written, 1 if not, 64 for
/// bad usage.
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    /// The file that holds the journal's key, if it is looked at away from the proxy.
    #[arg(long, value_name = "FILE", requires = "dir")]
    key_file: Option<PathBuf>,
    /// The proxy's `state_dir`, or a copy of it, with the heads of the last runs.
    #[arg(long, value_name = "FOLDER", requires = "dir")]
    state_dir: Option<PathBuf>,
    /// A head from the log, `run.seq.link`; may be repeated.
    #[arg(long, value_name = "HEAD")]
    head: Vec<Head>,
    /// The first run that has to be there; files of earlier ones were moved away.
    #[arg(long, value_name = "RUN", default_value_t = 1)]
    from_run: u32,
}

/// Find calls: who asked, for what, and what became of it.
///
/// Prints every call that matches all that is given. Says nothing about whether the journal is whole: that is for
/// `audit verify`.
#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// Only calls of this tenant or operator.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only calls with this idempotency key (merchantTradeNo, refundRequestId …) or id of GatePay's.
    #[arg(long, value_name = "VALUE")]
    key: Option<String>,
    /// Only the request with this `X-Request-Id`.
    #[arg(long, value_name = "REQUEST")]
    id: Option<String>,
    /// Only calls from then on: RFC 3339, a date (UTC), or a time ago such as 2h or 30d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only calls before then, likewise.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Print one JSON object per call, with both its records.
    #[arg(long)]
    json: bool,
}

/// Which journal.
#[derive(Args)]
struct Place {
    /// The process's configuration, whose `[audit]` says where the journal is.
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// The journal's folder, wherever it was copied to; no configuration is read then.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    dir: Option<PathBuf>,
}

impl Audit {
    pub(crate) fn run(self) -> Exit {
        let ended = match self {
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
        };
        ended.unwrap_or_else(|exit| exit)
    }
}

/// What `verify` looks at.
struct Subject {
    folder: PathBuf,
    key: SigningKey,
    state_dir: Option<PathBuf>,
    /// What is said if there is no state folder.
    without: &'static str,
}

impl Verify {
    fn run(&self) -> Result<Exit, Exit> {
        let subject = self.subject()?;
        let (folder, key) = (&subject.folder, &subject.key);
        let failed = |error| fail(format_args!("{}: {error}", folder.display()));
        // Before the journal is read, so that none is newer than what is read of it.
        let heads = HeadFolder::of(subject.state_dir.as_deref(), folder);
        let kept = heads.read(key).map_err(failed)?;
        let known = Known {
            from: self.from_run,
            heads: &self.head,
            kept: (subject.state_dir.is_some() || !kept.is_empty()).then_some(&kept),
        };
        let report = verify_against(&Disk::at(folder), key, &known).map_err(failed)?;
        if subject.state_dir.is_none() {
            say(format_args!("note: {}", subject.without));
        }
        tell(&report)
    }

    fn subject(&self) -> Result<Subject, Exit> {
        match (&self.place.dir, &self.key_file) {
            (Some(dir), Some(file)) => {
                let secret = SecretFrom::file(file).key().map_err(usage)?;
                Ok(Subject {
                    folder: dir.clone(),
                    key: SigningKey::new(&secret),
                    state_dir: self.state_dir.clone(),
                    without: "no --state-dir is given: the end of the journal is compared with no head from there",
                })
            }
            (Some(_), None) => Err(usage("name the file of the journal's key with --key-file")),
            (None, _) => {
                let settings = configured(&self.place.config)?;
                let audit = journal(&self.place.config, settings.audit)?;
                Ok(Subject {
                    folder: audit.dir,
                    key: audit.key,
                    state_dir: settings.state_dir,
                    without: "no state_dir is configured: the end of the journal is compared with heads beside it only",
                })
            }
        }
    }
}

fn tell(report: &Report) -> Result<Exit, Exit> {
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
    for finding in &report.findings {
        complain(finding);
    }
    say(format_args!(
        "{} records, {} calls, {} of them without a record of their end",
        report.records, report.calls, report.open
    ));
    if let Some(head) = &report.head {
        say(format_args!("head: {head}"));
    }
    match report.findings.len() {
        0 => {
            say("everything is as it was written");
            Ok(Exit::Fine)
        }
        1 => Err(fail("1 finding: the journal is not as it was written")),
        many => Err(fail(format_args!(
            "{many} findings: the journal is not as it was written"
        ))),
    }
}

impl Show {
    fn run(self) -> Result<Exit, Exit> {
        let folder = match self.place.dir {
            Some(dir) => dir,
            None => journal(&self.place.config, configured(&self.place.config)?.audit)?.dir,
        };
        let wanted = Wanted {
            party: self.tenant,
            key: self.key,
            id: self.id,
            since: self.since,
            until: self.until,
        };
        let calls = show(&Disk::at(&folder), &wanted)
            .map_err(|error| fail(format_args!("{}: {error}", folder.display())))?;
        if calls.is_empty() {
            return Err(fail("no call matches"));
        }
        for call in calls {
            if self.json {
                say(json!({"before": call.before, "after": call.after}));
            } else {
                print(&call);
            }
        }
        Ok(Exit::Fine)
    }
}

fn print(call: &Call) {
    let before = &call.before;
    say(format_args!(
        "{}  {} {} key {} by {} ({}) from {}",
        text(before, "time"),
        text(before, "kind"),
        text(before, "operation"),
        text(before, "key"),
        text(before, "party"),
        text(before, "client_id"),
        text(before, "peer"),
    ));
    say(format_args!(
        "    request {}  account {}  signed {} at {}, SHA-256 of the signed string {}",
        text(before, "id"),
        text(before, "account"),
        text(before, "nonce"),
        text(before, "timestamp"),
        text(before, "signed_sha256"),
    ));
    let Some(after) = &call.after else {
        say("    in flight, or its end was lost with the process: ask GatePay");
        return;
    };
    let attempts = after.get("attempts").and_then(Value::as_array);
    say(format_args!(
        "    {} at {}: HTTP {}, code {}, attempts {}{}",
        text(after, "outcome"),
        text(after, "time"),
        text(after, "status"),
        text(after, "code"),
        attempts.map_or(0, Vec::len),
        ids(after)
    ));
}

fn text(record: &Map<String, Value>, name: &str) -> String {
    match record.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    }
}

fn ids(after: &Map<String, Value>) -> String {
    let ids = after.get("ids").and_then(Value::as_object);
    let ids = ids.into_iter().flatten();
    let mut text = String::new();
    for (name, id) in ids {
        text += ", ";
        text += name;
        text += " ";
        text += id.as_str().unwrap_or_default();
    }
    text
}

fn configured(config: &Path) -> Result<Settings, Exit> {
    let configuration = gatepay_tenancy::load(config, &environment).map_err(|problems| {
        problems.iter().for_each(complain);
        Exit::Usage
    })?;
    Ok(configuration.settings)
}

fn journal(config: &Path, audit: Option<AuditSettings>) -> Result<AuditSettings, Exit> {
    audit.ok_or_else(|| {
        usage(format_args!(
            "{} has no [audit]: there is no journal; name a folder with --dir",
            config.display()
        ))
    })
}

fn usage(line: impl std::fmt::Display) -> Exit {
    complain(line);
    Exit::Usage
}

/// A moment as people write it.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(date) = text.parse::<Date>() {
        let day = date.to_zoned(TimeZone::UTC);
        return day
            .map(|day| day.timestamp())
            .map_err(|error| error.to_string());
    }
    let now =
        Timestamp::from_millisecond(i64::try_from(Clock::system().unix_ms()).unwrap_or(i64::MAX))
            .map_err(|error| error.to_string())?;
    let ago = |span: Span| now.to_zoned(TimeZone::UTC).checked_sub(span).ok();
    text.parse::<Span>()
        .ok()
        .and_then(ago)
        .map(|moment| moment.timestamp())
        .ok_or_else(|| "must be RFC 3339, a date, or a time ago such as 2h or 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_time_ago() {
        let time = moment("2026-11-21T10:00:00Z").unwrap();
        assert_eq!(
            moment("2026-11-21").unwrap(),
            "2026-11-21T00:00:00Z".parse().unwrap()
        );
        assert!(time > moment("2026-11-21").unwrap());
        assert!(moment("1h").unwrap() > moment("2d").unwrap());
        assert!(moment("yesterday").is_err());
    }
}
