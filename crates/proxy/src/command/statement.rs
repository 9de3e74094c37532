//! `statement`: the calls and amounts of a tenant on a day.

use std::fmt::Write as _;

use clap::Args;
use gatepay_tenancy::PartyId;
use http::Method;
use serde_json::Value;

use super::admin_client::AdminArguments;
use super::{ExitStatus, say};

/// Print the statement of a tenant for a day of caps.timezone: calls and amounts by operation and outcome, and the
/// corrections of earlier days that were learned on that day.
/// Asks the running process, which reads the store. A statement does not change after the end of its day: a later
/// settlement is a correction in the statement of the day on which it was learned.
#[derive(Args)]
pub(crate) struct StatementCommand {
    /// The tenant, or an operator.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: PartyId,
    /// The sub-account, if the tenant had another one on that day.
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// The day: 2026-11-27.
    #[arg(long, value_name = "DATE")]
    day: String,
    /// Print CSV with one line for each sum.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl StatementCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [
            ("tenant", Some(self.tenant.as_str())),
            ("account", self.account.as_deref()),
            ("day", Some(self.day.as_str())),
        ];
        let (method, path) = (Method::GET, "/statements");
        if !self.csv {
            return self.arguments.run(&method, path, &parameters, lines);
        }
        match self.arguments.ask(&method, path, &parameters) {
            Ok(statement) => {
                csv(&statement).iter().for_each(say);
                ExitStatus::Fine
            }
            Err(exit) => exit,
        }
    }
}

fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or("-")
}

fn list<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().into_iter().flatten()
}

fn amounts(of: &Value) -> Vec<(&str, &str)> {
    let amounts = of["amounts"].as_object().into_iter().flatten();
    amounts
        .map(|(currency, amount)| (currency.as_str(), amount.as_str().unwrap_or_default()))
        .collect()
}

fn lines(statement: &Value) -> Vec<String> {
    let mut lines = vec![format!(
        "{} (account {}), {}: {} to {}, {}",
        word(statement, "tenant"),
        word(statement, "account"),
        word(statement, "day"),
        word(statement, "begins"),
        word(statement, "ends"),
        word(statement, "state")
    )];
    for call in list(statement, "calls") {
        let (operation, outcome) = (word(call, "operation"), word(call, "outcome"));
        let total = total(call);
        let account = of_account(call);
        lines.push(format!("  {operation:<32} {outcome:<17} {total}{account}"));
    }
    for request in list(statement, "requests") {
        let (operation, outcome) = (word(request, "operation"), word(request, "outcome"));
        let requests = &request["requests"];
        lines.push(format!("  {operation:<32} {outcome:<17} {requests:>8}"));
    }
    let delivered = &statement["notifications_delivered"];
    lines.push(format!("  notifications delivered: {delivered}"));
    if let Some(peak) = statement["peak"].as_object() {
        let (most, at) = (&peak["requests_per_second"], &peak["at"]);
        let at = at.as_str().unwrap_or_default();
        lines.push(format!("  peak: {most} requests per second, at {at}"));
    }
    for correction in list(statement, "corrections") {
        lines.push(format!(
            "  correction of {}: {} was {}, is {}: {}{}",
            word(correction, "day"),
            word(correction, "operation"),
            word(correction, "was"),
            word(correction, "is"),
            total(correction).trim_start(),
            of_account(correction)
        ));
    }
    for after in list(statement, "counts_lost_after") {
        let after = after.as_str().unwrap_or_default();
        lines.push(format!(
            "  a process was killed: its reads, refusals and deliveries after {after} are not counted"
        ));
    }
    lines
}

/// The sub-account of a line of a statement about several.
fn of_account(of: &Value) -> String {
    let account = of["account"].as_str();
    account.map_or_else(String::new, |account| format!("  (account {account})"))
}

fn total(of: &Value) -> String {
    let mut text = format!("{:>8}", of["calls"].as_u64().unwrap_or_default());
    for (currency, amount) in amounts(of) {
        let _ = write!(text, "  {amount} {currency}");
    }
    if let Some(without) = of["calls_without_amount"].as_u64() {
        let _ = write!(text, "  ({without} without a readable amount)");
    }
    text
}

/// One line for the calls of each sum, and one for each currency of it.
fn csv(statement: &Value) -> Vec<String> {
    let day = word(statement, "day");
    let mut lines = vec![
        "record,day,corrected_day,operation,was,outcome,currency,calls,amount,account".to_owned(),
    ];
    let whole = statement["account"].as_str().unwrap_or_default();
    let mut sums = |record: &str, corrected: &str, was: &str, outcome: &str, of: &Value| {
        let operation = word(of, "operation");
        let account = of["account"].as_str().unwrap_or(whole);
        let start = format!("{record},{day},{corrected},{operation},{was},{outcome}");
        lines.push(format!("{start},,{},,{account}", of["calls"]));
        for (currency, amount) in amounts(of) {
            lines.push(format!("{start},{currency},,{amount},{account}"));
        }
    };
    for call in list(statement, "calls") {
        sums("calls", "", "", word(call, "outcome"), call);
    }
    for correction in list(statement, "corrections") {
        let (corrected, was) = (word(correction, "day"), word(correction, "was"));
        sums(
            "correction",
            corrected,
            was,
            word(correction, "is"),
            correction,
        );
    }
    for request in list(statement, "requests") {
        let (operation, outcome) = (word(request, "operation"), word(request, "outcome"));
        let requests = &request["requests"];
        lines.push(format!(
            "requests,{day},,{operation},,{outcome},,{requests},,{whole}"
        ));
    }
    let delivered = &statement["notifications_delivered"];
    lines.push(format!(
        "notifications,{day},,,,delivered,,{delivered},,{whole}"
    ));
    if let Some(peak) = statement["peak"].as_object() {
        let most = &peak["requests_per_second"];
        lines.push(format!("peak_per_second,{day},,,,,,{most},,{whole}"));
    }
    lines
}
