//! `probe`: finds out how GatePay behaves where its documentation is silent.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// Find out how GatePay behaves where its documentation is silent.
#[derive(Subcommand)]
pub(crate) enum ProbeCommand {
    Isolation(ProbeIsolation),
}

/// Find out whether GatePay keeps the institution's accounts apart: whether one account can look up the objects of another.
/// notifications.ask has an effect only for look-ups that this has proved, for 30 days, with the same upstream and
/// credential. The running process sends the look-ups, which change nothing, and keeps the result in its store.
///
/// Each look-up needs an object of each of two tenants or more: every account must find its own, and none another's.
/// Exits with 0 if a look-up is proved and none refuted, 3 if nothing is proved, 4 if an account finds the object of
/// another, 1 if the process does not answer, 64 for a wrong command line.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProbeIsolation {
    /// An id of GatePay's in an answer to a tenant's call: the `prepayId` of an order, the `batch_id` of a batch of rewards,
    /// the `orderId` of an OTC order. The ledger tells whose it is.
    #[arg(long = "object", value_name = "ID", conflicts_with = "kept")]
    objects: Vec<String>,
    /// Send nothing; show the newest results.
    #[arg(long)]
    kept: bool,
    #[command(flatten)]
    arguments: AdminArguments,
}

const EXAMPLES: &str = "\
Examples:
  gatepay-proxy probe isolation --object 50620368071692288 --object 50620368071692290
  gatepay-proxy probe isolation --kept --json";

const PATH: &str = "/-/probe/isolation";

impl ProbeCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self {
            Self::Isolation(isolation) => isolation.run(),
        }
    }
}

impl ProbeIsolation {
    fn run(self) -> ExitStatus {
        if self.kept {
            return self.arguments.run(&Method::GET, PATH, &[], kept_lines);
        }
        let objects = (!self.objects.is_empty()).then(|| self.objects.join(","));
        let parameters = [("objects", objects.as_deref())];
        let exit = |reply: &Value| match reply["verdict"].as_str() {
            Some("apart") => ExitStatus::Fine,
            Some("shared") => ExitStatus::NotApart,
            _ => ExitStatus::Inconclusive,
        };
        self.arguments
            .run_coded(&Method::POST, PATH, &parameters, (probe_lines, exit))
    }
}

fn probe_lines(reply: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = vec![format!(
        "GatePay at {}, client id {}: {}",
        word(&reply["upstream"]),
        word(&reply["client_id"]),
        word(&reply["verdict"])
    )];
    let look_ups = reply["look_ups"].as_array().into_iter().flatten();
    lines.extend(look_ups.map(|it| {
        let (operation, verdict) = (word(&it["operation"]), word(&it["verdict"]));
        let detail = word(&it["detail"]);
        format!(
            "{operation}: {verdict}: {detail}; {} look-ups",
            it["look_ups"]
        )
    }));
    lines
}

fn kept_lines(reply: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let ask = if reply["ask"] == true {
        "is set"
    } else {
        "is not set"
    };
    let mut lines = vec![format!(
        "GatePay at {}, client id {}; notifications.ask {ask}",
        word(&reply["upstream"]),
        word(&reply["client_id"])
    )];
    let findings = reply["findings"].as_array().into_iter().flatten();
    lines.extend(findings.map(|it| {
        let counts = if it["counts"] == true {
            "counts"
        } else {
            "does not count"
        };
        let (operation, verdict) = (word(&it["operation"]), word(&it["verdict"]));
        format!(
            "{operation}: {verdict} at {} by {} accounts; {counts}",
            word(&it["at"]),
            it["accounts"]
        )
    }));
    if lines.len() == 1 {
        lines.push("nothing was found out yet".to_owned());
    }
    lines
}
