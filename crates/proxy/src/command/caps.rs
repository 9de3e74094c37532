//! `caps show`: the money caps in force, the amounts that they count, and the rest. `caps raise`: an operator has a raise hold
//! early.

use clap::{Args, Subcommand};
use gatepay_tenancy::PartyId;
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// Show the money caps in force in the store, and have a raise hold early.
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
    /// Have the changes of caps hold at once that wait for `caps.raise_after`.
    /// The token is that of an [[admin.operator]] with approve = true. If caps.approvals is 2, another operator has to do so too,
    /// within a day. The audit journal records it.
    Raise(RaiseArguments),
}

#[derive(Args)]
struct RaiseArguments {
    /// The id of the changes, as `caps show` tells it. Other changes have another id.
    id: String,
    #[command(flatten)]
    arguments: AdminArguments,
}

#[derive(Args)]
struct ShowArguments {
    /// Only the caps of one tenant's sub-account, and those over all.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: Option<PartyId>,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl CapsCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self.action {
            CapsAction::Show(ShowArguments { tenant, arguments }) => {
                let tenant = tenant.as_ref().map(PartyId::as_str);
                arguments.run(&Method::GET, "/caps", &[("tenant", tenant)], lines)
            }
            CapsAction::Raise(RaiseArguments { id, arguments }) => {
                let parameters = [("id", Some(&*id))];
                let lines = |answer: &Value| {
                    let line = if answer["needs"] == 0 {
                        "raised: the changes hold now"
                    } else {
                        "not raised yet: another operator has to approve the raise too"
                    };
                    vec![line.to_owned()]
                };
                arguments.run(&Method::POST, "/-/caps/raise", &parameters, lines)
            }
        }
    }
}

fn lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for cap in list(&answer["caps"]) {
        let of = owner(cap);
        let shadow = if cap["shadow"] == true {
            " (shadow)"
        } else {
            ""
        };
        let calls: Vec<&str> = list(&cap["calls"]).filter_map(Value::as_str).collect();
        let currency = currency(cap);
        let calls = calls.join(", ");
        lines.push(if cap["cap"] == "no_cap" {
            format!("{of}: no {currency}, which has no cap, for {calls}")
        } else {
            let (cap, limit) = (text(&cap["cap"]), text(&cap["limit"]));
            format!("{of}: {cap} {limit} {currency}{shadow} for {calls}")
        });
        for used in list(&cap["uses"]) {
            lines.push(used_line(used));
        }
        lines.extend(changes(cap));
    }
    if lines.is_empty() {
        lines.push("no caps".to_owned());
    }
    for waiting in list(&answer["waiting"]) {
        let signers: Vec<&str> = list(&waiting["approved_by"])
            .filter_map(Value::as_str)
            .collect();
        let by = if signers.is_empty() {
            String::new()
        } else {
            format!(", approved by {}", signers.join(", "))
        };
        lines.push(format!(
            "the changes of {} that wait hold at once by `caps raise {}`{by}",
            owner(waiting),
            text(&waiting["id"])
        ));
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

/// The currency of a cap, or all but those that its file has caps of their own for.
fn currency(cap: &Value) -> String {
    let exempt: Vec<&str> = list(&cap["exempt"]).filter_map(Value::as_str).collect();
    match (cap["currency"].as_str(), &exempt[..]) {
        (Some(currency), _) => currency.to_owned(),
        (None, []) => "*".to_owned(),
        (None, exempt) => format!("* except {}", exempt.join(", ")),
    }
}

/// The tenants that a cap binds.
fn owner(cap: &Value) -> String {
    let tenants: Vec<&str> = list(&cap["tenants"]).filter_map(Value::as_str).collect();
    match (cap["account"].as_str(), &tenants[..]) {
        (None, _) => "all tenants".to_owned(),
        (Some(account), []) => format!("sub-account {account}, which no tenant has"),
        (Some(_), tenants) => tenants.join(", "),
    }
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
