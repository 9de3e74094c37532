//! `approvals`, `approve` and `reject`: operators decide about calls above `approve_above`.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// List the calls that need an operator's approval, the newest first.
/// A hundred are listed at once; the last line names the `--after` of the next hundred.
#[derive(Args)]
pub(crate) struct ApprovalsCommand {
    /// Only those in this state, instead of those that wait.
    #[arg(long, value_enum, default_value = "waiting")]
    state: ApprovalStateWord,
    /// Only those of this tenant or operator.
    #[arg(long, value_name = "ID")]
    party: Option<String>,
    /// Go on after the list before.
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
    #[command(flatten)]
    arguments: AdminArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApprovalStateWord {
    /// Operators have yet to decide.
    Waiting,
    /// The tenant may send the call again, once.
    Approved,
    /// An operator has rejected it.
    Rejected,
    /// The call has passed.
    Used,
    /// Its day has passed.
    Expired,
    /// All of them.
    Any,
}

/// Approve a call: the tenant may send the same body under the same key again, once, within a day.
/// The token is that of an [[admin.operator]] with approve = true. If caps.approvals is 2, another operator has to approve
/// it too. The audit journal records it.
#[derive(Args)]
pub(crate) struct ApproveCommand {
    /// The id, as the refusal and `approvals` tell it.
    id: String,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Reject a call: it is refused for the rest of its day, also if it was approved and has not been sent again.
/// The token is that of an [[admin.operator]] with approve = true. The audit journal records it.
#[derive(Args)]
pub(crate) struct RejectCommand {
    /// The id, as the refusal and `approvals` tell it.
    id: String,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl ApprovalsCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let state = match self.state {
            ApprovalStateWord::Waiting => Some("waiting"),
            ApprovalStateWord::Approved => Some("approved"),
            ApprovalStateWord::Rejected => Some("rejected"),
            ApprovalStateWord::Used => Some("used"),
            ApprovalStateWord::Expired => Some("expired"),
            ApprovalStateWord::Any => None,
        };
        let lines = |page: &Value| {
            let approvals = page["approvals"].as_array();
            let approvals = approvals.into_iter().flatten();
            let mut lines: Vec<String> = approvals.flat_map(lines_of).collect();
            if lines.is_empty() {
                lines.push("none".to_owned());
            }
            if let Some(next) = page["next"].as_str() {
                lines.push(format!("there are more: --after {next}"));
            }
            lines
        };
        let parameters = [
            ("state", state),
            ("party", self.party.as_deref()),
            ("after", self.after.as_deref()),
        ];
        self.arguments
            .run(&Method::GET, "/approvals", &parameters, lines)
    }
}

impl ApproveCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [("id", Some(&*self.id))];
        let lines = |answer: &Value| {
            let mut lines = lines_of(answer);
            lines.push(if answer["needs"] == 0 {
                "approved: the tenant may send the same body under the same key again, once"
                    .to_owned()
            } else {
                "not approved yet: another operator has to approve it too".to_owned()
            });
            lines
        };
        self.arguments
            .run(&Method::POST, "/-/approvals/approve", &parameters, lines)
    }
}

impl RejectCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [("id", Some(&*self.id))];
        self.arguments
            .run(&Method::POST, "/-/approvals/reject", &parameters, lines_of)
    }
}

/// Two lines about an approval: its call, and its state.
fn lines_of(approval: &Value) -> Vec<String> {
    let text = |name: &str| {
        approval[name]
            .as_str()
            .filter(|it| !it.is_empty())
            .unwrap_or("-")
    };
    let signers = approval["approved_by"].as_array().into_iter().flatten();
    let signers: Vec<&str> = signers.filter_map(Value::as_str).collect();
    let by = if signers.is_empty() {
        String::new()
    } else {
        format!(", approved by {}", signers.join(", "))
    };
    vec![
        format!(
            "{}  {} {} of {}: {} to {}",
            text("id"),
            text("operation"),
            text("key"),
            text("party"),
            text("amounts"),
            text("targets")
        ),
        format!(
            "  {} since {} until {}{by}; SHA-256 of the body {}",
            text("state"),
            text("asked"),
            text("until"),
            text("body_sha256")
        ),
    ]
}
