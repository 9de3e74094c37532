//! `notifications`: GatePay's notifications, as the running process has them in its store.

use clap::{ArgGroup, Args, Subcommand};
use gatepay_tenancy::PartyId;
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;
use super::audit::time::moment;
use super::notification_endpoints::{
    NotificationsEnable, NotificationsEndpoints, NotificationsTest,
};

/// List and show GatePay's notifications, give them to tenants, send them again, and test the tenants' endpoints.
/// The running process is asked on its admin listener, which needs a token unless it listens on a loopback address
/// without one.
#[derive(Subcommand)]
pub(crate) enum NotificationsCommand {
    List(NotificationsList),
    Show(NotificationsShow),
    Assign(NotificationsAssign),
    Replay(NotificationsReplay),
    Endpoints(NotificationsEndpoints),
    Test(NotificationsTest),
    Enable(NotificationsEnable),
}

/// List notifications, one line each, the newest first; those of one tenant in the order in which it got them.
/// A hundred are listed at once; the last line names the `--after` of the next hundred.
#[derive(Args)]
pub(crate) struct NotificationsList {
    /// Only notifications in this state: quarantined, waiting, delivered, superseded, dead or operator.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only notifications of this tenant.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: Option<PartyId>,
    /// Go on after the list before.
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Show one notification with its attempts, without its body.
#[derive(Args)]
pub(crate) struct NotificationsShow {
    /// The notification's id.
    id: String,
    /// Show the body as GatePay sent it, and the beginnings of the tenant's answers.
    #[arg(long)]
    body: bool,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Give a notification in quarantine to a tenant.
/// The tenant gets it like its own, and sees the business of another tenant if the assignment is wrong. A notification
/// that a former configuration of the tenant with the same sub-account has not got can be given too. With
/// caps.approvals = 2 another operator has to order the same within a day. The audit journal records it.
#[derive(Args)]
pub(crate) struct NotificationsAssign {
    /// The notification's id.
    id: String,
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    tenant: PartyId,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Send dead notifications again: one, or those of a tenant.
/// In the place of a notification that a later status has superseded, nothing is sent. The audit journal records it.
#[derive(Args)]
#[command(group = ArgGroup::new("which").required(true).args(["id", "tenant"]))]
pub(crate) struct NotificationsReplay {
    /// The notification's id.
    id: Option<String>,
    /// All dead notifications of this tenant that came since a time.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse, requires = "since")]
    tenant: Option<PartyId>,
    /// The time: RFC 3339, a date (UTC), or a time ago such as 2h or 30d.
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "tenant")]
    since: Option<Timestamp>,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl NotificationsCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Assign(assign) => assign.run(),
            Self::Replay(replay) => replay.run(),
            Self::Endpoints(endpoints) => endpoints.run(),
            Self::Test(test) => test.run(),
            Self::Enable(enable) => enable.run(),
        }
    }
}

impl NotificationsList {
    fn run(self) -> ExitStatus {
        let parameters = [
            ("state", self.state.as_deref()),
            ("tenant", self.tenant.as_ref().map(PartyId::as_str)),
            ("after", self.after.as_deref()),
        ];
        let lines = |page: &Value| {
            let events = page["notifications"].as_array().into_iter().flatten();
            let mut lines = vec![HEAD.to_owned()];
            lines.extend(events.map(line));
            if let Some(next) = page["next"].as_str() {
                lines.push(format!("there may be more: --after {next}"));
            }
            lines
        };
        self.arguments
            .run(&Method::GET, "/notifications", &parameters, lines)
    }
}

const HEAD: &str = "received                  id                                    state        tenant                   kind and status";

fn line(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or("-");
    let quarantine = event["quarantine"].as_str();
    let former = (event["former"] == true).then_some("former configuration of the tenant");
    let reason = quarantine.or(former);
    let reason = reason.map_or_else(String::new, |reason| format!("  ({reason})"));
    format!(
        "{:<25} {:<37} {:<12} {:<24} {} {}{reason}",
        word("received"),
        word("id"),
        word("state"),
        word("tenant"),
        word("kind"),
        word("status"),
    )
}

impl NotificationsShow {
    fn run(self) -> ExitStatus {
        let path = path_of(&self.id);
        let parameters = [("body", self.body.then_some("1"))];
        self.arguments
            .run(&Method::GET, &path, &parameters, details)
    }
}

/// The path of one notification. An id of other bytes than a UUID's is no path.
fn path_of(id: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let id: String = id.chars().filter(is_plain).collect();
    format!("/notifications/{id}")
}

/// A line for each field, then one for each attempt.
fn details(event: &Value) -> Vec<String> {
    let fields = event.as_object().into_iter().flatten();
    let plain = fields.filter(|(name, _)| !["deliveries", "body"].contains(&name.as_str()));
    let mut lines: Vec<String> = plain
        .map(|(name, value)| format!("{name:<14} {}", shown(value)))
        .collect();
    let deliveries = event["deliveries"].as_array().into_iter().flatten();
    lines.extend(deliveries.map(|delivery| {
        let field = |name: &str| shown(&delivery[name]);
        let answer = delivery["answer"].as_str();
        let answer = answer.map_or_else(String::new, |answer| format!(": {answer}"));
        format!(
            "attempt {} at {}: {}, status {}, {} ms{answer}",
            field("attempt"),
            field("at"),
            field("outcome"),
            field("status"),
            field("took_ms"),
        )
    }));
    lines.extend(event["body"].as_str().map(str::to_owned));
    lines
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl NotificationsAssign {
    fn run(self) -> ExitStatus {
        let parameters = [
            ("id", Some(self.id.as_str())),
            ("tenant", Some(self.tenant.as_str())),
        ];
        let lines = |reply: &Value| {
            let (tenant, state) = (shown(&reply["tenant"]), shown(&reply["state"]));
            if reply["needs"] == 1 {
                return vec![format!(
                    "not assigned yet: another operator has to order it for {tenant} too, within a day"
                )];
            }
            vec![format!("assigned to {tenant}: it is {state}")]
        };
        let path = "/-/notifications/assign";
        self.arguments.run(&Method::POST, path, &parameters, lines)
    }
}

impl NotificationsReplay {
    fn run(self) -> ExitStatus {
        let since = self.since.map(|since| since.to_string());
        let parameters = [
            ("id", self.id.as_deref()),
            ("tenant", self.tenant.as_ref().map(PartyId::as_str)),
            ("since", since.as_deref()),
        ];
        let lines = |reply: &Value| {
            let (waiting, superseded) = (shown(&reply["waiting"]), shown(&reply["superseded"]));
            vec![format!(
                "{waiting} wait for delivery, {superseded} are superseded by a later status"
            )]
        };
        let path = "/-/notifications/replay";
        self.arguments.run(&Method::POST, path, &parameters, lines)
    }
}
