//! `caps show`: the money caps in force, the amounts that they count, and the rest.

use clap::{Args, Subcommand};
use gatepay_tenancy::PartyId;
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// Show the money caps in force in the store.
#[derive(Args)]
pub(crate) struct CapsCommand {
    #[command(subcommand)]
    action: CapsAction,
}

#[derive(Subcommand)]
enum CapsAction {
    /// Show each cap, the amount that it counts, the rest, when room comes free, and raises that wait.
    /// The running process asks the store, which keeps the caps of all instances. A cap that was raised or removed in the files
    /// is shown as it still holds.
    Show(ShowArguments),
}

#[derive(Args)]
struct ShowArguments {
    /// Only the caps of one tenant, and those over all.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: Option<PartyId>,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl CapsCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let CapsAction::Show(ShowArguments { tenant, arguments }) = self.action;
        let tenant = tenant.as_ref().map(PartyId::as_str);
        arguments.run(&Method::GET, "/caps", &[("tenant", tenant)], lines)
    }
}

fn lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for cap in list(&answer["caps"]) {
        let of = cap["tenant"].as_str().unwrap_or("all tenants");
        let shadow = if cap["shadow"] == true {
            " (shadow)"
        } else {
            ""
        };
        let calls: Vec<&str> = list(&cap["calls"]).filter_map(Value::as_str).collect();
        let currency = cap["currency"].as_str().unwrap_or("*");
        lines.push(format!(
            "{of}: {} {} {currency}{shadow} for {}",
            text(&cap["cap"]),
            text(&cap["limit"]),
            calls.join(", ")
        ));
        for used in list(&cap["uses"]) {
            lines.push(used_line(used));
        }
        lines.extend(changes(cap));
    }
    if lines.is_empty() {
        lines.push("no caps".to_owned());
    }
    if let Some(shorter) = answer["shorter_raise_after"].as_object() {
        lines.push(format!(
            "raise_after becomes {} ms at {}",
            shorter["ms"],
            text(&shorter["at"])
        ));
    }
    lines
}

fn used_line(used: &Value) -> String {
    let part = |key: &str| text(&used[key]).to_owned();
    let frees = used["frees_at"].as_str();
    let frees = frees.map_or_else(String::new, |at| format!("; room from {at} on"));
    format!(
        "  {}: {} counted ({} under way, {} unknown, {} spent), {} left{frees}",
        part("currency"),
        part("counted"),
        part("reserved"),
        part("unknown"),
        part("spent"),
        part("left"),
    )
}

/// The changes that come without another reload.
fn changes(cap: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(raise) = cap["raise"].as_object() {
        let (limit, at) = (text(&raise["limit"]), text(&raise["at"]));
        lines.push(format!("  rises to {limit} at {at}"));
    }
    if let Some(at) = cap["opens_at"].as_str() {
        lines.push(format!("  not to be spent before {at}"));
    }
    if let Some(at) = cap["ends_at"].as_str() {
        lines.push(format!("  is removed, and holds until {at}"));
    }
    lines
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
