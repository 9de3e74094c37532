//! `audit show`.

use clap::Args;
use gatepay_proxy::clock::Clock;
use gatepay_proxy::journal::folder::Disk;
use gatepay_proxy::journal::show::{Call, Wanted, show};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::{Map, Value, json};

use super::{Place, configured, journal};
use crate::command::{Exit, fail, say};

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

impl Show {
    pub(super) fn run(self) -> Result<Exit, Exit> {
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
